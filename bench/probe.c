/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What is measured one thing at a time: connections, idle connections, the map of extents, the
 * time until a server answers. And the files that the benchmark serves. Blocking calls.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <glib.h>

#include "measure.h"
#include "nbd_protocol.h"
#include "nbdload.h"
#include "wire.h"

#define SETTLE_US 300000
#define CHUNK_MAX (64u << 20)
#define STATUS_STEP UINT64_C(0xfffff000) /* asked about at a time */
#define FIRST_LIMIT_S 10
#define FILE_BLOCK ((size_t)1 << 20)

static double seconds_since(uint64_t start_ns)
{
    return (double)(measure_now_ns() - start_ns) / 1e9;
}

static void *read_buffer(const struct options *o)
{
    return g_malloc(o->block);
}

/* ---- Connections a second: connect, negotiate, read once, disconnect ---- */

static void connect_once(const struct options *o, void *data)
{
    struct negotiated negotiated;
    uint64_t start = measure_now_ns();
    int fd = wire_open(o->address, o->export, false, &negotiated);

    if (!wire_read_once(fd, data, o->block))
        die("the first read failed: %s", strerror(errno));
    latency_add(measure_now_ns() - start);
    wire_disconnect(fd);
}

void probe_connect(const struct options *o)
{
    void *data = read_buffer(o);
    struct usage from, to;
    double s, n, others, self = measure_self_s(), machine = measure_machine_s();
    uint64_t start = measure_now_ns();

    measure_session(o->session, false, &from);
    while (seconds_since(start) < o->seconds)
        connect_once(o, data);
    s = seconds_since(start);
    usleep(SETTLE_US / 3); /* children of the server end */
    measure_session(o->session, true, &to);
    n = (double)latency_count();
    others = measure_machine_s() - machine - (to.cpu_s - from.cpu_s) -
             (measure_self_s() - self);
    printf("{\"ops\": %.0f, \"iops\": %.0f, \"p50_us\": %.1f, \"p99_us\": %.1f, "
           "\"server_us\": %.2f, \"others_busy\": %.3f, \"anonymous_kb\": %ld}\n",
           n, n / s, latency_us(0.5), latency_us(0.99), (to.cpu_s - from.cpu_s) * 1e6 / n,
           others / s, to.anonymous_kb);
    g_free(data);
}

/* ---- Memory of connections that do nothing ---- */

void probe_idle(const struct options *o)
{
    int *fds = g_new(int, o->connections);
    void *data = read_buffer(o);
    struct usage empty, idle, used;
    struct negotiated negotiated;
    uint64_t start;
    double s;

    measure_session(o->session, true, &empty);
    start = measure_now_ns();
    for (unsigned i = 0; i < o->connections; i++)
        fds[i] = wire_open(o->address, o->export, false, &negotiated);
    s = seconds_since(start);
    usleep(SETTLE_US);
    measure_session(o->session, true, &idle);
    for (unsigned i = 0; i < o->connections; i++)
        if (!wire_read_once(fds[i], data, o->block))
            die("a read on idle connection %u failed: %s", i, strerror(errno));
    usleep(SETTLE_US);
    measure_session(o->session, true, &used);
    printf("{\"connections\": %u, \"open_s\": %.3f, \"empty_kb\": %ld, \"idle_kb\": %.2f, "
           "\"used_kb\": %.2f, \"processes\": %u, \"threads\": %u}\n",
           o->connections, s, empty.pss_kb,
           (double)(idle.pss_kb - empty.pss_kb) / o->connections,
           (double)(used.pss_kb - empty.pss_kb) / o->connections, used.processes,
           used.threads);
    for (unsigned i = 0; i < o->connections; i++)
        close(fds[i]);
    g_free(fds);
    g_free(data);
}

/* ---- Extents of the whole export ---- */

struct scan {
    uint64_t requests, extents;
    uint32_t last_flags;
    uint8_t *chunk;
};

/* Counts the extents of a chunk; returns the bytes that they cover. */
static uint64_t count_extents(struct scan *scan, uint32_t length)
{
    uint64_t covered = 0;

    for (uint32_t at = 4; at + 8 <= length; at += 8) {
        uint32_t word[2];

        memcpy(word, scan->chunk + at, sizeof(word));
        covered += be32toh(word[0]);
        scan->extents += scan->extents == 0 || word[1] != scan->last_flags;
        scan->last_flags = word[1];
    }
    return covered;
}

/* One request; returns how many bytes its answer is about. */
static uint64_t ask_status(int fd, struct scan *scan, uint64_t offset, uint64_t length)
{
    struct nbd_compact_request request = {
        .magic = htobe32(NBD_REQUEST_MAGIC), .type = htobe16(NBD_CMD_BLOCK_STATUS),
        .cookie = ++scan->requests, .offset = htobe64(offset),
        .length = htobe32((uint32_t)MIN(length, STATUS_STEP)),
    };
    struct nbd_structured_reply head;
    uint64_t covered = 0;

    if (!wire_send(fd, &request, sizeof(request)))
        die("asking for extents failed: %s", strerror(errno));
    do {
        if (!wire_receive(fd, &head, sizeof(head)))
            die("no answer about extents: %s", strerror(errno));
        if (be32toh(head.magic) != NBD_STRUCTURED_REPLY_MAGIC ||
            head.cookie != request.cookie || be32toh(head.length) > CHUNK_MAX ||
            !wire_receive(fd, scan->chunk, be32toh(head.length)))
            die("an answer about extents makes no sense");
        if (be16toh(head.type) >= NBD_REPLY_TYPE_ERROR)
            die("the server has no extents at %llu", (unsigned long long)offset);
        if (be16toh(head.type) == NBD_REPLY_TYPE_BLOCK_STATUS)
            covered += count_extents(scan, be32toh(head.length));
    } while (!(be16toh(head.flags) & NBD_REPLY_FLAG_DONE));
    return covered;
}

static double scan_all(int fd, uint64_t size, struct scan *scan)
{
    uint64_t start = measure_now_ns(), offset = 0;

    scan->requests = scan->extents = 0;
    while (offset < size) {
        uint64_t n = ask_status(fd, scan, offset, size - offset);

        if (n == 0)
            die("an answer about extents tells nothing");
        offset += n;
    }
    return seconds_since(start);
}

void probe_status(const struct options *o)
{
    struct scan scan = { .chunk = g_malloc(CHUNK_MAX) };
    struct negotiated negotiated;
    int fd = wire_open(o->address, o->export, true, &negotiated);
    struct usage from, to;
    double cold_s, warm_s;

    if (!negotiated.status)
        die("the server does not offer base:allocation");
    measure_session(o->session, false, &from);
    cold_s = scan_all(fd, negotiated.size, &scan);
    measure_session(o->session, false, &to);
    warm_s = scan_all(fd, negotiated.size, &scan);
    printf("{\"cold_ms\": %.2f, \"warm_ms\": %.2f, \"extents\": %llu, \"requests\": %llu, "
           "\"server_s\": %.3f}\n",
           cold_s * 1000, warm_s * 1000, (unsigned long long)scan.extents,
           (unsigned long long)scan.requests, to.cpu_s - from.cpu_s);
    wire_disconnect(fd);
    g_free(scan.chunk);
}

/* ---- From the start of a server to its first reply ---- */

static bool is_served(const struct options *o, void *data)
{
    struct negotiated negotiated;
    int fd = wire_connect(o->address);
    bool served;

    if (fd < 0)
        return false;
    served = wire_negotiate(fd, o->export, false, &negotiated) &&
             wire_read_once(fd, data, o->block);
    if (served)
        printf("{\"first_ms\": %.3f}\n", seconds_since(o->since_ns) * 1000);
    wire_disconnect(fd);
    return served;
}

void probe_first(const struct options *o)
{
    void *data = read_buffer(o);
    uint64_t start = measure_now_ns();

    while (!is_served(o, data)) {
        if (seconds_since(start) > FIRST_LIMIT_S)
            die("%s does not answer after %d seconds", o->address, FIRST_LIMIT_S);
        usleep(100);
    }
    g_free(data);
}

/* ---- Files with the pattern ---- */

static uint64_t pattern(uint64_t offset)
{
    return (offset + UINT64_C(0x9e3779b97f4a7c15)) * UINT64_C(0xd1342543de82ef95);
}

void pattern_fill(uint8_t *to, uint64_t offset, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        uint64_t value = pattern((offset + i) & ~UINT64_C(7));

        if ((offset + i) % 8 == 0 && length - i >= 8) {
            memcpy(to + i, &value, 8);
            i += 7;
        } else {
            to[i] = ((uint8_t *)&value)[(offset + i) % 8];
        }
    }
}

bool pattern_is(const uint8_t *data, uint64_t offset, size_t length)
{
    uint8_t wanted[4096];

    for (size_t at = 0; at < length; at += sizeof(wanted)) {
        size_t n = MIN(length - at, sizeof(wanted));

        pattern_fill(wanted, offset + at, n);
        if (memcmp(wanted, data + at, n) != 0)
            return false;
    }
    return true;
}

void file_fill(const struct options *o)
{
    int fd = open(o->address, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    uint8_t *block = g_malloc(FILE_BLOCK);

    if (fd < 0 || ftruncate(fd, (off_t)o->span) < 0)
        die("%s cannot be made: %s", o->address, strerror(errno));
    for (uint64_t at = 0; at < o->span; at += FILE_BLOCK) {
        size_t n = MIN(o->span - at, FILE_BLOCK);

        pattern_fill(block, at, n);
        if (pwrite(fd, block, n, (off_t)at) != (ssize_t)n)
            die("%s cannot be written: %s", o->address, strerror(errno));
    }
    /* Out of the page cache, to be read in afresh: see file_check(). */
    if (fdatasync(fd) < 0)
        die("%s cannot be written: %s", o->address, strerror(errno));
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
    g_free(block);
}

/* How much of the file is in the page cache, from 0 to 1. */
static double cached_part(int fd)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages, cached = 0;
    off_t length = lseek(fd, 0, SEEK_END);
    uint8_t *resident;
    void *map;

    if (length <= 0)
        return 1;
    pages = ((size_t)length + page - 1) / page;
    resident = g_malloc0(pages);
    map = mmap(NULL, (size_t)length, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED || mincore(map, (size_t)length, resident) < 0)
        die("cannot see what is in the page cache: %s", strerror(errno));
    munmap(map, (size_t)length);
    for (size_t i = 0; i < pages; i++)
        cached += resident[i] & 1;
    g_free(resident);
    return (double)cached / (double)pages;
}

/* Also brings the file into the page cache. */
void file_check(const struct options *o)
{
    int fd = open(o->address, O_RDONLY | O_CLOEXEC);
    uint8_t *block = g_malloc(FILE_BLOCK);
    uint64_t at = 0;
    bool right = true;
    double cached;
    ssize_t n;

    if (fd < 0)
        die("%s cannot be read: %s", o->address, strerror(errno));
    cached = cached_part(fd);
    lseek(fd, 0, SEEK_SET);
    /* Single pages, as after random access: small writes into large folios are dear on ext4,
     * whatever the server does. */
    posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
    while ((n = read(fd, block, FILE_BLOCK)) > 0) {
        right = right && (!o->verify || pattern_is(block, at, (size_t)n));
        at += (uint64_t)n;
    }
    close(fd);
    g_free(block);
    printf("{\"bytes\": %llu, \"cached\": %.3f, \"right\": %s}\n", (unsigned long long)at,
           cached, right ? "true" : "false");
    if (!right)
        exit(EXIT_FAILURE);
}
