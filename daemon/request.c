/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The way of a request through its handler. A handler with submit() gets it on the loop; one
 * that blocks gets it on a worker, as many at once as `threads` allows, the others in order.
 */
#include "request.h"

#include <errno.h>

#include "away.h"
#include "connection.h"
#include "nbd_protocol.h"
#include "server.h"

#define ZERO_BYTES (256u << 10) /* written at once where zeroes are plain writes */

static uint8_t zeroes[ZERO_BYTES] __attribute__((aligned(4096)));

static void hand_over(struct request *request);

static bool lacks_fua(const struct nbd_request *rq)
{
    return (rq->flags & NBD_RQ_FUA) && !(rq->dev->caps & NBD_CAP_FUA);
}

static bool lacks_zeroes(const struct nbd_request *rq)
{
    return rq->op == NBD_OP_WRITE_ZEROES && !(rq->dev->caps & NBD_CAP_WRITE_ZEROES);
}

/* The next slice of zeroes that are plain writes. */
static void write_zeroes(struct request *request)
{
    struct nbd_request *rq = &request->rq;

    rq->op = NBD_OP_WRITE;
    rq->flags = 0;
    rq->data = zeroes;
    rq->offset = request->offset + request->zeroed;
    rq->length = request->length - request->zeroed;
    if (rq->length > ZERO_BYTES)
        rq->length = ZERO_BYTES;
    request->zeroed += rq->length;
    hand_over(request);
}

static void flush_after(struct request *request)
{
    request->flush_after = false;
    request->rq.op = NBD_OP_FLUSH;
    request->rq.flags = 0;
    request->rq.offset = request->rq.length = 0;
    request->rq.data = NULL;
    hand_over(request);
}

/* ---- Handlers that block ---- */

static void on_worker(void *arg)
{
    struct request *request = arg;

    request->export->handler->handle_request(&request->rq);
}

static void start_blocked(struct export *export)
{
    while (export->blocked != NULL && export->blocking < export->server->config->threads) {
        struct request *request = export->blocked;

        export->blocked = request->next;
        if (export->blocked == NULL)
            export->blocked_tail = &export->blocked;
        if (request->expired) { /* nobody waits for it */
            request->blocks = false;
            request_left(export);
            request->completed(request, -ECANCELED);
            continue;
        }
        export->blocking++;
        worker_run(export->server->workers, on_worker, NULL, request);
    }
}

static void queue_blocking(struct request *request)
{
    struct export *export = request->export;

    request->blocks = true;
    request->next = NULL;
    *export->blocked_tail = request;
    export->blocked_tail = &request->next;
    start_blocked(export);
}

/* ---- Completion ---- */

static void finish(struct request *request, int result)
{
    struct export *export = request->export;

    if (request->blocks) {
        request->blocks = false;
        export->blocking--;
        start_blocked(export);
    }
    request_left(export);
    if (result < 0 && export_is_away(export) && away_hold(request))
        return;
    if (request->expired)
        request->completed(request, result);
    else if (result == 0 && request->zeroed > 0 && request->zeroed < request->length)
        write_zeroes(request);
    else if (result == 0 && request->flush_after)
        flush_after(request);
    else
        request->completed(request, result);
}

static void on_posted(void *arg)
{
    struct request *request = arg;

    finish(request, request->result);
}

/* Any thread. */
static void on_done(struct nbd_request *rq, int result)
{
    struct request *request = (struct request *)rq;

    /* Slices of zeroes take the way round the loop: thousands that complete at once would
     * nest as deep. */
    if (request->zeroed == 0 && loop_is_mine(request->export->server->loop)) {
        finish(request, result);
        return;
    }
    request->result = result;
    request->task.run = on_posted;
    request->task.arg = request;
    loop_post(request->export->server->loop, &request->task);
}

static void hand_over(struct request *request)
{
    request->rq.done = on_done;
    request->export->submitted++;
    if (request->export->io->submit != NULL)
        request->export->io->submit(&request->rq);
    else
        queue_blocking(request);
}

/* ---- For transmission.c ---- */

void request_submit(struct request *request)
{
    request->zeroed = 0;
    request->flush_after = lacks_fua(&request->rq);
    if (request->flush_after)
        request->rq.flags &= (uint16_t)~NBD_RQ_FUA;
    if (!lacks_zeroes(&request->rq))
        hand_over(request);
    else if (request->rq.flags & NBD_RQ_FAST_ZERO)
        request->completed(request, -ENOTSUP);
    else
        write_zeroes(request);
}

/* FUA and zeroes may have been taken apart, and a flush may stand for a write by now. */
void request_repeat(struct request *request)
{
    struct nbd_request *rq = &request->rq;

    if (!request->loading) {
        bool zero = request->type == NBD_CMD_WRITE && request->buffer == NULL;

        rq->op = zero ? NBD_OP_WRITE_ZEROES : request->type;
        rq->flags = request->wire_flags & (NBD_RQ_FUA | NBD_RQ_NO_HOLE | NBD_RQ_FAST_ZERO);
        rq->offset = request->type == NBD_CMD_FLUSH ? 0 : request->offset;
        rq->length = request->length;
        rq->data = request->buffer;
    }
    request_submit(request);
}

bool request_is_orphan(const struct request *request)
{
    return request->expired || request->conn->phase == PHASE_CLOSING;
}

int request_try_now(const struct export *export, struct nbd_request *rq)
{
    if (export->io->try_now == NULL || lacks_fua(rq) || lacks_zeroes(rq))
        return -EAGAIN;
    return export->io->try_now(rq);
}

void request_submit_batch(struct export *export)
{
    if (export->io->submit_batch != NULL)
        export->io->submit_batch(&export->dev);
}
