/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * WRITE: at once from the receive buffer, from a buffer of its own, or slice by slice. Loop
 * thread.
 */
#include "commands_private.h"

#include <errno.h>
#include <string.h>

#include "extents.h"

#define LARGE_WRITE (128u << 10) /* payloads that are received straight into their buffer */
#define SLICED_MAX (4u << 20)    /* longer writes are left to the storage, off the loop */
#define SLICE_ALIGN 4096         /* where a slice of a write ends */

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
    command_completed(request, r);
}

/* From its beginning: writing the same bytes twice changes nothing. */
void command_write_rest(struct connection *conn)
{
    struct request *request = conn->writing;

    conn->writing = NULL;
    conn->in_flight--;
    conn->export->in_flight--;
    command_submit(conn, request);
    request_submit_batch(conn->export);
}

/* ---- WRITE ---- */

static bool is_zero(const uint8_t *data, size_t length)
{
    return length >= 16 && memcmp(data, (const uint8_t[16]){ 0 }, 16) == 0 &&
           memcmp(data, data + 16, length - 16) == 0;
}

/* Its payload has only begun to come: the rest is received into its own buffer. */
static size_t begin_payload(struct connection *conn, const struct command *cmd,
                            const struct input *payload)
{
    struct request *request = command_new_payload_request(conn, cmd);

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
    struct request *request = command_new_request(conn, cmd);

    request->rq.op = NBD_OP_WRITE_ZEROES;
    command_serve(conn, request);
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
        command_inline_success(conn, cmd, to);
        return cmd->length;
    }
    if (r != -EAGAIN) {
        command_inline_error(conn, cmd, to, r);
        return cmd->length;
    }
    request = command_new_payload_request(conn, cmd);
    if (request == NULL)
        return STOP;
    memcpy(request->buffer, payload->data, cmd->length);
    command_submit(conn, request);
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
        command_drop_payload(conn, request);
        request->rq.op = NBD_OP_WRITE_ZEROES;
        request->rq.data = NULL;
    }
    if (request->rq.op == NBD_OP_WRITE && request->length > connection_turn_bytes(conn) &&
        request->length <= SLICED_MAX)
        begin_slices(conn, request);
    else
        command_serve(conn, request);
}
