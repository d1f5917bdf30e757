/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Counters of requests. All of them are arrays of uint64_t, so that adding up is one loop.
 */
#include "counters.h"

#include <glib.h>
#include <string.h>

#include "nbd_protocol.h"

#define US INT64_C(1000)
#define MS INT64_C(1000000)
#define S INT64_C(1000000000)

const int64_t histogram_bounds_ns[HISTOGRAM_BOUNDS] = {
    10 * US, 25 * US, 50 * US, 100 * US, 250 * US, 500 * US, 1 * MS, 2500 * US,
    5 * MS, 10 * MS, 25 * MS, 50 * MS, 100 * MS, 500 * MS, 1 * S, 10 * S,
};
const char *const histogram_bound_texts[HISTOGRAM_BOUNDS] = {
    "1e-05", "2.5e-05", "5e-05", "0.0001", "0.00025", "0.0005", "0.001", "0.0025",
    "0.005", "0.01", "0.025", "0.05", "0.1", "0.5", "1.0", "10.0",
};

const uint8_t latency_classes[N_COMMANDS] = {
    [NBD_CMD_READ] = LATENCY_READ,
    [NBD_CMD_WRITE] = LATENCY_WRITE,
    [NBD_CMD_DISC] = LATENCY_NONE,
    [NBD_CMD_FLUSH] = LATENCY_FLUSH,
    [NBD_CMD_TRIM] = LATENCY_ZERO,
    [NBD_CMD_CACHE] = LATENCY_NONE,
    [NBD_CMD_WRITE_ZEROES] = LATENCY_ZERO,
    [NBD_CMD_BLOCK_STATUS] = LATENCY_NONE,
};

/* ---- Names ---- */

const char *command_name(unsigned command)
{
    static const char *const names[N_COMMANDS] = {
        [NBD_CMD_READ] = "read",
        [NBD_CMD_WRITE] = "write",
        [NBD_CMD_FLUSH] = "flush",
        [NBD_CMD_TRIM] = "trim",
        [NBD_CMD_CACHE] = "cache",
        [NBD_CMD_WRITE_ZEROES] = "write_zeroes",
        [NBD_CMD_BLOCK_STATUS] = "block_status",
    };

    return command < N_COMMANDS ? names[command] : NULL;
}

const char *byte_kind_name(enum byte_kind kind)
{
    static const char *const names[N_BYTE_KINDS] = {
        [BYTES_READ] = "read",
        [BYTES_WRITTEN] = "written",
        [BYTES_ZEROED] = "zeroed",
        [BYTES_TRIMMED] = "trimmed",
    };

    return names[kind];
}

const char *error_kind_name(enum error_kind kind)
{
    static const char *const names[N_ERROR_KINDS] = {
        [ERROR_EPERM] = "EPERM",         [ERROR_EIO] = "EIO",
        [ERROR_ENOMEM] = "ENOMEM",       [ERROR_EINVAL] = "EINVAL",
        [ERROR_ENOSPC] = "ENOSPC",       [ERROR_EOVERFLOW] = "EOVERFLOW",
        [ERROR_ENOTSUP] = "ENOTSUP",     [ERROR_ESHUTDOWN] = "ESHUTDOWN",
    };

    return names[kind];
}

const char *latency_class_name(enum latency_class class)
{
    static const char *const names[N_LATENCY_CLASSES] = {
        [LATENCY_READ] = "read",
        [LATENCY_WRITE] = "write",
        [LATENCY_FLUSH] = "flush",
        [LATENCY_ZERO] = "zero",
    };

    return names[class];
}

enum error_kind error_kind_of(uint32_t wire_error)
{
    switch (wire_error) {
    case NBD_EPERM: return ERROR_EPERM;
    case NBD_ENOMEM: return ERROR_ENOMEM;
    case NBD_EINVAL: return ERROR_EINVAL;
    case NBD_ENOSPC: return ERROR_ENOSPC;
    case NBD_EOVERFLOW: return ERROR_EOVERFLOW;
    case NBD_ENOTSUP: return ERROR_ENOTSUP;
    case NBD_ESHUTDOWN: return ERROR_ESHUTDOWN;
    default: return ERROR_EIO;
    }
}

enum byte_kind byte_kind_of(unsigned command)
{
    switch (command) {
    case NBD_CMD_READ: return BYTES_READ;
    case NBD_CMD_WRITE: return BYTES_WRITTEN;
    case NBD_CMD_WRITE_ZEROES: return BYTES_ZEROED;
    case NBD_CMD_TRIM: return BYTES_TRIMMED;
    default: return N_BYTE_KINDS;
    }
}

/* ---- Adding up ---- */

static uint64_t sum_of(const uint64_t *numbers, size_t n)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += numbers[i];
    return sum;
}

uint64_t counters_requests(const struct export_counters *counters)
{
    return sum_of(counters->requests, N_COMMANDS);
}

uint64_t counters_errors(const struct export_counters *counters)
{
    return sum_of(counters->errors, N_ERROR_KINDS);
}

void histogram_add(struct histogram *histogram, int64_t duration_ns, unsigned count)
{
    unsigned bucket = 0;

    while (bucket < HISTOGRAM_BOUNDS && duration_ns > histogram_bounds_ns[bucket])
        bucket++;
    histogram->buckets[bucket] += count;
    histogram->sum_ns += (uint64_t)MAX(duration_ns, 0) * count;
}

uint64_t histogram_count(const struct histogram *histogram)
{
    return sum_of(histogram->buckets, HISTOGRAM_BUCKETS);
}

/* to += what `now` has more than `summed`, which then has it too. */
static void add_growth(void *to, const void *now, void *summed, size_t size)
{
    uint64_t *sums = to, *before = summed;
    const uint64_t *after = now;

    for (size_t i = 0; i < size / sizeof(uint64_t); i++) {
        sums[i] += after[i] - before[i];
        before[i] = after[i];
    }
}

/* ---- Tallies ---- */

void tally_init_latencies(struct export_tally *tally)
{
    if (tally->latencies == NULL)
        tally->latencies = g_malloc0(sizeof(*tally->latencies));
}

void tally_clear(struct export_tally *tally)
{
    g_free(tally->latencies);
    tally->latencies = NULL;
}

/* ---- Sums ---- */

struct sums_table {
    GTree *by_handler;
};

static gint compare_names(gconstpointer a, gconstpointer b, gpointer data)
{
    (void)data;
    return strcmp(a, b);
}

struct sums_table *sums_table_new(void)
{
    struct sums_table *table = g_new0(struct sums_table, 1);

    table->by_handler = g_tree_new_full(compare_names, NULL, g_free, g_free);
    return table;
}

void sums_table_free(struct sums_table *table)
{
    if (table == NULL)
        return;
    g_tree_destroy(table->by_handler);
    g_free(table);
}

void sums_add(struct sums_table *table, const char *handler, struct export_tally *tally)
{
    struct counter_sums *sums;

    if (table == NULL)
        return;
    sums = g_tree_lookup(table->by_handler, handler);
    if (sums == NULL) {
        sums = g_new0(struct counter_sums, 1);
        g_tree_insert(table->by_handler, g_strdup(handler), sums);
    }
    add_growth(&sums->counters, &tally->now, &tally->summed, sizeof(tally->now));
    if (tally->latencies != NULL)
        add_growth(&sums->latencies, &tally->latencies->now, &tally->latencies->summed,
                   sizeof(tally->latencies->now));
}

const struct counter_sums *sums_find(const struct sums_table *table, const char *handler)
{
    return g_tree_lookup(table->by_handler, handler);
}

const char *sums_next(const struct sums_table *table, const char *handler)
{
    GTreeNode *node = handler != NULL ? g_tree_upper_bound(table->by_handler, handler)
                                      : g_tree_node_first(table->by_handler);

    return node != NULL ? g_tree_node_key(node) : NULL;
}

void sums_total(const struct sums_table *table, struct counter_sums *ret_total)
{
    *ret_total = (struct counter_sums){ 0 };
    for (GTreeNode *node = g_tree_node_first(table->by_handler); node != NULL;
         node = g_tree_node_next(node)) {
        const uint64_t *from = g_tree_node_value(node);
        uint64_t *to = (uint64_t *)ret_total;

        for (size_t i = 0; i < sizeof(*ret_total) / sizeof(uint64_t); i++)
            to[i] += from[i];
    }
}
