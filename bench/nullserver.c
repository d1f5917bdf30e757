/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * nullserver: an NBD server without storage, to measure what the protocol and the loopback
 * cost by themselves. Reads give zeroes, writes are dropped, everything else succeeds. It
 * receives once, answers all that came, and sends once. One thread; trusts its client.
 */
#include <endian.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <glib.h>

#include "nbd_protocol.h"

#define RECEIVE_BYTES (256u << 10)
#define ZERO_BYTES (256u << 10)
#define REPLIES 256            /* that one send takes */
#define EVENTS 64
#define FLAGS                                                                            \
    (NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM | \
     NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_CAN_MULTI_CONN)

enum phase { PHASE_FLAGS, PHASE_OPTIONS, PHASE_TRANSMISSION };

struct client {
    int fd;
    enum phase phase;
    bool waits_for_room;
    uint8_t *kept;              /* input that was not taken */
    size_t kept_length;
    uint64_t drop;              /* payload of a write that is still to come */
    uint64_t cookie;            /* of that write */
    struct nbd_simple_reply reply[REPLIES];
    uint32_t data_length[REPLIES];
    unsigned first, n;          /* ring of replies */
    uint64_t sent;              /* bytes of the first */
};

static uint64_t size = UINT64_C(1) << 30;
static uint8_t zeroes[ZERO_BYTES], receive_buffer[RECEIVE_BYTES];
static int epoll;

static void client_free(struct client *client)
{
    close(client->fd);
    g_free(client->kept);
    g_free(client);
}

/* ---- Replies out ---- */

static void wait_for(struct client *client, bool room)
{
    struct epoll_event event = { .events = room ? EPOLLOUT : EPOLLIN, .data.ptr = client };

    if (client->waits_for_room != room)
        epoll_ctl(epoll, EPOLL_CTL_MOD, client->fd, &event);
    client->waits_for_room = room;
}

static uint64_t reply_length(const struct client *client, unsigned i)
{
    return sizeof(client->reply[i]) + client->data_length[i];
}

/* The bytes of a reply behind `skip`, as far as there is room for them. */
static unsigned add_reply(const struct client *client, unsigned i, uint64_t skip,
                          struct iovec *iov, unsigned n)
{
    uint64_t head = sizeof(client->reply[i]), left;

    if (skip < head)
        iov[n++] = (struct iovec){ (uint8_t *)&client->reply[i] + skip, head - skip };
    left = client->data_length[i] - (skip > head ? skip - head : 0);
    for (; left > 0 && n < 2 * REPLIES; left -= MIN(left, ZERO_BYTES))
        iov[n++] = (struct iovec){ zeroes, MIN(left, ZERO_BYTES) };
    return n;
}

static void account_sent(struct client *client, uint64_t n)
{
    client->sent += n;
    while (client->n > 0 && client->sent >= reply_length(client, client->first)) {
        client->sent -= reply_length(client, client->first);
        client->first = (client->first + 1) % REPLIES;
        client->n--;
    }
}

/* False: the client is gone. */
static bool flush(struct client *client)
{
    while (client->n > 0) {
        struct iovec iov[2 * REPLIES + 1];
        struct msghdr message = { .msg_iov = iov };
        unsigned k = 0;
        ssize_t n;

        for (unsigned i = 0; i < client->n && k < 2 * REPLIES - 1; i++)
            k = add_reply(client, (client->first + i) % REPLIES, i == 0 ? client->sent : 0,
                          iov, k);
        message.msg_iovlen = k;
        n = sendmsg(client->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0)
            return false;
        account_sent(client, (uint64_t)n);
    }
    wait_for(client, client->n > 0);
    return true;
}

static void reply(struct client *client, uint64_t cookie, uint32_t data_length)
{
    unsigned i = (client->first + client->n++) % REPLIES;

    client->reply[i] = (struct nbd_simple_reply){ htobe32(NBD_SIMPLE_REPLY_MAGIC), 0, cookie };
    client->data_length[i] = data_length;
}

/* ---- Input: each takes what it can of it, 0: not enough; -1: the client shall go ---- */

static ssize_t take_flags(struct client *client, const uint8_t *data, size_t length)
{
    (void)data;
    if (length < sizeof(uint32_t))
        return 0;
    client->phase = PHASE_OPTIONS;
    return sizeof(uint32_t);
}

static void send_option_reply(int fd, uint32_t option, uint32_t type, const void *data,
                              uint32_t length)
{
    struct nbd_option_reply head = { htobe64(NBD_REPLY_MAGIC), option, htobe32(type),
                                     htobe32(length) };
    struct iovec iov[2] = { { &head, sizeof(head) }, { (void *)data, length } };
    struct msghdr message = { .msg_iov = iov, .msg_iovlen = 2 };

    sendmsg(fd, &message, MSG_NOSIGNAL | (type == NBD_REP_INFO ? MSG_MORE : 0));
}

static ssize_t take_option(struct client *client, const uint8_t *data, size_t length)
{
    struct nbd_info_export info = { htobe16(NBD_INFO_EXPORT), htobe64(size), htobe16(FLAGS) };
    struct nbd_option option;

    if (length < sizeof(option))
        return 0;
    memcpy(&option, data, sizeof(option));
    if (be32toh(option.length) > RECEIVE_BYTES / 2)
        return -1;
    if (length < sizeof(option) + be32toh(option.length))
        return 0;
    if (be32toh(option.option) == NBD_OPT_GO) {
        send_option_reply(client->fd, option.option, NBD_REP_INFO, &info, sizeof(info));
        send_option_reply(client->fd, option.option, NBD_REP_ACK, NULL, 0);
        client->phase = PHASE_TRANSMISSION;
    } else {
        send_option_reply(client->fd, option.option, NBD_REP_ERR_UNSUP, NULL, 0);
    }
    return (ssize_t)(sizeof(option) + be32toh(option.length));
}

static ssize_t take_request(struct client *client, const uint8_t *data, size_t length)
{
    struct nbd_compact_request request;
    uint16_t type;

    if (length < sizeof(request))
        return 0;
    memcpy(&request, data, sizeof(request));
    type = be16toh(request.type);
    if (be32toh(request.magic) != NBD_REQUEST_MAGIC || type == NBD_CMD_DISC)
        return -1;
    if (type == NBD_CMD_WRITE) {
        client->drop = be32toh(request.length);
        client->cookie = request.cookie;
    } else {
        reply(client, request.cookie, type == NBD_CMD_READ ? be32toh(request.length) : 0);
    }
    return sizeof(request);
}

static ssize_t drop_payload(struct client *client, size_t length)
{
    size_t n = MIN(length, client->drop);

    client->drop -= n;
    if (client->drop == 0)
        reply(client, client->cookie, 0);
    return (ssize_t)n;
}

static ssize_t take_one(struct client *client, const uint8_t *data, size_t length)
{
    if (client->drop > 0)
        return drop_payload(client, length);
    switch (client->phase) {
    case PHASE_FLAGS: return take_flags(client, data, length);
    case PHASE_OPTIONS: return take_option(client, data, length);
    default: return take_request(client, data, length);
    }
}

static bool keep(struct client *client, const uint8_t *data, size_t length)
{
    g_free(client->kept);
    client->kept = length > 0 ? g_memdup2(data, length) : NULL;
    client->kept_length = length;
    return true;
}

/* False: the client is gone. */
static bool take(struct client *client, const uint8_t *data, size_t length)
{
    while (length > 0) {
        ssize_t n;

        if (client->n == REPLIES && !flush(client))
            return false;
        if (client->n == REPLIES)
            break;
        n = take_one(client, data, length);
        if (n < 0)
            return false;
        if (n == 0)
            break;
        data += n;
        length -= (size_t)n;
    }
    return flush(client) && keep(client, data, length);
}

static bool on_readable(struct client *client)
{
    size_t kept = client->kept_length;
    ssize_t n;

    memcpy(receive_buffer, client->kept != NULL ? client->kept : zeroes, kept);
    n = recv(client->fd, receive_buffer + kept, sizeof(receive_buffer) - kept, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return true;
    return n > 0 && take(client, receive_buffer, kept + (size_t)n);
}

/* There is room for replies: also go on with what was kept. */
static bool on_writable(struct client *client)
{
    size_t kept = client->kept_length;

    if (!flush(client))
        return false;
    if (client->n > 0 || kept == 0)
        return true;
    memcpy(receive_buffer, client->kept, kept);
    return take(client, receive_buffer, kept);
}

/* ---- Clients in ---- */

static void on_connection(int listener)
{
    struct nbd_greeting greeting = {
        htobe64(NBD_MAGIC), htobe64(NBD_IHAVEOPT),
        htobe16(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES),
    };
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    struct client *client;
    struct epoll_event event = { .events = EPOLLIN };

    if (fd < 0)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
    client = g_new0(struct client, 1);
    client->fd = fd;
    event.data.ptr = client;
    send(fd, &greeting, sizeof(greeting), MSG_NOSIGNAL);
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static int listen_on(const char *address)
{
    struct sockaddr_un local = { .sun_family = AF_UNIX };
    struct sockaddr_in inet = { .sin_family = AF_INET,
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    bool is_unix = g_str_has_prefix(address, "unix:");
    int fd = socket(is_unix ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int r;

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
    g_strlcpy(local.sun_path, is_unix ? address + 5 : "", sizeof(local.sun_path));
    inet.sin_port = htons((uint16_t)atoi(address));
    r = is_unix ? bind(fd, (struct sockaddr *)&local, sizeof(local))
                : bind(fd, (struct sockaddr *)&inet, sizeof(inet));
    if (fd < 0 || r < 0 || listen(fd, SOMAXCONN) < 0) {
        fprintf(stderr, "nullserver: cannot listen on %s: %s\n", address, strerror(errno));
        exit(EXIT_FAILURE);
    }
    return fd;
}

static void serve(int listener)
{
    struct epoll_event events[EVENTS], event = { .events = EPOLLIN, .data.ptr = NULL };

    epoll = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int n = epoll_wait(epoll, events, EVENTS, -1);

        for (int i = 0; i < n; i++) {
            struct client *client = events[i].data.ptr;

            if (client == NULL)
                on_connection(listener);
            else if (!(events[i].events & EPOLLOUT ? on_writable(client) : on_readable(client)))
                client_free(client);
        }
    }
}

int main(int argc, char **argv)
{
    struct rlimit limit;
    int c;

    while ((c = getopt(argc, argv, "s:")) != -1) {
        if (c != 's')
            return 2;
        size = strtoull(optarg, NULL, 10);
    }
    if (optind + 1 != argc) {
        fputs("Usage: nullserver [-s BYTES] PORT | unix:PATH\n", stderr);
        return 2;
    }
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    serve(listen_on(argv[optind]));
}
