/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Opening and closing images. Who writes an image with the feature exclusive-lock takes the
 * lock and keeps it, and takes it from nobody who is alive. Runs in jobs; on_update() on a
 * thread of librbd that may block.
 */
#include <string.h>

#include "ceph.h"

static const struct nbd_host *host;

void open_init(const struct nbd_config *config)
{
    host = config->host;
}

void session_lost(struct session *session, struct nbd_device *dev)
{
    g_autofree char *reason = NULL;

    atomic_store(&session->cluster->lost, true);
    if (atomic_exchange(&session->lost, true))
        return;
    reason = g_strdup_printf("the cluster has blocklisted this client, '%s' is lost",
                             session->image->shown);
    if (nbd_host_has(host, fenced))
        host->fenced(dev, reason);
    else
        host->log(NBD_LOG_ERROR, "ceph: %s, and every request fails until the export is opened "
                  "again", reason);
}

/* ---- Sessions ---- */

static void session_close(void *data)
{
    struct session *session = data;

    if (session->has_watch)
        rbd_update_unwatch(session->rbd, session->watch);
    if (session->rbd != NULL)
        rbd_close(session->rbd);
    if (session->pool != NULL)
        rados_ioctx_destroy(session->pool);
    cluster_unref(session->cluster);
    image_unref(session->image);
    g_free(session->lock_owner);
}

struct session *session_ref(struct session *session)
{
    return g_atomic_rc_box_acquire(session);
}

void session_unref(struct session *session)
{
    g_atomic_rc_box_release_full(session, session_close);
}

/* ---- The pool ---- */

static int check_namespace(struct job *job)
{
    const struct image *image = job->image;
    bool exists = true;
    int r;

    if (image->space == NULL)
        return 0;
    r = rbd_namespace_exists(job->session->pool, image->space, &exists);
    if (r < 0)
        return nbd_fail(&job->why, -r, "the namespaces of pool '%s' cannot be read: %s",
                        image->pool, g_strerror(-r));
    if (!exists)
        return nbd_fail(&job->why, ENOENT, "pool '%s' has no namespace '%s'", image->pool,
                        image->space);
    rados_ioctx_set_namespace(job->session->pool, image->space);
    return 0;
}

int session_open_pool(struct job *job)
{
    struct session *session = g_atomic_rc_box_new0(struct session);
    const struct image *image = job->image;
    int r;

    job->session = session;
    session->image = image_ref(job->image);
    session->readonly = job->readonly;
    r = cluster_get(image, &session->cluster, &job->why);
    if (r < 0)
        return r;
    r = rados_ioctx_create(session->cluster->rados, image->pool, &session->pool);
    if (r == -ENOENT)
        return nbd_fail(&job->why, ENOENT, "the cluster has no pool '%s'", image->pool);
    if (r < 0)
        return nbd_fail(&job->why, -r, "pool '%s' cannot be opened: %s", image->pool,
                        g_strerror(-r));
    return check_namespace(job);
}

/* ---- The image ---- */

static int open_missing(struct job *job)
{
    const struct image *image = job->image;
    rbd_image_t rbd;

    if (image->snap != NULL &&
        rbd_open_read_only(job->session->pool, image->name, &rbd, NULL) == 0) {
        rbd_close(rbd);
        return nbd_fail(&job->why, ENOENT, "image '%s' has no snapshot '%s'", image->name,
                        image->snap);
    }
    return nbd_fail(&job->why, ENOENT, "there is no image '%s' in %s '%s'", image->name,
                    image->space != NULL ? "namespace" : "pool",
                    image->space != NULL ? image->space : image->pool);
}

static int open_image(struct job *job)
{
    struct session *session = job->session;
    const struct image *image = job->image;
    rbd_image_t rbd = NULL;
    int r = session->readonly
                ? rbd_open_read_only(session->pool, image->name, &rbd, image->snap)
                : rbd_open(session->pool, image->name, &rbd, NULL);

    switch (-r) {
    case 0:
        session->rbd = rbd;
        return 0;
    case ENOENT:
        return open_missing(job);
    case EPERM:
    case EACCES:
        return nbd_fail(&job->why, EACCES, "client.%s may not open '%s'%s",
                        image->user != NULL ? image->user : "admin", image->shown,
                        session->readonly ? "" : " for writing");
    case ENOSYS:
        return nbd_fail(&job->why, ENOTSUP, "'%s' has features that this version of librbd "
                        "does not know", image->shown);
    default:
        return nbd_fail(&job->why, -r, "'%s' cannot be opened: %s", image->shown,
                        g_strerror(-r));
    }
}

static int learn_image(struct job *job)
{
    struct session *session = job->session;
    uint64_t count = 1, overlap = 0;
    rbd_image_info_t info;
    int r = rbd_stat(session->rbd, &info, sizeof(info));

    if (r == 0)
        r = rbd_get_features(session->rbd, &session->features);
    if (r == 0)
        r = rbd_get_stripe_unit(session->rbd, &session->stripe_bytes);
    if (r == 0)
        r = rbd_get_stripe_count(session->rbd, &count);
    if (r == 0)
        r = rbd_get_overlap(session->rbd, &overlap);
    if (r < 0)
        return nbd_fail(&job->why, -r, "'%s' cannot be examined: %s", job->image->shown,
                        g_strerror(-r));
    atomic_store(&session->size, info.size);
    session->object_bytes = info.obj_size;
    session->is_striped = count > 1 || session->stripe_bytes != info.obj_size;
    session->is_clone = overlap > 0;
    return 0;
}

/* ---- Its lock ---- */

/* Who has the lock; NULL: nobody. */
static int find_owner(struct session *session, char **ret_owner)
{
    rbd_lock_mode_t mode;
    char *owners[4];
    size_t n = G_N_ELEMENTS(owners);
    int r = rbd_lock_get_owners(session->rbd, &mode, owners, &n);

    *ret_owner = NULL;
    if (r == -ENOENT || (r == 0 && n == 0))
        return 0;
    if (r < 0)
        return r;
    *ret_owner = g_strdup(owners[0]);
    rbd_lock_get_owners_cleanup(owners, n);
    return 0;
}

/* Does somebody with this address watch the image? In doubt yes. */
static bool is_alive(struct session *session, const char *owner)
{
    rbd_image_watcher_t watchers[64];
    size_t n = G_N_ELEMENTS(watchers);
    bool found = false;

    if (rbd_watchers_list(session->rbd, watchers, &n) < 0)
        return true;
    for (size_t i = 0; i < n; i++)
        found |= g_strcmp0(watchers[i].addr, owner) == 0;
    rbd_watchers_list_cleanup(watchers, n);
    return found;
}

/* A lock in the way: one of a daemon before us for the same export is broken, which also shuts
 * that daemon out, should it still run. One of somebody dead is left to librbd. */
static int clear_way(struct job *job, const char *owner)
{
    struct session *session = job->session;
    int r;

    if (g_strcmp0(owner, job->lock_owner) == 0) {
        r = rbd_lock_break(session->rbd, RBD_LOCK_MODE_EXCLUSIVE, owner);
        if (r == 0 || r == -ENOENT)
            return 0;
        return nbd_fail(&job->why, -r, "the lock that this export left on '%s' (%s) cannot be "
                        "broken: %s", job->image->shown, owner, g_strerror(-r));
    }
    if (!is_alive(session, owner))
        return 0;
    return nbd_fail(&job->why, EBUSY, "'%s' is locked by %s, which has it open for writing; "
                    "close it there (after a crash the lock ends by itself in half a minute)",
                    job->image->shown, owner);
}

static int take_lock(struct job *job)
{
    struct session *session = job->session;
    g_autofree char *owner = NULL;
    int r;

    if (session->readonly || !(session->features & RBD_FEATURE_EXCLUSIVE_LOCK))
        return 0;
    r = find_owner(session, &owner);
    if (r == 0 && owner != NULL) {
        r = clear_way(job, owner);
        if (r < 0)
            return r;
    }
    if (r == 0)
        r = rbd_lock_acquire(session->rbd, RBD_LOCK_MODE_EXCLUSIVE);
    if (r == -EROFS || r == -EBUSY)
        return nbd_fail(&job->why, EBUSY, "'%s' is locked by another client, which has it "
                        "open for writing; close it there", job->image->shown);
    if (r < 0)
        return nbd_fail(&job->why, -r, "the lock of '%s' cannot be taken: %s",
                        job->image->shown, g_strerror(-r));
    find_owner(session, &session->lock_owner); /* to be remembered, if it can be */
    return 0;
}

/* ---- Changes of size by others ---- */

static void on_update(void *arg)
{
    struct session *session = arg;
    uint64_t before = atomic_load(&session->size), size;

    if (rbd_get_size(session->rbd, &size) < 0 || size == before)
        return;
    atomic_store(&session->size, size);
    if (!atomic_load(&session->resizing))
        host->log(NBD_LOG_WARNING, "ceph: '%s' was resized by somebody else, from %" PRIu64
                  " to %" PRIu64 " bytes; %s", session->image->shown, before, size,
                  size > before ? "clients see it when the export is opened again"
                                : "requests for what is gone fail");
}

static void watch_size(struct session *session)
{
    session->has_watch =
        rbd_update_watch(session->rbd, &session->watch, on_update, session) == 0;
}

static int open_once(struct job *job)
{
    int r = session_open_pool(job);

    if (r == 0)
        r = open_image(job);
    if (r == 0)
        r = learn_image(job);
    if (r == 0)
        r = take_lock(job);
    if (r == 0)
        watch_size(job->session);
    return r;
}

int session_open(struct job *job)
{
    int r = open_once(job);

    /* The connection was blocklisted while nobody looked: a new one is not. */
    if (r == BLOCKLISTED && job->session->cluster != NULL) {
        atomic_store(&job->session->cluster->lost, true);
        g_clear_pointer(&job->session, session_unref);
        r = open_once(job);
    }
    return r;
}
