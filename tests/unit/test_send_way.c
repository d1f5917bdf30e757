/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The choice between two ways to send: real CPU time is spent, more of it on one way than on
 * the other, and the cheaper one has to be found, also after they have changed places.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdbool.h>
#include <time.h>

#include "send_way.h"

#define TURN_BYTES 65536

static void spend_cpu_time(int64_t ns)
{
    struct timespec start, now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start);
    do
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    while ((now.tv_sec - start.tv_sec) * 1000000000 + now.tv_nsec - start.tv_nsec < ns);
}

/* How many of so many turns went by sendfile(), when that costs so much and the other 20 us. */
static unsigned count_by_sendfile(struct send_costs *costs, unsigned turns, int64_t ns)
{
    unsigned n = 0;

    for (unsigned i = 0; i < turns; i++) {
        enum send_way way = send_way_begin(costs);

        spend_cpu_time(way == SEND_BY_SENDFILE ? ns : 20000);
        send_way_end(costs, TURN_BYTES);
        n += way == SEND_BY_SENDFILE;
    }
    return n;
}

/* Does it take nearly all turns of a round the cheaper way, at last? A machine that is busy may
 * spoil a measurement, and with it a round. */
static bool settles(struct send_costs *costs, int64_t ns)
{
    for (unsigned round = 0; round < 10; round++) {
        unsigned n = count_by_sendfile(costs, 1024, ns);

        if (ns < 20000 ? n > 900 : n < 124)
            return true;
    }
    return false;
}

static void the_cheaper_way_is_found(void **state)
{
    struct send_costs cheap = {0}, dear = {0};

    (void)state;
    assert_true(settles(&cheap, 5000));
    assert_true(settles(&dear, 80000));
}

static void a_change_of_costs_is_noticed(void **state)
{
    struct send_costs costs = {0};

    (void)state;
    assert_true(settles(&costs, 5000));
    assert_true(settles(&costs, 80000));
    assert_true(settles(&costs, 5000));
}

static void turns_that_send_nothing_tell_nothing(void **state)
{
    struct send_costs costs = {0};

    (void)state;
    for (unsigned i = 0; i < 100; i++) {
        send_way_begin(&costs);
        send_way_end(&costs, 0);
    }
    assert_int_equal(costs.cost[SEND_FROM_MEMORY], 0);
    assert_int_equal(costs.cost[SEND_BY_SENDFILE], 0);
    assert_true(settles(&costs, 5000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_cheaper_way_is_found),
        cmocka_unit_test(a_change_of_costs_is_noticed),
        cmocka_unit_test(turns_that_send_nothing_tell_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
