/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * An open file. Gluster has no call that gives up, so whatever may hang (opening, closing,
 * a trial whether the bricks are back) runs where nobody waits for its end: on a thread of
 * its own, or asynchronously, and holds a reference.
 */
#include <fcntl.h>
#include <glib.h>
#include <sys/stat.h>

#include "gluster.h"

bool is_connection_error(int err)
{
    switch (err) {
    case ENOTCONN:
    case ECONNRESET:
    case ECONNREFUSED:
    case ECONNABORTED:
    case ETIMEDOUT:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ENETDOWN:
    case ENETUNREACH:
    case ESHUTDOWN:
    case EPIPE:
    case EBADFD:
    case EBADF:
    case ESTALE:
        return true;
    default:
        return false;
    }
}

/* ---- References ---- */

static void close_file(void *fd)
{
    if (fd != NULL)
        glfs_close(fd);
}

static void *end_session(void *arg)
{
    struct session *session = arg;

    close_file(session_fd(session));
    close_file(atomic_load(&session->reopened));
    g_slist_free_full(session->retired, close_file);
    volume_put(session->volume);
    g_free(session->path);
    g_free(session);
    return NULL;
}

struct session *session_ref(struct session *session)
{
    atomic_fetch_add(&session->refs, 1);
    return session;
}

/* Closing waits for an answer, which only other threads of gluster than this one can take. */
void session_unref(struct session *session)
{
    if (atomic_fetch_sub(&session->refs, 1) == 1 &&
        !thread_start("gluster-close", end_session, session))
        g_critical("gluster: no thread to close '%s' with: it stays open", session->path);
}

/* ---- Opening ---- */

/* A call in progress; whoever leaves last frees it. */
struct opening {
    GMutex lock;
    GCond ended;
    bool has_ended, is_abandoned;
    int err;
    struct stat st;
    struct session *session;
};

static void opening_free(struct opening *opening)
{
    g_mutex_clear(&opening->lock);
    g_cond_clear(&opening->ended);
    g_free(opening);
}

static int open_and_look(struct session *session, struct stat *ret_stat)
{
    glfs_fd_t *fd;

    errno = 0;
    fd = glfs_open(volume_fs(session->volume), session->path, session->flags);
    if (fd == NULL)
        return gluster_errno();
    atomic_store(&session->fd, fd);
    return glfs_fstat(fd, ret_stat) < 0 ? gluster_errno() : 0;
}

static void *perform_opening(void *arg)
{
    struct opening *opening = arg;
    bool is_abandoned;

    opening->err = open_and_look(opening->session, &opening->st);
    g_mutex_lock(&opening->lock);
    opening->has_ended = true;
    is_abandoned = opening->is_abandoned;
    g_cond_signal(&opening->ended);
    g_mutex_unlock(&opening->lock);
    if (is_abandoned) {
        volume_note_hang(opening->session->volume, -1);
        session_unref(opening->session);
        opening_free(opening);
    }
    return NULL;
}

/* False: it has not ended in time, and is no longer ours. */
static bool await_opening(struct opening *opening)
{
    int64_t limit = g_get_monotonic_time() + OPEN_LIMIT_S * G_USEC_PER_SEC;
    bool has_ended;

    g_mutex_lock(&opening->lock);
    while (!opening->has_ended)
        if (!g_cond_wait_until(&opening->ended, &opening->lock, limit))
            break;
    has_ended = opening->has_ended;
    if (!has_ended)
        volume_note_hang(opening->session->volume, +1);
    opening->is_abandoned = !has_ended;
    g_mutex_unlock(&opening->lock);
    return has_ended;
}

static int open_failed(const struct session *session, int err, struct nbd_failure *why)
{
    const char *volume = volume_name(session->volume), *path = session->path + 1;

    if (err == ENOENT)
        return nbd_fail(why, ENOENT, "there is no file '%s' in volume '%s'", path, volume);
    if (err == EISDIR)
        return nbd_fail(why, EISDIR, "'%s' in volume '%s' is a directory; name a file", path,
                        volume);
    if (session->flags == O_RDWR && (err == EROFS || err == EACCES || err == EPERM))
        return nbd_fail(why, err, "'%s' in volume '%s' cannot be opened for writing: %s; "
                        "export it read-only", path, volume, g_strerror(err));
    return nbd_fail(why, err, "'%s' in volume '%s' cannot be opened: %s", path, volume,
                    g_strerror(err));
}

static struct session *session_new(struct volume *volume, const char *path, int flags)
{
    struct session *session = g_new0(struct session, 1);

    atomic_init(&session->refs, 1);
    atomic_init(&session->trial, TRIAL_NONE);
    session->volume = volume;
    session->path = g_strdup(path);
    session->flags = flags;
    return session;
}

int session_open(struct volume *volume, const char *path, int flags,
                 struct session **ret_session, struct stat *ret_stat, struct nbd_failure *why)
{
    struct opening *opening = g_new0(struct opening, 1);
    struct session *session = session_new(volume, path, flags);
    int r;

    g_mutex_init(&opening->lock);
    g_cond_init(&opening->ended);
    opening->session = session;
    if (!thread_start("gluster-open", perform_opening, opening)) {
        r = nbd_fail(why, EAGAIN, "no thread to open '%s' with", path);
    } else if (!await_opening(opening)) {
        return nbd_fail(why, ETIMEDOUT, "the file '%s' did not open in %d seconds; are the "
                        "bricks of its volume alive?", path + 1, OPEN_LIMIT_S);
    } else {
        r = opening->err == 0 ? 0 : open_failed(session, opening->err, why);
    }
    if (is_connection_error(opening->err))
        volume_distrust(volume);
    *ret_stat = opening->st;
    opening_free(opening);
    if (r < 0)
        session_unref(session);
    else
        *ret_session = session;
    return r;
}

/* ---- Is it still there? ---- */

static void on_trial_read(glfs_fd_t *fd, ssize_t ret, struct glfs_stat *pre,
                          struct glfs_stat *post, void *arg)
{
    int err = gluster_errno();
    struct session *session = arg;

    (void)fd;
    (void)pre;
    (void)post;
    atomic_store(&session->trial, ret < 0 ? -err : TRIAL_PASSED);
    session_unref(session);
}

void session_try_reading(struct session *session)
{
    atomic_store(&session->trial, TRIAL_RUNS);
    session_ref(session);
    errno = 0;
    if (glfs_pread_async(session_fd(session), &session->trial_byte, 1, 0, 0, on_trial_read,
                         session) < 0) {
        atomic_store(&session->trial, -gluster_errno());
        session_unref(session);
    }
}

static void *perform_reopening(void *arg)
{
    struct session *session = arg;

    atomic_store(&session->reopened,
                 glfs_open(volume_fs(session->volume), session->path, session->flags));
    atomic_store(&session->reopening, false);
    session_unref(session);
    return NULL;
}

void session_reopen(struct session *session)
{
    if (atomic_exchange(&session->reopening, true))
        return;
    session_ref(session);
    if (!thread_start("gluster-open", perform_reopening, session)) {
        atomic_store(&session->reopening, false);
        session_unref(session);
    }
}

void session_take_reopened(struct session *session)
{
    glfs_fd_t *fd = atomic_exchange(&session->reopened, NULL);

    if (fd == NULL)
        return;
    session->retired = g_slist_prepend(session->retired, session_fd(session));
    atomic_store(&session->fd, fd);
}
