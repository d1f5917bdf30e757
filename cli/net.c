/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Blocking from the caller's view, non-blocking underneath, so that every wait is a poll()
 * with a deadline. Only the resolver of host names keeps its own time limits.
 */
#include "net.h"
#include "size.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define LEAST_TRY_MS 2000 /* for one of several addresses of a name */

int64_t deadline_in_ms(int64_t ms)
{
    struct timespec now;

    if (ms == NET_FOREVER)
        return NET_FOREVER;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 + ms;
}

int64_t deadline_left_ms(int64_t deadline)
{
    int64_t left;

    if (deadline == NET_FOREVER)
        return NET_FOREVER;
    left = deadline - deadline_in_ms(0);
    return left > 0 ? left : 0;
}

/* ---- Addresses ---- */

static int parse_unix(const char *path, struct address *address, struct failure *why)
{
    if (*path == '\0')
        return fail_with(why, STATUS_USAGE, "the path of the Unix socket is empty");
    if (strlen(path) >= sizeof(address->unix_path))
        return fail_with(why, STATUS_USAGE,
                         "the path of the Unix socket '%.128s' is longer than %zu", path,
                         sizeof(address->unix_path) - 1);
    strcpy(address->unix_path, path);
    return 0;
}

static int parse_port(const char *text, uint16_t *ret_port, struct failure *why)
{
    uint64_t port;

    if (number_parse(text, &port) != NULL || port == 0 || port > 65535)
        return fail_with(why, STATUS_USAGE, "'%.64s' is no port; ports are 1 to 65535", text);
    *ret_port = (uint16_t)port;
    return 0;
}

int address_parse(const char *text, uint16_t default_port, struct address *ret_address,
                  struct failure *why)
{
    struct address address = {.port = default_port};
    const char *host = text, *end, *port = NULL;
    size_t length;
    int r;

    if (strncmp(text, "unix:", 5) == 0) {
        r = parse_unix(text + 5, &address, why);
        if (r == 0)
            *ret_address = address;
        return r;
    }
    if (*text == '[') {
        host = text + 1;
        end = strchr(host, ']');
        if (end == NULL || (end[1] != '\0' && end[1] != ':'))
            return fail_with(why, STATUS_USAGE,
                             "host '%.256s' is not of the form [ADDRESS]:PORT", text);
        port = end[1] == ':' ? end + 2 : NULL;
    } else {
        end = strchr(text, ':');
        if (end != NULL && strchr(end + 1, ':') == NULL)
            port = end + 1;
        else /* two colons: an IPv6 address without brackets */
            end = text + strlen(text);
    }
    length = (size_t)(end - host);
    if (length == 0 || length >= sizeof(address.host))
        return fail_with(why, STATUS_USAGE, "host '%.64s' is %s", text,
                         length == 0 ? "empty" : "too long");
    memcpy(address.host, host, length);
    r = port != NULL ? parse_port(port, &address.port, why) : 0;
    if (r == 0)
        *ret_address = address;
    return r;
}

const char *address_format(const struct address *address, char text[ADDRESS_MAX])
{
    if (address->unix_path[0] != '\0')
        snprintf(text, ADDRESS_MAX, "unix:%s", address->unix_path);
    else if (strchr(address->host, ':') != NULL)
        snprintf(text, ADDRESS_MAX, "[%s]:%u", address->host, address->port);
    else
        snprintf(text, ADDRESS_MAX, "%s:%u", address->host, address->port);
    return text;
}

/* ---- Waiting ---- */

/* 0 when fd is ready, ETIMEDOUT when the deadline came first, else another errno. */
static int wait_ready(int fd, short events, int64_t deadline)
{
    struct pollfd pollfd = {.fd = fd, .events = events};

    for (;;) {
        int64_t left = deadline_left_ms(deadline);
        int n = poll(&pollfd, 1, left > 3600000 ? 3600000 : (int)left);

        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return errno;
        if (n == 0 && deadline_left_ms(deadline) == 0)
            return ETIMEDOUT;
    }
}

int net_write(int fd, const void *data, size_t length, int64_t deadline, const char *peer,
              struct failure *why)
{
    const char *p = data;

    while (length > 0) {
        ssize_t n = send(fd, p, length, MSG_NOSIGNAL);
        int r = n < 0 ? errno : 0;

        if (r == EAGAIN || r == EWOULDBLOCK)
            r = wait_ready(fd, POLLOUT, deadline);
        if (r == ETIMEDOUT)
            return fail_with(why, STATUS_NO_ANSWER, "%s took no data in time", peer);
        if (r != 0 && r != EINTR)
            return fail_with(why, STATUS_UNREACHABLE, "sending to %s failed: %s", peer,
                             strerror(r));
        if (n > 0) {
            p += n;
            length -= (size_t)n;
        }
    }
    return 0;
}

int net_read(int fd, void *data, size_t length, int64_t deadline, const char *peer,
             struct failure *why)
{
    char *p = data;

    while (length > 0) {
        ssize_t n = recv(fd, p, length, 0);
        int r = n < 0 ? errno : 0;

        if (n == 0)
            return fail_with(why, STATUS_UNREACHABLE, "%s closed the connection", peer);
        if (r == EAGAIN || r == EWOULDBLOCK)
            r = wait_ready(fd, POLLIN, deadline);
        if (r == ETIMEDOUT)
            return fail_with(why, STATUS_NO_ANSWER, "%s did not answer in time", peer);
        if (r != 0 && r != EINTR)
            return fail_with(why, STATUS_UNREACHABLE, "reading from %s failed: %s", peer,
                             strerror(r));
        if (n > 0) {
            p += n;
            length -= (size_t)n;
        }
    }
    return 0;
}

/* ---- Connecting ---- */

/* Returns a descriptor or a negative errno. */
static int connect_one(const struct sockaddr *to, socklen_t to_length,
                       const struct addrinfo *from, int64_t deadline)
{
    int fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), r = 0;
    socklen_t length = sizeof(r);

    if (fd < 0)
        return -errno;
    if (from != NULL && bind(fd, from->ai_addr, from->ai_addrlen) < 0)
        r = errno;
    if (r == 0 && connect(fd, to, to_length) < 0)
        r = errno;
    if (r == EINPROGRESS || r == EINTR) {
        r = wait_ready(fd, POLLOUT, deadline);
        if (r == 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &r, &length) < 0)
            r = errno;
    }
    if (r == 0)
        return fd;
    close(fd);
    return -r;
}

static int connect_unix(const char *path, int64_t deadline)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};

    snprintf(to.sun_path, sizeof(to.sun_path), "%s", path);
    return connect_one((struct sockaddr *)&to, sizeof(to), NULL, deadline);
}

/* NULL when the name has no address; then *ret_problem is getaddrinfo's error. */
static struct addrinfo *resolve(const char *host, uint16_t port, int family, int flags,
                                int *ret_problem)
{
    struct addrinfo hints = {
        .ai_family = family, .ai_socktype = SOCK_STREAM, .ai_flags = flags};
    struct addrinfo *found = NULL;
    char service[8];

    snprintf(service, sizeof(service), "%u", port);
    *ret_problem = getaddrinfo(host, service, &hints, &found);
    return *ret_problem == 0 ? found : NULL;
}

/* Each address of the name in turn; a dead one must not eat the time of those behind it. */
static int connect_each(const struct addrinfo *to, const struct addrinfo *from,
                        int64_t deadline)
{
    int fd = -EADDRNOTAVAIL;

    for (; to != NULL && fd < 0; to = to->ai_next) {
        int64_t left = deadline_left_ms(deadline), share = left;

        if (from != NULL && from->ai_family != to->ai_family)
            continue;
        if (to->ai_next != NULL)
            share = left / 2 > LEAST_TRY_MS ? left / 2
                    : left < LEAST_TRY_MS   ? left
                                            : LEAST_TRY_MS;
        fd = connect_one(to->ai_addr, to->ai_addrlen, from, deadline_in_ms(share));
    }
    return fd;
}

static int connect_inet(const struct address *address, const char *bind_host, int64_t deadline,
                        struct failure *why)
{
    struct addrinfo *to, *from = NULL;
    int problem, fd;

    to = resolve(address->host, address->port, AF_UNSPEC, 0, &problem);
    if (to == NULL) {
        fail_with(why, STATUS_UNREACHABLE, "host '%s': %s", address->host,
                  gai_strerror(problem));
        return -1;
    }
    if (bind_host != NULL) {
        from = resolve(bind_host, 0, AF_UNSPEC, AI_PASSIVE, &problem);
        if (from == NULL) {
            fail_with(why, STATUS_FAILED, "bind address '%.256s': %s", bind_host,
                      gai_strerror(problem));
            freeaddrinfo(to);
            return -1;
        }
    }
    fd = connect_each(to, from, deadline);
    freeaddrinfo(to);
    if (from != NULL)
        freeaddrinfo(from);
    return fd;
}

int net_connect(const struct address *address, const char *bind_host, int64_t deadline,
                struct failure *why)
{
    char text[ADDRESS_MAX];
    int fd;

    why->status = 0;
    if (address->unix_path[0] != '\0')
        fd = connect_unix(address->unix_path, deadline);
    else
        fd = connect_inet(address, bind_host, deadline, why);
    if (fd >= 0)
        return fd;
    if (why->status != 0) /* the name was the trouble */
        return -1;
    address_format(address, text);
    if (fd == -ETIMEDOUT)
        fail_with(why, STATUS_NO_ANSWER, "cannot connect to %s: no answer in time", text);
    else if (fd == -EACCES)
        fail_with(why, STATUS_PERMISSION, "cannot connect to %s: %s", text, strerror(-fd));
    else
        fail_with(why, STATUS_UNREACHABLE, "cannot connect to %s: %s", text, strerror(-fd));
    return -1;
}

/* ---- Which hosts ---- */

typedef int name_of_end(int fd, struct sockaddr *address, socklen_t *length);

static bool name_end(int fd, name_of_end *get, char *ret_host, size_t size)
{
    struct sockaddr_storage storage;
    struct sockaddr *address = (struct sockaddr *)&storage;
    socklen_t length = sizeof(storage);

    return get(fd, address, &length) == 0 && address->sa_family != AF_UNIX &&
           getnameinfo(address, length, ret_host, (socklen_t)size, NULL, 0, NI_NUMERICHOST) == 0;
}

bool net_peer(int fd, char *ret_host, size_t size)
{
    return name_end(fd, getpeername, ret_host, size);
}

bool net_is_local(int fd)
{
    char theirs[NI_MAXHOST], ours[NI_MAXHOST];

    if (!name_end(fd, getpeername, theirs, sizeof(theirs)))
        return true; /* a Unix socket */
    return net_is_loopback(theirs) || (name_end(fd, getsockname, ours, sizeof(ours)) &&
                                       strcmp(theirs, ours) == 0);
}

bool net_is_loopback(const char *host)
{
    struct in_addr v4;
    struct in6_addr v6;

    if (inet_pton(AF_INET, host, &v4) == 1)
        return ntohl(v4.s_addr) >> 24 == 127;
    return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

bool net_source(const struct address *address, char *ret_host, size_t size)
{
    struct addrinfo *to = NULL;
    bool found = false;
    int problem;

    if (address->unix_path[0] == '\0')
        to = resolve(address->host, address->port, AF_UNSPEC, 0, &problem);
    for (struct addrinfo *ai = to; ai != NULL && !found; ai = ai->ai_next) {
        int fd = socket(ai->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        if (fd < 0)
            continue;
        found = connect(fd, ai->ai_addr, ai->ai_addrlen) == 0 &&
                name_end(fd, getsockname, ret_host, size);
        close(fd);
    }
    if (to != NULL)
        freeaddrinfo(to);
    if (found)
        ret_host[strcspn(ret_host, "%")] = '\0'; /* the interface of a link-local one */
    return found;
}
