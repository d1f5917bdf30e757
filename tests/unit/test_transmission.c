/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The transmission phase: each command, its flags and its errors, and how requests and
 * payloads may be cut into pieces. With simple, structured and extended replies.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <endian.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "connection.h"
#include "nbd_client_harness.h"
#include "registry.h"

#define DISK_BYTES (UINT64_C(1) << 20)
#define MIB (UINT64_C(1) << 20)

enum replies { SIMPLE, STRUCTURED, EXTENDED, N_REPLIES };

static int set_up(void **state)
{
    struct harness *harness = harness_new(NULL);

    harness_add_export(harness, "mem", "mem", "one", "size=1M", false);
    harness_add_export(harness, "iso", "mem", "iso", "size=1M", true);
    harness_add_export(harness, "large", "mem", "large", "size=256M", false);
    harness_add_export(harness, "thread", "fault", "t", "size=1M thread=true", false);
    harness_add_export(harness, "direct", "fault", "d", "size=1M", false);
    *state = harness;
    return 0;
}

static int tear_down(void **state)
{
    harness_free(*state);
    return 0;
}

static struct client *client_with(struct harness *harness, const char *name,
                                  enum replies replies)
{
    static const uint32_t options[] = { [STRUCTURED] = NBD_OPT_STRUCTURED_REPLY,
                                        [EXTENDED] = NBD_OPT_EXTENDED_HEADERS };
    struct client *client = client_connect(harness);

    client_greets(client, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
    if (replies != SIMPLE) {
        client_sends_option(client, options[replies], "", 0);
        client_is_told(client, options[replies], NBD_REP_ACK, NULL);
    }
    client->structured = replies != SIMPLE;
    client->extended = replies == EXTENDED;
    client_goes(client, name);
    return client;
}

/* ---- Counters ---- */

/* Whichever way a request is answered, at once or from a thread, it is counted once and its
 * time is taken once. */
static void each_request_is_counted_and_timed_once(void **state)
{
    static const char *const exports[] = { "mem", "thread", "direct" };
    uint8_t data[70000] = { 1 };

    for (size_t e = 0; e < G_N_ELEMENTS(exports); e++) {
        struct client *client = client_on(*state, exports[e]);
        struct export *export = registry_find(client->harness->server->registry, exports[e]);
        const struct export_counters *counters = &export->tally.now;
        const struct latencies *latencies = &export->tally.latencies->now;

        for (int i = 0; i < 3; i++) {
            client_awaits(client, client_writes(client, 0, 0, data, sizeof(data)));
            client_awaits(client, client_writes(client, 0, 0, data, 512));
            client_reads_back(client, 0, data, sizeof(data));
            client_awaits(client, client_requests(client, NBD_CMD_FLUSH, 0, 0, 0));
            client_awaits(client, client_requests(client, NBD_CMD_TRIM, 0, 0, 4096));
            client_awaits(client, client_requests(client, NBD_CMD_WRITE_ZEROES, 0, 0, 8192));
        }
        client_awaits(client, client_requests(client, NBD_CMD_READ, 0, DISK_BYTES, 512));
        assert_int_equal(counters->requests[NBD_CMD_READ], 4);
        assert_int_equal(counters->requests[NBD_CMD_WRITE], 6);
        assert_int_equal(counters->requests[NBD_CMD_FLUSH], 3);
        assert_int_equal(counters->bytes[BYTES_READ], 3 * sizeof(data));
        assert_int_equal(counters->bytes[BYTES_WRITTEN], 3 * (sizeof(data) + 512));
        assert_int_equal(counters->bytes[BYTES_TRIMMED], 3 * 4096);
        assert_int_equal(counters->bytes[BYTES_ZEROED], 3 * 8192);
        assert_int_equal(counters->errors[ERROR_EINVAL], 1);
        assert_int_equal(counters_errors(counters), 1);
        assert_int_equal(histogram_count(&latencies->of[LATENCY_READ]), 3);
        assert_int_equal(histogram_count(&latencies->of[LATENCY_WRITE]), 6);
        assert_int_equal(histogram_count(&latencies->of[LATENCY_FLUSH]), 3);
        assert_int_equal(histogram_count(&latencies->of[LATENCY_ZERO]), 6);
        /* The test's own clock bounds what can have been measured. */
        assert_true(latencies->of[LATENCY_READ].sum_ns > 0);
        assert_true(latencies->of[LATENCY_READ].sum_ns < UINT64_C(60000000000));
    }
}

/* ---- Commands that succeed ---- */

static void what_was_written_is_read_back(void **state)
{
    static const char *const exports[] = { "mem", "thread", "direct" };
    uint8_t data[70000];

    fill_pattern(data, 7, sizeof(data));
    for (size_t e = 0; e < G_N_ELEMENTS(exports); e++)
        for (enum replies replies = SIMPLE; replies < N_REPLIES; replies++) {
            struct client *client = client_with(*state, exports[e], replies);
            static const size_t lengths[] = { 1, 512, 4096, 65536, 70000 };

            for (size_t i = 0; i < G_N_ELEMENTS(lengths); i++) {
                uint64_t at = 100 * (e + replies + i);

                assert_int_equal(
                    client_awaits(client, client_writes(client, 0, at, data, lengths[i])), 0);
                client_reads_back(client, at, data, lengths[i]);
            }
        }
}

static void the_first_and_the_last_byte_can_be_reached(void **state)
{
    struct client *client = client_on(*state, "mem");

    assert_int_equal(client_awaits(client, client_writes(client, 0, 0, "a", 1)), 0);
    assert_int_equal(client_awaits(client, client_writes(client, 0, DISK_BYTES - 1, "z", 1)),
                     0);

    client_reads_back(client, 0, "a", 1);
    client_reads_back(client, DISK_BYTES - 1, "z", 1);
}

static void trim_and_zeroes_clear_what_was_written(void **state)
{
    static const uint8_t zeroes[8192];
    static const struct { uint16_t type, flags; } clear[] = {
        { NBD_CMD_TRIM, 0 }, { NBD_CMD_TRIM, NBD_CMD_FLAG_FUA }, { NBD_CMD_WRITE_ZEROES, 0 },
        { NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE },
        { NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO },
    };
    uint8_t data[8192];

    fill_pattern(data, 0, sizeof(data));
    for (enum replies replies = SIMPLE; replies < N_REPLIES; replies++) {
        struct client *client = client_with(*state, "mem", replies);

        for (size_t i = 0; i < G_N_ELEMENTS(clear); i++) {
            client_awaits(client, client_writes(client, 0, 4096, data, sizeof(data)));
            assert_int_equal(client_awaits(client, client_requests(client, clear[i].type,
                                                                   clear[i].flags, 4096,
                                                                   sizeof(data))), 0);
            client_reads_back(client, 4096, zeroes, sizeof(zeroes));
        }
    }
}

static void flush_cache_and_fua_succeed(void **state)
{
    static const char *const exports[] = { "mem", "thread" };

    for (size_t e = 0; e < G_N_ELEMENTS(exports); e++) {
        struct client *client = client_on(*state, exports[e]);

        assert_int_equal(client_awaits(client,
                                       client_requests(client, NBD_CMD_FLUSH, 0, 0, 0)), 0);
        assert_int_equal(client_awaits(client, client_requests(client, NBD_CMD_CACHE, 0, 512,
                                                               65536)), 0);
        assert_int_equal(client_awaits(client, client_writes(client, NBD_CMD_FLAG_FUA, 0,
                                                             "durable", 7)), 0);
        client_reads_back(client, 0, "durable", 7);
    }
}

static void where_sync_is_set_each_change_waits_for_a_flush(void **state)
{
    struct harness *harness = *state;
    struct export *export = harness_add_export(harness, "flushless", "fault", "f",
                                               "size=1M op=flush error=EIO", false);
    struct client *client = client_on(harness, "flushless");

    assert_int_equal(client_awaits(client, client_writes(client, 0, 0, "x", 1)), 0);
    export->dev.caps &= (uint32_t)~NBD_CAP_FUA; /* a flush follows instead */
    export->sync = true;

    assert_int_equal(client_awaits(client, client_writes(client, 0, 0, "x", 1)), NBD_EIO);
    assert_int_equal(client_awaits(client, client_requests(client, NBD_CMD_WRITE_ZEROES, 0, 0,
                                                           4096)), NBD_EIO);
    assert_int_equal(client_awaits(client, client_requests(client, NBD_CMD_CACHE, 0, 0, 512)),
                     0);
}

static void flush_ignores_offset_and_length(void **state)
{
    struct client *client = client_on(*state, "mem");

    assert_int_equal(client_awaits(client,
                                   client_requests(client, NBD_CMD_FLUSH, 0, UINT64_MAX,
                                                   UINT32_MAX)), 0);
}

static void a_request_for_no_bytes_succeeds(void **state)
{
    static const uint16_t types[] = { NBD_CMD_READ, NBD_CMD_WRITE, NBD_CMD_TRIM, NBD_CMD_CACHE,
                                      NBD_CMD_WRITE_ZEROES };

    for (enum replies replies = SIMPLE; replies < N_REPLIES; replies++) {
        struct client *client = client_with(*state, "thread", replies);

        for (size_t i = 0; i < G_N_ELEMENTS(types); i++) {
            uint16_t flags = replies == EXTENDED && types[i] == NBD_CMD_WRITE
                                 ? NBD_CMD_FLAG_PAYLOAD_LEN : 0;

            assert_int_equal(client_awaits(client, client_requests(client, types[i], flags,
                                                                   DISK_BYTES, 0)), 0);
        }
    }
}

static void zeroes_of_the_whole_disk_are_one_request(void **state)
{
    static const uint8_t zeroes[4096];
    struct client *client = client_on(*state, "large");

    client_awaits(client, client_writes(client, 0, 100 * MIB, "x", 1));
    assert_int_equal(client_awaits(client, client_requests(client, NBD_CMD_WRITE_ZEROES, 0, 0,
                                                           256 * MIB)), 0);

    client_reads_back(client, 100 * MIB, zeroes, sizeof(zeroes));
}

/* The plain handler blocks, and has neither FUA nor zeroes nor trim of its own. */
static void what_a_handler_lacks_is_done_for_it(void **state)
{
    static const uint8_t zeroes[600000];
    struct harness *harness = *state;
    g_autofree char *path = harness_path(harness, "disk");
    g_autofree char *bytes = g_malloc(MIB);
    struct client *client;

    fill_pattern(bytes, 0, MIB);
    assert_true(g_file_set_contents(path, bytes, (gssize)MIB, NULL));
    harness_add_export(harness, "plain", "plain", path, NULL, false);
    client = client_on(harness, "plain");
    client_reads_back(client, 5, bytes + 5, 100000);
    assert_int_equal(client_awaits(client, client_writes(client, NBD_CMD_FLAG_FUA, 0, "x", 1)),
                     0);
    assert_int_equal(client_awaits(client, client_requests(client, NBD_CMD_WRITE_ZEROES,
                                                           NBD_CMD_FLAG_FUA, 1000,
                                                           sizeof(zeroes))), 0);

    client_reads_back(client, 0, "x", 1);
    client_reads_back(client, 1000, zeroes, sizeof(zeroes));
    client_reads_back(client, 1000 + sizeof(zeroes), bytes + 1000 + sizeof(zeroes), 4096);
    assert_int_equal(client_awaits(client, client_requests(client, NBD_CMD_TRIM, 0, 0, 4096)),
                     NBD_EINVAL);
    assert_int_equal(client_awaits(client, client_requests(client, NBD_CMD_WRITE_ZEROES,
                                                           NBD_CMD_FLAG_FAST_ZERO, 0, 4096)),
                     NBD_EINVAL);
}

static void a_blocking_handler_answers_each_of_many_requests(void **state)
{
    struct harness *harness = *state;
    g_autofree char *path = harness_path(harness, "disk");
    g_autofree char *bytes = g_malloc(MIB);
    struct client *client;
    struct reply reply;

    fill_pattern(bytes, 0, MIB);
    assert_true(g_file_set_contents(path, bytes, (gssize)MIB, NULL));
    harness_add_export(harness, "plain", "plain", path, NULL, false);
    client = client_on(harness, "plain");
    for (uint64_t i = 0; i < 200; i++)
        client_requests(client, NBD_CMD_READ, 0, i * 4096, 4096);

    for (int i = 0; i < 200; i++) {
        client_takes_reply(client, &reply);
        assert_int_equal(reply.error, 0);
        is_pattern(reply.data, (reply.cookie - 1) * 4096, 4096);
        g_free(reply.data);
    }
}

/* ---- Refusals ---- */

struct refusal_case {
    uint16_t type, flags;
    uint64_t offset, length;
    uint32_t error;
};

static void are_refused(struct client *client, const struct refusal_case *cases, size_t n)
{
    static uint8_t payload[65536];

    for (size_t i = 0; i < n; i++) {
        const struct refusal_case *c = &cases[i];
        uint64_t cookie = c->type == NBD_CMD_WRITE
                              ? client_writes(client, c->flags, c->offset, payload, c->length)
                              : client_requests(client, c->type, c->flags, c->offset,
                                                c->length);
        uint32_t error = client_awaits(client, cookie);

        if (error != c->error)
            fail_msg("command %u, flags 0x%x, offset %" PRIu64 ", length %" PRIu64
                     ": error %u instead of %u", c->type, c->flags, c->offset, c->length,
                     error, c->error);
    }
    client_is_served(client);
}

static void a_range_that_leaves_the_export_is_refused(void **state)
{
    static const struct refusal_case cases[] = {
        { NBD_CMD_READ, 0, DISK_BYTES, 1, NBD_EINVAL },
        { NBD_CMD_READ, 0, DISK_BYTES - 511, 512, NBD_EINVAL },
        { NBD_CMD_READ, 0, 0, DISK_BYTES + 1, NBD_EINVAL },
        { NBD_CMD_READ, 0, UINT64_MAX, 1, NBD_EINVAL },
        { NBD_CMD_READ, 0, UINT64_MAX - 511, 512, NBD_EINVAL },
        { NBD_CMD_READ, 0, UINT64_MAX - 511, 1024, NBD_EINVAL },
        { NBD_CMD_READ, 0, UINT64_C(1) << 63, UINT32_MAX, NBD_EINVAL },
        { NBD_CMD_READ, 0, DISK_BYTES + 1, 0, NBD_EINVAL },
        { NBD_CMD_WRITE, 0, DISK_BYTES, 1, NBD_ENOSPC },
        { NBD_CMD_WRITE, 0, DISK_BYTES - 1, 65536, NBD_ENOSPC },
        { NBD_CMD_WRITE, 0, UINT64_MAX, 2, NBD_ENOSPC },
        { NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, UINT64_MAX - 100, 4096, NBD_ENOSPC },
        { NBD_CMD_TRIM, 0, DISK_BYTES - 1, 2, NBD_EINVAL },
        { NBD_CMD_TRIM, 0, UINT64_MAX, UINT32_MAX, NBD_EINVAL },
        { NBD_CMD_CACHE, 0, DISK_BYTES, 1, NBD_EINVAL },
        { NBD_CMD_WRITE_ZEROES, 0, DISK_BYTES - 1, 2, NBD_ENOSPC },
        { NBD_CMD_WRITE_ZEROES, 0, UINT64_MAX - 1, 4096, NBD_ENOSPC },
    };

    for (enum replies replies = SIMPLE; replies < N_REPLIES; replies++)
        are_refused(client_with(*state, "mem", replies), cases, G_N_ELEMENTS(cases));
}

static void unknown_commands_and_flags_are_refused(void **state)
{
    static const struct refusal_case cases[] = {
        { 99, 0, 0, 512, NBD_EINVAL },
        { NBD_CMD_RESIZE, 0, 0, 512, NBD_EINVAL },
        { UINT16_MAX, 0, 0, 0, NBD_EINVAL },
        { NBD_CMD_BLOCK_STATUS, 0, 0, 512, NBD_EINVAL },
        { NBD_CMD_READ, 1 << 9, 0, 512, NBD_EINVAL },
        { NBD_CMD_READ, NBD_CMD_FLAG_NO_HOLE, 0, 512, NBD_EINVAL },
        { NBD_CMD_WRITE, NBD_CMD_FLAG_NO_HOLE, 0, 512, NBD_EINVAL },
        { NBD_CMD_WRITE, 1 << 15, 0, 65536, NBD_EINVAL },
        { NBD_CMD_TRIM, NBD_CMD_FLAG_FAST_ZERO, 0, 512, NBD_EINVAL },
        { NBD_CMD_FLUSH, NBD_CMD_FLAG_NO_HOLE, 0, 0, NBD_EINVAL },
        { NBD_CMD_CACHE, NBD_CMD_FLAG_REQ_ONE, 0, 512, NBD_EINVAL },
        { NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_DF, 0, 512, NBD_EINVAL },
    };

    for (enum replies replies = SIMPLE; replies < N_REPLIES; replies++)
        are_refused(client_with(*state, "mem", replies), cases, G_N_ELEMENTS(cases));
}

static void df_is_for_reads_after_structured_reply(void **state)
{
    static const struct refusal_case without = { NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 512,
                                                 NBD_EINVAL };
    static const struct refusal_case with = { NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 512, 0 };

    are_refused(client_with(*state, "mem", SIMPLE), &without, 1);
    are_refused(client_with(*state, "mem", STRUCTURED), &with, 1);
    are_refused(client_with(*state, "mem", EXTENDED), &with, 1);
}

static void a_read_only_export_refuses_every_change(void **state)
{
    static const struct refusal_case cases[] = {
        { NBD_CMD_WRITE, 0, 0, 512, NBD_EPERM },
        { NBD_CMD_WRITE, 0, 0, 65536, NBD_EPERM },
        { NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 0, 512, NBD_EPERM },
        { NBD_CMD_WRITE, 0, DISK_BYTES, 512, NBD_EPERM },
        { NBD_CMD_TRIM, 0, 0, 512, NBD_EPERM },
        { NBD_CMD_WRITE_ZEROES, 0, 0, 512, NBD_EPERM },
        { NBD_CMD_FLUSH, 0, 0, 0, 0 },
        { NBD_CMD_CACHE, 0, 0, 512, 0 },
        { NBD_CMD_READ, NBD_CMD_FLAG_FUA, 0, 512, 0 },
    };

    for (enum replies replies = SIMPLE; replies < N_REPLIES; replies++)
        are_refused(client_with(*state, "iso", replies), cases, G_N_ELEMENTS(cases));
}

static void a_read_longer_than_the_maximum_is_refused(void **state)
{
    static const struct refusal_case simple = { NBD_CMD_READ, 0, 0, 64 * MIB + 1, NBD_EINVAL };
    static const struct refusal_case others = { NBD_CMD_READ, 0, 0, 64 * MIB + 1,
                                                NBD_EOVERFLOW };

    are_refused(client_with(*state, "large", SIMPLE), &simple, 1);
    are_refused(client_with(*state, "large", STRUCTURED), &others, 1);
    are_refused(client_with(*state, "large", EXTENDED), &others, 1);
}

static void a_write_longer_than_the_maximum_is_refused_and_its_payload_skipped(void **state)
{
    struct client *client = client_on(*state, "large");
    g_autofree char *data = g_malloc0(65 * MIB);

    assert_int_equal(client_awaits(client, client_writes(client, 0, 0, data, 65 * MIB)),
                     NBD_EINVAL);
    client_is_served(client);
}

static void an_extended_payload_longer_than_the_maximum_ends_the_connection(void **state)
{
    struct client *client = client_with(*state, "large", EXTENDED);

    client_requests(client, NBD_CMD_WRITE, NBD_CMD_FLAG_PAYLOAD_LEN, 0, 64 * MIB + 1);

    client_is_closed(client);
}

static void an_extended_length_of_64_bits_is_taken_for_what_has_no_payload(void **state)
{
    static const struct refusal_case cases[] = {
        { NBD_CMD_WRITE_ZEROES, 0, 0, UINT64_C(1) << 40, NBD_ENOSPC },
        { NBD_CMD_TRIM, 0, 0, UINT64_MAX, NBD_EINVAL },
        { NBD_CMD_READ, 0, 0, UINT64_MAX, NBD_EINVAL },
        { NBD_CMD_READ, 0, UINT64_MAX, UINT64_MAX, NBD_EINVAL },
        { NBD_CMD_CACHE, 0, 1, UINT64_MAX, NBD_EINVAL },
        { NBD_CMD_TRIM, 0, 0, 256 * MIB, 0 },
    };

    are_refused(client_with(*state, "large", EXTENDED), cases, G_N_ELEMENTS(cases));
}

static void a_wrong_magic_number_ends_the_connection(void **state)
{
    for (enum replies replies = SIMPLE; replies < N_REPLIES; replies++) {
        struct client *client = client_with(*state, "mem", replies);
        uint8_t header[32];
        size_t length = client_puts_header(client, header, NBD_CMD_READ, 0, 0, 512);

        header[3] ^= 1;
        client_sends(client, header, length);

        client_is_closed(client);
    }
}

static void headers_of_the_other_kind_end_the_connection(void **state)
{
    struct client *client = client_with(*state, "mem", STRUCTURED);

    client->extended = true;
    client_requests(client, NBD_CMD_READ, 0, 0, 512);

    client_is_closed(client);
}

/* ---- Failures of the storage ---- */

static void failures_of_the_storage_have_their_own_error(void **state)
{
    static const struct { const char *opts; uint32_t error; } cases[] = {
        { "error=EPERM", NBD_EPERM }, { "error=EIO", NBD_EIO }, { "error=ENOMEM", NBD_ENOMEM },
        { "error=EINVAL", NBD_EINVAL }, { "error=ENOSPC", NBD_ENOSPC },
        { "error=ENOENT", NBD_EIO }, { "error=EOVERFLOW", NBD_EOVERFLOW },
        { "error=ENOTSUP", NBD_EINVAL }, { "error=ESHUTDOWN", NBD_ESHUTDOWN },
        { "error=122", NBD_ENOSPC }, { "error=30", NBD_EPERM },
        { "error=EIO thread=true", NBD_EIO },
    };
    struct harness *harness = *state;

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *name = g_strdup_printf("bad%zu", i);
        g_autofree char *opts = g_strdup_printf("size=1M %s", cases[i].opts);

        harness_add_export(harness, name, "fault", name, opts, false);
        for (enum replies replies = SIMPLE; replies < N_REPLIES; replies++) {
            struct client *client = client_with(harness, name, replies);

            assert_int_equal(client_awaits(client, client_requests(client, NBD_CMD_READ, 0, 0,
                                                                   4096)), cases[i].error);
            assert_int_equal(client_awaits(client, client_writes(client, 0, 0, "abc", 3)),
                             cases[i].error);
            assert_int_equal(client_awaits(client, client_requests(client, NBD_CMD_FLUSH, 0, 0,
                                                                   0)), cases[i].error);
        }
    }
}

static void a_failing_storage_does_not_flood_the_log(void **state)
{
    struct harness *harness = *state;
    struct client *client;

    harness_add_export(harness, "bad", "fault", "bad", "size=1M error=EIO", false);
    client = client_on(harness, "bad");
    for (int i = 0; i < 1000; i++)
        client_awaits(client, client_requests(client, NBD_CMD_READ, 0, 0, 512));

    assert_in_range(harness_count_in_log(harness, "read of 512 at 0"), 1, 12);
}

static void error_chunks_say_what_failed(void **state)
{
    struct client *client = client_with(*state, "mem", STRUCTURED);
    struct reply reply;

    client_requests(client, NBD_CMD_READ, 0, DISK_BYTES, 512);
    client_takes_reply(client, &reply);

    assert_int_equal(reply.error, NBD_EINVAL);
    assert_non_null(strstr(reply.text, "leaves the export"));
}

/* ---- Pieces ---- */

static void a_write_may_be_split_at_every_byte(void **state)
{
    for (enum replies replies = SIMPLE; replies < N_REPLIES; replies++) {
        struct client *client = client_with(*state, "mem", replies);
        uint8_t message[32 + 40];
        size_t header, total;

        for (size_t at = 1; ; at++) {
            header = client_puts_header(client, message, NBD_CMD_WRITE,
                                        client->extended ? NBD_CMD_FLAG_PAYLOAD_LEN : 0,
                                        at * 50, 40);
            total = header + 40;
            if (at == total)
                break;
            fill_pattern(message + header, at, 40);
            client_sends(client, message, at);
            harness_turn(client->harness);
            client_sends(client, message + at, total - at);
            assert_int_equal(client_awaits(client, client->last_cookie), 0);
            client_reads_back(client, at * 50, message + header, 40);
        }
    }
}

static void requests_may_come_one_byte_at_a_time(void **state)
{
    struct client *client = client_on(*state, "thread");
    uint8_t message[32 + 100];
    size_t n = client_puts_header(client, message, NBD_CMD_WRITE, 0, 77, 100);

    fill_pattern(message + n, 0, 100);
    client_sends_bytewise(client, message, n + 100);

    assert_int_equal(client_awaits(client, client->last_cookie), 0);
    client_reads_back(client, 77, message + n, 100);
}

static void five_hundred_requests_in_one_piece_are_all_answered(void **state)
{
    static const char *const exports[] = { "mem", "thread", "direct" };
    uint8_t content[4096];

    fill_pattern(content, 0, sizeof(content));
    for (size_t e = 0; e < G_N_ELEMENTS(exports); e++)
        for (enum replies replies = SIMPLE; replies < N_REPLIES; replies++) {
            struct client *client = client_with(*state, exports[e], replies);
            GByteArray *all = g_byte_array_new();
            bool seen[500] = { false };
            uint64_t first;

            assert_int_equal(client_awaits(client, client_writes(client, 0, 0, content,
                                                                 sizeof(content))), 0);
            first = client->last_cookie + 1;
            for (unsigned i = 0; i < 500; i++) {
                uint8_t header[32];

                g_byte_array_append(all, header,
                                    (guint)client_puts_header(client, header, NBD_CMD_READ, 0,
                                                              i, 3000));
            }
            client_sends(client, all->data, all->len);
            for (unsigned i = 0; i < 500; i++) {
                struct reply reply;

                client_takes_reply(client, &reply);
                assert_in_range(reply.cookie, first, first + 499);
                assert_false(seen[reply.cookie - first]);
                seen[reply.cookie - first] = true;
                assert_int_equal(reply.error, 0);
                is_pattern(reply.data, reply.cookie - first, 3000);
                g_free(reply.data);
            }
            g_byte_array_free(all, TRUE);
        }
}

static void writes_and_refused_writes_may_be_mixed_in_one_piece(void **state)
{
    struct client *client = client_on(*state, "mem");
    GByteArray *all = g_byte_array_new();
    uint8_t header[32], data[20000];

    fill_pattern(data, 0, sizeof(data));
    for (unsigned i = 0; i < 30; i++) {
        uint64_t offset = i % 3 == 2 ? DISK_BYTES : i * 20000;

        g_byte_array_append(all, header, (guint)client_puts_header(client, header,
                                                                   NBD_CMD_WRITE, 0, offset,
                                                                   sizeof(data)));
        g_byte_array_append(all, data, sizeof(data));
    }
    client_sends(client, all->data, all->len);

    for (unsigned i = 0; i < 30; i++) {
        struct reply reply;

        client_takes_reply(client, &reply);
        assert_int_equal(reply.error, (reply.cookie - 1) % 3 == 2 ? NBD_ENOSPC : 0);
    }
    client_reads_back(client, 28 * 20000, data, sizeof(data));
    g_byte_array_free(all, TRUE);
}

static void a_large_write_may_come_in_pieces(void **state)
{
    static const struct { uint64_t length, piece; } cases[] = {
        { MIB, 1000 }, { MIB, 65536 }, { MIB, MIB }, { 64 * MIB, 700001 },
        { 64 * MIB, 64 * MIB }, { 131073, 4096 }, { 262144, 262144 - 28 },
    };
    struct harness *harness = *state;

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct client *client = client_on(harness, "large");
        g_autofree uint8_t *data = g_malloc(cases[i].length);
        uint64_t cookie;

        fill_pattern(data, i, cases[i].length);
        cookie = client_requests(client, NBD_CMD_WRITE, 0, 4096, cases[i].length);
        for (uint64_t at = 0; at < cases[i].length; at += cases[i].piece) {
            client_sends(client, data + at, MIN(cases[i].piece, cases[i].length - at));
            if (cases[i].piece < 100000)
                harness_turn(harness);
        }
        assert_int_equal(client_awaits(client, cookie), 0);
        client_reads_back(client, 4096, data, cases[i].length);
        client_leave(client);
    }
}

static void the_request_behind_a_large_write_is_seen(void **state)
{
    struct client *client = client_on(*state, "large");
    g_autofree uint8_t *all = g_malloc(3 * (28 + 300000));
    size_t at = 0;

    for (unsigned i = 0; i < 3; i++) {
        at += client_puts_header(client, all + at, NBD_CMD_WRITE, 0, i * 300000, 300000);
        fill_pattern(all + at, i, 300000);
        at += 300000;
    }
    client_sends(client, all, at);

    for (unsigned i = 1; i <= 3; i++)
        assert_int_equal(client_awaits(client, i), 0);
    client_reads_back(client, 600000, all + 2 * (28 + 300000) + 28, 300000);
}

/* ---- Structured replies ---- */

static void a_structured_read_is_one_data_chunk_with_its_offset(void **state)
{
    struct client *client = client_with(*state, "mem", STRUCTURED);
    uint8_t wire[20 + 8 + 512];

    client_requests(client, NBD_CMD_READ, 0, 0x1234, 512);
    client_receives(client, wire, sizeof(wire));

    assert_memory_equal(wire, "\x66\x8e\x33\xef\0\1\0\1\0\0\0\0\0\0\0\1\0\0\2\x08", 20);
    assert_memory_equal(wire + 20, "\0\0\0\0\0\0\x12\x34", 8);
}

static void a_simple_read_is_a_header_and_the_data(void **state)
{
    struct client *client = client_with(*state, "mem", SIMPLE);
    uint8_t wire[16 + 512];

    client_requests(client, NBD_CMD_READ, 0, 0, 512);
    client_receives(client, wire, sizeof(wire));

    assert_memory_equal(wire, "\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\0\1", 16);
}

static void an_extended_reply_carries_the_offset_of_its_request(void **state)
{
    struct client *client = client_with(*state, "mem", EXTENDED);
    uint8_t wire[32];

    client_requests(client, NBD_CMD_TRIM, 0, 0x1000, 512);
    client_receives(client, wire, sizeof(wire));

    assert_memory_equal(wire, "\x6e\x8a\x27\x8c\0\1\0\0\0\0\0\0\0\0\0\1"
                              "\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\0\0", 32);
}

static void the_cookie_comes_back_as_it_was(void **state)
{
    struct client *client = client_on(*state, "mem");
    struct nbd_simple_reply reply;

    client->last_cookie = UINT64_C(0xfedcba9876543210) - 1;
    client_requests(client, NBD_CMD_FLUSH, 0, 0, 0);
    client_receives(client, &reply, sizeof(reply));

    assert_true(be64toh(reply.cookie) == UINT64_C(0xfedcba9876543210));
}

/* ---- BLOCK_STATUS ---- */

static void selects_context(struct client *client, const char *export, const char *context)
{
    GByteArray *data = g_byte_array_new();
    uint32_t length = htobe32((uint32_t)strlen(export)), n = htobe32(1);
    uint32_t context_length = htobe32((uint32_t)strlen(context));

    g_byte_array_append(data, (uint8_t *)&length, 4);
    g_byte_array_append(data, (const uint8_t *)export, (guint)strlen(export));
    g_byte_array_append(data, (uint8_t *)&n, 4);
    g_byte_array_append(data, (uint8_t *)&context_length, 4);
    g_byte_array_append(data, (const uint8_t *)context, (guint)strlen(context));
    client_sends_option(client, NBD_OPT_SET_META_CONTEXT, data->data, data->len);
    client_is_told(client, NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT, context);
    client_is_told(client, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK, NULL);
    g_byte_array_free(data, TRUE);
}

static struct client *client_with_allocation(struct harness *harness, const char *name)
{
    struct client *client = client_connect(harness);

    client_greets(client, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
    client_sends_option(client, NBD_OPT_STRUCTURED_REPLY, "", 0);
    client_is_told(client, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, NULL);
    client->structured = true;
    selects_context(client, name, "base:allocation");
    client_goes(client, name);
    return client;
}

static void block_status_tells_holes_from_data(void **state)
{
    struct harness *harness = *state;
    g_autofree char *path = harness_path(harness, "sparse");
    g_autofree char *data = g_strnfill(65536, 'x');
    struct client *client;
    struct reply reply;

    assert_true(g_file_set_contents(path, data, 65536, NULL));
    assert_int_equal(truncate(path, (off_t)MIB), 0);
    harness_add_export(harness, "sparse", "file", path, NULL, false);
    client = client_with_allocation(harness, "sparse");
    client_requests(client, NBD_CMD_BLOCK_STATUS, 0, 0, MIB);
    client_takes_reply(client, &reply);

    assert_int_equal(reply.error, 0);
    assert_int_equal(reply.length, 4 + 2 * 8);
    assert_memory_equal(reply.data + 4, "\0\1\0\0\0\0\0\0\0\x0f\0\0\0\0\0\3", 16);
    g_free(reply.data);
    client_requests(client, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE, 4096, 8192);
    client_takes_reply(client, &reply);
    assert_int_equal(reply.length, 4 + 8);
    assert_memory_equal(reply.data + 4, "\0\0\x20\0\0\0\0\0", 8);
    g_free(reply.data);
}

static void block_status_without_a_range_is_refused(void **state)
{
    static const struct refusal_case cases[] = {
        { NBD_CMD_BLOCK_STATUS, 0, 0, 0, NBD_EINVAL },
        { NBD_CMD_BLOCK_STATUS, 0, DISK_BYTES, 1, NBD_EINVAL },
        { NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_FUA, 0, 512, NBD_EINVAL },
        { NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_PAYLOAD_LEN, 0, 512, NBD_EINVAL },
    };

    are_refused(client_with_allocation(*state, "mem"), cases, G_N_ELEMENTS(cases));
}

static void holes_in_a_structured_read_read_as_zeroes(void **state)
{
    struct harness *harness = *state;
    g_autofree char *path = harness_path(harness, "sparse");
    g_autofree char *expected = g_malloc0(MIB);
    struct client *client;
    struct reply reply;

    memset(expected + 300000, 'x', 65536);
    assert_true(g_file_set_contents(path, expected, (gssize)MIB, NULL));
    assert_int_equal(truncate(path, 0), 0);
    assert_int_equal(truncate(path, (off_t)MIB), 0);
    harness_add_export(harness, "sparse", "file", path, NULL, false);
    client = client_with_allocation(harness, "sparse");
    client_awaits(client, client_writes(client, 0, 300000, expected + 300000, 65536));
    client_requests(client, NBD_CMD_BLOCK_STATUS, 0, 0, MIB); /* fills the cache of extents */
    client_takes_reply(client, &reply);
    g_free(reply.data);

    client_reads_back(client, 0, expected, MIB);
    client_reads_back(client, 600000, expected + 600000, 100000);
    client_awaits(client, client_writes(client, 0, 700000, "y", 1));
    expected[700000] = 'y';
    client_reads_back(client, 600000, expected + 600000, 200000);
}

int main(void)
{
#define A_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        A_TEST(each_request_is_counted_and_timed_once),
        A_TEST(what_was_written_is_read_back),
        A_TEST(the_first_and_the_last_byte_can_be_reached),
        A_TEST(trim_and_zeroes_clear_what_was_written),
        A_TEST(flush_cache_and_fua_succeed),
        A_TEST(where_sync_is_set_each_change_waits_for_a_flush),
        A_TEST(flush_ignores_offset_and_length),
        A_TEST(a_request_for_no_bytes_succeeds),
        A_TEST(zeroes_of_the_whole_disk_are_one_request),
        A_TEST(what_a_handler_lacks_is_done_for_it),
        A_TEST(a_blocking_handler_answers_each_of_many_requests),
        A_TEST(a_range_that_leaves_the_export_is_refused),
        A_TEST(unknown_commands_and_flags_are_refused),
        A_TEST(df_is_for_reads_after_structured_reply),
        A_TEST(a_read_only_export_refuses_every_change),
        A_TEST(a_read_longer_than_the_maximum_is_refused),
        A_TEST(a_write_longer_than_the_maximum_is_refused_and_its_payload_skipped),
        A_TEST(an_extended_payload_longer_than_the_maximum_ends_the_connection),
        A_TEST(an_extended_length_of_64_bits_is_taken_for_what_has_no_payload),
        A_TEST(a_wrong_magic_number_ends_the_connection),
        A_TEST(headers_of_the_other_kind_end_the_connection),
        A_TEST(failures_of_the_storage_have_their_own_error),
        A_TEST(a_failing_storage_does_not_flood_the_log),
        A_TEST(error_chunks_say_what_failed),
        A_TEST(a_write_may_be_split_at_every_byte),
        A_TEST(requests_may_come_one_byte_at_a_time),
        A_TEST(five_hundred_requests_in_one_piece_are_all_answered),
        A_TEST(writes_and_refused_writes_may_be_mixed_in_one_piece),
        A_TEST(a_large_write_may_come_in_pieces),
        A_TEST(the_request_behind_a_large_write_is_seen),
        A_TEST(a_structured_read_is_one_data_chunk_with_its_offset),
        A_TEST(a_simple_read_is_a_header_and_the_data),
        A_TEST(an_extended_reply_carries_the_offset_of_its_request),
        A_TEST(the_cookie_comes_back_as_it_was),
        A_TEST(block_status_tells_holes_from_data),
        A_TEST(block_status_without_a_range_is_refused),
        A_TEST(holes_in_a_structured_read_read_as_zeroes),
    };

    return cmocka_run_group_tests_name("transmission", tests, NULL, NULL);
}
