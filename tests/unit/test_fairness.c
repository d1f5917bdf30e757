/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Connections beside each other: how much of one is served before the others have a turn.
 * Counted in bytes and requests for each turn of the loop, never in time.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>
#include <sys/socket.h>

#include "connection.h"
#include "nbd_client_harness.h"
#include "registry.h"

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)
#define SLICE (128 * KIB)  /* of a large write, in one turn */
#define SETTLED_TURNS 1500 /* with large writes only, until they are not sliced any more */

static int set_up(void **state)
{
    struct harness *harness = harness_new(NULL);

    /* Memory: a file is left alone for a while when a write to it took long. */
    harness_add_export(harness, "mem", "mem", "one", "size=64M", false);
    *state = harness;
    return 0;
}

static int tear_down(void **state)
{
    harness_free(*state);
    return 0;
}

static struct connection *newest_connection(struct harness *harness)
{
    struct connection *conn = NULL, *next;
    uint64_t id = 0;

    while ((next = connection_next(harness->server->connections, id)) != NULL) {
        conn = next;
        id = conn->id;
    }
    return conn;
}

/* ---- Somebody who writes without end ---- */

struct writer {
    struct client *client;
    struct connection *conn;
    size_t block, offset, sent; /* of the message that is being sent */
    uint8_t message[MIB + 64];
    size_t length;
};

static void begin_message(struct writer *writer)
{
    size_t header = client_puts_header(writer->client, writer->message, NBD_CMD_WRITE, 0,
                                       writer->offset, writer->block);

    fill_pattern(writer->message + header, writer->offset, writer->block);
    writer->length = header + writer->block;
    writer->sent = 0;
}

static struct writer *writer_new(struct harness *harness, size_t block)
{
    struct writer *writer = g_new0(struct writer, 1);

    writer->client = client_on(harness, "mem");
    writer->conn = newest_connection(harness);
    writer->block = block;
    begin_message(writer);
    return writer;
}

/* Fill its socket; drop the replies. */
static void writer_goes_on(struct writer *writer)
{
    char replies[4096];
    ssize_t n;

    while (recv(writer->client->fd, replies, sizeof(replies), 0) > 0)
        ;
    for (;;) {
        n = send(writer->client->fd, writer->message + writer->sent,
                 MIN(writer->length - writer->sent, 16 * KIB), MSG_NOSIGNAL);
        if (n <= 0)
            return;
        writer->sent += (size_t)n;
        if (writer->sent == writer->length)
            begin_message(writer);
    }
}

static uint64_t received_bytes(const struct writer *writer)
{
    const struct connection *conn = writer->conn;

    return conn->write_bytes +
           (conn->writing != NULL ? conn->writing->length : 0) +
           (conn->receiving != NULL ? conn->receiving->received : 0);
}

static uint64_t written_bytes(const struct writer *writer)
{
    const struct connection *conn = writer->conn;

    return conn->write_bytes + (conn->writing != NULL ? conn->writing->written : 0);
}

/* ---- The tests ---- */

static void a_small_reader_has_a_turn_for_each_slice_of_a_large_write(void **state)
{
    struct harness *harness = *state;
    g_autofree struct writer *writer = writer_new(harness, MIB);
    struct client *reader = client_on(harness, "mem");
    unsigned reads = 0;

    while (!writer->conn->large_writes) { /* its first payload came as a surprise */
        writer_goes_on(writer);
        harness_turn(harness);
    }
    while (written_bytes(writer) < 8 * MIB) {
        uint64_t received = received_bytes(writer), written = written_bytes(writer);
        uint64_t cookie = client_requests(reader, NBD_CMD_READ, 0, 0, 4096);

        writer_goes_on(writer);
        harness_turn(harness);

        assert_in_range(received_bytes(writer) - received, 0, SLICE + 512);
        assert_in_range(written_bytes(writer) - written, 0, SLICE);
        assert_int_equal(client_awaits(reader, cookie), 0);
        reads++;
    }
    assert_true(reads >= 7 * MIB / SLICE);
}

static void what_was_written_in_slices_is_right(void **state)
{
    struct harness *harness = *state;
    struct client *writer = client_on(harness, "mem");
    struct connection *conn = newest_connection(harness);
    g_autofree uint8_t *data = g_malloc(MIB);
    uint64_t cookie;
    unsigned slices = 0;

    fill_pattern(data, 77, MIB);
    cookie = client_writes(writer, 0, 1000, data, MIB);
    for (; conn->write_bytes == 0; slices++) {
        harness_turn(harness);
        assert_true(slices < 1000);
    }

    assert_int_equal(client_awaits(writer, cookie), 0);
    client_reads_back(writer, 1000, data, MIB);
    assert_true(slices >= MIB / SLICE);
    assert_int_equal(conn->in_flight, 0);
}

static void those_with_large_writes_are_not_sliced_among_themselves(void **state)
{
    struct harness *harness = *state;
    g_autofree struct writer *first = writer_new(harness, 160 * KIB);
    g_autofree struct writer *second = writer_new(harness, 160 * KIB);

    for (unsigned i = 0; i < SETTLED_TURNS; i++) {
        writer_goes_on(first);
        writer_goes_on(second);
        harness_turn(harness);
    }

    for (unsigned i = 0; i < 100; i++) {
        writer_goes_on(first);
        writer_goes_on(second);
        harness_turn(harness);
        assert_null(first->conn->writing);
        assert_null(second->conn->writing);
    }
}

static void in_the_middle_of_slices(struct harness *harness, struct client *client,
                                    const uint8_t *data)
{
    struct connection *conn = newest_connection(harness);

    client_writes(client, 0, 0, data, MIB);
    for (unsigned i = 0; conn->writing == NULL; i++) {
        harness_turn(harness);
        assert_true(i < 1000);
    }
    assert_int_equal(conn->in_flight, 1);
}

static void a_write_in_slices_is_answered_before_a_soft_disconnect(void **state)
{
    struct harness *harness = *state;
    struct client *writer = client_on(harness, "mem"), *other;
    g_autofree uint8_t *data = g_malloc(MIB);

    memset(data, 0x5a, MIB);
    in_the_middle_of_slices(harness, writer, data);
    connection_finish(newest_connection(harness), "a test");

    assert_int_equal(client_awaits(writer, 1), 0);
    client_is_closed(writer);
    other = client_on(harness, "mem");
    client_reads_back(other, 0, data, MIB);
}

static void who_is_cut_off_in_the_middle_of_slices_is_forgotten(void **state)
{
    struct harness *harness = *state;
    struct client *writer = client_on(harness, "mem");
    g_autofree uint8_t *data = g_malloc(MIB);
    struct export *export = registry_find(harness->server->registry, "mem");

    memset(data, 0x5a, MIB);
    in_the_middle_of_slices(harness, writer, data);
    assert_true(connection_kick(harness->server->connections,
                                newest_connection(harness)->id, "a test"));

    client_is_closed_at_last(writer);
    harness_wait(harness, harness_has_no_connection, harness);
    assert_int_equal(export->in_flight, 0);
}

/* Requests that have come already are no reason not to look at the other sockets. */
static void who_has_sent_many_requests_has_one_turn_and_then_the_others(void **state)
{
    struct harness *harness = *state;
    struct client *greedy, *reader;
    struct connection *conn;

    greedy = client_on(harness, "mem");
    conn = newest_connection(harness);
    reader = client_on(harness, "mem");
    for (unsigned i = 0; i < 40; i++)
        client_requests(greedy, NBD_CMD_READ, 0, 0, MIB);

    while (conn->requests < 40) {
        uint64_t before = conn->requests;
        uint64_t cookie = client_requests(reader, NBD_CMD_READ, 0, 0, 4096);

        harness_turn(harness);

        assert_in_range(conn->requests - before, 0, 2);
        assert_int_equal(client_awaits(reader, cookie), 0);
    }
}

int main(void)
{
#define A_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        A_TEST(a_small_reader_has_a_turn_for_each_slice_of_a_large_write),
        A_TEST(what_was_written_in_slices_is_right),
        A_TEST(those_with_large_writes_are_not_sliced_among_themselves),
        A_TEST(a_write_in_slices_is_answered_before_a_soft_disconnect),
        A_TEST(who_is_cut_off_in_the_middle_of_slices_is_forgotten),
        A_TEST(who_has_sent_many_requests_has_one_turn_and_then_the_others),
    };

    return cmocka_run_group_tests_name("fairness", tests, NULL, NULL);
}
