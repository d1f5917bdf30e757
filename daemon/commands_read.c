/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * READ: in the output buffer, from the page cache to the socket, or with a buffer of its own;
 * zeroes as holes, and a long read in chunks where that saves sending zeroes. Loop thread.
 */
#include "commands_private.h"

#include <errno.h>

#include "extents.h"

#define SENDFILE_MIN (16u << 10) /* below, copying costs less than two more system calls */
#define HOLE_WORTH (32u << 10)   /* zeroes in a read that are worth a chunk of their own */
#define PARTS_MAX 16             /* chunks that a read is split into */
#define PROBE_BYTES (256u << 20) /* asked about at once, when a cold read wants to know */

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
        command_count(conn, NBD_CMD_READ, cmd->length);
        command_answered(conn, NBD_CMD_READ);
        conn->taken_bytes += cmd->length;
        return 0;
    }
    if (r != -EAGAIN) {
        command_inline_error(conn, cmd, to, r);
        return 0;
    }
    request = command_new_payload_request(conn, cmd);
    if (request == NULL)
        return STOP;
    command_submit(conn, request);
    return 0;
}

/* From the page cache to the socket. A structured data chunk leaves DONE to a chunk of its
 * own behind the data: it may still fail. */
static void read_from_cache(struct connection *conn, const struct command *cmd, int file)
{
    struct request *request = command_new_request(conn, cmd);

    request->file = file;
    request->file_offset = (off_t)cmd->offset;
    request->data_length = cmd->length;
    request->head_length =
        (unsigned)reply_put_read_head(conn, request->head, cmd->cookie, cmd->offset,
                                      cmd->offset, cmd->length, false);
    if (conn->structured)
        request->tail_length = command_put_done(conn, request, request->tail);
    command_count(conn, NBD_CMD_READ, cmd->length);
    command_answered(conn, NBD_CMD_READ);
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
    command_count(conn, NBD_CMD_READ, cmd->length);
    command_answered(conn, NBD_CMD_READ);
    return 0;
}

static void on_probed(void *arg, const struct extent_view *view)
{
    struct request *request = arg;
    struct connection *conn = request->conn;

    if (!command_returned(conn, request))
        return;
    if (!is_all_zero(view, request->offset + request->length)) {
        command_serve(conn, request);
        request_submit_batch(conn->export);
        return;
    }
    command_drop_payload(conn, request);
    request->head_length =
        (unsigned)reply_put_hole(conn, request->head, request->cookie, request->offset,
                                 request->offset, (uint32_t)request->length, true);
    command_count(conn, NBD_CMD_READ, request->length);
    command_take_time(conn, request);
    connection_queue_reply(conn, request);
}

static bool may_be_hole(const struct connection *conn)
{
    return conn->structured && extents_worth_asking(conn->export);
}

/* A read with a buffer of its own. What is cold may be a hole: ask before reading zeroes. */
static size_t read_buffered(struct connection *conn, const struct command *cmd)
{
    struct request *request = command_new_payload_request(conn, cmd);
    uint64_t left = connection_size(conn) - cmd->offset;
    struct extent_view view;

    if (request == NULL)
        return STOP;
    conn->taken_bytes += cmd->length;
    if (!may_be_hole(conn) || extents_cached(conn->export, cmd->offset, &view)) {
        command_serve(conn, request);
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
        requests[n] = command_try_payload_request(conn, &part);
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
        command_serve(conn, requests[i]);
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
