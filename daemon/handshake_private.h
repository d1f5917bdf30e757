/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What the files of the handshake share: handshake*.c, nobody else. Loop thread only.
 */
#ifndef NR_HANDSHAKE_PRIVATE_H
#define NR_HANDSHAKE_PRIVATE_H

#include <endian.h>
#include <string.h>

#include "connection.h"
#include "nbd_protocol.h"

/* An option as it came. */
struct option {
    uint32_t type;
    const uint8_t *data;
    size_t length;
};

/* Checks, does and answers an option. True: it is done with, false: there was no room for the
 * reply (it is then called again), or the connection has ended. */
typedef bool option_function(struct connection *conn, const struct option *opt);

/* ---- handshake_wire.c ---- */

static inline uint32_t get32(const uint8_t *p)
{
    uint32_t value;

    memcpy(&value, p, sizeof(value));
    return be32toh(value);
}

static inline uint16_t get16(const uint8_t *p)
{
    uint16_t value;

    memcpy(&value, p, sizeof(value));
    return be16toh(value);
}

/* A string of the protocol; NULL when it is none (NUL, not UTF-8, too long). The caller frees
 * it. */
char *handshake_take_string(const uint8_t *p, size_t length);
/* Bytes of it that the protocol allows, in whole characters. */
size_t handshake_sent_length(const char *string);

/* These return false when there is no room. */
bool handshake_reply(struct connection *conn, uint32_t option, uint32_t type, const void *data,
                     size_t length);
bool handshake_acknowledge(struct connection *conn, uint32_t option);
__attribute__((format(printf, 4, 5)))
bool handshake_refuse(struct connection *conn, uint32_t option, uint32_t type,
                      const char *format, ...);

/* ---- handshake_open.c ---- */

/* NULL: there is none. The empty name is the default export: the only one there is. The
 * mapping is the one that a name "@map/COOKIE" means, else NULL. */
struct export *handshake_find_export(struct connection *conn, const char *name,
                                     struct mapping **ret_mapping);
/* May it know of the export, and use it? */
bool handshake_is_allowed(const struct connection *conn, const struct export *export);
/* The sentence against using an export now, and the reply type; 0: there is none. */
uint32_t handshake_objection(const struct connection *conn, const struct export *export,
                             struct nbd_failure *why);
/* INFO, GO and EXPORT_NAME; returns as an option_function. */
bool handshake_open_export(struct connection *conn, uint32_t option, const char *name,
                           bool wants_name, bool wants_description);

/* ---- handshake_context.c ---- */

option_function handshake_do_meta_context; /* LIST and SET */

#endif
