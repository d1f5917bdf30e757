/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The event loop, and the queue through which other threads reach it: a lock-free list that
 * any thread pushes to and the loop takes whole, and an eventfd that wakes the loop up.
 */
#include "loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <glib.h>

#include "log.h"

struct loop {
    struct event_base *base;
    struct event *wakeup;
    int eventfd;
    pthread_t thread;
    _Atomic(struct loop_task *) posted; /* newest first */
};

/* Run what was posted, oldest first; what the tasks post themselves waits for the next turn,
 * so that a task that posts itself again cannot starve the sockets. */
static void run_posted(struct loop *loop)
{
    struct loop_task *newest = atomic_exchange(&loop->posted, NULL), *oldest = NULL;

    while (newest != NULL) {
        struct loop_task *next = newest->next;

        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest != NULL) {
        struct loop_task *next = oldest->next;

        oldest->run(oldest->arg); /* may free or post the task again */
        oldest = next;
    }
}

static void on_wakeup(evutil_socket_t fd, short what, void *arg)
{
    struct loop *loop = arg;
    uint64_t count;

    (void)what;
    if (read(fd, &count, sizeof(count)) > 0 || errno == EAGAIN)
        run_posted(loop);
}

/* libevent would write to stderr by itself, and might wait there. */
static void on_libevent_log(int severity, const char *text)
{
    static const enum nbd_log_level levels[] = {
        [EVENT_LOG_DEBUG] = NBD_LOG_DEBUG,
        [EVENT_LOG_MSG] = NBD_LOG_INFO,
        [EVENT_LOG_WARN] = NBD_LOG_WARNING,
        [EVENT_LOG_ERR] = NBD_LOG_ERROR,
    };

    log_write(severity >= 0 && (size_t)severity < G_N_ELEMENTS(levels) ? levels[severity]
                                                                       : NBD_LOG_WARNING,
              "event loop: %s", text);
}

struct loop *loop_new(void)
{
    struct loop *loop = g_new0(struct loop, 1);
    struct event_config *config = event_config_new();

    event_set_log_callback(on_libevent_log);

    /* The loop never changes a descriptor's events more than it must; no lock is needed,
     * since one thread owns the base. */
    event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK);
    event_config_set_flag(config, EVENT_BASE_FLAG_EPOLL_USE_CHANGELIST);
    loop->base = event_base_new_with_config(config);
    event_config_free(config);
    loop->eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    loop->thread = pthread_self();
    if (loop->base == NULL || loop->eventfd < 0)
        goto fail;
    loop->wakeup = event_new(loop->base, loop->eventfd, EV_READ | EV_PERSIST, on_wakeup, loop);
    if (loop->wakeup == NULL || event_add(loop->wakeup, NULL) < 0)
        goto fail;
    return loop;

fail:
    loop_free(loop);
    return NULL;
}

void loop_free(struct loop *loop)
{
    if (loop == NULL)
        return;
    while (atomic_load(&loop->posted) != NULL)
        run_posted(loop);
    if (loop->wakeup != NULL)
        event_free(loop->wakeup);
    if (loop->base != NULL)
        event_base_free(loop->base);
    if (loop->eventfd >= 0)
        close(loop->eventfd);
    g_free(loop);
}

struct event_base *loop_base(struct loop *loop)
{
    return loop->base;
}

void loop_run(struct loop *loop)
{
    event_base_dispatch(loop->base);
}

void loop_stop(struct loop *loop)
{
    event_base_loopbreak(loop->base);
}

void loop_post(struct loop *loop, struct loop_task *task)
{
    struct loop_task *head = atomic_load(&loop->posted);
    uint64_t one = 1;

    do {
        task->next = head;
    } while (!atomic_compare_exchange_weak(&loop->posted, &head, task));
    /* Only the first of a batch has to wake the loop up. The write cannot fail: the counter
     * is far from full. */
    if (head == NULL && write(loop->eventfd, &one, sizeof(one)) < 0)
        abort();
}

bool loop_is_mine(const struct loop *loop)
{
    return pthread_equal(loop->thread, pthread_self());
}

int64_t loop_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}
