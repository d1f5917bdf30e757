/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Backstores that are lost, or away, while clients use them: requests wait and go on, or fail
 * in the end; nothing that was promised is forgotten.
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

/* Files that, as long as they exist, make the fault handler misbehave. */
struct fixture {
    struct harness *harness;
    struct export *export;
    char *lost, *troubled, *closed, *hold;
};

static int set_up_with(void **state, const struct harness_settings *settings, const char *more)
{
    struct fixture *f = g_new0(struct fixture, 1);
    g_autofree char *opts = NULL;

    f->harness = harness_new(settings);
    f->lost = harness_path(f->harness, "lost");
    f->troubled = harness_path(f->harness, "troubled");
    f->closed = harness_path(f->harness, "closed");
    f->hold = harness_path(f->harness, "hold");
    opts = g_strdup_printf("size=1M lost_if=%s troubled_if=%s open_error=EIO open_error_if=%s %s%s",
                           f->lost, f->troubled, f->closed, more,
                           strcmp(more, "hold=") == 0 ? f->hold : "");
    f->export = harness_add_export(f->harness, "lun", "fault", "lun", opts, false);
    harness_add_export(f->harness, "other", "mem", "other", "size=1M", false);
    *state = f;
    return 0;
}

static int set_up(void **state)
{
    return set_up_with(state, NULL, "");
}

static int set_up_fenced(void **state)
{
    return set_up_with(state, NULL, "fenced=true");
}

static int set_up_on_thread(void **state)
{
    return set_up_with(state, NULL, "hold=");
}

static int set_up_with_limit(void **state)
{
    struct harness_settings settings = { .request_timeout_s = 1 };

    return set_up_with(state, &settings, "");
}

static void now(const char *path)
{
    assert_true(g_file_set_contents(path, "", 0, NULL));
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    unlink(f->closed);
    unlink(f->hold);
    harness_free(f->harness);
    g_free(f->lost);
    g_free(f->troubled);
    g_free(f->closed);
    g_free(f->hold);
    g_free(f);
    return 0;
}

static bool is_ready(void *export)
{
    return ((struct export *)export)->state == EXPORT_READY;
}

static bool is_faulted(void *export)
{
    return ((struct export *)export)->state == EXPORT_FAULTED;
}

static bool has_tried(void *harness)
{
    return harness_count_in_log(harness, "cannot be opened: open_error") > 0;
}

/* The next request finds it lost, and it cannot be opened again for now. */
static void is_lost_for_a_while(struct fixture *f)
{
    now(f->lost);
    now(f->closed);
}

static uint64_t reads(struct client *client)
{
    return client_requests(client, NBD_CMD_READ, 0, 0, 4096);
}

/* ---- Lost, and back ---- */

static void what_a_lost_backstore_could_not_finish_is_done_when_it_is_back(void **state)
{
    struct fixture *f = *state;
    struct client *client = client_on(f->harness, "lun"), *other = client_on(f->harness, "other");
    uint8_t bytes[4096];
    uint64_t first, write, zeroes, back;

    memset(bytes, 7, sizeof(bytes));
    is_lost_for_a_while(f);
    first = reads(client);
    write = client_writes(client, NBD_CMD_FLAG_FUA, 8192, bytes, sizeof(bytes));
    zeroes = client_requests(client, NBD_CMD_WRITE_ZEROES, 0, 8192, 2048);
    harness_wait(f->harness, has_tried, f->harness);
    assert_int_equal(f->export->state, EXPORT_FAULTED);
    assert_string_equal(f->export->fault.message, "open_error=Input/output error");
    client_is_served(other);
    client_has_nothing(client);
    back = reads(client);
    unlink(f->closed);

    assert_int_equal(client_awaits(client, first), 0);
    assert_int_equal(client_awaits(client, write), 0);
    assert_int_equal(client_awaits(client, zeroes), 0);
    assert_int_equal(client_awaits(client, back), 0);
    memset(bytes, 0, 2048);
    client_reads_back(client, 8192, bytes, sizeof(bytes));
    assert_int_equal(f->export->state, EXPORT_READY);
    assert_int_equal(harness_count_in_log(f->harness, "the test says that it is lost"), 1);
    assert_int_equal(harness_count_in_log(f->harness, "is back"), 1);
    assert_int_equal(buffer_pool_used(f->harness->server->buffers), 0);
}

static void what_the_handler_still_has_ends_before_it_is_closed(void **state)
{
    struct fixture *f = *state;
    struct client *client = client_on(f->harness, "lun");
    uint64_t before, after;

    now(f->hold);
    before = reads(client); /* with the handler, until hold goes */
    harness_settle(f->harness);
    now(f->lost);
    after = reads(client);
    harness_wait(f->harness, is_faulted, f->export);
    harness_settle(f->harness);
    assert_int_equal(f->export->submitted, 2);
    unlink(f->hold);

    assert_int_equal(client_awaits(client, before), 0);
    assert_int_equal(client_awaits(client, after), 0);
    assert_int_equal(f->export->submitted, 0);
}

static void a_loss_that_nobody_waits_for_is_mended_as_well(void **state)
{
    struct fixture *f = *state;
    struct client *client = client_on(f->harness, "lun");

    is_lost_for_a_while(f);
    reads(client);
    harness_wait(f->harness, has_tried, f->harness);
    client_leave(client);
    harness_wait(f->harness, harness_has_no_connection, f->harness);
    assert_int_equal(f->export->connections, 0);
    unlink(f->closed);

    harness_wait(f->harness, is_ready, f->export);
    client_is_served(client_on(f->harness, "lun"));
}

static void a_client_that_comes_meanwhile_is_told_why_it_cannot(void **state)
{
    struct fixture *f = *state;
    struct client *client = client_on(f->harness, "lun"), *late = client_connect(f->harness);
    uint64_t read;

    is_lost_for_a_while(f);
    read = reads(client);
    harness_wait(f->harness, has_tried, f->harness);
    client_greets(late, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
    client_asks(late, NBD_OPT_GO, "lun");
    client_is_told(late, NBD_OPT_GO, NBD_REP_ERR_PLATFORM, "open_error=");
    unlink(f->closed);
    client_goes(late, "lun"); /* tries at once, for all */

    client_is_served(late);
    assert_int_equal(client_awaits(client, read), 0);
}

/* ---- What cannot go on ---- */

static void requests_fail_when_it_does_not_come_back_in_time(void **state)
{
    struct fixture *f = *state;
    struct client *client = client_on(f->harness, "lun");
    uint8_t bytes[512] = { 0 };
    uint64_t cookies[3];

    is_lost_for_a_while(f);
    cookies[0] = reads(client);
    cookies[1] = client_writes(client, 0, 0, bytes, sizeof(bytes));
    cookies[2] = client_requests(client, NBD_CMD_FLUSH, 0, 0, 0);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(client_awaits(client, cookies[i]), NBD_EIO);
    assert_int_equal(connection_in_flight(f->harness->server->connections), 0);
    assert_int_equal(f->export->orphans, 0);
    unlink(f->closed);
    harness_wait(f->harness, is_ready, f->export);

    client_is_served(client);
}

static void a_backstore_that_comes_back_smaller_is_not_the_same(void **state)
{
    struct fixture *f = *state;
    struct client *client = client_on(f->harness, "lun");
    uint64_t read;

    now(f->lost);
    f->export->size += 512; /* as if it had been larger */
    read = reads(client);

    assert_int_equal(client_awaits(client, read), NBD_EIO);
    assert_non_null(strstr(f->export->fault.message, "has come back smaller"));
}

static void removing_it_ends_the_waiting(void **state)
{
    struct fixture *f = *state;
    struct client *client = client_on(f->harness, "lun");
    uint64_t read;

    is_lost_for_a_while(f);
    read = reads(client);
    harness_wait(f->harness, has_tried, f->harness);
    registry_remove(f->export, NULL, NULL);

    assert_int_equal(client_awaits(client, read), NBD_EIO);
    assert_int_equal(client_awaits(client, reads(client)), NBD_EIO);
    client_leave(client);
    harness_wait(f->harness, harness_has_no_connection, f->harness);
}

/* ---- Promises ---- */

static void a_loss_of_changes_that_were_not_flushed_fails_the_next_flush_of_each(void **state)
{
    struct fixture *f = *state;
    struct client *one = client_on(f->harness, "lun"), *two = client_on(f->harness, "lun");
    uint8_t bytes[512] = { 1 };

    assert_int_equal(client_awaits(one, client_writes(one, 0, 0, bytes, sizeof(bytes))), 0);
    now(f->lost);
    assert_int_equal(client_awaits(two, reads(two)), 0);
    for (int i = 0; i < 2; i++) {
        uint32_t error = i == 0 ? NBD_EIO : 0;

        assert_int_equal(client_awaits(one, client_requests(one, NBD_CMD_FLUSH, 0, 0, 0)), error);
        assert_int_equal(client_awaits(two, client_requests(two, NBD_CMD_FLUSH, 0, 0, 0)), error);
    }
    two = client_on(f->harness, "lun");

    assert_int_equal(client_awaits(two, client_requests(two, NBD_CMD_FLUSH, 0, 0, 0)), 0);
}

static void a_loss_of_nothing_fails_no_flush(void **state)
{
    struct fixture *f = *state;
    struct client *client = client_on(f->harness, "lun");
    uint8_t bytes[512] = { 1 };

    assert_int_equal(client_awaits(client, client_writes(client, 0, 0, bytes, sizeof(bytes))), 0);
    assert_int_equal(client_awaits(client, client_requests(client, NBD_CMD_FLUSH, 0, 0, 0)), 0);
    now(f->lost);
    assert_int_equal(client_awaits(client, reads(client)), 0);

    assert_int_equal(client_awaits(client, client_requests(client, NBD_CMD_FLUSH, 0, 0, 0)), 0);
}

static void who_is_fenced_brings_nothing_late(void **state)
{
    struct fixture *f = *state;
    struct client *client = client_on(f->harness, "lun");
    uint8_t bytes[512] = { 1 }, zeroes[512] = { 0 };

    is_lost_for_a_while(f);
    assert_int_not_equal(client_awaits(client, client_writes(client, 0, 0, bytes, 512)), 0);
    assert_int_not_equal(client_awaits(client, client_writes(client, 0, 512, bytes, 512)), 0);
    harness_wait(f->harness, has_tried, f->harness);
    assert_int_equal(client_awaits(client, client_writes(client, 0, 512, bytes, 512)), NBD_EIO);
    unlink(f->closed);
    harness_wait(f->harness, is_ready, f->export);

    client_reads_back(client, 0, zeroes, 512);
    client_reads_back(client, 512, zeroes, 512);
    assert_int_equal(client_awaits(client, client_writes(client, 0, 0, bytes, 512)), 0);
}

static void a_stop_does_not_wait_for_what_is_away(void **state)
{
    struct fixture *f = *state;
    struct client *client = client_on(f->harness, "lun");

    is_lost_for_a_while(f);
    reads(client);
    harness_wait(f->harness, has_tried, f->harness);
    f->harness->server->stopping = true;
    connection_table_drain(f->harness->server->connections);

    client_is_closed(client);
    harness_wait(f->harness, harness_has_no_connection, f->harness);
}

/* ---- Handlers that help themselves ---- */

static void trouble_that_a_handler_reports_is_shown_until_it_is_over(void **state)
{
    struct fixture *f = *state;
    struct client *client = client_on(f->harness, "lun"), *late = client_connect(f->harness);

    now(f->troubled);
    assert_int_equal(client_awaits(client, reads(client)), NBD_ESHUTDOWN);
    assert_int_equal(f->export->state, EXPORT_FAULTED);
    assert_string_equal(f->export->fault.message, "the test says that it is away");
    client_greets(late, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
    client_asks(late, NBD_OPT_GO, "lun");
    client_has_nothing(late); /* it waits */
    unlink(f->troubled);
    assert_int_equal(client_awaits(client, reads(client)), 0);

    assert_int_equal(f->export->state, EXPORT_READY);
    client_takes_infos(late, NBD_OPT_GO, &(struct negotiated){ 0 });
    client_is_served(late);
}

int main(void)
{
#define A_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
#define A_LIMIT_TEST(name) cmocka_unit_test_setup_teardown(name, set_up_with_limit, tear_down)
    const struct CMUnitTest tests[] = {
        A_TEST(what_a_lost_backstore_could_not_finish_is_done_when_it_is_back),
        cmocka_unit_test_setup_teardown(what_the_handler_still_has_ends_before_it_is_closed,
                                        set_up_on_thread, tear_down),
        A_TEST(a_loss_that_nobody_waits_for_is_mended_as_well),
        A_TEST(a_client_that_comes_meanwhile_is_told_why_it_cannot),
        A_LIMIT_TEST(requests_fail_when_it_does_not_come_back_in_time),
        A_LIMIT_TEST(a_backstore_that_comes_back_smaller_is_not_the_same),
        A_TEST(removing_it_ends_the_waiting),
        A_TEST(a_loss_of_changes_that_were_not_flushed_fails_the_next_flush_of_each),
        A_TEST(a_loss_of_nothing_fails_no_flush),
        cmocka_unit_test_setup_teardown(who_is_fenced_brings_nothing_late, set_up_fenced,
                                        tear_down),
        A_TEST(a_stop_does_not_wait_for_what_is_away),
        A_TEST(trouble_that_a_handler_reports_is_shown_until_it_is_over),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
