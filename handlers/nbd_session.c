/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * A backstore in use: its connections, and their return after a loss. One epoll descriptor
 * stands for all connections and the timer, since the daemon watches for readability only.
 * All connections go when one is lost: whether the server still has what it acknowledged is
 * one question with one answer. Loop thread, but for opening, closing and attempt_work().
 */
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "nbd.h"

#define PAUSE_MIN_US INT64_C(100000)
#define PAUSE_MAX_US INT64_C(5000000)
#define EVENTS_PER_WAKEUP (CONNECTIONS_MAX + 1)
#define REPLIES_PER_WAKEUP 64
#define BYTES_PER_WAKEUP (UINT64_C(1) << 20)

/* Attempts take workers, which others need too: so many at once, for all backstores. */
#define ATTEMPTS_MAX 4

static unsigned attempts_running;

/* ---- The timer ---- */

static void set_timer(struct session *session, int64_t when)
{
    struct itimerspec spec = {
        .it_value = {.tv_sec = when / 1000000, .tv_nsec = when % 1000000 * 1000},
    };

    session->timer_at = when;
    timerfd_settime(session->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

void session_arm(struct session *session, int64_t when)
{
    if (session->timer_at == 0 || when < session->timer_at)
        set_timer(session, when);
}

/* ---- The connections ---- */

void session_spoil(struct session *session, const char *format, ...)
{
    va_list args;

    if (session->broken != NULL || session->state != SESSION_UP)
        return;
    va_start(args, format);
    session->broken = g_strdup_vprintf(format, args);
    va_end(args);
}

/* Hear from epoll what libnbd waits for. Its descriptor goes when the connection is dead. */
static void look_after(struct connection *connection)
{
    struct session *session = connection->session;
    unsigned direction = nbd_aio_get_direction(connection->handle);
    struct epoll_event event = {
        .events = (direction & LIBNBD_AIO_DIRECTION_READ ? EPOLLIN : 0u) |
                  (direction & LIBNBD_AIO_DIRECTION_WRITE ? EPOLLOUT : 0u),
        .data.ptr = connection,
    };

    connection->touched = false;
    if (nbd_aio_is_dead(connection->handle) > 0 || nbd_aio_is_closed(connection->handle) > 0) {
        session_spoil(session, "the server closed it");
        return;
    }
    if (event.events == connection->events)
        return;
    if (epoll_ctl(session->epoll_fd, EPOLL_CTL_MOD, connection->fd, &event) < 0)
        session_spoil(session, "%s", g_strerror(errno));
    connection->events = event.events;
}

static bool wants(const struct connection *connection, unsigned direction)
{
    return (nbd_aio_get_direction(connection->handle) & direction) != 0;
}

static bool is_readable(const struct connection *connection)
{
    struct pollfd fd = {.fd = connection->fd, .events = POLLIN};

    return poll(&fd, 1, 0) > 0;
}

/* libnbd takes one reply a call, and may only be called when there is one: when it finds
 * nothing, it sends no requests before something comes. */
static void take_replies(struct connection *connection)
{
    struct session *session = connection->session;
    uint64_t enough = session->bytes_read + BYTES_PER_WAKEUP;

    for (int i = 0; i < REPLIES_PER_WAKEUP && session->bytes_read < enough; i++) {
        unsigned answers = session->answers;

        if (nbd_aio_notify_read(connection->handle) < 0)
            session_spoil(session, "%s", last_error());
        if (session->broken != NULL || session->answers == answers ||
            !wants(connection, LIBNBD_AIO_DIRECTION_READ) || !is_readable(connection))
            return;
    }
}

static void on_connection(struct connection *connection, uint32_t events)
{
    connection->touched = true;
    if ((events & ~(uint32_t)EPOLLOUT) && wants(connection, LIBNBD_AIO_DIRECTION_READ))
        take_replies(connection);
    if ((events & ~(uint32_t)EPOLLIN) && connection->session->broken == NULL &&
        wants(connection, LIBNBD_AIO_DIRECTION_WRITE) &&
        nbd_aio_notify_write(connection->handle) < 0)
        session_spoil(connection->session, "%s", last_error());
}

static void adopt(struct session *session, struct connected *connected)
{
    session->state = SESSION_UP;
    session->answers_before = session->answers;
    session->piece_max = connected->traits.max_block;
    session->has_allocation = connected->traits.has_allocation;
    session->n_connections = connected->n;
    for (unsigned i = 0; i < connected->n; i++) {
        struct connection *connection = &session->connections[i];
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};

        *connection = (struct connection){
            .session = session,
            .handle = connected->handles[i],
            .fd = nbd_aio_get_fd(connected->handles[i]),
            .events = EPOLLIN,
            .touched = true,
        };
        if (epoll_ctl(session->epoll_fd, EPOLL_CTL_ADD, connection->fd, &event) < 0)
            session_spoil(session, "%s", g_strerror(errno));
    }
    connected->n = 0;
}

/* The descriptors leave the epoll set when they are closed. */
static void drop_connections(struct session *session)
{
    for (unsigned i = 0; i < session->n_connections; i++)
        nbd_close(session->connections[i].handle);
    session->n_connections = 0;
}

/* ---- Loss and return ---- */

static void wait_for_retry(struct session *session)
{
    session->state = SESSION_WAITING;
    session->retry_at = g_get_monotonic_time() + session->pause_us;
    session->pause_us = MIN(session->pause_us * 2, PAUSE_MAX_US);
    session_arm(session, session->retry_at);
}

static void settle_lost_changes(struct session *session)
{
    uint64_t lost = session->changes - session->changes_synced;
    unsigned failed;

    if (lost == 0 || !(session->traits.caps & NBD_CAP_FLUSH))
        return;
    session->changes_synced = session->changes;
    failed = task_fail_flushes(session);
    session->owes_error = session->owes_error || failed == 0;
    session->host->log(NBD_LOG_ERROR, "nbd '%s': %" G_GUINT64_FORMAT " changes were "
                       "acknowledged but not flushed when the connection was lost, and may be "
                       "lost with it: %s", session->address->shown, lost,
                       failed > 0 ? "the flushes that wait fail" : "the next flush fails");
}

static void lose_connections(struct session *session)
{
    if (session->answers != session->answers_before)
        session->pause_us = PAUSE_MIN_US; /* it was of some use */
    session->host->log(NBD_LOG_WARNING, "nbd '%s': connection lost: %s; connecting again, "
                       "requests wait", session->address->shown, session->broken);
    g_clear_pointer(&session->broken, g_free);
    session->complained = false;
    drop_connections(session);
    task_requeue_all(session);
    wait_for_retry(session);
    settle_lost_changes(session);
}

/* Is it the export that clients know, or one that can stand for it? */
static int check_same(const struct session *session, const struct traits *now,
                      struct nbd_failure *why)
{
    const struct traits *before = &session->traits;
    const char *shown = session->address->shown;

    if (now->size < before->size)
        return nbd_fail(why, EIO, "'%s' has come back smaller: %" G_GUINT64_FORMAT " bytes "
                        "instead of %" G_GUINT64_FORMAT, shown, now->size, before->size);
    if (before->caps & ~now->caps & ~(uint32_t)(NBD_CAP_ROTATIONAL | NBD_CAP_MULTI_CONN))
        return nbd_fail(why, EIO, "'%s' has come back with fewer abilities (0x%x instead of "
                        "0x%x)", shown, now->caps, before->caps);
    if (now->min_block > before->min_block)
        return nbd_fail(why, EIO, "'%s' has come back with larger blocks: %u bytes instead of "
                        "%u", shown, now->min_block, before->min_block);
    return 0;
}

/* The daemon shows it; NULL: the server is back. */
static void tell_daemon(struct session *session, const char *reason)
{
    if (!nbd_host_has(session->host, troubled) || (reason == NULL && !session->reported))
        return;
    session->reported = reason != NULL;
    session->host->troubled(session->dev, reason);
}

static void attempt_failed(struct session *session)
{
    tell_daemon(session, session->attempt_why.message);
    session->host->log(session->complained ? NBD_LOG_DEBUG : NBD_LOG_WARNING,
                       "nbd: %s; trying again", session->attempt_why.message);
    session->complained = true;
}

/* Wrong data is worse than none. It may be put right: attempts go on. */
static void refuse_server(struct session *session)
{
    if (g_strcmp0(session->fault, session->attempt_why.message) != 0) {
        g_free(session->fault);
        session->fault = g_strdup(session->attempt_why.message);
        tell_daemon(session, session->fault);
        session->host->log(NBD_LOG_ERROR, "nbd: %s; all requests fail until it is as before "
                           "or the export is opened anew", session->fault);
    }
    connected_close(&session->attempt);
    task_fail_all(session);
}

static void come_back(struct session *session)
{
    const struct traits *now = &session->attempt.traits;

    if (now->size > session->traits.size)
        session->host->log(NBD_LOG_WARNING, "nbd '%s' has come back larger; the export keeps "
                           "its %" G_GUINT64_FORMAT " bytes until it is opened anew",
                           session->address->shown, session->traits.size);
    session->host->log(NBD_LOG_INFO, "nbd '%s': connected again", session->address->shown);
    g_clear_pointer(&session->fault, g_free);
    tell_daemon(session, NULL);
    adopt(session, &session->attempt);
}

static void free_session(struct session *session)
{
    connected_close(&session->attempt);
    if (session->epoll_fd >= 0)
        close(session->epoll_fd);
    if (session->timer_fd >= 0)
        close(session->timer_fd);
    if (session->cancel_fd >= 0)
        close(session->cancel_fd);
    g_free(session->broken);
    g_free(session->fault);
    g_free(session);
}

/* Worker thread. */
static void attempt_work(void *arg)
{
    struct session *session = arg;

    session->attempt_result = connect_all(session->address, session->cancel_fd,
                                          &session->attempt, &session->attempt_why);
}

static void on_attempted(void *arg)
{
    struct session *session = arg;

    attempts_running--;
    if (session->closed) {
        address_unref(session->address);
        free_session(session);
        return;
    }
    session->state = SESSION_WAITING;
    if (session->attempt_result < 0)
        attempt_failed(session);
    else if (check_same(session, &session->attempt.traits, &session->attempt_why) < 0)
        refuse_server(session);
    else
        come_back(session);
    if (session->state == SESSION_WAITING)
        wait_for_retry(session);
    session_settle(session);
}

static void start_attempt(struct session *session)
{
    if (attempts_running >= ATTEMPTS_MAX) {
        session->retry_at = g_get_monotonic_time() + PAUSE_MIN_US;
        return;
    }
    attempts_running++;
    session->state = SESSION_CONNECTING;
    session->host->run(attempt_work, on_attempted, session);
}

/* ---- What happens on the loop ---- */

void session_settle(struct session *session)
{
    if (session->settling)
        return; /* an answer has led to the next request: the loop below goes on with it */
    session->settling = true;
    for (;;) {
        if (task_settle_one(session))
            continue;
        if (session->broken == NULL && session->state == SESSION_UP) {
            if (task_issue_one(session))
                continue;
            for (unsigned i = 0; i < session->n_connections; i++)
                if (session->connections[i].touched)
                    look_after(&session->connections[i]);
        }
        if (session->completed.length > 0)
            continue;
        if (session->broken == NULL)
            break;
        lose_connections(session);
    }
    session->settling = false;
}

/* A server that does not answer is as good as none. */
static void end_overdue(struct session *session, int64_t now)
{
    const struct task *first = g_queue_peek_head(&session->by_deadline);
    bool is_stuck = false;

    if (first == NULL || first->deadline > now)
        return;
    for (GList *link = session->by_deadline.head; link != NULL; link = link->next) {
        const struct task *task = link->data;

        is_stuck = is_stuck || (task->deadline <= now && task->connection != NULL);
    }
    if (is_stuck) {
        session_spoil(session, "no answer within %d seconds",
                      (int)(session->timeout_us / 1000000));
        lose_connections(session);
    } else {
        session->host->log(NBD_LOG_ERROR, "nbd '%s': requests fail: the server has been away "
                           "for %d seconds", session->address->shown,
                           (int)(session->timeout_us / 1000000));
    }
    task_expire(session, now);
}

static void on_timer(struct session *session)
{
    int64_t now = g_get_monotonic_time();
    const struct task *first;
    uint64_t count;

    if (read(session->timer_fd, &count, sizeof(count)) < 0)
        return;
    session->timer_at = 0;
    end_overdue(session, now);
    if (session->state == SESSION_WAITING && session->retry_at <= now)
        start_attempt(session);
    session_settle(session);
    first = g_queue_peek_head(&session->by_deadline);
    if (first != NULL)
        session_arm(session, first->deadline);
    if (session->state == SESSION_WAITING)
        session_arm(session, session->retry_at);
}

static void on_ready(void *arg)
{
    struct session *session = arg;
    struct epoll_event events[EVENTS_PER_WAKEUP];
    int n = epoll_wait(session->epoll_fd, events, EVENTS_PER_WAKEUP, 0);
    bool is_time = false;

    for (int i = 0; i < n; i++) {
        if (events[i].data.ptr == NULL)
            is_time = true;
        else
            on_connection(events[i].data.ptr, events[i].events);
    }
    session_settle(session);
    if (is_time)
        on_timer(session);
}

/* ---- Opening and closing ---- */

static void on_start(void *arg)
{
    struct session *session = arg;

    session->loop_thread = pthread_self();
    session->watch = session->host->watch(session->epoll_fd, on_ready, session);
    if (session->watch == NULL) {
        session->fault = g_strdup("out of memory");
        session->host->log(NBD_LOG_ERROR, "nbd '%s': out of memory; all requests fail",
                           session->address->shown);
        return;
    }
    adopt(session, &session->attempt);
    session_settle(session);
}

static bool open_descriptors(struct session *session)
{
    struct epoll_event event = {.events = EPOLLIN};

    session->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    session->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    session->cancel_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return session->epoll_fd >= 0 && session->timer_fd >= 0 && session->cancel_fd >= 0 &&
           epoll_ctl(session->epoll_fd, EPOLL_CTL_ADD, session->timer_fd, &event) == 0;
}

struct session *session_open(const struct nbd_host *host, struct nbd_device *dev,
                             struct address *address, unsigned timeout_s, struct connected *connected,
                             struct nbd_failure *why)
{
    struct session *session = g_new0(struct session, 1);

    session->host = host;
    session->dev = dev;
    session->address = address;
    session->traits = connected->traits;
    session->has_allocation = connected->traits.has_allocation;
    session->timeout_us = (int64_t)timeout_s * 1000000;
    session->pause_us = PAUSE_MIN_US;
    session->state = SESSION_WAITING; /* until on_start() */
    session->attempt = *connected;
    g_queue_init(&session->by_deadline);
    g_queue_init(&session->waiting);
    g_queue_init(&session->completed);
    if (!open_descriptors(session)) {
        nbd_fail(why, errno, "cannot open '%s': %s", address->shown, g_strerror(errno));
        free_session(session);
        return NULL;
    }
    g_atomic_rc_box_acquire(address);
    host->post(on_start, session);
    return session;
}

static void on_close(void *arg)
{
    struct session *session = arg;
    struct connected connected = {.n = session->n_connections};

    if (session->watch != NULL)
        session->host->unwatch(session->watch);
    for (unsigned i = 0; i < session->n_connections; i++)
        connected.handles[i] = session->connections[i].handle;
    connected_close(&connected);
    session->n_connections = 0;
    session->closed = true;
    if (session->state == SESSION_CONNECTING)
        return; /* on_attempted() frees it */
    address_unref(session->address);
    free_session(session);
}

void session_close(struct session *session)
{
    uint64_t one = 1;

    if (write(session->cancel_fd, &one, sizeof(one)) < 0)
        session->host->log(NBD_LOG_DEBUG, "nbd: an attempt to connect runs to its end");
    if (session->loop_thread != 0 && pthread_equal(session->loop_thread, pthread_self()))
        on_close(session);
    else
        session->host->post(on_close, session);
}
