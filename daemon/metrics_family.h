/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * A scrape under way, and the rows of the table of all metrics: metrics_daemon.c and
 * metrics_exports.c have the rows, metrics_table.c walks them. For these three only. Loop
 * thread only.
 */
#ifndef NR_METRICS_FAMILY_H
#define NR_METRICS_FAMILY_H

#include "export.h"
#include "exposition.h"

#define STATES_MAX 16 /* more than any of the enums has */

struct scrape {
    struct server *server;            /* not owned */
    const struct histogram *lateness; /* not owned */
    struct exposition e;
    /* How many there are, by enum export_state, mapping_state and connection's phase. */
    unsigned exports[STATES_MAX], mappings[STATES_MAX], phases[STATES_MAX];
    unsigned long total_in_flight; /* requests */

    bool counted; /* each export has been looked at */
    size_t family; /* of the table: the next one, or the one that is being written */
    char *after;  /* the last export that was taken; NULL: none. Owned */
};

/* Whose counters these are: those of an export, or the sums of a handler. */
struct counted {
    const char *export; /* NULL: of the handler */
    const char *handler;
    const struct export_counters *counters;
    const struct latencies *latencies; /* NULL: no client has come yet */
};

/* A row. One of the functions gives its samples. */
struct family {
    const char *name; /* with its unit, without "_total" */
    enum metric_type type;
    const char *unit; /* "": none */
    const char *help;

    /* Of the daemon: the only sample, or all of them. */
    uint64_t (*value)(const struct scrape *s);
    void (*write)(struct scrape *s);

    /* Of each handler, or of each export. */
    void (*of_handler)(struct scrape *s, const struct counted *whose);
    void (*of_export)(struct scrape *s, const struct counted *whose);

    /* Of each export: the only sample. */
    uint64_t (*export_value)(const struct export *export);
};

extern const struct family daemon_families[];
extern const size_t n_daemon_families;
extern const struct family export_families[]; /* of handlers, too */
extern const size_t n_export_families;

/* One sample of a family of exports. */
void metrics_write_export_value(struct scrape *s, const struct export *export, uint64_t value);

#endif
