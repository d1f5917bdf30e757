/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What the files of an export's life share: export*.c and registry.c, nobody else. Loop
 * thread, but for what says that it runs on a worker.
 */
#ifndef NR_EXPORT_PRIVATE_H
#define NR_EXPORT_PRIVATE_H

#include <event2/event.h>
#include <stdatomic.h>

#include "export.h"

/* Pause before a backstore that did not open is tried again; it doubles each time. */
#define RETRY_MIN_S 1

enum backstore { CLOSED, OPEN };

/* A blocking call, from its start on a worker to its end on the loop. */
struct call {
    struct export *export;
    void (*work)(struct call *call);
    void (*end)(struct call *call);
    struct nbd_failure why;
    int result;
    uint64_t size; /* of the opened backstore, bytes */
    int64_t block; /* logical, of the opened backstore */
    struct json_object *saved; /* what the handler had saved; a copy */
};

/* Who waits for the backstore to be closed. */
struct closer {
    void (*on_closed)(void *arg);
    void *arg;
};

struct export_private {
    struct export *export;
    struct registry *registry;
    enum backstore backstore;
    atomic_bool parsed; /* cfg_parse() has succeeded: destroy() is due */
    atomic_bool canceled; /* a create */
    bool busy;          /* a call runs */
    bool close_soon;    /* do not linger */
    bool try_now;       /* to open it, though nobody waits */
    bool on_trial;      /* that attempt runs */
    struct event *retry;
    unsigned retry_s;   /* pause before the next attempt */
    bool removed;
    bool lost;          /* open or closed, it has to be closed and opened again */
    bool troubled;      /* open, but its handler says that it does not work now */
    bool must_match;    /* clients are attached: it has to be what it was */
    uint32_t caps;      /* when it was opened last */
    bool stale;         /* open, but its target names something else by now */
    unsigned users;
    GQueue waiters;     /* struct waiter * */
    struct event *linger;
    export_done *made_done;   /* a create runs */
    export_done *delete_done; /* a delete is wanted or runs */
    void *store_arg;          /* of the create or delete */
    export_done *resize_done; /* a resize is wanted or runs */
    void *resize_arg;
    uint64_t resize_to;
    int64_t looked_us;        /* at the size, when it was open; monotonic */
    bool look;                /* at it again, though nobody waits */
    GArray *closers;          /* struct closer: who wait for it to be closed */
    void (*on_gone)(void *arg);
    void *gone_arg;
    struct nbd_opt *opts; /* what dev.opts points to */
};

struct registry {
    struct server *server;
    GTree *by_name;       /* name -> struct export */
    GHashTable *by_store; /* "handler target" -> GPtrArray of struct export */
    GTree *leaving;       /* struct export -> itself, by name and id: removed, not yet gone */
    unsigned trials;      /* that run */
    bool checking;        /* every export is opened once; done up to ... */
    char *checked;        /* ... this name; NULL: to none */
    void (*on_access_changed)(void *arg, struct export *export);
    void *access_arg;
};

/* ---- export.c ---- */

/* The name that the spec gives, else HANDLER/TARGET. The caller frees it. */
char *export_name_for(const struct export_spec *spec);

/* Takes over name and acl. In no table yet. */
struct export *export_new(struct registry *registry, const struct export_spec *spec,
                          char *name, struct acl *acl);
/* It is in no table any more, closed, and forgotten by its handler. */
void export_free(struct export *export);

/* ---- registry.c ---- */

/* One of the same name that still has users, who see other bytes; or NULL. */
const struct export *registry_predecessor_in_use(const struct export *export);

/* The end of an export that was removed, is closed, and has no users: frees it. */
void registry_vanish(struct export *export);

/* ---- export_call.c ---- */

/* Have work(call) run on a worker, then end(call) on the loop, then export_advance(). The
 * export must not be busy; it is until end() has returned. */
void call_start(struct export *export, void (*work)(struct call *call),
                void (*end)(struct call *call));

/* On a worker. Keep the result `r` of a step, 0 or a negative errno; `what` it was to do: a
 * handler that fails without a word gets a sentence from its errno. Returns call->result. */
int call_settle(struct call *call, int r, const char *what);

/* On a worker. Have the handler understand its target, once. 0, or the call's result. */
int call_parse(struct call *call);

/* What the handler wants to remember, once it has made or opened the backing store, goes into
 * the state file with the next save. */
void export_save_handler_data(struct export *export);

/* ---- export_open.c ---- */

void export_start_open(struct export *export);
void export_start_probe(struct export *export);
/* All who wait now: 0 makes users of them, a negative errno comes with *why. */
void export_answer_waiters(struct export_private *x, int result,
                           const struct nbd_failure *why);

/* ---- export_lost.c ---- */

/* Try to open it again after its pause. */
void export_retry_later(struct export_private *x);
void export_on_retry(evutil_socket_t fd, short what, void *arg); /* arg: the export */
/* Go on opening the exports that have not been looked at since the start, some at a time. */
void registry_check_more(struct registry *registry);

/* ---- export_resize.c, export_create.c ---- */

void export_start_resize(struct export *export); /* or refuse it */
void export_start_delete(struct export *export);
/* The backing store has `size` bytes now. */
void export_take_size(struct export *export, uint64_t size);

/* ---- export_state.c ---- */

/* Start what comes next, if nothing runs. May free the export. */
void export_advance(struct export *export);
/* The last user has left, or nobody has come. */
void export_start_linger(struct export_private *x);
void export_on_linger(evutil_socket_t fd, short what, void *arg); /* arg: the export */

#endif
