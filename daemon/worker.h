/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * A pool of threads for calls that may block: opening a volume, saving the state.
 */
#ifndef NR_WORKER_H
#define NR_WORKER_H

#include "loop.h"

struct worker_pool;

/* At most `threads` calls run at once, the others wait their turn. Threads are started when
 * they are needed and have all signals blocked. */
struct worker_pool *worker_pool_new(struct loop *loop, unsigned threads);

/* Any call that waits or runs, or whose done() has not run? */
bool worker_pool_is_busy(const struct worker_pool *pool);

/* Calls that run, or whose done() has not run; calls that wait for a thread. */
void worker_pool_count(const struct worker_pool *pool, unsigned *ret_running,
                       unsigned *ret_queued);

/* Waits for what is running or queued; their done() calls have been posted to the loop. */
void worker_pool_free(struct worker_pool *pool);

/* Any thread. Runs work(arg) on a worker, then done(arg) (may be NULL) on the loop. */
void worker_run(struct worker_pool *pool, void (*work)(void *arg), void (*done)(void *arg),
                void *arg);

#endif
