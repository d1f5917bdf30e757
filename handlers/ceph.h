/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What the parts of the ceph handler share. Not for anybody else.
 *
 *   ceph.c         the handler's table; mapping, resizing
 *   ceph_target.c  what a target and its options say
 *   ceph_cluster.c connections to clusters, shared by all images of one user
 *   ceph_job.c     calls that may hang, with a time limit
 *   ceph_open.c    opening and closing an image, and its lock
 *   ceph_create.c  making and removing images
 *   ceph_io.c      requests
 *   ceph_silence.c requests that the cluster does not end
 *   ceph_extents.c where data is
 *
 * librbd blocks without end while too few OSDs are up, and nothing stops a call once it is
 * made. So every blocking call runs as a job on a thread of its own: the worker thread that
 * waits for it can give up, and what the job holds is freed when the cluster answers at last.
 * For that an image and a session are counted. The asynchronous calls for requests never
 * block; their completions come on threads of librbd.
 */
#ifndef NBD_HANDLER_CEPH_H
#define NBD_HANDLER_CEPH_H

#include <glib.h>
#include <inttypes.h>
#include <rados/librados.h>
#include <rbd/librbd.h>
#include <stdatomic.h>

#include "nbd-runner/handler.h"

#define LIMIT_SECONDS 20 /* of silence: then a job is given up */

#define SILENCE_SLOTS 4 /* see ceph_silence.c */

/* What librbd says to a client that the cluster has shut out. */
#define BLOCKLISTED (-ESHUTDOWN)

struct job;

/* A connection. Which one an image takes depends on all the strings. */
struct cluster {
    char *conf, *user, *keyring; /* NULL: the default */
    unsigned request_timeout_s;  /* 0: none */

    GMutex lock; /* held while it connects */
    rados_t rados; /* NULL: not connected */
    atomic_uint failures; /* to connect */
    struct nbd_failure why; /* of the last one; under the lock */
    atomic_bool lost; /* blocklisted: of no use to anybody any more */
    unsigned refs; /* under the table's lock */
};

/* A backstore: dev->priv. Counted: jobs keep it. */
struct image {
    /* Set by cfg_parse(), then fixed. */
    char *pool, *space, *name, *snap; /* space, snap: NULL when there is none */
    char *shown;                      /* the target, for people */
    char *conf, *user, *keyring;
    unsigned request_timeout_s;
    uint64_t object_bytes; /* of a new image; 0: the cluster's default */

    /* create(): written by its job, but for canceled, which the loop writes. */
    atomic_bool canceled;
    _Atomic uint64_t bytes_done, bytes_total;

    /* Of the device's control callbacks, one of which runs at a time. */
    struct cluster *cluster; /* kept for the next one; may be NULL */
    struct session *session; /* while mapped */
    char *lock_owner;        /* our name at the last lock of this image; may be NULL */
};

/* An open image. Counted: jobs keep it. */
struct session {
    struct image *image;     /* counted */
    struct cluster *cluster; /* counted */
    rados_ioctx_t pool;      /* NULL: not yet */
    rbd_image_t rbd;         /* NULL: not yet */

    bool readonly;
    bool has_watch;
    uint64_t watch;
    uint64_t features;
    uint64_t object_bytes;
    uint64_t stripe_bytes; /* contiguous bytes in one object */
    bool is_striped;
    bool is_clone;
    char *lock_owner; /* NULL: no lock */

    _Atomic uint64_t size; /* as librbd knows it by now */
    atomic_bool resizing;  /* by us */
    atomic_bool lost;      /* blocklisted: every request fails */
    atomic_uint extents_running;

    /* ceph_silence.c's own. */
    struct nbd_device *dev; /* while it is watched */
    bool is_watched, silent;
    atomic_uint slot;                     /* of requests that come now */
    atomic_uint in_flight[SILENCE_SLOTS]; /* requests, by the slot in which they came */
};

/* ---- ceph_target.c ---- */

/* A new image for the target and the options of dev, or NULL with *why filled. */
struct image *image_new(const struct nbd_device *dev, const char *target,
                        struct nbd_failure *why);
struct image *image_ref(struct image *image);
void image_unref(struct image *image);

/* ---- ceph_cluster.c: any thread that may block ---- */

/* The connection for the image: one that exists, or a new one. Counts it. */
int cluster_get(const struct image *image, struct cluster **ret_cluster,
                struct nbd_failure *why);
struct cluster *cluster_ref(struct cluster *cluster);
void cluster_unref(struct cluster *cluster); /* may be NULL */

/* ---- ceph_job.c ---- */

/* What a job does, on its own thread. Fills job->why when it fails. */
typedef int job_work(struct job *job);

struct job {
    /* For the work; set before it starts. */
    job_work *work;
    struct image *image; /* counted */
    const char *doing;   /* "open": completes "cannot ..." */
    unsigned limit_s;
    bool readonly, prealloc;
    uint64_t size;
    char *lock_owner;        /* image->lock_owner, which is not for this thread */
    uint64_t offset, length; /* extents */

    /* Its results. The caller takes what it wants and leaves NULL. */
    struct nbd_failure why;
    struct session *session; /* counted */
    GArray *extents;
    void (*undo)(struct job *job); /* may be NULL; when it succeeds after it was given up */

    /* ceph_job.c's own. */
    GMutex lock;
    GCond changed;
    _Atomic int64_t alive_us; /* monotonic time of the last progress */
    bool ended, abandoned;    /* under the lock */
    int result;
};

struct job *job_new(struct image *image, job_work *work, const char *doing);
void job_free(struct job *job);

/* Run it and wait. False: given up; the job is not the caller's any more, and *ret_result
 * with *why tell so. */
bool job_run(struct job *job, int *ret_result, struct nbd_failure *why);

/* The work goes on: the time limit starts anew. Usable as a progress callback of librbd. */
int job_alive(uint64_t done, uint64_t total, void *job);

/* Jobs that were given up and have not ended. */
unsigned job_abandoned_count(void);

/* ---- ceph_open.c ---- */

void open_init(const struct nbd_config *config);

/* In a job: connect, and open the pool; then the image as well. */
int session_open_pool(struct job *job);
int session_open(struct job *job);
struct session *session_ref(struct session *session);
void session_unref(struct session *session); /* the last one closes: in a job only */

/* The cluster has shut us out: neither session nor connection is of use. Any thread. */
void session_lost(struct session *session, struct nbd_device *dev);

/* ---- ceph_create.c: worker thread ---- */

int ceph_create(struct nbd_device *dev, struct nbd_failure *why);
int ceph_delete(struct nbd_device *dev, struct nbd_failure *why);

/* ---- ceph_io.c: loop thread ---- */

void ceph_submit(struct nbd_request *rq);

/* ---- ceph_silence.c ---- */

void silence_init(const struct nbd_config *config);
void silence_fini(void); /* loop thread */

/* A request is given to librbd: what to keep for its end. Loop thread. */
unsigned silence_begun(struct session *session, struct nbd_device *dev);

/* A part of it has ended, another begins. Any thread. */
unsigned silence_broken(struct session *session, unsigned slot);

/* It has ended; before done(). Any thread. */
void silence_ended(struct session *session, unsigned slot);

/* The session is about to be closed: no request is in flight. Worker thread. */
void silence_forget(struct session *session);

/* ---- ceph_extents.c: worker thread ---- */

int ceph_extents(struct nbd_device *dev, uint64_t offset, uint64_t length,
                 nbd_add_extent *add, void *arg);

#endif
