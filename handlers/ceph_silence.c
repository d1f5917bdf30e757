/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Requests that the cluster does not end. Librbd holds them until enough OSDs are up, however
 * long that takes, and says nothing meanwhile: an image with one that has waited too long is
 * reported as away. Requests are counted by the time in which they came, so that one costs
 * two additions. Runs on the loop, but for what ceph.h says.
 */
#include <sys/timerfd.h>
#include <unistd.h>

#include "ceph.h"

/* A request has waited for so many ticks, or one more, when it counts as unanswered. Longer
 * than a cluster needs to notice that an OSD has died and to go on without it. */
#define TICKS (SILENCE_SLOTS - 1)
#define TICK_S 8

static const struct nbd_host *host;
/* Sessions are closed on worker threads: held while one of them is looked at. */
static GMutex lock;
static GPtrArray *watched; /* struct session; under the lock */
static int timer = -1;
static struct nbd_watch *timer_watch;

/* ---- The timer ---- */

static void on_tick(void *arg);

static void set_timer(int interval_s)
{
    struct timespec interval = {.tv_sec = interval_s};
    struct itimerspec spec = {.it_interval = interval, .it_value = interval};

    if (timer < 0)
        timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (timer >= 0 && timer_watch == NULL)
        timer_watch = host->watch(timer, on_tick, NULL);
    if (timer_watch != NULL)
        timerfd_settime(timer, 0, &spec, NULL);
}

/* ---- Looking ---- */

static void report(struct session *session, bool silent)
{
    g_autofree char *reason = NULL;

    session->silent = silent;
    if (silent)
        reason = g_strdup_printf("the cluster has not answered a request for '%s' in %d "
                                 "seconds; are enough of its OSDs up (ceph health)?",
                                 session->image->shown, TICKS * TICK_S);
    host->log(silent ? NBD_LOG_WARNING : NBD_LOG_INFO, "ceph: %s%s%s", silent ? reason : "'",
              silent ? "" : session->image->shown,
              silent ? "" : "' is answered again");
    if (nbd_host_has(host, troubled))
        host->troubled(session->dev, reason);
}

/* Is nothing in flight? */
static bool look(struct session *session)
{
    unsigned next = (atomic_load(&session->slot) + 1) % SILENCE_SLOTS, in_flight = 0;
    bool silent = atomic_load(&session->in_flight[next]) > 0; /* since the slot's last turn */

    if (!silent)
        atomic_store(&session->slot, next);
    if (silent != session->silent)
        report(session, silent);
    for (unsigned i = 0; i < SILENCE_SLOTS; i++)
        in_flight += atomic_load(&session->in_flight[i]);
    return in_flight == 0;
}

static void on_tick(void *arg)
{
    uint64_t ticks;

    (void)arg;
    if (read(timer, &ticks, sizeof(ticks)) < 0)
        return;
    g_mutex_lock(&lock);
    for (guint i = watched->len; i-- > 0;) {
        struct session *session = watched->pdata[i];

        if (look(session)) {
            session->is_watched = false;
            g_ptr_array_remove_index_fast(watched, i);
        }
    }
    if (watched->len == 0)
        set_timer(0);
    g_mutex_unlock(&lock);
}

/* ---- For the other files ---- */

static void watch(struct session *session, struct nbd_device *dev)
{
    g_mutex_lock(&lock);
    if (watched->len == 0)
        set_timer(TICK_S);
    session->is_watched = true;
    session->dev = dev;
    g_ptr_array_add(watched, session);
    g_mutex_unlock(&lock);
}

static unsigned add_request(struct session *session)
{
    unsigned slot = atomic_load_explicit(&session->slot, memory_order_relaxed);

    atomic_fetch_add_explicit(&session->in_flight[slot], 1, memory_order_relaxed);
    return slot;
}

unsigned silence_begun(struct session *session, struct nbd_device *dev)
{
    if (!session->is_watched)
        watch(session, dev);
    return add_request(session);
}

unsigned silence_broken(struct session *session, unsigned slot)
{
    unsigned now = add_request(session); /* first: it is never out of sight */

    silence_ended(session, slot);
    return now;
}

void silence_ended(struct session *session, unsigned slot)
{
    atomic_fetch_sub_explicit(&session->in_flight[slot], 1, memory_order_relaxed);
}

void silence_forget(struct session *session)
{
    g_mutex_lock(&lock);
    g_ptr_array_remove_fast(watched, session);
    g_mutex_unlock(&lock);
}

void silence_init(const struct nbd_config *config)
{
    host = config->host;
    if (watched == NULL)
        watched = g_ptr_array_new();
}

void silence_fini(void)
{
    host->unwatch(timer_watch);
    timer_watch = NULL;
    if (timer >= 0)
        close(timer);
    timer = -1;
    g_clear_pointer(&watched, g_ptr_array_unref);
}
