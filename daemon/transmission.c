/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The transmission phase: takes requests off the input, checks each once against a table of
 * rules and hands it to its command, or refuses it. The payload of a refused request is
 * skipped, so that the stream stays in step.
 */
#include "transmission.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <string.h>

#include <glib.h>

#include "commands.h"
#include "log.h"
#include "meta_context.h"
#include "nbd_protocol.h"
#include "reply.h"
#include "server.h"

/* ---- Rules ---- */

/* What each command may be; a type that is not here is unknown. */
static const struct rule {
    command_fn *run;
    uint16_t flags;   /* that it may have */
    uint16_t needs;   /* transmission flag that must have been offered, or 0 */
    bool changes;     /* refused on a read-only export */
    bool ranged;      /* has an offset and a length */
    int past_the_end; /* error for a range that leaves the export */
} rules[] = {
    [NBD_CMD_READ] = { command_read, NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_DF, 0, false, true,
                       -EINVAL },
    [NBD_CMD_WRITE] = { command_write, NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_PAYLOAD_LEN, 0, true,
                        true, -ENOSPC },
    [NBD_CMD_FLUSH] = { command_simple, NBD_CMD_FLAG_FUA, NBD_FLAG_SEND_FLUSH, false, false,
                        0 },
    [NBD_CMD_TRIM] = { command_simple, NBD_CMD_FLAG_FUA, NBD_FLAG_SEND_TRIM, true, true,
                       -EINVAL },
    [NBD_CMD_CACHE] = { command_simple, NBD_CMD_FLAG_FUA, 0, false, true, -EINVAL },
    [NBD_CMD_WRITE_ZEROES] = { command_simple,
                               NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE |
                                   NBD_CMD_FLAG_FAST_ZERO,
                               0, true, true, -ENOSPC },
    [NBD_CMD_BLOCK_STATUS] = { command_block_status,
                               NBD_CMD_FLAG_REQ_ONE | NBD_CMD_FLAG_PAYLOAD_LEN, 0, false, true,
                               -EINVAL },
};

static const struct rule *find_rule(uint16_t type)
{
    return type < G_N_ELEMENTS(rules) && rules[type].run != NULL ? &rules[type] : NULL;
}

/* ---- Checks: found before the handler is asked ---- */

struct refusal {
    int error; /* negative errno; 0: none */
    const char *text;
};

#define ACCEPTED ((struct refusal){ 0, NULL })

/* Do bytes of payload follow the header? */
static bool has_payload(const struct connection *conn, const struct command *cmd)
{
    return cmd->type == NBD_CMD_WRITE ||
           (conn->extended && (cmd->flags & NBD_CMD_FLAG_PAYLOAD_LEN));
}

static uint16_t allowed_flags(const struct connection *conn, const struct command *cmd,
                              const struct rule *rule)
{
    uint16_t allowed = rule->flags;

    if (!conn->extended || (cmd->type == NBD_CMD_BLOCK_STATUS &&
                            !(conn->flags & NBD_FLAG_BLOCK_STATUS_PAYLOAD)))
        allowed &= (uint16_t)~NBD_CMD_FLAG_PAYLOAD_LEN;
    if (!conn->structured)
        allowed &= (uint16_t)~NBD_CMD_FLAG_DF;
    if (!(conn->flags & NBD_FLAG_SEND_FAST_ZERO))
        allowed &= (uint16_t)~NBD_CMD_FLAG_FAST_ZERO;
    if (!(conn->flags & NBD_FLAG_SEND_FUA) && !conn->readonly)
        allowed &= (uint16_t)~NBD_CMD_FLAG_FUA;
    return allowed;
}

static struct refusal check_flags(const struct connection *conn, const struct command *cmd,
                                  const struct rule *rule)
{
    if (cmd->flags & ~allowed_flags(conn, cmd, rule))
        return (struct refusal){ -EINVAL, "a flag that this command does not have here" };
    if (conn->extended && cmd->type == NBD_CMD_WRITE &&
        !(cmd->flags & NBD_CMD_FLAG_PAYLOAD_LEN))
        return (struct refusal){ -EINVAL, "a write needs PAYLOAD_LEN after EXTENDED_HEADERS" };
    return ACCEPTED;
}

static struct refusal check_range(const struct connection *conn, const struct command *cmd,
                                  const struct rule *rule)
{
    const struct export *export = conn->export;
    uint64_t size = connection_size(conn);

    if (cmd->offset > size || cmd->length > size - cmd->offset)
        return (struct refusal){ rule->past_the_end, "the range leaves the export" };
    if ((cmd->type == NBD_CMD_READ || cmd->type == NBD_CMD_WRITE) &&
        cmd->length > EXPORT_MAX_BLOCK)
        return (struct refusal){ conn->structured ? -EOVERFLOW : -EINVAL,
                                 "the request is larger than the maximum block size" };
    if (((cmd->offset | cmd->length) & (export->min_block - 1)) != 0)
        return (struct refusal){ -EINVAL, "the range is not aligned to the minimum block size" };
    return ACCEPTED;
}

static struct refusal check_status(const struct connection *conn, const struct command *cmd)
{
    if (conn->contexts == 0)
        return (struct refusal){ -EINVAL, "no metadata context was selected" };
    if (cmd->length == 0)
        return (struct refusal){ -EINVAL, "a block status needs a length" };
    return ACCEPTED;
}

/* Requests that were answered after their request_timeout, but that the storage has never
 * ended, keep their memory: at some point no more are added. */
static bool is_clogged(const struct export *export)
{
    return export->orphans >= IN_FLIGHT_MAX ||
           export->orphan_bytes > export->server->config->max_inflight_bytes / 4;
}

static struct refusal check(const struct connection *conn, const struct command *cmd,
                            const struct rule *rule)
{
    struct refusal refusal = ACCEPTED;

    if (conn->server->stopping && conn->mapping == NULL)
        return (struct refusal){ -ESHUTDOWN, "the server is shutting down" };
    if (rule == NULL)
        return (struct refusal){ -EINVAL, "unknown command" };
    if (conn->export->orphans > 0 && is_clogged(conn->export))
        return (struct refusal){ -EIO, "the storage has too many requests that it does not end" };
    refusal = check_flags(conn, cmd, rule);
    if (refusal.error != 0)
        return refusal;
    if (rule->changes && conn->readonly)
        return (struct refusal){ -EPERM, "the export is read-only" };
    if (rule->needs != 0 && !(conn->flags & rule->needs) && !conn->readonly)
        return (struct refusal){ -EINVAL, "the export does not offer this command" };
    if (cmd->type == NBD_CMD_BLOCK_STATUS)
        refusal = check_status(conn, cmd);
    if (refusal.error == 0 && rule->ranged)
        refusal = check_range(conn, cmd, rule);
    return refusal;
}

/* ---- Refusing ---- */

static bool reply_error(struct connection *conn, const struct command *cmd,
                        const struct refusal *refusal)
{
    uint8_t *to = connection_reserve(conn, REPLY_HEAD_MAX + ERROR_TEXT_MAX);
    uint32_t wire = reply_wire_error(refusal->error, cmd->type);

    if (to == NULL)
        return false;
    conn->export->tally.now.errors[error_kind_of(wire)]++;
    connection_commit(conn, reply_put_error(conn, to, cmd->cookie, cmd->offset, wire,
                                            refusal->text));
    return true;
}

/* Answer with an error and skip the payload, of which `payload_length` bytes follow. */
static size_t refuse(struct connection *conn, const struct command *cmd,
                     const struct refusal *refusal, uint64_t payload_length)
{
    if (conn->extended && payload_length > EXPORT_MAX_BLOCK) {
        connection_close(conn, "a payload larger than the maximum block size");
        return 0;
    }
    if (!reply_error(conn, cmd, refusal))
        return 0;
    conn->payload_drain = payload_length;
    return cmd->header;
}

static size_t skip_payload(struct connection *conn, const struct input *input)
{
    size_t n = MIN(input->length, conn->payload_drain);

    conn->payload_drain -= n;
    return n;
}

/* A request for no bytes at all is done. */
static size_t reply_nothing(struct connection *conn, const struct command *cmd)
{
    uint8_t *to = connection_reserve(conn, REPLY_HEAD_MAX);

    if (to == NULL)
        return 0;
    connection_commit(conn, reply_put_success(conn, to, cmd->type, cmd->cookie, cmd->offset));
    return cmd->header;
}

/* ---- BLOCK_STATUS with a payload: its real length, and which contexts ---- */

static uint64_t get64(const uint8_t *p)
{
    uint64_t value;

    memcpy(&value, p, sizeof(value));
    return be64toh(value);
}

/* The context with this id, a bit; 0 when it is not selected. */
static unsigned selected_context(const struct connection *conn, const uint8_t *p)
{
    uint32_t id;

    memcpy(&id, p, sizeof(id));
    id = be32toh(id);
    for (unsigned i = 0; i < N_META_CONTEXTS; i++)
        if ((conn->contexts & 1u << i) && meta_context_id(i) == id)
            return 1u << i;
    return 0;
}

/* Reads the payload. False: it makes no sense. */
static bool parse_status_payload(const struct connection *conn, struct command *cmd,
                                 const uint8_t *payload)
{
    uint64_t ids = cmd->length - 8;

    cmd->contexts = 0;
    for (uint64_t at = 0; at < ids; at += 4) {
        unsigned context = selected_context(conn, payload + 8 + at);

        if (context == 0 || (cmd->contexts & context))
            return false;
        cmd->contexts |= context;
    }
    cmd->length = get64(payload);
    return cmd->contexts != 0;
}

static size_t receive_status_payload(struct connection *conn, struct command *cmd,
                                     const struct input *input)
{
    static const struct refusal malformed = {
        -EINVAL, "the payload of a block status is a length and ids of selected contexts"
    };
    static const struct rule *rule = &rules[NBD_CMD_BLOCK_STATUS];
    uint64_t payload = cmd->length;
    struct refusal refusal;
    size_t taken;

    if (payload < 12 || payload > 8 + 4 * N_META_CONTEXTS || payload % 4 != 0)
        return refuse(conn, cmd, &malformed, payload);
    if (input->length - cmd->header < payload)
        return 0;
    if (!parse_status_payload(conn, cmd, input->data + cmd->header))
        return refuse(conn, cmd, &malformed, payload);
    refusal = check(conn, cmd, rule);
    if (refusal.error != 0)
        return refuse(conn, cmd, &refusal, payload);
    taken = rule->run(conn, cmd, input);
    return taken == COMMAND_STOP ? 0 : cmd->header + payload;
}

/* ---- Requests in ---- */

/* The header of a request: its length, 0 when it is not all there, or SIZE_MAX when it is no
 * request at all. */
static size_t parse_header(const struct connection *conn, const struct input *input,
                           struct command *cmd)
{
    if (conn->extended) {
        const struct nbd_extended_request *wire = (const void *)input->data;

        if (input->length < sizeof(*wire))
            return 0;
        *cmd = (struct command){ be16toh(wire->flags), be16toh(wire->type), wire->cookie,
                                 be64toh(wire->offset), be64toh(wire->length), sizeof(*wire),
                                 conn->contexts };
        return be32toh(wire->magic) == NBD_EXTENDED_REQUEST_MAGIC ? sizeof(*wire) : SIZE_MAX;
    }
    const struct nbd_compact_request *wire = (const void *)input->data;

    if (input->length < sizeof(*wire))
        return 0;
    *cmd = (struct command){ be16toh(wire->flags), be16toh(wire->type), wire->cookie,
                             be64toh(wire->offset), be32toh(wire->length), sizeof(*wire),
                             conn->contexts };
    return be32toh(wire->magic) == NBD_REQUEST_MAGIC ? sizeof(*wire) : SIZE_MAX;
}

/* Is each change to be on stable storage when it is answered? */
static bool is_sync(const struct export *export)
{
    return export->sync && (export->dev.caps & (NBD_CAP_FUA | NBD_CAP_FLUSH));
}

/* A whole header: check it and run its command. */
static size_t receive_command(struct connection *conn, struct command *cmd,
                              const struct input *input)
{
    const struct rule *rule = find_rule(cmd->type);
    struct input payload = { input->data + cmd->header, input->length - cmd->header };
    struct refusal refusal;
    size_t taken;

    if (cmd->type == NBD_CMD_BLOCK_STATUS && (cmd->flags & NBD_CMD_FLAG_PAYLOAD_LEN) &&
        (conn->flags & NBD_FLAG_BLOCK_STATUS_PAYLOAD))
        return receive_status_payload(conn, cmd, input);
    refusal = check(conn, cmd, rule);
    if (refusal.error != 0)
        return refuse(conn, cmd, &refusal, has_payload(conn, cmd) ? cmd->length : 0);
    if (rule->ranged && cmd->length == 0)
        return reply_nothing(conn, cmd);
    if (!rule->ranged)
        cmd->length = 0; /* the offset comes back in an extended reply */
    if (rule->changes && is_sync(conn->export))
        cmd->flags |= NBD_CMD_FLAG_FUA;
    conn->large_writes = false;
    taken = rule->run(conn, cmd, &payload);
    return taken == COMMAND_STOP ? 0 : cmd->header + taken;
}

size_t transmission_receive(struct connection *conn, const struct input *input)
{
    struct command cmd;
    size_t n;

    if (conn->payload_drain > 0)
        return skip_payload(conn, input);
    n = parse_header(conn, input, &cmd);
    if (n == 0)
        return 0;
    if (n == SIZE_MAX) {
        connection_close(conn, "a request with a wrong magic number");
        return 0;
    }
    if (cmd.type == NBD_CMD_DISC) {
        connection_finish(conn, "the client disconnected");
        return n;
    }
    if (connection_backlog(conn) >= IN_FLIGHT_MAX) {
        conn->paused = true;
        return 0;
    }
    n = receive_command(conn, &cmd, input);
    if (n > 0) {
        conn->requests++;
        if (cmd.type < N_COMMANDS)
            conn->export->tally.now.requests[cmd.type]++;
    }
    return n;
}

/* ---- When something goes wrong later ---- */

/* Bytes of the data of a reply that have left already. */
static size_t sent_data(const struct request *request)
{
    size_t n = request->sent > request->head_length ? request->sent - request->head_length : 0;

    return MIN(n, request->data_length);
}

/* The rest of the data comes from this buffer instead, which the request then owns. */
static void take_rest(struct request *request, void *buffer)
{
    size_t done = sent_data(request);

    request->file = -1;
    request->buffer = buffer;
    request->buffer_size = request->data_length - done;
    request->data = (uint8_t *)buffer - done;
}

void transmission_file_failed(struct connection *conn, struct request *request, int error)
{
    size_t rest = request->data_length - sent_data(request);
    void *padding;

    command_report(conn, request->type, request->offset, request->length, error);
    /* A simple reply has said success already; nothing can take that back. */
    padding = conn->structured ? buffer_alloc(connection_buffers(conn), &conn->export->buffers,
                                              rest, true) : NULL;
    if (padding == NULL) {
        connection_close(conn, "the storage failed in the middle of a reply");
        return;
    }
    memset(padding, 0, rest);
    take_rest(request, padding);
    request->tail_length =
        (unsigned)reply_put_error(conn, request->tail, request->cookie,
                                  request->request_offset,
                                  reply_wire_error(error, request->type), "");
}

bool transmission_is_cached(const struct connection *conn, const struct request *request)
{
    uint64_t done = sent_data(request);

    return done == request->data_length ||
           conn->export->handler->sendfile_fd(&conn->export->dev, request->offset + done,
                                              request->length - done) >= 0;
}

static void on_loaded(struct request *request, int result)
{
    struct connection *conn = request->conn;

    command_returned(conn, request);
    request->loading = false;
    if (result == 0) {
        take_rest(request, request->rq.data);
    } else {
        buffer_free(connection_buffers(conn), &conn->export->buffers, request->rq.data,
                    request->data_length - sent_data(request));
        transmission_file_failed(conn, request, result);
    }
    connection_touch(conn);
}

void transmission_load(struct connection *conn, struct request *request)
{
    uint64_t done = sent_data(request);

    assert(!request->loading);
    request->rq.offset = request->offset + done;
    request->rq.length = request->length - done;
    request->rq.flags = 0;
    request->rq.data = buffer_alloc(connection_buffers(conn), &conn->export->buffers,
                                    request->rq.length, true);
    if (request->rq.data == NULL) {
        transmission_file_failed(conn, request, -ENOMEM);
        return;
    }
    request->loading = true;
    request->completed = on_loaded;
    command_handed_over(conn, request);
    request_submit(request);
    request_submit_batch(conn->export);
}

void transmission_abandon(struct connection *conn)
{
    if (conn->writing != NULL)
        command_write_rest(conn);
    if (conn->receiving == NULL)
        return;
    connection_request_free(conn, conn->receiving);
    conn->receiving = NULL;
}
