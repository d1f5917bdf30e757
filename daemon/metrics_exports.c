/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The metrics of handlers and exports: a row for each family, and what its samples are. Both
 * have the same counters; a handler's are the sums of its exports. Loop thread only.
 */
#include "metrics_family.h"

#include "exposition.h"

/* ---- Labels ---- */

/* The labels that say whose it is; `name` and `value` are one more, or NULL. */
static void put_labels(struct scrape *s, const struct counted *whose, const char *name,
                       const char *value)
{
    if (whose->export != NULL)
        exposition_labels(&s->e, "export", whose->export, "handler", whose->handler, name,
                          value, NULL);
    else
        exposition_labels(&s->e, "handler", whose->handler, name, value, NULL);
}

void metrics_write_export_value(struct scrape *s, const struct export *export, uint64_t value)
{
    struct counted whose = { .export = export->name, .handler = export->handler_name };

    put_labels(s, &whose, NULL, NULL);
    exposition_count(&s->e, value);
}

/* ---- Counters ---- */

/* Of an export only those counters that have begun to count: most exports of many never see
 * most commands, and no error. */
static void write_counter(struct scrape *s, const struct counted *whose, const char *label,
                          const char *name, uint64_t count)
{
    if (name == NULL || (whose->export != NULL && count == 0))
        return;
    put_labels(s, whose, label, name);
    exposition_count(&s->e, count);
}

static void write_requests(struct scrape *s, const struct counted *whose)
{
    for (unsigned i = 0; i < N_COMMANDS; i++)
        write_counter(s, whose, "command", command_name(i), whose->counters->requests[i]);
}

static void write_bytes(struct scrape *s, const struct counted *whose)
{
    for (enum byte_kind i = 0; i < N_BYTE_KINDS; i++)
        write_counter(s, whose, "direction", byte_kind_name(i), whose->counters->bytes[i]);
}

static void write_errors(struct scrape *s, const struct counted *whose)
{
    for (enum error_kind i = 0; i < N_ERROR_KINDS; i++)
        write_counter(s, whose, "error", error_kind_name(i), whose->counters->errors[i]);
}

static void write_durations(struct scrape *s, const struct counted *whose)
{
    if (whose->latencies == NULL)
        return;
    for (enum latency_class i = 0; i < N_LATENCY_CLASSES; i++) {
        const struct histogram *histogram = &whose->latencies->of[i];

        if (whose->export != NULL && histogram_count(histogram) == 0)
            continue;
        put_labels(s, whose, "class", latency_class_name(i));
        exposition_histogram(&s->e, histogram);
    }
}

/* ---- Single values of an export ---- */

static uint64_t get_up(const struct export *export)
{
    return export->state != EXPORT_FAULTED;
}

static uint64_t get_size(const struct export *export)
{
    return export->size;
}

static uint64_t get_connections(const struct export *export)
{
    return export->connections;
}

static uint64_t get_in_flight(const struct export *export)
{
    return export->in_flight;
}

static uint64_t get_orphans(const struct export *export)
{
    return export->orphans;
}

/* ---- The rows ---- */

const struct family export_families[] = {
    { "nbd_runner_handler_requests", METRIC_COUNTER, "",
      "Requests by handler and command, of removed exports too.",
      .of_handler = write_requests },
    { "nbd_runner_handler_bytes", METRIC_COUNTER, "bytes",
      "Bytes that were read, written, zeroed and trimmed, by handler.",
      .of_handler = write_bytes },
    { "nbd_runner_handler_errors", METRIC_COUNTER, "",
      "Requests that were answered with an error, by handler and error.",
      .of_handler = write_errors },
    { "nbd_runner_handler_request_duration_seconds", METRIC_HISTOGRAM, "seconds",
      "Time from a whole request to its reply, by handler and class of command.",
      .of_handler = write_durations },

    { "nbd_runner_export_up", METRIC_GAUGE, "", "0 while the export is faulted, else 1.",
      .export_value = get_up },
    { "nbd_runner_export_size_bytes", METRIC_GAUGE, "bytes", "Size of the export.",
      .export_value = get_size },
    { "nbd_runner_export_connections", METRIC_GAUGE, "", "NBD connections that use the export.",
      .export_value = get_connections },
    { "nbd_runner_export_requests_in_flight", METRIC_GAUGE, "",
      "Requests that have been submitted and not completed.", .export_value = get_in_flight },
    { "nbd_runner_export_orphan_requests", METRIC_GAUGE, "",
      "Requests that were answered when their time was over, and that the storage still has.",
      .export_value = get_orphans },
    { "nbd_runner_export_requests", METRIC_COUNTER, "", "Requests by command.",
      .of_export = write_requests },
    { "nbd_runner_export_bytes", METRIC_COUNTER, "bytes",
      "Bytes that were read, written, zeroed and trimmed.", .of_export = write_bytes },
    { "nbd_runner_export_errors", METRIC_COUNTER, "",
      "Requests that were answered with an error, by error.", .of_export = write_errors },
    { "nbd_runner_export_request_duration_seconds", METRIC_HISTOGRAM, "seconds",
      "Time from a whole request to its reply, by class of command.",
      .of_export = write_durations },
};

const size_t n_export_families = G_N_ELEMENTS(export_families);
