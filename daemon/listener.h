/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Listening sockets, TCP and Unix. Accepts at once, always; when descriptors run out a
 * reserved one is used to accept and close, so that no peer waits in silence.
 */
#ifndef NR_LISTENER_H
#define NR_LISTENER_H

#include <glib.h>
#include <sys/socket.h>

#include "loop.h"
#include "nbd-runner/handler.h"

struct listener_set;

/* A new connection: fd is non-blocking, close-on-exec and the callee's. peer is AF_UNIX for
 * Unix sockets. */
typedef void listener_accept(void *arg, int fd, const struct sockaddr *peer);

struct listener_set *listener_set_new(struct loop *loop, listener_accept *accept, void *arg);
void listener_set_free(struct listener_set *set); /* closes, removes Unix sockets' files */

/* host NULL or "": every address, IPv6 and IPv4. Port 0: the kernel chooses (the same one
 * for each address of a host). -EADDRINUSE etc. with a sentence. */
int listener_add_tcp(struct listener_set *set, const char *host, int port,
                     struct nbd_failure *why);
/* A file that is there and refuses connections is taken over; one that answers is an error.
 * mode: permission bits of the socket. */
int listener_add_unix(struct listener_set *set, const char *path, unsigned mode,
                      struct nbd_failure *why);

/* Takes over fd, a listening TCP or Unix socket, however this ends. A Unix socket's file is left
 * alone at the end: it belongs to whoever made it. */
int listener_adopt(struct listener_set *set, int fd, struct nbd_failure *why);

/* Where the set listens: struct endpoint *. */
struct endpoint {
    char *host; /* "127.0.0.1", "::", or "unix:PATH" */
    int port;   /* 0 for a Unix socket */
};
const GPtrArray *listener_endpoints(const struct listener_set *set);

/* "127.0.0.1:40312", "[::1]:40312", "unix:PID". Caller frees with g_free(). */
char *listener_peer_name(int fd, const struct sockaddr *peer);

#endif
