/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Mappings: their states and leases.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "log.h"
#include "mapping.h"
#include "server.h"

static const char cookie_1[] = "0b2e8c60-7d2f-4b55-8c66-3b1c6f1f2a77";

struct fixture {
    struct server server;
    struct mapping_table *table;
    struct export export; /* only what mapping.c looks at */
    bool table_is_gone;
};

static int set_up(void **state)
{
    struct fixture *f = g_new0(struct fixture, 1);

    log_set_level(NBD_LOG_ERROR);
    f->server.loop = loop_new();
    assert_non_null(f->server.loop);
    f->table = mapping_table_new(&f->server);
    mapping_table_set_lease_ms(f->table, 5);
    f->export.name = (char *)"disk1";
    f->export.mappings = g_ptr_array_new();
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    if (!f->table_is_gone)
        mapping_table_free(f->table);
    g_ptr_array_free(f->export.mappings, TRUE);
    loop_free(f->server.loop);
    g_free(f);
    return 0;
}

/* Longer than any lease here. */
static void lease_ends(struct fixture *f)
{
    event_base_loopexit(loop_base(f->server.loop), &(struct timeval){ .tv_usec = 25000 });
    event_base_dispatch(loop_base(f->server.loop));
}

static struct mapping *leased(struct fixture *f)
{
    return mapping_new(f->table, &f->export, &(struct mapping_spec){ .client = "host-a" });
}

static struct mapping *restored(struct fixture *f)
{
    struct mapping *mapping =
        mapping_restore(f->table, &f->export,
                        &(struct mapping_spec){ .cookie = cookie_1, .client = "host-a",
                                                .device = "/dev/nbd3" }, NULL);

    assert_non_null(mapping);
    return mapping;
}

static struct mapping *by_io_name(struct fixture *f, const char *cookie)
{
    g_autofree char *name = g_strconcat(MAPPING_IO_PREFIX, cookie, NULL);

    return mapping_for_io_name(f->table, name);
}

static void a_new_mapping_may_be_connected_to_while_its_lease_runs(void **state)
{
    struct fixture *f = *state;
    struct mapping *mapping = leased(f);
    g_autofree char *cookie = g_strdup(mapping->cookie);

    assert_int_equal(mapping_state(mapping), MAPPING_STATE_MAPPING);
    assert_true(g_uuid_string_is_valid(cookie));
    assert_ptr_equal(by_io_name(f, cookie), mapping);
    assert_null(mapping_for_io_name(f->table, cookie));
    assert_null(mapping_for_io_name(f->table, "@map/"));
    assert_null(by_io_name(f, cookie_1));
    assert_int_equal(f->export.mappings->len, 1);

    lease_ends(f);
    assert_null(mapping_find(f->table, cookie));
    assert_null(by_io_name(f, cookie));
    assert_int_equal(f->export.mappings->len, 0);
    assert_int_equal(mapping_count(f->table), 0);
}

static void a_confirmed_mapping_stays(void **state)
{
    struct fixture *f = *state;
    struct mapping *mapping = leased(f);

    mapping_connected(mapping);
    mapping_commit(mapping, "/dev/nbd0");
    lease_ends(f);

    assert_int_equal(mapping_state(mapping), MAPPING_STATE_LIVE);
    assert_string_equal(mapping->device, "/dev/nbd0");
    assert_null(by_io_name(f, mapping->cookie));
    mapping_disconnected(mapping);
    assert_int_equal(mapping_state(mapping), MAPPING_STATE_DEAD);
}

static void an_unconfirmed_mapping_with_a_client_goes_when_it_leaves(void **state)
{
    struct fixture *f = *state;
    struct mapping *mapping = leased(f);

    mapping_connected(mapping);
    lease_ends(f);
    assert_int_equal(mapping_count(f->table), 1);
    assert_null(by_io_name(f, mapping->cookie));

    mapping_disconnected(mapping);
    assert_int_equal(mapping_count(f->table), 0);
}

static void a_dead_mapping_is_resumed_within_a_lease(void **state)
{
    struct fixture *f = *state;
    struct mapping *mapping = restored(f);

    assert_int_equal(mapping_state(mapping), MAPPING_STATE_DEAD);
    assert_null(by_io_name(f, cookie_1));

    mapping_lease(mapping);
    assert_true(mapping->resuming);
    assert_ptr_equal(by_io_name(f, cookie_1), mapping);
    lease_ends(f);
    assert_false(mapping->resuming);
    assert_null(by_io_name(f, cookie_1));
    assert_int_equal(mapping_state(mapping), MAPPING_STATE_DEAD);

    mapping_lease(mapping);
    mapping_connected(mapping);
    mapping_commit(mapping, mapping->device);
    assert_int_equal(mapping_state(mapping), MAPPING_STATE_LIVE);
    assert_string_equal(mapping->device, "/dev/nbd3");
    mapping_disconnected(mapping);
}

static void an_unmap_that_does_not_finish_is_forgotten(void **state)
{
    struct fixture *f = *state;
    struct mapping *mapping = restored(f);

    mapping_lease(mapping);
    mapping_connected(mapping);
    mapping_begin_unmap(mapping);
    assert_int_equal(mapping_state(mapping), MAPPING_STATE_UNMAPPING);
    assert_null(by_io_name(f, cookie_1));

    lease_ends(f);
    assert_int_equal(mapping_state(mapping), MAPPING_STATE_LIVE);
    mapping_disconnected(mapping);
}

static void a_commit_can_be_taken_back(void **state)
{
    struct fixture *f = *state;
    struct mapping *mapping = leased(f);

    mapping_commit(mapping, "/dev/nbd0");
    mapping_uncommit(mapping);
    assert_int_equal(mapping_state(mapping), MAPPING_STATE_MAPPING);
    lease_ends(f);
    assert_int_equal(mapping_count(f->table), 0);
}

static void a_removed_mapping_lives_on_for_its_connection(void **state)
{
    struct fixture *f = *state;
    struct mapping *mapping = leased(f);

    mapping_connected(mapping);
    mapping_connected(mapping);
    mapping_remove(mapping);
    assert_int_equal(mapping_count(f->table), 0);
    assert_int_equal(f->export.mappings->len, 0);
    mapping_disconnected(mapping);
    assert_int_equal(mapping->connected, 1);
    mapping_disconnected(mapping);
}

static void a_table_may_go_before_the_connections(void **state)
{
    struct fixture *f = *state;
    struct mapping *mapping = leased(f);

    restored(f);
    mapping_connected(mapping);
    mapping_table_free(f->table);
    f->table_is_gone = true;
    mapping_disconnected(mapping);
}

static void junk_and_repeated_cookies_are_not_restored(void **state)
{
    struct fixture *f = *state;
    struct mapping_spec junk = { .cookie = "not a cookie" };
    struct mapping_spec same = { .cookie = cookie_1 };
    struct mapping_spec none = { .device = "/dev/nbd1" };
    struct nbd_failure why = { 0 };

    restored(f);
    assert_null(mapping_restore(f->table, &f->export, &junk, &why));
    assert_non_null(strstr(why.message, "disk1"));
    assert_null(mapping_restore(f->table, &f->export, &same, &why));
    assert_non_null(strstr(why.message, cookie_1));
    assert_non_null(mapping_restore(f->table, &f->export, &none, &why));
}

static void a_device_is_found_when_it_is_the_only_one(void **state)
{
    struct fixture *f = *state;
    struct mapping *mapping = restored(f);
    struct mapping_spec elsewhere = { .client = "host-b", .device = "/dev/nbd3" };
    unsigned count;

    assert_ptr_equal(mapping_find_device(f->table, "/dev/nbd3", "", &count), mapping);
    assert_null(mapping_find_device(f->table, "/dev/nbd4", "", &count));
    assert_int_equal(count, 0);

    assert_non_null(mapping_restore(f->table, &f->export, &elsewhere, NULL));
    assert_null(mapping_find_device(f->table, "/dev/nbd3", NULL, &count));
    assert_int_equal(count, 2);
    assert_ptr_equal(mapping_find_device(f->table, "/dev/nbd3", "host-a", &count), mapping);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_new_mapping_may_be_connected_to_while_its_lease_runs),
        TEST(a_confirmed_mapping_stays),
        TEST(an_unconfirmed_mapping_with_a_client_goes_when_it_leaves),
        TEST(a_dead_mapping_is_resumed_within_a_lease),
        TEST(an_unmap_that_does_not_finish_is_forgotten),
        TEST(a_commit_can_be_taken_back),
        TEST(a_removed_mapping_lives_on_for_its_connection),
        TEST(a_table_may_go_before_the_connections),
        TEST(junk_and_repeated_cookies_are_not_restored),
        TEST(a_device_is_found_when_it_is_the_only_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
