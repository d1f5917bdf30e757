/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The table of all metrics, and one scrape of them, step by step. For metrics.c only. Loop
 * thread only.
 */
#ifndef NR_METRICS_TABLE_H
#define NR_METRICS_TABLE_H

#include <glib.h>
#include <stdbool.h>

#include "counters.h"

struct scrape;
struct server;

/* lateness: of the loop; must outlive the scrape, like the server. */
struct scrape *scrape_new(struct server *server, const struct histogram *lateness,
                          bool openmetrics);
void scrape_free(struct scrape *scrape);

/* Does a bounded piece of work and appends what came of it, if anything, to the text. False:
 * that was the last piece. */
bool scrape_step(struct scrape *scrape);
GString *scrape_text(struct scrape *scrape); /* to be emptied between steps */

#endif
