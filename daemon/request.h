/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * One NBD request, from its header to the end of its reply, and its way through a handler:
 * submission (asynchronous, or on workers for a handler that blocks), completion from any
 * thread, what the daemon does itself because the handler cannot. Knows no wire format.
 */
#ifndef NR_REQUEST_H
#define NR_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "export.h"
#include "loop.h"
#include "nbd-runner/handler.h"

struct connection;
struct read_group;

/* Largest header of a reply: extended reply header, offset of the chunk, or an error chunk
 * without its text. */
#define REPLY_HEAD_MAX 64

/* Owned by the connection until submitted, by the handler until completed, by the connection
 * until its reply has left. */
struct request {
    struct nbd_request rq;    /* what the handler sees; first member */
    struct loop_task task;    /* brings a completion to the loop */
    struct request *next;     /* in the one list that it is in */
    struct connection *conn;  /* not owned; outlives the request */
    struct export *export;    /* not owned; the connection is its user */
    void (*completed)(struct request *request, int result); /* on the loop */
    int result;
    struct request *older, *younger; /* expiry.c's own ... */
    int64_t since_ns;         /* ... when it was handed over; 0: not watched */
    bool expired;             /* answered; only its end is awaited */
    bool aside;               /* its buffer does not count any more */
    bool held;                /* away.c has it, not the handler */
    bool flush_after;         /* FUA, by a flush after the write */
    bool blocks;              /* keeps a worker busy, or waits for one */
    uint64_t zeroed;          /* bytes, of zeroes by writing */
    uint16_t type;            /* the client's: NBD_CMD_* */
    uint16_t wire_flags;      /* the client's: NBD_CMD_FLAG_* */
    uint64_t changes;         /* FLUSH: the export's when it was submitted */

    /* commands*.c: */
    uint64_t cookie;          /* in network order, as it came */
    uint64_t offset, length;  /* of the request, or of this part of it */
    int64_t started_ns;       /* when it was there as a whole; counters_now_ns() */
    uint64_t request_offset;  /* as the client gave it */
    struct read_group *group; /* of a part of a read, else NULL */
    unsigned contexts;        /* BLOCK_STATUS */
    void *buffer;             /* from the buffer pool, or NULL */
    size_t buffer_size;
    size_t received;          /* payload bytes so far */
    uint64_t written;         /* of a write slice by slice: bytes so far */

    /* The reply: head, then `data_length` bytes of memory or file. */
    uint8_t head[REPLY_HEAD_MAX];
    unsigned head_length;
    const void *data;
    int file;                 /* -1: memory */
    off_t file_offset;
    bool loading;             /* its data has left the page cache and is being read */
    size_t data_length;
    uint8_t tail[REPLY_HEAD_MAX]; /* a last chunk that follows the data */
    unsigned tail_length;
    size_t sent;              /* of head, data and tail together */
};

/* Loop thread. Start it; request->completed() is called on the loop, maybe at once. */
void request_submit(struct request *request);

/* Loop thread. The same once more, from its beginning: the handler could not finish it. */
void request_repeat(struct request *request);

/* Loop thread. One request or question less that the handler has. */
static inline void request_left(struct export *export)
{
    if (--export->submitted == 0 && export->io != export->handler)
        export_is_idle(export);
}

/* It was answered, or its client has gone: nobody waits for how it ends. */
bool request_is_orphan(const struct request *request);

/* Loop thread. Serve it at once if that cannot block: 0 or a negative errno; -EAGAIN: submit
 * it instead. rq (dev, offset, length, op, flags, data) is lent for the call. */
int request_try_now(const struct export *export, struct nbd_request *rq);

/* Loop thread, once after some request_submit() of one export. */
void request_submit_batch(struct export *export);

#endif
