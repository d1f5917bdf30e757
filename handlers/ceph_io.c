/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The ceph handler's requests. They are started on the loop, which librbd's asynchronous
 * calls never hold up, and end on its own threads, which must not block either. Trim and
 * zeroes go piece by piece, for each piece costs memory for each of its objects.
 */
#include <string.h>

#include "ceph.h"

#define PIECE_BYTES (UINT64_C(1) << 30)       /* of trim and zeroes, at a time */
#define THICK_PIECE_BYTES (UINT64_C(1) << 26) /* of zeroes that are written as such */

/* Lies in nbd_request.scratch from submit() to done(). */
struct __attribute__((may_alias)) progress {
    uint64_t done;  /* bytes of the request that are finished */
    uint64_t piece; /* bytes that are under way */
    unsigned slot;  /* ceph_silence.c's */
};

_Static_assert(sizeof(struct progress) <= sizeof(((struct nbd_request *)0)->scratch),
               "struct progress must fit into nbd_request.scratch");

static void start(struct nbd_request *rq);

static struct progress *progress_of(struct nbd_request *rq)
{
    return (struct progress *)rq->scratch;
}

static struct session *session_of(const struct nbd_request *rq)
{
    const struct image *image = rq->dev->priv;

    return image->session;
}

/* The answer to a request that librbd ended with `result`. */
static int answer_of(struct nbd_request *rq, ssize_t result)
{
    if (result == BLOCKLISTED) {
        session_lost(session_of(rq), rq->dev);
        return -EIO;
    }
    if (rq->op != NBD_OP_READ)
        return result < 0 ? (int)result : 0;
    if (result == -ENOENT) { /* nothing was ever written there */
        memset(rq->data, 0, rq->length);
        return 0;
    }
    if (result < 0)
        return (int)result;
    return (uint64_t)result == rq->length ? 0 : -EIO; /* the image has become shorter */
}

static void end(struct nbd_request *rq, int result)
{
    silence_ended(session_of(rq), progress_of(rq)->slot);
    rq->done(rq, result);
}

static void on_piece_ended(rbd_completion_t completion, void *arg)
{
    struct nbd_request *rq = arg;
    struct progress *progress = progress_of(rq);
    int result = answer_of(rq, rbd_aio_get_return_value(completion));

    rbd_aio_release(completion);
    progress->done += progress->piece;
    if (result == 0 && progress->done < rq->length) {
        progress->slot = silence_broken(session_of(rq), progress->slot);
        start(rq);
    } else {
        end(rq, result);
    }
}

/* Pieces end where objects do. */
static uint64_t piece_of(const struct nbd_request *rq, uint64_t offset)
{
    uint64_t left = rq->offset + rq->length - offset;
    /* A slow cluster must be done with one before it passes for silent. */
    uint64_t most = rq->flags & NBD_RQ_NO_HOLE ? THICK_PIECE_BYTES : PIECE_BYTES;

    if (rq->op == NBD_OP_TRIM || rq->op == NBD_OP_WRITE_ZEROES)
        return MIN(left, most - offset % most);
    return left;
}

static int start_piece(struct nbd_request *rq, uint64_t offset, uint64_t length,
                       rbd_completion_t completion)
{
    rbd_image_t rbd = session_of(rq)->rbd;

    switch (rq->op) {
    case NBD_OP_READ:
        return rbd_aio_read(rbd, offset, length, rq->data, completion);
    case NBD_OP_WRITE:
        return rbd_aio_write(rbd, offset, length, rq->data, completion);
    case NBD_OP_FLUSH:
        return rbd_aio_flush(rbd, completion);
    case NBD_OP_TRIM:
        return rbd_aio_discard(rbd, offset, length, completion);
    case NBD_OP_WRITE_ZEROES:
        return rbd_aio_write_zeroes(rbd, offset, length, completion,
                                    rq->flags & NBD_RQ_NO_HOLE
                                        ? RBD_WRITE_ZEROES_FLAG_THICK_PROVISION : 0, 0);
    default:
        return -ENOTSUP;
    }
}

static void start(struct nbd_request *rq)
{
    struct progress *progress = progress_of(rq);
    uint64_t offset = rq->offset + progress->done;
    rbd_completion_t completion;
    int r = rbd_aio_create_completion(rq, on_piece_ended, &completion);

    if (r < 0) {
        end(rq, r);
        return;
    }
    progress->piece = piece_of(rq, offset);
    r = start_piece(rq, offset, progress->piece, completion);
    if (r < 0) {
        rbd_aio_release(completion);
        end(rq, answer_of(rq, r));
    }
}

/* What can be answered without the cluster: 0 and negative errnos; 1: nothing. */
static int answer_at_once(const struct nbd_request *rq)
{
    struct session *session = session_of(rq);
    uint64_t size = atomic_load(&session->size);

    if (atomic_load(&session->lost))
        return -EIO;
    if (rq->op == NBD_OP_FLUSH)
        return 1;
    if (rq->length == 0)
        return 0;
    /* Beyond the end librbd cuts writes off and reports success. */
    if (rq->offset > size || rq->length > size - rq->offset)
        return -EIO;
    if ((rq->flags & NBD_RQ_FAST_ZERO) && (rq->flags & NBD_RQ_NO_HOLE))
        return -ENOTSUP; /* zeroes that take space are written as such */
    return 1;
}

void ceph_submit(struct nbd_request *rq)
{
    int answer = answer_at_once(rq);

    if (answer <= 0) {
        rq->done(rq, answer);
        return;
    }
    progress_of(rq)->done = 0;
    progress_of(rq)->slot = silence_begun(session_of(rq), rq->dev);
    start(rq);
}
