/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The pool of worker threads.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include <glib.h>

#include "worker.h"

#define CALLS 100
#define THREADS 3

struct fixture {
    struct loop *loop;
    struct worker_pool *pool;
    atomic_uint worked, now, most;
    atomic_bool signals_open;
    unsigned done;
};

static int set_up(void **state)
{
    struct fixture *f = g_new0(struct fixture, 1);

    f->loop = loop_new();
    assert_non_null(f->loop);
    f->pool = worker_pool_new(f->loop, THREADS);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    worker_pool_free(f->pool);
    loop_free(f->loop);
    g_free(f);
    return 0;
}

static void work(void *arg)
{
    struct fixture *f = arg;
    unsigned now = atomic_fetch_add(&f->now, 1) + 1, most = atomic_load(&f->most);
    sigset_t blocked;

    while (now > most && !atomic_compare_exchange_weak(&f->most, &most, now))
        ;
    if (loop_is_mine(f->loop))
        abort();
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    if (!sigismember(&blocked, SIGTERM) || !sigismember(&blocked, SIGINT))
        atomic_store(&f->signals_open, true);
    g_usleep(200);
    atomic_fetch_sub(&f->now, 1);
    atomic_fetch_add(&f->worked, 1);
}

static void done(void *arg)
{
    struct fixture *f = arg;

    assert_true(loop_is_mine(f->loop));
    if (++f->done == CALLS)
        loop_stop(f->loop);
}

static void calls_run_on_workers_and_end_on_the_loop(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i < CALLS; i++)
        worker_run(f->pool, work, done, f);
    loop_run(f->loop);

    assert_int_equal(f->done, CALLS);
    assert_int_equal(atomic_load(&f->worked), CALLS);
    assert_in_range(atomic_load(&f->most), 1, THREADS);
    assert_false(atomic_load(&f->signals_open));
}

static void freeing_the_pool_waits_for_all_that_was_queued(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i < CALLS; i++)
        worker_run(f->pool, work, NULL, f);
    worker_pool_free(f->pool);
    f->pool = NULL;

    assert_int_equal(atomic_load(&f->worked), CALLS);
    assert_int_equal(f->done, 0);
}

static void what_ended_before_the_pool_was_freed_is_told_when_the_loop_is(void **state)
{
    struct fixture *f = *state;

    worker_run(f->pool, work, done, f);
    worker_pool_free(f->pool);
    f->pool = NULL;
    assert_int_equal(f->done, 0);
    event_base_loop(loop_base(f->loop), EVLOOP_NONBLOCK);

    assert_int_equal(f->done, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(calls_run_on_workers_and_end_on_the_loop, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(freeing_the_pool_waits_for_all_that_was_queued, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(
            what_ended_before_the_pool_was_freed_is_told_when_the_loop_is, set_up, tear_down),
    };

    return cmocka_run_group_tests_name("worker", tests, NULL, NULL);
}
