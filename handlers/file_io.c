/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The file handler's requests: each is a row of steps (file_engine.c runs them), chosen one
 * after the other by what is left of it and by what the storage has proved able to do. FLUSH
 * and FUA share one fdatasync (group commit). Runs on the loop.
 */
#include <glib.h>
#include <inttypes.h>

#include "file.h"

#define ZEROES_BYTES (UINT64_C(1) << 20) /* what the engine writes at a time */
#define SLOW_BYTES (UINT64_C(1) << 30)   /* at a time, when a device may take long over it */

static const struct nbd_host *host;
static struct file *due; /* devices whose next fdatasync is to be started */

static void advance(struct nbd_request *rq);

/* ---- Group commit ---- */

static void end_all(struct queue *queue, int result)
{
    struct nbd_request *rq;

    while ((rq = queue_pop(queue)) != NULL)
        rq->done(rq, result);
}

/* The sync starts with the batch, so that it serves every request of this turn. */
static void wait_for_sync(struct nbd_request *rq)
{
    struct file *file = file_of(rq);

    if (file->sync_error != 0) {
        rq->done(rq, file->sync_error);
        return;
    }
    queue_push(&file->sync_waiting, rq);
    if (file->sync_running || file->sync_due)
        return;
    file->sync_due = true;
    file->next_due = due;
    due = file;
}

static void start_sync(struct file *file)
{
    file->sync_served = file->sync_waiting;
    file->sync_waiting = (struct queue){NULL, NULL};
    file->sync_running = true;
    file->changes_syncing = file->changes;
    engine_sync(file);
}

/* After a failed fdatasync the kernel may hold the lost pages for clean, and the next call
 * would succeed without them. So no later one may answer for this opening of the file. */
static void sync_failed(struct file *file, int error)
{
    file->sync_error = error;
    host->log(NBD_LOG_ERROR, "file: fdatasync of '%s' failed: %s; writes may be lost, and "
              "every flush fails until the export is opened again", file->shown,
              g_strerror(-error));
    end_all(&file->sync_waiting, error);
}

static void on_sync_ended(struct file *file, int result)
{
    struct queue served = file->sync_served;

    if (result == -EINTR || result == -EAGAIN) {
        engine_sync(file);
        return;
    }
    file->sync_served = (struct queue){NULL, NULL};
    file->sync_running = false;
    if (result == 0)
        file->changes_synced = file->changes_syncing;
    else
        sync_failed(file, result);
    if (file->sync_waiting.head != NULL)
        start_sync(file);
    /* Last: with the last answer the device may be closed. */
    end_all(&served, result);
}

static void hand_over(void)
{
    while (due != NULL) {
        struct file *file = due;

        due = file->next_due;
        file->sync_due = false;
        start_sync(file);
    }
    engine_kick();
}

/* ---- Choosing the next step ---- */

static bool is_change(const struct nbd_request *rq)
{
    return rq->op == NBD_OP_WRITE || rq->op == NBD_OP_TRIM || rq->op == NBD_OP_WRITE_ZEROES;
}

static void finish(struct nbd_request *rq, int result)
{
    if (is_change(rq)) {
        file_of(rq)->changes++;
        if (rq->op == NBD_OP_WRITE)
            file_write_ended(rq);
        if (result == 0 && (rq->flags & NBD_RQ_FUA)) {
            wait_for_sync(rq);
            return;
        }
    }
    rq->done(rq, result);
}

static void plan(struct progress *progress, enum step step, uint64_t piece)
{
    progress->step = (uint8_t)step;
    progress->piece = piece;
}

/* The way that frees blocks first, the slow one last. Parts of a sector at either end can
 * only be written. */
static int plan_zeroes(struct nbd_request *rq)
{
    const struct file *file = file_of(rq);
    struct progress *progress = progress_of(rq);
    uint64_t at = rq->offset + progress->done;
    uint64_t left = rq->length - progress->done;
    uint64_t into_sector = at & (file->sector - 1);
    uint64_t whole = left & ~(uint64_t)(file->sector - 1);
    bool only_fast = rq->flags & NBD_RQ_FAST_ZERO;

    if (into_sector != 0 || whole == 0) {
        plan(progress, STEP_WRITE_ZEROES, MIN(left, file->sector - into_sector));
        return 0;
    }
    if (file->can_punch && !(rq->flags & NBD_RQ_NO_HOLE)) {
        plan(progress, STEP_PUNCH, file->is_block ? MIN(whole, SLOW_BYTES) : whole);
        return 0;
    }
    /* A device that cannot do it by itself has the kernel write zeroes. */
    if (file->can_zero_range && !(file->is_block && only_fast)) {
        plan(progress, STEP_ZERO_RANGE, MIN(whole, SLOW_BYTES));
        return 0;
    }
    if (only_fast)
        return -ENOTSUP;
    plan(progress, STEP_WRITE_ZEROES, MIN(left, ZEROES_BYTES));
    return 0;
}

/* 0, or a negative errno as the request's result. */
static int plan_step(struct nbd_request *rq)
{
    const struct file *file = file_of(rq);
    struct progress *progress = progress_of(rq);
    uint64_t left = rq->length - progress->done;

    switch (rq->op) {
    case NBD_OP_READ:
        plan(progress, STEP_READ, left);
        return 0;
    case NBD_OP_WRITE:
        plan(progress, STEP_WRITE, left);
        return 0;
    case NBD_OP_TRIM:
        plan(progress, file->is_block ? STEP_DISCARD : STEP_PUNCH, left);
        return 0;
    case NBD_OP_CACHE:
        plan(progress, STEP_ADVISE, MIN(left, SLOW_BYTES));
        return 0;
    case NBD_OP_WRITE_ZEROES:
        return plan_zeroes(rq);
    default:
        return -ENOTSUP;
    }
}

static void advance(struct nbd_request *rq)
{
    struct progress *progress = progress_of(rq);
    int r;

    if (progress->done == rq->length) {
        finish(rq, 0);
        return;
    }
    r = plan_step(rq);
    if (r < 0)
        finish(rq, r);
    else
        engine_start(rq);
}

/* ---- What a step came to ---- */

/* The storage lacks the operation: remember that, and go on without it. */
static void do_without(struct nbd_request *rq)
{
    struct file *file = file_of(rq);

    switch (progress_of(rq)->step) {
    case STEP_PUNCH:
        file->can_punch = false;
        break;
    case STEP_ZERO_RANGE:
        file->can_zero_range = false;
        break;
    default:
        file->can_discard = false;
        break;
    }
    if (rq->op == NBD_OP_TRIM)
        finish(rq, 0); /* advice that cannot be followed */
    else
        advance(rq);
}

static void transferred(struct nbd_request *rq, int result)
{
    if (result < 0) {
        finish(rq, result);
    } else if (result == 0) {
        /* The file has become shorter than the export that promised this range. */
        finish(rq, -EIO);
    } else {
        progress_of(rq)->done += (uint64_t)result;
        advance(rq);
    }
}

/* To be done once more, by a thread that may wait. The buffer is ours, so EFAULT tells of the
 * kernel's own difficulties, and only once. */
static bool is_worth_repeating(struct nbd_request *rq, int result)
{
    if (result == -EFAULT && !progress_of(rq)->off_loop) {
        host->log(NBD_LOG_WARNING, "file: a transfer of %" PRIu64 " bytes at %" PRIu64 " of "
                  "'%s' ended with EFAULT; it is done again", rq->length, rq->offset,
                  file_of(rq)->shown);
        return true;
    }
    return result == -EINTR || result == -EAGAIN;
}

static void on_step_ended(struct nbd_request *rq, int result)
{
    struct progress *progress = progress_of(rq);

    if (is_worth_repeating(rq, result)) {
        progress->off_loop = true;
        engine_start(rq);
        return;
    }
    switch ((enum step)progress->step) {
    case STEP_READ:
    case STEP_WRITE:
    case STEP_WRITE_ZEROES:
        transferred(rq, result);
        return;
    case STEP_PUNCH:
    case STEP_ZERO_RANGE:
    case STEP_DISCARD:
        if (is_unsupported(result)) {
            do_without(rq);
            return;
        }
        break;
    case STEP_ADVISE:
        finish(rq, 0);
        return;
    }
    if (result < 0) {
        finish(rq, result);
        return;
    }
    progress->done += progress->piece;
    advance(rq);
}

/* ---- For the daemon ---- */

static bool is_known_useless(const struct nbd_request *rq)
{
    const struct file *file = file_of(rq);

    return rq->op == NBD_OP_TRIM && !(file->is_block ? file->can_discard : file->can_punch);
}

void file_submit(struct nbd_request *rq)
{
    struct progress *progress = progress_of(rq);
    int r;

    *progress = (struct progress){.off_loop = rq->length > INLINE_MAX_BYTES};
    if (rq->op == NBD_OP_FLUSH) {
        wait_for_sync(rq);
        return;
    }
    if (is_known_useless(rq)) {
        finish(rq, 0);
        return;
    }
    if (rq->op == NBD_OP_WRITE)
        file_write_begins(rq);
    /* The daemon does not try these at once, but the write is as quick as any. */
    if (rq->op == NBD_OP_WRITE && (rq->flags & NBD_RQ_FUA)) {
        r = file_write_now(rq);
        if (r != -EAGAIN) {
            finish(rq, r);
            return;
        }
    }
    advance(rq);
}

void file_submit_batch(struct nbd_device *dev)
{
    (void)dev;
    hand_over();
}

void file_io_init(const struct nbd_config *config)
{
    static const struct engine_calls calls = {
        .step_ended = on_step_ended,
        .sync_ended = on_sync_ended,
        .batch_ended = hand_over,
    };

    host = config->host;
    due = NULL;
    engine_init(config, &calls);
}

void file_io_fini(void)
{
    engine_fini();
}
