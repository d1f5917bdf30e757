/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The benchmark's NBD client, up to the transmission phase. One thread, blocking calls that
 * are bounded in time.
 */
#include "wire.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "nbd_protocol.h"

#define UNIX_PREFIX "unix:"
#define OPTION_REPLY_MAX (64u << 10)

void die(const char *format, ...)
{
    va_list args;

    fputs("nbdload: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(EXIT_FAILURE);
}

/* ---- Sockets ---- */

bool wire_is_unix(const char *address)
{
    return strncmp(address, UNIX_PREFIX, strlen(UNIX_PREFIX)) == 0;
}

static int connect_unix(const char *path)
{
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    int fd;

    if (strlen(path) >= sizeof(to.sun_path))
        die("the socket path %s is too long", path);
    strcpy(to.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static int connect_tcp(const char *port)
{
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
        close(fd);
        fd = -1;
    }
    if (fd >= 0)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
    return fd;
}

int wire_connect(const char *address)
{
    struct timeval limit = { .tv_sec = WIRE_TIMEOUT_S };
    int fd = wire_is_unix(address) ? connect_unix(address + strlen(UNIX_PREFIX))
                                   : connect_tcp(address);

    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    }
    return fd;
}

bool wire_send(int fd, const void *data, size_t length)
{
    const char *at = data;

    while (length > 0) {
        ssize_t n = send(fd, at, length, MSG_NOSIGNAL);

        if (n < 0 && errno != EINTR)
            return false;
        at += n > 0 ? n : 0;
        length -= (size_t)(n > 0 ? n : 0);
    }
    return true;
}

bool wire_receive(int fd, void *data, size_t length)
{
    char *at = data;

    while (length > 0) {
        ssize_t n = recv(fd, at, length, 0);

        if (n == 0)
            errno = 0;
        if (n == 0 || (n < 0 && errno != EINTR))
            return false;
        at += n > 0 ? n : 0;
        length -= (size_t)(n > 0 ? n : 0);
    }
    return true;
}

/* ---- Options ---- */

struct option_buffer {
    uint8_t data[NBD_MAX_STRING + 256];
    size_t length;
};

static void put(struct option_buffer *buffer, const void *data, size_t length)
{
    if (length > sizeof(buffer->data) - buffer->length)
        die("the export's name is too long");
    memcpy(buffer->data + buffer->length, data, length);
    buffer->length += length;
}

static void put16(struct option_buffer *buffer, uint16_t value)
{
    put(buffer, &(uint16_t){ htobe16(value) }, sizeof(value));
}

static void put32(struct option_buffer *buffer, uint32_t value)
{
    put(buffer, &(uint32_t){ htobe32(value) }, sizeof(value));
}

static void put_string(struct option_buffer *buffer, const char *text)
{
    put32(buffer, (uint32_t)strlen(text));
    put(buffer, text, strlen(text));
}

static bool send_option(int fd, uint32_t option, const struct option_buffer *body)
{
    struct nbd_option head = {
        htobe64(NBD_IHAVEOPT), htobe32(option), htobe32((uint32_t)body->length),
    };
    struct option_buffer message = { .length = 0 };

    put(&message, &head, sizeof(head));
    put(&message, body->data, body->length);
    return wire_send(fd, message.data, message.length);
}

/* One reply to an option; *ret_length bytes of it are in `data`. */
static bool receive_option_reply(int fd, uint32_t *ret_type, uint8_t *data, uint32_t *ret_length)
{
    struct nbd_option_reply head;

    if (!wire_receive(fd, &head, sizeof(head)))
        return false;
    *ret_type = be32toh(head.type);
    *ret_length = be32toh(head.length);
    errno = EPROTO;
    return be64toh(head.magic) == NBD_REPLY_MAGIC && *ret_length <= OPTION_REPLY_MAX &&
           wire_receive(fd, data, *ret_length);
}

static void take_info(const uint8_t *data, uint32_t length, struct negotiated *negotiated)
{
    struct nbd_info_export info;

    if (length < sizeof(info))
        return;
    memcpy(&info, data, sizeof(info));
    if (be16toh(info.type) != NBD_INFO_EXPORT)
        return;
    negotiated->size = be64toh(info.size);
    negotiated->flags = be16toh(info.flags);
}

/* The option and all its replies; false with errno also when the server refuses it. */
static bool ask(int fd, uint32_t option, const struct option_buffer *body,
                struct negotiated *negotiated)
{
    uint8_t data[OPTION_REPLY_MAX];
    uint32_t type, length;

    if (!send_option(fd, option, body))
        return false;
    do {
        if (!receive_option_reply(fd, &type, data, &length))
            return false;
        if (type == NBD_REP_INFO)
            take_info(data, length, negotiated);
    } while (type == NBD_REP_INFO || type == NBD_REP_META_CONTEXT);
    errno = EOPNOTSUPP;
    return type == NBD_REP_ACK;
}

static bool ask_for_status(int fd, const char *export, struct negotiated *negotiated)
{
    struct option_buffer body = { .length = 0 };

    if (!ask(fd, NBD_OPT_STRUCTURED_REPLY, &body, negotiated))
        return false;
    put_string(&body, export);
    put32(&body, 1);
    put_string(&body, "base:allocation");
    return ask(fd, NBD_OPT_SET_META_CONTEXT, &body, negotiated);
}

bool wire_negotiate(int fd, const char *export, bool want_status, struct negotiated *ret)
{
    uint32_t flags = htobe32(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
    struct option_buffer body = { .length = 0 };
    struct negotiated negotiated = { 0 };
    struct nbd_greeting greeting;

    if (!wire_receive(fd, &greeting, sizeof(greeting)))
        return false;
    errno = EPROTO;
    if (be64toh(greeting.magic) != NBD_MAGIC || be64toh(greeting.ihaveopt) != NBD_IHAVEOPT)
        return false;
    if (!wire_send(fd, &flags, sizeof(flags)))
        return false;
    if (want_status)
        negotiated.status = ask_for_status(fd, export, &negotiated);
    put_string(&body, export);
    put16(&body, 0);
    if (!ask(fd, NBD_OPT_GO, &body, &negotiated))
        return false;
    *ret = negotiated;
    return true;
}

int wire_open(const char *address, const char *export, bool want_status,
              struct negotiated *ret)
{
    int fd = wire_connect(address);

    if (fd < 0)
        die("cannot connect to %s: %s", address, strerror(errno));
    if (!wire_negotiate(fd, export, want_status, ret))
        die("%s does not give export \"%s\": %s", address, export,
            errno == 0 ? "it closed the connection" : strerror(errno));
    return fd;
}

/* ---- One by one ---- */

bool wire_read_once(int fd, void *data, uint32_t length)
{
    struct nbd_compact_request request = {
        .magic = htobe32(NBD_REQUEST_MAGIC), .type = htobe16(NBD_CMD_READ),
        .length = htobe32(length),
    };
    struct nbd_simple_reply reply;

    if (!wire_send(fd, &request, sizeof(request)) || !wire_receive(fd, &reply, sizeof(reply)))
        return false;
    errno = EPROTO;
    return be32toh(reply.magic) == NBD_SIMPLE_REPLY_MAGIC && reply.error == 0 &&
           wire_receive(fd, data, length);
}

void wire_disconnect(int fd)
{
    struct nbd_compact_request request = {
        .magic = htobe32(NBD_REQUEST_MAGIC), .type = htobe16(NBD_CMD_DISC),
    };

    wire_send(fd, &request, sizeof(request));
    close(fd);
}
