/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The pages /metrics and /healthz: walks the daemon's counters and states and prints them, in
 * slices, so that ten thousand exports do not hold up the loop. docs/metrics.md lists all
 * metrics. Counts nothing itself but how late the loop is. Loop thread only.
 */
#ifndef NR_METRICS_H
#define NR_METRICS_H

#include <glib.h>

#include "nbd-runner/handler.h"

struct metrics;
struct server;

/* Serves nothing yet. */
struct metrics *metrics_new(struct server *server);
void metrics_free(struct metrics *metrics);

/* As listener_add_tcp(). */
int metrics_listen(struct metrics *metrics, const char *host, int port,
                   struct nbd_failure *why);
const GPtrArray *metrics_endpoints(const struct metrics *metrics); /* struct endpoint * */

#endif
