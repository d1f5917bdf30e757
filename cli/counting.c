/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * NR_COUNTERS, page by page, and as JSON. A later daemon may count more than has a name here:
 * that is left out.
 */
#include "counting.h"

#include "answer.h"
#include "output.h"

#include <string.h>

/* ---- Fetching ---- */

static void free_page(gpointer page)
{
    client_free(NR_COUNTERS, page);
    g_free(page);
}

void counting_clear(struct counting *counting)
{
    if (counting->rows != NULL)
        g_ptr_array_free(counting->rows, TRUE);
    if (counting->pages != NULL)
        g_ptr_array_free(counting->pages, TRUE);
    *counting = (struct counting){0};
}

/* The page behind args->after, which then is that of the next; NULL after the last. */
static int fetch_page(struct cli *cli, nr_counters_args *args, struct counting *counting,
                      struct failure *why)
{
    nr_counters_res *page = g_new0(nr_counters_res, 1);
    nr_counters_ok *ok = &page->nr_counters_res_u.counters;
    const char *last = args->after;
    int r = client_call(cli->client, NR_COUNTERS, args, page, why);

    if (r != 0) {
        g_free(page);
        return r;
    }
    g_ptr_array_add(counting->pages, page);
    if (counting->head == NULL)
        counting->head = ok;
    for (u_int i = 0; i < ok->rows.rows_len; i++) {
        g_ptr_array_add(counting->rows, &ok->rows.rows_val[i]);
        args->after = ok->rows.rows_val[i].name;
    }
    if (!ok->more)
        args->after = NULL;
    else if (strcmp(args->after, last) <= 0)
        return fail_with(why, STATUS_FAILED, "the daemon's list of counters does not end");
    return 0;
}

int counting_fetch(struct cli *cli, const char *name, struct counting *ret_counting,
                   struct failure *why)
{
    nr_counters_args args = {
        .name = (char *)(name != NULL ? name : ""),
        .after = (char *)"",
        .limit = name != NULL ? NR_PAGE_MAX : 0,
    };
    struct counting counting = {
        .rows = g_ptr_array_new(),
        .pages = g_ptr_array_new_with_free_func(free_page),
    };
    int r = cli_client(cli, why);

    while (r == 0 && args.after != NULL)
        r = fetch_page(cli, &args, &counting, why);
    if (r != 0 && counting.head == NULL && strcmp(why->code, "ENOTSUP") == 0)
        r = 0;
    if (r == 0)
        *ret_counting = counting;
    else
        counting_clear(&counting);
    return r;
}

const nr_counters_row *counting_find(const struct counting *counting, const char *name)
{
    guint low = 0, high = counting->rows->len;

    while (low < high) {
        guint middle = low + (high - low) / 2;
        const nr_counters_row *row = g_ptr_array_index(counting->rows, middle);
        int order = strcmp(row->name, name);

        if (order == 0)
            return row;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* ---- Numbers ---- */

static uint64_t sum_of(const nr_u64 *numbers, u_int n)
{
    uint64_t sum = 0;

    for (u_int i = 0; i < n; i++)
        sum += numbers[i];
    return sum;
}

uint64_t counters_requests(const nr_counters *counters)
{
    return sum_of(counters->requests.requests_val, counters->requests.requests_len);
}

uint64_t counters_errors(const nr_counters *counters)
{
    return sum_of(counters->errors.errors_val, counters->errors.errors_len);
}

uint64_t counters_bytes(const nr_counters *counters, unsigned i)
{
    return i < counters->bytes.bytes_len ? counters->bytes.bytes_val[i] : 0;
}

/* ---- JSON: names in the order of rpc_nbd.x ---- */

static const char *const command_names[] = {
    "read", "write", NULL /* a disconnect is none */, "flush", "trim", "cache", "write_zeroes",
    "block_status",
};
static const char *const byte_names[] = {"read", "written", "zeroed", "trimmed"};
static const char *const error_names[] = {"EPERM",  "EIO",       "ENOMEM",  "EINVAL",
                                          "ENOSPC", "EOVERFLOW", "ENOTSUP", "ESHUTDOWN"};
static const char *const latency_names[] = {"read", "write", "flush", "zero"};

static json_object *numbers_json(const nr_u64 *numbers, u_int n, const char *const *names,
                                 u_int n_names)
{
    json_object *object = json_object_new_object();

    for (u_int i = 0; i < MIN(n, n_names); i++)
        if (names[i] != NULL)
            json_put_number(object, names[i], numbers[i]);
    return object;
}

json_object *counters_json(const nr_counters *counters)
{
    json_object *object = json_object_new_object(), *latencies = json_object_new_object();

#define NUMBERS(list, names)                                                                  \
    numbers_json(counters->list.list##_val, counters->list.list##_len, names,                 \
                 G_N_ELEMENTS(names))
    json_object_object_add(object, "requests", NUMBERS(requests, command_names));
    json_object_object_add(object, "bytes", NUMBERS(bytes, byte_names));
    json_object_object_add(object, "errors", NUMBERS(errors, error_names));
#undef NUMBERS
    for (u_int i = 0; i < MIN(counters->latencies.latencies_len, G_N_ELEMENTS(latency_names));
         i++) {
        const nr_latency *latency = &counters->latencies.latencies_val[i];
        json_object *member = json_object_new_object();

        json_put_number(member, "count", latency->count);
        json_put_number(member, "sum_ns", latency->sum_ns);
        json_object_object_add(latencies, latency_names[i], member);
    }
    json_object_object_add(object, "latencies", latencies);
    return object;
}

json_object *counters_row_json(const nr_counters_row *row)
{
    json_object *object;

    if (row == NULL)
        return NULL;
    object = counters_json(&row->counters);
    json_put_number(object, "in_flight", row->in_flight);
    json_put_number(object, "orphans", row->orphans);
    return object;
}
