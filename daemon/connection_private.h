/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What the files of a connection share: connection*.c, nobody else. Loop thread.
 */
#ifndef NR_CONNECTION_PRIVATE_H
#define NR_CONNECTION_PRIVATE_H

#include <event2/event.h>

#include "connection.h"

#define TURN_BYTES (1u << 20) /* inline work, and bytes sent, of one connection per turn */

struct connection_table {
    struct server *server;           /* not owned */

    /* connection_table.c: */
    struct connection_limits limits;
    struct acl *allowed;             /* nbd_allow */
    int64_t turned_away_ns;          /* when the log last said so */
    unsigned turned_away;            /* peers that it has not mentioned since */
    uint64_t all_turned_away;        /* since the start */
    struct connection *first, *last; /* in order of ids */
    GHashTable *by_id;
    uint64_t last_id;
    unsigned count;
    struct event *grace;             /* of a shutdown */
    bool draining;

    /* connection.c: */
    uint8_t *in, *out;               /* scratch buffers, SCRATCH_BYTES each */
    struct connection *dirty;        /* to be looked after at the end of this turn */
    struct event *look_after;
    struct turn turn;                /* the one that is running */
    unsigned large_turns;            /* since one without large writes; to UNDISTURBED_TURNS */
    GQueue going_on;                 /* those who go on without new bytes, when all had a turn */
    struct event *go_on;
    int64_t completion_ns;           /* connection_now_ns() of this turn of the loop, or 0 */

    /* connection_memory.c: */
    struct event *pressure;          /* while somebody waits for memory */
    struct request *free_requests;
    unsigned n_free_requests;
};

/* ---- connection.c ---- */

/* It was accepted and is in the table: greet it, and take what comes. */
void connection_start(struct connection *conn);

/* Free it. It is closed, and nothing refers to it any more. */
void connection_reap(struct connection *conn);

/* Callbacks of the table's events `look_after` and `go_on`; arg: the table. */
void connection_on_look_after(evutil_socket_t fd, short what, void *arg);
void connection_on_go_on(evutil_socket_t fd, short what, void *arg);

/* ---- connection_output.c ---- */

/* Send what can be sent now. */
void connection_flush(struct connection *conn);

/* At the end of a turn: output that could not leave must not stay in the shared buffer, and
 * nobody keeps an empty one. */
void connection_settle_out(struct connection *conn);

/* Forget all that was not sent. */
void connection_drop_output(struct connection *conn);

static inline bool connection_has_output(const struct connection *conn)
{
    return conn->out_length > conn->out_sent || conn->replies != NULL;
}

/* ---- connection_memory.c ---- */

/* Callback of the table's event `pressure`; arg: the table. */
void connection_on_pressure(evutil_socket_t fd, short what, void *arg);

/* ---- connection_table.c ---- */

/* It is not listed and not counted any more. */
void connection_table_remove(struct connection_table *table, struct connection *conn);

#endif
