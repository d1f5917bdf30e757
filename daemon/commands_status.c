/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * BLOCK_STATUS: what the cache of extents knows at once, the rest when its handler has told.
 * Loop thread. Which extents there are is extents.c's.
 */
#include "commands_private.h"

#include <errno.h>

#include "extents.h"

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
        command_set_error(conn, request, -ENOMEM);
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
    request = command_new_request(conn, cmd);
    request->contexts = cmd->contexts;
    command_handed_over(conn, request);
    extents_scan(conn->export, cmd->offset, connection_size(conn) - cmd->offset, on_scanned,
                 request);
    return 0;
}
