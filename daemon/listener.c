/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Listening sockets. The only file that binds and accepts.
 */
#include "listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "log.h"

#define ACCEPTS_PER_WAKEUP 64

struct listener {
    struct listener_set *set; /* not owned */
    struct event *readable;
    int fd;
    bool is_unix;
    char *path; /* of a Unix socket that we made: removed at the end; else NULL */
};

struct listener_set {
    struct loop *loop;
    listener_accept *accept;
    void *arg;
    GPtrArray *listeners;
    GPtrArray *endpoints;
    int reserve; /* a descriptor to give up when there are no others */
};

static int open_reserve(void)
{
    return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

/* No descriptor is left: take the peer in on the reserved one and let it go at once, so that
 * it learns of it now, and not after its own time limit. False: there was no peer (without a
 * descriptor accept4() fails before it looks), or no reserve. */
static bool turn_away(struct listener *listener)
{
    struct listener_set *set = listener->set;
    int fd;

    if (set->reserve >= 0)
        close(set->reserve);
    fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0)
        close(fd);
    set->reserve = open_reserve();
    if (fd >= 0)
        log_warning("out of descriptors: a connection was closed; raise LimitNOFILE");
    return fd >= 0;
}

static void on_acceptable(evutil_socket_t fd, short what, void *arg)
{
    struct listener *listener = arg;

    (void)what;
    for (int i = 0; i < ACCEPTS_PER_WAKEUP; i++) {
        struct sockaddr_storage peer = { .ss_family = AF_UNSPEC };
        socklen_t length = sizeof(peer);
        int accepted = accept4(fd, (struct sockaddr *)&peer, &length,
                               SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (accepted >= 0) {
            if (listener->is_unix)
                peer.ss_family = AF_UNIX;
            listener->set->accept(listener->set->arg, accepted, (struct sockaddr *)&peer);
        } else if (errno == EMFILE || errno == ENFILE) {
            if (!turn_away(listener))
                return;
        } else if (errno != ECONNABORTED && errno != EINTR) {
            if (errno != EAGAIN)
                log_warning("cannot accept a connection: %s", strerror(errno));
            return;
        }
    }
}

static void listener_free(void *data)
{
    struct listener *listener = data;

    if (listener->readable != NULL)
        event_free(listener->readable);
    close(listener->fd);
    if (listener->path != NULL)
        unlink(listener->path);
    g_free(listener->path);
    g_free(listener);
}

static void endpoint_free(void *data)
{
    struct endpoint *endpoint = data;

    g_free(endpoint->host);
    g_free(endpoint);
}

struct listener_set *listener_set_new(struct loop *loop, listener_accept *accept, void *arg)
{
    struct listener_set *set = g_new0(struct listener_set, 1);

    set->loop = loop;
    set->accept = accept;
    set->arg = arg;
    set->listeners = g_ptr_array_new_with_free_func(listener_free);
    set->endpoints = g_ptr_array_new_with_free_func(endpoint_free);
    set->reserve = open_reserve();
    return set;
}

void listener_set_free(struct listener_set *set)
{
    if (set == NULL)
        return;
    g_ptr_array_free(set->listeners, TRUE);
    g_ptr_array_free(set->endpoints, TRUE);
    if (set->reserve >= 0)
        close(set->reserve);
    g_free(set);
}

const GPtrArray *listener_endpoints(const struct listener_set *set)
{
    return set->endpoints;
}

/* Takes over fd, which listens. */
static struct listener *add_listener(struct listener_set *set, int fd)
{
    struct listener *listener = g_new0(struct listener, 1);

    listener->set = set;
    listener->fd = fd;
    listener->readable =
        event_new(loop_base(set->loop), fd, EV_READ | EV_PERSIST, on_acceptable, listener);
    g_ptr_array_add(set->listeners, listener);
    event_add(listener->readable, NULL);
    return listener;
}

/* Takes over fd, which is bound, if it can listen. */
static int start_listening(struct listener_set *set, int fd, const char *path)
{
    struct listener *listener;

    if (listen(fd, SOMAXCONN) < 0)
        return -errno;
    listener = add_listener(set, fd);
    listener->is_unix = path != NULL;
    listener->path = g_strdup(path);
    return 0;
}

static void add_endpoint(struct listener_set *set, const char *host, int port)
{
    struct endpoint *endpoint = g_new0(struct endpoint, 1);

    endpoint->host = g_strdup(host);
    endpoint->port = port;
    g_ptr_array_add(set->endpoints, endpoint);
}

static int bound_port(int fd)
{
    struct sockaddr_storage address;
    socklen_t length = sizeof(address);

    if (getsockname(fd, (struct sockaddr *)&address, &length) < 0)
        return 0;
    return ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                               : ((struct sockaddr_in *)&address)->sin_port);
}

static void set_port(struct sockaddr *address, int port)
{
    if (address->sa_family == AF_INET6)
        ((struct sockaddr_in6 *)address)->sin6_port = htons((uint16_t)port);
    else
        ((struct sockaddr_in *)address)->sin_port = htons((uint16_t)port);
}

/* What accepted sockets inherit, so that accepting costs no further system call: no delay; an
 * idle peer that is gone is noticed after a minute; one that neither acknowledges nor takes
 * what it has asked for, after five. A shorter time would cut clients that merely pause. */
static void set_tcp_options(int fd)
{
    int on = 1, idle_s = 30, interval_s = 10, count = 3;
    unsigned user_timeout_ms = 300000;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout_ms, sizeof(user_timeout_ms));
}

/* A socket bound to one address; `only_v6`: leave IPv4 to another socket. */
static int bind_tcp(const struct addrinfo *ai, bool only_v6)
{
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
    int on = 1, v6 = only_v6, r;

    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    set_tcp_options(fd);
    if (ai->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6, sizeof(v6));
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0) {
        r = -errno;
        close(fd);
        return r;
    }
    return fd;
}

static int listen_on(struct listener_set *set, struct addrinfo *ai, const char *host, int *port)
{
    int fd, r;

    set_port(ai->ai_addr, *port);
    fd = bind_tcp(ai, host != NULL);
    if (fd < 0)
        return fd;
    r = start_listening(set, fd, NULL);
    if (r == 0)
        *port = bound_port(fd);
    else
        close(fd);
    return r;
}

/* One socket for both families where the kernel has IPv6, else one for IPv4. */
static int listen_everywhere(struct listener_set *set, int *port)
{
    struct sockaddr_in6 any6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT };
    struct sockaddr_in any4 = { .sin_family = AF_INET };
    struct addrinfo six = { .ai_family = AF_INET6, .ai_addr = (struct sockaddr *)&any6,
                            .ai_addrlen = sizeof(any6) };
    struct addrinfo four = { .ai_family = AF_INET, .ai_addr = (struct sockaddr *)&any4,
                             .ai_addrlen = sizeof(any4) };
    int r = listen_on(set, &six, NULL, port);

    if (r == -EAFNOSUPPORT || r == -EADDRNOTAVAIL)
        r = listen_on(set, &four, NULL, port);
    return r;
}

static int listen_on_host(struct listener_set *set, const char *host, int *port,
                          struct nbd_failure *why)
{
    struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM,
                              .ai_flags = AI_PASSIVE };
    struct addrinfo *list;
    int r = getaddrinfo(host, NULL, &hints, &list), last = -EADDRNOTAVAIL, bound = 0;

    if (r != 0)
        return nbd_fail(why, EADDRNOTAVAIL, "cannot look up the address \"%s\": %s", host,
                        r == EAI_SYSTEM ? strerror(errno) : gai_strerror(r));
    for (struct addrinfo *ai = list; ai != NULL; ai = ai->ai_next) {
        r = listen_on(set, ai, host, port);
        if (r == 0)
            bound++;
        else if (r != -EAFNOSUPPORT && (last = r) == -EADDRINUSE)
            break;
    }
    freeaddrinfo(list);
    return bound > 0 && last != -EADDRINUSE ? 0 : last;
}

int listener_add_tcp(struct listener_set *set, const char *host, int port,
                     struct nbd_failure *why)
{
    bool everywhere = host == NULL || host[0] == '\0';
    int chosen = port, r;

    why->code = 0;
    r = everywhere ? listen_everywhere(set, &chosen) : listen_on_host(set, host, &chosen, why);
    if (r < 0 && why->code == 0)
        return nbd_fail(why, -r, "cannot listen on %s port %d: %s%s",
                        everywhere ? "any address," : host, port, strerror(-r),
                        r == -EADDRINUSE ? "; another program has it (ss -ltnp shows which), "
                                           "or choose another port" : "");
    if (r == 0)
        add_endpoint(set, everywhere ? "" : host, chosen);
    return r;
}

static bool is_socket(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0 && S_ISSOCK(st.st_mode);
}

/* Is there a server behind a socket file? Only a refused connection proves that not. (A file
 * of another kind refuses, too.) */
static bool is_stale(const struct sockaddr_un *address)
{
    if (!is_socket(address->sun_path))
        return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    bool refused = fd >= 0 &&
                   connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 &&
                   errno == ECONNREFUSED;

    if (fd >= 0)
        close(fd);
    return refused;
}

int listener_add_unix(struct listener_set *set, const char *path, unsigned mode,
                      struct nbd_failure *why)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd, r;

    if (strlen(path) >= sizeof(address.sun_path))
        return nbd_fail(why, ENAMETOOLONG,
                        "the socket path %s has more than %zu bytes; choose a shorter one", path,
                        sizeof(address.sun_path) - 1);
    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return nbd_fail(why, errno, "cannot make a socket: %s", strerror(errno));
    r = bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
    if (r == -EADDRINUSE && is_stale(&address)) {
        unlink(path);
        r = bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
    }
    if (r < 0) {
        close(fd);
        if (r == -EADDRINUSE)
            return nbd_fail(why, -r, "cannot listen on the socket %s: %s", path,
                            is_socket(path) ? "another server answers there"
                                            : "there is a file that is no socket; remove it or "
                                              "choose another path");
        return nbd_fail(why, -r, "cannot listen on the socket %s: %s", path, strerror(-r));
    }
    r = chmod(path, mode) < 0 ? -errno : start_listening(set, fd, path);
    if (r < 0) {
        close(fd);
        return nbd_fail(why, -r, "cannot listen on the socket %s: %s", path, strerror(-r));
    }
    g_autofree char *host = g_strconcat("unix:", path, NULL);
    add_endpoint(set, host, 0);
    return 0;
}

/* "" for every address, as with listener_add_tcp(). */
static void add_inet_endpoint(struct listener_set *set, const struct sockaddr_storage *address)
{
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
    const struct sockaddr_in *in4 = (const struct sockaddr_in *)address;
    bool six = address->ss_family == AF_INET6;
    bool everywhere = six ? IN6_IS_ADDR_UNSPECIFIED(&in6->sin6_addr)
                          : in4->sin_addr.s_addr == htonl(INADDR_ANY);
    char host[INET6_ADDRSTRLEN] = "";

    if (!everywhere)
        inet_ntop(address->ss_family,
                  six ? (const void *)&in6->sin6_addr : (const void *)&in4->sin_addr, host,
                  sizeof(host));
    add_endpoint(set, host, ntohs(six ? in6->sin6_port : in4->sin_port));
}

int listener_adopt(struct listener_set *set, int fd, struct nbd_failure *why)
{
    struct sockaddr_storage address = { .ss_family = AF_UNSPEC };
    socklen_t length = sizeof(address);
    const struct sockaddr_un *local = (const struct sockaddr_un *)&address;
    struct listener *listener;
    int r;

    if (getsockname(fd, (struct sockaddr *)&address, &length) < 0 ||
        fcntl(fd, F_SETFL, O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
        r = nbd_fail(why, errno, "cannot use the socket that was handed over: %s",
                     strerror(errno));
        close(fd);
        return r;
    }
    listener = add_listener(set, fd);
    listener->is_unix = address.ss_family == AF_UNIX;
    if (listener->is_unix) {
        g_autofree char *host = g_strdup_printf("unix:%.*s", (int)sizeof(local->sun_path),
                                                local->sun_path);
        add_endpoint(set, host, 0);
    } else {
        set_tcp_options(fd);
        add_inet_endpoint(set, &address);
    }
    return 0;
}

char *listener_peer_name(int fd, const struct sockaddr *peer)
{
    char text[INET6_ADDRSTRLEN];
    struct ucred who = { 0 };
    socklen_t length = sizeof(who);

    if (peer->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)peer;

        inet_ntop(AF_INET, &in->sin_addr, text, sizeof(text));
        return g_strdup_printf("%s:%u", text, ntohs(in->sin_port));
    }
    if (peer->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)peer;
        const char *shown;

        inet_ntop(AF_INET6, &in->sin6_addr, text, sizeof(text));
        shown = IN6_IS_ADDR_V4MAPPED(&in->sin6_addr) ? text + strlen("::ffff:") : text;
        return g_strdup_printf(shown != text ? "%s:%u" : "[%s]:%u", shown, ntohs(in->sin6_port));
    }
    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &length);
    return g_strdup_printf("unix:%d", (int)who.pid);
}
