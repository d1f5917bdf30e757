/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * NBD clients. A turn of a connection: receive once into a buffer that all connections share,
 * take every whole message out of it, submit and send what came of it in one go. Between
 * turns an idle connection owns no buffer.
 */
#include "connection.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <glib.h>

#include "acl.h"
#include "away.h"
#include "commands.h"
#include "expiry.h"
#include "handshake.h"
#include "listener.h"
#include "log.h"
#include "registry.h"
#include "server.h"
#include "transmission.h"

#define IOV_MAX_USED 64
#define TURN_BYTES (1u << 20)    /* inline work, and bytes sent, of one connection per turn */
#define SLICE_BYTES (128u << 10) /* of a large write in a turn, when others do not write such */
#define UNDISTURBED_TURNS 1024   /* with large writes until there are no others any more */
#define SMALL_RECEIVE 512        /* between large payloads: the next header, not its payload */
#define FREE_REQUESTS_MAX 4096
#define SHUTDOWN_GRACE_US 250000 /* in which clients are told that the server shuts down */
#define LAST_WORD_S 1            /* of a handshake that outlived its time while an export opened */
#define TURNED_AWAY_NS INT64_C(1000000000) /* between lines about peers who may not connect */
#define HANDSHAKES_BEYOND 4096   /* connections beyond the limit that are at least told so */

struct connection_table {
    struct server *server;
    struct connection_limits limits;
    struct acl *allowed;             /* nbd_allow */
    int64_t turned_away_ns;          /* when the log last said so */
    unsigned turned_away;            /* peers that it has not mentioned since */
    struct connection *first, *last; /* in order of ids */
    GHashTable *by_id;
    uint64_t last_id;
    unsigned count;
    uint8_t *in, *out;               /* scratch buffers, SCRATCH_BYTES each */
    struct connection *dirty;        /* to be looked after at the end of this turn */
    struct event *look_after;
    uint64_t all_turned_away;        /* since the start */
    struct turn turn;                /* the one that is running */
    unsigned large_turns;            /* since one without large writes; to UNDISTURBED_TURNS */
    GQueue going_on;                 /* those who go on without new bytes, when all had a turn */
    struct event *go_on;
    int64_t completion_ns;           /* connection_now_ns() of this turn of the loop, or 0 */
    struct event *grace;             /* of a shutdown */
    struct event *pressure;          /* while somebody waits for memory */
    struct request *free_requests;
    unsigned n_free_requests;
    bool draining;
};

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

struct buffer_pool *connection_buffers(const struct connection *conn)
{
    return conn->server->buffers;
}

/* ---- Requests ---- */

struct request *connection_request_new(struct connection *conn)
{
    struct connection_table *table = conn->table;
    struct request *request = table->free_requests;

    if (request != NULL) {
        table->free_requests = request->next;
        table->n_free_requests--;
    } else {
        request = g_new(struct request, 1);
    }
    request->conn = conn;
    request->next = NULL;
    request->buffer = NULL;
    request->rq.data = NULL;
    request->since_ns = 0;
    request->expired = request->aside = request->held = false;
    request->blocks = false;
    request->group = NULL;
    request->loading = false;
    request->received = request->sent = 0;
    request->data = NULL;
    request->data_length = 0;
    request->head_length = request->tail_length = 0;
    request->file = -1;
    return request;
}

void connection_request_free(struct connection *conn, struct request *request)
{
    struct connection_table *table = conn->table;

    if (request->buffer != NULL && request->aside)
        buffer_free_aside(conn->server->buffers, request->buffer, request->buffer_size);
    else if (request->buffer != NULL)
        buffer_free(conn->server->buffers, &conn->export->buffers, request->buffer,
                    request->buffer_size);
    if (table->n_free_requests >= FREE_REQUESTS_MAX) {
        g_free(request);
        return;
    }
    request->next = table->free_requests;
    table->free_requests = request;
    table->n_free_requests++;
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

static void free_replies(struct connection *conn)
{
    while (conn->replies != NULL) {
        struct request *request = conn->replies;

        conn->replies = request->next;
        connection_request_free(conn, request);
    }
    conn->replies_tail = &conn->replies;
    conn->n_replies = 0;
}

static void release_out(struct connection *conn)
{
    if (conn->out_owned)
        buffer_free_kept(conn->server->buffers, conn->out, SCRATCH_BYTES);
    conn->out = NULL;
    conn->out_owned = false;
    conn->out_length = conn->out_sent = 0;
}

static void unlink_from(struct connection_table *table, struct connection *conn)
{
    *(conn->previous != NULL ? &conn->previous->next : &table->first) = conn->next;
    *(conn->next != NULL ? &conn->next->previous : &table->last) = conn->previous;
    g_hash_table_remove(table->by_id, &conn->id);
    table->count--;
}

/* Nothing refers to it any more. */
static void reap(struct connection *conn)
{
    connection_log(conn, conn->silent ? NBD_LOG_DEBUG : NBD_LOG_INFO,
                   "disconnected: %s (%" G_GUINT64_FORMAT " requests, "
                   "%" G_GUINT64_FORMAT " bytes read, %" G_GUINT64_FORMAT " written)", conn->why,
                   conn->requests, conn->read_bytes, conn->write_bytes);
    unlink_from(conn->table, conn);
    free_replies(conn);
    release_out(conn);
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

/* ---- Output ---- */

/* Borrow the shared buffer, or one of our own while the shared one is lent. */
static bool take_out(struct connection *conn)
{
    conn->out = conn->taking ? conn->table->out : NULL;
    if (conn->out == NULL) {
        conn->out = buffer_alloc_kept(conn->server->buffers, SCRATCH_BYTES);
        conn->out_owned = conn->out != NULL;
    }
    conn->out_length = conn->out_sent = 0;
    return conn->out != NULL;
}

void *connection_reserve(struct connection *conn, size_t size)
{
    if (conn->out == NULL && !take_out(conn)) {
        connection_close(conn, "there is no memory for its replies");
        return NULL;
    }
    if (size > SCRATCH_BYTES - conn->out_length) {
        conn->out_full = true;
        return NULL;
    }
    return conn->out + conn->out_length;
}

void connection_commit(struct connection *conn, size_t size)
{
    conn->out_length += size;
    connection_touch(conn);
}

static size_t reply_size(const struct request *request)
{
    return request->head_length + request->data_length + request->tail_length;
}

void connection_queue_reply(struct connection *conn, struct request *request)
{
    if (conn->phase == PHASE_CLOSING || reply_size(request) == 0) {
        connection_request_free(conn, request);
    } else {
        request->next = NULL;
        *conn->replies_tail = request;
        conn->replies_tail = &request->next;
        conn->n_replies++;
    }
    connection_touch(conn);
}

static void pop_reply(struct connection *conn)
{
    struct request *request = conn->replies;

    conn->replies = request->next;
    if (conn->replies == NULL)
        conn->replies_tail = &conn->replies;
    conn->n_replies--;
    connection_request_free(conn, request);
}

/* What one sendmsg() is to send. */
struct batch {
    struct iovec iov[IOV_MAX_USED];
    unsigned n;
    size_t bytes;
    bool from_memory; /* in: data of files may be sent from where it is mapped */
    bool mapped;      /* some is */
    bool file_next;   /* then data from a file */
};

/* False: nothing may follow in this batch. */
static bool batch_add(struct batch *batch, const void *data, size_t length)
{
    size_t part = MIN(length, TURN_BYTES); /* the rest is for another turn */

    if (length == 0)
        return true;
    if (batch->n == IOV_MAX_USED)
        return false;
    batch->iov[batch->n++] = (struct iovec){ (void *)data, part };
    batch->bytes += part;
    return part == length;
}

/* One piece of a reply, `skip` bytes of which are sent already (updated). */
static bool batch_add_piece(struct batch *batch, const void *data, size_t length, size_t *skip)
{
    size_t n = MIN(*skip, length);

    *skip -= n;
    return n == length || batch_add(batch, (const uint8_t *)data + n, length - n);
}

/* The data of a file's reply, from `*skip` on, as far as it is mapped into memory. */
static bool batch_add_mapped(struct batch *batch, struct export *export,
                             const struct request *request, size_t *skip)
{
    while (*skip < request->data_length) {
        uint64_t length = request->data_length - *skip;
        const void *data = NULL;

        if (batch->from_memory && export->io->mapped != NULL)
            data = export->io->mapped(&export->dev, (uint64_t)request->file_offset + *skip,
                                      &length);
        batch->file_next = data == NULL;
        batch->mapped |= data != NULL;
        if (data == NULL || !batch_add(batch, data, length))
            return false;
        *skip += length;
    }
    *skip -= request->data_length;
    return true;
}

/* All of a reply that is not sent yet; false: no further reply may follow in this batch. */
static bool batch_add_reply(struct batch *batch, struct export *export,
                            const struct request *request)
{
    size_t skip = request->sent;

    return batch_add_piece(batch, request->head, request->head_length, &skip) &&
           (request->file >= 0
                ? batch_add_mapped(batch, export, request, &skip)
                : batch_add_piece(batch, request->data, request->data_length, &skip)) &&
           batch_add_piece(batch, request->tail, request->tail_length, &skip);
}

static void make_batch(const struct connection *conn, struct batch *batch)
{
    const struct request *request = conn->replies;

    batch->n = 0;
    batch->bytes = 0;
    batch->mapped = batch->file_next = false;
    /* A reply that has begun goes on before anything else. */
    if (request != NULL && request->sent > 0) {
        if (!batch_add_reply(batch, conn->export, request))
            return;
        request = request->next;
    }
    if (conn->out != NULL)
        batch_add(batch, conn->out + conn->out_sent, conn->out_length - conn->out_sent);
    while (request != NULL && batch->n < IOV_MAX_USED && batch->bytes < TURN_BYTES) {
        if (!batch_add_reply(batch, conn->export, request))
            return;
        request = request->next;
    }
}

/* Account for bytes that have left, in the order of make_batch(). */
static void sent_reply_bytes(struct connection *conn, size_t *n)
{
    struct request *request = conn->replies;
    size_t part = MIN(*n, reply_size(request) - request->sent);

    request->sent += part;
    *n -= part;
    if (request->sent == reply_size(request))
        pop_reply(conn);
}

static void sent(struct connection *conn, size_t n)
{
    size_t part;

    if (conn->replies != NULL && conn->replies->sent > 0)
        sent_reply_bytes(conn, &n);
    part = MIN(n, conn->out_length - conn->out_sent);
    conn->out_sent += part;
    n -= part;
    if (conn->out_sent == conn->out_length)
        conn->out_sent = conn->out_length = 0;
    while (n > 0)
        sent_reply_bytes(conn, &n);
    conn->active_ns = loop_now_ns();
}

/* The data of the first reply, from its file; bytes, 0: it cannot now, or negative errno. */
static ssize_t send_file(struct connection *conn)
{
    struct request *request = conn->replies;
    size_t done = request->sent - request->head_length, rest = request->data_length - done;
    off_t offset = request->file_offset + (off_t)done;
    ssize_t n = sendfile(conn->fd, request->file, &offset, rest);

    if (n > 0)
        sent(conn, (size_t)n);
    else if (n == 0 || errno == EIO)
        transmission_file_failed(conn, request, -EIO); /* 0: it has become shorter */
    else
        return -errno;
    return n > 0 ? n : 0;
}

static ssize_t send_batch(struct connection *conn, const struct batch *batch)
{
    struct msghdr message = { .msg_iov = (struct iovec *)batch->iov, .msg_iovlen = batch->n };
    int more = batch->file_next ? MSG_MORE : 0;
    ssize_t n = sendmsg(conn->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT | more);

    if (n < 0)
        return -errno;
    sent(conn, (size_t)n);
    return n;
}

static bool has_output(const struct connection *conn)
{
    return conn->out_length > conn->out_sent || conn->replies != NULL;
}

/* At the end of a turn: output that could not leave must not stay in the shared buffer, and
 * nobody keeps an empty one. */
static void settle_out(struct connection *conn)
{
    size_t length = conn->out_length - conn->out_sent;
    uint8_t *own;

    if (length == 0) {
        release_out(conn);
    } else if (!conn->out_owned) {
        own = buffer_alloc_kept(conn->server->buffers, SCRATCH_BYTES);
        if (own == NULL) {
            release_out(conn);
            connection_close(conn, "there is no memory for its replies");
            return;
        }
        memcpy(own, conn->out + conn->out_sent, length);
        conn->out = own;
        conn->out_owned = true;
        conn->out_length = length;
        conn->out_sent = 0;
    }
}

/* Go on when the socket takes more. By then what the next reply refers to may have left the
 * page cache: it is looked at again. */
static void wait_writable(struct connection *conn)
{
    conn->recheck = true;
    event_add(conn->writable, NULL);
}

/* Must the next reply wait until its data has been read from storage? */
static bool is_loading(struct connection *conn)
{
    struct request *request = conn->replies;

    if (request == NULL || request->loading)
        return request != NULL;
    if (conn->recheck && request->file >= 0 && !transmission_is_cached(conn, request))
        transmission_load(conn, request);
    return request->loading;
}

/* Send a batch, or what it may not contain. Bytes, or negative errno. */
static ssize_t send_some(struct connection *conn, bool from_memory)
{
    struct batch batch = { .from_memory = from_memory };
    ssize_t n;

    make_batch(conn, &batch);
    n = batch.n > 0 ? send_batch(conn, &batch) : send_file(conn);
    /* A file has become shorter, and sendfile() will tell which. */
    return n == -EFAULT && batch.mapped ? send_some(conn, false) : n;
}

/* Send as much as the socket takes and fairness allows. Returns the bytes. */
static size_t send_all(struct connection *conn, bool from_memory)
{
    size_t total = 0;

    while (has_output(conn) && conn->phase != PHASE_CLOSING && !is_loading(conn)) {
        ssize_t n = total < TURN_BYTES ? send_some(conn, from_memory) : -EAGAIN;

        if (n == -EAGAIN) {
            wait_writable(conn); /* for room, or to let the others go first */
            return total;
        }
        if (n < 0 && n != -EINTR)
            connection_close(conn, n == -EPIPE || n == -ECONNRESET ? "the client went away"
                                                                   : strerror((int)-n));
        total += (size_t)MAX(n, 0);
    }
    if (!has_output(conn))
        conn->recheck = false;
    return total;
}

static void flush(struct connection *conn)
{
    if (conn->replies != NULL && conn->replies->file >= 0) {
        enum send_way way = send_way_begin(&conn->send_costs);

        send_way_end(&conn->send_costs, send_all(conn, way == SEND_FROM_MEMORY));
    } else {
        send_all(conn, true);
    }
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
        flush(conn);
    } while (conn->out_full && length > 0 && !has_output(conn) && !conn->again &&
             conn->phase < PHASE_DRAINING);
    if (conn->phase >= PHASE_DRAINING)
        length = 0;
    keep(conn, scratch, length);
    if (length > 0 && conn->out_full && has_output(conn))
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
    settle_out(conn);
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
        flush(conn);
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

static void on_go_on(evutil_socket_t fd, short what, void *arg)
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
    flush(conn);
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
           !(conn->out_full && has_output(conn));
}

/* Arm what the connection waits for; end it when its time has come. */
static void look_after(struct connection *conn)
{
    if (conn->phase == PHASE_DRAINING && conn->in_flight == conn->orphans && !has_output(conn))
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

static void on_look_after(evutil_socket_t fd, short what, void *arg)
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
            reap(conn);
            continue;
        }
        conn->taking = true;
        flush(conn);
        end_turn(conn);
    }
}

/* ---- When memory is short ---- */

/* Does it hold payload memory that others want, for a peer that neither sends nor takes? */
static bool is_stalled(const struct connection *conn, int64_t now_ns)
{
    return conn->phase < PHASE_CLOSING && (conn->receiving != NULL || conn->replies != NULL) &&
           now_ns - conn->active_ns >= MEMORY_STALL_S * INT64_C(1000000000) &&
           buffer_is_wanted(conn->server->buffers, &conn->export->buffers);
}

static void on_pressure(evutil_socket_t fd, short what, void *arg)
{
    struct connection_table *table = arg;
    int64_t now_ns = loop_now_ns();

    (void)fd;
    (void)what;
    if (!buffer_is_awaited(table->server->buffers))
        return;
    for (struct connection *conn = table->first; conn != NULL; conn = conn->next)
        if (is_stalled(conn, now_ns))
            connection_close(conn, "it held memory that others waited for, and did not move");
    evtimer_add(table->pressure, &(struct timeval){ .tv_sec = 1 });
}

void connection_wait_memory(struct connection *conn, size_t size)
{
    buffer_wait(conn->server->buffers, &conn->export->buffers, size, &conn->memory);
    conn->paused = true;
    if (!evtimer_pending(conn->table->pressure, NULL))
        evtimer_add(conn->table->pressure, &(struct timeval){ .tv_sec = 1 });
}

/* ---- Accepting ---- */

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
    struct connection *conn = arg;

    (void)fd;
    (void)what;
    if (conn->phase != PHASE_OPENING) /* else it waits for us, which has a limit of its own */
        connection_close(conn, "it did not finish the handshake in time");
}

static void on_memory(void *arg)
{
    struct connection *conn = arg;

    connection_resume(conn);
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

static void append(struct connection_table *table, struct connection *conn)
{
    conn->id = ++table->last_id;
    conn->previous = table->last;
    *(table->last != NULL ? &table->last->next : &table->first) = conn;
    table->last = conn;
    g_hash_table_insert(table->by_id, &conn->id, conn);
    table->count++;
}

int connection_table_admits(const struct connection_table *table, const struct sockaddr *peer,
                            struct nbd_failure *why)
{
    if (!acl_allows(table->allowed, peer))
        return nbd_fail(why, EACCES, "its address is not in nbd_allow");
    if (table->draining)
        return nbd_fail(why, EBUSY, "the server is shutting down");
    if (table->count >= table->limits.max_connections + HANDSHAKES_BEYOND)
        return nbd_fail(why, EMFILE, "far beyond max_connections");
    return 0;
}

/* Who keeps knocking must not fill the log: one line a second at most. */
static void turn_away(struct connection_table *table, int fd, const struct sockaddr *peer,
                      const char *why)
{
    int64_t now_ns = loop_now_ns();

    table->turned_away++;
    table->all_turned_away++;
    if (table->turned_away_ns == 0 || now_ns - table->turned_away_ns >= TURNED_AWAY_NS) {
        g_autofree char *name = listener_peer_name(fd, peer);
        g_autofree char *others = table->turned_away == 1 ? g_strdup("")
                                      : g_strdup_printf(" (and %u others since the last such "
                                                        "line)", table->turned_away - 1);

        log_event(NBD_LOG_WARNING, NULL, name, "client %s: closed at once: %s%s", name, why,
                  others);
        table->turned_away_ns = now_ns;
        table->turned_away = 0;
    }
    close(fd);
}

static void remember_address(struct connection *conn, const struct sockaddr *peer)
{
    if (peer->sa_family == AF_INET)
        memcpy(&conn->address.v4, peer, sizeof(conn->address.v4));
    else if (peer->sa_family == AF_INET6)
        memcpy(&conn->address.v6, peer, sizeof(conn->address.v6));
    else
        conn->address.any.sa_family = peer->sa_family;
}

void connection_accept(void *arg, int fd, const struct sockaddr *peer)
{
    struct connection_table *table = arg;
    struct nbd_failure why_not;
    struct connection *conn;

    if (connection_table_admits(table, peer, &why_not) < 0) {
        turn_away(table, fd, peer, why_not.message);
        return;
    }
    conn = g_new0(struct connection, 1);
    conn->table = table;
    conn->turn = &table->turn;
    conn->server = table->server;
    conn->fd = fd;
    conn->peer = listener_peer_name(fd, peer);
    remember_address(conn, peer);
    conn->over_limit = table->count >= table->limits.max_connections;
    conn->since_us = g_get_real_time();
    conn->active_ns = loop_now_ns();
    conn->replies_tail = &conn->replies;
    conn->going_on.data = conn;
    conn->memory.wake = on_memory;
    conn->memory.arg = conn;
    append(table, conn);
    if (!make_events(conn)) {
        connection_close(conn, "there is no memory for it");
        return;
    }
    connection_log(conn, NBD_LOG_DEBUG, "connected");
    conn->taking = true;
    handshake_greet(conn);
    flush(conn);
    end_turn(conn);
}

/* ---- The table ---- */

/* Requests that are held for a backstore may have to wait for long: their clients are not told
 * anything, and a kernel sends them again to our successor. */
static void end_for_shutdown(struct connection *conn)
{
    if (conn->export != NULL && export_is_away(conn->export))
        connection_close(conn, "the server is shutting down, and its storage is away");
    else
        connection_finish(conn, "the server is shutting down");
}

static void on_grace_over(evutil_socket_t fd, short what, void *arg)
{
    struct connection_table *table = arg;

    (void)fd;
    (void)what;
    for (struct connection *conn = table->first; conn != NULL; conn = conn->next)
        end_for_shutdown(conn);
}

static void on_access_changed(void *arg, struct export *export)
{
    struct connection_table *table = arg;

    for (struct connection *conn = table->first; conn != NULL; conn = conn->next)
        if (conn->export == export && !acl_allows(export->acl, &conn->address.any))
            connection_close(conn, "it is not in the access list of the export any more");
}

void connection_table_set_limits(struct connection_table *table, unsigned max_connections,
                                 unsigned negotiation_timeout_s)
{
    table->limits.max_connections = max_connections;
    table->limits.negotiation_timeout_s = negotiation_timeout_s;
}

int connection_table_allow(struct connection_table *table, const char *const *allowed,
                           struct nbd_failure *why)
{
    struct acl *acl;
    int r = acl_new(allowed, &acl, why);

    if (r < 0)
        return r;
    acl_free(table->allowed);
    table->allowed = acl;
    for (struct connection *conn = table->first; conn != NULL; conn = conn->next)
        if (!acl_allows(acl, &conn->address.any))
            connection_close(conn, "its address is not in nbd_allow any more");
    return 0;
}

struct connection_table *connection_table_new(struct server *server,
                                              const struct connection_limits *limits)
{
    struct connection_table *table = g_new0(struct connection_table, 1);
    int r = acl_new(limits->allowed, &table->allowed, NULL);

    g_assert(r == 0);
    table->server = server;
    table->limits = *limits;
    expiry_init(command_expired);
    registry_watch_access(server->registry, on_access_changed, table);
    table->by_id = g_hash_table_new(g_int64_hash, g_int64_equal);
    table->in = g_malloc(SCRATCH_BYTES);
    table->out = g_malloc(SCRATCH_BYTES);
    table->go_on = evtimer_new(loop_base(server->loop), on_go_on, table);
    table->look_after = event_new(loop_base(server->loop), -1, 0, on_look_after, table);
    table->grace = evtimer_new(loop_base(server->loop), on_grace_over, table);
    table->pressure = evtimer_new(loop_base(server->loop), on_pressure, table);
    return table;
}

void connection_table_free(struct connection_table *table)
{
    if (table == NULL)
        return;
    while (table->first != NULL) {
        connection_close(table->first, "the server is shutting down");
        reap(table->first);
    }
    while (table->free_requests != NULL) {
        struct request *request = table->free_requests;

        table->free_requests = request->next;
        g_free(request);
    }
    registry_watch_access(table->server->registry, NULL, NULL);
    acl_free(table->allowed);
    event_free(table->go_on);
    event_free(table->look_after);
    event_free(table->grace);
    event_free(table->pressure);
    g_hash_table_destroy(table->by_id);
    g_free(table->in);
    g_free(table->out);
    g_free(table);
}

/* A kernel that has mapped an export keeps what was not answered and sends it again to our
 * successor: an error would reach its file system. Every other client is told. */
void connection_table_drain(struct connection_table *table)
{
    table->draining = true;
    for (struct connection *conn = table->first; conn != NULL; conn = conn->next)
        if (conn->mapping != NULL)
            end_for_shutdown(conn);
    evtimer_add(table->grace, &(struct timeval){ .tv_usec = SHUTDOWN_GRACE_US });
}

unsigned connection_count(const struct connection_table *table)
{
    return table->count;
}

uint64_t connection_accepted(const struct connection_table *table)
{
    return table->last_id;
}

uint64_t connection_turned_away(const struct connection_table *table)
{
    return table->all_turned_away;
}

unsigned connection_in_flight(const struct connection_table *table)
{
    unsigned n = 0;

    for (const struct connection *conn = table->first; conn != NULL; conn = conn->next)
        n += conn->in_flight;
    return n;
}

struct connection *connection_next(struct connection_table *table, uint64_t after_id)
{
    struct connection *conn = table->first;

    while (conn != NULL && conn->id <= after_id)
        conn = conn->next;
    return conn;
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

bool connection_kick(struct connection_table *table, uint64_t id, const char *reason)
{
    struct connection *conn = g_hash_table_lookup(table->by_id, &id);

    if (conn == NULL)
        return false;
    connection_log(conn, NBD_LOG_INFO, "kicked: %s", reason);
    connection_close(conn, "kicked by the operator");
    return true;
}

unsigned connection_kick_export(struct connection_table *table, const struct export *export,
                                const char *reason)
{
    unsigned n = 0;

    for (struct connection *conn = table->first; conn != NULL; conn = conn->next) {
        if (conn->export != export || conn->phase == PHASE_CLOSING)
            continue;
        connection_log(conn, NBD_LOG_INFO, "kicked: %s", reason);
        connection_close(conn, "its export went away");
        n++;
    }
    return n;
}
