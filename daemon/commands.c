/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What each NBD command does. It is served in one of three ways: at once, in the buffers of
 * this turn of the loop; by sendfile(2), for large reads of what is in the page cache; or
 * asynchronously, with a buffer of its own.
 */
#include "commands.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "away.h"
#include "expiry.h"
#include "extents.h"
#include "log.h"
#include "nbd_protocol.h"
#include "reply.h"
#include "server.h"

#define STOP COMMAND_STOP
#define SENDFILE_MIN (16u << 10)  /* below, copying costs less than two more system calls */
#define LARGE_WRITE (128u << 10)  /* payloads that are received straight into their buffer */
#define HOLE_WORTH (32u << 10)    /* zeroes in a read that are worth a chunk of their own */
#define SLICED_MAX (4u << 20)     /* longer writes are left to the storage, off the loop */
#define SLICE_ALIGN 4096          /* where a slice of a write ends */
#define PARTS_MAX 16              /* chunks that a read is split into */
#define PROBE_BYTES (256u << 20)  /* asked about at once, when a cold read wants to know */

/* A read that is answered in several chunks: the last one to be ready says DONE. */
struct read_group {
    unsigned left; /* parts that are not ready */
    int error;     /* of the first part that failed, or 0 */
};

/* Not ETIMEDOUT: that a handler may say as well. */
#define EXPIRED (-ETIME)
#define AWAY (-ENOLINK)

static const char *error_text(int error)
{
    if (error == EXPIRED)
        return "request_timeout is over";
    return error == AWAY ? "the storage is away" : strerror(-error);
}

void command_report(const struct connection *conn, uint16_t type, uint64_t offset,
                    uint64_t length, int error)
{
    static const char *const names[] = { "read", "write", "disconnect", "flush", "trim",
                                         "cache", "write of zeroes" };
    struct export_counters *counters = &conn->export->tally.now;
    uint64_t n;

    counters->errors[error_kind_of(reply_wire_error(error, type))]++;
    n = counters_errors(counters);
    if ((n & (n - 1)) == 0)
        connection_log(conn, NBD_LOG_WARNING, "%s of %" PRIu64 " at %" PRIu64 ": %s "
                       "(error %" PRIu64 " of this export)",
                       type < G_N_ELEMENTS(names) ? names[type] : "request", length, offset,
                       error_text(error), n);
}

/* ---- Replies that are built in the output buffer ---- */

static void count(struct connection *conn, uint16_t type, uint64_t length)
{
    enum byte_kind kind = byte_kind_of(type);

    if (kind == N_BYTE_KINDS)
        return;
    conn->export->tally.now.bytes[kind] += length;
    if (kind == BYTES_READ)
        conn->read_bytes += length;
    else if (kind == BYTES_WRITTEN)
        conn->write_bytes += length;
}

/* Its reply leaves at the end of this turn: then its time is taken. */
static void answered(struct connection *conn, uint16_t type)
{
    conn->turn->answered[latency_classes[type]]++;
}

/* The same for one that may have been taken in an earlier turn. */
static void take_time(struct connection *conn, const struct request *request)
{
    enum latency_class class = latency_classes[request->type];

    if (conn->taking && request->started_ns == conn->turn->start_ns)
        answered(conn, request->type);
    else if (class != LATENCY_NONE)
        histogram_add(&conn->export->tally.latencies->now.of[class],
                      connection_now_ns(conn) - request->started_ns, 1);
}

static bool changes_content(uint16_t type)
{
    return type == NBD_CMD_WRITE || type == NBD_CMD_TRIM || type == NBD_CMD_WRITE_ZEROES;
}

static bool is_zero(const uint8_t *data, size_t length)
{
    return length >= 16 && memcmp(data, (const uint8_t[16]){ 0 }, 16) == 0 &&
           memcmp(data, data + 16, length - 16) == 0;
}

static void inline_error(struct connection *conn, const struct command *cmd, uint8_t *to, int r)
{
    command_report(conn, cmd->type, cmd->offset, cmd->length, r);
    answered(conn, cmd->type);
    connection_commit(conn, reply_put_error(conn, to, cmd->cookie, cmd->offset,
                                            reply_wire_error(r, cmd->type), strerror(-r)));
}

static void inline_success(struct connection *conn, const struct command *cmd, uint8_t *to)
{
    connection_commit(conn, reply_put_success(conn, to, cmd->type, cmd->cookie, cmd->offset));
    count(conn, cmd->type, cmd->length);
    answered(conn, cmd->type);
}

/* ---- Requests that complete later ---- */

static void drop_payload(struct connection *conn, struct request *request)
{
    if (request->buffer == NULL)
        return;
    buffer_free(connection_buffers(conn), &conn->export->buffers, request->buffer,
                request->buffer_size);
    request->buffer = NULL;
    request->data_length = 0;
}

/* An error chunk that fits into the head or tail of a request, with its text if that fits. */
static unsigned short_error(struct connection *conn, const struct request *request,
                            uint8_t *to, int error)
{
    uint8_t reply[REPLY_HEAD_MAX + ERROR_TEXT_MAX];
    uint32_t wire = reply_wire_error(error, request->type);
    size_t n = reply_put_error(conn, reply, request->cookie, request->request_offset, wire,
                               error_text(error));

    if (n > REPLY_HEAD_MAX)
        n = reply_put_error(conn, reply, request->cookie, request->request_offset, wire, "");
    memcpy(to, reply, n);
    return (unsigned)n;
}

static void set_error_reply(struct connection *conn, struct request *request, int error)
{
    request->head_length = short_error(conn, request, request->head, error);
    drop_payload(conn, request);
}

static void set_success_reply(struct connection *conn, struct request *request, bool last)
{
    count(conn, request->type, request->length);
    if (request->type != NBD_CMD_READ) {
        request->head_length =
            (unsigned)reply_put_success(conn, request->head, request->type, request->cookie,
                                        request->request_offset);
        drop_payload(conn, request);
        return;
    }
    request->head_length =
        (unsigned)reply_put_read_head(conn, request->head, request->cookie,
                                      request->request_offset, request->offset,
                                      request->length, last);
    request->data = request->buffer;
    request->data_length = request->length;
}

/* A chunk without content that says DONE. */
static unsigned done_chunk(struct connection *conn, const struct request *request, uint8_t *to)
{
    return (unsigned)reply_put_chunk(conn, to, request->cookie, request->request_offset,
                                     NBD_REPLY_TYPE_NONE, NBD_REPLY_FLAG_DONE, 0);
}

static void complete_part(struct connection *conn, struct request *request, int result)
{
    struct read_group *group = request->group;

    if (result == 0) {
        set_success_reply(conn, request, false);
    } else {
        group->error = group->error != 0 ? group->error : result;
        drop_payload(conn, request);
    }
    if (--group->left > 0)
        return;
    take_time(conn, request);
    request->tail_length = group->error != 0
                               ? short_error(conn, request, request->tail, group->error)
                               : done_chunk(conn, request, request->tail);
    g_free(group);
}

/* Its time is over while the storage has it: answer, and leave the request itself, with its
 * buffer, to the storage. */
void command_expired(struct request *request)
{
    struct connection *conn = request->conn;
    struct request *answer;

    if (request->held) { /* the storage does not have it */
        away_let_go(request);
        request->completed(request, AWAY);
        return;
    }
    if (request->loading) { /* a part of the reply has left */
        connection_close(conn, "the storage did not answer in the middle of a reply");
        return;
    }
    answer = connection_request_new(conn);
    answer->type = request->type;
    answer->cookie = request->cookie;
    answer->request_offset = request->request_offset;
    answer->started_ns = request->started_ns;
    answer->group = request->group;
    request->group = NULL;
    request->expired = true;
    conn->orphans++;
    conn->export->orphans++;
    if (request->buffer != NULL) {
        conn->export->orphan_bytes += request->buffer_size;
        request->aside = buffer_set_aside(connection_buffers(conn), &conn->export->buffers,
                                          request->buffer_size);
    }
    command_report(conn, request->type, request->offset, request->length, EXPIRED);
    if (answer->group == NULL)
        take_time(conn, answer);
    if (answer->group != NULL)
        complete_part(conn, answer, EXPIRED);
    else
        set_error_reply(conn, answer, EXPIRED);
    connection_queue_reply(conn, answer);
}

void command_handed_over(struct connection *conn, struct request *request)
{
    conn->in_flight++;
    conn->export->in_flight++;
    if (conn->export->expiry != NULL)
        expiry_watch(request);
}

bool command_returned(struct connection *conn, struct request *request)
{
    conn->in_flight--;
    conn->export->in_flight--;
    if (expiry_is_watched(request))
        expiry_forget(request);
    if (!request->expired)
        return true;
    conn->orphans--;
    conn->export->orphans--;
    if (request->buffer != NULL)
        conn->export->orphan_bytes -= request->buffer_size;
    connection_request_free(conn, request);
    connection_touch(conn);
    return false;
}

/* A flush has succeeded, which covers so many changes. But when changes were lost with a
 * backstore, the next flush of each client says so. */
static int flushed(struct connection *conn, uint64_t changes)
{
    conn->export->flushed_changes = changes;
    if (conn->losses == conn->export->losses)
        return 0;
    conn->losses = conn->export->losses;
    return -EIO;
}

static void on_completed(struct request *request, int result)
{
    struct connection *conn = request->conn;

    if (changes_content(request->type))
        extents_changed(conn->export);
    if (!command_returned(conn, request))
        return;
    if (request->type == NBD_CMD_FLUSH && result == 0)
        result = flushed(conn, request->changes);
    if (result < 0)
        command_report(conn, request->type, request->offset, request->length, result);
    if (request->group == NULL)
        take_time(conn, request);
    if (request->group != NULL)
        complete_part(conn, request, result);
    else if (result < 0)
        set_error_reply(conn, request, result);
    else
        set_success_reply(conn, request, true);
    connection_queue_reply(conn, request);
}

/* What the handler gets: a flush has no range, whatever its header says. */
static uint64_t handler_offset(const struct command *cmd)
{
    return cmd->type == NBD_CMD_FLUSH ? 0 : cmd->offset;
}

static struct request *new_request(struct connection *conn, const struct command *cmd)
{
    struct request *request = connection_request_new(conn);

    request->export = conn->export;
    request->completed = on_completed;
    request->type = cmd->type;
    request->cookie = cmd->cookie;
    request->started_ns = conn->turn->start_ns;
    request->offset = request->request_offset = cmd->offset;
    request->length = cmd->length;
    request->wire_flags = cmd->flags;
    request->rq.dev = &conn->export->dev;
    request->rq.op = cmd->type;
    request->rq.flags = cmd->flags & (NBD_RQ_FUA | NBD_RQ_NO_HOLE | NBD_RQ_FAST_ZERO);
    request->rq.offset = handler_offset(cmd);
    request->rq.length = cmd->length;
    return request;
}

/* The same with a buffer for the payload; NULL: there is no memory now. */
static struct request *try_payload_request(struct connection *conn, const struct command *cmd)
{
    struct buffer_pool *pool = connection_buffers(conn);
    /* Somebody who has nothing could wait for ever behind those who have much. */
    bool urgent = connection_backlog(conn) == 0 && cmd->length <= 256u << 10;
    void *buffer = buffer_alloc(pool, &conn->export->buffers, cmd->length, urgent);
    struct request *request;

    if (buffer == NULL)
        return NULL;
    request = new_request(conn, cmd);
    request->buffer = buffer;
    request->buffer_size = cmd->length;
    request->rq.data = buffer;
    return request;
}

/* NULL: the connection waits for memory. */
static struct request *new_payload_request(struct connection *conn, const struct command *cmd)
{
    struct request *request = try_payload_request(conn, cmd);

    if (request == NULL)
        connection_wait_memory(conn, cmd->length);
    return request;
}

static void submit(struct connection *conn, struct request *request)
{
    command_handed_over(conn, request);
    if (changes_content(request->type))
        extents_changed(conn->export);
    request->changes = conn->export->changes;
    request_submit(request);
}

/* A request with a buffer of its own: at once if that is possible. */
static void serve(struct connection *conn, struct request *request)
{
    int r = request_try_now(conn->export, &request->rq);

    if (r == -EAGAIN) {
        submit(conn, request);
    } else {
        conn->in_flight++;
        conn->export->in_flight++;
        on_completed(request, r);
    }
}

/* ---- A long write, slice by slice: others need not wait for all of it ---- */

static void begin_slices(struct connection *conn, struct request *request)
{
    conn->in_flight++;
    conn->export->in_flight++;
    request->written = 0;
    conn->writing = request;
    command_write_on(conn);
}

void command_write_on(struct connection *conn)
{
    struct request *request = conn->writing;
    struct nbd_request slice = request->rq;
    uint64_t most = connection_turn_bytes(conn);
    int r;

    slice.offset += request->written;
    slice.data = (uint8_t *)slice.data + request->written;
    slice.length = MIN(request->length - request->written, most - slice.offset % SLICE_ALIGN);
    r = request_try_now(conn->export, &slice);
    if (r == -EAGAIN) {
        command_write_rest(conn);
        return;
    }
    request->written += slice.length;
    if (r == 0 && request->written < request->length)
        return;
    conn->writing = NULL;
    on_completed(request, r);
}

/* From its beginning: writing the same bytes twice changes nothing. */
void command_write_rest(struct connection *conn)
{
    struct request *request = conn->writing;

    conn->writing = NULL;
    conn->in_flight--;
    conn->export->in_flight--;
    submit(conn, request);
    request_submit_batch(conn->export);
}

/* ---- READ ---- */

static size_t read_inline(struct connection *conn, const struct command *cmd)
{
    size_t head = reply_read_head_size(conn);
    uint8_t *to = connection_reserve(conn, MAX(head + cmd->length,
                                               REPLY_HEAD_MAX + ERROR_TEXT_MAX));
    struct nbd_request rq = {
        .dev = &conn->export->dev, .op = NBD_OP_READ, .offset = cmd->offset,
        .length = cmd->length,
    };
    struct request *request;
    int r;

    if (to == NULL)
        return STOP;
    rq.data = to + head;
    r = request_try_now(conn->export, &rq);
    if (r == 0) {
        reply_put_read_head(conn, to, cmd->cookie, cmd->offset, cmd->offset, cmd->length, true);
        connection_commit(conn, head + cmd->length);
        count(conn, NBD_CMD_READ, cmd->length);
        answered(conn, NBD_CMD_READ);
        conn->taken_bytes += cmd->length;
        return 0;
    }
    if (r != -EAGAIN) {
        inline_error(conn, cmd, to, r);
        return 0;
    }
    request = new_payload_request(conn, cmd);
    if (request == NULL)
        return STOP;
    submit(conn, request);
    return 0;
}

/* From the page cache to the socket. A structured data chunk leaves DONE to a chunk of its
 * own behind the data: it may still fail. */
static void read_from_cache(struct connection *conn, const struct command *cmd, int file)
{
    struct request *request = new_request(conn, cmd);

    request->file = file;
    request->file_offset = (off_t)cmd->offset;
    request->data_length = cmd->length;
    request->head_length =
        (unsigned)reply_put_read_head(conn, request->head, cmd->cookie, cmd->offset,
                                      cmd->offset, cmd->length, false);
    if (conn->structured)
        request->tail_length = done_chunk(conn, request, request->tail);
    count(conn, NBD_CMD_READ, cmd->length);
    answered(conn, NBD_CMD_READ);
    conn->taken_bytes += cmd->length / 8; /* the copying is done while sending */
    connection_queue_reply(conn, request);
}

static bool is_all_zero(const struct extent_view *view, uint64_t end)
{
    for (size_t i = 0; i < view->n; i++) {
        if (!(view->first[i].flags & NBD_EXTENT_ZERO))
            return false;
        if (view->first[i].end >= end)
            return true;
    }
    return false;
}

static size_t read_hole(struct connection *conn, const struct command *cmd)
{
    uint8_t *to = connection_reserve(conn, REPLY_HEAD_MAX);

    if (to == NULL)
        return STOP;
    connection_commit(conn, reply_put_hole(conn, to, cmd->cookie, cmd->offset, cmd->offset,
                                           (uint32_t)cmd->length, true));
    count(conn, NBD_CMD_READ, cmd->length);
    answered(conn, NBD_CMD_READ);
    return 0;
}

static void on_probed(void *arg, const struct extent_view *view)
{
    struct request *request = arg;
    struct connection *conn = request->conn;

    if (!command_returned(conn, request))
        return;
    if (!is_all_zero(view, request->offset + request->length)) {
        serve(conn, request);
        request_submit_batch(conn->export);
        return;
    }
    drop_payload(conn, request);
    request->head_length =
        (unsigned)reply_put_hole(conn, request->head, request->cookie, request->offset,
                                 request->offset, (uint32_t)request->length, true);
    count(conn, NBD_CMD_READ, request->length);
    take_time(conn, request);
    connection_queue_reply(conn, request);
}

static bool may_be_hole(const struct connection *conn)
{
    return conn->structured && extents_worth_asking(conn->export);
}

/* A read with a buffer of its own. What is cold may be a hole: ask before reading zeroes. */
static size_t read_buffered(struct connection *conn, const struct command *cmd)
{
    struct request *request = new_payload_request(conn, cmd);
    uint64_t left = connection_size(conn) - cmd->offset;
    struct extent_view view;

    if (request == NULL)
        return STOP;
    conn->taken_bytes += cmd->length;
    if (!may_be_hole(conn) || extents_cached(conn->export, cmd->offset, &view)) {
        serve(conn, request);
        return 0;
    }
    command_handed_over(conn, request);
    extents_scan(conn->export, cmd->offset, MIN(left, PROBE_BYTES), on_probed, request);
    return 0;
}

static size_t read_data(struct connection *conn, const struct command *cmd)
{
    const struct nbd_handler *handler = conn->export->io;

    if (cmd->length >= SENDFILE_MIN && handler->sendfile_fd != NULL) {
        int file = handler->sendfile_fd(&conn->export->dev, cmd->offset, cmd->length);

        if (file >= 0) {
            read_from_cache(conn, cmd, file);
            return 0;
        }
        if (may_be_hole(conn))
            return read_buffered(conn, cmd);
    }
    return cmd->length <= INLINE_BYTES_MAX ? read_inline(conn, cmd) : read_buffered(conn, cmd);
}

/* The parts of a read, as chunks: runs of zeroes and runs of anything else. */
struct parts {
    struct {
        uint64_t end;
        bool zero;
    } part[PARTS_MAX];
    unsigned n, n_data;
};

/* Split [offset, offset + length) where that saves sending many zeroes. False: it does not. */
static bool split(const struct command *cmd, const struct extent_view *view,
                  struct parts *parts)
{
    uint64_t at = cmd->offset, end = cmd->offset + cmd->length, zeroes = 0;

    parts->n = parts->n_data = 0;
    for (size_t i = 0; i < view->n && at < end; i++) {
        uint64_t stop = MIN(view->first[i].end, end);
        bool zero = (view->first[i].flags & NBD_EXTENT_ZERO) && stop - at >= HOLE_WORTH;

        zeroes += zero ? stop - at : 0;
        if (parts->n > 0 && parts->part[parts->n - 1].zero == zero) {
            parts->part[parts->n - 1].end = stop;
        } else {
            if (parts->n == PARTS_MAX)
                return false;
            parts->part[parts->n].end = stop;
            parts->part[parts->n++].zero = zero;
            parts->n_data += !zero;
        }
        at = stop;
    }
    return at == end && zeroes > 0 && parts->n_data > 0;
}

/* All data parts need their memory at once: a reply that has begun must go on. Where there is
 * not enough, one buffer for all of it is waited for: that always fits, some time. */
static size_t read_parts(struct connection *conn, const struct command *cmd,
                         const struct parts *parts)
{
    struct request *requests[PARTS_MAX];
    uint8_t *to = connection_reserve(conn, PARTS_MAX * REPLY_HEAD_MAX);
    struct read_group *group;
    struct command part = *cmd;
    unsigned n = 0;

    if (to == NULL)
        return STOP;
    for (unsigned i = 0; i < parts->n; i++, part.offset += part.length) {
        part.length = parts->part[i].end - part.offset;
        if (parts->part[i].zero)
            continue;
        requests[n] = try_payload_request(conn, &part);
        if (requests[n] == NULL) {
            while (n > 0)
                connection_request_free(conn, requests[--n]);
            return read_data(conn, cmd);
        }
        requests[n++]->request_offset = cmd->offset;
    }
    group = g_new0(struct read_group, 1);
    group->left = n;
    part.offset = cmd->offset;
    for (unsigned i = 0; i < parts->n; i++, part.offset += part.length) {
        part.length = parts->part[i].end - part.offset;
        if (parts->part[i].zero)
            connection_commit(conn, reply_put_hole(conn, conn->out + conn->out_length,
                                                   cmd->cookie, cmd->offset, part.offset,
                                                   (uint32_t)part.length, false));
    }
    for (unsigned i = 0; i < n; i++) {
        requests[i]->group = group;
        serve(conn, requests[i]);
    }
    return 0;
}

size_t command_read(struct connection *conn, const struct command *cmd,
                    const struct input *payload)
{
    struct extent_view view;
    struct parts parts;

    (void)payload;
    if (!conn->structured || !extents_cached(conn->export, cmd->offset, &view))
        return read_data(conn, cmd);
    if (is_all_zero(&view, cmd->offset + cmd->length))
        return read_hole(conn, cmd);
    if (cmd->length > HOLE_WORTH && !(cmd->flags & NBD_CMD_FLAG_DF) &&
        split(cmd, &view, &parts))
        return read_parts(conn, cmd, &parts);
    return read_data(conn, cmd);
}

/* ---- WRITE ---- */

/* Its payload has only begun to come: the rest is received into its own buffer. */
static size_t begin_payload(struct connection *conn, const struct command *cmd,
                            const struct input *payload)
{
    struct request *request = new_payload_request(conn, cmd);

    if (request == NULL)
        return STOP;
    memcpy(request->buffer, payload->data, payload->length);
    request->received = payload->length;
    conn->receiving = request;
    conn->large_writes = cmd->length > LARGE_WRITE;
    return payload->length;
}

/* A write of nothing but zeroes, where the export wants that detected. */
static size_t write_zeroes(struct connection *conn, const struct command *cmd)
{
    struct request *request = new_request(conn, cmd);

    request->rq.op = NBD_OP_WRITE_ZEROES;
    serve(conn, request);
    return cmd->length;
}

size_t command_write(struct connection *conn, const struct command *cmd,
                     const struct input *payload)
{
    struct nbd_request rq = {
        .dev = &conn->export->dev, .op = NBD_OP_WRITE, .offset = cmd->offset,
        .flags = cmd->flags & NBD_RQ_FUA, .length = cmd->length, .data = payload->data,
    };
    struct request *request;
    uint8_t *to;
    int r;

    if (payload->length < cmd->length)
        return begin_payload(conn, cmd, payload);
    to = connection_reserve(conn, REPLY_HEAD_MAX + ERROR_TEXT_MAX);
    if (to == NULL)
        return STOP;
    conn->taken_bytes += cmd->length;
    extents_changed(conn->export);
    if (conn->export->detect_zeroes && is_zero(payload->data, cmd->length))
        return write_zeroes(conn, cmd);
    r = request_try_now(conn->export, &rq);
    if (r == 0) {
        inline_success(conn, cmd, to);
        return cmd->length;
    }
    if (r != -EAGAIN) {
        inline_error(conn, cmd, to, r);
        return cmd->length;
    }
    request = new_payload_request(conn, cmd);
    if (request == NULL)
        return STOP;
    memcpy(request->buffer, payload->data, cmd->length);
    submit(conn, request);
    return cmd->length;
}

void command_payload_complete(struct connection *conn)
{
    struct request *request = conn->receiving;

    conn->receiving = NULL;
    request->started_ns = conn->turn->start_ns;
    conn->taken_bytes += request->length;
    extents_changed(conn->export);
    if (conn->export->detect_zeroes && is_zero(request->buffer, request->length)) {
        drop_payload(conn, request);
        request->rq.op = NBD_OP_WRITE_ZEROES;
        request->rq.data = NULL;
    }
    if (request->rq.op == NBD_OP_WRITE && request->length > connection_turn_bytes(conn) &&
        request->length <= SLICED_MAX)
        begin_slices(conn, request);
    else
        serve(conn, request);
}

/* ---- FLUSH, TRIM, WRITE_ZEROES, CACHE: no payload either way ---- */

size_t command_simple(struct connection *conn, const struct command *cmd,
                      const struct input *payload)
{
    struct nbd_request rq = {
        .dev = &conn->export->dev, .op = cmd->type, .offset = handler_offset(cmd),
        .length = cmd->length,
        .flags = cmd->flags & (NBD_RQ_FUA | NBD_RQ_NO_HOLE | NBD_RQ_FAST_ZERO),
    };
    uint8_t *to = connection_reserve(conn, REPLY_HEAD_MAX + ERROR_TEXT_MAX);
    int r;

    (void)payload;
    if (to == NULL)
        return STOP;
    if (changes_content(cmd->type))
        extents_changed(conn->export);
    if (cmd->type == NBD_CMD_CACHE && !(conn->export->dev.caps & NBD_CAP_CACHE))
        r = 0; /* an advice: there is no cache to fill */
    else
        r = request_try_now(conn->export, &rq);
    if (r == 0 && cmd->type == NBD_CMD_FLUSH)
        r = flushed(conn, conn->export->changes);
    if (r == -EAGAIN)
        submit(conn, new_request(conn, cmd));
    else if (r == 0)
        inline_success(conn, cmd, to);
    else
        inline_error(conn, cmd, to, r);
    return 0;
}

/* ---- BLOCK_STATUS ---- */

static void on_scanned(void *arg, const struct extent_view *view)
{
    struct request *request = arg;
    struct connection *conn = request->conn;
    struct status_query query = {
        .cookie = request->cookie, .offset = request->offset, .length = request->length,
        .contexts = request->contexts, .one = request->wire_flags & NBD_CMD_FLAG_REQ_ONE,
    };

    if (!command_returned(conn, request))
        return;
    request->buffer_size = STATUS_REPLY_MAX;
    request->buffer = buffer_alloc(connection_buffers(conn), &conn->export->buffers,
                                   STATUS_REPLY_MAX, true);
    request->data = request->buffer;
    if (request->buffer != NULL)
        request->data_length = reply_put_block_status(conn, request->buffer, &query, view);
    else
        set_error_reply(conn, request, -ENOMEM);
    connection_queue_reply(conn, request);
}

size_t command_block_status(struct connection *conn, const struct command *cmd,
                            const struct input *payload)
{
    struct status_query query = {
        .cookie = cmd->cookie, .offset = cmd->offset, .length = cmd->length,
        .contexts = cmd->contexts, .one = cmd->flags & NBD_CMD_FLAG_REQ_ONE,
    };
    struct extent_view view;
    struct request *request;
    uint8_t *to;

    (void)payload;
    if (extents_cached(conn->export, cmd->offset, &view)) {
        to = connection_reserve(conn, STATUS_REPLY_MAX);
        if (to == NULL)
            return STOP;
        connection_commit(conn, reply_put_block_status(conn, to, &query, &view));
        return 0;
    }
    request = new_request(conn, cmd);
    request->contexts = cmd->contexts;
    command_handed_over(conn, request);
    extents_scan(conn->export, cmd->offset, connection_size(conn) - cmd->offset, on_scanned,
                 request);
    return 0;
}
