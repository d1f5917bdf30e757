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
        uint8_t *buffer = buffer_alloc(f->pool, sizes[i], true);

        assert_non_null(buffer);
        assert_int_equal((uintptr_t)buffer % 4096, 0);
        memset(buffer, 0xa5, sizes[i]);
        assert_true(buffer_pool_used(f->pool) >= sizes[i]);
        buffer_free(f->pool, buffer, sizes[i]);
        assert_int_equal(buffer_pool_used(f->pool), 0);
    }
}

static void the_buffer_that_was_used_last_is_taken_first(void **state)
{
    struct fixture *f = *state;
    void *first = buffer_alloc(f->pool, 8192, false);
    void *second = buffer_alloc(f->pool, 8192, false);

    buffer_free(f->pool, first, 8192);
    buffer_free(f->pool, second, 8192);

    assert_ptr_equal(buffer_alloc(f->pool, 5000, false), second);
    assert_ptr_equal(buffer_alloc(f->pool, 8000, false), first);
    buffer_free(f->pool, first, 8192);
    buffer_free(f->pool, second, 8192);
}

static void beyond_the_budget_there_is_nothing_but_for_the_urgent(void **state)
{
    struct fixture *f = *state;
    void *all = buffer_alloc(f->pool, BUDGET, false), *urgent;

    assert_non_null(all);
    assert_null(buffer_alloc(f->pool, 1, false));
    urgent = buffer_alloc(f->pool, 1, true);

    assert_non_null(urgent);
    buffer_free(f->pool, urgent, 1);
    buffer_free(f->pool, all, BUDGET);
}

static void one_buffer_fits_into_every_budget(void **state)
{
    struct fixture *f = *state;
    void *large = buffer_alloc(f->pool, 64 * MIB, false);

    assert_non_null(large);
    assert_null(buffer_alloc(f->pool, 4096, false));

    buffer_free(f->pool, large, 64 * MIB);
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
    void *one = buffer_alloc(f->pool, MIB, false), *two = buffer_alloc(f->pool, MIB, false);

    buffer_wait(f->pool, &first);
    buffer_wait(f->pool, &second);
    buffer_wait(f->pool, &first);
    buffer_free(f->pool, one, MIB);
    assert_string_equal(a->str, "w");
    assert_string_equal(b->str, "");
    buffer_free(f->pool, two, MIB);

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
    void *buffer = buffer_alloc(f->pool, MIB, false);

    buffer_wait(f->pool, &first);
    buffer_wait(f->pool, &second);
    buffer_wait_cancel(f->pool, &first);
    buffer_wait_cancel(f->pool, &first);
    buffer_free(f->pool, buffer, MIB);

    assert_string_equal(a->str, "");
    assert_string_equal(b->str, "w");
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
        buffers[i] = buffer_alloc(f->pool, MIB, true);
        memset(buffers[i], 1, MIB);
    }
    assert_true(resident_bytes() > before + 30 * (long)MIB);
    for (int i = 0; i < 32; i++)
        buffer_free(f->pool, buffers[i], MIB);
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
        A_TEST(what_nobody_needed_for_a_while_goes_back_to_the_system),
    };

    return cmocka_run_group_tests_name("buffer", tests, NULL, NULL);
}
