/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The handshake phase of fixed newstyle negotiation (protocol document, "Newstyle
 * negotiation"): greeting and options. Loop thread only.
 */
#ifndef NR_HANDSHAKE_H
#define NR_HANDSHAKE_H

#include "connection.h"

#define OPTION_DATA_MAX (64u << 10)   /* bytes of an option that is understood */
#define OPTION_DRAIN_MAX (1u << 20)   /* longer ones end the connection */
#define OPTIONS_MAX 32                /* in one session ... */
#define OPTIONS_PER_EXPORT 4          /* ... and for each export: some clients list and ask
                                         about each */

void handshake_greet(struct connection *conn);

/* Take one message off the input: bytes taken, or 0 when it is not all there or has to wait. */
size_t handshake_receive_flags(struct connection *conn, const struct input *input);
size_t handshake_receive_option(struct connection *conn, const struct input *input);

/* An export is being opened for a session, which needs a client that still sends. */
bool handshake_is_in_vain(const struct connection *conn);

/* The connection ends: forget what waits. */
void handshake_abandon(struct connection *conn);

#endif
