/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Requests that may not wait for their storage for ever: a list for each export, in order of
 * age, and one timer for the oldest. An export without a request_timeout has no such list,
 * unless its backstore is away. Knows neither replies nor connections. Loop thread only.
 */
#ifndef NR_EXPIRY_H
#define NR_EXPIRY_H

#include "request.h"

/* The export's limit, or the daemon's, may have changed: makes or updates export->expiry.
 * A new limit holds for requests that come later, a changed one for all that are watched. */
void expiry_update(struct export *export);

/* The export has ended; no request of it is left. */
void expiry_drop(struct export *export);

/* What is called for a request whose time is over; it is not watched any more then. Once, at
 * the start. */
void expiry_init(void (*on_expired)(struct request *request));

/* Its time begins, unless it has begun already; only with export->expiry. */
void expiry_watch(struct request *request);

/* It has ended in time. */
void expiry_forget(struct request *request);

static inline bool expiry_is_watched(const struct request *request)
{
    return request->since_ns != 0;
}

#endif
