/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Replies on the wire: simple, structured and extended headers, chunks, errors. Writes bytes
 * where it is told; knows nothing of sockets and storage.
 */
#include "reply.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include <glib.h>

#include "meta_context.h"
#include "nbd_protocol.h"

/* ---- Errors ---- */

uint32_t reply_wire_error(int error, uint16_t type)
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

size_t reply_put_chunk(const struct connection *conn, uint8_t *to, uint64_t cookie,
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

size_t reply_put_read_head(const struct connection *conn, uint8_t *to, uint64_t cookie,
                           uint64_t request_offset, uint64_t data_offset, uint64_t length,
                           bool last)
{
    uint64_t wire_offset = htobe64(data_offset);
    size_t n;

    if (!conn->structured)
        return put_simple(to, cookie, NBD_SUCCESS);
    n = reply_put_chunk(conn, to, cookie, request_offset, NBD_REPLY_TYPE_OFFSET_DATA,
                        last ? NBD_REPLY_FLAG_DONE : 0, sizeof(wire_offset) + length);
    memcpy(to + n, &wire_offset, sizeof(wire_offset));
    return n + sizeof(wire_offset);
}

size_t reply_read_head_size(const struct connection *conn)
{
    if (!conn->structured)
        return sizeof(struct nbd_simple_reply);
    return sizeof(uint64_t) + (conn->extended ? sizeof(struct nbd_extended_reply)
                                              : sizeof(struct nbd_structured_reply));
}

size_t reply_put_success(const struct connection *conn, uint8_t *to, uint16_t type,
                          uint64_t cookie, uint64_t offset)
{
    if (!conn->structured || (!conn->extended && type != NBD_CMD_READ))
        return put_simple(to, cookie, NBD_SUCCESS);
    return reply_put_chunk(conn, to, cookie, offset, NBD_REPLY_TYPE_NONE, NBD_REPLY_FLAG_DONE, 0);
}

size_t reply_put_error(const struct connection *conn, uint8_t *to, uint64_t cookie,
                        uint64_t offset, uint32_t error, const char *text)
{
    uint32_t wire = htobe32(error);
    size_t length = MIN(strlen(text), ERROR_TEXT_MAX), n;
    uint16_t wire_length = htobe16((uint16_t)length);

    if (!conn->structured)
        return put_simple(to, cookie, error);
    n = reply_put_chunk(conn, to, cookie, offset, NBD_REPLY_TYPE_ERROR, NBD_REPLY_FLAG_DONE,
                  sizeof(wire) + sizeof(wire_length) + length);
    memcpy(to + n, &wire, sizeof(wire));
    memcpy(to + n + 4, &wire_length, sizeof(wire_length));
    memcpy(to + n + 6, text, length);
    return n + 6 + length;
}

size_t reply_put_hole(const struct connection *conn, uint8_t *to, uint64_t cookie,
                      uint64_t request_offset, uint64_t offset, uint32_t length, bool last)
{
    uint64_t wire_offset = htobe64(offset);
    uint32_t wire_length = htobe32(length);
    size_t n = reply_put_chunk(conn, to, cookie, request_offset, NBD_REPLY_TYPE_OFFSET_HOLE,
                               last ? NBD_REPLY_FLAG_DONE : 0, 12);

    memcpy(to + n, &wire_offset, 8);
    memcpy(to + n + 8, &wire_length, 4);
    return n + 12;
}

/* ---- Block status ---- */

/* Writes one descriptor. */
static size_t put_descriptor(const struct connection *conn, uint8_t *to, uint64_t length,
                             uint32_t status)
{
    if (conn->extended) {
        uint64_t wire[2] = { htobe64(length), htobe64(status) };

        memcpy(to, wire, sizeof(wire));
        return sizeof(wire);
    }
    uint32_t wire[2] = { htobe32((uint32_t)length), htobe32(status) };

    memcpy(to, wire, sizeof(wire));
    return sizeof(wire);
}

/* The descriptors of one context: equal neighbours are merged, the last one ends with the
 * request. Returns their bytes, at most those of `most` descriptors. */
static size_t put_descriptors(const struct connection *conn, uint8_t *to,
                              const struct status_query *query, enum meta_context context,
                              const struct extent_view *view, uint32_t most, uint32_t *ret_count)
{
    uint64_t at = query->offset, end = query->offset + query->length;
    size_t i = 0, n = 0;
    uint32_t count = 0;

    while (at < end && i < view->n && count < most) {
        uint32_t status = meta_context_status(context, view->first[i].flags);
        uint64_t stop = view->first[i].end;

        while (++i < view->n && stop < end &&
               meta_context_status(context, view->first[i].flags) == status)
            stop = view->first[i].end;
        stop = MIN(stop, end);
        n += put_descriptor(conn, to + n, stop - at, status);
        count++;
        at = stop;
    }
    *ret_count = count;
    return n;
}

static size_t put_status_chunk(const struct connection *conn, uint8_t *to,
                               const struct status_query *query, enum meta_context context,
                               const struct extent_view *view, uint32_t most, bool last)
{
    size_t head = conn->extended ? sizeof(struct nbd_extended_reply)
                                 : sizeof(struct nbd_structured_reply);
    size_t fixed = conn->extended ? 8 : 4, n;
    uint32_t count, wire[2];

    n = put_descriptors(conn, to + head + fixed, query, context, view, most, &count);
    wire[0] = htobe32(meta_context_id(context));
    wire[1] = htobe32(count);
    memcpy(to + head, wire, fixed);
    reply_put_chunk(conn, to, query->cookie, query->offset,
                    conn->extended ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT
                                   : NBD_REPLY_TYPE_BLOCK_STATUS,
                    last ? NBD_REPLY_FLAG_DONE : 0, fixed + n);
    return head + fixed + n;
}

size_t reply_put_block_status(const struct connection *conn, uint8_t *to,
                              const struct status_query *query, const struct extent_view *view)
{
    uint32_t most = query->one ? 1 : STATUS_DESCRIPTORS_MAX;
    unsigned left = query->contexts;
    size_t n = 0;

    for (unsigned i = 0; i < N_META_CONTEXTS; i++) {
        if (!(left & 1u << i))
            continue;
        left &= ~(1u << i);
        n += put_status_chunk(conn, to + n, query, i, view, most, left == 0);
    }
    return n;
}
