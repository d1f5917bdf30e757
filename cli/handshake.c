/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Fixed newstyle, no padding, NBD_OPT_GO with the block sizes; nothing that would change the
 * form of replies (structured replies, extended headers), since the kernel knows only simple
 * ones. Whatever length the server sends is bounded here.
 */
#include "handshake.h"
#include "net.h"

#include "nbd_protocol.h"

#include <endian.h>
#include <fcntl.h>
#include <glib.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#define REPLY_DATA_MAX 65536 /* more than any reply to GO has */
#define REPLIES_MAX 64       /* in answer to one option */

struct session {
    int fd;
    int64_t deadline;
    const char *peer;
    const char *export_name;
    struct terms terms;
    bool has_export_info;
};

static int fail_protocol(const struct session *session, const char *what, struct failure *why)
{
    return fail_with(why, STATUS_FAILED, "%s breaks the NBD protocol: %s", session->peer,
                     what);
}

static int receive_greeting(struct session *session, struct failure *why)
{
    struct nbd_greeting greeting;
    int r = net_read(session->fd, &greeting, sizeof(greeting.magic), session->deadline,
                     session->peer, why);

    if (r != 0)
        return r;
    if (be64toh(greeting.magic) != NBD_MAGIC)
        return fail_with(why, STATUS_FAILED, "%s is no NBD server", session->peer);
    r = net_read(session->fd, &greeting.ihaveopt, sizeof(greeting) - sizeof(greeting.magic),
                 session->deadline, session->peer, why);
    if (r != 0)
        return r;
    if (be64toh(greeting.ihaveopt) != NBD_IHAVEOPT ||
        !(be16toh(greeting.flags) & NBD_FLAG_FIXED_NEWSTYLE))
        return fail_with(why, STATUS_FAILED, "%s does not speak fixed newstyle NBD",
                         session->peer);
    /* NO_ZEROES is asked for only where it is offered. */
    uint32_t answer =
        htobe32(be16toh(greeting.flags) & (NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES));
    return net_write(session->fd, &answer, sizeof(answer), session->deadline, session->peer,
                     why);
}

/* NBD_OPT_GO: length of the name, name, number of information requests, each request. */
static int send_go(struct session *session, struct failure *why)
{
    size_t name_length = strlen(session->export_name);
    struct nbd_option option = {.ihaveopt = htobe64(NBD_IHAVEOPT),
                                .option = htobe32(NBD_OPT_GO)};
    uint32_t name_length_wire = htobe32((uint32_t)name_length);
    uint16_t requests[2] = {htobe16(1), htobe16(NBD_INFO_BLOCK_SIZE)};
    g_autoptr(GByteArray) bytes = g_byte_array_new();

    if (name_length > NBD_MAX_STRING)
        return fail_with(why, STATUS_FAILED, "the export's name is longer than %u bytes",
                         NBD_MAX_STRING);
    option.length =
        htobe32((uint32_t)(sizeof(name_length_wire) + name_length + sizeof(requests)));
    g_byte_array_append(bytes, (guint8 *)&option, sizeof(option));
    g_byte_array_append(bytes, (guint8 *)&name_length_wire, sizeof(name_length_wire));
    g_byte_array_append(bytes, (const guint8 *)session->export_name, (guint)name_length);
    g_byte_array_append(bytes, (guint8 *)requests, sizeof(requests));
    return net_write(session->fd, bytes->data, bytes->len, session->deadline, session->peer,
                     why);
}

static int take_export_info(struct session *session, const char *data, size_t length,
                            struct failure *why)
{
    struct nbd_info_export info;

    if (length != sizeof(info))
        return fail_protocol(session, "its export information has a wrong length", why);
    memcpy(&info, data, sizeof(info));
    session->terms.size_bytes = be64toh(info.size);
    session->terms.flags = be16toh(info.flags);
    session->has_export_info = true;
    if (session->terms.size_bytes > INT64_MAX)
        return fail_protocol(session, "its export is larger than 2^63-1 bytes", why);
    if (!(session->terms.flags & NBD_FLAG_HAS_FLAGS))
        return fail_protocol(session, "its transmission flags are not valid", why);
    return 0;
}

static bool is_power_of_two(uint32_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

static int take_block_size(struct session *session, const char *data, size_t length,
                           struct failure *why)
{
    struct nbd_info_block_size info;
    struct terms *terms = &session->terms;

    if (length != sizeof(info))
        return fail_protocol(session, "its block size information has a wrong length", why);
    memcpy(&info, data, sizeof(info));
    terms->block_min = be32toh(info.minimum);
    terms->block_preferred = be32toh(info.preferred);
    terms->block_max = be32toh(info.maximum);
    if (!is_power_of_two(terms->block_min) || terms->block_preferred < terms->block_min)
        return fail_protocol(session, "its block sizes make no sense", why);
    return 0;
}

static int take_info(struct session *session, const char *data, size_t length,
                     struct failure *why)
{
    uint16_t type;

    if (length < sizeof(type))
        return fail_protocol(session, "its information reply is too short", why);
    memcpy(&type, data, sizeof(type));
    switch (be16toh(type)) {
    case NBD_INFO_EXPORT:
        return take_export_info(session, data, length, why);
    case NBD_INFO_BLOCK_SIZE:
        return take_block_size(session, data, length, why);
    default: /* a server may send more than was asked for */
        return 0;
    }
}

static int fail_refused(const struct session *session, uint32_t type, const char *text,
                        size_t length, struct failure *why)
{
    static const struct {
        uint32_t type;
        const char *reason;
    } reasons[] = {
        {NBD_REP_ERR_UNSUP, "it does not know NBD_OPT_GO"},
        {NBD_REP_ERR_POLICY, "its policy forbids it"},
        {NBD_REP_ERR_TLS_REQD, "it demands TLS, which the kernel's NBD driver cannot speak"},
        {NBD_REP_ERR_UNKNOWN, "there is no such export"},
        {NBD_REP_ERR_SHUTDOWN, "it is shutting down"},
        {NBD_REP_ERR_BLOCK_SIZE_REQD, "it demands other block sizes"},
    };
    const char *reason = "it gives no reason";

    for (size_t i = 0; i < G_N_ELEMENTS(reasons); i++)
        if (reasons[i].type == type)
            reason = reasons[i].reason;
    if (length > 0 && g_utf8_validate(text, (gssize)length, NULL))
        return fail_with(why, STATUS_FAILED, "%s refuses export '%.255s': %.*s", session->peer,
                         session->export_name, (int)MIN(length, 512), text);
    return fail_with(why, STATUS_FAILED, "%s refuses export '%.255s': %s", session->peer,
                     session->export_name, reason);
}

/* One reply to GO. *ret_done after the last. */
static int receive_reply(struct session *session, bool *ret_done, struct failure *why)
{
    struct nbd_option_reply reply;
    g_autofree char *data = NULL;
    uint32_t length, type;
    int r =
        net_read(session->fd, &reply, sizeof(reply), session->deadline, session->peer, why);

    if (r != 0)
        return r;
    length = be32toh(reply.length);
    type = be32toh(reply.type);
    if (be64toh(reply.magic) != NBD_REPLY_MAGIC || be32toh(reply.option) != NBD_OPT_GO)
        return fail_protocol(session, "it does not answer the option that was sent", why);
    if (length > REPLY_DATA_MAX)
        return fail_protocol(session, "its reply to an option is too long", why);
    data = g_malloc(length + 1);
    r = net_read(session->fd, data, length, session->deadline, session->peer, why);
    if (r != 0)
        return r;
    if (type & NBD_REP_FLAG_ERROR)
        return fail_refused(session, type, data, length, why);
    if (type == NBD_REP_INFO)
        return take_info(session, data, length, why);
    if (type != NBD_REP_ACK)
        return fail_protocol(session, "its reply to an option is of an unknown type", why);
    *ret_done = true;
    return 0;
}

int handshake(int fd, const char *export_name, int64_t deadline, const char *peer,
              struct terms *ret_terms, struct failure *why)
{
    struct session session = {
        .fd = fd,
        .deadline = deadline,
        .peer = peer,
        .export_name = export_name,
        .terms = {.block_min = 1, .block_preferred = 4096},
    };
    bool done = false;
    int r = receive_greeting(&session, why);

    if (r == 0)
        r = send_go(&session, why);
    for (int i = 0; r == 0 && !done; i++) {
        if (i == REPLIES_MAX)
            return fail_protocol(&session, "it never ends its answer", why);
        r = receive_reply(&session, &done, why);
    }
    if (r == 0 && !session.has_export_info)
        r = fail_protocol(&session, "it does not tell the export's size", why);
    if (r == 0)
        *ret_terms = session.terms;
    return r;
}

void handshake_hand_over(int fd)
{
    static const struct {
        int level, name, value;
    } options[] = {
        /* The last four fail on a Unix socket, which needs none of them. */
        {SOL_SOCKET, SO_KEEPALIVE, 1},   {IPPROTO_TCP, TCP_NODELAY, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, 30}, {IPPROTO_TCP, TCP_KEEPINTVL, 10},
        {IPPROTO_TCP, TCP_KEEPCNT, 3},
    };
    struct timeval never = {0};

    for (size_t i = 0; i < G_N_ELEMENTS(options); i++)
        setsockopt(fd, options[i].level, options[i].name, &options[i].value,
                   sizeof(options[i].value));
    /* With a time limit an idle device would lose its connection. */
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &never, sizeof(never));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &never, sizeof(never));
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
}
