/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Jobs: their ends, who waits for them, and when they are forgotten.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "job.h"
#include "server.h"

#define DAY_US (INT64_C(86400) * 1000000)

struct fixture {
    struct server server;
    struct job_table *jobs;
    unsigned woken;
    enum job_state seen;
    struct job_wait *other; /* stopped from inside woken() */
};

static int set_up(void **state)
{
    struct fixture *f = g_new0(struct fixture, 1);

    f->server.loop = loop_new();
    assert_non_null(f->server.loop);
    f->jobs = job_table_new(&f->server);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    job_table_free(f->jobs);
    loop_free(f->server.loop);
    g_free(f);
    return 0;
}

/* Runs what is due; at most until the next event. */
static void turn(struct fixture *f, bool wait)
{
    event_base_loop(loop_base(f->server.loop), wait ? EVLOOP_ONCE : EVLOOP_NONBLOCK);
}

static void on_woken(void *arg, struct job *job)
{
    struct fixture *f = arg;

    f->woken++;
    f->seen = job_shown_state(job);
    job_wait_stop(f->other);
    f->other = NULL;
}

static void a_job_is_found_by_id_and_by_token(void **state)
{
    struct fixture *f = *state;
    struct job *job = job_start(f->jobs, JOB_CREATE, "disk1", "token-1");
    struct job *plain = job_start(f->jobs, JOB_DELETE, "disk1", NULL);

    assert_ptr_equal(job_find(f->jobs, job->id), job);
    assert_ptr_equal(job_find_token(f->jobs, "token-1"), job);
    assert_null(job_find_token(f->jobs, ""));
    assert_null(job_find(f->jobs, "nothing"));
    assert_ptr_equal(job_next(f->jobs, NULL), job);
    assert_ptr_equal(job_next(f->jobs, job->id), plain);
    assert_null(job_next(f->jobs, plain->id));
    assert_ptr_equal(job_next(f->jobs, "dropped long ago"), job);
    assert_int_equal(job_running_count(f->jobs), 2);
}

static void an_end_wakes_all_who_wait(void **state)
{
    struct fixture *f = *state;
    struct job *job = job_start(f->jobs, JOB_CREATE, "disk1", "");

    assert_non_null(job_wait_start(job, 30000, on_woken, f));
    assert_non_null(job_wait_start(job, 30000, on_woken, f));
    job_end(job, 0, NULL);

    assert_int_equal(f->woken, 2);
    assert_int_equal(f->seen, JOB_DONE);
    assert_int_equal(job_running_count(f->jobs), 0);
    turn(f, false);
    assert_ptr_equal(job_next(f->jobs, NULL), job);
}

static void a_wait_may_stop_another_from_inside(void **state)
{
    struct fixture *f = *state;
    struct job *job = job_start(f->jobs, JOB_CREATE, "disk1", "");

    assert_non_null(job_wait_start(job, 30000, on_woken, f));
    f->other = job_wait_start(job, 30000, on_woken, f);
    job_end(job, 0, NULL);

    assert_int_equal(f->woken, 1);
}

static void a_wait_ends_by_its_time_limit(void **state)
{
    struct fixture *f = *state;
    struct job *job = job_start(f->jobs, JOB_CREATE, "disk1", "");

    assert_non_null(job_wait_start(job, 5, on_woken, f));
    turn(f, true);

    assert_int_equal(f->woken, 1);
    assert_int_equal(f->seen, JOB_RUNNING);
}

static void a_wait_for_an_ended_job_ends_at_once(void **state)
{
    struct fixture *f = *state;
    struct job *job = job_start(f->jobs, JOB_CREATE, "disk1", "");

    job_end(job, -ECANCELED, NULL);

    assert_null(job_wait_start(job, 30000, on_woken, f));
    assert_int_equal(f->woken, 1);
    assert_int_equal(f->seen, JOB_CANCELED);
}

static void a_wait_of_no_time_ends_at_once(void **state)
{
    struct fixture *f = *state;
    struct job *job = job_start(f->jobs, JOB_CREATE, "disk1", "");

    assert_null(job_wait_start(job, 0, on_woken, f));
    assert_int_equal(f->woken, 1);
}

static void a_sealed_job_still_runs_for_callers(void **state)
{
    struct fixture *f = *state;
    struct job *job = job_start(f->jobs, JOB_CREATE, "disk1", "");

    job_seal(job, 0, NULL);
    assert_int_equal(job->state, JOB_DONE);
    assert_int_equal(job_shown_state(job), JOB_RUNNING);
    assert_false(job_has_ended(job));
    assert_non_null(job_wait_start(job, 30000, on_woken, f));
    assert_int_equal(f->woken, 0);

    job_end(job, -ENOSPC, &(struct nbd_failure){ ENOSPC, "the disk is full" });
    assert_int_equal(f->woken, 1);
    assert_int_equal(f->seen, JOB_FAILED);
    assert_string_equal(job->failure.message, "the disk is full");
}

static void a_failure_without_a_sentence_gets_one(void **state)
{
    struct fixture *f = *state;
    struct job *job = job_start(f->jobs, JOB_CREATE, "disk1", "");

    job_end(job, -EIO, NULL);
    assert_int_equal(job->failure.code, EIO);
    assert_string_equal(job->failure.message, g_strerror(EIO));
}

static void finished_jobs_beyond_the_limit_are_forgotten(void **state)
{
    struct fixture *f = *state;
    struct job *running = job_start(f->jobs, JOB_CREATE, "slow", "slow");
    unsigned count = 0;

    for (int i = 0; i < JOB_KEEP_COUNT + 5; i++) {
        g_autofree char *token = g_strdup_printf("t%d", i);

        job_end(job_start(f->jobs, JOB_CREATE, "disk1", token), 0, NULL);
    }
    turn(f, false);

    for (struct job *job = job_next(f->jobs, NULL); job != NULL;
         job = job_next(f->jobs, job->id))
        count++;
    assert_int_equal(count, JOB_KEEP_COUNT + 1);
    assert_null(job_find_token(f->jobs, "t4"));
    assert_non_null(job_find_token(f->jobs, "t5"));
    assert_ptr_equal(job_find_token(f->jobs, "slow"), running);
}

static void only_sound_jobs_are_restored(void **state)
{
    static const char *const id = "f1c9d7c2-53c7-4f0b-8f3b-1f9f9f5a3a01";
    static const char *const other = "f1c9d7c2-53c7-4f0b-8f3b-1f9f9f5a3a02";
    struct fixture *f = *state;
    int64_t now = g_get_real_time();
    struct nbd_failure failure = { ENOSPC, "full" };
    struct job *job = job_restore(f->jobs, id, "token", JOB_CREATE, JOB_FAILED, "disk1",
                                  now - 2000, now - 1000, &failure);

    assert_non_null(job);
    assert_true(job_has_ended(job));
    assert_ptr_equal(job_find_token(f->jobs, "token"), job);
    assert_string_equal(job->failure.message, "full");

    assert_null(job_restore(f->jobs, id, "", JOB_CREATE, JOB_DONE, "x", now, now, NULL));
    assert_null(job_restore(f->jobs, "junk", "", JOB_CREATE, JOB_DONE, "x", now, now, NULL));
    assert_null(job_restore(f->jobs, other, "", JOB_CREATE, JOB_RUNNING, "x", now, now, NULL));
    assert_null(job_restore(f->jobs, other, "", JOB_CREATE, JOB_DONE, "x", now - 2 * DAY_US,
                            now - DAY_US - 1000000, NULL));
}

static void on_cancel(struct job *job, void *arg)
{
    (void)arg;
    job_end(job, -ECANCELED, NULL);
}

static void all_that_can_be_canceled_is(void **state)
{
    struct fixture *f = *state;
    struct job *first = job_start(f->jobs, JOB_CREATE, "disk1", "");
    struct job *stubborn = job_start(f->jobs, JOB_DELETE, "disk2", "");
    struct job *last = job_start(f->jobs, JOB_CREATE, "disk3", "");

    first->cancel = last->cancel = on_cancel;
    job_cancel_all(f->jobs);

    assert_int_equal(first->state, JOB_CANCELED);
    assert_int_equal(stubborn->state, JOB_RUNNING);
    assert_int_equal(last->state, JOB_CANCELED);
}

static void a_table_may_go_while_somebody_waits(void **state)
{
    struct fixture *f = *state;
    struct job *job = job_start(f->jobs, JOB_CREATE, "disk1", "");

    assert_non_null(job_wait_start(job, 30000, on_woken, f));
    /* tear_down() frees the table */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_job_is_found_by_id_and_by_token),
        TEST(an_end_wakes_all_who_wait),
        TEST(a_wait_may_stop_another_from_inside),
        TEST(a_wait_ends_by_its_time_limit),
        TEST(a_wait_for_an_ended_job_ends_at_once),
        TEST(a_wait_of_no_time_ends_at_once),
        TEST(a_sealed_job_still_runs_for_callers),
        TEST(a_failure_without_a_sentence_gets_one),
        TEST(finished_jobs_beyond_the_limit_are_forgotten),
        TEST(only_sound_jobs_are_restored),
        TEST(all_that_can_be_canceled_is),
        TEST(a_table_may_go_while_somebody_waits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
