/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * A first-in first-out list of requests, chained through the first word of their scratch
 * space: whoever keeps more there begins its struct with that pointer. Owns nothing. For the
 * handlers that hold requests back; on whichever thread has the list.
 */
#ifndef NBD_HANDLER_REQUEST_QUEUE_H
#define NBD_HANDLER_REQUEST_QUEUE_H

#include "nbd-runner/handler.h"

/* Empty when zeroed. A request is in one list at most. */
struct queue {
    struct nbd_request *head, *tail;
};

typedef struct nbd_request *queue_link __attribute__((may_alias));

/* The one behind it; NULL: it is the last. */
static inline queue_link *queue_next(struct nbd_request *rq)
{
    return (queue_link *)rq->scratch;
}

static inline void queue_push(struct queue *queue, struct nbd_request *rq)
{
    *queue_next(rq) = NULL;
    if (queue->tail != NULL)
        *queue_next(queue->tail) = rq;
    else
        queue->head = rq;
    queue->tail = rq;
}

/* NULL: the list is empty. */
static inline struct nbd_request *queue_pop(struct queue *queue)
{
    struct nbd_request *rq = queue->head;

    if (rq != NULL) {
        queue->head = *queue_next(rq);
        if (queue->head == NULL)
            queue->tail = NULL;
    }
    return rq;
}

#endif
