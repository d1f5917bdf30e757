/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * OpenMetrics text. In it a family is named without the suffix of its samples; the older
 * format names it with.
 */
#include "exposition.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

/* What the samples of a counter or an info add to the name of the family. */
static const char *suffix_of(enum metric_type type)
{
    switch (type) {
    case METRIC_COUNTER: return "_total";
    case METRIC_INFO: return "_info";
    default: return "";
    }
}

static const char *type_name(const struct exposition *e, enum metric_type type)
{
    switch (type) {
    case METRIC_COUNTER: return "counter";
    case METRIC_HISTOGRAM: return "histogram";
    case METRIC_INFO: return e->openmetrics ? "info" : "gauge";
    default: return "gauge";
    }
}

void exposition_family(struct exposition *e, const char *name, enum metric_type type,
                       const char *unit, const char *help)
{
    const char *suffix = e->openmetrics ? "" : suffix_of(type);

    e->name = name;
    e->type = type;
    e->labels[0] = '\0';
    g_string_append_printf(e->text, "# TYPE %s%s %s\n", name, suffix, type_name(e, type));
    if (e->openmetrics && *unit != '\0')
        g_string_append_printf(e->text, "# UNIT %s %s\n", name, unit);
    g_string_append_printf(e->text, "# HELP %s%s %s\n", name, suffix, help);
}

/* ---- Labels ---- */

/* Copies with backslash, quote and newline escaped; what does not fit is left out. */
static char *put_escaped(char *to, const char *end, const char *value)
{
    for (; *value != '\0' && end - to > 2; value++) {
        if (*value == '\\' || *value == '"' || *value == '\n')
            *to++ = '\\';
        *to++ = *value == '\n' ? 'n' : *value;
    }
    return to;
}

void exposition_labels(struct exposition *e, ...)
{
    char *to = e->labels, *end = e->labels + sizeof(e->labels) - 8;
    const char *name;
    va_list args;

    va_start(args, e);
    while ((name = va_arg(args, const char *)) != NULL) {
        const char *value = va_arg(args, const char *);

        if (end - to < (ptrdiff_t)strlen(name) + 8)
            continue;
        if (to > e->labels)
            *to++ = ',';
        to = stpcpy(stpcpy(to, name), "=\"");
        to = put_escaped(to, end, value);
        *to++ = '"';
    }
    *to = '\0';
    va_end(args);
}

/* ---- Samples ---- */

static void put_name(struct exposition *e, const char *suffix)
{
    g_string_append(e->text, e->name);
    g_string_append(e->text, suffix);
    if (e->labels[0] != '\0') {
        g_string_append_c(e->text, '{');
        g_string_append(e->text, e->labels);
        g_string_append_c(e->text, '}');
    }
    g_string_append_c(e->text, ' ');
}

/* Many thousands of these are written: no printf(). */
static void put_count(struct exposition *e, uint64_t value)
{
    char digits[24], *p = digits + sizeof(digits) - 1;

    *p = '\n';
    do
        *--p = (char)('0' + value % 10);
    while ((value /= 10) > 0);
    g_string_append_len(e->text, p, digits + sizeof(digits) - p);
}

void exposition_count(struct exposition *e, uint64_t value)
{
    put_name(e, suffix_of(e->type));
    put_count(e, value);
}

/* Six decimals: no number here is known better. */
void exposition_number(struct exposition *e, double value)
{
    char text[64];

    put_name(e, suffix_of(e->type));
    g_string_append(e->text, g_ascii_formatd(text, sizeof(text), "%.6f", value));
    g_string_append_c(e->text, '\n');
}

static void put_bucket(struct exposition *e, const char *bound, uint64_t count)
{
    g_string_append(e->text, e->name);
    g_string_append(e->text, "_bucket{");
    g_string_append(e->text, e->labels);
    g_string_append(e->text, e->labels[0] != '\0' ? ",le=\"" : "le=\"");
    g_string_append(e->text, bound);
    g_string_append(e->text, "\"} ");
    put_count(e, count);
}

void exposition_histogram(struct exposition *e, const struct histogram *histogram)
{
    uint64_t count = 0;

    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        count += histogram->buckets[i];
        put_bucket(e, i < HISTOGRAM_BOUNDS ? histogram_bound_texts[i] : "+Inf", count);
    }
    put_name(e, "_count");
    put_count(e, count);
    put_name(e, "_sum");
    g_string_append_printf(e->text, "%" PRIu64 ".%09" PRIu64 "\n",
                           histogram->sum_ns / 1000000000, histogram->sum_ns % 1000000000);
}

void exposition_end(struct exposition *e)
{
    if (e->openmetrics)
        g_string_append(e->text, "# EOF\n");
}

/* ---- Formats ---- */

const char *exposition_content_type(bool openmetrics)
{
    return openmetrics ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                       : "text/plain; version=0.0.4; charset=utf-8";
}

bool exposition_wants_old(const char *accept)
{
    return strstr(accept, "application/openmetrics-text") == NULL &&
           strstr(accept, "text/plain") != NULL;
}
