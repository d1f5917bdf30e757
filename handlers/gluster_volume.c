/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Connections to volumes. One is shared by all files of a volume: each has threads and some
 * megabytes of its own, is slow to make and very slow to end. glfs_init() and glfs_fini() run
 * on threads of their own, as either may hang for as long as a host is away. Any thread.
 */
#include <dlfcn.h>
#include <glib.h>
#include <signal.h>
#include <string.h>

#include "gluster.h"

/* Connections that nobody uses, kept for the next one to come. */
#define IDLE_MAX 4

#define GLUSTERD_PORT 24007

enum state { STARTING, READY, FAILED };

struct volume {
    char *host, *name;
    char *log_file;
    int log_level;
    glfs_t *fs;
    enum state state;
    struct nbd_failure why; /* when FAILED */
    int64_t start_us;
    unsigned users;
    int hanging;       /* calls that did not come back in time */
    bool distrusted;   /* no longer in the list */
};

static GMutex lock;   /* for all of this file's state */
static GCond changed; /* some volume has left STARTING */
static GPtrArray *volumes; /* that may be given out; idle ones in the order of use */

/* Xlators of the client's side that stand between an answer and the bricks. Write-behind
 * acknowledges writes that it then loses when a brick dies; the others answer reads and opens
 * from memory that another host's writes do not reach. */
static const char *const bypassed[] = {
    "*-write-behind", "*-quick-read", "*-io-cache", "*-read-ahead", "*-open-behind",
};

/* ---- Threads ---- */

bool thread_start(const char *name, GThreadFunc work, void *arg)
{
    sigset_t all, old;
    GThread *thread;

    sigfillset(&all); /* signals are the loop's */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    thread = g_thread_try_new(name, work, arg, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (thread != NULL)
        g_thread_unref(thread);
    return thread != NULL;
}

/* ---- Ending one ---- */

/* How long an event thread of libgfapi may need for its last steps. */
#define LAST_STEPS_US (500 * 1000)

/* glfs_fini() calls this function of libglusterfs to wait for the event threads, and then
 * frees what they still look at in their last steps: now and then the process died of that
 * (seen with 10.3). As libgfapi is loaded for this library it finds this one first. */
__attribute__((visibility("default"))) int gf_event_dispatch_destroy(void *pool);

int gf_event_dispatch_destroy(void *pool)
{
    int (*wait_for_threads)(void *) =
        (int (*)(void *))dlsym(RTLD_NEXT, "gf_event_dispatch_destroy");
    int r = wait_for_threads != NULL ? wait_for_threads(pool) : -1;

    g_usleep(LAST_STEPS_US);
    return r;
}

static void volume_free(struct volume *volume)
{
    g_free(volume->host);
    g_free(volume->name);
    g_free(volume->log_file);
    g_free(volume);
}

static void *end_volume(void *arg)
{
    struct volume *volume = arg;

    if (volume->fs != NULL)
        glfs_fini(volume->fs);
    volume_free(volume);
    return NULL;
}

/* ---- Making one ---- */

static int explain(const struct volume *volume, int err, struct nbd_failure *why)
{
    switch (err) {
    case ENOENT:
        return nbd_fail(why, ENOENT, "gluster host '%s' has no volume '%s'", volume->host,
                        volume->name);
    case ENOTCONN:
        return nbd_fail(why, ENOTCONN, "no glusterd answers on host '%s', port %d, for volume "
                        "'%s'; is the name right and the service running?", volume->host,
                        GLUSTERD_PORT, volume->name);
    case EIO:
        return nbd_fail(why, EIO, "volume '%s' of gluster host '%s' is stopped, or too many "
                        "of its bricks are down; see 'gluster volume status'", volume->name,
                        volume->host);
    default:
        return nbd_fail(why, err, "volume '%s' of gluster host '%s' cannot be opened: %s",
                        volume->name, volume->host, g_strerror(err));
    }
}

/* The volume has a level of its own (INFO), which would win. */
static int set_logging(const struct volume *volume)
{
    static const char *const words[] = {
        "NONE", "CRITICAL", "CRITICAL", "CRITICAL", "ERROR",
        "WARNING", "INFO", "INFO", "DEBUG", "TRACE",
    };

    if (glfs_set_logging(volume->fs, volume->log_file, volume->log_level) < 0)
        return -1;
    return glfs_set_xlator_option(volume->fs, volume->name, "log-level",
                                  words[volume->log_level]);
}

/* Two event threads (gluster's default) that share few processors with everything else hand
 * each reply of a brick from one to the other: a quarter of a read's processor time. */
static int set_threads(const struct volume *volume)
{
    if (g_get_num_processors() > FEW_PROCESSORS)
        return 0;
    return glfs_set_xlator_option(volume->fs, "*-client-*", "event-threads", "1");
}

static int connect_volume(struct volume *volume)
{
    errno = 0;
    volume->fs = glfs_new(volume->name);
    if (volume->fs == NULL)
        return gluster_errno();
    if (set_logging(volume) < 0 || set_threads(volume) < 0 ||
        glfs_set_volfile_server(volume->fs, "tcp", volume->host, GLUSTERD_PORT) < 0)
        return gluster_errno();
    for (size_t i = 0; i < G_N_ELEMENTS(bypassed); i++)
        if (glfs_set_xlator_option(volume->fs, bypassed[i], "pass-through", "on") < 0)
            return gluster_errno();
    errno = 0;
    return glfs_init(volume->fs) < 0 ? gluster_errno() : 0;
}

/* With the lock. The volumes that nobody uses and that are too many, the oldest first. */
static GPtrArray *take_idle(void)
{
    GPtrArray *old = g_ptr_array_new();
    guint idle = 0;

    for (guint i = volumes->len; i-- > 0;) {
        struct volume *volume = volumes->pdata[i];

        if (volume->users == 0 && volume->state == READY && ++idle > IDLE_MAX)
            g_ptr_array_add(old, g_ptr_array_remove_index(volumes, i));
    }
    return old;
}

static void end_all(GPtrArray *old)
{
    for (guint i = 0; i < old->len; i++)
        thread_start("gluster-fini", end_volume, old->pdata[i]);
    g_ptr_array_free(old, TRUE);
}

/* A connection that comes too late for those who waited is kept for the next. */
static void *start_volume(void *arg)
{
    struct volume *volume = arg;
    int err = connect_volume(volume);
    GPtrArray *old;
    bool is_mine;

    g_mutex_lock(&lock);
    volume->state = err == 0 ? READY : FAILED;
    if (err != 0) {
        explain(volume, err, &volume->why);
        g_ptr_array_remove(volumes, volume);
        volume->distrusted = true;
    }
    is_mine = err != 0 && volume->users == 0;
    old = take_idle();
    g_cond_broadcast(&changed);
    g_mutex_unlock(&lock);
    end_all(old);
    if (is_mine)
        end_volume(volume);
    return NULL;
}

/* With the lock. */
static struct volume *find(const char *host, const char *name)
{
    for (guint i = 0; i < volumes->len; i++) {
        struct volume *volume = volumes->pdata[i];

        if (strcmp(volume->host, host) == 0 && strcmp(volume->name, name) == 0)
            return volume;
    }
    return NULL;
}

/* With the lock. */
static struct volume *add(const struct disk *disk)
{
    struct volume *volume = g_new0(struct volume, 1);

    volume->host = g_strdup(disk->host);
    volume->name = g_strdup(disk->volume_name);
    volume->log_file = g_strdup(disk->log_file);
    volume->log_level = disk->log_level;
    volume->start_us = g_get_monotonic_time();
    if (!thread_start("gluster-init", start_volume, volume)) {
        volume->state = FAILED;
        volume->distrusted = true;
        nbd_fail(&volume->why, EAGAIN, "no thread to open volume '%s' with",
                 volume->name);
    } else {
        g_ptr_array_add(volumes, volume);
    }
    return volume;
}

/* With the lock. All wait for the same moment: who comes later does not wait longer. */
static int await(struct volume *volume, struct nbd_failure *why)
{
    int64_t limit = volume->start_us + OPEN_LIMIT_S * G_USEC_PER_SEC;

    while (volume->state == STARTING)
        if (!g_cond_wait_until(&changed, &lock, limit))
            break;
    if (volume->state == STARTING)
        return nbd_fail(why, ETIMEDOUT, "gluster host '%s' has not opened volume '%s' for %d "
                        "seconds; is its glusterd alive?", volume->host, volume->name,
                        (int)((g_get_monotonic_time() - volume->start_us) / G_USEC_PER_SEC));
    if (volume->state == FAILED)
        return nbd_fail(why, volume->why.code, "%s", volume->why.message);
    if (volume->hanging > 0)
        return nbd_fail(why, ETIMEDOUT, "volume '%s' of gluster host '%s' does not answer: an "
                        "earlier call still hangs; are its bricks alive?", volume->name,
                        volume->host);
    return 0;
}

/* ---- For the other files ---- */

void volumes_init(void)
{
    if (volumes == NULL)
        volumes = g_ptr_array_new();
}

/* What nobody uses ends with the process. glfs_fini() takes up to 10 seconds, by which clients
 * would wait longer for a daemon that restarts; and with all files closed it has nothing to
 * write. This library stays loaded, so that gluster's threads find their code. */
void volumes_fini(void)
{
    g_mutex_lock(&lock);
    for (guint i = volumes->len; i-- > 0;) {
        struct volume *volume = volumes->pdata[i];

        if (volume->users == 0 && volume->state == READY)
            volume_free(g_ptr_array_remove_index(volumes, i));
    }
    g_mutex_unlock(&lock);
}

int volume_get(const struct disk *disk, struct volume **ret_volume, struct nbd_failure *why)
{
    struct volume *volume;
    int r;

    g_mutex_lock(&lock);
    volume = find(disk->host, disk->volume_name);
    if (volume == NULL)
        volume = add(disk);
    volume->users++;
    r = await(volume, why);
    g_mutex_unlock(&lock);
    if (r < 0)
        volume_put(volume);
    else
        *ret_volume = volume;
    return r;
}

void volume_put(struct volume *volume)
{
    GPtrArray *old;

    g_mutex_lock(&lock);
    if (--volume->users == 0 && volume->state != STARTING) {
        if (!volume->distrusted) { /* now the last of the idle ones to go */
            g_ptr_array_remove(volumes, volume);
            g_ptr_array_add(volumes, volume);
        }
        old = take_idle();
        if (volume->distrusted)
            g_ptr_array_add(old, volume);
    } else {
        old = g_ptr_array_new();
    }
    g_mutex_unlock(&lock);
    end_all(old);
}

void volume_distrust(struct volume *volume)
{
    g_mutex_lock(&lock);
    if (!volume->distrusted)
        g_ptr_array_remove(volumes, volume);
    volume->distrusted = true;
    g_mutex_unlock(&lock);
}

void volume_note_hang(struct volume *volume, int calls)
{
    g_mutex_lock(&lock);
    volume->hanging += calls;
    g_mutex_unlock(&lock);
}

glfs_t *volume_fs(const struct volume *volume)
{
    return volume->fs;
}

const char *volume_name(const struct volume *volume)
{
    return volume->name;
}
