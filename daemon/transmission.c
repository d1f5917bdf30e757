/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The transmission phase. A request is checked once, then served in one of three ways: at
 * once, in the buffers of this turn of the loop; by sendfile(2), for large reads of what is
 * in the page cache; or asynchronously, with a buffer of its own.
 */
#include "transmission.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "log.h"
#include "nbd_protocol.h"
#include "server.h"

#define SENDFILE_MIN (16u << 10) /* below, copying costs less than two more system calls */
#define LARGE_WRITE (128u << 10) /* payloads that are received straight into their buffer */
#define ERROR_TEXT_MAX 128

/* A request as it came, in host order; the cookie stays as it is. */
struct command {
    uint16_t flags, type;
    uint64_t cookie, offset, length;
    unsigned header; /* bytes of the header on the wire */
};

/* ---- Errors ---- */

static uint32_t wire_error(int error, uint16_t type)
{
    switch (-error) {
    case 0: return NBD_SUCCESS;
    case EPERM: case EACCES: case EROFS: return NBD_EPERM;
    case ENOMEM: return NBD_ENOMEM;
    case EINVAL: return NBD_EINVAL;
    case ENOSPC: case EDQUOT: case EFBIG: return NBD_ENOSPC;
    case EOVERFLOW: return NBD_EOVERFLOW;
    case ENOTSUP: return type == NBD_CMD_WRITE_ZEROES ? NBD_ENOTSUP : NBD_EINVAL;
    case ESHUTDOWN: return NBD_ESHUTDOWN;
    default: return NBD_EIO;
    }
}

/* ---- Reply headers ---- */

static size_t put_simple(uint8_t *to, uint64_t cookie, uint32_t error)
{
    struct nbd_simple_reply reply = {
        .magic = htobe32(NBD_SIMPLE_REPLY_MAGIC), .error = htobe32(error), .cookie = cookie,
    };

    memcpy(to, &reply, sizeof(reply));
    return sizeof(reply);
}

/* The header of a chunk, structured or extended. */
static size_t put_chunk(const struct connection *conn, uint8_t *to, uint64_t cookie,
                        uint64_t offset, uint16_t type, uint16_t flags, uint64_t length)
{
    if (conn->extended) {
        struct nbd_extended_reply reply = {
            .magic = htobe32(NBD_EXTENDED_REPLY_MAGIC), .flags = htobe16(flags),
            .type = htobe16(type), .cookie = cookie, .offset = htobe64(offset),
            .length = htobe64(length),
        };

        memcpy(to, &reply, sizeof(reply));
        return sizeof(reply);
    }
    struct nbd_structured_reply reply = {
        .magic = htobe32(NBD_STRUCTURED_REPLY_MAGIC), .flags = htobe16(flags),
        .type = htobe16(type), .cookie = cookie, .length = htobe32((uint32_t)length),
    };

    memcpy(to, &reply, sizeof(reply));
    return sizeof(reply);
}

/* The head of a successful READ of `length` > 0 bytes: `last`, no other chunk follows. */
static size_t put_read_head(const struct connection *conn, uint8_t *to, uint64_t cookie,
                            uint64_t offset, uint64_t length, bool last)
{
    uint64_t wire_offset = htobe64(offset);
    size_t n;

    if (!conn->structured)
        return put_simple(to, cookie, NBD_SUCCESS);
    n = put_chunk(conn, to, cookie, offset, NBD_REPLY_TYPE_OFFSET_DATA,
                  last ? NBD_REPLY_FLAG_DONE : 0, sizeof(wire_offset) + length);
    memcpy(to + n, &wire_offset, sizeof(wire_offset));
    return n + sizeof(wire_offset);
}

static size_t read_head_size(const struct connection *conn)
{
    if (!conn->structured)
        return sizeof(struct nbd_simple_reply);
    return sizeof(uint64_t) + (conn->extended ? sizeof(struct nbd_extended_reply)
                                              : sizeof(struct nbd_structured_reply));
}

/* Success without data. */
static size_t put_success(const struct connection *conn, uint8_t *to, uint16_t type,
                          uint64_t cookie, uint64_t offset)
{
    if (!conn->structured || (!conn->extended && type != NBD_CMD_READ))
        return put_simple(to, cookie, NBD_SUCCESS);
    return put_chunk(conn, to, cookie, offset, NBD_REPLY_TYPE_NONE, NBD_REPLY_FLAG_DONE, 0);
}

/* At most REPLY_HEAD_MAX + ERROR_TEXT_MAX bytes. */
static size_t put_error(const struct connection *conn, uint8_t *to, uint64_t cookie,
                        uint64_t offset, uint32_t error, const char *text)
{
    uint32_t wire = htobe32(error);
    size_t length = MIN(strlen(text), ERROR_TEXT_MAX), n;
    uint16_t wire_length = htobe16((uint16_t)length);

    if (!conn->structured)
        return put_simple(to, cookie, error);
    n = put_chunk(conn, to, cookie, offset, NBD_REPLY_TYPE_ERROR, NBD_REPLY_FLAG_DONE,
                  sizeof(wire) + sizeof(wire_length) + length);
    memcpy(to + n, &wire, sizeof(wire));
    memcpy(to + n + 4, &wire_length, sizeof(wire_length));
    memcpy(to + n + 6, text, length);
    return n + 6 + length;
}

/* ---- Refusals: found before the handler is asked ---- */

struct refusal {
    int error;
    const char *text;
};

static bool reply_error(struct connection *conn, const struct command *cmd, int error,
                        const char *text)
{
    uint8_t *to = connection_reserve(conn, REPLY_HEAD_MAX + ERROR_TEXT_MAX);

    if (to == NULL)
        return false;
    conn->export->counters.errors++;
    connection_commit(conn, put_error(conn, to, cmd->cookie, cmd->offset,
                                      wire_error(error, cmd->type), text));
    return true;
}

static bool reply_success(struct connection *conn, const struct command *cmd)
{
    uint8_t *to = connection_reserve(conn, REPLY_HEAD_MAX);

    if (to == NULL)
        return false;
    connection_commit(conn, put_success(conn, to, cmd->type, cmd->cookie, cmd->offset));
    return true;
}

/* A failure of the storage: one line for the first, the second, the fourth, the eighth ... */
static void report(const struct connection *conn, uint16_t type, uint64_t offset,
                   uint64_t length, int error)
{
    static const char *const names[] = { "read", "write", "disconnect", "flush", "trim",
                                         "cache", "write of zeroes" };
    uint64_t n = ++conn->export->counters.errors;

    if ((n & (n - 1)) == 0)
        connection_log(conn, NBD_LOG_WARNING, "%s of %" PRIu64 " at %" PRIu64 ": %s "
                       "(error number %" PRIu64 " of this export)",
                       type < G_N_ELEMENTS(names) ? names[type] : "request", length, offset,
                       strerror(-error), n);
}

/* ---- Asynchronous requests ---- */

static void count(struct connection *conn, uint16_t type, uint64_t length)
{
    struct export_counters *counters = &conn->export->counters;

    if (type == NBD_CMD_READ) {
        counters->read_bytes += length;
        conn->read_bytes += length;
    } else if (type == NBD_CMD_WRITE) {
        counters->write_bytes += length;
        conn->write_bytes += length;
    } else if (type == NBD_CMD_WRITE_ZEROES) {
        counters->zero_bytes += length;
    }
}

static void set_error_reply(struct connection *conn, struct request *request, int error)
{
    uint8_t reply[REPLY_HEAD_MAX + ERROR_TEXT_MAX];
    size_t n = put_error(conn, reply, request->cookie, request->offset,
                         wire_error(error, request->type), strerror(-error));

    /* The text of strerror() fits; were it longer, the reply goes without it. */
    if (n > sizeof(request->head))
        n = put_error(conn, reply, request->cookie, request->offset,
                      wire_error(error, request->type), "");
    memcpy(request->head, reply, n);
    request->head_length = (unsigned)n;
    request->data_length = 0;
}

static void set_success_reply(struct connection *conn, struct request *request)
{
    count(conn, request->type, request->length);
    if (request->type != NBD_CMD_READ) {
        request->head_length = (unsigned)put_success(conn, request->head, request->type,
                                                     request->cookie, request->offset);
        return;
    }
    request->head_length = (unsigned)put_read_head(conn, request->head, request->cookie,
                                                   request->offset, request->length, true);
    request->data = request->buffer;
    request->data_length = request->length;
}

static void drop_payload(struct connection *conn, struct request *request)
{
    if (request->buffer == NULL)
        return;
    buffer_free(connection_buffers(conn), request->buffer, request->buffer_size);
    request->buffer = NULL;
}

static void on_completed(struct request *request, int result)
{
    struct connection *conn = request->conn;

    conn->in_flight--;
    if (result < 0) {
        report(conn, request->type, request->offset, request->length, result);
        set_error_reply(conn, request, result);
    } else {
        set_success_reply(conn, request);
    }
    if (request->data_length == 0)
        drop_payload(conn, request);
    connection_queue_reply(conn, request);
}

static struct request *new_request(struct connection *conn, const struct command *cmd)
{
    struct request *request = connection_request_new(conn);

    request->export = conn->export;
    request->completed = on_completed;
    request->type = cmd->type;
    request->cookie = cmd->cookie;
    request->offset = cmd->offset;
    request->length = cmd->length;
    request->rq.dev = &conn->export->dev;
    request->rq.op = cmd->type;
    request->rq.flags = cmd->flags & (NBD_RQ_FUA | NBD_RQ_NO_HOLE | NBD_RQ_FAST_ZERO);
    request->rq.offset = cmd->offset;
    request->rq.length = cmd->length;
    return request;
}

/* The same with a buffer for the payload; NULL: there is no memory now, the connection waits
 * for it. */
static struct request *new_payload_request(struct connection *conn, const struct command *cmd)
{
    struct buffer_pool *pool = connection_buffers(conn);
    /* Somebody who has nothing could wait for ever behind those who have much. */
    bool urgent = conn->in_flight == 0 && conn->n_replies == 0 && cmd->length <= 256u << 10;
    void *buffer = buffer_alloc(pool, cmd->length, urgent);
    struct request *request;

    if (buffer == NULL) {
        buffer_wait(pool, &conn->memory);
        conn->paused = true;
        return NULL;
    }
    request = new_request(conn, cmd);
    request->buffer = buffer;
    request->buffer_size = cmd->length;
    request->rq.data = buffer;
    return request;
}

static void submit(struct connection *conn, struct request *request)
{
    conn->in_flight++;
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
        on_completed(request, r);
    }
}

/* ---- Commands ----
 *
 * Each takes a checked command and the bytes behind its header; it returns the bytes of the
 * payload that it took, or STOP when the connection cannot go on with it now. */

#define STOP SIZE_MAX

static size_t do_read_inline(struct connection *conn, const struct command *cmd)
{
    size_t head = read_head_size(conn);
    uint8_t *to = connection_reserve(conn, MAX(head + cmd->length,
                                               REPLY_HEAD_MAX + ERROR_TEXT_MAX));
    struct nbd_request rq = {
        .dev = &conn->export->dev, .op = NBD_OP_READ, .offset = cmd->offset,
        .length = cmd->length,
    };
    int r;

    if (to == NULL)
        return STOP;
    rq.data = to + head;
    r = request_try_now(conn->export, &rq);
    if (r == 0) {
        put_read_head(conn, to, cmd->cookie, cmd->offset, cmd->length, true);
        connection_commit(conn, head + cmd->length);
        count(conn, NBD_CMD_READ, cmd->length);
        conn->taken_bytes += cmd->length;
        return 0;
    }
    if (r != -EAGAIN) {
        report(conn, cmd->type, cmd->offset, cmd->length, r);
        connection_commit(conn, put_error(conn, to, cmd->cookie, cmd->offset,
                                          wire_error(r, cmd->type), strerror(-r)));
        return 0;
    }
    struct request *request = new_payload_request(conn, cmd);

    if (request == NULL)
        return STOP;
    submit(conn, request);
    return 0;
}

/* From the page cache to the socket. A structured data chunk says DONE only in a chunk of its
 * own behind the data: it may still fail. */
static void do_read_sendfile(struct connection *conn, const struct command *cmd, int file)
{
    struct request *request = new_request(conn, cmd);

    request->file = file;
    request->file_offset = (off_t)cmd->offset;
    request->data_length = cmd->length;
    request->head_length = (unsigned)put_read_head(conn, request->head, cmd->cookie,
                                                   cmd->offset, cmd->length, false);
    if (conn->structured)
        request->tail_length =
            (unsigned)put_chunk(conn, request->tail, cmd->cookie, cmd->offset,
                                NBD_REPLY_TYPE_NONE, NBD_REPLY_FLAG_DONE, 0);
    count(conn, NBD_CMD_READ, cmd->length);
    conn->taken_bytes += cmd->length / 8; /* the copying is done while sending */
    connection_queue_reply(conn, request);
}

static size_t do_read(struct connection *conn, const struct command *cmd,
                      const struct input *payload)
{
    const struct nbd_handler *handler = conn->export->handler;
    struct request *request;

    (void)payload;
    if (cmd->length >= SENDFILE_MIN && handler->sendfile_fd != NULL) {
        int file = handler->sendfile_fd(&conn->export->dev, cmd->offset, cmd->length);

        if (file >= 0) {
            do_read_sendfile(conn, cmd, file);
            return 0;
        }
    }
    if (cmd->length <= INLINE_BYTES_MAX)
        return do_read_inline(conn, cmd);
    request = new_payload_request(conn, cmd);
    if (request == NULL)
        return STOP;
    conn->taken_bytes += cmd->length;
    serve(conn, request);
    return 0;
}

/* A write whose payload has only begun to come: the rest is received into its own buffer. */
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

static size_t do_write(struct connection *conn, const struct command *cmd,
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
    r = request_try_now(conn->export, &rq);
    if (r == 0) {
        connection_commit(conn, put_success(conn, to, cmd->type, cmd->cookie, cmd->offset));
        count(conn, NBD_CMD_WRITE, cmd->length);
        return cmd->length;
    }
    if (r != -EAGAIN) {
        report(conn, cmd->type, cmd->offset, cmd->length, r);
        connection_commit(conn, put_error(conn, to, cmd->cookie, cmd->offset,
                                          wire_error(r, cmd->type), strerror(-r)));
        return cmd->length;
    }
    request = new_payload_request(conn, cmd);
    if (request == NULL)
        return STOP;
    memcpy(request->buffer, payload->data, cmd->length);
    submit(conn, request);
    return cmd->length;
}

/* FLUSH, TRIM, WRITE_ZEROES, CACHE: no payload either way. */
static size_t do_simple(struct connection *conn, const struct command *cmd,
                        const struct input *payload)
{
    struct nbd_request rq = {
        .dev = &conn->export->dev, .op = cmd->type, .offset = cmd->offset,
        .length = cmd->length,
        .flags = cmd->flags & (NBD_RQ_FUA | NBD_RQ_NO_HOLE | NBD_RQ_FAST_ZERO),
    };
    uint8_t *to = connection_reserve(conn, REPLY_HEAD_MAX + ERROR_TEXT_MAX);
    int r;

    (void)payload;
    if (to == NULL)
        return STOP;
    if (cmd->type == NBD_CMD_CACHE && !(conn->export->dev.caps & NBD_CAP_CACHE))
        r = 0; /* an advice: there is no cache to fill */
    else
        r = request_try_now(conn->export, &rq);
    if (r == -EAGAIN) {
        submit(conn, new_request(conn, cmd));
    } else if (r == 0) {
        connection_commit(conn, put_success(conn, to, cmd->type, cmd->cookie, cmd->offset));
        count(conn, cmd->type, cmd->length);
    } else {
        report(conn, cmd->type, cmd->offset, cmd->length, r);
        connection_commit(conn, put_error(conn, to, cmd->cookie, cmd->offset,
                                          wire_error(r, cmd->type), strerror(-r)));
    }
    return 0;
}

/* ---- Checks ---- */

/* What each command may be; a type that is not here is unknown. */
static const struct command_rule {
    size_t (*run)(struct connection *conn, const struct command *cmd,
                  const struct input *payload);
    uint16_t flags;      /* that it may have */
    uint16_t needs;      /* transmission flag that must have been advertised, or 0 */
    bool changes;        /* refused on a read-only export */
    bool ranged;
    int past_the_end;    /* error of a range that leaves the export */
} rules[] = {
    [NBD_CMD_READ] = { do_read, NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_DF, 0, false, true, -EINVAL },
    [NBD_CMD_WRITE] = { do_write, NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_PAYLOAD_LEN, 0, true, true,
                        -ENOSPC },
    [NBD_CMD_FLUSH] = { do_simple, NBD_CMD_FLAG_FUA, NBD_FLAG_SEND_FLUSH, false, false, 0 },
    [NBD_CMD_TRIM] = { do_simple, NBD_CMD_FLAG_FUA, NBD_FLAG_SEND_TRIM, true, true, -EINVAL },
    [NBD_CMD_CACHE] = { do_simple, NBD_CMD_FLAG_FUA, 0, false, true, -EINVAL },
    [NBD_CMD_WRITE_ZEROES] = { do_simple, NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE |
                               NBD_CMD_FLAG_FAST_ZERO, 0, true, true, -ENOSPC },
};

static const struct command_rule *find_rule(uint16_t type)
{
    return type < G_N_ELEMENTS(rules) && rules[type].run != NULL ? &rules[type] : NULL;
}

static bool has_payload(const struct connection *conn, const struct command *cmd)
{
    return cmd->type == NBD_CMD_WRITE ||
           (conn->extended && (cmd->flags & NBD_CMD_FLAG_PAYLOAD_LEN));
}

static struct refusal check_flags(const struct connection *conn, const struct command *cmd,
                                  const struct command_rule *rule)
{
    uint16_t allowed = rule->flags;

    if (!conn->extended)
        allowed &= (uint16_t)~NBD_CMD_FLAG_PAYLOAD_LEN;
    if (!conn->structured)
        allowed &= (uint16_t)~NBD_CMD_FLAG_DF;
    if (!(conn->flags & NBD_FLAG_SEND_FAST_ZERO))
        allowed &= (uint16_t)~NBD_CMD_FLAG_FAST_ZERO;
    if (!(conn->flags & NBD_FLAG_SEND_FUA) && !conn->readonly)
        allowed &= (uint16_t)~NBD_CMD_FLAG_FUA;
    if (cmd->flags & ~allowed)
        return (struct refusal){ -EINVAL, "a flag that this command does not have here" };
    if (conn->extended && cmd->type == NBD_CMD_WRITE &&
        !(cmd->flags & NBD_CMD_FLAG_PAYLOAD_LEN))
        return (struct refusal){ -EINVAL, "a write needs PAYLOAD_LEN after EXTENDED_HEADERS" };
    return (struct refusal){ 0, NULL };
}

static struct refusal check_range(const struct connection *conn, const struct command *cmd,
                                  const struct command_rule *rule)
{
    const struct export *export = conn->export;

    if (cmd->offset > export->size || cmd->length > export->size - cmd->offset)
        return (struct refusal){ rule->past_the_end, "the range leaves the export" };
    if ((cmd->type == NBD_CMD_READ || cmd->type == NBD_CMD_WRITE) &&
        cmd->length > EXPORT_MAX_BLOCK)
        return (struct refusal){ conn->structured ? -EOVERFLOW : -EINVAL,
                                 "the request is larger than the maximum block size" };
    if (((cmd->offset | cmd->length) & (export->min_block - 1)) != 0)
        return (struct refusal){ -EINVAL, "the range is not aligned to the minimum block size" };
    return (struct refusal){ 0, NULL };
}

static struct refusal check(const struct connection *conn, const struct command *cmd,
                            const struct command_rule *rule)
{
    struct refusal refusal;

    if (conn->server->stopping && conn->mapping == NULL)
        return (struct refusal){ -ESHUTDOWN, "the server is shutting down" };
    if (rule == NULL)
        return (struct refusal){ -EINVAL, "unknown command" };
    refusal = check_flags(conn, cmd, rule);
    if (refusal.error != 0)
        return refusal;
    if (rule->changes && conn->readonly)
        return (struct refusal){ -EPERM, "the export is read-only" };
    if (rule->needs != 0 && !(conn->flags & rule->needs) && !conn->readonly)
        return (struct refusal){ -EINVAL, "the export does not offer this command" };
    if (rule->ranged)
        return check_range(conn, cmd, rule);
    return refusal;
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
                                 be64toh(wire->offset), be64toh(wire->length), sizeof(*wire) };
        return be32toh(wire->magic) == NBD_EXTENDED_REQUEST_MAGIC ? sizeof(*wire) : SIZE_MAX;
    }
    const struct nbd_compact_request *wire = (const void *)input->data;

    if (input->length < sizeof(*wire))
        return 0;
    *cmd = (struct command){ be16toh(wire->flags), be16toh(wire->type), wire->cookie,
                             be64toh(wire->offset), be32toh(wire->length), sizeof(*wire) };
    return be32toh(wire->magic) == NBD_REQUEST_MAGIC ? sizeof(*wire) : SIZE_MAX;
}

/* Answer with an error and skip the payload, if there is one. */
static size_t refuse(struct connection *conn, const struct command *cmd,
                     const struct refusal *refusal)
{
    if (has_payload(conn, cmd) && cmd->length > EXPORT_MAX_BLOCK && conn->extended) {
        connection_close(conn, "a payload larger than the maximum block size");
        return 0;
    }
    if (!reply_error(conn, cmd, refusal->error, refusal->text))
        return 0;
    if (has_payload(conn, cmd))
        conn->payload_drain = cmd->length;
    return cmd->header;
}

static size_t skip_payload(struct connection *conn, const struct input *input)
{
    size_t n = MIN(input->length, conn->payload_drain);

    conn->payload_drain -= n;
    return n;
}

size_t transmission_receive(struct connection *conn, const struct input *input)
{
    const struct command_rule *rule;
    struct command cmd;
    struct refusal refusal;
    struct input payload;
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
    if (conn->in_flight + conn->n_replies >= IN_FLIGHT_MAX) {
        conn->paused = true;
        return 0;
    }
    rule = find_rule(cmd.type);
    refusal = check(conn, &cmd, rule);
    if (refusal.error != 0)
        return refuse(conn, &cmd, &refusal);
    if (rule->ranged && cmd.length == 0)
        return reply_success(conn, &cmd) ? n : 0;
    if (!rule->ranged)
        cmd.offset = cmd.length = 0;
    payload = (struct input){ input->data + n, input->length - n };
    conn->large_writes = false;
    size_t taken = rule->run(conn, &cmd, &payload);

    if (taken == STOP)
        return 0;
    conn->requests++;
    conn->export->counters.requests++;
    return n + taken;
}

void transmission_payload_complete(struct connection *conn)
{
    struct request *request = conn->receiving;

    conn->receiving = NULL;
    conn->taken_bytes += request->length;
    serve(conn, request);
}

void transmission_file_failed(struct connection *conn, struct request *request, int error)
{
    size_t rest = request->head_length + request->data_length - request->sent;
    void *padding;

    report(conn, request->type, request->offset, request->length, error);
    /* A simple reply has said success already; nothing can take that back. */
    padding = conn->structured ? buffer_alloc(connection_buffers(conn), rest, true) : NULL;
    if (padding == NULL) {
        connection_close(conn, "the storage failed in the middle of a reply");
        return;
    }
    memset(padding, 0, rest);
    request->file = -1;
    request->buffer = padding;
    request->buffer_size = rest;
    /* What was sent of the data is gone; the padding stands for the rest of it. */
    request->data = (uint8_t *)padding - (request->data_length - rest);
    request->tail_length =
        (unsigned)put_error(conn, request->tail, request->cookie, request->offset,
                            wire_error(error, request->type), "");
}

void transmission_abandon(struct connection *conn)
{
    if (conn->receiving == NULL)
        return;
    connection_request_free(conn, conn->receiving);
    conn->receiving = NULL;
}
