/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * request_timeout: what storage does not answer in time fails, and everything else goes on.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "buffer.h"
#include "connection.h"
#include "nbd_client_harness.h"
#include "registry.h"

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)
#define MODERN (NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES)

enum mode { SIMPLE, STRUCTURED, EXTENDED };

struct fixture {
    struct harness *harness;
    char *hold; /* requests of the export "held" wait as long as it exists */
};

static int set_up_with(void **state, const struct harness_settings *settings)
{
    struct fixture *f = g_new0(struct fixture, 1);
    g_autofree char *opts = NULL;

    f->harness = harness_new(settings);
    f->hold = harness_path(f->harness, "hold");
    opts = g_strdup_printf("size=64M hold=%s", f->hold);
    harness_add_export(f->harness, "held", "fault", "held", opts, false);
    harness_add_export(f->harness, "other", "fault", "other", "size=64M thread=true", false);
    *state = f;
    return 0;
}

static int set_up(void **state)
{
    struct harness_settings settings = { .request_timeout_s = 1 };

    return set_up_with(state, &settings);
}

static int set_up_with_little_memory(void **state)
{
    struct harness_settings settings = { .request_timeout_s = 1, .max_inflight_bytes = MIB };

    return set_up_with(state, &settings);
}

static int set_up_without_limit(void **state)
{
    return set_up_with(state, NULL);
}

static void holds(struct fixture *f)
{
    assert_true(g_file_set_contents(f->hold, "", 0, NULL));
}

static bool has_nothing_in_flight(void *harness)
{
    return connection_in_flight(((struct harness *)harness)->server->connections) == 0;
}

static void lets_go(struct fixture *f)
{
    unlink(f->hold);
    harness_wait(f->harness, has_nothing_in_flight, f->harness);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    unlink(f->hold);
    harness_free(f->harness);
    g_free(f->hold);
    g_free(f);
    return 0;
}

static struct client *client_in(struct fixture *f, const char *name, enum mode mode)
{
    struct client *client = client_connect(f->harness);
    uint32_t option = mode == EXTENDED ? NBD_OPT_EXTENDED_HEADERS : NBD_OPT_STRUCTURED_REPLY;

    client_greets(client, MODERN);
    if (mode != SIMPLE) {
        client_sends_option(client, option, NULL, 0);
        client_is_told(client, option, NBD_REP_ACK, NULL);
        client->structured = true;
        client->extended = mode == EXTENDED;
    }
    client_goes(client, name);
    return client;
}

/* The next reply is that this request has taken too long. */
static void times_out(struct client *client, uint64_t cookie)
{
    struct reply reply;

    client_takes_reply(client, &reply);
    assert_int_equal(reply.cookie, cookie);
    assert_int_equal(reply.error, NBD_EIO);
    if (client->structured)
        assert_string_equal(reply.text, "request_timeout is over");
    g_free(reply.data);
}

static uint64_t memory_used(struct fixture *f)
{
    return buffer_pool_used(f->harness->server->buffers);
}

/* ---- Requests ---- */

static void what_is_not_answered_in_time_fails_in_every_way_of_replies(void **state)
{
    for (enum mode mode = SIMPLE; mode <= EXTENDED; mode++) {
        struct fixture *f = *state;
        struct client *client = client_in(f, "held", mode);
        uint8_t bytes[4096] = { 1 };
        uint64_t read, write, flush;

        holds(f);
        read = client_requests(client, NBD_CMD_READ, 0, 0, 4096);
        write = client_writes(client, 0, 4096, bytes, sizeof(bytes));
        flush = client_requests(client, NBD_CMD_FLUSH, 0, 0, 0);

        times_out(client, read);
        times_out(client, write);
        times_out(client, flush);
        assert_int_equal(connection_in_flight(f->harness->server->connections), 3);
        lets_go(f);
        client_has_nothing(client);
        client_is_served(client);
        client_leave(client);
    }
}

static void the_memory_of_a_late_request_is_kept_until_the_storage_ends_it(void **state)
{
    struct fixture *f = *state;
    struct client *client = client_in(f, "held", STRUCTURED);
    g_autofree uint8_t *bytes = g_malloc0(MIB);

    holds(f);
    times_out(client, client_writes(client, 0, 0, bytes, MIB));
    times_out(client, client_requests(client, NBD_CMD_READ, 0, MIB, MIB));
    assert_true(memory_used(f) >= 2 * MIB);
    lets_go(f);
    harness_settle(f->harness);

    assert_int_equal(memory_used(f), 0);
    assert_int_equal(registry_find(f->harness->server->registry, "held")->orphans, 0);
    assert_int_equal(registry_find(f->harness->server->registry, "held")->orphan_bytes, 0);
}

static void the_others_of_the_same_time_are_answered_as_ever(void **state)
{
    struct fixture *f = *state;
    struct client *client = client_in(f, "held", STRUCTURED);
    uint64_t cookies[3];

    holds(f);
    times_out(client, client_requests(client, NBD_CMD_READ, 0, 0, 4096));
    for (unsigned i = 0; i < 3; i++)
        cookies[i] = client_requests(client, NBD_CMD_READ, 0, 0, 4096);
    harness_settle(f->harness);
    unlink(f->hold);

    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(client_awaits(client, cookies[i]), 0);
    client_is_served(client);
}

static void a_slot_is_free_again_when_its_request_was_answered(void **state)
{
    struct fixture *f = *state;
    struct client *client = client_in(f, "held", STRUCTURED);
    uint64_t first, last;
    struct reply reply;

    holds(f);
    first = client_requests(client, NBD_CMD_FLUSH, 0, 0, 0);
    for (unsigned i = 1; i < IN_FLIGHT_MAX; i++)
        client_requests(client, NBD_CMD_FLUSH, 0, 0, 0);
    last = client_requests(client, NBD_CMD_FLUSH, 0, 0, 0); /* waits for a slot */

    for (unsigned i = 0; i < IN_FLIGHT_MAX; i++)
        times_out(client, first + i);
    client_takes_reply(client, &reply);
    assert_int_equal(reply.cookie, last);
    assert_int_equal(reply.error, NBD_EIO);
    last = client_requests(client, NBD_CMD_FLUSH, 0, 0, 0); /* more is not piled up there */
    client_takes_reply(client, &reply);
    assert_int_equal(reply.cookie, last);
    assert_int_equal(reply.error, NBD_EIO);
    assert_non_null(strstr(reply.text, "too many requests"));
    lets_go(f);
    client_is_served(client);
}

static void a_client_that_leaves_meanwhile_leaves_nothing_behind(void **state)
{
    struct fixture *f = *state;
    struct client *client = client_in(f, "held", STRUCTURED);
    struct export *export = registry_find(f->harness->server->registry, "held");

    holds(f);
    times_out(client, client_requests(client, NBD_CMD_READ, 0, 0, MIB));
    client_requests(client, NBD_CMD_READ, 0, 0, 4096); /* while the connection closes */
    harness_settle(f->harness);
    client_leave(client);
    harness_settle(f->harness);
    assert_int_equal(export->connections, 1); /* the storage still has its requests */
    lets_go(f);
    harness_wait(f->harness, harness_has_no_connection, f->harness);

    assert_int_equal(export->connections, 0);
    assert_int_equal(memory_used(f), 0);
}

static void who_says_goodbye_is_let_go_when_everything_is_answered(void **state)
{
    struct fixture *f = *state;
    struct client *client = client_in(f, "held", STRUCTURED);
    uint64_t read;

    holds(f);
    read = client_requests(client, NBD_CMD_READ, 0, 0, 4096);
    client_requests(client, NBD_CMD_DISC, 0, 0, 0);

    times_out(client, read);
    client_is_closed(client);
}

/* ---- Holes ---- */

static void a_question_about_holes_that_takes_too_long_fails(void **state)
{
    struct fixture *f = *state;
    g_autofree char *opts = g_strdup_printf("size=64M extents_hold=%s", f->hold);
    static const uint8_t query[] = "\0\0\0\4slow\0\0\0\1\0\0\0\17base:allocation";
    struct client *client = client_connect(f->harness);
    uint64_t status, read;

    harness_add_export(f->harness, "slow", "fault", "slow", opts, false);
    holds(f);
    client_greets(client, MODERN);
    client_sends_option(client, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
    client_is_told(client, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, NULL);
    client->structured = true;
    client_sends_option(client, NBD_OPT_SET_META_CONTEXT, query, sizeof(query) - 1);
    client_is_told(client, NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT, NULL);
    client_is_told(client, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK, NULL);
    client_goes(client, "slow");
    status = client_requests(client, NBD_CMD_BLOCK_STATUS, 0, 0, MIB);
    read = client_requests(client, NBD_CMD_READ, 0, 0, MIB); /* cold: may be a hole */

    times_out(client, status);
    times_out(client, read);
    lets_go(f);
    client_is_served(client);
    client_has_nothing(client);
    assert_int_equal(memory_used(f), 0);
}

static void a_read_in_parts_fails_once_when_its_parts_take_too_long(void **state)
{
    struct fixture *f = *state;
    g_autofree char *opts = g_strdup_printf("size=1M holes=true hold=%s", f->hold);
    g_autofree uint8_t *zeroes = g_malloc0(256 * KIB);
    struct client *client;
    struct reply reply;
    uint64_t read;

    harness_add_export(f->harness, "holey", "fault", "holey", opts, false);
    client = client_in(f, "holey", STRUCTURED);
    client_reads_back(client, 0, zeroes, 256 * KIB); /* knows the holes now */
    holds(f);
    read = client_requests(client, NBD_CMD_READ, 0, 0, 256 * KIB);
    client_takes_reply(client, &reply);

    assert_int_equal(reply.cookie, read);
    assert_int_equal(reply.error, NBD_EIO);
    assert_int_equal(reply.chunks, 3); /* two holes, then the error */
    g_free(reply.data);
    lets_go(f);
    client_has_nothing(client);
    client_is_served(client);
    assert_int_equal(memory_used(f), 0);
}

/* ---- Others ---- */

static void storage_that_keeps_all_memory_does_not_stop_other_exports(void **state)
{
    struct fixture *f = *state;
    struct client *hog = client_in(f, "held", STRUCTURED);
    struct client *other = client_in(f, "other", STRUCTURED);
    struct export *export = registry_find(f->harness->server->registry, "held");
    g_autofree uint8_t *bytes = g_malloc0(512 * KIB);

    holds(f);
    for (int i = 0; i < 3; i++) /* the third one waits for memory */
        client_writes(hog, 0, 0, bytes, 512 * KIB);
    for (int i = 0; i < 3; i++) {
        struct reply reply;

        client_takes_reply(hog, &reply);
        assert_int_equal(reply.error, NBD_EIO);
    }

    assert_int_equal(export->orphans, 2);
    for (int i = 0; i < 20; i++)
        assert_int_equal(client_awaits(other, client_requests(other, NBD_CMD_READ, 0, 0,
                                                              512 * KIB)), 0);
    lets_go(f);
    client_is_served(hog);
    harness_settle(f->harness);
    assert_int_equal(memory_used(f), 0);
}

/* ---- The limit ---- */

static void sets_limit(struct export *export, unsigned seconds)
{
    struct export_spec spec;

    export_get_spec(export, &spec);
    spec.request_timeout_s = seconds;
    assert_int_equal(export_apply(export, &spec, NULL), 0);
}

static void a_limit_may_come_and_change_while_the_export_is_in_use(void **state)
{
    struct fixture *f = *state;
    struct export *export = registry_find(f->harness->server->registry, "held");
    struct client *client = client_in(f, "held", STRUCTURED);
    uint64_t before, later;

    holds(f);
    before = client_requests(client, NBD_CMD_READ, 0, 0, 4096); /* nobody watches it */
    harness_settle(f->harness);
    assert_null(export->expiry);
    sets_limit(export, 3600);
    later = client_requests(client, NBD_CMD_READ, 0, 4096, 4096);
    harness_settle(f->harness);
    sets_limit(export, 1);
    times_out(client, later);
    sets_limit(export, 0);
    later = client_requests(client, NBD_CMD_READ, 0, 8192, 4096);
    harness_settle(f->harness);
    unlink(f->hold);

    assert_int_equal(client_awaits(client, before), 0);
    assert_int_equal(client_awaits(client, later), 0);
}

int main(void)
{
#define A_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        A_TEST(what_is_not_answered_in_time_fails_in_every_way_of_replies),
        A_TEST(the_memory_of_a_late_request_is_kept_until_the_storage_ends_it),
        A_TEST(the_others_of_the_same_time_are_answered_as_ever),
        A_TEST(a_slot_is_free_again_when_its_request_was_answered),
        A_TEST(a_client_that_leaves_meanwhile_leaves_nothing_behind),
        A_TEST(who_says_goodbye_is_let_go_when_everything_is_answered),
        A_TEST(a_question_about_holes_that_takes_too_long_fails),
        A_TEST(a_read_in_parts_fails_once_when_its_parts_take_too_long),
        cmocka_unit_test_setup_teardown(
            storage_that_keeps_all_memory_does_not_stop_other_exports,
            set_up_with_little_memory, tear_down),
        cmocka_unit_test_setup_teardown(
            a_limit_may_come_and_change_while_the_export_is_in_use, set_up_without_limit,
            tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
