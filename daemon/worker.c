/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * A pool of threads for calls that may block, on glib's thread pool.
 */
#include "worker.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include <glib.h>

struct worker_pool {
    struct loop *loop;
    GThreadPool *threads;
    atomic_uint unfinished; /* calls whose done() has not run */
    bool closed;            /* freed with the last of them */
};

struct work {
    struct worker_pool *pool;
    struct loop_task task;
    void (*work)(void *arg);
    void (*done)(void *arg);
    void *arg;
};

static void on_done(void *arg)
{
    struct work *work = arg;
    struct worker_pool *pool = work->pool;

    if (work->done != NULL)
        work->done(work->arg);
    g_free(work);
    if (atomic_fetch_sub(&pool->unfinished, 1) == 1 && pool->closed)
        g_free(pool);
}

static void on_thread(gpointer data, gpointer user_data)
{
    struct work *work = data;
    struct worker_pool *pool = user_data;
    sigset_t all;

    /* Pairs with worker_run(): the lock inside glib is invisible to ThreadSanitizer. */
    (void)atomic_load(&pool->unfinished);
    sigfillset(&all); /* signals are the loop's */
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    work->work(work->arg);
    loop_post(pool->loop, &work->task);
}

struct worker_pool *worker_pool_new(struct loop *loop, unsigned threads)
{
    struct worker_pool *pool = g_new0(struct worker_pool, 1);

    pool->loop = loop;
    pool->threads = g_thread_pool_new(on_thread, pool, (int)threads, FALSE, NULL);
    return pool;
}

bool worker_pool_is_busy(const struct worker_pool *pool)
{
    return atomic_load(&pool->unfinished) > 0;
}

void worker_pool_count(const struct worker_pool *pool, unsigned *ret_running,
                       unsigned *ret_queued)
{
    unsigned unfinished = atomic_load(&pool->unfinished);
    unsigned queued = g_thread_pool_unprocessed(pool->threads);

    *ret_queued = MIN(queued, unfinished);
    *ret_running = unfinished - *ret_queued;
}

void worker_pool_free(struct worker_pool *pool)
{
    if (pool == NULL)
        return;
    g_thread_pool_free(pool->threads, FALSE, TRUE);
    pool->closed = true;
    if (atomic_load(&pool->unfinished) == 0)
        g_free(pool);
}

void worker_run(struct worker_pool *pool, void (*work)(void *arg), void (*done)(void *arg),
                void *arg)
{
    struct work *item = g_new0(struct work, 1);

    item->pool = pool;
    item->task.run = on_done;
    item->task.arg = item;
    item->work = work;
    item->done = done;
    item->arg = arg;
    atomic_fetch_add(&pool->unfinished, 1);
    g_thread_pool_push(pool->threads, item, NULL);
}
