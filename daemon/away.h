/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Requests of an export whose backstore is lost and has to be opened anew. They are held, in
 * order, and handed over again when it is back; expiry.c ends those that wait too long. While
 * this lasts export->io is not the handler but what is here, so that nothing on the way of a
 * request has to ask. Loop thread only.
 */
#ifndef NR_AWAY_H
#define NR_AWAY_H

#include "request.h"

#define AWAY_LIMIT_S 30 /* that a request is held, without a request_timeout */

/* From now on requests are held. The handler may still have some. */
void away_begin(struct export *export);

/* The backstore is open again: they go on. */
void away_end(struct export *export);

/* What is held fails, and so does what comes before away_end(). */
void away_fail(struct export *export);

static inline bool export_is_away(const struct export *export)
{
    return export->away != NULL;
}

/* A request that the handler has ended with an error, while it is away, shall be repeated
 * later. False: it has failed. */
bool away_hold(struct request *request);

/* The request is held no more; the caller ends it. */
void away_let_go(struct request *request);

/* Nobody waits for the requests of this connection any more: end them. */
void away_forget(struct export *export, const struct connection *conn);

#endif
