/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Where the steps of the file handler's requests run: on one io_uring for all devices, or,
 * where the kernel does not give us one and for ioctls, on the daemon's worker threads. Knows
 * nothing of the order of steps. Runs on the loop, but for perform() and perform_sync().
 */
#include <fcntl.h>
#include <glib.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "file.h"

#define RING_ENTRIES 512
#define COMPLETIONS_PER_WAKEUP 1024

/* Set in the environment: behave as if there were no io_uring. */
#define NO_RING_VARIABLE "NBD_RUNNER_NO_IO_URING"

/* user_data is a request, or with this bit a struct file whose fdatasync it is. */
#define IS_SYNC UINT64_C(1)

static char zeroes[1 << 20] __attribute__((aligned(4096)));

static struct {
    const struct nbd_host *host;
    const struct engine_calls *calls;
    unsigned threads; /* that one device may keep busy */

    enum { RING_UNTRIED, RING_READY, RING_ABSENT } state;
    struct io_uring ring;
    struct nbd_watch *watch;
    unsigned in_flight;   /* started and not completed, syncs included */
    unsigned limit;       /* of requests in flight: what the completion queue holds */
    struct queue waiting; /* for room on the ring */
    bool retry_posted;
} engine;

/* ---- A step by plain system calls ---- */

/* O_DIRECT wants all three aligned; what is not goes through the page cache, which the
 * kernel keeps in step with it. */
static int descriptor_for(struct nbd_request *rq)
{
    const struct progress *progress = progress_of(rq);
    const struct file *file = file_of(rq);
    uint64_t bits;

    if (file->direct_fd < 0)
        return file->fd;
    bits = (uintptr_t)rq->data | rq->offset | progress->done | progress->piece;
    return (bits & (file->direct_align - 1)) == 0 ? file->direct_fd : file->fd;
}

static int fallocate_mode(enum step step)
{
    return FALLOC_FL_KEEP_SIZE |
           (step == STEP_PUNCH ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
}

/* The whole sectors inside the range; a part of a sector cannot be discarded. */
static int discard(const struct file *file, uint64_t offset, uint64_t length)
{
    uint64_t mask = file->sector - 1;
    uint64_t start = (offset + mask) & ~mask;
    uint64_t end = (offset + length) & ~mask;
    uint64_t range[2] = {start, end - start};

    if (start >= end)
        return 0;
    return ioctl(file->fd, BLKDISCARD, range);
}

/* Any thread. */
static ssize_t call_for(struct nbd_request *rq)
{
    const struct progress *progress = progress_of(rq);
    const struct file *file = file_of(rq);
    off_t at = (off_t)(rq->offset + progress->done);
    size_t length = progress->piece;

    switch ((enum step)progress->step) {
    case STEP_READ:
        return pread(descriptor_for(rq), (char *)rq->data + progress->done, length, at);
    case STEP_WRITE:
        return pwrite(descriptor_for(rq), (char *)rq->data + progress->done, length, at);
    case STEP_WRITE_ZEROES:
        return pwrite(file->fd, zeroes, length, at);
    case STEP_PUNCH:
    case STEP_ZERO_RANGE:
        return fallocate(file->fd, fallocate_mode(progress->step), at, (off_t)length);
    case STEP_ADVISE:
        return posix_fadvise(file->fd, at, (off_t)length, POSIX_FADV_WILLNEED) & 0;
    case STEP_DISCARD:
        return discard(file, (uint64_t)at, length);
    }
    errno = ENOSYS;
    return -1;
}

/* ---- Workers ---- */

static void run_on_worker(struct nbd_request *rq);

/* Worker thread. */
static void perform(void *arg)
{
    struct nbd_request *rq = arg;
    ssize_t n = call_for(rq);

    progress_of(rq)->result = n < 0 ? -errno : (int32_t)n;
}

static void on_performed(void *arg)
{
    struct nbd_request *rq = arg;
    struct file *file = file_of(rq);
    struct nbd_request *next = queue_pop(&file->worker_waiting);

    file->workers_busy--;
    if (next != NULL)
        run_on_worker(next);
    engine.calls->step_ended(rq, progress_of(rq)->result);
    engine.calls->batch_ended();
}

static void run_on_worker(struct nbd_request *rq)
{
    struct file *file = file_of(rq);

    if (file->workers_busy >= engine.threads) {
        queue_push(&file->worker_waiting, rq);
        return;
    }
    file->workers_busy++;
    engine.host->run(perform, on_performed, rq);
}

/* Worker thread. */
static void perform_sync(void *arg)
{
    struct file *file = arg;

    file->sync_result = fdatasync(file->fd) < 0 ? -errno : 0;
}

static void on_sync_performed(void *arg)
{
    struct file *file = arg;

    engine.calls->sync_ended(file, file->sync_result);
    engine.calls->batch_ended();
}

/* ---- The ring ---- */

static void on_ring_ready(void *arg);

static bool ring_knows_operations(struct io_uring *ring)
{
    static const int needed[] = {IORING_OP_READ, IORING_OP_WRITE, IORING_OP_FSYNC,
                                 IORING_OP_FALLOCATE, IORING_OP_FADVISE};
    struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
    bool known = probe != NULL;

    for (size_t i = 0; known && i < G_N_ELEMENTS(needed); i++)
        known = io_uring_opcode_supported(probe, needed[i]);
    if (probe != NULL)
        io_uring_free_probe(probe);
    return known;
}

/* The ring belongs to the thread and the process that made it: not before the first request,
 * when the daemon has forked for the last time. No DEFER_TASKRUN: a descriptor that is polled
 * would miss completions. */
static bool open_ring(void)
{
    int r;

    if (g_strcmp0(getenv(NO_RING_VARIABLE), "1") == 0)
        return false;
    r = io_uring_queue_init(RING_ENTRIES, &engine.ring, IORING_SETUP_CLAMP);
    if (r < 0) {
        engine.host->log(NBD_LOG_INFO, "file: no io_uring (%s); requests run on threads",
                         g_strerror(-r));
        return false;
    }
    if (ring_knows_operations(&engine.ring))
        engine.watch = engine.host->watch(engine.ring.ring_fd, on_ring_ready, NULL);
    if (engine.watch == NULL) {
        engine.host->log(NBD_LOG_INFO, "file: this io_uring lacks operations that are needed; "
                         "requests run on threads");
        io_uring_queue_exit(&engine.ring);
        return false;
    }
    engine.limit = engine.ring.cq.ring_entries;
    return true;
}

static bool have_ring(void)
{
    if (engine.state == RING_UNTRIED)
        engine.state = open_ring() ? RING_READY : RING_ABSENT;
    return engine.state == RING_READY;
}

static void prepare(struct io_uring_sqe *sqe, struct nbd_request *rq)
{
    const struct progress *progress = progress_of(rq);
    const struct file *file = file_of(rq);
    uint64_t at = rq->offset + progress->done;
    unsigned length = (unsigned)progress->piece;

    switch ((enum step)progress->step) {
    case STEP_READ:
        io_uring_prep_read(sqe, descriptor_for(rq), (char *)rq->data + progress->done, length,
                           at);
        break;
    case STEP_WRITE:
        io_uring_prep_write(sqe, descriptor_for(rq), (char *)rq->data + progress->done, length,
                            at);
        break;
    case STEP_WRITE_ZEROES:
        io_uring_prep_write(sqe, file->fd, zeroes, length, at);
        break;
    case STEP_PUNCH:
    case STEP_ZERO_RANGE:
        io_uring_prep_fallocate(sqe, file->fd, fallocate_mode(progress->step), (off_t)at,
                                (off_t)progress->piece);
        break;
    case STEP_ADVISE:
        io_uring_prep_fadvise(sqe, file->fd, at, (off_t)length, POSIX_FADV_WILLNEED);
        break;
    case STEP_DISCARD:
        break; /* engine_start() sends it to a worker */
    }
    if (progress->off_loop)
        sqe->flags |= IOSQE_ASYNC;
}

static void on_retry(void *arg)
{
    (void)arg;
    engine.retry_posted = false;
    if (engine.state == RING_READY)
        on_ring_ready(NULL);
}

static void submit_ring(void)
{
    while (io_uring_sq_ready(&engine.ring) > 0)
        if (io_uring_submit(&engine.ring) <= 0)
            break;
    /* Out of memory for the moment: perhaps no completion will come to remind us. */
    if (io_uring_sq_ready(&engine.ring) > 0 && !engine.retry_posted) {
        engine.retry_posted = true;
        engine.host->post(on_retry, NULL);
    }
}

static struct io_uring_sqe *next_sqe(void)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&engine.ring);

    if (sqe == NULL) {
        submit_ring();
        sqe = io_uring_get_sqe(&engine.ring);
    }
    if (sqe != NULL)
        engine.in_flight++;
    return sqe;
}

static bool start_on_ring(struct nbd_request *rq)
{
    struct io_uring_sqe *sqe = engine.in_flight < engine.limit ? next_sqe() : NULL;

    if (sqe == NULL)
        return false;
    prepare(sqe, rq);
    sqe->user_data = (uint64_t)(uintptr_t)rq;
    return true;
}

static void start_waiting(void)
{
    while (engine.waiting.head != NULL) {
        struct nbd_request *rq = engine.waiting.head;

        if (!start_on_ring(rq))
            break;
        queue_pop(&engine.waiting);
    }
}

static void deliver(uint64_t user_data, int result)
{
    void *subject = (void *)(uintptr_t)(user_data & ~IS_SYNC);

    if (user_data & IS_SYNC)
        engine.calls->sync_ended(subject, result);
    else
        engine.calls->step_ended(subject, result);
}

static void on_ring_ready(void *arg)
{
    struct io_uring_cqe *cqe;

    (void)arg;
    for (int i = 0; i < COMPLETIONS_PER_WAKEUP; i++) {
        uint64_t user_data;
        int result;

        if (io_uring_peek_cqe(&engine.ring, &cqe) != 0)
            break;
        user_data = cqe->user_data;
        result = cqe->res;
        io_uring_cqe_seen(&engine.ring, cqe);
        engine.in_flight--;
        deliver(user_data, result);
    }
    start_waiting();
    engine.calls->batch_ended();
}

/* ---- For file_io.c ---- */

void engine_init(const struct nbd_config *config, const struct engine_calls *calls)
{
    engine.host = config->host;
    engine.calls = calls;
    engine.threads = MAX(config->threads, 1);
    engine.state = RING_UNTRIED;
}

void engine_fini(void)
{
    if (engine.state == RING_READY) {
        engine.host->unwatch(engine.watch);
        engine.watch = NULL;
        io_uring_queue_exit(&engine.ring);
    }
    engine.state = RING_UNTRIED;
}

void engine_start(struct nbd_request *rq)
{
    if (progress_of(rq)->step == STEP_DISCARD || !have_ring())
        run_on_worker(rq);
    else if (engine.waiting.head != NULL || !start_on_ring(rq))
        queue_push(&engine.waiting, rq);
}

void engine_sync(struct file *file)
{
    struct io_uring_sqe *sqe = have_ring() ? next_sqe() : NULL;

    if (sqe == NULL) {
        engine.host->run(perform_sync, on_sync_performed, file);
        return;
    }
    io_uring_prep_fsync(sqe, file->fd, IORING_FSYNC_DATASYNC);
    sqe->user_data = (uint64_t)(uintptr_t)file | IS_SYNC;
}

void engine_kick(void)
{
    if (engine.state == RING_READY)
        submit_ring();
}
