/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Does the daemon answer NBD clients? Connects to an address where it says that it listens and
 * reads the greeting. For status and doctor; negotiates nothing, which is handshake.c's.
 */
#ifndef CLI_GREETING_H
#define CLI_GREETING_H

#include "client.h"

enum answer {
    ANSWER_YES,
    ANSWER_NO,
    ANSWER_NOT_ADMITTED,  /* not tried: nbd_allow does not let this host in */
    ANSWER_NOT_REACHABLE, /* not tried: of another host, and only for that host itself */
};

struct greeting {
    enum answer answer;
    char address[ADDRESS_MAX]; /* where it was looked for; "" when it was not */
    char message[1536];        /* why not; "" with ANSWER_YES */
};

/* "yes", "no", "not-admitted", "not-reachable" */
const char *answer_word(enum answer answer);

/* One of the daemon's nbd_endpoints. Takes at most timeout_ms, but for the control port's own
 * answer. */
void greeting_look(struct client *client, const nr_endpoint *endpoint, int64_t timeout_ms,
                   struct greeting *ret_greeting);

/* Where the endpoint is from here, at most two places; 0 when there is none. remote_host: of
 * the daemon, NULL when it runs on this host; by_unix: it was called through a Unix socket.
 * For the test, too. */
size_t greeting_places(const nr_endpoint *endpoint, const char *remote_host, bool by_unix,
                       struct address places[2]);
/* The greeting itself. 0 or why->status. For the test, too. */
int greeting_read(const struct address *address, int64_t deadline, struct failure *why);

#endif
