/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What the files of the commands share: commands*.c, nobody else. Loop thread.
 */
#ifndef NR_COMMANDS_PRIVATE_H
#define NR_COMMANDS_PRIVATE_H

#include "commands.h"
#include "nbd_protocol.h"
#include "reply.h"

#define STOP COMMAND_STOP

/* A read that is answered in several chunks: the last one to be ready says DONE. */
struct read_group {
    unsigned left; /* parts that are not ready */
    int error;     /* of the first part that failed, or 0 */
};

/* ---- Counting ---- */

static inline void command_count(struct connection *conn, uint16_t type, uint64_t length)
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
static inline void command_answered(struct connection *conn, uint16_t type)
{
    conn->turn->answered[latency_classes[type]]++;
}

/* The same for one that may have been taken in an earlier turn. */
void command_take_time(struct connection *conn, const struct request *request);

/* ---- Replies that are built in the output buffer ---- */

/* At `to`, with room for REPLY_HEAD_MAX + ERROR_TEXT_MAX bytes; r: negative errno. */
void command_inline_error(struct connection *conn, const struct command *cmd, uint8_t *to,
                          int r);

/* At `to`, with room for REPLY_HEAD_MAX bytes. */
static inline void command_inline_success(struct connection *conn, const struct command *cmd,
                                          uint8_t *to)
{
    connection_commit(conn, reply_put_success(conn, to, cmd->type, cmd->cookie, cmd->offset));
    command_count(conn, cmd->type, cmd->length);
    command_answered(conn, cmd->type);
}

/* ---- Requests that complete later ---- */

/* With all that the command says, but without a buffer. */
struct request *command_new_request(struct connection *conn, const struct command *cmd);

/* The same with a buffer for the payload; NULL: there is no memory now. */
struct request *command_try_payload_request(struct connection *conn,
                                            const struct command *cmd);

/* NULL: the connection waits for memory. */
struct request *command_new_payload_request(struct connection *conn,
                                            const struct command *cmd);

/* Give it to the storage; command_completed() is called when it comes back. */
void command_submit(struct connection *conn, struct request *request);

/* A request with a buffer of its own: at once if that is possible. */
void command_serve(struct connection *conn, struct request *request);

/* It was in flight and has come back with 0 or a negative errno: queue its reply. */
void command_completed(struct request *request, int result);

/* Give its payload buffer back, if it has one. */
void command_drop_payload(struct connection *conn, struct request *request);

/* Its reply is this error, a negative errno, without data. */
void command_set_error(struct connection *conn, struct request *request, int error);

/* A chunk without content that says DONE. */
static inline unsigned command_put_done(struct connection *conn, const struct request *request,
                                        uint8_t *to)
{
    return (unsigned)reply_put_chunk(conn, to, request->cookie, request->request_offset,
                                     NBD_REPLY_TYPE_NONE, NBD_REPLY_FLAG_DONE, 0);
}

#endif
