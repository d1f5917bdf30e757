/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Replies on the wire: simple, structured and extended, as the connection has negotiated.
 * Each function writes at `to` and returns the bytes that it wrote. Cookies are in network
 * order, as they came. Pure functions.
 */
#ifndef NR_REPLY_H
#define NR_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "connection.h"
#include "extents.h"

#define ERROR_TEXT_MAX 128 /* bytes of an error's text that are sent */
#define STATUS_DESCRIPTORS_MAX 4096 /* in one chunk */
#define STATUS_REPLY_MAX (2 * (REPLY_HEAD_MAX + 16 * STATUS_DESCRIPTORS_MAX))

/* NBD_E* for a negative errno and a command (NBD_CMD_*). */
uint32_t reply_wire_error(int error, uint16_t type);

/* The header of a chunk with `length` bytes of payload; offset is that of the request. Not
 * for simple replies. */
size_t reply_put_chunk(const struct connection *conn, uint8_t *to, uint64_t cookie,
                       uint64_t offset, uint16_t type, uint16_t flags, uint64_t length);

/* What comes before the `length` > 0 bytes of a READ; they are at `data_offset` of the export.
 * last: no other chunk follows. At most REPLY_HEAD_MAX bytes. */
size_t reply_put_read_head(const struct connection *conn, uint8_t *to, uint64_t cookie,
                           uint64_t request_offset, uint64_t data_offset, uint64_t length,
                           bool last);
size_t reply_read_head_size(const struct connection *conn);

/* A range of a READ that is all zeroes. At most REPLY_HEAD_MAX bytes. */
size_t reply_put_hole(const struct connection *conn, uint8_t *to, uint64_t cookie,
                      uint64_t request_offset, uint64_t offset, uint32_t length, bool last);

/* Success without data. At most REPLY_HEAD_MAX bytes. */
size_t reply_put_success(const struct connection *conn, uint8_t *to, uint16_t type,
                         uint64_t cookie, uint64_t offset);

/* error: NBD_E*. At most REPLY_HEAD_MAX + ERROR_TEXT_MAX bytes. */
size_t reply_put_error(const struct connection *conn, uint8_t *to, uint64_t cookie,
                       uint64_t offset, uint32_t error, const char *text);

/* What a BLOCK_STATUS asks. */
struct status_query {
    uint64_t cookie, offset, length;
    unsigned contexts; /* a bit each, at least one */
    bool one;          /* NBD_CMD_FLAG_REQ_ONE */
};

/* All chunks of the answer; view covers query->offset. At most STATUS_REPLY_MAX bytes. */
size_t reply_put_block_status(const struct connection *conn, uint8_t *to,
                              const struct status_query *query, const struct extent_view *view);

#endif
