/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Clocks, a histogram of latencies, and what /proc tells of a session and of the machine.
 */
#include "measure.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

uint64_t measure_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* ---- Latencies ---- */

/* Each power of two has STEPS buckets; below STEPS each nanosecond has its own. */
#define STEP_BITS 5
#define STEPS (1u << STEP_BITS)

static struct {
    uint64_t bucket[64 * STEPS];
    uint64_t n, max_ns;
} latencies;

static unsigned bucket_of(uint64_t ns)
{
    unsigned shift;

    if (ns < STEPS)
        return (unsigned)ns;
    shift = 63 - (unsigned)__builtin_clzll(ns) - STEP_BITS;
    return (shift + 1) * STEPS + (unsigned)(ns >> shift) - STEPS;
}

/* Its middle. */
static double bucket_ns(unsigned bucket)
{
    unsigned shift;

    if (bucket < STEPS)
        return bucket;
    shift = bucket / STEPS - 1;
    return ((double)(STEPS + bucket % STEPS) + 0.5) * (double)(UINT64_C(1) << shift);
}

void latency_add(uint64_t ns)
{
    latencies.bucket[bucket_of(ns)]++;
    latencies.n++;
    if (ns > latencies.max_ns)
        latencies.max_ns = ns;
}

uint64_t latency_count(void)
{
    return latencies.n;
}

double latency_us(double fraction)
{
    double wanted = fraction * (double)latencies.n, seen = 0;

    for (unsigned i = 0; i < 64 * STEPS; i++) {
        seen += (double)latencies.bucket[i];
        if (latencies.bucket[i] > 0 && seen >= wanted)
            return bucket_ns(i) / 1000;
    }
    return latency_max_us();
}

double latency_max_us(void)
{
    return (double)latencies.max_ns / 1000;
}

/* ---- /proc ---- */

/* The start of a small file as a string; false when it cannot be read. */
static bool read_text(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);

    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = '\0';
    return n > 0;
}

static long pss_kb(const char *pid)
{
    char path[64], text[2048], *line;

    snprintf(path, sizeof(path), "/proc/%.16s/smaps_rollup", pid);
    if (!read_text(path, text, sizeof(text)))
        return 0;
    line = strstr(text, "\nPss:");
    return line != NULL ? atol(line + strlen("\nPss:")) : 0;
}

/* What is the process's own: not the page cache's, which is there for whoever reads the file. */
static long anonymous_kb(const char *pid)
{
    char path[64], text[128];
    long size, resident, shared;

    snprintf(path, sizeof(path), "/proc/%.16s/statm", pid);
    if (!read_text(path, text, sizeof(text)) ||
        sscanf(text, "%ld %ld %ld", &size, &resident, &shared) != 3)
        return 0;
    return (resident - shared) * (sysconf(_SC_PAGESIZE) / 1024);
}

/* Fields of /proc/PID/stat from the third on, by their numbers in proc(5). */
static void add_process(const char *pid, int session, bool pss, struct usage *usage)
{
    long field[21] = { 0 };
    char path[64], text[1024], *at;

    snprintf(path, sizeof(path), "/proc/%.16s/stat", pid);
    if (!read_text(path, text, sizeof(text)))
        return;
    at = strrchr(text, ')');
    if (at == NULL || strlen(at) < 4)
        return;
    at += 3;
    for (int i = 4; i < 21; i++)
        field[i] = strtol(at, &at, 10);
    if (field[6] != session)
        return;
    usage->cpu_s += (double)(field[14] + field[15] + field[16] + field[17]) /
                    (double)sysconf(_SC_CLK_TCK);
    usage->anonymous_kb += anonymous_kb(pid);
    usage->threads += (unsigned)field[20];
    usage->processes++;
    if (pss)
        usage->pss_kb += pss_kb(pid);
}

void measure_session(int session, bool pss, struct usage *ret)
{
    DIR *proc = session > 0 ? opendir("/proc") : NULL;
    struct dirent *entry;

    memset(ret, 0, sizeof(*ret));
    if (proc == NULL)
        return;
    while ((entry = readdir(proc)) != NULL)
        if (isdigit((unsigned char)entry->d_name[0]))
            add_process(entry->d_name, session, pss, ret);
    closedir(proc);
}

double measure_machine_s(void)
{
    long long user, nice, system, idle, wait, irq, soft, stolen;
    char text[512];

    if (!read_text("/proc/stat", text, sizeof(text)) ||
        sscanf(text, "cpu %lld %lld %lld %lld %lld %lld %lld %lld", &user, &nice, &system,
               &idle, &wait, &irq, &soft, &stolen) != 8)
        return 0;
    return (double)(user + nice + system + irq + soft + stolen) / (double)sysconf(_SC_CLK_TCK);
}

double measure_self_s(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}
