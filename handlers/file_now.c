/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The requests that the page cache serves at once, without a queue or another thread: the
 * fast path of the file handler. Everything that might wait is answered -EAGAIN and left to
 * file_io.c. Runs on the loop.
 */
#include <fcntl.h>
#include <glib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "file.h"

#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif

/* A buffered write that takes longer than this was throttled, or waited for a journal. Off
 * the loop it may also have waited for its turn; the kernel throttles by 10 ms at least. */
#define SLOW_WRITE_NS INT64_C(3000000)
#define SLOW_WRITE_OFF_LOOP_MS 10
#define CALM_DOWN_MIN_NS INT64_C(500000000)
#define CALM_DOWN_MAX_NS INT64_C(8000000000)

/* Pages that are being read ahead count as cached: look at one in so many bytes. */
#define PROBE_BYTES (UINT64_C(128) << 10)

/* ---- Reading ---- */

static int read_now(struct nbd_request *rq)
{
    struct file *file = file_of(rq);
    struct iovec iov = {.iov_base = rq->data, .iov_len = rq->length};
    ssize_t n;

    if (file->direct_fd >= 0 || rq->length > INLINE_MAX_BYTES)
        return -EAGAIN;
    if (file_read_mapped(rq))
        return 0;
    if (file->in_memory)
        n = pread(file->fd, rq->data, rq->length, (off_t)rq->offset);
    else if (file->can_read_nowait)
        n = preadv2(file->fd, &iov, 1, (off_t)rq->offset, RWF_NOWAIT);
    else
        return -EAGAIN;
    if (n >= 0)
        return (uint64_t)n == rq->length ? 0 : -EAGAIN;
    if (errno == EOPNOTSUPP)
        file->can_read_nowait = false;
    return errno == EOPNOTSUPP || errno == EINTR || errno == EFAULT ? -EAGAIN : -errno;
}

/* ---- Writing ---- */

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* After a slow write the loop keeps away from this storage for a while, and for as long as the
 * writes made meanwhile are slow; for longer each time, until it has been fast for as long as
 * it was left alone. */
static void note_write_time(struct file *file, int64_t start, int64_t end)
{
    if (end - start > SLOW_WRITE_NS) {
        file->calm_down = file->calm_down == 0
                              ? CALM_DOWN_MIN_NS
                              : MIN(2 * file->calm_down, CALM_DOWN_MAX_NS);
        file->inline_again_at = end + file->calm_down;
    } else if (file->calm_down != 0 && end > file->inline_again_at + file->calm_down) {
        file->calm_down = 0;
    }
}

static uint16_t ms_of(int64_t ns)
{
    return (uint16_t)(ns / 1000000);
}

void file_write_begins(struct nbd_request *rq)
{
    progress_of(rq)->start_ms = ms_of(now_ns());
}

void file_write_ended(struct nbd_request *rq)
{
    struct file *file = file_of(rq);
    int64_t now;

    if (file->calm_down == 0)
        return;
    now = now_ns();
    if ((uint16_t)(ms_of(now) - progress_of(rq)->start_ms) >= SLOW_WRITE_OFF_LOOP_MS)
        file->inline_again_at = now + file->calm_down;
}

static ssize_t write_timed(struct file *file, const struct nbd_request *rq)
{
    int64_t start = now_ns();
    ssize_t n;
    int err;

    if (start < file->inline_again_at) {
        errno = EAGAIN;
        return -1;
    }
    n = pwrite(file->fd, rq->data, rq->length, (off_t)rq->offset);
    err = errno;
    note_write_time(file, start, now_ns());
    errno = err;
    return n;
}

static ssize_t write_inline(struct file *file, const struct nbd_request *rq)
{
    struct iovec iov = {.iov_base = rq->data, .iov_len = rq->length};
    ssize_t n;

    if (file->can_write_nowait) {
        n = pwritev2(file->fd, &iov, 1, (off_t)rq->offset, RWF_NOWAIT);
        if (n >= 0 || errno != EOPNOTSUPP)
            return n;
        file->can_write_nowait = false;
    }
    if (file->can_write_inline)
        return write_timed(file, rq);
    errno = EAGAIN;
    return -1;
}

int file_write_now(struct nbd_request *rq)
{
    struct file *file = file_of(rq);
    ssize_t n;

    if (file->direct_fd >= 0 || rq->length > INLINE_MAX_BYTES)
        return -EAGAIN;
    if (file_write_mapped(rq))
        return 0;
    n = write_inline(file, rq);
    if (n < 0)
        return errno == EINTR || errno == EFAULT ? -EAGAIN : -errno;
    /* A part: done again as a whole, which gives the same bytes. */
    return (uint64_t)n == rq->length ? 0 : -EAGAIN;
}

static int write_now(struct nbd_request *rq)
{
    int r;

    if (rq->flags & NBD_RQ_FUA)
        return -EAGAIN;
    r = file_write_now(rq);
    if (r != -EAGAIN)
        file_of(rq)->changes++;
    return r;
}

int file_try_now(struct nbd_request *rq)
{
    const struct file *file = file_of(rq);

    switch (rq->op) {
    case NBD_OP_READ:
        return read_now(rq);
    case NBD_OP_WRITE:
        return write_now(rq);
    case NBD_OP_FLUSH:
        return file->sync_error == 0 && file->changes == file->changes_synced ? 0 : -EAGAIN;
    default:
        return -EAGAIN;
    }
}

/* ---- sendfile ---- */

/* cachestat(2), for C libraries that do not know it. */
struct cache_range {
    uint64_t offset, length;
};

struct cache_pages {
    uint64_t cached, dirty, writeback, evicted, recently_evicted;
};

static bool is_cached(struct file *file, uint64_t offset, uint64_t length)
{
    struct cache_range range = {offset, length};
    struct cache_pages pages;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

    if (!file->can_cachestat)
        return false;
    if (syscall(SYS_cachestat, file->fd, &range, &pages, 0) < 0) {
        file->can_cachestat = false;
        return false;
    }
    return pages.cached >= (offset + length - 1) / page - offset / page + 1;
}

static bool is_readable_now(const struct file *file, uint64_t offset, uint64_t length)
{
    uint64_t at = offset + length - 1;

    for (;;) {
        char byte;
        struct iovec iov = {.iov_base = &byte, .iov_len = 1};

        if (preadv2(file->fd, &iov, 1, (off_t)at, RWF_NOWAIT) != 1)
            return false;
        if (at - offset < PROBE_BYTES)
            return true;
        at -= PROBE_BYTES;
    }
}

static bool is_mapped(struct nbd_device *dev, uint64_t offset, uint64_t length)
{
    while (length > 0) {
        uint64_t part = length;

        if (file_mapped(dev, offset, &part) == NULL)
            return false;
        offset += part;
        length -= part;
    }
    return true;
}

int file_sendfile_fd(struct nbd_device *dev, uint64_t offset, uint64_t length)
{
    struct file *file = dev->priv;
    struct stat st;

    if (file->direct_fd >= 0 || file->is_block || length == 0)
        return -1;
    if (is_mapped(dev, offset, length))
        return file->fd;
    if (fstat(file->fd, &st) < 0 || offset + length > (uint64_t)st.st_size)
        return -1;
    if (file->in_memory)
        return file->fd;
    if (!is_cached(file, offset, length) || !is_readable_now(file, offset, length))
        return -1;
    return file->fd;
}
