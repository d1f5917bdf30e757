/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Choosing by measuring: see send_way.h. A round of turns begins with some that go the other way
 * and are measured, and ends with some that go the way that was thought to be cheaper, measured
 * as well. Many in a row, because what a turn costs depends on those before it.
 */
#include "send_way.h"

#include <stdbool.h>
#include <time.h>

#define TURNS_MEASURED 32 /* at the start and at the end of a round */
#define TURNS_OF_ROUND 1024

static int64_t cpu_time_ns(void)
{
    struct timespec now;

    /* Of this thread alone: what others did meanwhile does not count. */
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static enum send_way other(enum send_way way)
{
    return way == SEND_FROM_MEMORY ? SEND_BY_SENDFILE : SEND_FROM_MEMORY;
}

static void take_measure(struct send_costs *costs)
{
    if (costs->bytes > 0)
        costs->cost[costs->way] = (costs->ns << 20) / costs->bytes;
    costs->bytes = costs->ns = 0;
}

static void choose(struct send_costs *costs)
{
    enum send_way o = other(costs->way);

    if (costs->cost[o] < costs->cost[costs->way])
        costs->way = o;
}

/* The first round of all has no middle: both ways are measured, and one is chosen. */
static void next_turn(struct send_costs *costs)
{
    costs->turn++;
    if (costs->turn == TURNS_MEASURED) {
        take_measure(costs);
        costs->way = other(costs->way);
        if (costs->cost[costs->way] == 0)
            costs->turn = TURNS_OF_ROUND - TURNS_MEASURED;
    } else if (costs->turn == TURNS_OF_ROUND) {
        take_measure(costs);
        choose(costs);
        costs->way = other(costs->way);
        costs->turn = 0;
    }
}

enum send_way send_way_begin(struct send_costs *costs)
{
    bool measured = costs->turn < TURNS_MEASURED || costs->turn >= TURNS_OF_ROUND - TURNS_MEASURED;

    costs->since_ns = measured ? cpu_time_ns() : 0;
    return costs->way;
}

void send_way_end(struct send_costs *costs, size_t bytes)
{
    if (costs->since_ns != 0) {
        costs->ns += (uint64_t)(cpu_time_ns() - costs->since_ns);
        costs->bytes += bytes;
    }
    next_turn(costs);
}
