/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What each NBD command does, once transmission.c has checked it. Loop thread only.
 */
#ifndef NR_COMMANDS_H
#define NR_COMMANDS_H

#include "connection.h"

/* A request as it came, in host order; the cookie stays in network order. */
struct command {
    uint16_t flags, type;
    uint64_t cookie, offset, length;
    unsigned header;   /* bytes of the header on the wire */
    unsigned contexts; /* BLOCK_STATUS: which are asked, a bit each */
};

/* Not now: the connection is paused, or its output is full. The command is run again. */
#define COMMAND_STOP SIZE_MAX

/* Each takes a checked command and the bytes behind its header, and returns how many of them
 * were its payload, or COMMAND_STOP. */
typedef size_t command_fn(struct connection *conn, const struct command *cmd,
                          const struct input *payload);

command_fn command_read;         /* length > 0 */
command_fn command_write;        /* length > 0 */
command_fn command_simple;       /* FLUSH, TRIM, WRITE_ZEROES, CACHE */
command_fn command_block_status; /* contexts are selected; length > 0 */

/* All of the payload of conn->receiving has come. */
void command_payload_complete(struct connection *conn);

/* The next slice of conn->writing; NULL when it was the last. */
void command_write_on(struct connection *conn);

/* There are no turns for conn->writing any more: all of it goes to the storage. */
void command_write_rest(struct connection *conn);

/* A request goes to the storage: it is in flight, and its request_timeout begins. */
void command_handed_over(struct connection *conn, struct request *request);

/* It has come back. False: it was answered when its time was over, and is gone now. */
bool command_returned(struct connection *conn, struct request *request);

/* Its time is over (expiry.h): answer it. */
void command_expired(struct request *request);

/* One line in the log for the first, the second, the fourth, the eighth ... failure. */
void command_report(const struct connection *conn, uint16_t type, uint64_t offset,
                    uint64_t length, int error);

#endif
