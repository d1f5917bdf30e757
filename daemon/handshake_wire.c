/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What options and the replies to them are made of: strings, the header of a reply, the
 * sentence of a refusal. Loop thread only.
 */
#include "handshake_private.h"

#include <endian.h>
#include <string.h>

#include "log.h"

/* ---- Strings ---- */

char *handshake_take_string(const uint8_t *p, size_t length)
{
    if (length > NBD_MAX_STRING || memchr(p, '\0', length) != NULL ||
        !g_utf8_validate((const char *)p, (gssize)length, NULL))
        return NULL;
    return g_strndup((const char *)p, length);
}

size_t handshake_sent_length(const char *string)
{
    size_t length = strlen(string);

    if (length <= NBD_MAX_STRING)
        return length;
    return (size_t)(g_utf8_find_prev_char(string, string + NBD_MAX_STRING + 1) - string);
}

/* ---- Replies ---- */

bool handshake_reply(struct connection *conn, uint32_t option, uint32_t type, const void *data,
                     size_t length)
{
    struct nbd_option_reply header = {
        .magic = htobe64(NBD_REPLY_MAGIC), .option = htobe32(option), .type = htobe32(type),
        .length = htobe32((uint32_t)length),
    };
    uint8_t *to = connection_reserve(conn, sizeof(header) + length);

    if (to == NULL)
        return false;
    memcpy(to, &header, sizeof(header));
    if (length > 0)
        memcpy(to + sizeof(header), data, length);
    connection_commit(conn, sizeof(header) + length);
    return true;
}

bool handshake_acknowledge(struct connection *conn, uint32_t option)
{
    return handshake_reply(conn, option, NBD_REP_ACK, NULL, 0);
}

/* That a client did not get an export is for the operator; the rest of the negotiation is not. */
static bool is_about_export(uint32_t option)
{
    return option == NBD_OPT_GO || option == NBD_OPT_INFO || option == NBD_OPT_STARTTLS;
}

bool handshake_refuse(struct connection *conn, uint32_t option, uint32_t type,
                      const char *format, ...)
{
    char text[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    connection_log(conn, is_about_export(option) ? NBD_LOG_INFO : NBD_LOG_DEBUG,
                   "option %u refused: %s", option, text);
    return handshake_reply(conn, option, type, text, strlen(text));
}
