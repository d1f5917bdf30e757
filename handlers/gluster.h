/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What the parts of the gluster handler share. Not for anybody else.
 *
 *   gluster.c         the handler's table; targets and options; opening, closing, resizing
 *   gluster_volume.c  connections to volumes (glfs_t), shared by all their files
 *   gluster_session.c an open file, and calls that must not hold up their caller
 *   gluster_create.c  making and removing files
 *   gluster_extents.c where data is and where holes are
 *   gluster_io.c      requests, step by step, and the group commit of flushes
 *   gluster_gather.c  answers that come to the loop together
 *   gluster_recover.c requests that wait while the bricks are away
 */
#ifndef NBD_HANDLER_GLUSTER_H
#define NBD_HANDLER_GLUSTER_H

#include <glib.h>
#include <glusterfs/api/glfs.h>
#include <stdatomic.h>
#include <stddef.h>

#include "nbd-runner/handler.h"
#include "request_queue.h"

/* How long map(), create() and delete() wait for a volume or a file to open. */
#define OPEN_LIMIT_S 20

/* With these, gluster's threads and ours are in each other's way all the time. */
#define FEW_PROCESSORS 2

/* ---- gluster_volume.c ---- */

struct volume;
struct disk;

void volumes_init(void);
void volumes_fini(void);

/* A thread for a call that may hang. */
bool thread_start(const char *name, GThreadFunc work, void *arg);

/* A connection to the disk's volume, made when there is none yet. It waits for that, but not
 * for longer than OPEN_LIMIT_S. Worker thread. */
int volume_get(const struct disk *disk, struct volume **ret_volume, struct nbd_failure *why);

/* Any thread. */
void volume_put(struct volume *volume);

/* It is no longer what its name means: the next volume_get() makes another. */
void volume_distrust(struct volume *volume);

/* A call did not come back in time, or has come back after all. While there are such calls,
 * volume_get() refuses. */
void volume_note_hang(struct volume *volume, int calls);

glfs_t *volume_fs(const struct volume *volume);
const char *volume_name(const struct volume *volume);

/* ---- gluster_session.c ---- */

/* An open file. Counted, as calls that gluster has not answered outlive the mapping. */
struct session {
    atomic_int refs;
    struct volume *volume; /* counted */
    char *path;
    int flags; /* O_RDWR or O_RDONLY */

    _Atomic(glfs_fd_t *) fd; /* replaced by the loop only */
    GSList *retired;         /* what fd was before; calls may still use them */

    /* A trial read, one at a time: TRIAL_*, or a negative errno. */
    atomic_int trial;
    char trial_byte;
    atomic_bool reopening;
    _Atomic(glfs_fd_t *) reopened; /* for the loop to take */
};

enum { TRIAL_NONE = 1, TRIAL_RUNS, TRIAL_PASSED };

/* Open the file and ask for its attributes; waits no longer than OPEN_LIMIT_S. It takes the
 * caller's reference to the volume, whatever comes of it. Worker thread. */
int session_open(struct volume *volume, const char *path, int flags,
                 struct session **ret_session, struct stat *ret_stat, struct nbd_failure *why);

/* Any thread; the last one closes the file. */
struct session *session_ref(struct session *session);
void session_unref(struct session *session);

/* Loop thread, do not block. See struct session for how they end. */
void session_try_reading(struct session *session);
void session_reopen(struct session *session);

/* Go on with the file as it was reopened, if it was. */
void session_take_reopened(struct session *session);

static inline glfs_fd_t *session_fd(struct session *session)
{
    return atomic_load(&session->fd);
}

/* ---- A backstore: dev->priv ---- */

struct disk {
    struct nbd_device *dev; /* the daemon's */

    /* Set by cfg_parse(). */
    char *host;        /* management host */
    char *volume_name;
    char *path;        /* in the volume, starts with a slash */
    char *shown;       /* VOLUME/FILEPATH, for people */
    char *log_file;    /* gluster's own; heeded by the first of a volume's disks */
    int log_level;     /* gluster's number */
    bool durable;        /* each write is on stable storage before it is answered */
    unsigned patience_s; /* how long requests wait for bricks that are away */

    /* create(): written on the worker, but for canceled, which the loop writes. */
    atomic_bool canceled;
    _Atomic uint64_t bytes_done, bytes_total;

    struct session *session; /* NULL: not mapped */
    bool can_seek;           /* worker */
    atomic_uint out;         /* requests that gluster has */

    /* Loop thread from here on. What the volume is believed to be able to do, until it says
     * otherwise. */
    bool can_discard, can_zerofill;

    /* Group commit (gluster_io.c). */
    struct queue sync_waiting; /* for the next fdatasync */
    struct queue sync_served;  /* by the one that runs */
    bool sync_running;
    int sync_result; /* written by gluster's thread when it ends */
    int sync_error;  /* negative errno of the first that failed for good, else 0 */

    /* gluster_recover.c */
    bool is_away;      /* the bricks do not answer: requests are held */
    struct queue held;
    int64_t next_trial_us; /* not before */
    int64_t trial_gap_us;
    bool settling; /* a trial has passed: requests go on at next_trial_us */
};

enum step {
    STEP_READ,
    STEP_WRITE,
    STEP_DISCARD,
    STEP_ZEROFILL,
    STEP_WRITE_ZEROES,
    STEP_SYNC, /* all else is done: the group commit is due */
};

/* Lies in nbd_request.scratch from submit() to done(). */
struct __attribute__((may_alias)) progress {
    struct nbd_request *next; /* request_queue.h's; stays the first */
    uint64_t done;            /* bytes of the request that are finished */
    uint32_t piece;           /* bytes of the step that runs */
    int32_t result;           /* of the step that ran: bytes, or a negative errno */
    uint32_t give_up_at_s;    /* when the request is no longer held; 0: was not held yet */
    uint8_t step;             /* enum step */
};

_Static_assert(sizeof(struct progress) <= sizeof(((struct nbd_request *)0)->scratch),
               "struct progress must fit into nbd_request.scratch");
_Static_assert(offsetof(struct progress, next) == 0, "request_queue.h chains by the first word");

static inline struct progress *progress_of(struct nbd_request *rq)
{
    return (struct progress *)rq->scratch;
}

static inline struct disk *disk_of(const struct nbd_request *rq)
{
    return rq->dev->priv;
}

/* errno after a gluster call that failed; some fail without one. */
static inline int gluster_errno(void)
{
    return errno != 0 ? errno : EIO;
}

/* Is this the answer of bricks that are away or were, or of a file that has to be opened
 * anew? */
bool is_connection_error(int err);

static inline bool is_unsupported(int err)
{
    return err == EOPNOTSUPP || err == ENOSYS || err == EINVAL;
}

/* ---- gluster_create.c: worker thread ---- */

int gluster_create(struct nbd_device *dev, struct nbd_failure *why);
int gluster_delete(struct nbd_device *dev, struct nbd_failure *why);

/* ---- gluster_extents.c: worker thread ---- */

int gluster_extents(struct nbd_device *dev, uint64_t offset, uint64_t length,
                    nbd_add_extent *add, void *arg);

/* ---- gluster_io.c: loop thread ---- */

void gluster_io_init(const struct nbd_config *config);
void gluster_submit(struct nbd_request *rq);

/* Run the step where the request stopped once more. */
void gluster_resume(struct nbd_request *rq);

/* ---- gluster_gather.c ---- */

/* Loop thread. */
void gather_init(const struct nbd_config *config);
void gather_start(void);
void gather_fini(void);

/* Any thread. End a request, with success, soon; `out` others of its disk are with gluster. */
void gather_end(struct nbd_request *rq, unsigned out);

/* ---- gluster_recover.c: loop thread ---- */

void recover_init(const struct nbd_config *config);
void recover_fini(void);

/* Keep a request until the bricks are back or its time is over. */
void recover_hold(struct nbd_request *rq, int err);

/* The disk is being closed. Worker thread. */
void recover_forget(struct disk *disk);

#endif
