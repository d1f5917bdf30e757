/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Connections to clusters. One costs a dozen threads, so all images of the same user share
 * it; it ends with the last of them. Runs in jobs and on worker threads; the table is under
 * a lock that is never held while the network is waited for.
 */
#include "ceph.h"

/* Shorter than the daemon and its clients wait for an open, so that they learn why. */
#define CONNECT_SECONDS "8"

static GMutex table_lock;
static GPtrArray *table; /* struct cluster; NULL when there is none */

static const char *user_of(const struct cluster *cluster)
{
    return cluster->user != NULL ? cluster->user : "admin";
}

static const char *conf_of(const struct cluster *cluster)
{
    const char *from_environment = g_getenv("CEPH_CONF");

    if (cluster->conf != NULL)
        return cluster->conf;
    return from_environment != NULL ? from_environment : "/etc/ceph/ceph.conf";
}

/* ---- Connecting ---- */

static int set_options(rados_t rados, const struct cluster *cluster)
{
    char timeout[16];
    const char *const options[][2] = {
        {"client_mount_timeout", CONNECT_SECONDS},
        {"rados_mon_op_timeout", CONNECT_SECONDS},
        {"rados_osd_op_timeout", timeout},
        /* A cache here would lose acknowledged writes with this process, behind the back of
         * clients that survive it, and after a request that timed out. */
        {"rbd_cache", "false"},
        /* The daemon bounds what is in flight. Librados' own bound would let the images of
         * one pool that is stuck hold up all others. */
        {"objecter_inflight_ops", "65536"},
        {"objecter_inflight_op_bytes", "4294967296"},
        /* What fails is reported with a sentence of ours. */
        {"log_to_stderr", "false"},
        {"err_to_stderr", "false"},
    };

    snprintf(timeout, sizeof(timeout), "%u", cluster->request_timeout_s);
    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        int r = rados_conf_set(rados, options[i][0], options[i][1]);

        if (r < 0 && r != -ENOENT) /* other versions have other options */
            return r;
    }
    return 0;
}

/* Before the configuration is read, which may tell otherwise. With a processor or two, threads
 * that hand requests to each other cost more than they bring: a fifth of a read. */
static void set_defaults(rados_t rados)
{
    if (g_get_num_processors() > 2)
        return;
    rados_conf_set(rados, "ms_async_op_threads", "1");
    rados_conf_set(rados, "librados_thread_count", "1");
}

static int configure(rados_t rados, const struct cluster *cluster, struct nbd_failure *why)
{
    int r;

    set_defaults(rados);
    r = rados_conf_read_file(rados, cluster->conf);
    if (r == -ENOENT && cluster->conf == NULL)
        return nbd_fail(why, ENOENT, "there is no '%s'; install it, or name another "
                        "configuration with conf=PATH", conf_of(cluster));
    if (r < 0)
        return nbd_fail(why, -r, "the configuration '%s' cannot be read: %s", conf_of(cluster),
                        r == -EINVAL ? "it does not have the form of a ceph.conf"
                                     : g_strerror(-r));
    r = set_options(rados, cluster);
    if (r == 0 && cluster->keyring != NULL)
        r = rados_conf_set(rados, "keyring", cluster->keyring);
    if (r < 0)
        return nbd_fail(why, -r, "librados does not take its options: %s", g_strerror(-r));
    return 0;
}

static int connect_failed(const struct cluster *cluster, int err, struct nbd_failure *why)
{
    const char *user = user_of(cluster);

    switch (err) {
    case ENOENT:
        return nbd_fail(why, EACCES, "there is no key for client.%s%s%s; name its file with "
                        "keyring=PATH", user, cluster->keyring != NULL ? " in " : "",
                        cluster->keyring != NULL ? cluster->keyring : "");
    case EACCES:
    case EPERM:
    case EOPNOTSUPP:
        return nbd_fail(why, EACCES, "the cluster does not let client.%s in: unknown user, "
                        "wrong key, or a keyring that cannot be read", user);
    case ETIMEDOUT:
        return nbd_fail(why, ETIMEDOUT, "no monitor of the cluster answered in "
                        CONNECT_SECONDS " seconds; check mon_host in its ceph.conf, and the "
                        "monitors");
    default:
        return nbd_fail(why, err, "the cluster cannot be connected as client.%s: %s", user,
                        g_strerror(err));
    }
}

/* With cluster->lock held. */
static int connect_anew(struct cluster *cluster, struct nbd_failure *why)
{
    rados_t rados;
    int r = rados_create(&rados, user_of(cluster));

    if (r < 0)
        return nbd_fail(why, -r, "librados cannot be started: %s", g_strerror(-r));
    r = configure(rados, cluster, why);
    if (r == 0) {
        r = rados_connect(rados);
        if (r < 0)
            r = connect_failed(cluster, -r, why);
    }
    if (r < 0)
        rados_shutdown(rados);
    else
        cluster->rados = rados;
    return r;
}

/* ---- The table ---- */

static bool fits(const struct cluster *cluster, const struct image *image)
{
    return !atomic_load(&cluster->lost) &&
           cluster->request_timeout_s == image->request_timeout_s &&
           g_strcmp0(cluster->conf, image->conf) == 0 &&
           g_strcmp0(cluster->keyring, image->keyring) == 0 &&
           g_strcmp0(cluster->user, image->user) == 0;
}

static struct cluster *cluster_new(const struct image *image)
{
    struct cluster *cluster = g_new0(struct cluster, 1);

    cluster->conf = g_strdup(image->conf);
    cluster->user = g_strdup(image->user);
    cluster->keyring = g_strdup(image->keyring);
    cluster->request_timeout_s = image->request_timeout_s;
    g_mutex_init(&cluster->lock);
    return cluster;
}

static void cluster_free(struct cluster *cluster)
{
    if (cluster->rados != NULL)
        rados_shutdown(cluster->rados);
    g_mutex_clear(&cluster->lock);
    g_free(cluster->conf);
    g_free(cluster->user);
    g_free(cluster->keyring);
    g_free(cluster);
}

static struct cluster *find(const struct image *image)
{
    struct cluster *cluster;

    if (table == NULL)
        table = g_ptr_array_new();
    for (unsigned i = 0; i < table->len; i++) {
        cluster = g_ptr_array_index(table, i);
        if (fits(cluster, image))
            return cluster;
    }
    cluster = cluster_new(image);
    g_ptr_array_add(table, cluster);
    return cluster;
}

/* Who waits for somebody's attempt takes what comes of it: one after the other, they would all
 * wait for a monitor that does not answer. */
static int connect_cluster(struct cluster *cluster, struct nbd_failure *why)
{
    unsigned failures = atomic_load(&cluster->failures);
    int r = 0;

    g_mutex_lock(&cluster->lock);
    if (cluster->rados == NULL && atomic_load(&cluster->failures) == failures) {
        r = connect_anew(cluster, &cluster->why);
        if (r < 0)
            atomic_fetch_add(&cluster->failures, 1);
    } else if (cluster->rados == NULL) {
        r = -cluster->why.code;
    }
    if (r < 0)
        *why = cluster->why;
    g_mutex_unlock(&cluster->lock);
    return r;
}

int cluster_get(const struct image *image, struct cluster **ret_cluster,
                struct nbd_failure *why)
{
    struct cluster *cluster;
    int r;

    g_mutex_lock(&table_lock);
    cluster = find(image);
    cluster->refs++;
    g_mutex_unlock(&table_lock);

    r = connect_cluster(cluster, why);
    if (r < 0)
        cluster_unref(cluster);
    else
        *ret_cluster = cluster;
    return r;
}

struct cluster *cluster_ref(struct cluster *cluster)
{
    g_mutex_lock(&table_lock);
    cluster->refs++;
    g_mutex_unlock(&table_lock);
    return cluster;
}

void cluster_unref(struct cluster *cluster)
{
    bool is_last;

    if (cluster == NULL)
        return;
    g_mutex_lock(&table_lock);
    is_last = --cluster->refs == 0;
    if (is_last)
        g_ptr_array_remove_fast(table, cluster);
    if (is_last && table->len == 0)
        g_clear_pointer(&table, g_ptr_array_unref);
    g_mutex_unlock(&table_lock);
    if (is_last)
        cluster_free(cluster);
}
