/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * One NBD client, from its greeting to its end. A turn of a connection: receive once into a
 * buffer that all connections share, take every whole message out of it, submit and send what
 * came of it in one go. Between turns an idle connection owns no buffer. Loop thread.
 */
#include "connection_private.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "away.h"
#include "commands.h"
#include "handshake.h"
#include "log.h"
#include "server.h"
#include "transmission.h"

#define SLICE_BYTES (128u << 10) /* of a large write in a turn, when others do not write such */
#define UNDISTURBED_TURNS 1024   /* with large writes until there are no others any more */
#define SMALL_RECEIVE 512        /* between large payloads: the next header, not its payload */
#define LAST_WORD_S 1            /* of a handshake that outlived its time while an export opened */

static void look_after(struct connection *conn);

static const struct {
    const char *name;
    size_t (*receive)(struct connection *conn, const struct input *input);
} phases[] = {
    [PHASE_GREETING] = { "greeting", handshake_receive_flags },
    [PHASE_OPTIONS] = { "options", handshake_receive_option },
    [PHASE_OPENING] = { "opening", NULL },
    [PHASE_TRANSMISSION] = { "transmission", transmission_receive },
    [PHASE_DRAINING] = { "draining", NULL },
    [PHASE_CLOSING] = { "closing", NULL },
};

/* ---- Names and logging ---- */

void connection_log(const struct connection *conn, enum nbd_log_level level,
                    const char *format, ...)
{
    char text[1024];
    va_list args;

    if (level > log_level())
        return;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (conn->export != NULL)
        log_event(level, conn->export->name, conn->peer, "client %s, export \"%s\": %s",
                  conn->peer, conn->export->name, text);
    else
        log_event(level, NULL, conn->peer, "client %s: %s", conn->peer, text);
}

void connection_describe(const struct connection *conn, struct connection_info *ret_info)
{
    *ret_info = (struct connection_info){
        .id = conn->id,
        .export_name = conn->export != NULL ? conn->export->name : NULL,
        .peer = conn->peer,
        .phase = phases[conn->phase].name,
        .cookie = conn->mapping != NULL ? conn->mapping->cookie : NULL,
        .since_us = conn->since_us,
        .last_activity_us = g_get_real_time() - (loop_now_ns() - conn->active_ns) / 1000,
        .requests = conn->requests,
        .read_bytes = conn->read_bytes,
        .write_bytes = conn->write_bytes,
        .in_flight = conn->in_flight,
        .structured = conn->structured,
    };
}

/* ---- How long requests take ---- */

/* At the end of a turn its requests have been answered together. */
static void take_time(struct connection *conn)
{
    struct turn *turn = conn->turn;
    int64_t duration_ns = 0;

    for (unsigned class = 0; class < N_LATENCY_CLASSES; class++) {
        if (turn->answered[class] == 0)
            continue;
        if (duration_ns == 0)
            duration_ns = counters_now_ns() - turn->start_ns;
        histogram_add(&conn->export->tally.latencies->now.of[class], duration_ns,
                      turn->answered[class]);
        turn->answered[class] = 0;
    }
}

int64_t connection_now_ns(struct connection *conn)
{
    struct connection_table *table = conn->table;

    if (table->completion_ns == 0)
        table->completion_ns = counters_now_ns();
    return table->completion_ns;
}

/* ---- Input that is kept between turns ---- */

static uint8_t *kept_data(struct connection *conn)
{
    return conn->kept != NULL ? conn->kept : conn->part;
}

static void drop_kept(struct connection *conn)
{
    if (conn->kept != NULL)
        buffer_free_kept(conn->server->buffers, conn->kept, conn->kept_size);
    conn->kept = NULL;
    conn->kept_length = 0;
}

/* Keep what could not be taken; `data` is in the scratch buffer. */
static void keep(struct connection *conn, const uint8_t *data, size_t length)
{
    if (length > sizeof(conn->part)) {
        conn->kept = buffer_alloc_kept(conn->server->buffers, length);
        conn->kept_size = length;
        if (conn->kept == NULL) {
            connection_close(conn, "there is no memory for its input");
            return;
        }
    }
    memcpy(kept_data(conn), data, length);
    conn->kept_length = length;
}

/* ---- Taking turns ---- */

size_t connection_turn_bytes(const struct connection *conn)
{
    return conn->table->large_turns < UNDISTURBED_TURNS ? SLICE_BYTES : TURN_BYTES;
}

/* Among themselves those with large writes need no slices, which would only put more of their
 * payloads between receiving and writing one, and so out of the CPU's cache. */
static void note_turn(struct connection *conn)
{
    struct connection_table *table = conn->table;

    if (!conn->large_writes)
        table->large_turns = 0;
    else if (table->large_turns < UNDISTURBED_TURNS)
        table->large_turns++;
}

/* Another turn without new bytes. Not by event_active(): libevent runs what that activates
 * before it asks again which sockets are readable, and the others would wait for all of it. */
static void queue_turn(struct connection *conn)
{
    struct connection_table *table = conn->table;

    if (conn->queued)
        return;
    conn->queued = true;
    g_queue_push_tail_link(&table->going_on, &conn->going_on);
    if (!evtimer_pending(table->go_on, NULL))
        evtimer_add(table->go_on, &(struct timeval){ 0 });
}

static void leave_queue(struct connection *conn)
{
    if (conn->queued)
        g_queue_unlink(&conn->table->going_on, &conn->going_on);
    conn->queued = false;
}

/* ---- Ending ---- */

void connection_touch(struct connection *conn)
{
    struct connection_table *table = conn->table;

    if (conn->dirty || conn->taking)
        return;
    conn->dirty = true;
    conn->next_dirty = table->dirty;
    if (table->dirty == NULL)
        event_active(table->look_after, 0, 0);
    table->dirty = conn;
}

void connection_enter(struct connection *conn, enum phase phase)
{
    if (log_level() >= NBD_LOG_DEBUG)
        connection_log(conn, NBD_LOG_DEBUG, "%s -> %s", phases[conn->phase].name,
                       phases[phase].name);
    conn->phase = phase;
    if (conn->departed != NULL) {
        event_free(conn->departed);
        conn->departed = NULL;
    }
    if (phase >= PHASE_TRANSMISSION && conn->deadline != NULL) {
        event_free(conn->deadline);
        conn->deadline = NULL;
    }
    /* Its time has run out while it waited for us: it may read the answer. */
    if (phase == PHASE_OPTIONS && !evtimer_pending(conn->deadline, NULL))
        evtimer_add(conn->deadline, &(struct timeval){ .tv_sec = LAST_WORD_S });
}

void connection_close(struct connection *conn, const char *why)
{
    if (conn->phase == PHASE_CLOSING)
        return;
    conn->why = why;
    connection_enter(conn, PHASE_CLOSING);
    buffer_wait_give_up(conn->server->buffers, &conn->memory);
    leave_queue(conn);
    event_del(conn->readable);
    event_del(conn->writable);
    shutdown(conn->fd, SHUT_RDWR);
    handshake_abandon(conn);
    transmission_abandon(conn);
    if (conn->export != NULL && export_is_away(conn->export))
        away_forget(conn->export, conn);
    connection_touch(conn);
}

void connection_finish(struct connection *conn, const char *why)
{
    if (conn->phase >= PHASE_DRAINING)
        return;
    conn->why = why;
    connection_enter(conn, PHASE_DRAINING);
    buffer_wait_give_up(conn->server->buffers, &conn->memory);
    leave_queue(conn);
    event_del(conn->readable);
    handshake_abandon(conn);
    transmission_abandon(conn);
    connection_touch(conn);
}

void connection_reap(struct connection *conn)
{
    connection_log(conn, conn->silent ? NBD_LOG_DEBUG : NBD_LOG_INFO,
                   "disconnected: %s (%" G_GUINT64_FORMAT " requests, "
                   "%" G_GUINT64_FORMAT " bytes read, %" G_GUINT64_FORMAT " written)", conn->why,
                   conn->requests, conn->read_bytes, conn->write_bytes);
    connection_table_remove(conn->table, conn);
    connection_drop_output(conn);
    drop_kept(conn);
    if (conn->mapping != NULL)
        mapping_disconnected(conn->mapping);
    if (conn->export != NULL) {
        conn->export->connections--;
        export_close(conn->export);
    }
    if (conn->departed != NULL)
        event_free(conn->departed);
    event_free(conn->readable);
    event_free(conn->writable);
    if (conn->deadline != NULL)
        event_free(conn->deadline);
    close(conn->fd);
    g_free(conn->list_after);
    g_free(conn->contexts_export);
    g_free(conn->peer);
    g_free(conn);
}

/* ---- Input ---- */

/* Hand whole messages to the phase. Returns the bytes that are left. */
static size_t take_messages(struct connection *conn, uint8_t *data, size_t length)
{
    struct input input = { data, length };

    conn->out_full = false;
    while (input.length > 0 && !conn->paused && conn->writing == NULL &&
           phases[conn->phase].receive != NULL) {
        size_t taken;

        if (conn->taken_bytes >= TURN_BYTES) {
            conn->again = true;
            break;
        }
        taken = phases[conn->phase].receive(conn, &input);
        input.data += taken;
        input.length -= taken;
        if (taken == 0)
            break;
    }
    memmove(data, input.data, input.length == length ? 0 : input.length);
    return input.length;
}

/* Take what is in the scratch buffer, and send what comes of it, until nothing moves. */
static void take(struct connection *conn, uint8_t *scratch, size_t length)
{
    conn->again = conn->writing != NULL;
    do {
        length = take_messages(conn, scratch, length);
        if (conn->export != NULL)
            request_submit_batch(conn->export);
        connection_flush(conn);
    } while (conn->out_full && length > 0 && !connection_has_output(conn) && !conn->again &&
             conn->phase < PHASE_DRAINING);
    if (conn->phase >= PHASE_DRAINING)
        length = 0;
    keep(conn, scratch, length);
    if (length > 0 && conn->out_full && connection_has_output(conn))
        conn->paused = true;
}

static void on_end_of_input(struct connection *conn, ssize_t n, int error, size_t kept)
{
    conn->silent = conn->phase == PHASE_GREETING && kept == 0;
    if (n < 0)
        connection_close(conn, error == ECONNRESET ? "the client went away" : strerror(error));
    else if (kept > 0 || conn->receiving != NULL)
        connection_close(conn, "the client closed the connection in the middle of a message");
    else
        connection_finish(conn, "the client closed the connection");
}

/* Receive once: first what is missing of a payload, then behind `*length` bytes of scratch.
 * False: nothing came. */
static bool receive(struct connection *conn, uint8_t *scratch, size_t *length)
{
    struct request *request = conn->receiving;
    size_t room = conn->large_writes ? SMALL_RECEIVE : SCRATCH_BYTES - *length;
    size_t missing = request != NULL ? request->length - request->received : 0, part = 0;
    size_t most = connection_turn_bytes(conn);
    struct iovec iov[2] = { { NULL, MIN(missing, most) }, { scratch + *length, room } };
    ssize_t n;

    if (request != NULL)
        iov[0].iov_base = (uint8_t *)request->buffer + request->received;
    /* Behind a payload that is not whole yet nothing else may be received. */
    n = readv(conn->fd, missing > 0 ? iov : iov + 1, missing > 0 && missing <= most ? 2 : 1);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n <= 0) {
        on_end_of_input(conn, n, errno, *length);
        return false;
    }
    conn->active_ns = conn->turn->start_ns = counters_now_ns();
    if (request != NULL) {
        part = MIN((size_t)n, iov[0].iov_len);
        request->received += part;
        if (request->received == request->length)
            command_payload_complete(conn);
    }
    *length += (size_t)n - part;
    return true;
}

static void end_turn(struct connection *conn)
{
    connection_settle_out(conn);
    take_time(conn);
    conn->taking = false;
    conn->table->completion_ns = 0;
    look_after(conn);
}

static void turn(struct connection *conn)
{
    uint8_t *scratch = conn->table->in;
    size_t length = conn->kept_length;
    bool again = conn->again;

    note_turn(conn);
    conn->taking = true;
    conn->taken_bytes = 0;
    if (again)
        conn->turn->start_ns = counters_now_ns();
    memcpy(scratch, kept_data(conn), length);
    drop_kept(conn);
    if (conn->writing != NULL)
        command_write_on(conn);
    if (again || receive(conn, scratch, &length)) {
        take(conn, scratch, length);
    } else {
        connection_flush(conn);
        keep(conn, scratch, length);
    }
    end_turn(conn);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct connection *conn = arg;

    (void)fd;
    (void)what;
    if (!conn->queued) /* else its turn comes */
        turn(conn);
}

void connection_on_go_on(evutil_socket_t fd, short what, void *arg)
{
    struct connection_table *table = arg;

    (void)fd;
    (void)what;
    /* Who queues up again meanwhile is for the next time. */
    for (unsigned n = table->going_on.length; n > 0 && table->going_on.length > 0; n--) {
        struct connection *conn = table->going_on.head->data;

        leave_queue(conn);
        turn(conn);
    }
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    struct connection *conn = arg;

    (void)fd;
    (void)what;
    connection_flush(conn);
    end_turn(conn);
}

/* While its export is being opened it is not read. Who has closed one direction may have sent
 * requests before, or want nothing but an answer. */
static void on_departed(evutil_socket_t fd, short what, void *arg)
{
    struct connection *conn = arg;
    int unread = 0;

    (void)what;
    ioctl(fd, FIONREAD, &unread);
    if (unread == 0 && conn->kept_length == 0 && handshake_is_in_vain(conn))
        connection_close(conn, "the client went away while its export was opened");
}

static void watch_departure(struct connection *conn)
{
    if (conn->departed != NULL)
        return;
    conn->departed = event_new(loop_base(conn->server->loop), conn->fd, EV_CLOSED, on_departed,
                               conn);
    event_add(conn->departed, NULL);
}

/* Wait for input, or go on with what was kept. */
static void arm(struct connection *conn)
{
    if (conn->writing != NULL)
        queue_turn(conn);
    if (conn->paused || conn->phase == PHASE_OPENING) {
        event_del(conn->readable);
        if (conn->phase == PHASE_OPENING)
            watch_departure(conn);
        return;
    }
    if (!event_pending(conn->readable, EV_READ, NULL))
        event_add(conn->readable, NULL);
    if (conn->again)
        queue_turn(conn);
}

void connection_resume(struct connection *conn)
{
    if (conn->phase >= PHASE_DRAINING)
        return;
    conn->paused = false;
    /* In its own turn it may have input that is kept at the end of the turn. */
    conn->again = conn->taking || conn->kept_length > 0 || conn->writing != NULL;
    if (!conn->taking)
        arm(conn);
}

/* ---- At the end of a turn ---- */

static bool may_go_on(const struct connection *conn)
{
    return conn->paused && !conn->memory.waiting && conn->phase != PHASE_OPENING &&
           connection_backlog(conn) < IN_FLIGHT_MAX &&
           !(conn->out_full && connection_has_output(conn));
}

/* Arm what the connection waits for; end it when its time has come. */
static void look_after(struct connection *conn)
{
    if (conn->phase == PHASE_DRAINING && conn->in_flight == conn->orphans &&
        !connection_has_output(conn))
        connection_close(conn, conn->why);
    if (conn->phase == PHASE_CLOSING) {
        if (conn->in_flight == 0)
            connection_touch(conn); /* reaped from the list, where nothing is on the stack */
        return;
    }
    if (conn->phase == PHASE_DRAINING)
        return;
    if (may_go_on(conn))
        connection_resume(conn);
    else
        arm(conn);
}

void connection_on_look_after(evutil_socket_t fd, short what, void *arg)
{
    struct connection_table *table = arg;
    struct connection *conn;

    (void)fd;
    (void)what;
    table->completion_ns = 0;
    while ((conn = table->dirty) != NULL) {
        table->dirty = conn->next_dirty;
        conn->dirty = false;
        if (conn->phase == PHASE_CLOSING && conn->in_flight == 0) {
            connection_reap(conn);
            continue;
        }
        conn->taking = true;
        connection_flush(conn);
        end_turn(conn);
    }
}

/* ---- The beginning ---- */

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
    struct connection *conn = arg;

    (void)fd;
    (void)what;
    if (conn->phase != PHASE_OPENING) /* else it waits for us, which has a limit of its own */
        connection_close(conn, "it did not finish the handshake in time");
}

static bool make_events(struct connection *conn)
{
    struct event_base *base = loop_base(conn->server->loop);
    struct timeval limit = { .tv_sec = conn->table->limits.negotiation_timeout_s };

    conn->readable = event_new(base, conn->fd, EV_READ | EV_PERSIST, on_readable, conn);
    conn->writable = event_new(base, conn->fd, EV_WRITE, on_writable, conn);
    conn->deadline = evtimer_new(base, on_deadline, conn);
    return event_add(conn->readable, NULL) == 0 && evtimer_add(conn->deadline, &limit) == 0;
}

void connection_start(struct connection *conn)
{
    if (!make_events(conn)) {
        connection_close(conn, "there is no memory for it");
        return;
    }
    connection_log(conn, NBD_LOG_DEBUG, "connected");
    conn->taking = true;
    handshake_greet(conn);
    connection_flush(conn);
    end_turn(conn);
}
