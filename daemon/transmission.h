/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The transmission phase (protocol document, "Transmission"): requests in, each
 * checked and handed on. Loop thread only.
 */
#ifndef NR_TRANSMISSION_H
#define NR_TRANSMISSION_H

#include "connection.h"

/* Take one message off the input: bytes taken, or 0 when it is not all there or has to wait. */
size_t transmission_receive(struct connection *conn, const struct input *input);

/* A reply from a file could not be sent to its end. */
void transmission_file_failed(struct connection *conn, struct request *request, int error);

/* Can what is left of the data of a reply, a file's, be sent without waiting for
 * storage? If not, read it; the reply waits (request->loading). */
bool transmission_is_cached(const struct connection *conn, const struct request *request);
void transmission_load(struct connection *conn, struct request *request);

/* The connection ends: forget a request whose payload has not come. */
void transmission_abandon(struct connection *conn);

#endif
