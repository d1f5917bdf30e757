/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The gluster handler's requests: each is a row of asynchronous calls, chosen one after the
 * other by what is left of it and by what the volume has proved able to do. FLUSH and FUA
 * share one fdatasync (group commit). Runs on the loop, but for on_step_ended() and
 * on_sync_ended(): gluster calls them on threads of its own, or from inside of the call that
 * they end.
 */
#include <fcntl.h>
#include <glib.h>
#include <string.h>
#include <unistd.h>

#include "gluster.h"

#define ZEROES_BYTES (UINT64_C(1) << 20) /* written at a time */
#define NGROUPS_TOLD 64              /* with more, gluster asks for itself */
#define SLICE_BYTES (UINT64_C(1) << 30)  /* at a time, when bricks may take long over it */

static const struct nbd_host *host;

static void advance(struct nbd_request *rq);

/* ---- Group commit ---- */

static void start_sync(struct disk *disk);

static void end_all(struct queue *queue, int result)
{
    struct nbd_request *rq;

    while ((rq = queue_pop(queue)) != NULL)
        rq->done(rq, result);
}

/* A brick that failed to write may hold the lost pages for clean, and the next call would
 * succeed without them. So no later one may answer for this opening of the file. */
static void sync_failed(struct disk *disk, int error)
{
    disk->sync_error = error;
    host->log(NBD_LOG_ERROR, "gluster: fdatasync of '%s' failed: %s; writes may be lost, and "
              "every flush fails until the export is opened again", disk->shown,
              g_strerror(-error));
}

/* The bricks are asked again when they are back. Writes with FUA are then done again as well:
 * a brick whose host went down has lost those that it had not synced. For a plain flush there
 * is nothing that could be repeated; who wants to be safe from that sets durable=true. */
static void hold_all(struct queue *queue, int err)
{
    struct nbd_request *rq;

    while ((rq = queue_pop(queue)) != NULL) {
        if (rq->op != NBD_OP_FLUSH) {
            progress_of(rq)->done = 0;
            progress_of(rq)->step = STEP_READ;
        }
        recover_hold(rq, err);
    }
}

static struct queue take_waiting(struct disk *disk)
{
    struct queue queue = disk->sync_waiting;

    disk->sync_waiting = (struct queue){NULL, NULL};
    return queue;
}

static void after_sync(void *arg)
{
    struct disk *disk = arg;
    struct queue served = disk->sync_served, refused = {NULL, NULL};
    int result = disk->sync_result;

    disk->sync_served = (struct queue){NULL, NULL};
    disk->sync_running = false;
    if (result < 0 && is_connection_error(-result)) {
        refused = take_waiting(disk);
        hold_all(&served, -result);
        hold_all(&refused, -result);
        return;
    }
    if (result < 0) {
        sync_failed(disk, result);
        refused = take_waiting(disk);
    } else if (disk->sync_waiting.head != NULL) {
        start_sync(disk);
    }
    /* Last: with the last answer the device may be closed. */
    end_all(&refused, result);
    end_all(&served, result);
}

static void on_sync_ended(glfs_fd_t *fd, ssize_t ret, struct glfs_stat *pre,
                          struct glfs_stat *post, void *arg)
{
    int err = gluster_errno();
    struct disk *disk = arg;

    (void)fd;
    (void)pre;
    (void)post;
    disk->sync_result = ret < 0 ? -err : 0;
    host->post(after_sync, disk);
}

static void start_sync(struct disk *disk)
{
    disk->sync_served = take_waiting(disk);
    disk->sync_running = true;
    errno = 0;
    if (glfs_fdatasync_async(session_fd(disk->session), on_sync_ended, disk) < 0) {
        disk->sync_result = -gluster_errno();
        host->post(after_sync, disk);
    }
}

static void wait_for_sync(struct nbd_request *rq)
{
    struct disk *disk = disk_of(rq);

    progress_of(rq)->step = STEP_SYNC;
    if (disk->sync_error != 0) {
        rq->done(rq, disk->sync_error);
        return;
    }
    queue_push(&disk->sync_waiting, rq);
    if (!disk->sync_running)
        start_sync(disk);
}

/* ---- Choosing the next step ---- */

static bool wants_sync(const struct nbd_request *rq)
{
    switch (rq->op) {
    case NBD_OP_READ:
        return false;
    case NBD_OP_WRITE:
        return rq->flags & NBD_RQ_FUA;
    default:
        return (rq->flags & NBD_RQ_FUA) || disk_of(rq)->durable;
    }
}

static void finish(struct nbd_request *rq)
{
    if (wants_sync(rq))
        wait_for_sync(rq);
    else
        rq->done(rq, 0);
}

static void plan(struct nbd_request *rq, enum step step, uint64_t limit)
{
    struct progress *progress = progress_of(rq);

    progress->step = (uint8_t)step;
    progress->piece = (uint32_t)MIN(rq->length - progress->done, limit);
}

/* discard frees blocks, zerofill allocates them; both are exact to the byte. Whether the
 * bricks do a zerofill by writing nobody can tell from here. */
static int plan_zeroes(struct nbd_request *rq)
{
    const struct disk *disk = disk_of(rq);

    if (disk->can_discard && !(rq->flags & NBD_RQ_NO_HOLE))
        plan(rq, STEP_DISCARD, SLICE_BYTES);
    else if (rq->flags & NBD_RQ_FAST_ZERO)
        return -ENOTSUP;
    else if (disk->can_zerofill)
        plan(rq, STEP_ZEROFILL, SLICE_BYTES);
    else
        plan(rq, STEP_WRITE_ZEROES, ZEROES_BYTES);
    return 0;
}

/* 0, or a negative errno as the request's result. */
static int plan_step(struct nbd_request *rq)
{
    switch (rq->op) {
    case NBD_OP_READ:
        plan(rq, STEP_READ, SLICE_BYTES);
        return 0;
    case NBD_OP_WRITE:
        plan(rq, STEP_WRITE, SLICE_BYTES);
        return 0;
    case NBD_OP_TRIM:
        plan(rq, STEP_DISCARD, SLICE_BYTES);
        return 0;
    case NBD_OP_WRITE_ZEROES:
        return plan_zeroes(rq);
    default:
        return -ENOTSUP;
    }
}

/* ---- What a step came to ---- */

/* The volume lacks the operation: remember that, and go on without it. */
static void do_without(struct nbd_request *rq)
{
    struct disk *disk = disk_of(rq);

    if (progress_of(rq)->step == STEP_DISCARD)
        disk->can_discard = false;
    else
        disk->can_zerofill = false;
    if (rq->op == NBD_OP_TRIM)
        finish(rq); /* advice that cannot be followed */
    else
        advance(rq);
}

static void step_failed(struct nbd_request *rq, int err)
{
    enum step step = progress_of(rq)->step;

    if (is_connection_error(err))
        recover_hold(rq, err);
    else if ((step == STEP_DISCARD || step == STEP_ZEROFILL) && is_unsupported(err))
        do_without(rq);
    else
        rq->done(rq, -err);
}

static void after_step(void *arg)
{
    struct nbd_request *rq = arg;
    struct progress *progress = progress_of(rq);
    uint64_t moved = (uint64_t)progress->result;

    if (progress->result < 0) {
        step_failed(rq, -progress->result);
        return;
    }
    switch ((enum step)progress->step) {
    case STEP_READ:
        if (moved == 0) { /* the file is shorter than the export */
            moved = rq->length - progress->done;
            memset((char *)rq->data + progress->done, 0, moved);
        }
        break;
    case STEP_WRITE:
    case STEP_WRITE_ZEROES:
        if (moved == 0) {
            rq->done(rq, -EIO);
            return;
        }
        break;
    default:
        moved = progress->piece;
    }
    progress->done += moved;
    advance(rq);
}

/* Most requests end here: a single step that did all. The result counts, not errno, which
 * may tell of something else after a success. */
static void on_step_ended(glfs_fd_t *fd, ssize_t ret, struct glfs_stat *pre,
                          struct glfs_stat *post, void *arg)
{
    int err = gluster_errno();
    struct nbd_request *rq = arg;
    struct progress *progress = progress_of(rq);
    unsigned out = atomic_fetch_sub(&disk_of(rq)->out, 1) - 1;

    (void)fd;
    (void)pre;
    (void)post;
    if (ret == (ssize_t)progress->piece && progress->piece == rq->length &&
        progress->step <= STEP_WRITE && !wants_sync(rq)) {
        gather_end(rq, out);
        return;
    }
    progress->result = ret < 0 ? -err : (int32_t)MIN(ret, (ssize_t)progress->piece);
    host->post(after_step, rq);
}

/* ---- Steps ---- */

static int call_gluster(struct nbd_request *rq)
{
    static char zeroes[ZEROES_BYTES]; /* const, they would be in the library's file */
    struct progress *progress = progress_of(rq);
    const struct disk *disk = disk_of(rq);
    glfs_fd_t *fd = session_fd(disk->session);
    int flags = disk->durable ? O_DSYNC : 0;
    off_t at = (off_t)(rq->offset + progress->done);
    uint32_t piece = progress->piece;

    switch ((enum step)progress->step) {
    case STEP_READ:
        return glfs_pread_async(fd, (char *)rq->data + progress->done, piece, at, 0,
                                on_step_ended, rq);
    case STEP_WRITE:
        return glfs_pwrite_async(fd, (char *)rq->data + progress->done, (int)piece, at,
                                 flags, on_step_ended, rq);
    case STEP_WRITE_ZEROES:
        return glfs_pwrite_async(fd, zeroes, (int)piece, at, flags, on_step_ended, rq);
    case STEP_DISCARD:
        return glfs_discard_async(fd, at, piece, on_step_ended, rq);
    case STEP_ZEROFILL:
        return glfs_zerofill_async(fd, at, piece, on_step_ended, rq);
    default:
        errno = ENOSYS;
        return -1;
    }
}

/* When the call returns the request may be gone already. */
static void run_step(struct nbd_request *rq)
{
    atomic_fetch_add(&disk_of(rq)->out, 1);
    errno = 0;
    if (call_gluster(rq) < 0) {
        atomic_fetch_sub(&disk_of(rq)->out, 1);
        progress_of(rq)->result = -gluster_errno();
        host->post(after_step, rq);
    }
}

static void advance(struct nbd_request *rq)
{
    int r;

    if (progress_of(rq)->done == rq->length) {
        finish(rq);
        return;
    }
    r = plan_step(rq);
    if (r < 0)
        rq->done(rq, r);
    else
        run_step(rq);
}

/* ---- For the other files and the daemon ---- */

/* Each call carries the identity of its caller, for which gluster asks the kernel with five
 * system calls, unless it has been told once for this thread: it does not change any more. */
static void tell_identity(void)
{
    static bool is_told;
    gid_t groups[NGROUPS_TOLD];
    int n;

    if (is_told)
        return;
    is_told = true;
    glfs_setfsuid(geteuid());
    glfs_setfsgid(getegid());
    n = getgroups(NGROUPS_TOLD, groups);
    if (n >= 0)
        glfs_setfsgroups((size_t)n, groups);
}

void gluster_resume(struct nbd_request *rq)
{
    if (progress_of(rq)->step == STEP_SYNC)
        wait_for_sync(rq);
    else
        advance(rq);
}

void gluster_submit(struct nbd_request *rq)
{
    const struct disk *disk = disk_of(rq);

    tell_identity();
    gather_start();
    *progress_of(rq) = (struct progress){
        .step = rq->op == NBD_OP_FLUSH ? STEP_SYNC : STEP_READ,
    };
    if (rq->op == NBD_OP_TRIM && !disk->can_discard)
        finish(rq);
    else if (disk->is_away)
        recover_hold(rq, 0);
    else
        gluster_resume(rq);
}

void gluster_io_init(const struct nbd_config *config)
{
    host = config->host;
}
