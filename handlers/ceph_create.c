/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Making and removing the image behind an export. The waiting is done on worker threads, the
 * work in jobs; cancel() and progress() look in from the loop through atomics.
 */
#include "ceph.h"

/* Written at a time when an image is allocated: a cancellation waits for so much. */
#define PIECE_BYTES (UINT64_C(32) << 20)

/* ---- Making ---- */

static int create_failed(struct job *job, int err)
{
    const char *shown = job->image->shown;

    switch (err) {
    case EEXIST:
        return nbd_fail(&job->why, EEXIST, "'%s' exists already", shown);
    case ECANCELED:
        return nbd_fail(&job->why, ECANCELED, "making '%s' was canceled", shown);
    case ENOSPC:
    case EDQUOT:
        return nbd_fail(&job->why, ENOSPC, "no space left for '%s': the cluster, or the quota "
                        "of its pool, is full", shown);
    case EPERM:
    case EACCES:
        return nbd_fail(&job->why, EACCES, "client.%s may not make images in pool '%s'",
                        job->image->user != NULL ? job->image->user : "admin",
                        job->image->pool);
    default:
        return nbd_fail(&job->why, err, "'%s' cannot be made: %s", shown, g_strerror(err));
    }
}

/* Hopeless requests must not fill the cluster for others before they fail. Without a manager
 * it does not know how much space it has. */
static bool can_fit(struct job *job)
{
    struct rados_cluster_stat_t stat;

    if (rados_cluster_stat(job->session->cluster->rados, &stat) < 0 || stat.kb == 0)
        return true;
    return job->size / 1024 <= stat.kb_avail;
}

static int allocate(struct job *job, rbd_image_t rbd)
{
    struct image *image = job->image;
    uint64_t length;

    for (uint64_t offset = 0; offset < job->size; offset += length) {
        ssize_t n;

        if (atomic_load(&image->canceled))
            return -ECANCELED;
        length = MIN(job->size - offset, PIECE_BYTES);
        n = rbd_write_zeroes(rbd, offset, length, RBD_WRITE_ZEROES_FLAG_THICK_PROVISION, 0);
        if (n < 0)
            return (int)n;
        atomic_store(&image->bytes_done, offset + length);
        job_alive(0, 0, job);
    }
    return atomic_load(&image->canceled) ? -ECANCELED : 0;
}

static int fill(struct job *job)
{
    rbd_image_t rbd;
    int r, closed;

    if (!can_fit(job))
        return -ENOSPC;
    r = rbd_open(job->session->pool, job->image->name, &rbd, NULL);
    if (r < 0)
        return r;
    r = allocate(job, rbd);
    closed = rbd_close(rbd);
    return r < 0 ? r : closed;
}

static int create_image(struct job *job)
{
    rbd_image_options_t options;
    gint order = g_bit_nth_lsf(job->image->object_bytes, -1);
    int r = 0;

    rbd_image_options_create(&options);
    if (order >= 0)
        r = rbd_image_options_set_uint64(options, RBD_IMAGE_OPTION_ORDER, (uint64_t)order);
    if (r == 0)
        r = rbd_create4(job->session->pool, job->image->name, job->size, options);
    rbd_image_options_destroy(options);
    return r;
}

static void remove_again(struct job *job)
{
    rbd_remove(job->session->pool, job->image->name);
}

static int create_work(struct job *job)
{
    int r = session_open_pool(job);

    if (r < 0)
        return r;
    if (atomic_load(&job->image->canceled))
        return create_failed(job, ECANCELED);
    r = create_image(job);
    if (r < 0)
        return create_failed(job, -r);
    if (job->prealloc)
        r = fill(job);
    if (r < 0) {
        remove_again(job);
        return create_failed(job, -r);
    }
    atomic_store(&job->image->bytes_done, job->size);
    return 0;
}

static int refuse_snapshot(const struct image *image, const char *doing,
                           struct nbd_failure *why)
{
    if (image->snap == NULL)
        return 0;
    return nbd_fail(why, EINVAL, "'%s' is a snapshot; %s those with the rbd tool, and images "
                    "here", image->shown, doing);
}

/* The connection stays for the open that comes next. */
static int run_and_keep(struct image *image, struct job *job, struct nbd_failure *why)
{
    int r;

    if (!job_run(job, &r, why))
        return r;
    if (r == 0) {
        cluster_unref(image->cluster);
        image->cluster = cluster_ref(job->session->cluster);
    }
    job_free(job);
    return r;
}

int ceph_create(struct nbd_device *dev, struct nbd_failure *why)
{
    struct image *image = dev->priv;
    struct job *job;
    int r = refuse_snapshot(image, "make", why);

    if (r < 0)
        return r;
    if (dev->size == 0 || dev->size > INT64_MAX)
        return nbd_fail(why, EINVAL, "'%s' cannot have %" PRIu64 " bytes", image->shown,
                        dev->size);
    atomic_store(&image->bytes_done, 0);
    atomic_store(&image->bytes_total, dev->size);
    job = job_new(image, create_work, "make");
    job->size = dev->size;
    job->prealloc = dev->prealloc;
    job->undo = remove_again;
    return run_and_keep(image, job, why);
}

/* ---- Removing ---- */

static int in_use(struct job *job)
{
    rbd_image_watcher_t watchers[16];
    size_t n = G_N_ELEMENTS(watchers);
    g_autofree char *who = NULL;
    rbd_image_t rbd;

    if (rbd_open_read_only(job->session->pool, job->image->name, &rbd, NULL) == 0) {
        if (rbd_watchers_list(rbd, watchers, &n) == 0) {
            who = n > 0 ? g_strdup(watchers[0].addr) : NULL;
            rbd_watchers_list_cleanup(watchers, n);
        }
        rbd_close(rbd);
    }
    return nbd_fail(&job->why, EBUSY, "'%s' is in use by %s; close it there (a client that "
                    "crashed counts for half a minute)", job->image->shown,
                    who != NULL ? who : "another client");
}

static int delete_work(struct job *job)
{
    const char *shown = job->image->shown;
    int r = session_open_pool(job);

    if (r < 0)
        return r;
    r = rbd_remove_with_progress(job->session->pool, job->image->name, job_alive, job);
    switch (-r) {
    case 0:
        return 0;
    case ENOENT:
        return nbd_fail(&job->why, ENOENT, "there is no image '%s'", shown);
    case ENOTEMPTY:
        return nbd_fail(&job->why, ENOTEMPTY, "'%s' has snapshots; remove them first, with "
                        "'rbd snap purge %s'", shown, shown);
    case EBUSY:
        return in_use(job);
    case EPERM:
    case EACCES:
        return nbd_fail(&job->why, EACCES, "client.%s may not remove '%s'",
                        job->image->user != NULL ? job->image->user : "admin", shown);
    default:
        return nbd_fail(&job->why, -r, "'%s' cannot be removed: %s", shown, g_strerror(-r));
    }
}

int ceph_delete(struct nbd_device *dev, struct nbd_failure *why)
{
    struct image *image = dev->priv;
    int r = refuse_snapshot(image, "remove", why);

    return r < 0 ? r : run_and_keep(image, job_new(image, delete_work, "remove"), why);
}
