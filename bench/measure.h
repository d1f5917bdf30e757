/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What the benchmark measures: time, latencies, CPU time and memory of the server.
 */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include <stdbool.h>
#include <stdint.h>

uint64_t measure_now_ns(void);

/* Of all processes of one session, children that have ended included. */
struct usage {
    double cpu_s;
    long anonymous_kb, pss_kb;
    unsigned processes, threads;
};

/* `pss`: that too, which is slow. Session 0 is nobody. */
void measure_session(int session, bool pss, struct usage *ret);

double measure_machine_s(void); /* CPU seconds that the machine was busy since it started */
double measure_self_s(void);    /* CPU seconds of this process */

/* Latencies, in buckets 3 % wide. */
void latency_add(uint64_t ns);
uint64_t latency_count(void);
double latency_us(double fraction); /* that fraction of them took at most so long */
double latency_max_us(void);

#endif
