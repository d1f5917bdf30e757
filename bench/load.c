/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The load: N connections, each with a fixed number of requests in flight, on one epoll. Many
 * replies are taken with one receive, and the requests that follow them leave with one send,
 * so that the server is what limits the rate. Each reply is checked. One thread.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <glib.h>

#include "measure.h"
#include "nbd_protocol.h"
#include "nbdload.h"
#include "wire.h"

#define RECEIVE_BYTES (256u << 10)
#define IOV_USED 256
#define EVENTS 64
#define LEAN_MIN (64u << 10) /* below, dropping the payload costs more than copying it */
#define READS_OF_MIX 70      /* of 100 */
#define STALL_NS (UINT64_C(10) * 1000000000)
#define WATCH_NS (UINT64_C(20) * 1000000)

struct slot {
    struct nbd_compact_request request;
    uint64_t sent_ns, offset;
    uint32_t length;
    uint16_t type;
    uint32_t generation;
    bool busy, wrote; /* wrote: a flush is next (wflush) */
    uint8_t *payload; /* its own when verifying */
};

struct connection {
    int fd;
    bool wants_out;
    unsigned busy;           /* slots */
    struct slot *slots;
    unsigned *out;           /* ring of slots that are to be sent */
    unsigned out_first, out_n;
    size_t out_sent;         /* bytes of the first of them */
    uint8_t part[sizeof(struct nbd_simple_reply)];
    size_t part_length;
    struct slot *reading;    /* whose payload comes in */
    uint32_t to_come;
    uint64_t next, low, high; /* sequential: blocks */
};

static struct {
    const struct options *o;
    struct connection *connections;
    uint64_t size;           /* bytes that are used */
    int epoll, payload_file; /* payload_file: for lean writes, else -1 */
    bool drops;              /* payloads of reads are dropped, not copied */
    uint8_t *payload;        /* of all writes, when not verifying */
    uint8_t receive[RECEIVE_BYTES];
    uint64_t random;
    bool measuring, stopping;
    unsigned in_flight;
    uint64_t ops, bytes;
    uint64_t last_reply_ns;
} run = { .payload_file = -1, .random = UINT64_C(0x853c49e6748fea9b) };

static uint64_t random_number(void)
{
    run.random ^= run.random >> 12;
    run.random ^= run.random << 25;
    run.random ^= run.random >> 27;
    return run.random * UINT64_C(0x2545f4914f6cdd1d);
}

/* ---- Requests ---- */

static uint16_t next_type(struct slot *slot)
{
    switch (run.o->mode) {
    case MODE_READ: return NBD_CMD_READ;
    case MODE_MIX: return random_number() % 100 < READS_OF_MIX ? NBD_CMD_READ : NBD_CMD_WRITE;
    case MODE_TRIM: return NBD_CMD_TRIM;
    case MODE_ZERO: return NBD_CMD_WRITE_ZEROES;
    case MODE_FLUSH: return NBD_CMD_FLUSH;
    case MODE_WFLUSH:
        slot->wrote = !slot->wrote;
        return slot->wrote ? NBD_CMD_WRITE : NBD_CMD_FLUSH;
    default: return NBD_CMD_WRITE;
    }
}

static uint64_t next_block(struct connection *conn)
{
    uint64_t block = conn->next;

    if (!run.o->sequential)
        return random_number() % (run.size / run.o->block);
    conn->next = block + 1 < conn->high ? block + 1 : conn->low;
    return block;
}

static uint8_t *payload_of(const struct slot *slot)
{
    return slot->payload != NULL ? slot->payload : run.payload;
}

static void issue(struct connection *conn, unsigned index, uint64_t now)
{
    struct slot *slot = &conn->slots[index];
    uint16_t flags = run.o->mode == MODE_FUA ? NBD_CMD_FLAG_FUA : 0;

    slot->type = next_type(slot);
    slot->length = slot->type == NBD_CMD_FLUSH ? 0 : run.o->block;
    slot->offset = slot->type == NBD_CMD_FLUSH ? 0 : next_block(conn) * run.o->block;
    slot->sent_ns = now;
    slot->busy = true;
    conn->busy++;
    slot->generation++;
    slot->request = (struct nbd_compact_request){
        .magic = htobe32(NBD_REQUEST_MAGIC), .flags = htobe16(flags),
        .type = htobe16(slot->type), .cookie = (uint64_t)slot->generation << 32 | index,
        .offset = htobe64(slot->offset), .length = htobe32(slot->length),
    };
    if (slot->type == NBD_CMD_WRITE && run.o->verify)
        pattern_fill(slot->payload, slot->offset, slot->length);
    conn->out[(conn->out_first + conn->out_n++) % run.o->depth] = index;
    run.in_flight++;
}

/* The next request of this slot, or of all when the last of a burst is back. */
static void go_on(struct connection *conn, const struct slot *slot, uint64_t now)
{
    if (run.stopping)
        return;
    if (!run.o->burst)
        issue(conn, (unsigned)(slot - conn->slots), now);
    else if (conn->busy == 0)
        for (unsigned i = 0; i < run.o->depth; i++)
            issue(conn, i, now);
}

static void completed(struct connection *conn, struct slot *slot, uint64_t now)
{
    slot->busy = false;
    conn->busy--;
    run.in_flight--;
    run.last_reply_ns = now;
    if (run.measuring) {
        latency_add(now - slot->sent_ns);
        run.ops++;
        run.bytes += slot->length;
    }
    go_on(conn, slot, now);
}

/* ---- Sending ---- */

static size_t message_size(const struct slot *slot)
{
    return sizeof(slot->request) + (slot->type == NBD_CMD_WRITE ? slot->length : 0);
}

static struct slot *first_out(const struct connection *conn)
{
    return &conn->slots[conn->out[conn->out_first]];
}

static void wait_for_room(struct connection *conn, bool wait)
{
    struct epoll_event event = { .events = EPOLLIN | (wait ? EPOLLOUT : 0), .data.ptr = conn };

    if (conn->wants_out == wait)
        return;
    conn->wants_out = wait;
    epoll_ctl(run.epoll, EPOLL_CTL_MOD, conn->fd, &event);
}

static void account_sent(struct connection *conn, size_t n)
{
    while (conn->out_n > 0) {
        size_t left = message_size(first_out(conn)) - conn->out_sent;

        if (n < left) {
            conn->out_sent += n;
            return;
        }
        n -= left;
        conn->out_sent = 0;
        conn->out_first = (conn->out_first + 1) % run.o->depth;
        conn->out_n--;
    }
}

static unsigned add_piece(struct iovec *iov, unsigned n, const void *data, size_t length,
                          size_t *skip)
{
    size_t skipped = MIN(*skip, length);

    *skip -= skipped;
    if (skipped == length)
        return n;
    iov[n] = (struct iovec){ (uint8_t *)data + skipped, length - skipped };
    return n + 1;
}

/* As much as one send is to take. *ret_file: the payload of the last one is in the file. */
static unsigned gather(const struct connection *conn, struct iovec *iov, bool *ret_file)
{
    unsigned most = run.o->no_coalesce ? 1 : conn->out_n, n = 0;
    size_t skip = conn->out_sent;

    *ret_file = false;
    for (unsigned i = 0; i < most && n + 2 <= IOV_USED; i++) {
        const struct slot *slot =
            &conn->slots[conn->out[(conn->out_first + i) % run.o->depth]];

        n = add_piece(iov, n, &slot->request, sizeof(slot->request), &skip);
        if (slot->type != NBD_CMD_WRITE)
            continue;
        if (run.payload_file >= 0) {
            *ret_file = true;
            break;
        }
        n = add_piece(iov, n, payload_of(slot), slot->length, &skip);
    }
    return n;
}

static ssize_t send_some(struct connection *conn)
{
    struct iovec iov[IOV_USED];
    struct msghdr message = { .msg_iov = iov };
    bool file;
    off_t at;

    message.msg_iovlen = gather(conn, iov, &file);
    if (message.msg_iovlen > 0)
        return sendmsg(conn->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL | (file ? MSG_MORE : 0));
    at = (off_t)(conn->out_sent - sizeof(struct nbd_compact_request));
    return sendfile(conn->fd, run.payload_file, &at,
                    message_size(first_out(conn)) - conn->out_sent);
}

static void flush(struct connection *conn)
{
    while (conn->out_n > 0) {
        ssize_t n = send_some(conn);

        if (n < 0 && errno == EAGAIN) {
            wait_for_room(conn, true);
            return;
        }
        if (n < 0 && errno != EINTR)
            die("sending failed: %s", strerror(errno));
        account_sent(conn, (size_t)MAX(n, 0));
    }
    wait_for_room(conn, false);
}

/* ---- Receiving ---- */

static void take_reply(struct connection *conn, const uint8_t *data, uint64_t now)
{
    struct nbd_simple_reply reply;
    struct slot *slot;
    uint32_t index;

    memcpy(&reply, data, sizeof(reply));
    index = (uint32_t)reply.cookie;
    if (be32toh(reply.magic) != NBD_SIMPLE_REPLY_MAGIC)
        die("a reply has the magic number 0x%08x", be32toh(reply.magic));
    if (index >= run.o->depth || !conn->slots[index].busy ||
        conn->slots[index].request.cookie != reply.cookie)
        die("a reply has a cookie that no request has");
    slot = &conn->slots[index];
    if (reply.error != 0)
        die("command %u of %u bytes at %llu failed with error %u", slot->type, slot->length,
            (unsigned long long)slot->offset, be32toh(reply.error));
    if (slot->type == NBD_CMD_READ) {
        conn->reading = slot;
        conn->to_come = slot->length;
    } else {
        completed(conn, slot, now);
    }
}

static void payload_came(struct connection *conn, size_t n, uint64_t now)
{
    struct slot *slot = conn->reading;

    conn->to_come -= (uint32_t)n;
    if (conn->to_come > 0)
        return;
    conn->reading = NULL;
    completed(conn, slot, now);
}

static void verify(const struct connection *conn, const uint8_t *data, size_t n)
{
    uint64_t at = conn->reading->offset + conn->reading->length - conn->to_come;

    if (!pattern_is(data, at, n))
        die("wrong data between %llu and %llu", (unsigned long long)at,
            (unsigned long long)(at + n));
}

/* Replies and payloads; what is left of them is a part of a reply. */
static void take(struct connection *conn, const uint8_t *data, size_t length, uint64_t now)
{
    while (length > 0) {
        size_t n = sizeof(struct nbd_simple_reply);

        if (conn->reading != NULL) {
            n = MIN(length, conn->to_come);
            if (run.o->verify)
                verify(conn, data, n);
            payload_came(conn, n, now);
        } else if (length < n) {
            memcpy(conn->part, data, length);
            conn->part_length = length;
            return;
        } else {
            take_reply(conn, data, now);
        }
        data += n;
        length -= n;
    }
}

static void check_received(ssize_t n)
{
    if (n == 0)
        die("the server closed the connection");
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        die("receiving failed: %s", strerror(errno));
}

/* The payload of a large read: counted and dropped in the kernel. */
static void drop_payload(struct connection *conn)
{
    size_t most = MIN(conn->to_come, sizeof(run.receive));
    ssize_t n = recv(conn->fd, run.receive, most, MSG_DONTWAIT | MSG_TRUNC);

    check_received(n);
    if (n > 0)
        payload_came(conn, (size_t)n, measure_now_ns());
}

static void on_readable(struct connection *conn)
{
    size_t kept = conn->part_length;
    /* Payload that is to be dropped must not be received behind a header. */
    size_t room = run.drops ? sizeof(conn->part) - kept : sizeof(run.receive) - kept;
    ssize_t n;

    if (run.drops && conn->reading != NULL) {
        drop_payload(conn);
    } else {
        memcpy(run.receive, conn->part, kept);
        n = recv(conn->fd, run.receive + kept, room, MSG_DONTWAIT);
        check_received(n);
        if (n <= 0)
            return;
        conn->part_length = 0;
        take(conn, run.receive, kept + (size_t)n, measure_now_ns());
    }
    flush(conn);
}

/* ---- Setting up ---- */

static void make_payload(void)
{
    run.payload = g_malloc(run.o->block);
    memset(run.payload, 0xb5, run.o->block);
    if (!run.o->lean || run.o->block < LEAN_MIN || run.o->verify)
        return;
    run.drops = !wire_is_unix(run.o->address);
    run.payload_file = memfd_create("payload", MFD_CLOEXEC);
    if (run.payload_file < 0 ||
        pwrite(run.payload_file, run.payload, run.o->block, 0) != (ssize_t)run.o->block)
        die("no memory file for the payload: %s", strerror(errno));
}

static void open_connection(struct connection *conn, unsigned i)
{
    const struct options *o = run.o;
    struct epoll_event event = { .events = EPOLLIN, .data.ptr = conn };
    struct negotiated negotiated;
    char name[64];

    /* With several exports: evenly over all of them. */
    snprintf(name, sizeof(name), "%s%llu", o->export,
             (unsigned long long)i * o->exports / o->connections);
    conn->fd = wire_open(o->address, o->exports > 0 ? name : o->export, false, &negotiated);
    run.size = o->span != 0 ? MIN(o->span, negotiated.size) : negotiated.size;
    if (run.size < o->block)
        die("the export has %llu bytes, less than a block", (unsigned long long)run.size);
    conn->low = conn->next = run.size / o->block * i / o->connections;
    conn->high = run.size / o->block * (i + 1) / o->connections;
    fcntl(conn->fd, F_SETFL, O_NONBLOCK);
    conn->slots = g_new0(struct slot, o->depth);
    conn->out = g_new0(unsigned, o->depth);
    for (unsigned s = 0; o->verify && s < o->depth; s++)
        conn->slots[s].payload = g_malloc(o->block);
    epoll_ctl(run.epoll, EPOLL_CTL_ADD, conn->fd, &event);
}

static void close_connection(struct connection *conn)
{
    wire_disconnect(conn->fd);
    for (unsigned s = 0; s < run.o->depth; s++)
        g_free(conn->slots[s].payload);
    g_free(conn->slots);
    g_free(conn->out);
}

/* ---- Running ---- */

static void handle_events(void)
{
    struct epoll_event events[EVENTS];
    int n = epoll_wait(run.epoll, events, EVENTS, 20);

    for (int i = 0; i < n; i++) {
        if (events[i].events & EPOLLOUT)
            flush(events[i].data.ptr);
        if (events[i].events & ~(uint32_t)EPOLLOUT)
            on_readable(events[i].data.ptr);
    }
}

static void watch_memory(uint64_t now, long *peak_kb)
{
    static uint64_t next_ns;
    struct usage usage;

    if (!run.o->watch || now < next_ns)
        return;
    measure_session(run.o->session, false, &usage);
    *peak_kb = MAX(*peak_kb, usage.anonymous_kb);
    next_ns = now + WATCH_NS;
}

static void run_for(double seconds, long *peak_kb)
{
    uint64_t now = measure_now_ns(), end = now + (uint64_t)(seconds * 1e9);

    run.last_reply_ns = now;
    while (now < end) {
        handle_events();
        now = measure_now_ns();
        watch_memory(now, peak_kb);
        if (now > run.last_reply_ns + STALL_NS)
            die("no reply for %d seconds", (int)(STALL_NS / 1000000000));
    }
}

/* What is in flight is answered, so that the server sees a clean end. */
static void drain(void)
{
    uint64_t end = measure_now_ns() + STALL_NS;

    run.stopping = true;
    while (run.in_flight > 0 && measure_now_ns() < end)
        handle_events();
    if (run.in_flight > 0)
        die("%u requests were never answered", run.in_flight);
}

struct sample {
    struct usage server;
    double self_s, machine_s;
    uint64_t now_ns;
};

static void take_sample(struct sample *sample, bool pss)
{
    measure_session(run.o->session, pss, &sample->server);
    sample->self_s = measure_self_s();
    sample->machine_s = measure_machine_s();
    sample->now_ns = measure_now_ns();
}

static void report(const struct sample *from, const struct sample *to, long peak_kb)
{
    double s = (double)(to->now_ns - from->now_ns) / 1e9;
    double server = to->server.cpu_s - from->server.cpu_s;
    double self = to->self_s - from->self_s;
    double others = to->machine_s - from->machine_s - server - self;
    double ops = (double)run.ops, gb = (double)run.bytes / 1e9;

    printf("{\"ops\": %.0f, \"seconds\": %.3f, \"iops\": %.0f, \"mbs\": %.1f, ", ops, s,
           ops / s, gb * 1000 / s);
    printf("\"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f, ",
           latency_us(0.5), latency_us(0.99), latency_us(0.999), latency_max_us());
    printf("\"server_us\": %.3f, \"server_s_gb\": %.4f, ", ops > 0 ? server * 1e6 / ops : 0,
           gb > 0 ? server / gb : 0);
    printf("\"server_busy\": %.3f, \"client_busy\": %.3f, \"others_busy\": %.3f, ", server / s,
           self / s, others / s);
    printf("\"anonymous_kb\": %ld, \"pss_kb\": %ld, \"peak_anonymous_kb\": %ld, ",
           to->server.anonymous_kb, to->server.pss_kb, MAX(peak_kb, to->server.anonymous_kb));
    printf("\"processes\": %u, \"threads\": %u}\n", to->server.processes, to->server.threads);
}

void load(const struct options *options)
{
    struct sample from = { 0 }, to = { 0 };
    long peak_kb = 0;

    run.o = options;
    run.epoll = epoll_create1(EPOLL_CLOEXEC);
    run.connections = g_new0(struct connection, options->connections);
    make_payload();
    for (unsigned i = 0; i < options->connections; i++)
        open_connection(&run.connections[i], i);
    for (unsigned i = 0; i < options->connections; i++) {
        for (unsigned s = 0; s < options->depth; s++)
            issue(&run.connections[i], s, measure_now_ns());
        flush(&run.connections[i]);
    }
    run_for(options->warm_up_s, &peak_kb);
    take_sample(&from, false);
    run.measuring = true;
    run_for(options->seconds, &peak_kb);
    run.measuring = false;
    take_sample(&to, true);
    drain();
    for (unsigned i = 0; i < options->connections; i++)
        close_connection(&run.connections[i]);
    g_free(run.connections);
    g_free(run.payload);
    report(&from, &to, peak_kb);
}
