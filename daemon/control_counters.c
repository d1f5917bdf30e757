/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The control procedure that shows what is counted about requests, in pages. The names of what
 * is counted are those of rpc_nbd.x; daemon/counters.h has the same order. Loop thread only.
 */
#include "control_private.h"

#include <errno.h>
#include <string.h>

#include "connection.h"
#include "log.h"
#include "metrics.h"
#include "registry.h"

G_STATIC_ASSERT(sizeof(nr_u64) == sizeof(uint64_t));

/* The numbers are borrowed, but for the latencies, which the row owns. */
static void describe_counters(const struct export_counters *counters,
                              const struct latencies *latencies, nr_counters *ret)
{
    ret->requests.requests_val = (nr_u64 *)counters->requests;
    ret->requests.requests_len = N_COMMANDS;
    ret->bytes.bytes_val = (nr_u64 *)counters->bytes;
    ret->bytes.bytes_len = N_BYTE_KINDS;
    ret->errors.errors_val = (nr_u64 *)counters->errors;
    ret->errors.errors_len = N_ERROR_KINDS;
    ret->latencies.latencies_val = g_new0(nr_latency, N_LATENCY_CLASSES);
    ret->latencies.latencies_len = N_LATENCY_CLASSES;
    for (enum latency_class i = 0; latencies != NULL && i < N_LATENCY_CLASSES; i++) {
        ret->latencies.latencies_val[i].count = histogram_count(&latencies->of[i]);
        ret->latencies.latencies_val[i].sum_ns = latencies->of[i].sum_ns;
    }
}

static void describe_row(const struct export *export, GStringChunk *texts,
                         nr_counters_row *ret_row)
{
    *ret_row = (nr_counters_row){
        .name = control_text(texts, export->name, NR_NAME_MAX),
        .handler = control_text(texts, export->handler_name, NR_TEXT_MAX),
        .state = control_shown_state(export->state),
        .size = export->size,
        .connections = export->connections,
        .in_flight = export->in_flight,
        .orphans = export->orphans,
    };
    describe_counters(&export->tally.now,
                      export->tally.latencies != NULL ? &export->tally.latencies->now : NULL,
                      &ret_row->counters);
}

/* All exports' sums, brought up to date. */
static void find_total(const struct server *server, struct counter_sums *ret_total)
{
    for (struct export *export = registry_next(server->registry, NULL); export != NULL;
         export = registry_next(server->registry, export->name))
        sums_add(server->sums, export->handler_name, &export->tally);
    sums_total(server->sums, ret_total);
}

static void describe_rows(const struct server *server, const nr_counters_args *args,
                          GStringChunk *texts, nr_counters_ok *ok)
{
    u_int limit = MIN(args->limit, (u_int)NR_PAGE_MAX);
    const struct export *export = *args->name != '\0'
                                      ? registry_find(server->registry, args->name)
                                      : registry_next(server->registry,
                                                      *args->after != '\0' ? args->after : NULL);

    ok->rows.rows_val = g_new0(nr_counters_row, limit + 1);
    while (export != NULL && ok->rows.rows_len < limit) {
        describe_row(export, texts, &ok->rows.rows_val[ok->rows.rows_len++]);
        export = *args->name == '\0' ? registry_next(server->registry, export->name) : NULL;
    }
    ok->more = export != NULL && limit > 0;
}

static void clear(nr_counters_ok *ok)
{
    for (u_int i = 0; i < ok->rows.rows_len; i++)
        g_free(ok->rows.rows_val[i].counters.latencies.latencies_val);
    g_free(ok->rows.rows_val);
    g_free(ok->total.latencies.latencies_val);
    g_free(ok->metrics_endpoints.metrics_endpoints_val);
}

void control_counters(struct rpc_call *call, void *args, void *arg)
{
    const nr_counters_args *a = args;
    struct server *server = arg;
    GStringChunk *texts;
    nr_counters_res result = { .code = NR_OK };
    nr_counters_ok *ok = &result.nr_counters_res_u.counters;
    struct counter_sums total = { 0 };

    if (*a->name != '\0' && registry_find(server->registry, a->name) == NULL) {
        g_autofree char *quoted = log_quote(a->name, strlen(a->name));

        control_refuse(call, NR_ENOENT, ENOENT, "there is no export named %s; \"nbd-cli export "
                       "list\" shows those that exist", quoted);
        return;
    }
    texts = g_string_chunk_new(1024);
    if (*a->after == '\0') /* once in a walk is enough */
        find_total(server, &total);
    describe_counters(&total.counters, &total.latencies, &ok->total);
    ok->in_flight = connection_in_flight(server->connections);
    ok->log_lost = log_lost();
    ok->metrics_endpoints.metrics_endpoints_val =
        control_endpoints(server->metrics != NULL ? metrics_endpoints(server->metrics) : NULL,
                          texts, &ok->metrics_endpoints.metrics_endpoints_len);
    describe_rows(server, a, texts, ok);
    rpc_reply(call, &result);
    clear(ok);
    g_string_chunk_free(texts);
}
