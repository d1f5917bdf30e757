/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The loop: what is posted to it, by whom and in which order.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <glib.h>

#include "loop.h"

#define THREADS 4
#define TASKS 2000 /* of each thread */

struct fixture {
    struct loop *loop;
    unsigned runs;
};

struct numbered {
    struct loop_task task;
    struct fixture *fixture;
    unsigned thread, number;
};

static int set_up(void **state)
{
    struct fixture *f = g_new0(struct fixture, 1);

    f->loop = loop_new();
    assert_non_null(f->loop);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    loop_free(f->loop);
    g_free(f);
    return 0;
}

static unsigned next_of[THREADS];

static void on_numbered(void *arg)
{
    struct numbered *numbered = arg;

    assert_true(loop_is_mine(numbered->fixture->loop));
    assert_int_equal(numbered->number, next_of[numbered->thread]);
    next_of[numbered->thread]++;
    if (++numbered->fixture->runs == THREADS * TASKS)
        loop_stop(numbered->fixture->loop);
}

static void *post_many(void *arg)
{
    struct numbered *numbered = arg;

    g_assert_false(loop_is_mine(numbered->fixture->loop));
    for (unsigned i = 0; i < TASKS; i++)
        loop_post(numbered[i].fixture->loop, &numbered[i].task);
    return NULL;
}

static void tasks_of_many_threads_run_on_the_loop_in_the_order_of_each_thread(void **state)
{
    struct fixture *f = *state;
    struct numbered *tasks = g_new0(struct numbered, THREADS * TASKS);
    GThread *threads[THREADS];

    for (unsigned i = 0; i < THREADS * TASKS; i++)
        tasks[i] = (struct numbered){ .task = { .run = on_numbered, .arg = &tasks[i] },
                                      .fixture = f, .thread = i / TASKS, .number = i % TASKS };
    for (unsigned i = 0; i < THREADS; i++)
        threads[i] = g_thread_new("poster", post_many, &tasks[i * TASKS]);
    loop_run(f->loop);

    assert_int_equal(f->runs, THREADS * TASKS);
    for (unsigned i = 0; i < THREADS; i++)
        g_thread_join(threads[i]);
    g_free(tasks);
}

struct again {
    struct loop_task task;
    struct fixture *fixture;
};

static void on_again(void *arg)
{
    struct again *again = arg;

    again->fixture->runs++;
    loop_post(again->fixture->loop, &again->task);
}

static void on_stop_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    loop_stop(arg);
}

static void a_task_that_posts_itself_again_does_not_starve_the_timers(void **state)
{
    struct fixture *f = *state;
    struct again *again = g_new0(struct again, 1);
    struct event *timer = evtimer_new(loop_base(f->loop), on_stop_timer, f->loop);

    again->task = (struct loop_task){ .run = on_again, .arg = again };
    again->fixture = f;
    loop_post(f->loop, &again->task);
    evtimer_add(timer, &(struct timeval){ .tv_usec = 5000 });
    loop_run(f->loop);

    assert_true(f->runs > 1);
    event_free(timer);
    again->task.run = g_free; /* it is still posted: the last run frees it */
}

static void on_count(void *arg)
{
    struct fixture *f = arg;

    f->runs++;
}

static void what_is_still_posted_runs_when_the_loop_is_freed(void **state)
{
    struct fixture f = { .loop = loop_new() };
    struct loop_task task = { .run = on_count, .arg = &f };

    (void)state;
    loop_post(f.loop, &task);
    loop_free(f.loop);

    assert_int_equal(f.runs, 1);
}

static void time_goes_forward(void **state)
{
    int64_t before = loop_now_ns();

    (void)state;
    g_usleep(20000);

    assert_true(loop_now_ns() > before);
    assert_true(loop_now_ns() < before + INT64_C(60000000000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            tasks_of_many_threads_run_on_the_loop_in_the_order_of_each_thread, set_up,
            tear_down),
        cmocka_unit_test_setup_teardown(
            a_task_that_posts_itself_again_does_not_starve_the_timers, set_up, tear_down),
        cmocka_unit_test(what_is_still_posted_runs_when_the_loop_is_freed),
        cmocka_unit_test(time_goes_forward),
    };

    return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
