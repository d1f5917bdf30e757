/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Requests that gluster refused because the bricks are away. They are kept here, and so are
 * those that come meanwhile; a trial read now and then tells when the bricks are back, whether
 * or not anybody waits. Runs on the loop, but for recover_forget().
 *
 * After the trial has passed there is a pause before the requests go on. A brick that was
 * stopped for a while still has the old connection's requests before it: one of those writes
 * must not come behind a newer write to the same place.
 */
#include <glib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "gluster.h"

#define TICK_MS 100
#define TRIAL_GAP_MIN_US (100 * 1000)
#define TRIAL_GAP_MAX_US (1000 * 1000)
#define SETTLE_US (500 * 1000)

static const struct nbd_host *host;
/* Disks are closed on worker threads: this is held while one of those that are away is in
 * use. Recursive, as the answer to a request may bring the next one. */
static GRecMutex lock;
static GPtrArray *away; /* disks; under the lock */
static int timer = -1;
static struct nbd_watch *timer_watch;

static uint32_t now_s(void)
{
    return (uint32_t)(g_get_monotonic_time() / G_USEC_PER_SEC) + 1;
}

/* ---- The timer ---- */

static void on_tick(void *arg);

static bool set_timer(int interval_ms)
{
    struct timespec interval = {.tv_nsec = interval_ms * 1000000L};
    struct itimerspec spec = {.it_interval = interval, .it_value = interval};

    if (timer < 0)
        timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (timer >= 0 && timer_watch == NULL)
        timer_watch = host->watch(timer, on_tick, NULL);
    return timer_watch != NULL && timerfd_settime(timer, 0, &spec, NULL) == 0;
}

/* ---- Letting go ---- */

static void fail_all(struct queue *queue)
{
    struct nbd_request *rq;

    while ((rq = queue_pop(queue)) != NULL)
        rq->done(rq, -EIO);
}

/* The requests whose time is over. */
static void expire(struct disk *disk)
{
    struct queue all = disk->held, over = {NULL, NULL};
    struct nbd_request *rq;
    uint32_t now = now_s();

    disk->held = (struct queue){NULL, NULL};
    while ((rq = queue_pop(&all)) != NULL) {
        bool is_over = (int32_t)(now - progress_of(rq)->give_up_at_s) >= 0;

        queue_push(is_over ? &over : &disk->held, rq);
    }
    fail_all(&over);
}

static void tell_daemon(const struct disk *disk, const char *reason)
{
    if (nbd_host_has(host, troubled))
        host->troubled(disk->dev, reason);
}

static void release(struct disk *disk, guint index)
{
    struct queue all = disk->held;
    struct nbd_request *rq;

    host->log(NBD_LOG_INFO, "gluster: '%s' is back; the requests that waited go on",
              disk->shown);
    disk->held = (struct queue){NULL, NULL};
    disk->is_away = false;
    g_ptr_array_remove_index_fast(away, index);
    tell_daemon(disk, NULL);
    while ((rq = queue_pop(&all)) != NULL)
        gluster_resume(rq);
}

/* ---- Trying ---- */

static void try_later(struct disk *disk, int64_t now_us)
{
    disk->next_trial_us = now_us + disk->trial_gap_us;
    disk->trial_gap_us = MIN(2 * disk->trial_gap_us, TRIAL_GAP_MAX_US);
}

static void trial_failed(struct disk *disk, int err, int64_t now_us)
{
    if (err == EBADFD || err == EBADF || err == ESTALE)
        session_reopen(disk->session);
    try_later(disk, now_us);
}

/* True: the requests may go on. */
static bool look(struct disk *disk)
{
    struct session *session = disk->session;
    int64_t now_us = g_get_monotonic_time();
    int trial = atomic_load(&session->trial);

    if (trial == TRIAL_RUNS)
        return false;
    session_take_reopened(session);
    if (trial == TRIAL_PASSED && !disk->settling) {
        disk->settling = true;
        disk->next_trial_us = now_us + SETTLE_US;
    } else if (trial < 0) {
        trial_failed(disk, -trial, now_us);
    }
    if (trial != TRIAL_PASSED)
        atomic_store(&session->trial, TRIAL_NONE);
    if (now_us < disk->next_trial_us)
        return false;
    if (disk->settling)
        return true;
    session_try_reading(session);
    return false;
}

static void on_tick(void *arg)
{
    uint64_t ticks;

    (void)arg;
    if (read(timer, &ticks, sizeof(ticks)) < 0)
        return;
    g_rec_mutex_lock(&lock);
    for (guint i = away->len; i-- > 0;) {
        struct disk *disk = away->pdata[i];

        if (look(disk))
            release(disk, i);
        else
            expire(disk);
    }
    if (away->len == 0)
        set_timer(0);
    g_rec_mutex_unlock(&lock);
}

/* ---- For the other files ---- */

static void note_away(struct disk *disk, int err)
{
    g_autofree char *reason = g_strdup_printf("the bricks of volume '%s' do not answer: %s",
                                              disk->volume_name, g_strerror(err));

    disk->is_away = true;
    disk->settling = false;
    disk->trial_gap_us = TRIAL_GAP_MIN_US;
    try_later(disk, g_get_monotonic_time());
    if (atomic_load(&disk->session->trial) != TRIAL_RUNS)
        atomic_store(&disk->session->trial, TRIAL_NONE);
    g_ptr_array_add(away, disk);
    tell_daemon(disk, reason);
    host->log(NBD_LOG_WARNING, "gluster: '%s': %s; its requests wait for the volume's bricks, "
              "up to %u seconds each", disk->shown, g_strerror(err), disk->patience_s);
}

/* With the lock; false: nothing would ever end it. */
static bool hold(struct nbd_request *rq, int err)
{
    struct disk *disk = disk_of(rq);
    struct progress *progress = progress_of(rq);

    if (!disk->is_away) {
        if (away->len == 0 && !set_timer(TICK_MS))
            return false;
        note_away(disk, err);
    }
    if (progress->give_up_at_s == 0)
        progress->give_up_at_s = now_s() + disk->patience_s;
    queue_push(&disk->held, rq);
    return true;
}

void recover_hold(struct nbd_request *rq, int err)
{
    bool is_held;

    g_rec_mutex_lock(&lock);
    is_held = hold(rq, err);
    g_rec_mutex_unlock(&lock);
    if (!is_held)
        rq->done(rq, -EIO);
}

void recover_forget(struct disk *disk)
{
    g_rec_mutex_lock(&lock);
    g_ptr_array_remove_fast(away, disk);
    disk->is_away = false;
    g_rec_mutex_unlock(&lock);
}

void recover_init(const struct nbd_config *config)
{
    host = config->host;
    if (away == NULL)
        away = g_ptr_array_new();
}

void recover_fini(void)
{
    host->unwatch(timer_watch);
    timer_watch = NULL;
    if (timer >= 0)
        close(timer);
    timer = -1;
    g_ptr_array_free(away, TRUE);
    away = NULL;
}
