/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Jobs: calls of librbd that may hang as long as the cluster does, each on a thread of its
 * own. A worker thread waits for one, but not for ever. A job that was given up undoes what
 * it has done, once it can, and frees itself.
 */
#include "ceph.h"

static atomic_uint abandoned;

struct job *job_new(struct image *image, job_work *work, const char *doing)
{
    struct job *job = g_new0(struct job, 1);

    job->image = image_ref(image);
    job->work = work;
    job->doing = doing;
    job->limit_s = LIMIT_SECONDS;
    g_mutex_init(&job->lock);
    g_cond_init(&job->changed);
    return job;
}

void job_free(struct job *job)
{
    g_clear_pointer(&job->session, session_unref);
    g_clear_pointer(&job->extents, g_array_unref);
    g_free(job->lock_owner);
    g_mutex_clear(&job->lock);
    g_cond_clear(&job->changed);
    image_unref(job->image);
    g_free(job);
}

int job_alive(uint64_t done, uint64_t total, void *arg)
{
    struct job *job = arg;

    (void)done;
    (void)total;
    atomic_store(&job->alive_us, g_get_monotonic_time());
    return 0;
}

unsigned job_abandoned_count(void)
{
    return atomic_load(&abandoned);
}

static void *run(void *arg)
{
    struct job *job = arg;
    int result = job->work(job);
    bool is_late;

    if (result < 0) /* closing may take as long as the rest */
        g_clear_pointer(&job->session, session_unref);
    g_mutex_lock(&job->lock);
    job->result = result;
    job->ended = true;
    is_late = job->abandoned;
    g_cond_signal(&job->changed);
    g_mutex_unlock(&job->lock);
    if (!is_late)
        return NULL; /* the waiter frees it */
    if (result == 0 && job->undo != NULL)
        job->undo(job);
    job_free(job);
    atomic_fetch_sub(&abandoned, 1);
    return NULL;
}

/* False: it took too long. With the lock held. */
static bool wait_for(struct job *job)
{
    while (!job->ended) {
        int64_t end = atomic_load(&job->alive_us) + (int64_t)job->limit_s * G_USEC_PER_SEC;

        if (!g_cond_wait_until(&job->changed, &job->lock, end) && !job->ended &&
            g_get_monotonic_time() >=
                atomic_load(&job->alive_us) + (int64_t)job->limit_s * G_USEC_PER_SEC)
            return false;
    }
    return true;
}

static int give_up(const char *doing, const char *shown, unsigned limit_s,
                   struct nbd_failure *why)
{
    return nbd_fail(why, ETIMEDOUT, "cannot %s '%s': the cluster did not answer in %u "
                    "seconds; are enough of its OSDs up (ceph health)?", doing, shown,
                    limit_s);
}

bool job_run(struct job *job, int *ret_result, struct nbd_failure *why)
{
    GThread *thread;
    bool ended;

    job_alive(0, 0, job);
    thread = g_thread_try_new("ceph", run, job, NULL);
    if (thread == NULL) {
        *ret_result = nbd_fail(why, EAGAIN, "cannot %s '%s': no more threads can be started",
                               job->doing, job->image->shown);
        return true;
    }
    g_mutex_lock(&job->lock);
    ended = wait_for(job);
    if (ended) {
        *ret_result = job->result;
    } else {
        *ret_result = give_up(job->doing, job->image->shown, job->limit_s, why);
        job->abandoned = true;
        atomic_fetch_add(&abandoned, 1);
    }
    g_mutex_unlock(&job->lock);
    if (!ended) {
        g_thread_unref(thread);
        return false;
    }
    g_thread_join(thread);
    if (*ret_result < 0 && why != NULL)
        *why = job->why;
    return true;
}
