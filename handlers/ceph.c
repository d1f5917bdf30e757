/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The ceph handler: an RBD image, or a snapshot of one, as a backstore. Here are the handler's
 * table and what concerns the open image as a whole; ceph.h says where the rest is. The
 * control callbacks run on worker threads, and wait there for jobs.
 */
#include <json.h>
#include <stdlib.h> /* on_exit */
#include <unistd.h>

#include "ceph.h"

#define CAPS_READONLY NBD_CAP_MULTI_CONN
#define CAPS_WRITABLE \
    (CAPS_READONLY | NBD_CAP_FLUSH | NBD_CAP_TRIM | NBD_CAP_WRITE_ZEROES | NBD_CAP_FAST_ZERO)
#define PREF_BLOCK_MAX (UINT64_C(4) << 20)
#define KEY_LOCK_OWNER "lock_owner"

static const struct nbd_host *host;

/* ---- Parsing, and what is remembered ---- */

static void destroy(struct nbd_device *dev)
{
    struct image *image = dev->priv;

    if (image == NULL)
        return;
    g_clear_pointer(&image->cluster, cluster_unref);
    image_unref(image);
    dev->priv = NULL;
}

static int cfg_parse(struct nbd_device *dev, const char *cfgstring, struct nbd_failure *why)
{
    struct nbd_failure failure = {0};

    dev->priv = image_new(dev, cfgstring, &failure);
    if (dev->priv != NULL)
        return 0;
    if (why != NULL)
        *why = failure;
    return -failure.code;
}

/* By its name in the lock a daemon that was killed is known to the next one. */
static bool load_json(struct nbd_device *dev, struct json_object *data)
{
    struct image *image = dev->priv;
    struct json_object *value;

    if (!json_object_object_get_ex(data, KEY_LOCK_OWNER, &value))
        return true;
    if (!json_object_is_type(value, json_type_string))
        return false;
    g_free(image->lock_owner);
    image->lock_owner = g_strdup(json_object_get_string(value));
    return true;
}

static bool update_json(struct nbd_device *dev, struct json_object *data)
{
    const struct image *image = dev->priv;

    return image->lock_owner != NULL &&
           json_object_object_add(data, KEY_LOCK_OWNER,
                                  json_object_new_string(image->lock_owner)) == 0;
}

/* ---- Mapping ---- */

static void describe(struct nbd_device *dev, const struct session *session)
{
    uint64_t unit = MIN(session->object_bytes, session->stripe_bytes);

    dev->caps = dev->readonly ? CAPS_READONLY : CAPS_WRITABLE;
    dev->min_block = 1;
    dev->pref_block = 4096;
    if (unit > 4096 && (unit & (unit - 1)) == 0)
        dev->pref_block = (uint32_t)MIN(unit, PREF_BLOCK_MAX);
}

static void take_session(struct image *image, struct job *job)
{
    struct session *session = g_steal_pointer(&job->session);

    image->session = session;
    cluster_unref(image->cluster);
    image->cluster = cluster_ref(session->cluster);
    g_free(image->lock_owner);
    image->lock_owner = g_strdup(session->lock_owner);
}

static int map(struct nbd_device *dev, struct nbd_failure *why)
{
    struct image *image = dev->priv;
    struct job *job;
    int r;

    if (image->snap != NULL && !dev->readonly)
        return nbd_fail(why, EROFS, "'%s' is a snapshot, which cannot be written; export it "
                        "read-only", image->shown);
    job = job_new(image, session_open, "open");
    job->readonly = dev->readonly;
    job->lock_owner = g_strdup(image->lock_owner);
    if (!job_run(job, &r, why))
        return r;
    if (r == 0) {
        take_session(image, job);
        describe(dev, image->session);
    }
    job_free(job);
    return r;
}

static int close_work(struct job *job)
{
    g_clear_pointer(&job->session, session_unref);
    return 0;
}

static void unmap(struct nbd_device *dev)
{
    struct image *image = dev->priv;
    struct job *job = job_new(image, close_work, "close");
    int r;

    silence_forget(image->session);
    job->session = g_steal_pointer(&image->session);
    if (job_run(job, &r, NULL))
        job_free(job);
    else
        host->log(NBD_LOG_WARNING, "ceph: closing '%s' takes more than %d seconds, since the "
                  "cluster does not answer; it goes on in the background", image->shown,
                  LIMIT_SECONDS);
}

/* ---- The open image ---- */

static int64_t get_size(struct nbd_device *dev)
{
    const struct image *image = dev->priv;

    return (int64_t)atomic_load(&image->session->size);
}

static int64_t get_blksize(struct nbd_device *dev)
{
    (void)dev;
    return 0;
}

static int resize_work(struct job *job)
{
    struct session *session = job->session;
    int r;

    atomic_store(&session->resizing, true);
    r = rbd_resize2(session->rbd, job->size, true, job_alive, job);
    if (r == 0)
        atomic_store(&session->size, job->size);
    atomic_store(&session->resizing, false);
    if (r < 0)
        return nbd_fail(&job->why, -r, "the size of '%s' cannot be changed to %" PRIu64 ": %s",
                        job->image->shown, job->size, g_strerror(-r));
    return 0;
}

static int resize(struct nbd_device *dev, struct nbd_failure *why)
{
    struct image *image = dev->priv;
    struct job *job;
    int r;

    if (dev->readonly)
        return nbd_fail(why, EROFS, "'%s' is open read-only", image->shown);
    if (dev->size == 0 || dev->size > INT64_MAX)
        return nbd_fail(why, EINVAL, "'%s' cannot have %" PRIu64 " bytes", image->shown,
                        dev->size);
    job = job_new(image, resize_work, "resize");
    job->session = session_ref(image->session);
    job->size = dev->size;
    if (job_run(job, &r, why))
        job_free(job);
    return r;
}

/* ---- The handler ---- */

/* Loop thread, as progress(). */
static void cancel(struct nbd_device *dev)
{
    struct image *image = dev->priv;

    atomic_store(&image->canceled, true);
}

static void progress(struct nbd_device *dev, uint64_t *done, uint64_t *total)
{
    struct image *image = dev->priv;

    *done = atomic_load(&image->bytes_done);
    *total = atomic_load(&image->bytes_total);
}

static void exit_now(int status, void *arg)
{
    (void)arg;
    fflush(NULL);
    _exit(status);
}

/* Every device is gone, and with them the connections, except those of jobs that hang. Their
 * threads would run on in libraries that are taken down under them: end before that. */
static void fini(void)
{
    silence_fini();
    if (job_abandoned_count() == 0)
        return;
    host->log(NBD_LOG_WARNING, "ceph: %u calls to a cluster that does not answer are left "
              "behind", job_abandoned_count());
    on_exit(exit_now, NULL);
}

static struct nbd_handler handler = {
    .name = "ceph",
    .subtype = 1,
    .cfg_parse = cfg_parse,
    .create = ceph_create,
    .delete = ceph_delete,
    .map = map,
    .unmap = unmap,
    .get_size = get_size,
    .get_blksize = get_blksize,
    .load_json = load_json,
    .update_json = update_json,
    .submit = ceph_submit,
    .extents = ceph_extents,
    .resize = resize,
    .cancel = cancel,
    .progress = progress,
    .destroy = destroy,
    .fini = fini,
};

__attribute__((visibility("default")))
struct nbd_handler *handler_init(const struct nbd_config *config)
{
    host = config->host;
    open_init(config);
    silence_init(config);
    return &handler;
}
