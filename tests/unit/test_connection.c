/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Connections: fairness, memory, the page cache as a source, and all the ways they end.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "connection.h"
#include "nbd_client_harness.h"
#include "registry.h"

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

static int set_up(void **state)
{
    struct harness *harness = harness_new(NULL);

    harness_add_export(harness, "mem", "mem", "one", "size=64M", false);
    harness_add_export(harness, "thread", "fault", "t", "size=1M thread=true", false);
    *state = harness;
    return 0;
}

static int set_up_with_little_memory(void **state)
{
    struct harness_settings settings = { .max_inflight_bytes = MIB };
    struct harness *harness = harness_new(&settings);

    harness_add_export(harness, "mem", "mem", "one", "size=64M", false);
    harness_add_export(harness, "thread", "fault", "t", "size=64M thread=true", false);
    *state = harness;
    return 0;
}

static int tear_down(void **state)
{
    harness_free(*state);
    return 0;
}

/* A file that exists as long as requests of the export "held" are to wait. */
static char *hold_requests(struct harness *harness)
{
    char *path = harness_path(harness, "hold");
    g_autofree char *opts = g_strdup_printf("size=64M hold=%s", path);

    assert_true(g_file_set_contents(path, "", 0, NULL));
    if (registry_find(harness->server->registry, "held") == NULL)
        harness_add_export(harness, "held", "fault", "held", opts, false);
    return path;
}

static unsigned in_flight(struct harness *harness)
{
    return connection_in_flight(harness->server->connections);
}

static bool has_request_in_flight(void *harness)
{
    return in_flight(harness) > 0;
}

/* ---- Large reads from the page cache ---- */

static void a_cached_file_is_read_right_at_every_size(void **state)
{
    static const size_t lengths[] = { 4096, 16383, 16384, 16385, 65536, 100001, 1000000,
                                      4 * MIB };
    struct harness *harness = *state;
    g_autofree uint8_t *expected = g_malloc(5 * MIB);
    struct client *client;

    fill_pattern(expected, 0, 5 * MIB);
    harness_add_file(harness, "disk", 5 * MIB);
    client = client_on(harness, "disk");

    for (size_t i = 0; i < G_N_ELEMENTS(lengths); i++) {
        client_reads_back(client, 0, expected, lengths[i]);
        client_reads_back(client, 4097, expected + 4097, lengths[i]);
        client_reads_back(client, 5 * MIB - lengths[i], expected + 5 * MIB - lengths[i],
                          lengths[i]);
    }
}

static void many_reads_of_a_file_may_be_under_way_at_once(void **state)
{
    struct harness *harness = *state;
    struct client *client;

    harness_add_file(harness, "disk", 4 * MIB);
    client = client_on(harness, "disk");
    for (unsigned i = 0; i < 300; i++)
        client_requests(client, NBD_CMD_READ, 0, i * 1000, i % 3 == 0 ? 100000 : 3000);

    for (unsigned i = 0; i < 300; i++) {
        struct reply reply;

        client_takes_reply(client, &reply);
        assert_int_equal(reply.error, 0);
        is_pattern(reply.data, (reply.cookie - 1) * 1000, reply.length);
        g_free(reply.data);
    }
}

/* Replies leave from the page cache only where the system can tell what is in it; valgrind does
 * not know that call, and Linux has it since 6.5. */
static bool has_cachestat(void)
{
    return syscall(451, -1, NULL, NULL, 0) >= 0 || errno != ENOSYS;
}

/* Often enough for the file handler to map it. */
static void reads_often(struct harness *harness)
{
    struct client *client = client_on(harness, "disk");

    for (unsigned i = 0; i < 100; i++) {
        g_autofree uint8_t *data = g_malloc(65536);
        struct nbd_simple_reply reply;

        client_requests(client, NBD_CMD_READ, 0, i * 65536, 65536);
        client_receives(client, &reply, sizeof(reply));
        client_receives(client, data, 65536);
        is_pattern(data, i * 65536, 65536);
    }
}

/* `hot`: it is sent from memory, else by sendfile(). */
static struct client *in_the_middle_of_a_reply(struct harness *harness, bool structured,
                                               bool hot, void *first, size_t n)
{
    g_autofree char *path = harness_path(harness, "disk");
    struct client *client;

    harness_add_file(harness, "disk", 8 * MIB);
    if (hot)
        reads_often(harness);
    client = client_connect(harness);
    client_greets(client, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
    if (structured) {
        client_sends_option(client, NBD_OPT_STRUCTURED_REPLY, "", 0);
        client_is_told(client, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, NULL);
    }
    client->structured = structured;
    client_goes(client, "disk");
    client_requests(client, NBD_CMD_READ, 0, 0, 8 * MIB);
    client_receives(client, first, n);
    harness_settle(harness);
    assert_int_equal(truncate(path, (off_t)MIB), 0);
    return client;
}

static void becomes_short_in_a_simple_reply(struct harness *harness, bool hot)
{
    uint8_t first[1000];
    struct client *client;

    if (!has_cachestat())
        skip();
    client = in_the_middle_of_a_reply(harness, false, hot, first, sizeof(first));

    client_is_closed_at_last(client);

    assert_int_equal(harness_count_in_log(harness, "in the middle of a reply"), 1);
}

static void becomes_short_in_a_structured_reply(struct harness *harness, bool hot)
{
    g_autofree uint8_t *rest = NULL;
    uint8_t head[28], tail[20 + 6];
    struct client *client;

    if (!has_cachestat())
        skip();
    rest = g_malloc(8 * MIB);
    client = in_the_middle_of_a_reply(harness, true, hot, head, sizeof(head));

    client_receives(client, rest, 8 * MIB);
    client_receives(client, tail, sizeof(tail));

    is_pattern(rest, 0, 65536);
    assert_memory_equal(tail, "\x66\x8e\x33\xef\0\1\x80\1\0\0\0\0\0\0\0\1\0\0\0\6\0\0\0\5\0\0",
                        sizeof(tail));
    client_is_served(client);
}

static void a_file_that_becomes_short_in_a_simple_reply_ends_the_connection(void **state)
{
    becomes_short_in_a_simple_reply(*state, false);
}

static void a_hot_file_that_becomes_short_in_a_simple_reply_ends_the_connection(void **state)
{
    becomes_short_in_a_simple_reply(*state, true);
}

static void a_file_that_becomes_short_in_a_structured_reply_is_an_error_chunk(void **state)
{
    becomes_short_in_a_structured_reply(*state, false);
}

static void a_hot_file_that_becomes_short_in_a_structured_reply_is_an_error_chunk(void **state)
{
    becomes_short_in_a_structured_reply(*state, true);
}

/* Data that has left the page cache while the client was slow is loaded once, however often
 * there is a reason to look at the connection meanwhile. */
static void what_left_the_cache_in_a_reply_is_loaded_once(void **state)
{
    struct harness *harness = *state;
    g_autofree char *path = NULL;
    g_autofree uint8_t *data = NULL;
    struct nbd_simple_reply reply;

    if (!has_cachestat())
        skip(); /* which frees nothing: nothing is allocated yet */
    path = harness_path(harness, "disk");
    data = g_malloc(8 * MIB);
    harness_add_file(harness, "disk", 8 * MIB);
    for (unsigned i = 0; i < 10; i++) {
        struct client *client = client_on(harness, "disk");
        int fd = open(path, O_RDWR | O_CLOEXEC);

        client_requests(client, NBD_CMD_READ, 0, 0, 8 * MIB);
        client_receives(client, &reply, sizeof(reply));
        harness_settle(harness);
        assert_int_equal(fsync(fd) | posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
        close(fd);
        for (size_t done = 0; done < 8 * MIB; done += 65536) {
            if (done < 2 * MIB) /* an answer to send is such a reason */
                client_requests(client, NBD_CMD_FLUSH, 0, 0, 0);
            client_receives(client, data + done, 65536);
        }
        is_pattern(data, 0, 8 * MIB);
    }
}

/* ---- Clients that do not read ---- */

/* In one piece, which the socket holds. */
static void sends_many_reads(struct client *client, unsigned n, size_t length)
{
    GByteArray *all = g_byte_array_new();
    uint8_t header[32];

    for (unsigned i = 0; i < n; i++)
        g_byte_array_append(all, header,
                            (guint)client_puts_header(client, header, NBD_CMD_READ, 0, i,
                                                      length));
    client_sends(client, all->data, all->len);
    g_byte_array_free(all, TRUE);
    harness_settle(client->harness);
}

static void who_does_not_read_its_replies_holds_only_itself(void **state)
{
    static const struct { const char *export; size_t length; } cases[] = {
        { "mem", 3000 }, { "mem", 60000 }, { "mem", 200000 }, { "thread", 50000 },
        { "disk", 3000 }, { "disk", 200000 },
    };
    struct harness *harness = *state;
    g_autofree uint8_t *content = g_malloc(MIB);
    enum { READS = 1500 };

    fill_pattern(content, 0, MIB);
    harness_add_file(harness, "disk", MIB);
    for (size_t c = 0; c < G_N_ELEMENTS(cases); c++) {
        struct client *lazy = client_on(harness, cases[c].export);
        struct client *other = client_on(harness, cases[c].export);

        for (size_t at = 0; at < MIB; at += 256 * KIB)
            client_awaits(other, client_writes(other, 0, at, content + at, 256 * KIB));
        sends_many_reads(lazy, READS, cases[c].length);
        for (int i = 0; i < 20; i++)
            client_reads_back(other, (uint64_t)i, content + i, 100000);
        assert_true(buffer_pool_used(harness->server->buffers) <= 300 * MIB);
        for (int i = 0; i < READS; i++) {
            struct reply reply;

            client_takes_reply(lazy, &reply);
            assert_int_equal(reply.error, 0);
            is_pattern(reply.data, reply.cookie - 1, reply.length);
            g_free(reply.data);
        }
        client_leave(lazy);
        client_leave(other);
    }
}

static void who_never_reads_and_leaves_leaves_nothing_behind(void **state)
{
    struct harness *harness = *state;
    struct client *lazy = client_on(harness, "mem");

    sends_many_reads(lazy, 800, 100000);
    client_leave(lazy);
    harness_wait(harness, harness_has_no_connection, harness);

    assert_int_equal(buffer_pool_used(harness->server->buffers), 0);
}

/* ---- Memory ---- */

static void large_writes_of_many_clients_fit_into_a_small_budget(void **state)
{
    enum { CLIENTS = 6, WRITE = 32 << 20 };
    struct harness *harness = *state;
    struct client *clients[CLIENTS];
    g_autofree uint8_t *data = g_malloc(WRITE);
    uint8_t header[32];
    size_t sent[CLIENTS] = { 0 };
    int64_t end = g_get_monotonic_time() + 10 * G_USEC_PER_SEC;

    fill_pattern(data, 0, WRITE);
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = client_on(harness, i % 2 == 0 ? "mem" : "thread");
        client_sends(clients[i], header,
                     client_puts_header(clients[i], header, NBD_CMD_WRITE, 0, 0, WRITE));
    }
    for (bool more = true; more;) {
        more = false;
        for (int i = 0; i < CLIENTS; i++) {
            size_t piece = MIN(WRITE - sent[i], 100000);
            ssize_t n = send(clients[i]->fd, data + sent[i], piece, MSG_NOSIGNAL);

            sent[i] += n > 0 ? (size_t)n : 0;
            more |= sent[i] < WRITE;
        }
        harness_turn(harness);
        assert_true(buffer_pool_used(harness->server->buffers) <= 40 * MIB);
        if (g_get_monotonic_time() > end)
            fail_msg("the clients wait for memory for ever");
    }

    for (int i = 0; i < CLIENTS; i++)
        assert_int_equal(client_awaits(clients[i], 1), 0);
    client_reads_back(clients[1], 0, data, WRITE);
}

/* What a client has sent beyond its first header must not use up the memory for it. */
static void input_that_waits_for_memory_does_not_use_it_up(void **state)
{
    enum { CLIENTS = 10, WRITE = 300 << 10 };
    struct harness *harness = *state;
    struct client *clients[CLIENTS];
    g_autofree uint8_t *data = g_malloc(WRITE);
    g_autofree char *hold = hold_requests(harness);
    uint8_t header[32];

    fill_pattern(data, 0, WRITE);
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = client_on(harness, "held");
        client_sends(clients[i], header,
                     client_puts_header(clients[i], header, NBD_CMD_WRITE, 0, 0, WRITE));
        for (size_t at = 0, tries = 0; at < WRITE - KIB && tries < 100; tries++) {
            ssize_t n = send(clients[i]->fd, data + at, WRITE - KIB - at, MSG_NOSIGNAL);

            at += n > 0 ? (size_t)n : 0;
            harness_turn(harness);
        }
    }
    assert_int_equal(unlink(hold), 0);
    /* Each has sent most of its payload, or as much as its socket took. */
    for (int i = 0; i < CLIENTS; i++)
        client_leave(clients[i]);
    harness_wait(harness, harness_has_no_connection, harness);
    assert_int_equal(buffer_pool_used(harness->server->buffers), 0);
}

static void clients_that_all_wait_for_memory_all_get_it(void **state)
{
    enum { CLIENTS = 12, WRITE = 400 << 10 };
    struct harness *harness = *state;
    struct client *clients[CLIENTS];
    g_autofree uint8_t *message = g_malloc(32 + WRITE);
    size_t length = 0, sent[CLIENTS] = { 0 };
    int64_t end = g_get_monotonic_time() + 10 * G_USEC_PER_SEC;

    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = client_on(harness, "thread");
        length = client_puts_header(clients[i], message, NBD_CMD_WRITE, 0, 0, WRITE) + WRITE;
    }
    fill_pattern(message + length - WRITE, 0, WRITE);
    for (bool more = true; more;) {
        more = false;
        for (int i = 0; i < CLIENTS; i++) {
            ssize_t n = sent[i] == length ? 0 : send(clients[i]->fd, message + sent[i],
                                                     length - sent[i], MSG_NOSIGNAL);

            sent[i] += n > 0 ? (size_t)n : 0;
            more |= sent[i] < length;
        }
        harness_turn(harness);
        if (g_get_monotonic_time() > end)
            fail_msg("the clients wait for memory for ever");
    }

    for (int i = 0; i < CLIENTS; i++)
        assert_int_equal(client_awaits(clients[i], 1), 0);
}

static void who_frees_the_memory_that_it_waits_for_itself_goes_on(void **state)
{
    struct harness *harness = *state;
    struct client *client = client_on(harness, "mem");

    sends_many_reads(client, 100, 70000);

    for (uint64_t i = 1; i <= 100; i++)
        assert_int_equal(client_awaits(client, i), 0);
}

static void who_ends_while_it_waits_for_memory_passes_its_turn_on(void **state)
{
    struct harness *harness = *state;
    g_autofree char *hold = hold_requests(harness);
    struct client *first = client_on(harness, "held"), *second = client_on(harness, "held");
    struct client *third = client_on(harness, "held");
    g_autofree uint8_t *data = g_malloc0(MIB);
    struct connection *conn;

    client_writes(first, 0, 0, data, MIB);
    harness_wait(harness, has_request_in_flight, harness);
    client_requests(second, NBD_CMD_FLUSH, 0, 0, 0); /* keeps it from being freed at once */
    client_requests(second, NBD_CMD_READ, 0, 0, MIB);
    harness_settle(harness);
    client_requests(third, NBD_CMD_READ, 0, 0, MIB);
    harness_settle(harness);
    conn = connection_next(harness->server->connections, 1);
    connection_kick(harness->server->connections, conn->id, "a test");
    assert_int_equal(unlink(hold), 0);

    assert_int_equal(client_awaits(first, 1), 0);
    assert_int_equal(client_awaits(third, 1), 0);
}

/* ---- Ends ---- */

static void who_leaves_in_the_middle_of_a_payload_is_forgotten(void **state)
{
    static const size_t parts[] = { 0, 1, 100, 65536, 150000, MIB - 1 };
    struct harness *harness = *state;
    g_autofree uint8_t *data = g_malloc0(MIB);

    for (size_t i = 0; i < G_N_ELEMENTS(parts); i++) {
        struct client *client = client_on(harness, "mem");

        client_requests(client, NBD_CMD_WRITE, 0, 0, MIB);
        client_sends(client, data, parts[i]);
        harness_settle(harness);
        client_leave(client);
        harness_wait(harness, harness_has_no_connection, harness);
        assert_int_equal(buffer_pool_used(harness->server->buffers), 0);
    }
    assert_int_equal(registry_find(harness->server->registry, "mem")->connections, 0);
    assert_true(harness_count_in_log(harness, "in the middle of a message") > 0);
}

static void who_leaves_with_requests_in_flight_is_freed_when_they_end(void **state)
{
    struct harness *harness = *state;
    g_autofree char *hold = hold_requests(harness);
    struct client *client = client_on(harness, "held");
    uint8_t data[4096] = { 1 };

    for (int i = 0; i < 10; i++) {
        client_writes(client, 0, 0, data, sizeof(data));
        client_requests(client, NBD_CMD_READ, 0, 0, 4096);
    }
    harness_wait(harness, has_request_in_flight, harness);
    harness_settle(harness);
    client_leave(client);
    harness_settle(harness);
    assert_int_equal(in_flight(harness), 20);
    assert_int_equal(connection_count(harness->server->connections), 1);
    assert_int_equal(unlink(hold), 0);

    harness_wait(harness, harness_has_no_connection, harness);
    assert_int_equal(buffer_pool_used(harness->server->buffers), 0);
}

static void a_disconnect_request_answers_what_is_in_flight_first(void **state)
{
    struct harness *harness = *state;
    g_autofree char *hold = hold_requests(harness);
    struct client *client = client_on(harness, "held");

    for (int i = 0; i < 20; i++)
        client_requests(client, NBD_CMD_READ, 0, (uint64_t)i, 50000);
    client_requests(client, NBD_CMD_DISC, 0, 0, 0);
    client_requests(client, NBD_CMD_READ, 0, 0, 1); /* behind it: never answered */
    harness_settle(harness);
    client_has_nothing(client);
    assert_int_equal(unlink(hold), 0);

    for (uint64_t i = 1; i <= 20; i++)
        assert_int_equal(client_awaits(client, i), 0);
    client_is_closed(client);
}

static void a_client_that_only_stops_sending_gets_its_answers(void **state)
{
    static const char *const exports[] = { "mem", "thread" };

    for (size_t e = 0; e < G_N_ELEMENTS(exports); e++) {
        struct client *client = client_on(*state, exports[e]);

        for (int i = 0; i < 20; i++)
            client_requests(client, NBD_CMD_READ, 0, (uint64_t)i, 50000);
        assert_int_equal(shutdown(client->fd, SHUT_WR), 0);

        for (uint64_t i = 1; i <= 20; i++)
            assert_int_equal(client_awaits(client, i), 0);
        client_is_closed(client);
    }
}

static void a_client_that_is_kicked_is_closed_and_the_others_stay(void **state)
{
    struct harness *harness = *state;
    struct client *first = client_on(harness, "mem"), *second = client_on(harness, "mem");
    struct connection *conn = connection_next(harness->server->connections, 0);

    assert_true(connection_kick(harness->server->connections, conn->id, "a test"));
    assert_false(connection_kick(harness->server->connections, 4711, "a test"));

    client_is_closed(first);
    client_is_served(second);
    assert_int_equal(harness_count_in_log(harness, "kicked: a test"), 1);
}

static void an_export_loses_all_its_clients_and_no_others(void **state)
{
    struct harness *harness = *state;
    struct export *export = registry_find(harness->server->registry, "mem");
    struct client *first = client_on(harness, "mem"), *second = client_on(harness, "mem");
    struct client *other = client_on(harness, "thread");

    assert_int_equal(connection_kick_export(harness->server->connections, export, "a test"),
                     2);

    client_is_closed(first);
    client_is_closed(second);
    client_is_served(other);
    assert_int_equal(export->connections, 0);
}

static void a_drain_answers_what_is_in_flight_and_takes_nobody_in(void **state)
{
    struct harness *harness = *state;
    g_autofree char *hold = hold_requests(harness);
    struct client *busy = client_on(harness, "held"), *idle = client_on(harness, "mem");
    struct client *late;

    client_requests(busy, NBD_CMD_READ, 0, 0, 50000);
    harness_wait(harness, has_request_in_flight, harness);
    connection_table_drain(harness->server->connections);
    late = client_connect(harness);

    client_is_closed(late);
    client_is_closed(idle);
    client_has_nothing(busy);
    assert_int_equal(unlink(hold), 0);
    assert_int_equal(client_awaits(busy, 1), 0);
    client_is_closed(busy);
}

static void a_client_may_have_more_requests_than_are_taken_at_once(void **state)
{
    enum { REQUESTS = 3 * IN_FLIGHT_MAX };
    struct harness *harness = *state;
    g_autofree char *hold = hold_requests(harness);
    struct client *client = client_on(harness, "held");

    sends_many_reads(client, REQUESTS, 10);
    assert_int_equal(in_flight(harness), IN_FLIGHT_MAX);
    assert_int_equal(unlink(hold), 0);

    for (unsigned i = 1; i <= REQUESTS; i++)
        assert_int_equal(client_awaits(client, i), 0);
}

static void connections_are_described_in_order(void **state)
{
    struct harness *harness = *state;
    struct client *first = client_on(harness, "mem");
    struct connection *conn = connection_next(harness->server->connections, 0);
    struct connection_info info;

    client_connect(harness);
    client_reads_back(first, 0, "\0\0\0", 3);
    client_awaits(first, client_writes(first, 0, 0, "abcd", 4));
    connection_describe(conn, &info);
    assert_string_equal(info.export_name, "mem");
    assert_string_equal(info.phase, "transmission");
    assert_int_equal(info.requests, 2);
    assert_int_equal(info.read_bytes, 3);
    assert_int_equal(info.write_bytes, 4);
    assert_null(info.cookie);

    conn = connection_next(harness->server->connections, info.id);
    connection_describe(conn, &info);
    assert_string_equal(info.phase, "greeting");
    assert_null(info.export_name);
    assert_null(connection_next(harness->server->connections, info.id));
}

static void a_server_may_be_freed_while_an_export_opens(void **state)
{
    struct harness *harness = harness_new(NULL);
    struct client *client = client_connect(harness);

    (void)state;
    harness_add_export(harness, "slow", "fault", "x", "size=1M open_delay_ms=30", false);
    client_greets(client, NBD_FLAG_C_FIXED_NEWSTYLE);
    client_asks(client, NBD_OPT_GO, "slow");
    harness_settle(harness);

    harness_free_now(harness);
}

int main(void)
{
#define A_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
#define A_TIGHT_TEST(name) \
    cmocka_unit_test_setup_teardown(name, set_up_with_little_memory, tear_down)
    const struct CMUnitTest tests[] = {
        A_TEST(a_cached_file_is_read_right_at_every_size),
        A_TEST(many_reads_of_a_file_may_be_under_way_at_once),
        A_TEST(a_file_that_becomes_short_in_a_simple_reply_ends_the_connection),
        A_TEST(a_hot_file_that_becomes_short_in_a_simple_reply_ends_the_connection),
        A_TEST(a_file_that_becomes_short_in_a_structured_reply_is_an_error_chunk),
        A_TEST(a_hot_file_that_becomes_short_in_a_structured_reply_is_an_error_chunk),
        A_TEST(what_left_the_cache_in_a_reply_is_loaded_once),
        A_TEST(who_does_not_read_its_replies_holds_only_itself),
        A_TEST(who_never_reads_and_leaves_leaves_nothing_behind),
        A_TIGHT_TEST(large_writes_of_many_clients_fit_into_a_small_budget),
        A_TIGHT_TEST(input_that_waits_for_memory_does_not_use_it_up),
        A_TIGHT_TEST(clients_that_all_wait_for_memory_all_get_it),
        A_TIGHT_TEST(who_frees_the_memory_that_it_waits_for_itself_goes_on),
        A_TIGHT_TEST(who_ends_while_it_waits_for_memory_passes_its_turn_on),
        A_TEST(who_leaves_in_the_middle_of_a_payload_is_forgotten),
        A_TEST(who_leaves_with_requests_in_flight_is_freed_when_they_end),
        A_TEST(a_disconnect_request_answers_what_is_in_flight_first),
        A_TEST(a_client_that_only_stops_sending_gets_its_answers),
        A_TEST(a_client_that_is_kicked_is_closed_and_the_others_stay),
        A_TEST(an_export_loses_all_its_clients_and_no_others),
        A_TEST(a_drain_answers_what_is_in_flight_and_takes_nobody_in),
        A_TEST(a_client_may_have_more_requests_than_are_taken_at_once),
        A_TEST(connections_are_described_in_order),
        cmocka_unit_test(a_server_may_be_freed_while_an_export_opens),
    };

    return cmocka_run_group_tests_name("connection", tests, NULL, NULL);
}
