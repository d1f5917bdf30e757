/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Sockets with time limits: addresses as operators write them, connecting, and reading and
 * writing whole blocks until a deadline. Knows no protocol.
 */
#ifndef CLI_NET_H
#define CLI_NET_H

#include "failure.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NET_FOREVER INT64_MAX
#define ADDRESS_MAX 512

/* Where something listens. */
struct address {
    char unix_path[108]; /* not empty: a Unix socket, and the rest is unused */
    char host[256];
    uint16_t port;
};

/* A point in time, in milliseconds of the monotonic clock. */
int64_t deadline_in_ms(int64_t ms);
int64_t deadline_left_ms(int64_t deadline); /* 0 when it is over */

/* "name", "10.0.0.1:24110", "[fe80::1]:24110", "fe80::1", "unix:/path". */
int address_parse(const char *text, uint16_t default_port, struct address *ret_address,
                  struct failure *why);
/* The same spelling; the result is text. */
const char *address_format(const struct address *address, char text[ADDRESS_MAX]);

/* A connected, non-blocking, close-on-exec socket, or -1. bind_host may be NULL. */
int net_connect(const struct address *address, const char *bind_host, int64_t deadline,
                struct failure *why);

/* The other end of a connected TCP socket, as a number. False: it is none. */
bool net_peer(int fd, char *ret_host, size_t size);
/* Is the other end on this host? */
bool net_is_local(int fd);
bool net_is_loopback(const char *host); /* a number */
/* The address of this host that a connection to there would come from; sends nothing. False:
 * there is no way there, or it is a Unix socket. */
bool net_source(const struct address *address, char *ret_host, size_t size);

/* Whole blocks. `peer` is for the sentence: "the daemon at unix:/run/...". */
int net_write(int fd, const void *data, size_t length, int64_t deadline, const char *peer,
              struct failure *why);
int net_read(int fd, void *data, size_t length, int64_t deadline, const char *peer,
             struct failure *why);

#endif
