/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What the parts of the file handler share. Not for anybody else.
 *
 *   file.c         the handler's table; opening, closing, resizing
 *   file_extents.c where data is and where holes are
 *   file_path.c    which paths are allowed, and how they are opened
 *   file_create.c  making and removing files
 *   file_now.c     requests that the page cache can serve at once
 *   file_mapped.c  reads of what is hot, from mapped memory
 *   file_io.c      all other requests, step by step, and the group commit of flushes
 *   file_engine.c  where a step runs: io_uring or a worker thread
 */
#ifndef NBD_HANDLER_FILE_H
#define NBD_HANDLER_FILE_H

#include <stdatomic.h>
#include <stddef.h>
#include <sys/stat.h>

#include "nbd-runner/handler.h"
#include "request_queue.h"

/* Above this a transfer is left to other threads: copying it would hold up the loop. */
#define INLINE_MAX_BYTES (UINT64_C(4) << 20)

/* A backstore: dev->priv. */
struct file {
    struct nbd_device *dev; /* the daemon's */

    /* Set by cfg_parse(). */
    char *root;  /* the target lies below this directory; NULL: trusted, lies anywhere */
    char *path;  /* below root; trusted: as the administrator wrote it */
    char *shown; /* the path for people */
    bool direct; /* O_DIRECT for aligned requests */

    /* create(): written on the worker, but for canceled, which the loop writes. */
    atomic_bool canceled;
    _Atomic uint64_t bytes_done, bytes_total;

    /* Set by map(). */
    int fd;        /* through the page cache */
    int direct_fd; /* past it; -1 when not direct */
    bool is_block;
    bool in_memory;        /* tmpfs: reading never waits for storage */
    uint32_t direct_align; /* of offset, length and memory, for direct_fd */
    uint32_t sector;       /* unit of fallocate and discard: 1, or a device's logical block */

    /* Loop thread from here on. What the storage is believed to be able to do, until it
     * says otherwise. */
    bool can_read_nowait, can_write_nowait, can_write_inline;
    bool can_punch, can_zero_range, can_discard, can_cachestat, can_map;

    struct mapped *mapped; /* file_mapped.c; NULL until it is read often */
    unsigned reads;        /* until then */

    /* Inline writes stop while the storage is slow (file_now.c). Nanoseconds. */
    int64_t inline_again_at; /* 0: never been slow */
    int64_t calm_down;       /* length of the pause; 0: fast for long enough */

    /* Group commit (file_io.c). A generation is a count of finished changes. */
    uint64_t changes;        /* finished so far */
    uint64_t changes_synced; /* of these, so many are on stable storage */
    uint64_t changes_syncing;
    struct queue sync_waiting; /* for the next fdatasync */
    struct queue sync_served;  /* by the one that runs */
    bool sync_running, sync_due;
    struct file *next_due;
    int sync_result; /* of one that ran on a worker */
    int sync_error;  /* negative errno of the first that failed, else 0 */

    /* Steps that run on workers (file_engine.c). */
    unsigned workers_busy;
    struct queue worker_waiting;
};

enum step {
    STEP_READ,
    STEP_WRITE,
    STEP_WRITE_ZEROES,
    STEP_PUNCH,
    STEP_ZERO_RANGE,
    STEP_ADVISE,
    STEP_DISCARD, /* an ioctl: on a worker always */
};

/* Lies in nbd_request.scratch from submit() to done(). */
struct __attribute__((may_alias)) progress {
    struct nbd_request *next; /* request_queue.h's; stays the first */
    uint64_t done;            /* bytes of the request that are finished */
    uint64_t piece;           /* bytes of the step that runs */
    int32_t result;           /* of a step that ran on a worker */
    uint8_t step;             /* enum step */
    bool off_loop;            /* io_uring: not even try it on the submitting thread */
    uint16_t start_ms;        /* of a write, modulo 2^16 */
};

_Static_assert(sizeof(struct progress) <= sizeof(((struct nbd_request *)0)->scratch),
               "struct progress must fit into nbd_request.scratch");
_Static_assert(offsetof(struct progress, next) == 0, "request_queue.h chains by the first word");

static inline struct progress *progress_of(struct nbd_request *rq)
{
    return (struct progress *)rq->scratch;
}

static inline struct file *file_of(const struct nbd_request *rq)
{
    return rq->dev->priv;
}

/* Is this the answer of a file system or device that lacks an operation? */
static inline bool is_unsupported(int result)
{
    return result == -EOPNOTSUPP || result == -ENOSYS || result == -ENOTTY ||
           result == -ENODEV || result == -EINVAL;
}

/* ---- file_path.c: worker thread ---- */

/* Check the target; sets root, path and shown. */
int file_parse_target(struct file *file, const char *const *roots, const char *target,
                      struct nbd_failure *why);

/* Open the target; returns a descriptor. */
int file_open_target(struct file *file, int flags, struct nbd_failure *why);

/* Open the directory that holds the target; returns a descriptor. *ret_name points into
 * file->path. */
int file_open_parent(struct file *file, const char **ret_name, struct nbd_failure *why);

/* ---- file_create.c: worker thread ---- */

int file_create(struct nbd_device *dev, struct nbd_failure *why);
int file_delete(struct nbd_device *dev, struct nbd_failure *why);

/* ---- file_extents.c: worker thread ---- */

int file_extents(struct nbd_device *dev, uint64_t offset, uint64_t length, nbd_add_extent *add,
                 void *arg);

/* ---- file_now.c: loop thread ---- */

int file_try_now(struct nbd_request *rq);
int file_sendfile_fd(struct nbd_device *dev, uint64_t offset, uint64_t length);

/* Write through the page cache if that cannot take long: 0, a final negative errno, or
 * -EAGAIN. */
int file_write_now(struct nbd_request *rq);

/* Around a write that is made off the loop: as long as such writes are slow, none is tried on
 * the loop. */
void file_write_begins(struct nbd_request *rq);
void file_write_ended(struct nbd_request *rq);

/* ---- file_mapped.c: loop thread, but for the first and file_mapped_close() ---- */

/* Worker thread, when the file is opened: may its hot parts be mapped? */
bool file_may_be_mapped(const struct file *file, const struct stat *st);

/* As nbd_handler.mapped. */
const void *file_mapped(struct nbd_device *dev, uint64_t offset, uint64_t *length);

/* Serve a read from mapped memory, if that does not wait. False: it has to be served in
 * another way; rq->data may have been written to. */
bool file_read_mapped(struct nbd_request *rq);

/* The same for a write, to tmpfs only. False: it has to be made in another way, as a whole. */
bool file_write_mapped(struct nbd_request *rq);

/* Worker thread, when nobody reads any more: unmap all. */
void file_mapped_close(struct file *file);

/* After the last file. */
void file_mapped_fini(void);

/* ---- file_io.c: loop thread ---- */

void file_io_init(const struct nbd_config *config);
void file_io_fini(void);
void file_submit(struct nbd_request *rq);
void file_submit_batch(struct nbd_device *dev);

/* ---- file_engine.c: loop thread ---- */

/* How the engine reports, always on the loop. */
struct engine_calls {
    void (*step_ended)(struct nbd_request *rq, int result);
    void (*sync_ended)(struct file *file, int result);
    void (*batch_ended)(void); /* after the last of several of the two above */
};

void engine_init(const struct nbd_config *config, const struct engine_calls *calls);
void engine_fini(void);

/* Start the step that progress_of(rq) describes. Nothing moves until engine_kick(). */
void engine_start(struct nbd_request *rq);

/* Start an fdatasync. */
void engine_sync(struct file *file);

/* Hand over all that was started. */
void engine_kick(void);

#endif
