/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What the NBD commands have in common, and those without data either way. A command is served
 * in one of three ways: at once, in the buffers of this turn of the loop; by sendfile(2), for
 * large reads of what is in the page cache; or asynchronously, with a buffer of its own. Here
 * is how all of them are answered and counted. Loop thread.
 */
#include "commands_private.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "away.h"
#include "expiry.h"
#include "extents.h"

/* Not ETIMEDOUT: that a handler may say as well. */
#define EXPIRED (-ETIME)
#define AWAY (-ENOLINK)

/* ---- Errors and times ---- */

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

void command_take_time(struct connection *conn, const struct request *request)
{
    enum latency_class class = latency_classes[request->type];

    if (conn->taking && request->started_ns == conn->turn->start_ns)
        command_answered(conn, request->type);
    else if (class != LATENCY_NONE)
        histogram_add(&conn->export->tally.latencies->now.of[class],
                      connection_now_ns(conn) - request->started_ns, 1);
}

void command_inline_error(struct connection *conn, const struct command *cmd, uint8_t *to,
                          int r)
{
    command_report(conn, cmd->type, cmd->offset, cmd->length, r);
    command_answered(conn, cmd->type);
    connection_commit(conn, reply_put_error(conn, to, cmd->cookie, cmd->offset,
                                            reply_wire_error(r, cmd->type), strerror(-r)));
}

/* ---- Requests that complete later ---- */

void command_drop_payload(struct connection *conn, struct request *request)
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

void command_set_error(struct connection *conn, struct request *request, int error)
{
    request->head_length = short_error(conn, request, request->head, error);
    command_drop_payload(conn, request);
}

static void set_success_reply(struct connection *conn, struct request *request, bool last)
{
    command_count(conn, request->type, request->length);
    if (request->type != NBD_CMD_READ) {
        request->head_length =
            (unsigned)reply_put_success(conn, request->head, request->type, request->cookie,
                                        request->request_offset);
        command_drop_payload(conn, request);
        return;
    }
    request->head_length =
        (unsigned)reply_put_read_head(conn, request->head, request->cookie,
                                      request->request_offset, request->offset,
                                      request->length, last);
    request->data = request->buffer;
    request->data_length = request->length;
}

static void complete_part(struct connection *conn, struct request *request, int result)
{
    struct read_group *group = request->group;

    if (result == 0) {
        set_success_reply(conn, request, false);
    } else {
        group->error = group->error != 0 ? group->error : result;
        command_drop_payload(conn, request);
    }
    if (--group->left > 0)
        return;
    command_take_time(conn, request);
    request->tail_length = group->error != 0
                               ? short_error(conn, request, request->tail, group->error)
                               : command_put_done(conn, request, request->tail);
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
        command_take_time(conn, answer);
    if (answer->group != NULL)
        complete_part(conn, answer, EXPIRED);
    else
        command_set_error(conn, answer, EXPIRED);
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

static bool changes_content(uint16_t type)
{
    return type == NBD_CMD_WRITE || type == NBD_CMD_TRIM || type == NBD_CMD_WRITE_ZEROES;
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

void command_completed(struct request *request, int result)
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
        command_take_time(conn, request);
    if (request->group != NULL)
        complete_part(conn, request, result);
    else if (result < 0)
        command_set_error(conn, request, result);
    else
        set_success_reply(conn, request, true);
    connection_queue_reply(conn, request);
}

/* What the handler gets: a flush has no range, whatever its header says. */
static uint64_t handler_offset(const struct command *cmd)
{
    return cmd->type == NBD_CMD_FLUSH ? 0 : cmd->offset;
}

struct request *command_new_request(struct connection *conn, const struct command *cmd)
{
    struct request *request = connection_request_new(conn);

    request->export = conn->export;
    request->completed = command_completed;
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

struct request *command_try_payload_request(struct connection *conn, const struct command *cmd)
{
    struct buffer_pool *pool = connection_buffers(conn);
    /* Somebody who has nothing could wait for ever behind those who have much. */
    bool urgent = connection_backlog(conn) == 0 && cmd->length <= 256u << 10;
    void *buffer = buffer_alloc(pool, &conn->export->buffers, cmd->length, urgent);
    struct request *request;

    if (buffer == NULL)
        return NULL;
    request = command_new_request(conn, cmd);
    request->buffer = buffer;
    request->buffer_size = cmd->length;
    request->rq.data = buffer;
    return request;
}

struct request *command_new_payload_request(struct connection *conn, const struct command *cmd)
{
    struct request *request = command_try_payload_request(conn, cmd);

    if (request == NULL)
        connection_wait_memory(conn, cmd->length);
    return request;
}

void command_submit(struct connection *conn, struct request *request)
{
    command_handed_over(conn, request);
    if (changes_content(request->type))
        extents_changed(conn->export);
    request->changes = conn->export->changes;
    request_submit(request);
}

void command_serve(struct connection *conn, struct request *request)
{
    int r = request_try_now(conn->export, &request->rq);

    if (r == -EAGAIN) {
        command_submit(conn, request);
    } else {
        conn->in_flight++;
        conn->export->in_flight++;
        command_completed(request, r);
    }
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
        command_submit(conn, command_new_request(conn, cmd));
    else if (r == 0)
        command_inline_success(conn, cmd, to);
    else
        command_inline_error(conn, cmd, to, r);
    return 0;
}
