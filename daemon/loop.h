/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The event loop: one libevent base, one thread, and the only door for other threads.
 */
#ifndef NR_LOOP_H
#define NR_LOOP_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

struct loop;

/* Work for the loop thread, embedded in what it is about: posting allocates nothing.
 * It may not be posted again before it has run. */
struct loop_task {
    struct loop_task *next; /* loop.c's own */
    void (*run)(void *arg);
    void *arg;
};

/* One per process; the calling thread becomes the loop thread. NULL: errno says why. */
struct loop *loop_new(void);
void loop_free(struct loop *loop);

struct event_base *loop_base(struct loop *loop);

/* Runs until loop_stop(). */
void loop_run(struct loop *loop);
void loop_stop(struct loop *loop);

/* Any thread. Runs the task on the loop thread, in order of posting. Tasks that are still
 * queued when the loop is freed run then. */
void loop_post(struct loop *loop, struct loop_task *task);

/* Is the caller the loop thread? */
bool loop_is_mine(const struct loop *loop);

/* Monotonic nanoseconds, coarse (some milliseconds) and cheap: for time limits and ages. */
int64_t loop_now_ns(void);

#endif
