/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Memory for payloads: classes, the budget, and who is woken.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include <glib.h>

#include "buffer.h"

#define MIB (1u << 20)
#define BUDGET (4 * MIB)

struct fixture {
    struct loop *loop;
    struct buffer_pool *pool;
    struct buffer_share share, other;
};

static int set_up(void **state)
{
    struct fixture *f = g_new0(struct fixture, 1);

    f->loop = loop_new();
    assert_non_null(f->loop);
    f->pool = buffer_pool_new(f->loop, BUDGET);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    buffer_pool_free(f->pool);
    loop_free(f->loop);
    g_free(f);
    return 0;
}

static void buffers_are_page_aligned_and_as_long_as_was_asked_for(void **state)
{
    static const size_t sizes[] = { 1, 4095, 4096, 4097, 65536, 100000, 3 * MIB, 64 * MIB };
    struct fixture *f = *state;

    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        uint8_t *buffer = buffer_alloc(f->pool, &f->share, sizes[i], true);

        assert_non_null(buffer);
        assert_int_equal((uintptr_t)buffer % 4096, 0);
        memset(buffer, 0xa5, sizes[i]);
        assert_true(buffer_pool_used(f->pool) >= sizes[i]);
        buffer_free(f->pool, &f->share, buffer, sizes[i]);
        assert_int_equal(buffer_pool_used(f->pool), 0);
    }
}

static void the_buffer_that_was_used_last_is_taken_first(void **state)
{
    struct fixture *f = *state;
    void *first = buffer_alloc(f->pool, &f->share, 8192, false);
    void *second = buffer_alloc(f->pool, &f->share, 8192, false);

    buffer_free(f->pool, &f->share, first, 8192);
    buffer_free(f->pool, &f->share, second, 8192);

    assert_ptr_equal(buffer_alloc(f->pool, &f->share, 5000, false), second);
    assert_ptr_equal(buffer_alloc(f->pool, &f->share, 8000, false), first);
    buffer_free(f->pool, &f->share, first, 8192);
    buffer_free(f->pool, &f->share, second, 8192);
}

static void beyond_the_budget_there_is_nothing_but_for_the_urgent(void **state)
{
    struct fixture *f = *state;
    void *all = buffer_alloc(f->pool, &f->share, BUDGET, false), *urgent;

    assert_non_null(all);
    assert_null(buffer_alloc(f->pool, &f->share, 1, false));
    urgent = buffer_alloc(f->pool, &f->share, 1, true);

    assert_non_null(urgent);
    buffer_free(f->pool, &f->share, urgent, 1);
    buffer_free(f->pool, &f->share, all, BUDGET);
}

static void one_buffer_fits_into_every_budget(void **state)
{
    struct fixture *f = *state;
    void *large = buffer_alloc(f->pool, &f->share, 64 * MIB, false);

    assert_non_null(large);
    assert_null(buffer_alloc(f->pool, &f->share, 4096, false));

    buffer_free(f->pool, &f->share, large, 64 * MIB);
}

static void on_wake(void *arg)
{
    GString *order = arg;

    g_string_append_c(order, 'w');
}

static void those_who_wait_are_woken_in_order_and_once(void **state)
{
    struct fixture *f = *state;
    g_autoptr(GString) a = g_string_new(NULL), b = g_string_new(NULL);
    struct buffer_waiter first = { .wake = on_wake, .arg = a };
    struct buffer_waiter second = { .wake = on_wake, .arg = b };
    void *one = buffer_alloc(f->pool, &f->share, MIB, false), *two = buffer_alloc(f->pool, &f->share, MIB, false);

    buffer_wait(f->pool, &f->share, MIB, &first);
    buffer_wait(f->pool, &f->share, MIB, &second);
    buffer_wait(f->pool, &f->share, MIB, &first);
    buffer_free(f->pool, &f->share, one, MIB);
    assert_string_equal(a->str, "w");
    assert_string_equal(b->str, "");
    buffer_free(f->pool, &f->share, two, MIB);

    assert_string_equal(a->str, "w");
    assert_string_equal(b->str, "w");
    assert_false(first.waiting || second.waiting);
}

static void who_no_longer_waits_is_not_woken(void **state)
{
    struct fixture *f = *state;
    g_autoptr(GString) a = g_string_new(NULL), b = g_string_new(NULL);
    struct buffer_waiter first = { .wake = on_wake, .arg = a };
    struct buffer_waiter second = { .wake = on_wake, .arg = b };
    void *buffer = buffer_alloc(f->pool, &f->share, MIB, false);

    buffer_wait(f->pool, &f->share, MIB, &first);
    buffer_wait(f->pool, &f->share, MIB, &second);
    buffer_wait_cancel(f->pool, &first);
    buffer_wait_cancel(f->pool, &first);
    buffer_free(f->pool, &f->share, buffer, MIB);

    assert_string_equal(a->str, "");
    assert_string_equal(b->str, "w");
}

static unsigned takes_all_it_can(struct fixture *f, struct buffer_share *share, void **buffers)
{
    unsigned n = 0;

    while ((buffers[n] = buffer_alloc(f->pool, share, 4096, false)) != NULL)
        n++;
    return n;
}

static void gives_back(struct fixture *f, struct buffer_share *share, void **buffers,
                       unsigned n)
{
    while (n > 0)
        buffer_free(f->pool, share, buffers[--n], 4096);
}

static void one_share_leaves_a_third_and_two_leave_a_fifth(void **state)
{
    struct fixture *f = *state;
    struct buffer_share third = { 0 };
    void *buffers[3][BUDGET / 4096 + 1];
    unsigned first = takes_all_it_can(f, &f->share, buffers[0]);
    unsigned second = takes_all_it_can(f, &f->other, buffers[1]);
    unsigned last = takes_all_it_can(f, &third, buffers[2]);

    assert_in_range(first, BUDGET / 4096 * 2 / 3 - 1, BUDGET / 4096 * 2 / 3 + 1);
    assert_in_range(second, BUDGET / 4096 * 2 / 9 - 1, BUDGET / 4096 * 2 / 9 + 1);
    assert_in_range(last, BUDGET / 4096 * 2 / 27 - 2, BUDGET / 4096 * 2 / 27 + 2);
    gives_back(f, &f->share, buffers[0], first);
    gives_back(f, &f->other, buffers[1], second);
    gives_back(f, &third, buffers[2], last);
    assert_int_equal(f->share.used + f->other.used + third.used, 0);
}

static void a_share_that_has_enough_does_not_hold_up_those_behind_it(void **state)
{
    struct fixture *f = *state;
    g_autoptr(GString) stuck = g_string_new(NULL), moving = g_string_new(NULL);
    struct buffer_waiter first = { .wake = on_wake, .arg = stuck };
    struct buffer_waiter second = { .wake = on_wake, .arg = moving };
    void *buffers[BUDGET / 4096 + 1];
    void *own = buffer_alloc(f->pool, &f->other, 4096, false);
    unsigned n = takes_all_it_can(f, &f->share, buffers);

    buffer_wait(f->pool, &f->share, MIB, &first);
    assert_true(buffer_is_wanted(f->pool, &f->share));
    assert_false(buffer_is_wanted(f->pool, &f->other)); /* would be of no use to the first */
    buffer_wait(f->pool, &f->other, 4096, &second);
    assert_true(buffer_is_wanted(f->pool, &f->other));
    buffer_free(f->pool, &f->other, own, 4096);
    assert_string_equal(stuck->str, "");
    assert_string_equal(moving->str, "w");
    assert_true(buffer_is_awaited(f->pool));

    gives_back(f, &f->share, buffers, n);
    assert_string_equal(stuck->str, "w");
    assert_false(buffer_is_awaited(f->pool));
}

static void shares_take_turns(void **state)
{
    struct fixture *f = *state;
    g_autoptr(GString) a = g_string_new(NULL), b = g_string_new(NULL);
    struct buffer_waiter waiters[] = {
        { .wake = on_wake, .arg = a }, { .wake = on_wake, .arg = a },
        { .wake = on_wake, .arg = b },
    };
    void *one = buffer_alloc(f->pool, &f->share, MIB, false);
    void *two = buffer_alloc(f->pool, &f->share, MIB, false);

    for (int i = 0; i < 3; i++)
        buffer_wait(f->pool, i < 2 ? &f->share : &f->other, 4096, &waiters[i]);
    buffer_free(f->pool, &f->share, one, MIB);
    buffer_free(f->pool, &f->share, two, MIB);

    assert_string_equal(a->str, "w");
    assert_string_equal(b->str, "w");
    buffer_wait_cancel(f->pool, &waiters[1]);
    assert_false(buffer_is_awaited(f->pool));
}

/* Bytes of the process in memory. */
static long resident_bytes(void)
{
    long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "r");

    assert_non_null(statm);
    assert_int_equal(fscanf(statm, "%*s %ld", &pages), 1);
    fclose(statm);
    return pages * 4096;
}

static void what_nobody_needed_for_a_while_goes_back_to_the_system(void **state)
{
    struct fixture *f = *state;
    void *buffers[32];
    long before = resident_bytes();

    for (int i = 0; i < 32; i++) {
        buffers[i] = buffer_alloc(f->pool, &f->share, MIB, true);
        memset(buffers[i], 1, MIB);
    }
    assert_true(resident_bytes() > before + 30 * (long)MIB);
    for (int i = 0; i < 32; i++)
        buffer_free(f->pool, &f->share, buffers[i], MIB);
    for (int i = 0; i < 2; i++) /* the second finds that none was needed since the first */
        event_base_loop(loop_base(f->loop), EVLOOP_ONCE);

    assert_true(resident_bytes() < before + 5 * (long)MIB);
}

int main(void)
{
#define A_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        A_TEST(buffers_are_page_aligned_and_as_long_as_was_asked_for),
        A_TEST(the_buffer_that_was_used_last_is_taken_first),
        A_TEST(beyond_the_budget_there_is_nothing_but_for_the_urgent),
        A_TEST(one_buffer_fits_into_every_budget),
        A_TEST(those_who_wait_are_woken_in_order_and_once),
        A_TEST(who_no_longer_waits_is_not_woken),
        A_TEST(one_share_leaves_a_third_and_two_leave_a_fifth),
        A_TEST(a_share_that_has_enough_does_not_hold_up_those_behind_it),
        A_TEST(shares_take_turns),
        A_TEST(what_nobody_needed_for_a_while_goes_back_to_the_system),
    };

    return cmocka_run_group_tests_name("buffer", tests, NULL, NULL);
}
