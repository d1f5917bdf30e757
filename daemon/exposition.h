/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The text that a scrape gets: OpenMetrics 1.0, or the older text format 0.0.4 of Prometheus
 * for those who ask for it. Writes families and samples; knows no metric. Pure functions.
 */
#ifndef NR_EXPOSITION_H
#define NR_EXPOSITION_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "counters.h"

enum metric_type { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM, METRIC_INFO };

struct exposition {
    GString *text;
    bool openmetrics;
    const char *name;      /* of the family that is being written */
    enum metric_type type;
    char labels[8192];     /* of the next samples: name="value",... */
};

/* name: with its unit, without "_total" or "_info". unit: "" = none. */
void exposition_family(struct exposition *e, const char *name, enum metric_type type,
                       const char *unit, const char *help);

/* The labels of the samples that follow: pairs of name and value, then NULL. Values are
 * escaped. */
void exposition_labels(struct exposition *e, ...) __attribute__((sentinel));

/* A sample of the family: a counter, a gauge, or info (value 1). */
void exposition_count(struct exposition *e, uint64_t value);
void exposition_number(struct exposition *e, double value);
void exposition_histogram(struct exposition *e, const struct histogram *histogram);

/* The last line, where the format has one. */
void exposition_end(struct exposition *e);

const char *exposition_content_type(bool openmetrics);
/* Does this header field Accept want the older format? */
bool exposition_wants_old(const char *accept);

#endif
