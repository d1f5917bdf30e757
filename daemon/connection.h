/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * NBD clients: one connection each. Here: sockets, receiving and sending in batches, phases,
 * limits in time and number, how a connection ends. What the bytes mean is handshake.c's and
 * transmission.c's. Loop thread only.
 */
#ifndef NR_CONNECTION_H
#define NR_CONNECTION_H

#include <glib.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "buffer.h"
#include "export.h"
#include "mapping.h"
#include "request.h"
#include "send_way.h"

#define SCRATCH_BYTES (256u << 10)   /* received, and answered, per turn of the loop at most */
#define INLINE_BYTES_MAX (64u << 10) /* a reply that is built in the scratch buffer */
#define MEMORY_STALL_S 10            /* without progress, while others wait for memory */
#define IN_FLIGHT_MAX 1024           /* requests of one connection */

enum phase {
    PHASE_GREETING,     /* sent ours, waiting for the client's flags */
    PHASE_OPTIONS,
    PHASE_OPENING,      /* the export that an option named is being opened */
    PHASE_TRANSMISSION,
    PHASE_DRAINING,     /* soft disconnect: answers what is in flight, reads nothing */
    PHASE_CLOSING,      /* hard disconnect: freed once nothing is in flight */
};

/* Bytes that have come in and were not taken yet. */
struct input {
    uint8_t *data;
    size_t length;
};

/* Where a client is; of a Unix socket's only the family is known. */
union peer_address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* The turn of a connection that is running: for the latency of what is answered in it. */
struct turn {
    int64_t start_ns;               /* when its input was there; counters_now_ns() */
    unsigned answered[N_LATENCY_CLASSES + 1]; /* requests, and their replies are ready */
};

struct connection {
    struct connection_table *table; /* not owned */
    struct server *server;          /* not owned */
    struct connection *next, *previous;
    uint64_t id;
    int fd;
    enum phase phase;
    char *peer;                     /* "127.0.0.1:40312", "unix:PID" */
    union peer_address address;
    const char *why;                /* it ends, for the log */
    int64_t since_us;
    int64_t active_ns;              /* loop_now_ns() of the last bytes received */
    struct event *readable, *writable;
    struct event *deadline;         /* of the handshake; NULL later */
    struct event *departed;         /* while an export is being opened, else NULL */

    /* Input that is kept between turns: a part of a message, or whole ones that have to
     * wait. Small parts live in `part`. */
    uint8_t part[32];
    uint8_t *kept;                  /* from the buffer pool when larger */
    size_t kept_length, kept_size;

    /* Output, in this order: what was begun (first of `replies`, if sent > 0), `out`, then
     * `replies`. */
    uint8_t *out;                   /* the table's scratch, or a buffer of our own */
    size_t out_length, out_sent;
    bool out_owned;
    struct send_costs send_costs;   /* of data that comes from files */
    struct request *replies, **replies_tail;
    unsigned n_replies;

    bool dirty;                     /* in the table's list of those to be looked after */
    bool out_full;                  /* a reply did not fit; go on when some has been sent */
    bool paused;                    /* takes no input until connection_resume() */
    bool again;                     /* has kept input that may be taken without new bytes */
    bool taking;                    /* in its turn: what completes is flushed at the end */
    bool recheck;                   /* replies have waited: is their data still cached? */
    bool silent;                    /* has left after our greeting: a look whether we answer */
    bool queued;                    /* in the table's list of those who go on by themselves */
    bool over_limit;                /* may negotiate, but not use an export */
    struct connection *next_dirty;
    GList going_on;                 /* its link there */
    struct buffer_waiter memory;    /* waits for a payload buffer */

    /* handshake*.c: */
    bool no_zeroes, structured, extended;
    unsigned n_options;
    uint64_t option_drain;          /* bytes of an option that are skipped */
    char *list_after;               /* a LIST goes on behind this name */
    struct opening *opening;        /* the option that waits for an export */
    unsigned contexts;              /* what SET_META_CONTEXT chose, a bit each */
    char *contexts_export;          /* and for which export; NULL: nothing */

    /* transmission.c and commands*.c: */
    struct export *export;          /* a user of it; NULL before */
    uint64_t size;                  /* of the export, as it was told */
    struct mapping *mapping;        /* that it carries, or NULL; not owned */
    bool readonly;
    uint16_t flags;                 /* transmission flags as they were told */
    struct request *receiving;      /* its payload is coming in */
    struct request *writing;        /* that is written slice by slice; nothing else is taken */
    uint64_t payload_drain;         /* bytes of a refused payload that are skipped */
    bool large_writes;              /* the last payload was large: receive only headers */
    unsigned in_flight;             /* submitted, not completed */
    unsigned losses;                /* of the export's: that its flushes have told */
    unsigned orphans;               /* of them: answered already, without the storage */
    struct turn *turn;              /* not owned: the one that is running, of anybody */
    size_t taken_bytes;             /* of inline work this turn */
    uint64_t requests, read_bytes, write_bytes;
};

/* How far requests may reach. A client keeps to the size that it was told. The kernel behind a
 * mapping is told a new one without a new connection. */
static inline uint64_t connection_size(const struct connection *conn)
{
    return conn->mapping != NULL ? conn->export->size : MIN(conn->size, conn->export->size);
}

struct connection_table;

struct connection_limits {
    unsigned max_connections;
    unsigned negotiation_timeout_s;
    const char *const *allowed; /* nbd_allow: entries of acl.h that were checked already */
};

struct connection_table *connection_table_new(struct server *server,
                                              const struct connection_limits *limits);
/* All are closed; nothing may be in flight. */
void connection_table_free(struct connection_table *table);

/* The callback for listener_set_new(); arg is the table. */
void connection_accept(void *table, int fd, const struct sockaddr *peer);

/* For those who connect from now on. */
void connection_table_set_limits(struct connection_table *table, unsigned max_connections,
                                 unsigned negotiation_timeout_s);

/* Change who may connect (nbd_allow); those who may not any more are disconnected. -EINVAL
 * names the entry, and nothing has changed. */
int connection_table_allow(struct connection_table *table, const char *const *allowed,
                           struct nbd_failure *why);

/* Would this peer be let in now? -EACCES: nbd_allow; -EBUSY: stopping; -EMFILE: too many. */
int connection_table_admits(const struct connection_table *table, const struct sockaddr *peer,
                            struct nbd_failure *why);

/* Begin to end them all (server->stopping is set): nobody is let in, what is in flight is
 * answered, what comes is refused with ESHUTDOWN for a moment, then each is closed. */
void connection_table_drain(struct connection_table *table);
unsigned connection_count(const struct connection_table *table);
unsigned connection_in_flight(const struct connection_table *table); /* requests, of all */

/* Since the start: connections that were taken; that were closed at once. */
uint64_t connection_accepted(const struct connection_table *table);
uint64_t connection_turned_away(const struct connection_table *table);

/* ---- For the control port ---- */

struct connection_info {
    uint64_t id;
    const char *export_name, *peer, *phase, *cookie; /* export_name, cookie: NULL = none */
    int64_t since_us, last_activity_us;
    uint64_t requests, read_bytes, write_bytes;
    unsigned in_flight;
    bool structured;
};

/* In order of ids; after_id 0: the first. */
struct connection *connection_next(struct connection_table *table, uint64_t after_id);
void connection_describe(const struct connection *conn, struct connection_info *ret_info);
bool connection_kick(struct connection_table *table, uint64_t id, const char *reason);
unsigned connection_kick_export(struct connection_table *table, const struct export *export,
                                const char *reason);

/* ---- For handshake.c, transmission.c and the commands ---- */

/* Room for `size` bytes of output (at most SCRATCH_BYTES), or NULL when the output is full:
 * then stop and return 0 from the parser; it is called again when there is room. */
void *connection_reserve(struct connection *conn, size_t size);
void connection_commit(struct connection *conn, size_t size);

/* Queue a reply of its own memory; flushed at the end of the turn. */
void connection_queue_reply(struct connection *conn, struct request *request);

/* How much of a large payload may be received, or written on the loop, in one turn: less when
 * there are connections that would wait for it. */
size_t connection_turn_bytes(const struct connection *conn);

/* Hard disconnect. Safe anywhere, any number of times; conn stays valid until control returns
 * to the loop. `why` is a constant. */
void connection_close(struct connection *conn, const char *why);

/* Soft disconnect: answer what is in flight, then close. */
void connection_finish(struct connection *conn, const char *why);

void connection_enter(struct connection *conn, enum phase phase);

/* Look after it at the end of this turn of the loop: send what can be sent. */
void connection_touch(struct connection *conn);

/* Pause until payload memory has come back. Clients that hold some of it and have not moved a
 * byte for MEMORY_STALL_S meanwhile are closed: they may only hold up themselves. */
void connection_wait_memory(struct connection *conn, size_t size);

/* Take input again, after a pause, an opening or a completion. */
void connection_resume(struct connection *conn);

struct request *connection_request_new(struct connection *conn);
void connection_request_free(struct connection *conn, struct request *request);

/* Requests that have not been answered, or whose reply has not left. */
static inline unsigned connection_backlog(const struct connection *conn)
{
    return conn->in_flight - conn->orphans + conn->n_replies;
}

/* For a request that completes after the turn that took it: counters_now_ns(), or a little
 * earlier when several complete one after the other. */
int64_t connection_now_ns(struct connection *conn);

struct buffer_pool *connection_buffers(const struct connection *conn);

__attribute__((format(printf, 3, 4)))
void connection_log(const struct connection *conn, enum nbd_log_level level,
                    const char *format, ...);

#endif
