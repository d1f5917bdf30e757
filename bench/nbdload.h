/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What the parts of the load generator share.
 *
 *   nbdload.c  the command line
 *   load.c     N connections with requests in flight, one epoll
 *   probe.c    one thing at a time: connecting, idle connections, extents, start, files
 *   measure.c  clocks, latencies, what the server used
 *   wire.c     connecting and negotiating
 */
#ifndef BENCH_NBDLOAD_H
#define BENCH_NBDLOAD_H

#include <stdbool.h>
#include <stdint.h>

enum mode {
    MODE_READ, MODE_WRITE, MODE_MIX, MODE_TRIM, MODE_ZERO, MODE_FLUSH, MODE_WFLUSH, MODE_FUA,
    MODE_CONNECT, MODE_IDLE, MODE_STATUS, MODE_FIRST, MODE_FILL, MODE_CHECK,
    N_MODES
};

struct options {
    const char *address; /* or, to fill and check, a file */
    const char *export;
    enum mode mode;
    unsigned connections, depth, exports;
    uint32_t block;
    uint64_t span;       /* bytes from 0 on that are used; 0: all */
    double seconds, warm_up_s;
    bool sequential, verify, lean;
    bool no_coalesce;    /* each request in a send of its own */
    bool burst;          /* the next requests of a connection when all are answered */
    bool watch;          /* the peak of the session's memory too */
    int session;         /* of the server */
    int cpu;             /* to run on; -1: any */
    uint64_t since_ns;   /* when the server was started */
};

/* Bytes that tell where they are: for the offset of each aligned 8 bytes, one value. */
void pattern_fill(uint8_t *to, uint64_t offset, size_t length);
bool pattern_is(const uint8_t *data, uint64_t offset, size_t length);

/* Each prints one JSON object. */
void load(const struct options *options);
void probe_connect(const struct options *options);
void probe_idle(const struct options *options);
void probe_status(const struct options *options);
void probe_first(const struct options *options);

void file_fill(const struct options *options);
void file_check(const struct options *options);

#endif
