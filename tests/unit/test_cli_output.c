/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Tables, JSON and the words for what the daemon answers.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "answer.h"
#include "output.h"
#include "progress.h"

static char *printed(const struct table *table)
{
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);

    table_print(table, out);
    fclose(out);
    return text;
}

static void columns_are_as_wide_as_their_widest_cell(void **state)
{
    static const char *const titles[] = {"DEVICES", "STATE", "N", NULL};
    struct table *table = table_new(titles);
    char *text;
    (void)state;

    table_add(table, "/dev/nbd0");
    table_add(table, "x");
    table_add_format(table, "%d", 1);
    table_add(table, "\xc3\xa4\xc3\xb6");
    table_add(table, NULL);
    table_add(table, "");
    text = printed(table);

    assert_string_equal(text, "DEVICES    STATE  N\n"
                              "/dev/nbd0  x      1\n"
                              "\xc3\xa4\xc3\xb6         NA     NA\n");
    free(text);
    table_free(table);
}

static void an_empty_table_is_its_titles(void **state)
{
    static const char *const titles[] = {"A", "B", NULL};
    struct table *table = table_new(titles);
    char *text = printed(table);
    (void)state;

    assert_string_equal(text, "A  B\n");
    free(text);
    table_free(table);
}

static void control_characters_do_not_reach_the_terminal(void **state)
{
    static const char *const titles[] = {"A", NULL};
    struct table *table = table_new(titles);
    char *text;
    (void)state;

    table_add(table, "x\ny\x1b[2J");
    text = printed(table);

    assert_string_equal(text, "A\nx?y?[2J\n");
    free(text);
    table_free(table);
}

static void expect_member(json_object *object, const char *key, const char *json)
{
    json_object *member;

    if (!json_object_object_get_ex(object, key, &member))
        fail_msg("no member '%s'", key);
    assert_string_equal(json_object_to_json_string_ext(member, JSON_C_TO_STRING_PLAIN), json);
}

static void an_export_becomes_json(void **state)
{
    nr_opt opt = {.key = (char *)"cache", .value = (char *)"none"};
    nr_mapping mapping = {
        .cookie = (char *)"c0ffee",
        .state = NR_M_DEAD,
        .client = (char *)"host1",
        .device = (char *)"/dev/nbd3",
        .since = 1,
        .connections = 2,
    };
    nr_export x = {
        .id = (char *)"1",
        .name = (char *)"say \"hi\"",
        .description = (char *)"",
        .store = {.handler = (char *)"file", .target = (char *)"a/b",
                  .opts = {.opts_len = 1, .opts_val = &opt}},
        .origin_file = (char *)"",
        .state = NR_X_FAULTED,
        .created = INT64_C(1700000000) * 1000000,
        .size = UINT64_C(1) << 62,
        .flags = 3,
        .mappings = {.mappings_len = 1, .mappings_val = &mapping},
        .job = (char *)"",
        .fault = {.sys_errno = 5, .message = (char *)"disk gone"},
    };
    json_object *object = export_json(&x), *mappings;
    (void)state;

    expect_member(object, "name", "\"say \\\"hi\\\"\"");
    expect_member(object, "description", "null");
    expect_member(object, "target", "\"a\\/b\"");
    expect_member(object, "opts", "{\"cache\":\"none\"}");
    expect_member(object, "state", "\"faulted\"");
    expect_member(object, "created", "\"2023-11-14T22:13:20Z\"");
    expect_member(object, "size_bytes", "4611686018427387904");
    expect_member(object, "flag_names", "[\"read-only\"]");
    expect_member(object, "fault", "{\"errno\":5,\"message\":\"disk gone\"}");
    assert_true(json_object_object_get_ex(object, "mappings", &mappings));
    expect_member(json_object_array_get_idx(mappings, 0), "state", "\"dead\"");
    expect_member(json_object_array_get_idx(mappings, 0), "device", "\"\\/dev\\/nbd3\"");
    json_object_put(object);
}

static void a_job_without_an_end_has_nulls(void **state)
{
    nr_job job = {
        .id = (char *)"7",
        .kind = NR_J_CREATE,
        .state = NR_J_RUNNING,
        .export_name = (char *)"x",
        .progress = {.eta_s = UINT64_MAX},
        .last_error = {.message = (char *)""},
    };
    json_object *object = job_json(&job), *progress;
    (void)state;

    expect_member(object, "ended", "null");
    expect_member(object, "error", "null");
    assert_true(json_object_object_get_ex(object, "progress", &progress));
    expect_member(progress, "eta_s", "null");
    json_object_put(object);
}

static void values_of_newer_daemons_are_unknown(void **state)
{
    (void)state;

    assert_string_equal(export_state_word((nr_export_state)99), "unknown");
    assert_string_equal(map_state_word((nr_map_state)-1), "unknown");
    assert_string_equal(job_kind_word((nr_job_kind)99), "unknown");
    assert_string_equal(job_state_word((nr_job_state)99), "unknown");
    assert_string_equal(origin_word((nr_origin)99), "unknown");
}

static void invalid_utf8_becomes_valid_json(void **state)
{
    json_object *object = json_object_new_object(), *again;
    (void)state;

    json_put_text(object, "key", "a\xff" "b");
    again = json_tokener_parse(json_object_to_json_string(object));

    assert_non_null(again);
    json_object_put(again);
    json_object_put(object);
}

static void an_endpoint_is_written_as_an_address(void **state)
{
    static const struct {
        nr_endpoint endpoint;
        const char *text;
    } cases[] = {
        {{(char *)"10.0.0.1", 24111}, "10.0.0.1:24111"},
        {{(char *)"::", 24111}, "[::]:24111"},
        {{(char *)"unix:/run/x", 0}, "unix:/run/x"},
        {{(char *)"", 24111}, ":24111"},
    };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *text = endpoint_text(&cases[i].endpoint);

        assert_string_equal(text, cases[i].text);
        free(text);
    }
}

static void progress_tells_part_size_rate_and_time(void **state)
{
    static const struct {
        uint64_t done, total;
        int64_t elapsed_ms;
        const char *text;
    } cases[] = {
        {0, 0, 0, "0B"},
        {512, 0, 1000, "512B"},
        {0, 1 << 30, 0, "  0% of 1.0G"},
        {256 << 20, 1 << 30, 2000, " 25% of 1.0G, 128.0M/s, 6 s left"},
        {1 << 30, 1 << 30, 4000, "100% of 1.0G, 256.0M/s"},
        {2, 1, 1000, "100% of 1B, 2B/s"},
        {UINT64_MAX, UINT64_MAX, 1, "100% of 16.0E, 16000.0E/s"},
    };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[PROGRESS_TEXT_MAX];

        assert_string_equal(
            progress_format(cases[i].done, cases[i].total, cases[i].elapsed_ms, text),
            cases[i].text);
    }
}

/* What two calls write to a stderr that is a file. */
static char *progress_in_a_file(int64_t line_every_ms)
{
    int file = memfd_create("stderr", MFD_CLOEXEC), before = dup(STDERR_FILENO);
    char *text = g_malloc0(4096);

    dup2(file, STDERR_FILENO);
    progress_line_every_ms = line_every_ms;
    progress_show("create", 1, 4);
    progress_show("create", 4, 4);
    progress_end();
    dup2(before, STDERR_FILENO);
    assert_true(pread(file, text, 4095, 0) >= 0);
    close(before);
    close(file);
    return text;
}

static void progress_in_a_file_is_a_line_now_and_then(void **state)
{
    g_autofree char *quick = progress_in_a_file(10000), *slow = progress_in_a_file(0);
    (void)state;

    assert_string_equal(quick, "");
    assert_true(g_str_has_prefix(slow, "create:  25% of 4B"));
    assert_non_null(strstr(slow, "\ncreate: 100% of 4B"));
    assert_null(strchr(slow, '\r'));
}

static void states_have_colours(void **state)
{
    (void)state;

    assert_int_equal(state_colour("ready"), COLOUR_GOOD);
    assert_int_equal(state_colour("Live"), COLOUR_GOOD);
    assert_int_equal(state_colour("Faulted"), COLOUR_BAD);
    assert_int_equal(state_colour("draining"), COLOUR_BUSY);
    assert_int_equal(state_colour("Created"), COLOUR_NONE);
    assert_int_equal(state_colour("NA"), COLOUR_NONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_are_as_wide_as_their_widest_cell),
        cmocka_unit_test(an_empty_table_is_its_titles),
        cmocka_unit_test(control_characters_do_not_reach_the_terminal),
        cmocka_unit_test(an_export_becomes_json),
        cmocka_unit_test(a_job_without_an_end_has_nulls),
        cmocka_unit_test(values_of_newer_daemons_are_unknown),
        cmocka_unit_test(invalid_utf8_becomes_valid_json),
        cmocka_unit_test(an_endpoint_is_written_as_an_address),
        cmocka_unit_test(progress_tells_part_size_rate_and_time),
        cmocka_unit_test(progress_in_a_file_is_a_line_now_and_then),
        cmocka_unit_test(states_have_colours),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
