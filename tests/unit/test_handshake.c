/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The handshake, byte by byte: greeting, options, names, refusals.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "connection.h"
#include "handshake.h"
#include "nbd_client_harness.h"
#include "registry.h"

#define MODERN (NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES)
#define DISK_BYTES (UINT64_C(1) << 20)
#define FLAGS_OF_MEM                                                                          \
    (NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM |      \
     NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_CAN_MULTI_CONN | NBD_FLAG_SEND_CACHE |             \
     NBD_FLAG_SEND_FAST_ZERO)

static int set_up(void **state)
{
    struct harness *harness = harness_new(NULL);

    harness_add_export(harness, "disk1", "mem", "one", "size=1M", false);
    *state = harness;
    return 0;
}

static int tear_down(void **state)
{
    harness_free(*state);
    return 0;
}

static struct client *negotiating(struct harness *harness)
{
    struct client *client = client_connect(harness);

    client_greets(client, MODERN);
    return client;
}

static void sends_raw_name(struct client *client, uint32_t option, const void *name,
                           size_t length)
{
    GByteArray *data = name_with_infos(name, length, 0, NULL);

    client_sends_option(client, option, data->data, data->len);
    g_byte_array_free(data, TRUE);
}

/* It still listens to options. */
static void negotiation_goes_on(struct client *client)
{
    client_goes(client, "disk1");
    client_is_served(client);
}

/* ---- Greeting ---- */

static void the_greeting_is_that_of_fixed_newstyle(void **state)
{
    static const char expected[] = "NBDMAGICIHAVEOPT\0\3";
    struct client *client = client_connect(*state);
    char greeting[18];

    client_receives(client, greeting, sizeof(greeting));

    assert_memory_equal(greeting, expected, sizeof(greeting));
    client_has_nothing(client);
}

static void unknown_client_flags_end_the_connection(void **state)
{
    for (unsigned bit = 2; bit < 32; bit += 7) {
        struct client *client = client_connect(*state);

        client_greets(client, MODERN | 1u << bit);

        client_is_closed(client);
        client_leave(client);
    }
}

static void client_flags_may_all_be_absent(void **state)
{
    struct client *client = client_connect(*state);

    client_greets(client, 0);

    negotiation_goes_on(client);
}

static void a_handshake_one_byte_at_a_time_succeeds(void **state)
{
    struct client *client = client_connect(*state);
    uint32_t flags = htobe32(MODERN);
    struct nbd_option header = { .ihaveopt = htobe64(NBD_IHAVEOPT),
                                 .option = htobe32(NBD_OPT_GO) };
    GByteArray *data = name_with_infos("disk1", 5, 0, NULL);
    struct nbd_greeting greeting;
    struct negotiated negotiated;

    client_receives(client, &greeting, sizeof(greeting));
    header.length = htobe32(data->len);
    client_sends_bytewise(client, &flags, sizeof(flags));
    client_sends_bytewise(client, &header, sizeof(header));
    client_sends_bytewise(client, data->data, data->len);

    client_takes_infos(client, NBD_OPT_GO, &negotiated);
    assert_int_equal(negotiated.size, DISK_BYTES);
    client_is_served(client);
    g_byte_array_free(data, TRUE);
}

static void flags_options_and_requests_may_come_in_one_piece(void **state)
{
    struct client *client = client_connect(*state);
    GByteArray *all = g_byte_array_new(), *name = name_with_infos("disk1", 5, 0, NULL);
    uint32_t flags = htobe32(MODERN);
    struct nbd_option header = { .ihaveopt = htobe64(NBD_IHAVEOPT),
                                 .option = htobe32(NBD_OPT_GO),
                                 .length = htobe32(name->len) };
    uint8_t request[32];
    struct nbd_greeting greeting;
    struct negotiated negotiated;

    g_byte_array_append(all, (uint8_t *)&flags, sizeof(flags));
    g_byte_array_append(all, (uint8_t *)&header, sizeof(header));
    g_byte_array_append(all, name->data, name->len);
    g_byte_array_append(all, request,
                        (guint)client_puts_header(client, request, NBD_CMD_READ, 0, 0, 512));
    client_sends(client, all->data, all->len);

    client_receives(client, &greeting, sizeof(greeting));
    client_takes_infos(client, NBD_OPT_GO, &negotiated);
    assert_int_equal(client_awaits(client, 1), 0);
    g_byte_array_free(all, TRUE);
    g_byte_array_free(name, TRUE);
}

/* ---- EXPORT_NAME ---- */

static void export_name_is_answered_with_124_zeroes_unless_the_client_waives_them(void **state)
{
    struct { uint32_t flags; size_t length; } cases[] = { { MODERN, 10 }, { 1, 134 } };
    static const uint8_t zeroes[124];

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct client *client = client_connect(*state);
        uint8_t answer[134];

        client_greets(client, cases[i].flags);
        client_sends_option(client, NBD_OPT_EXPORT_NAME, "disk1", 5);
        client_receives(client, answer, cases[i].length);

        assert_int_equal(be64toh(*(uint64_t *)answer), DISK_BYTES);
        assert_int_equal(be16toh(*(uint16_t *)(answer + 8)), FLAGS_OF_MEM);
        assert_memory_equal(answer + 10, zeroes, cases[i].length - 10);
        client_is_served(client);
    }
}

static void an_unknown_or_malformed_export_name_ends_the_connection(void **state)
{
    g_autofree char *long_name = g_strnfill(4097, 'n');
    struct { const char *name; size_t length; } bad[] = {
        { "disk2", 5 }, { "disk1\0", 6 }, { "\xff", 1 }, { "@map/", 5 },
        { "@map/0b2e8c60-7d2f-4b55-8c66-3b1c6f1f2a77", 41 }, { long_name, 4097 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        struct client *client = negotiating(*state);

        client_sends_option(client, NBD_OPT_EXPORT_NAME, bad[i].name, bad[i].length);

        client_is_closed(client);
        client_leave(client);
    }
}

static void an_export_name_longer_than_any_option_ends_the_connection(void **state)
{
    struct client *client = negotiating(*state);
    g_autofree char *name = g_strnfill(OPTION_DATA_MAX + 1, 'n');

    client_sends_option(client, NBD_OPT_EXPORT_NAME, name, OPTION_DATA_MAX + 1);

    client_is_closed(client);
}

static void export_name_of_a_backstore_that_does_not_open_ends_the_connection(void **state)
{
    struct harness *harness = *state;
    struct client *client = negotiating(harness);

    harness_add_export(harness, "broken", "fault", "x", "size=1M open_error=EIO", false);
    client_sends_option(client, NBD_OPT_EXPORT_NAME, "broken", 6);

    client_is_closed(client);
}

/* ---- GO and INFO ---- */

static void go_tells_size_flags_and_block_sizes(void **state)
{
    struct client *client = negotiating(*state);
    struct negotiated negotiated;

    client_asks(client, NBD_OPT_GO, "disk1");
    client_takes_infos(client, NBD_OPT_GO, &negotiated);

    assert_int_equal(negotiated.size, DISK_BYTES);
    assert_int_equal(negotiated.flags, FLAGS_OF_MEM);
    assert_int_equal(negotiated.minimum, 1);
    assert_int_equal(negotiated.preferred, 4096);
    assert_int_equal(negotiated.maximum, 64 << 20);
    assert_string_equal(negotiated.name, "");
    client_is_served(client);
}

static void a_read_only_export_says_so_and_offers_no_changes(void **state)
{
    struct harness *harness = *state;
    struct client *client = negotiating(harness);
    struct negotiated negotiated;

    harness_add_export(harness, "iso", "mem", "iso", "size=1M", true);
    client_asks(client, NBD_OPT_GO, "iso");
    client_takes_infos(client, NBD_OPT_GO, &negotiated);

    assert_int_equal(negotiated.flags, NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY |
                                       NBD_FLAG_CAN_MULTI_CONN | NBD_FLAG_SEND_CACHE);
}

static void info_answers_and_negotiation_goes_on(void **state)
{
    struct client *client = negotiating(*state);
    struct negotiated negotiated;

    for (int i = 0; i < 5; i++) {
        client_asks(client, NBD_OPT_INFO, "disk1");
        client_takes_infos(client, NBD_OPT_INFO, &negotiated);
        assert_int_equal(negotiated.size, DISK_BYTES);
    }

    negotiation_goes_on(client);
}

static void name_and_description_are_told_when_they_are_asked_for(void **state)
{
    static const uint16_t infos[] = { NBD_INFO_NAME, NBD_INFO_DESCRIPTION, 4711 };
    struct harness *harness = *state;
    struct export *export = registry_find(harness->server->registry, "disk1");
    struct client *client = negotiating(harness);
    GByteArray *data = name_with_infos("disk1", 5, 3, infos);
    struct negotiated negotiated;

    g_free(export->description);
    export->description = g_strdup("the first one");
    client_sends_option(client, NBD_OPT_INFO, data->data, data->len);
    client_takes_infos(client, NBD_OPT_INFO, &negotiated);

    assert_string_equal(negotiated.name, "disk1");
    assert_string_equal(negotiated.description, "the first one");
    assert_int_equal(negotiated.size, DISK_BYTES);
    g_byte_array_free(data, TRUE);
}

static void a_description_longer_than_the_protocol_allows_is_cut(void **state)
{
    static const uint16_t infos[] = { NBD_INFO_DESCRIPTION };
    struct harness *harness = *state;
    struct export *export = registry_find(harness->server->registry, "disk1");
    struct client *client = negotiating(harness);
    GByteArray *data = name_with_infos("disk1", 5, 1, infos);
    struct negotiated negotiated;

    g_free(export->description);
    export->description = g_strnfill(9000, 'd');
    client_sends_option(client, NBD_OPT_INFO, data->data, data->len);
    client_takes_infos(client, NBD_OPT_INFO, &negotiated);

    assert_int_equal(strlen(negotiated.description), NBD_MAX_STRING);
    g_byte_array_free(data, TRUE);
}

static void a_description_is_cut_between_characters(void **state)
{
    static const uint16_t infos[] = { NBD_INFO_DESCRIPTION };
    struct harness *harness = *state;
    struct export *export = registry_find(harness->server->registry, "disk1");
    GByteArray *data = name_with_infos("disk1", 5, 1, infos);
    g_autofree char *start = g_strnfill(NBD_MAX_STRING - 2, 'd');

    for (int bytes = 1; bytes <= 4; bytes++) {
        static const char *const characters[] = { "e", "é", "–", "🖴" };
        struct client *client = negotiating(harness);
        struct option_reply reply;
        struct negotiated negotiated;

        g_free(export->description);
        export->description = g_strconcat(start, characters[bytes - 1], "ööö", NULL);
        client_sends_option(client, NBD_OPT_LIST, NULL, 0);
        client_takes_option_reply(client, &reply);
        assert_true(g_utf8_validate(reply.data + 9, -1, NULL));
        assert_in_range(strlen(reply.data + 9), NBD_MAX_STRING - 2, NBD_MAX_STRING);
        g_free(reply.data);
        client_is_told(client, NBD_OPT_LIST, NBD_REP_ACK, NULL);
        client_sends_option(client, NBD_OPT_INFO, data->data, data->len);
        client_takes_infos(client, NBD_OPT_INFO, &negotiated);
        assert_true(g_utf8_validate(negotiated.description, -1, NULL));
        assert_in_range(strlen(negotiated.description), NBD_MAX_STRING - 2, NBD_MAX_STRING);
        client_leave(client);
    }
    g_byte_array_free(data, TRUE);
}

static void answers_that_exceed_the_output_buffer_are_still_whole(void **state)
{
    static const uint16_t infos[] = { NBD_INFO_NAME, NBD_INFO_DESCRIPTION };
    enum { ROUNDS = 80 };
    struct harness *harness = *state;
    struct export *export = registry_find(harness->server->registry, "disk1");
    GByteArray *data = name_with_infos("disk1", 5, 2, infos), *all = g_byte_array_new();
    struct nbd_option header = { .ihaveopt = htobe64(NBD_IHAVEOPT),
                                 .option = htobe32(NBD_OPT_INFO),
                                 .length = htobe32(data->len) };
    struct client *client = negotiating(harness);
    struct negotiated negotiated;

    for (int i = 0; i < ROUNDS / OPTIONS_PER_EXPORT; i++) {
        g_autofree char *name = g_strdup_printf("more%d", i);

        harness_add_export(harness, name, "mem", name, "size=1M", false);
    }
    g_free(export->description);
    export->description = g_strnfill(NBD_MAX_STRING, 'd');
    for (int i = 0; i < ROUNDS; i++) {
        g_byte_array_append(all, (uint8_t *)&header, sizeof(header));
        g_byte_array_append(all, data->data, data->len);
    }
    client_asks(client, NBD_OPT_INFO, "disk1"); /* opened: the others are answered at once */
    client_takes_infos(client, NBD_OPT_INFO, &negotiated);
    client_sends(client, all->data, all->len);
    harness_settle(harness);

    for (int i = 0; i < ROUNDS; i++) {
        client_takes_infos(client, NBD_OPT_INFO, &negotiated);
        assert_int_equal(negotiated.size, DISK_BYTES);
        assert_int_equal(negotiated.maximum, 64 << 20);
        assert_string_equal(negotiated.name, "disk1");
        assert_int_equal(strlen(negotiated.description), NBD_MAX_STRING);
    }
    g_byte_array_free(data, TRUE);
    g_byte_array_free(all, TRUE);
}

static void the_empty_name_is_the_only_export_there_is(void **state)
{
    struct harness *harness = *state;
    struct client *client = negotiating(harness);
    struct negotiated negotiated;

    client_asks(client, NBD_OPT_INFO, "");
    client_takes_infos(client, NBD_OPT_INFO, &negotiated);
    assert_int_equal(negotiated.size, DISK_BYTES);
    harness_add_export(harness, "disk2", "mem", "two", "size=2M", false);
    client_asks(client, NBD_OPT_INFO, "");

    client_is_told(client, NBD_OPT_INFO, NBD_REP_ERR_UNKNOWN, "\"\"");
    negotiation_goes_on(client);
}

static void names_that_cannot_be_are_refused_and_negotiation_goes_on(void **state)
{
    g_autofree char *longest = g_strnfill(4096, 'n'), *longer = g_strnfill(4097, 'n');
    const struct {
        const char *name;
        size_t length;
        uint32_t type;
        const char *text;
    } bad[] = {
        { "disk2", 5, NBD_REP_ERR_UNKNOWN, "\"disk2\"" },
        { "disk", 4, NBD_REP_ERR_UNKNOWN, "\"disk\"" },
        { "DISK1", 5, NBD_REP_ERR_UNKNOWN, NULL },
        { longest, 4096, NBD_REP_ERR_UNKNOWN, "nnn" },
        { longer, 4097, NBD_REP_ERR_INVALID, "4096" },
        { "disk1\0", 6, NBD_REP_ERR_INVALID, "NUL" },
        { "\0", 1, NBD_REP_ERR_INVALID, NULL },
        { "di\xffsk", 5, NBD_REP_ERR_INVALID, "UTF-8" },
        { "\xed\xa0\x80", 3, NBD_REP_ERR_INVALID, NULL },
        { "@map/", 5, NBD_REP_ERR_UNKNOWN, "@map/" },
        { "@map/disk1", 10, NBD_REP_ERR_UNKNOWN, NULL },
        { "@map/0b2e8c60-7d2f-4b55-8c66-3b1c6f1f2a77", 41, NBD_REP_ERR_UNKNOWN, NULL },
    };
    static const uint32_t options[] = { NBD_OPT_INFO, NBD_OPT_GO };

    for (size_t o = 0; o < G_N_ELEMENTS(options); o++) {
        struct client *client = negotiating(*state);

        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
            sends_raw_name(client, options[o], bad[i].name, bad[i].length);
            client_is_told(client, options[o], bad[i].type, bad[i].text);
        }
        negotiation_goes_on(client);
    }
}

static void go_and_info_with_a_wrong_length_are_refused(void **state)
{
    static const struct { const char *data; size_t length; } bad[] = {
        { "", 0 }, { "\0\0\0", 3 }, { "\0\0\0\0", 4 }, { "\0\0\0\0\0", 5 },
        { "\0\0\0\5disk1", 9 },             /* no number of infos */
        { "\0\0\0\5disk1\0", 10 },          /* half of it */
        { "\0\0\0\5disk1\0\1", 11 },        /* an info is missing */
        { "\0\0\0\5disk1\0\0\0", 12 },      /* a byte too much */
        { "\0\0\0\5disk1\0\0\0\0", 13 },    /* two bytes too much */
        { "\0\0\0\6disk1\0\0", 11 },        /* a name longer than the option */
        { "\xff\xff\xff\xff""disk1\0\0", 11 },
        { "\xff\xff\xff\xfa""disk1\0\0", 11 },
        { "\0\0\0\5disk1\xff\xff", 11 },
    };
    struct client *client = negotiating(*state);

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        uint32_t option = i % 2 == 0 ? NBD_OPT_GO : NBD_OPT_INFO;

        client_sends_option(client, option, bad[i].data, bad[i].length);
        client_is_told(client, option, NBD_REP_ERR_INVALID, NULL);
    }

    negotiation_goes_on(client);
}

static void a_backstore_that_does_not_open_is_named_and_may_be_tried_again(void **state)
{
    struct harness *harness = *state;
    struct client *client = negotiating(harness);

    harness_add_export(harness, "broken", "fault", "x", "size=1M open_error=EIO", false);
    client_asks(client, NBD_OPT_GO, "broken");
    client_is_told(client, NBD_OPT_GO, NBD_REP_ERR_PLATFORM, "open_error");
    client_asks(client, NBD_OPT_INFO, "broken");
    client_is_told(client, NBD_OPT_INFO, NBD_REP_ERR_PLATFORM, "open_error");

    negotiation_goes_on(client);
}

static void options_behind_a_go_that_takes_long_wait_for_it(void **state)
{
    struct harness *harness = *state;
    struct client *client = negotiating(harness);
    struct negotiated negotiated;

    harness_add_export(harness, "slow", "fault", "x", "size=3M open_delay_ms=20", false);
    client_asks(client, NBD_OPT_INFO, "slow");
    client_sends_option(client, NBD_OPT_LIST, "", 0);
    client_takes_infos(client, NBD_OPT_INFO, &negotiated);

    assert_int_equal(negotiated.size, 3 << 20);
    client_is_told(client, NBD_OPT_LIST, NBD_REP_SERVER, NULL);
    client_is_told(client, NBD_OPT_LIST, NBD_REP_SERVER, NULL);
    client_is_told(client, NBD_OPT_LIST, NBD_REP_ACK, NULL);
}

static void a_client_that_leaves_while_its_export_opens_leaves_nothing_behind(void **state)
{
    struct harness *harness = *state;
    struct export *export =
        harness_add_export(harness, "slow", "fault", "x", "size=1M open_delay_ms=20", false);
    struct client *client = negotiating(harness);

    client_asks(client, NBD_OPT_GO, "slow");
    harness_settle(harness);
    client_leave(client);
    harness_wait(harness, harness_has_no_connection, harness);

    assert_int_equal(export->connections, 0);
}

static void who_leaves_while_its_export_opens_is_not_counted_any_more(void **state)
{
    struct harness *harness = *state;
    g_autofree char *hold = harness_path(harness, "hold");
    g_autofree char *opts = g_strconcat("size=1M open_hold=", hold, NULL);
    struct client *client = negotiating(harness);

    assert_true(g_file_set_contents(hold, "", 0, NULL));
    harness_add_export(harness, "slow", "fault", "x", opts, false);
    client_asks(client, NBD_OPT_GO, "slow");
    harness_settle(harness);
    client_leave(client);
    harness_wait(harness, harness_has_no_connection, harness);

    assert_int_equal(access(hold, F_OK), 0); /* it is still being opened */
    unlink(hold);
}

static void who_only_stops_to_send_while_its_export_opens_gets_its_answer(void **state)
{
    struct harness *harness = *state;
    g_autofree char *hold = harness_path(harness, "hold");
    g_autofree char *opts = g_strconcat("size=1M open_hold=", hold, NULL);
    struct client *client = negotiating(harness);
    struct negotiated negotiated;

    assert_true(g_file_set_contents(hold, "", 0, NULL));
    harness_add_export(harness, "slow", "fault", "x", opts, false);
    client_asks(client, NBD_OPT_INFO, "slow");
    assert_int_equal(shutdown(client->fd, SHUT_WR), 0);
    harness_settle(harness);
    unlink(hold);

    client_takes_infos(client, NBD_OPT_INFO, &negotiated);
    assert_int_equal(negotiated.size, DISK_BYTES);
}

/* ---- LIST, ABORT ---- */

static void list_names_every_export_in_order(void **state)
{
    struct harness *harness = *state;
    struct client *client = negotiating(harness);
    struct option_reply reply;

    harness_add_export(harness, "another", "mem", "two", "size=1M", false);
    client_sends_option(client, NBD_OPT_LIST, "", 0);

    client_takes_option_reply(client, &reply);
    assert_int_equal(reply.type, NBD_REP_SERVER);
    assert_int_equal(reply.length, 4 + 7);
    assert_memory_equal(reply.data, "\0\0\0\7another", 11);
    g_free(reply.data);
    client_takes_option_reply(client, &reply);
    assert_memory_equal(reply.data, "\0\0\0\5disk1", 9);
    g_free(reply.data);
    client_is_told(client, NBD_OPT_LIST, NBD_REP_ACK, NULL);
    negotiation_goes_on(client);
}

static void add_many(struct harness *harness, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        g_autofree char *name = g_strdup_printf("export-%0200u", i);

        harness_add_export(harness, name, "null", name, "size=1M", false);
    }
}

static void takes_long_list(struct client *client, unsigned n)
{
    struct option_reply reply;

    for (unsigned i = 0; i <= n; i++) {
        g_autofree char *name = i == 0 ? g_strdup("disk1")
                                       : g_strdup_printf("export-%0200u", i - 1);

        client_takes_option_reply(client, &reply);
        assert_int_equal(reply.type, NBD_REP_SERVER);
        assert_string_equal(reply.data + 4, name);
        g_free(reply.data);
    }
    client_is_told(client, NBD_OPT_LIST, NBD_REP_ACK, NULL);
}

static void a_list_longer_than_the_output_buffer_is_whole(void **state)
{
    struct client *client = negotiating(*state);

    add_many(*state, 3000);
    client_sends_option(client, NBD_OPT_LIST, "", 0);
    takes_long_list(client, 3000);
    client_sends_option(client, NBD_OPT_LIST, "", 0);
    client_sends_option(client, NBD_OPT_LIST, "", 0);
    takes_long_list(client, 3000);
    takes_long_list(client, 3000);

    negotiation_goes_on(client);
}

static void list_with_data_is_refused(void **state)
{
    struct client *client = negotiating(*state);

    client_sends_option(client, NBD_OPT_LIST, "x", 1);

    client_is_told(client, NBD_OPT_LIST, NBD_REP_ERR_INVALID, NULL);
    negotiation_goes_on(client);
}

static void abort_is_acknowledged_and_ends_the_connection(void **state)
{
    struct client *client = negotiating(*state);

    client_sends_option(client, NBD_OPT_ABORT, "", 0);

    client_is_told(client, NBD_OPT_ABORT, NBD_REP_ACK, NULL);
    client_is_closed(client);
}

/* ---- Other options ---- */

static void an_unknown_option_is_refused_and_its_data_skipped(void **state)
{
    static const uint32_t unknown[] = { 0, NBD_OPT_PEEK_EXPORT, 12, 100, UINT32_MAX };
    struct client *client = negotiating(*state);
    g_autofree char *data = g_strnfill(OPTION_DATA_MAX, 'x');

    for (size_t i = 0; i < G_N_ELEMENTS(unknown); i++) {
        client_sends_option(client, unknown[i], data, i == 0 ? OPTION_DATA_MAX : i * 100);
        client_is_told(client, unknown[i], NBD_REP_ERR_UNSUP, NULL);
    }

    negotiation_goes_on(client);
}

static void an_option_that_is_too_long_is_refused_and_skipped(void **state)
{
    static const uint32_t options[] = { NBD_OPT_GO, NBD_OPT_LIST, 4711 };
    struct client *client = negotiating(*state);
    g_autofree char *data = g_strnfill(OPTION_DRAIN_MAX, 'x');

    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        client_sends_option(client, options[i], data,
                            i == 0 ? OPTION_DATA_MAX + 1 : OPTION_DRAIN_MAX);
        client_is_told(client, options[i], NBD_REP_ERR_TOO_BIG, NULL);
    }

    negotiation_goes_on(client);
}

static void an_option_far_too_long_ends_the_connection(void **state)
{
    static const size_t lengths[] = { OPTION_DRAIN_MAX + 1, UINT32_MAX };

    for (size_t i = 0; i < G_N_ELEMENTS(lengths); i++) {
        struct client *client = negotiating(*state);
        struct nbd_option header = { .ihaveopt = htobe64(NBD_IHAVEOPT),
                                     .option = htobe32(NBD_OPT_GO),
                                     .length = htobe32((uint32_t)lengths[i]) };

        client_sends(client, &header, sizeof(header));

        client_is_closed(client);
        client_leave(client);
    }
}

static void an_option_without_its_magic_number_ends_the_connection(void **state)
{
    struct client *client = negotiating(*state);

    client_sends(client, "IHAVEOPX\0\0\0\3\0\0\0\0", 16);

    client_is_closed(client);
}

/* As qemu-nbd --list and nbdinfo --list do. */
static void each_of_many_exports_may_be_asked_about_in_one_session(void **state)
{
    struct harness *harness = *state;
    struct client *client = negotiating(harness);

    for (int i = 0; i < 100; i++) {
        g_autofree char *name = g_strdup_printf("many%d", i);

        harness_add_export(harness, name, "mem", name, "size=1M", false);
    }
    for (int i = 0; i < 100; i++) {
        g_autofree char *name = g_strdup_printf("many%d", i);
        struct negotiated negotiated;

        client_asks(client, NBD_OPT_INFO, name);
        client_takes_infos(client, NBD_OPT_INFO, &negotiated);
        client_asks(client, NBD_OPT_INFO, name);
        client_takes_infos(client, NBD_OPT_INFO, &negotiated);
    }

    negotiation_goes_on(client);
}

static void the_number_of_options_is_limited(void **state)
{
    struct client *client = negotiating(*state);

    for (int i = 0; i < OPTIONS_MAX + OPTIONS_PER_EXPORT; i++) { /* there is one */
        client_sends_option(client, 4711, "", 0);
        client_is_told(client, 4711, NBD_REP_ERR_UNSUP, NULL);
    }
    client_sends_option(client, 4711, "", 0);

    client_is_closed(client);
}

/* ---- Structured replies, extended headers, metadata contexts ---- */

/* The data of LIST_ and SET_META_CONTEXT; the queries end with NULL. */
static GByteArray *context_query(const char *export, ...)
{
    GByteArray *data = g_byte_array_new();
    uint32_t wire = htobe32((uint32_t)strlen(export)), n = 0;
    va_list args;
    const char *query;
    guint count_at;

    g_byte_array_append(data, (uint8_t *)&wire, 4);
    g_byte_array_append(data, (const uint8_t *)export, (guint)strlen(export));
    count_at = data->len;
    g_byte_array_append(data, (uint8_t *)&n, 4);
    va_start(args, export);
    while ((query = va_arg(args, const char *)) != NULL) {
        wire = htobe32((uint32_t)strlen(query));
        g_byte_array_append(data, (uint8_t *)&wire, 4);
        g_byte_array_append(data, (const uint8_t *)query, (guint)strlen(query));
        n++;
    }
    va_end(args);
    n = htobe32(n);
    memcpy(data->data + count_at, &n, 4);
    return data;
}

/* Takes over `query`. */
static void asks_contexts(struct client *client, uint32_t option, GByteArray *query)
{
    client_sends_option(client, option, query->data, query->len);
    g_byte_array_free(query, TRUE);
}

static struct client *structured(struct harness *harness)
{
    struct client *client = negotiating(harness);

    client_sends_option(client, NBD_OPT_STRUCTURED_REPLY, "", 0);
    client_is_told(client, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, NULL);
    client->structured = true;
    return client;
}

static void structured_replies_add_df_to_the_flags(void **state)
{
    struct client *client = structured(*state);
    struct negotiated negotiated;

    client_asks(client, NBD_OPT_GO, "disk1");
    client_takes_infos(client, NBD_OPT_GO, &negotiated);

    assert_int_equal(negotiated.flags, FLAGS_OF_MEM | NBD_FLAG_SEND_DF);
    client_is_served(client);
}

static void options_without_data_are_refused_when_they_have_some(void **state)
{
    static const uint32_t options[] = { NBD_OPT_STRUCTURED_REPLY, NBD_OPT_EXTENDED_HEADERS };
    struct client *client = negotiating(*state);

    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        client_sends_option(client, options[i], "xy", 2);
        client_is_told(client, options[i], NBD_REP_ERR_INVALID, NULL);
    }

    negotiation_goes_on(client); /* with simple replies */
}

static void replies_may_be_chosen_twice_but_not_downgraded(void **state)
{
    struct client *client = structured(*state);

    client_sends_option(client, NBD_OPT_STRUCTURED_REPLY, "", 0);
    client_is_told(client, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, NULL);
    client_sends_option(client, NBD_OPT_EXTENDED_HEADERS, "", 0);
    client_is_told(client, NBD_OPT_EXTENDED_HEADERS, NBD_REP_ACK, NULL);
    client->extended = true;
    client_sends_option(client, NBD_OPT_STRUCTURED_REPLY, "", 0);
    client_is_told(client, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_EXT_HEADER_REQD, NULL);

    negotiation_goes_on(client);
}

static void export_name_after_extended_headers_ends_the_connection(void **state)
{
    struct client *client = negotiating(*state);

    client_sends_option(client, NBD_OPT_EXTENDED_HEADERS, "", 0);
    client_is_told(client, NBD_OPT_EXTENDED_HEADERS, NBD_REP_ACK, NULL);
    client_sends_option(client, NBD_OPT_EXPORT_NAME, "disk1", 5);

    client_is_closed(client);
}

static void contexts_need_structured_replies(void **state)
{
    struct client *client = negotiating(*state);

    asks_contexts(client, NBD_OPT_LIST_META_CONTEXT, context_query("disk1", NULL));
    client_is_told(client, NBD_OPT_LIST_META_CONTEXT, NBD_REP_ERR_INVALID, "STRUCTURED_REPLY");
    asks_contexts(client, NBD_OPT_SET_META_CONTEXT,
                  context_query("disk1", "base:allocation", NULL));
    client_is_told(client, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID, "STRUCTURED_REPLY");

    negotiation_goes_on(client);
}

static void contexts_are_listed_by_name_by_namespace_and_all(void **state)
{
    static const uint32_t list = NBD_OPT_LIST_META_CONTEXT;
    struct client *client = structured(*state);

    asks_contexts(client, list, context_query("disk1", NULL));
    client_is_told(client, list, NBD_REP_META_CONTEXT, "base:allocation");
    client_is_told(client, list, NBD_REP_META_CONTEXT, "qemu:allocation-depth");
    client_is_told(client, list, NBD_REP_ACK, NULL);
    asks_contexts(client, list, context_query("disk1", "base:", "base:", NULL));
    client_is_told(client, list, NBD_REP_META_CONTEXT, "base:allocation");
    client_is_told(client, list, NBD_REP_ACK, NULL);
    asks_contexts(client, list, context_query("disk1", "base", "x:", "", ":", "base:x", NULL));
    client_is_told(client, list, NBD_REP_ACK, NULL);
    asks_contexts(client, list, context_query("disk2", NULL));
    client_is_told(client, list, NBD_REP_ERR_UNKNOWN, "\"disk2\"");

    negotiation_goes_on(client);
}

static void only_whole_names_select_a_context(void **state)
{
    static const uint32_t set = NBD_OPT_SET_META_CONTEXT;
    struct client *client = structured(*state);

    asks_contexts(client, set, context_query("disk1", "base:", NULL));
    client_is_told(client, set, NBD_REP_ACK, NULL);
    asks_contexts(client, set, context_query("disk1", "x:y", "base:allocation", NULL));
    client_is_told(client, set, NBD_REP_META_CONTEXT, "base:allocation");
    client_is_told(client, set, NBD_REP_ACK, NULL);
    client_goes(client, "disk1");

    assert_int_equal(client_awaits(client, client_requests(client, NBD_CMD_BLOCK_STATUS, 0, 0,
                                                           4096)), 0);
}

static void a_selection_is_replaced_by_the_next_one_even_if_that_fails(void **state)
{
    static const uint32_t set = NBD_OPT_SET_META_CONTEXT;
    struct client *client = structured(*state);

    asks_contexts(client, set, context_query("disk1", "base:allocation", NULL));
    client_is_told(client, set, NBD_REP_META_CONTEXT, NULL);
    client_is_told(client, set, NBD_REP_ACK, NULL);
    asks_contexts(client, set, context_query("disk2", "base:allocation", NULL));
    client_is_told(client, set, NBD_REP_ERR_UNKNOWN, NULL);
    client_goes(client, "disk1");

    assert_int_equal(client_awaits(client, client_requests(client, NBD_CMD_BLOCK_STATUS, 0, 0,
                                                           4096)), NBD_EINVAL);
}

static void a_selection_holds_only_for_its_export(void **state)
{
    static const uint32_t set = NBD_OPT_SET_META_CONTEXT;
    struct harness *harness = *state;
    struct client *client = structured(harness);

    harness_add_export(harness, "disk2", "mem", "two", "size=2M", false);
    asks_contexts(client, set, context_query("disk1", "base:allocation", NULL));
    client_is_told(client, set, NBD_REP_META_CONTEXT, NULL);
    client_is_told(client, set, NBD_REP_ACK, NULL);
    client_goes(client, "disk2");

    assert_int_equal(client_awaits(client, client_requests(client, NBD_CMD_BLOCK_STATUS, 0, 0,
                                                           4096)), NBD_EINVAL);
}

static void context_options_with_a_wrong_length_are_refused(void **state)
{
    static const struct { const char *data; size_t length; } bad[] = {
        { "", 0 }, { "\0\0\0\5disk1", 9 }, { "\0\0\0\5disk1\0\0\0", 12 },
        { "\0\0\0\6disk1\0\0\0\0", 13 }, { "\xff\xff\xff\xff""disk1\0\0\0\0", 13 },
        { "\0\0\0\5disk1\0\0\0\0x", 14 }, { "\0\0\0\5disk1\0\0\0\1", 13 },
        { "\0\0\0\5disk1\0\0\0\1\0\0\0", 16 }, { "\0\0\0\5disk1\0\0\0\1\0\0\0\5base", 21 },
        { "\0\0\0\5disk1\0\0\0\1\xff\xff\xff\xff""base", 21 },
        { "\0\0\0\5disk1\0\0\0\1\0\0\0\4basex", 22 },
        { "\0\0\0\5disk1\xff\xff\xff\xff\0\0\0\0", 17 },
        { "\0\0\0\5d\0sk1\0\0\0\0", 13 },
    };
    struct client *client = structured(*state);

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        uint32_t option = i % 2 == 0 ? NBD_OPT_SET_META_CONTEXT : NBD_OPT_LIST_META_CONTEXT;

        client_sends_option(client, option, bad[i].data, bad[i].length);
        client_is_told(client, option, NBD_REP_ERR_INVALID, NULL);
    }

    negotiation_goes_on(client);
}

/* ---- Mapped devices ---- */

static void a_mapping_is_an_export_name_while_its_lease_runs(void **state)
{
    struct harness *harness = *state;
    struct export *export = registry_find(harness->server->registry, "disk1");
    struct mapping *mapping =
        mapping_new(harness->server->mappings, export,
                    &(struct mapping_spec){ .client = "host-a", .readonly = true });
    g_autofree char *name = g_strconcat(MAPPING_IO_PREFIX, mapping->cookie, NULL);
    struct client *first = negotiating(harness), *second = negotiating(harness);
    struct negotiated negotiated;

    client_asks(first, NBD_OPT_GO, name);
    client_takes_infos(first, NBD_OPT_GO, &negotiated);
    assert_true(negotiated.flags & NBD_FLAG_READ_ONLY);
    assert_int_equal(mapping->connected, 1);
    assert_int_equal(client_awaits(first, client_writes(first, 0, 0, "x", 1)), NBD_EPERM);
    mapping_commit(mapping, "/dev/nbd0");
    client_asks(second, NBD_OPT_GO, name);
    client_is_told(second, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN, NULL);
    client_leave(first);
    harness_settle(harness);

    assert_int_equal(mapping->connected, 0);
    negotiation_goes_on(second);
}

/* ---- Ends ---- */

static void a_client_that_leaves_at_any_byte_of_the_handshake_is_forgotten(void **state)
{
    struct harness *harness = *state;
    GByteArray *all = g_byte_array_new(), *name = name_with_infos("disk1", 5, 0, NULL);
    uint32_t flags = htobe32(MODERN);
    struct nbd_option header = { .ihaveopt = htobe64(NBD_IHAVEOPT),
                                 .option = htobe32(NBD_OPT_GO),
                                 .length = htobe32(name->len) };

    g_byte_array_append(all, (uint8_t *)&flags, sizeof(flags));
    g_byte_array_append(all, (uint8_t *)&header, sizeof(header));
    g_byte_array_append(all, name->data, name->len);
    for (guint n = 0; n <= all->len; n++) {
        struct client *client = client_connect(harness);

        client_sends(client, all->data, n);
        if (n % 2 == 0)
            harness_turn(harness);
        client_leave(client);
        harness_wait(harness, harness_has_no_connection, harness);
    }

    assert_int_equal(registry_find(harness->server->registry, "disk1")->connections, 0);
    g_byte_array_free(all, TRUE);
    g_byte_array_free(name, TRUE);
}

static int set_up_with_limits(void **state)
{
    struct harness_settings settings = { .max_connections = 2, .negotiation_timeout_s = 1 };
    struct harness *harness = harness_new(&settings);

    harness_add_export(harness, "disk1", "mem", "one", "size=1M", false);
    *state = harness;
    return 0;
}

static void who_does_not_finish_the_handshake_in_time_is_closed(void **state)
{
    struct harness *harness = *state;
    struct client *quick = client_on(harness, "disk1");
    struct client *slow = client_connect(harness);
    struct nbd_greeting greeting;

    client_receives(slow, &greeting, sizeof(greeting));
    client_is_closed(slow);

    client_is_served(quick);
    assert_int_equal(harness_count_in_log(harness, "did not finish the handshake in time"), 1);
}

static void beyond_the_limit_a_client_is_told_why_it_is_not_served(void **state)
{
    struct harness *harness = *state;
    struct client *first = client_on(harness, "disk1"), *second = client_on(harness, "disk1");
    struct client *third = negotiating(harness);

    client_asks(third, NBD_OPT_GO, "disk1");
    client_is_told(third, NBD_OPT_GO, NBD_REP_ERR_POLICY, "max_connections");
    client_asks(third, NBD_OPT_INFO, "disk1");
    client_is_told(third, NBD_OPT_INFO, NBD_REP_ERR_POLICY, "max_connections");
    client_sends_option(third, NBD_OPT_EXPORT_NAME, "disk1", 5);

    client_is_closed(third);
    client_is_served(first);
    client_is_served(second);
}

static void an_export_may_have_a_limit_of_its_own(void **state)
{
    struct harness *harness = *state;
    struct client *first = client_on(harness, "disk1"), *second = negotiating(harness);

    registry_find(harness->server->registry, "disk1")->max_connections = 1;
    client_asks(second, NBD_OPT_GO, "disk1");
    client_is_told(second, NBD_OPT_GO, NBD_REP_ERR_POLICY, "of the export");
    client_leave(first);
    harness_settle(harness);

    negotiation_goes_on(second);
}

static void without_a_limit_of_its_own_an_export_has_the_daemons(void **state)
{
    struct harness *harness = *state;
    struct export *export = registry_find(harness->server->registry, "disk1");
    struct client *first, *second;

    assert_int_equal(export_connection_limit(export), 128);
    harness->server->config->max_export_connections = 1;
    first = client_on(harness, "disk1");
    second = negotiating(harness);
    client_asks(second, NBD_OPT_GO, "disk1");
    client_is_told(second, NBD_OPT_GO, NBD_REP_ERR_POLICY, "max_export_connections");
    export->max_connections = 2;

    negotiation_goes_on(second);
    client_is_served(first);
}

/* ---- Access ---- */

/* Changes an access list of one entry (NULL: none). */
static void allows(struct export *export, const char *entry, bool default_deny)
{
    const char *entries[] = { entry, NULL };
    struct export_spec spec;

    export_get_spec(export, &spec);
    spec.acl = entries;
    spec.default_deny = default_deny;
    assert_int_equal(export_apply(export, &spec, NULL), 0);
}

static struct client *negotiating_from(struct harness *harness, const char *address)
{
    struct client *client = client_connect_from(harness, address);

    client_greets(client, MODERN);
    return client;
}

static void who_is_not_in_the_access_list_is_told_so(void **state)
{
    struct harness *harness = *state;
    struct export *export = registry_find(harness->server->registry, "disk1");
    struct client *inside = negotiating_from(harness, "192.0.2.7");
    struct client *outside = negotiating_from(harness, "198.51.100.7");
    struct client *local = negotiating(harness);

    allows(export, "192.0.2.0/24", false);
    client_asks(outside, NBD_OPT_GO, "disk1");
    client_is_told(outside, NBD_OPT_GO, NBD_REP_ERR_POLICY, "198.51.100.7:40312 may not");
    client_asks(outside, NBD_OPT_INFO, "disk1");
    client_is_told(outside, NBD_OPT_INFO, NBD_REP_ERR_POLICY, "(acl of the export)");
    client_sends_option(outside, NBD_OPT_EXPORT_NAME, "disk1", 5);

    client_is_closed(outside);
    negotiation_goes_on(inside);
    negotiation_goes_on(local);
    assert_int_equal(export->connections, 2);
}

static void default_deny_without_entries_leaves_only_unix_sockets(void **state)
{
    struct harness *harness = *state;
    struct client *outside = negotiating_from(harness, "127.0.0.1");
    struct client *local = negotiating(harness);

    allows(registry_find(harness->server->registry, "disk1"), NULL, true);
    client_asks(outside, NBD_OPT_GO, "disk1");

    client_is_told(outside, NBD_OPT_GO, NBD_REP_ERR_POLICY, "127.0.0.1");
    negotiation_goes_on(local);
}

static void contexts_of_an_export_are_for_those_who_may_use_it(void **state)
{
    struct harness *harness = *state;
    struct client *outside = negotiating_from(harness, "198.51.100.7");
    static const uint8_t query[] = "\0\0\0\5disk1\0\0\0\0";

    allows(registry_find(harness->server->registry, "disk1"), "192.0.2.7", false);
    client_sends_option(outside, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
    client_is_told(outside, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, NULL);
    client_sends_option(outside, NBD_OPT_LIST_META_CONTEXT, query, sizeof(query) - 1);

    client_is_told(outside, NBD_OPT_LIST_META_CONTEXT, NBD_REP_ERR_POLICY, "acl");
}

static void an_access_list_that_changes_holds_for_clients_that_are_there(void **state)
{
    struct harness *harness = *state;
    struct export *export = registry_find(harness->server->registry, "disk1");
    struct client *one = negotiating_from(harness, "192.0.2.7");
    struct client *other = negotiating_from(harness, "198.51.100.7");

    negotiation_goes_on(one);
    negotiation_goes_on(other);
    allows(export, "192.0.2.7", false);

    client_is_closed(other);
    client_is_served(one);
    assert_int_equal(export->connections, 1);
    assert_int_equal(harness_count_in_log(harness, "access list of the export any more"), 1);
}

static void an_access_list_that_changes_while_the_export_opens_holds(void **state)
{
    struct harness *harness = *state;
    g_autofree char *hold = harness_path(harness, "hold");
    g_autofree char *opts = g_strconcat("size=1M open_hold=", hold, NULL);
    struct export *export;
    struct client *client = negotiating_from(harness, "192.0.2.7");

    assert_true(g_file_set_contents(hold, "", 0, NULL));
    export = harness_add_export(harness, "slow", "fault", "x", opts, false);
    client_asks(client, NBD_OPT_GO, "slow");
    harness_settle(harness);
    allows(export, "198.51.100.0/24", false);
    unlink(hold);

    client_is_told(client, NBD_OPT_GO, NBD_REP_ERR_POLICY, "acl of the export");
    assert_int_equal(export->connections, 0);
    negotiation_goes_on(client);
}

static void a_list_shows_neither_what_is_hidden_nor_what_is_not_allowed(void **state)
{
    struct harness *harness = *state;
    struct export *hidden = harness_add_export(harness, "b", "mem", "b", "size=1M", false);
    struct export *guarded = harness_add_export(harness, "c", "mem", "c", "size=1M", false);
    struct client *outside = negotiating_from(harness, "198.51.100.7");
    struct export_spec spec;

    export_get_spec(hidden, &spec);
    spec.hidden = true;
    assert_int_equal(export_apply(hidden, &spec, NULL), 0);
    allows(guarded, "192.0.2.7", false);
    client_sends_option(outside, NBD_OPT_LIST, NULL, 0);
    client_is_told(outside, NBD_OPT_LIST, NBD_REP_SERVER, NULL);
    client_is_told(outside, NBD_OPT_LIST, NBD_REP_ACK, NULL);

    client_goes(outside, "b");
    client_is_served(outside);
}

static void who_is_not_in_nbd_allow_is_closed_at_once_and_logged_in_few_lines(void **state)
{
    struct harness *harness = *state;
    const char *allowed[] = { "192.0.2.0/24", NULL }, *junk[] = { "192.0.2.0/33", NULL };
    struct client *before = negotiating_from(harness, "198.51.100.6");
    struct client *inside;
    struct nbd_failure why;

    assert_int_equal(connection_table_allow(harness->server->connections, allowed, NULL), 0);
    client_is_closed(before);
    assert_int_equal(connection_table_allow(harness->server->connections, junk, &why), -EINVAL);
    assert_non_null(strstr(why.message, "192.0.2.0/33"));
    for (int i = 0; i < 50; i++)
        client_is_closed(client_connect_from(harness, "198.51.100.7"));

    assert_in_range(harness_count_in_log(harness, "client 198.51.100.7:40312: closed at once: "
                                                  "its address is not in nbd_allow"), 1, 25);
    inside = negotiating_from(harness, "192.0.2.7");
    negotiation_goes_on(inside);
    negotiation_goes_on(negotiating(harness));
    assert_int_equal(connection_table_allow(harness->server->connections, NULL, NULL), 0);
    negotiation_goes_on(negotiating_from(harness, "198.51.100.7"));
}

static void when_the_server_stops_no_export_is_opened(void **state)
{
    struct harness *harness = *state;
    struct client *client = negotiating(harness);

    harness->server->stopping = true;
    client_asks(client, NBD_OPT_GO, "disk1");

    client_is_told(client, NBD_OPT_GO, NBD_REP_ERR_SHUTDOWN, "shutting down");
}

int main(void)
{
#define A_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
#define A_LIMIT_TEST(name) cmocka_unit_test_setup_teardown(name, set_up_with_limits, tear_down)
    const struct CMUnitTest tests[] = {
        A_TEST(the_greeting_is_that_of_fixed_newstyle),
        A_TEST(unknown_client_flags_end_the_connection),
        A_TEST(client_flags_may_all_be_absent),
        A_TEST(a_handshake_one_byte_at_a_time_succeeds),
        A_TEST(flags_options_and_requests_may_come_in_one_piece),
        A_TEST(export_name_is_answered_with_124_zeroes_unless_the_client_waives_them),
        A_TEST(an_unknown_or_malformed_export_name_ends_the_connection),
        A_TEST(an_export_name_longer_than_any_option_ends_the_connection),
        A_TEST(export_name_of_a_backstore_that_does_not_open_ends_the_connection),
        A_TEST(go_tells_size_flags_and_block_sizes),
        A_TEST(a_read_only_export_says_so_and_offers_no_changes),
        A_TEST(info_answers_and_negotiation_goes_on),
        A_TEST(name_and_description_are_told_when_they_are_asked_for),
        A_TEST(a_description_longer_than_the_protocol_allows_is_cut),
        A_TEST(a_description_is_cut_between_characters),
        A_TEST(answers_that_exceed_the_output_buffer_are_still_whole),
        A_TEST(the_empty_name_is_the_only_export_there_is),
        A_TEST(names_that_cannot_be_are_refused_and_negotiation_goes_on),
        A_TEST(go_and_info_with_a_wrong_length_are_refused),
        A_TEST(a_backstore_that_does_not_open_is_named_and_may_be_tried_again),
        A_TEST(options_behind_a_go_that_takes_long_wait_for_it),
        A_TEST(a_client_that_leaves_while_its_export_opens_leaves_nothing_behind),
        A_TEST(who_leaves_while_its_export_opens_is_not_counted_any_more),
        A_TEST(who_only_stops_to_send_while_its_export_opens_gets_its_answer),
        A_TEST(list_names_every_export_in_order),
        A_TEST(a_list_longer_than_the_output_buffer_is_whole),
        A_TEST(list_with_data_is_refused),
        A_TEST(abort_is_acknowledged_and_ends_the_connection),
        A_TEST(an_unknown_option_is_refused_and_its_data_skipped),
        A_TEST(an_option_that_is_too_long_is_refused_and_skipped),
        A_TEST(an_option_far_too_long_ends_the_connection),
        A_TEST(an_option_without_its_magic_number_ends_the_connection),
        A_TEST(the_number_of_options_is_limited),
        A_TEST(each_of_many_exports_may_be_asked_about_in_one_session),
        A_TEST(structured_replies_add_df_to_the_flags),
        A_TEST(options_without_data_are_refused_when_they_have_some),
        A_TEST(replies_may_be_chosen_twice_but_not_downgraded),
        A_TEST(export_name_after_extended_headers_ends_the_connection),
        A_TEST(contexts_need_structured_replies),
        A_TEST(contexts_are_listed_by_name_by_namespace_and_all),
        A_TEST(only_whole_names_select_a_context),
        A_TEST(a_selection_is_replaced_by_the_next_one_even_if_that_fails),
        A_TEST(a_selection_holds_only_for_its_export),
        A_TEST(context_options_with_a_wrong_length_are_refused),
        A_TEST(a_mapping_is_an_export_name_while_its_lease_runs),
        A_TEST(a_client_that_leaves_at_any_byte_of_the_handshake_is_forgotten),
        A_LIMIT_TEST(who_does_not_finish_the_handshake_in_time_is_closed),
        A_LIMIT_TEST(beyond_the_limit_a_client_is_told_why_it_is_not_served),
        A_TEST(an_export_may_have_a_limit_of_its_own),
        A_TEST(without_a_limit_of_its_own_an_export_has_the_daemons),
        A_TEST(who_is_not_in_the_access_list_is_told_so),
        A_TEST(default_deny_without_entries_leaves_only_unix_sockets),
        A_TEST(contexts_of_an_export_are_for_those_who_may_use_it),
        A_TEST(an_access_list_that_changes_holds_for_clients_that_are_there),
        A_TEST(an_access_list_that_changes_while_the_export_opens_holds),
        A_TEST(a_list_shows_neither_what_is_hidden_nor_what_is_not_allowed),
        A_TEST(who_is_not_in_nbd_allow_is_closed_at_once_and_logged_in_few_lines),
        A_TEST(when_the_server_stops_no_export_is_opened),
    };

    return cmocka_run_group_tests_name("handshake", tests, NULL, NULL);
}
