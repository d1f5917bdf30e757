/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What the parts of the nbd handler share. Not for anybody else. Names of libnbd start with
 * nbd_, those of this handler do not.
 *
 *   nbd.c         the handler's table, its options, opening and closing, extents
 *   nbd_target.c  what a target may look like
 *   nbd_connect.c makes connections, within a time limit; on worker threads
 *   nbd_session.c the connections of a backstore in use, and their return after a loss
 *   nbd_task.c    requests on these connections: pieces, time limits, repetition
 */
#ifndef NBD_HANDLER_NBD_H
#define NBD_HANDLER_NBD_H

#include <glib.h>
#include <libnbd.h>
#include <pthread.h>

#include "nbd-runner/handler.h"

#define CONNECTIONS_MAX 16
#define CONNECTIONS_USUAL 4 /* when the server allows several */
#define CONNECT_MS 8000 /* less than the time for which the daemon waits for a backstore */

/* Where the server is and how to talk to it. Never changed once made, and counted
 * (g_atomic_rc_box): an attempt to connect may outlive the device. */
struct address {
    char *shown; /* the target, for people */

    /* One of these: a URI, a Unix socket, or a host with a port. */
    char *uri;
    char *socket;
    char *host, *port;
    char *export; /* not with a URI */

    char *certificates;   /* a directory; NULL: no TLS, but for what a URI says */
    bool may_name_files;  /* a URI may have parameters that name local files */
    bool writable;
    unsigned connections; /* wanted; 0: what is usual */
};

/* What a server says about its export. */
struct traits {
    uint64_t size;
    uint32_t caps; /* enum nbd_caps */
    uint32_t min_block, pref_block, max_block;
    bool readonly;
    bool has_allocation; /* can tell data from holes */
};

/* Connections that are ready for requests. */
struct connected {
    struct nbd_handle *handles[CONNECTIONS_MAX];
    unsigned n;
    struct traits traits;
};

/* ---- nbd_target.c: worker thread ---- */

/* Check the target and fill in what it says. */
int target_parse(struct address *address, const char *target, struct nbd_failure *why);

/* Any thread. */
void address_unref(struct address *address);

/* ---- nbd_connect.c: worker thread ---- */

/* Connect within CONNECT_MS, or until cancel_fd (-1: none) is readable. */
int connect_all(const struct address *address, int cancel_fd, struct connected *ret_connected,
                struct nbd_failure *why);

/* Any thread. Tells the servers that nothing more will come. */
void connected_close(struct connected *connected);

/* ---- nbd_session.c ---- */

struct session;

struct connection {
    struct session *session;
    struct nbd_handle *handle;
    int fd; /* libnbd's */
    uint32_t events; /* of epoll(7) that are waited for */
    unsigned in_flight;
    bool touched; /* libnbd may wait for something else now */
};

enum session_state {
    SESSION_UP,
    SESSION_WAITING,    /* for the next attempt to connect */
    SESSION_CONNECTING, /* an attempt runs on a worker */
};

/* A mapped backstore. Loop thread, but for what says otherwise. */
struct session {
    /* Set once by session_open(). */
    const struct nbd_host *host;
    struct nbd_device *dev;
    struct address *address;
    struct traits traits; /* what clients have been told */
    int64_t timeout_us;   /* of a request */

    pthread_t loop_thread;
    int epoll_fd;  /* readable when a connection or the timer needs attention */
    int timer_fd;
    int cancel_fd; /* an eventfd: end the attempt that runs */
    struct nbd_watch *watch;

    enum session_state state;
    struct connection connections[CONNECTIONS_MAX];
    unsigned n_connections;
    uint64_t piece_max;  /* bytes of a transfer that the server takes at once */
    bool has_allocation; /* the server that is connected now */
    char *broken;        /* why the connections have to go, when they do */
    char *fault;         /* what makes this server the wrong one: requests fail */
    bool closed;         /* to be freed when the attempt has ended */

    int64_t timer_at; /* 0: not running. Monotonic microseconds, as all times here */
    int64_t retry_at; /* in SESSION_WAITING */
    int64_t pause_us; /* before the next attempt */
    bool complained;  /* the failed attempts of this loss are in the log */
    bool reported;    /* the daemon knows that the server is away */
    int attempt_result;
    struct nbd_failure attempt_why;
    struct connected attempt; /* new connections, before they are in use */

    /* Tasks (nbd_task.c). */
    GQueue by_deadline;  /* all */
    GQueue waiting;      /* for a connection */
    GQueue completed;    /* answered by libnbd, not yet looked at */
    unsigned answers;    /* of servers, ever; wraps around */
    unsigned answers_before; /* those of earlier connections */
    uint64_t bytes_read; /* by tasks that were answered */
    bool settling;

    /* Changes that the server acknowledged, and how many of them a flush covers. */
    uint64_t changes, changes_synced;
    bool owes_error; /* to the next flush */
};

/* Worker thread. Takes over the connections and a reference to the address. NULL and *why
 * when there are no descriptors left. */
struct session *session_open(const struct nbd_host *host, struct nbd_device *dev,
                             struct address *address, unsigned timeout_s, struct connected *connected,
                             struct nbd_failure *why);

/* Worker thread; the loop thread when the loop has ended. No task is outstanding. */
void session_close(struct session *session);

/* What is to be done when something has changed. */
void session_settle(struct session *session);

/* Have the timer run out at that time or earlier. */
void session_arm(struct session *session, int64_t when);

/* The connections are of no use any more; session_settle() replaces them. */
__attribute__((format(printf, 2, 3)))
void session_spoil(struct session *session, const char *format, ...);

/* Any thread. What libnbd says about the last call of this thread, without the name of the
 * call. */
const char *last_error(void);

/* ---- nbd_task.c: loop thread ---- */

#define OP_STATUS 7 /* NBD_CMD_BLOCK_STATUS, next to enum nbd_op */

/* Something to be done by the server. Found extents are pairs of length and flags. */
struct task {
    GList by_deadline, in_queue; /* its places in session->by_deadline and the other queues */
    struct connection *connection; /* where it is in flight, or NULL */
    uint16_t op, flags;
    uint64_t offset, length;
    uint64_t done;  /* bytes that are finished */
    uint64_t piece; /* bytes in flight */
    char *data;
    GArray *extents;
    int64_t deadline;
    uint64_t changes_before; /* a flush: what it covers */
    int error;               /* positive errno of the answer */

    void (*end)(struct task *task, int result);
    void *subject; /* the request, or what waits for extents */
};

/* Takes over the task. */
void task_start(struct session *session, struct task *task);

/* Look at one answer; false: there is none. */
bool task_settle_one(struct session *session);

/* Send one piece of one task; false: there is none, or no room for it. */
bool task_issue_one(struct session *session);

/* The connections are gone: what they carried waits again. */
void task_requeue_all(struct session *session);

/* Put those whose time is over where task_settle_one() finds them, with EIO. */
void task_expire(struct session *session, int64_t now);

/* Have all tasks, or all flushes, fail with EIO. Returns how many. */
unsigned task_fail_all(struct session *session);
unsigned task_fail_flushes(struct session *session);

#endif
