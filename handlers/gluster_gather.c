/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Answers that are brought to the loop together. libgfapi calls back on its event thread, once
 * for each answer of a brick. Where processors are few, waking the loop for each has the two
 * threads take each other's processor and wait for each other's locks; so when many requests
 * are out, the loop is woken a moment after the first of some answers.
 * gather_start() and gather_fini() run on the loop, gather_end() on any thread.
 */
#include <glib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "gluster.h"

#define MOMENT_NS 25000 /* a fiftieth of what a request takes when so many are out */
#define MANY 8          /* requests that are out: one more or less is no matter */

static const struct nbd_host *host;
static bool is_wanted;
static int timer = -1;
static struct nbd_watch *timer_watch;
static GMutex lock;
static struct queue ended; /* with success; under the lock */

static void on_timer(void *arg)
{
    struct queue all;
    struct nbd_request *rq;
    uint64_t count;
    ssize_t unused = read(timer, &count, sizeof(count)); /* nothing, if it was set anew */

    (void)arg;
    (void)unused;
    g_mutex_lock(&lock);
    all = ended;
    ended = (struct queue){NULL, NULL};
    g_mutex_unlock(&lock);
    while ((rq = queue_pop(&all)) != NULL)
        rq->done(rq, 0);
}

static bool set_timer(void)
{
    struct itimerspec spec = {.it_value.tv_nsec = MOMENT_NS};

    return timerfd_settime(timer, 0, &spec, NULL) == 0;
}

/* Before the first request. Without a timer every answer goes its own way. */
void gather_start(void)
{
    if (!is_wanted || timer_watch != NULL)
        return;
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (timer >= 0)
        timer_watch = host->watch(timer, on_timer, NULL);
    is_wanted = timer_watch != NULL;
}

void gather_end(struct nbd_request *rq, unsigned out)
{
    bool is_first;

    if (timer_watch == NULL || out < MANY) {
        rq->done(rq, 0);
        return;
    }
    g_mutex_lock(&lock);
    is_first = ended.head == NULL;
    queue_push(&ended, rq);
    g_mutex_unlock(&lock);
    if (is_first && !set_timer())
        host->post(on_timer, NULL);
}

void gather_init(const struct nbd_config *config)
{
    host = config->host;
    is_wanted = g_get_num_processors() <= FEW_PROCESSORS;
}

void gather_fini(void)
{
    if (timer_watch != NULL)
        host->unwatch(timer_watch);
    if (timer >= 0)
        close(timer);
    timer_watch = NULL;
    timer = -1;
}
