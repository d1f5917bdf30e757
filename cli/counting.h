/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What the daemon counts about requests: fetched in pages, and as JSON. A daemon of before
 * these counters has none, which is no failure.
 */
#ifndef CLI_COUNTING_H
#define CLI_COUNTING_H

#include "command.h"

#include <glib.h>

/* Of one moment, but for what happens between two pages. */
struct counting {
    nr_counters_ok *head; /* of the first page: the daemon's own; NULL: it has no counters */
    GPtrArray *rows;      /* nr_counters_row *, sorted by name */
    GPtrArray *pages;     /* what owns all of it */
};

/* name: of an export, "" = all, NULL = no rows. */
int counting_fetch(struct cli *cli, const char *name, struct counting *ret_counting,
                   struct failure *why);
void counting_clear(struct counting *counting);

/* NULL: there is no such row. */
const nr_counters_row *counting_find(const struct counting *counting, const char *name);

uint64_t counters_requests(const nr_counters *counters);
uint64_t counters_errors(const nr_counters *counters);
/* Of number i of a list; 0 beyond its end. */
uint64_t counters_bytes(const nr_counters *counters, unsigned i);

json_object *counters_json(const nr_counters *counters);
/* The same with what else the row has. NULL for NULL. */
json_object *counters_row_json(const nr_counters_row *row);

#endif
