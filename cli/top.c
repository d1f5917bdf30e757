/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Samples of the daemon's counters and their differences. What was not there before has begun
 * at zero; what counts less than before has begun anew.
 */
#include "top.h"

#include "answer.h"
#include "counting.h"

#include <math.h>
#include <string.h>

static const char *const sort_names[N_TOP_SORTS] = {
    [TOP_BY_REQUESTS] = "requests",   [TOP_BY_READ] = "read",
    [TOP_BY_WRITTEN] = "written",     [TOP_BY_TIME] = "time",
    [TOP_BY_IN_FLIGHT] = "in-flight", [TOP_BY_CONNECTIONS] = "connections",
    [TOP_BY_ERRORS] = "errors",       [TOP_BY_NAME] = "name",
};

const char *top_sort_name(enum top_sort sort)
{
    return sort_names[sort];
}

bool top_sort_find(const char *name, enum top_sort *ret_sort)
{
    for (unsigned i = 0; i < N_TOP_SORTS; i++)
        if (strcmp(sort_names[i], name) == 0) {
            *ret_sort = (enum top_sort)i;
            return true;
        }
    return false;
}

/* ---- Rows ---- */

static void row_clear(struct top_row *row)
{
    g_free(row->name);
    g_free(row->note);
}

static void row_free(gpointer row)
{
    row_clear(row);
    g_free(row);
}

static struct top_row *row_new(const char *name, const char *note, const char *state)
{
    struct top_row *row = g_new0(struct top_row, 1);

    row->name = g_strdup(name);
    row->note = g_strdup(note);
    clean_text(row->name);
    clean_text(row->note);
    row->state = state;
    return row;
}

static struct top_totals totals_of(const nr_counters *counters)
{
    struct top_totals totals = {
        .requests = counters_requests(counters),
        .read_bytes = counters_bytes(counters, 0),
        .written_bytes = counters_bytes(counters, 1),
        .errors = counters_errors(counters),
    };

    for (u_int i = 0; i < counters->latencies.latencies_len; i++) {
        totals.timed += counters->latencies.latencies_val[i].count;
        totals.time_ns += counters->latencies.latencies_val[i].sum_ns;
    }
    return totals;
}

static uint64_t growth(uint64_t after, uint64_t before)
{
    return after >= before ? after - before : after;
}

/* The rates of a row, and its totals for the next sample. */
static void take_rates(struct top *top, GHashTable *next, const char *kind, const char *key,
                       struct top_row *row)
{
    char *full = g_strconcat(kind, ":", key, NULL);
    const struct top_totals none = {0}, *now = &row->totals;
    const struct top_totals *before = g_hash_table_lookup(top->before, full);
    uint64_t timed;

    row->time_s = -1;
    if (before == NULL)
        before = &none;
    if (top->elapsed_s > 0) {
        row->requests = (double)growth(now->requests, before->requests) / top->elapsed_s;
        row->read_bytes = (double)growth(now->read_bytes, before->read_bytes) / top->elapsed_s;
        row->written_bytes =
            (double)growth(now->written_bytes, before->written_bytes) / top->elapsed_s;
        row->errors = (double)growth(now->errors, before->errors) / top->elapsed_s;
        timed = growth(now->timed, before->timed);
        if (timed > 0)
            row->time_s = (double)growth(now->time_ns, before->time_ns) / 1e9 / (double)timed;
    }
    g_hash_table_insert(next, full, g_memdup2(now, sizeof(*now)));
}

/* ---- Samples ---- */

struct sample {
    nr_status_res status;
    struct counting counting;
    GPtrArray *clients; /* struct top_row * */
    GPtrArray *ids;     /* of the clients, as text */
};

static int fetch_clients_page(struct cli *cli, nr_page_args *args, struct sample *sample,
                              bool *ret_more, struct failure *why)
{
    nr_clients_res res;
    const nr_clients_ok *page = &res.nr_clients_res_u.clients;
    uint64_t before = args->after;
    int r = client_call(cli->client, NR_CLIENTS, args, &res, why);

    if (r != 0)
        return r;
    for (u_int i = 0; i < page->rows.rows_len; i++) {
        const nr_client *client = &page->rows.rows_val[i];
        struct top_row *row = row_new(client->addr, client->export_name, "");

        row->in_flight = client->in_flight;
        row->totals = (struct top_totals){.requests = client->requests,
                                          .read_bytes = client->read_bytes,
                                          .written_bytes = client->write_bytes};
        g_ptr_array_add(sample->clients, row);
        g_ptr_array_add(sample->ids, g_strdup_printf("%" G_GUINT64_FORMAT, client->id));
        args->after = client->id;
    }
    *ret_more = page->more && args->after > before;
    client_free(NR_CLIENTS, &res);
    return 0;
}

static int fetch_clients(struct cli *cli, struct sample *sample, struct failure *why)
{
    nr_page_args args = {.name = (char *)""};
    bool more = true;
    int r = 0;

    while (r == 0 && more)
        r = fetch_clients_page(cli, &args, sample, &more, why);
    return r;
}

static void sample_clear(struct sample *sample)
{
    client_free(NR_STATUS, &sample->status);
    counting_clear(&sample->counting);
    g_ptr_array_free(sample->clients, TRUE);
    g_ptr_array_free(sample->ids, TRUE);
}

static int sample_fetch(struct sample *sample, struct cli *cli, struct failure *why)
{
    int r = cli_client(cli, why);

    *sample = (struct sample){
        .clients = g_ptr_array_new_with_free_func(row_free),
        .ids = g_ptr_array_new_with_free_func(g_free),
    };
    if (r == 0)
        r = client_call(cli->client, NR_STATUS, NULL, &sample->status, why);
    if (r == 0)
        r = counting_fetch(cli, "", &sample->counting, why);
    if (r == 0 && sample->counting.head == NULL)
        r = fail_with(why, STATUS_FAILED, "the daemon is too old for this: it has no counters "
                                          "of exports");
    return r == 0 ? fetch_clients(cli, sample, why) : r;
}

static void take_facts(struct top *top, const struct sample *sample)
{
    const nr_status *status = &sample->status.nr_status_res_u.status;
    const nr_counters_ok *head = sample->counting.head;

    g_strlcpy(top->facts.version, status->server_version, sizeof(top->facts.version));
    g_strlcpy(top->facts.state, status->state, sizeof(top->facts.state));
    top->facts.started_us = status->started;
    top->facts.exports = status->exports;
    top->facts.faulted = status->faulted;
    top->facts.clients = status->clients;
    top->facts.jobs = status->jobs;
    top->facts.payload_bytes = status->payload_bytes;
    top->facts.log_lost = head->log_lost;
    top->daemon.in_flight = head->in_flight;
    top->daemon.totals = totals_of(&head->total);
}

static void take_exports(struct top *top, GHashTable *next, const struct sample *sample)
{
    g_ptr_array_set_size(top->exports, 0);
    for (guint i = 0; i < sample->counting.rows->len; i++) {
        const nr_counters_row *x = g_ptr_array_index(sample->counting.rows, i);
        struct top_row *row = row_new(x->name, x->handler, export_state_word(x->state));

        row->in_flight = x->in_flight;
        row->connections = x->connections;
        row->totals = totals_of(&x->counters);
        take_rates(top, next, "export", x->name, row);
        g_ptr_array_add(top->exports, row);
    }
}

static void take_clients(struct top *top, GHashTable *next, struct sample *sample)
{
    g_ptr_array_set_size(top->clients, 0);
    for (guint i = 0; i < sample->clients->len; i++) {
        struct top_row *row = g_ptr_array_index(sample->clients, i);

        take_rates(top, next, "client", g_ptr_array_index(sample->ids, i), row);
        g_ptr_array_add(top->clients, row);
    }
    g_ptr_array_set_free_func(sample->clients, NULL); /* the rows are ours now */
}

int top_refresh(struct top *top, struct cli *cli, struct failure *why)
{
    int64_t now_us = g_get_monotonic_time();
    struct sample sample;
    GHashTable *next;
    int r = sample_fetch(&sample, cli, why);

    if (r == 0) {
        next = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
        top->elapsed_s = top->at_us > 0 ? (double)MAX(now_us - top->at_us, 1) / 1e6 : 0;
        top->at_us = now_us;
        take_facts(top, &sample);
        take_rates(top, next, "daemon", "", &top->daemon);
        take_exports(top, next, &sample);
        take_clients(top, next, &sample);
        g_hash_table_unref(top->before);
        top->before = next;
        top_sort(top);
    }
    sample_clear(&sample);
    return r;
}

/* ---- Order ---- */

static double sort_value(const struct top_row *row, enum top_sort sort)
{
    switch (sort) {
    case TOP_BY_REQUESTS: return row->requests;
    case TOP_BY_READ: return row->read_bytes;
    case TOP_BY_WRITTEN: return row->written_bytes;
    case TOP_BY_TIME: return row->time_s;
    case TOP_BY_IN_FLIGHT: return row->in_flight;
    case TOP_BY_CONNECTIONS: return row->connections;
    case TOP_BY_ERRORS: return row->errors;
    default: return 0;
    }
}

/* The largest first; then what has done the most before; then by name. */
static gint compare_rows(gconstpointer a, gconstpointer b, gpointer data)
{
    const struct top_row *x = *(const struct top_row *const *)a;
    const struct top_row *y = *(const struct top_row *const *)b;
    enum top_sort sort = *(const enum top_sort *)data;
    double left = sort_value(x, sort), right = sort_value(y, sort);

    if (left != right)
        return left > right ? -1 : 1;
    if (sort != TOP_BY_NAME && x->totals.requests != y->totals.requests)
        return x->totals.requests > y->totals.requests ? -1 : 1;
    return strcmp(x->name, y->name);
}

void top_sort(struct top *top)
{
    g_ptr_array_sort_with_data(top->exports, compare_rows, &top->sort);
    g_ptr_array_sort_with_data(top->clients, compare_rows, &top->sort);
}

void top_init(struct top *top)
{
    *top = (struct top){
        .exports = g_ptr_array_new_with_free_func(row_free),
        .clients = g_ptr_array_new_with_free_func(row_free),
        .before = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free),
    };
}

void top_clear(struct top *top)
{
    g_ptr_array_free(top->exports, TRUE);
    g_ptr_array_free(top->clients, TRUE);
    g_hash_table_unref(top->before);
}

/* ---- Texts ---- */

const char *top_rate(double rate, double unit, char text[TOP_TEXT_MAX])
{
    static const char units[] = " KMGTPE";
    const char *u = units;

    while (rate >= unit * 0.9995 && u[1] != '\0') {
        rate /= unit;
        u++;
    }
    if (u == units)
        snprintf(text, TOP_TEXT_MAX, rate < 9.95 && rate > 0 ? "%.1f" : "%.0f", rate);
    else
        snprintf(text, TOP_TEXT_MAX, rate < 9.95 ? "%.1f%c" : "%.0f%c", rate, *u);
    return text;
}

const char *top_time(double seconds, char text[TOP_TEXT_MAX])
{
    static const struct {
        double below, factor;
        const char *unit;
    } units[] = {{999.5e-6, 1e6, "us"}, {999.5e-3, 1e3, "ms"}, {HUGE_VAL, 1, "s"}};
    unsigned i = 0;

    if (seconds < 0) {
        strcpy(text, "-");
        return text;
    }
    while (seconds >= units[i].below)
        i++;
    seconds = MIN(seconds * units[i].factor, 1e6);
    snprintf(text, TOP_TEXT_MAX, seconds < 9.95 ? "%.1f%s" : "%.0f%s", seconds, units[i].unit);
    return text;
}

/* "3d 04:05:06" */
static char *uptime_text(int64_t started_us)
{
    int64_t s = MAX((g_get_real_time() - started_us) / 1000000, 0);
    g_autofree char *days = s >= 86400 ? g_strdup_printf("%dd ", (int)(s / 86400)) : g_strdup("");

    return g_strdup_printf("%s%02d:%02d:%02d", days, (int)(s / 3600 % 24), (int)(s / 60 % 60),
                           (int)(s % 60));
}

char *top_headline(const struct top *top)
{
    char rate[TOP_TEXT_MAX], read[TOP_TEXT_MAX], written[TOP_TEXT_MAX], mean[TOP_TEXT_MAX];
    char payload[TOP_TEXT_MAX];
    g_autofree char *up = uptime_text(top->facts.started_us);
    g_autofree char *faulted = top->facts.faulted > 0
                                   ? g_strdup_printf(" (%u faulted)", top->facts.faulted)
                                   : g_strdup("");

    return g_strdup_printf(
        "nbd-runner %s up %s, %u exports%s, %u clients, %u jobs, %s requests/s, %s/s read, "
        "%s/s written, %s mean, %u in flight, payload %s, state %s",
        top->facts.version, up, top->facts.exports, faulted, top->facts.clients,
        top->facts.jobs, top_rate(top->daemon.requests, 1000, rate),
        top_rate(top->daemon.read_bytes, 1024, read),
        top_rate(top->daemon.written_bytes, 1024, written), top_time(top->daemon.time_s, mean),
        top->daemon.in_flight, top_rate((double)top->facts.payload_bytes, 1024, payload),
        top->facts.state);
}
