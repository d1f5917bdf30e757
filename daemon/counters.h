/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What is counted about requests: of each export, and of each handler all of its exports, those
 * that are gone included. Counting is plain addition on the request's way; who wants the sums
 * of a handler has them brought up to date first. Knows no request and prints nothing. Loop
 * thread only.
 */
#ifndef NR_COUNTERS_H
#define NR_COUNTERS_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define N_COMMANDS 8 /* by NBD_CMD_*; NBD_CMD_DISC is not counted */

enum byte_kind { BYTES_READ, BYTES_WRITTEN, BYTES_ZEROED, BYTES_TRIMMED, N_BYTE_KINDS };

/* By what the client was told; ERROR_EIO is also everything else. */
enum error_kind {
    ERROR_EPERM, ERROR_EIO, ERROR_ENOMEM, ERROR_EINVAL, ERROR_ENOSPC, ERROR_EOVERFLOW,
    ERROR_ENOTSUP, ERROR_ESHUTDOWN, N_ERROR_KINDS
};

/* Commands whose time is taken. */
enum latency_class {
    LATENCY_READ, LATENCY_WRITE, LATENCY_FLUSH, LATENCY_ZERO, N_LATENCY_CLASSES
};
#define LATENCY_NONE N_LATENCY_CLASSES

struct export_counters {
    uint64_t requests[N_COMMANDS]; /* taken from clients, refused ones included */
    uint64_t bytes[N_BYTE_KINDS];
    uint64_t errors[N_ERROR_KINDS];
};

#define HISTOGRAM_BOUNDS 16
#define HISTOGRAM_BUCKETS (HISTOGRAM_BOUNDS + 1) /* the last one has no bound */

/* Durations. Not cumulative: each bucket has what is above the bound before. */
struct histogram {
    uint64_t buckets[HISTOGRAM_BUCKETS];
    uint64_t sum_ns;
};

/* Upper bounds in nanoseconds, and as a text in seconds. */
extern const int64_t histogram_bounds_ns[HISTOGRAM_BOUNDS];
extern const char *const histogram_bound_texts[HISTOGRAM_BOUNDS];

/* The time from a request being there as a whole to its reply being handed to the socket. */
struct latencies {
    struct histogram of[N_LATENCY_CLASSES];
};

const char *command_name(unsigned command); /* "read"; NULL: not counted */
const char *byte_kind_name(enum byte_kind kind);
const char *error_kind_name(enum error_kind kind);
const char *latency_class_name(enum latency_class class);

enum error_kind error_kind_of(uint32_t wire_error); /* NBD_E* */
enum byte_kind byte_kind_of(unsigned command);      /* N_BYTE_KINDS: it moves none */
extern const uint8_t latency_classes[N_COMMANDS];   /* enum latency_class, or LATENCY_NONE */

uint64_t counters_requests(const struct export_counters *counters); /* of all commands */
uint64_t counters_errors(const struct export_counters *counters);   /* of all kinds */

/* `count` requests that each took so long. */
void histogram_add(struct histogram *histogram, int64_t duration_ns, unsigned count);
uint64_t histogram_count(const struct histogram *histogram);

/* Monotonic nanoseconds, exact; loop_now_ns() is cheaper. */
static inline int64_t counters_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- What an export has, and what its handler has from it ---- */

/* What has been counted, and how much of it is in the sums of the handler already. */
struct export_tally {
    struct export_counters now, summed;
    struct {
        struct latencies now, summed;
    } *latencies; /* NULL until the first client comes */
};

void tally_init_latencies(struct export_tally *tally); /* does nothing the second time */
void tally_clear(struct export_tally *tally);

/* ---- Sums of a handler ---- */

struct counter_sums {
    struct export_counters counters;
    struct latencies latencies;
};

struct sums_table; /* by the handler's name */

struct sums_table *sums_table_new(void);
void sums_table_free(struct sums_table *table);

/* Add what was counted since the last time. table may be NULL: nobody wants sums. */
void sums_add(struct sums_table *table, const char *handler, struct export_tally *tally);

/* The sums as they are; NULL: none of its exports has ever been added. */
const struct counter_sums *sums_find(const struct sums_table *table, const char *handler);
/* The next handler in byte order after `handler` (NULL: the first); NULL: there is none. */
const char *sums_next(const struct sums_table *table, const char *handler);

/* Of all handlers. */
void sums_total(const struct sums_table *table, struct counter_sums *ret_total);

#endif
