/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * A pool of threads for calls that may block, on glib's thread pool.
 */
#include "worker.h"

#include <pthread.h>
#include <signal.h>

#include <glib.h>

struct worker_pool {
    struct loop *loop;
    GThreadPool *threads;
};

struct work {
    struct loop_task task;
    void (*work)(void *arg);
    void (*done)(void *arg);
    void *arg;
};

static void on_done(void *arg)
{
    struct work *work = arg;

    work->done(work->arg);
    g_free(work);
}

static void on_thread(gpointer data, gpointer user_data)
{
    struct work *work = data;
    struct worker_pool *pool = user_data;
    sigset_t all;

    sigfillset(&all); /* signals are the loop's */
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    work->work(work->arg);
    if (work->done != NULL)
        loop_post(pool->loop, &work->task);
    else
        g_free(work);
}

struct worker_pool *worker_pool_new(struct loop *loop, unsigned threads)
{
    struct worker_pool *pool = g_new0(struct worker_pool, 1);

    pool->loop = loop;
    pool->threads = g_thread_pool_new(on_thread, pool, (int)threads, FALSE, NULL);
    return pool;
}

void worker_pool_free(struct worker_pool *pool)
{
    if (pool == NULL)
        return;
    g_thread_pool_free(pool->threads, FALSE, TRUE);
    g_free(pool);
}

void worker_run(struct worker_pool *pool, void (*work)(void *arg), void (*done)(void *arg),
                void *arg)
{
    struct work *item = g_new0(struct work, 1);

    item->task.run = on_done;
    item->task.arg = item;
    item->work = work;
    item->done = done;
    item->arg = arg;
    g_thread_pool_push(pool->threads, item, NULL);
}
