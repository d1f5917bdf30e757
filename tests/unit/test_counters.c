/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Counters of requests and their sums, and the text that a scrape gets of them.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include <glib.h>

#include "counters.h"
#include "exposition.h"
#include "nbd_protocol.h"

/* ---- Histograms ---- */

static void a_duration_falls_into_the_first_bucket_that_holds_it(void **state)
{
    struct histogram h = { 0 };

    (void)state;
    histogram_add(&h, 0, 1);
    histogram_add(&h, 10000, 1);
    histogram_add(&h, 10001, 3);
    histogram_add(&h, INT64_C(10000000000), 1);
    histogram_add(&h, INT64_C(10000000001), 2);
    histogram_add(&h, -5, 1); /* a clock that jumped */

    assert_int_equal(h.buckets[0], 3);
    assert_int_equal(h.buckets[1], 3);
    assert_int_equal(h.buckets[HISTOGRAM_BOUNDS - 1], 1);
    assert_int_equal(h.buckets[HISTOGRAM_BOUNDS], 2);
    assert_int_equal(histogram_count(&h), 9);
    assert_int_equal(h.sum_ns, 10000 + 3 * 10001 + UINT64_C(10000000000) +
                                   2 * UINT64_C(10000000001));
}

static void the_bounds_and_their_texts_are_the_same_numbers(void **state)
{
    (void)state;
    for (unsigned i = 0; i < HISTOGRAM_BOUNDS; i++) {
        double seconds = g_ascii_strtod(histogram_bound_texts[i], NULL);

        assert_int_equal((int64_t)(seconds * 1e9 + 0.5), histogram_bounds_ns[i]);
        assert_true(i == 0 || histogram_bounds_ns[i] > histogram_bounds_ns[i - 1]);
    }
}

/* ---- Kinds ---- */

static void every_command_and_error_has_its_kind(void **state)
{
    (void)state;
    assert_int_equal(byte_kind_of(NBD_CMD_READ), BYTES_READ);
    assert_int_equal(byte_kind_of(NBD_CMD_WRITE), BYTES_WRITTEN);
    assert_int_equal(byte_kind_of(NBD_CMD_WRITE_ZEROES), BYTES_ZEROED);
    assert_int_equal(byte_kind_of(NBD_CMD_TRIM), BYTES_TRIMMED);
    assert_int_equal(byte_kind_of(NBD_CMD_FLUSH), N_BYTE_KINDS);
    assert_int_equal(byte_kind_of(NBD_CMD_BLOCK_STATUS), N_BYTE_KINDS);
    assert_int_equal(error_kind_of(NBD_ENOSPC), ERROR_ENOSPC);
    assert_int_equal(error_kind_of(NBD_ESHUTDOWN), ERROR_ESHUTDOWN);
    assert_int_equal(error_kind_of(12345), ERROR_EIO);
    assert_int_equal(latency_classes[NBD_CMD_TRIM], LATENCY_ZERO);
    assert_int_equal(latency_classes[NBD_CMD_CACHE], LATENCY_NONE);
    assert_null(command_name(NBD_CMD_DISC));
    assert_null(command_name(200));
}

/* ---- Sums ---- */

static void sums_grow_by_what_was_counted_since(void **state)
{
    struct sums_table *table = sums_table_new();
    struct export_tally a = { 0 }, b = { 0 };
    struct counter_sums total;

    (void)state;
    tally_init_latencies(&a);
    a.now.requests[NBD_CMD_READ] = 5;
    a.latencies->now.of[LATENCY_READ].buckets[2] = 5;
    b.now.requests[NBD_CMD_READ] = 2;
    sums_add(table, "file", &a);
    sums_add(table, "file", &a);
    sums_add(table, "file", &b);
    a.now.requests[NBD_CMD_READ] = 6;
    sums_add(table, "file", &a);
    tally_clear(&a); /* the export is removed: what it counted stays */
    sums_add(table, "null", &b);

    assert_int_equal(sums_find(table, "file")->counters.requests[NBD_CMD_READ], 8);
    assert_int_equal(sums_find(table, "file")->latencies.of[LATENCY_READ].buckets[2], 5);
    assert_int_equal(sums_find(table, "null")->counters.requests[NBD_CMD_READ], 0);
    assert_null(sums_find(table, "ceph"));
    assert_string_equal(sums_next(table, NULL), "file");
    assert_string_equal(sums_next(table, "file"), "null");
    assert_null(sums_next(table, "null"));
    sums_total(table, &total);
    assert_int_equal(counters_requests(&total.counters), 8);
    sums_table_free(table);
}

/* ---- The text ---- */

static struct exposition *new_exposition(bool openmetrics)
{
    struct exposition *e = g_new0(struct exposition, 1);

    e->text = g_string_new(NULL);
    e->openmetrics = openmetrics;
    return e;
}

static void is_text(struct exposition *e, const char *expected)
{
    assert_string_equal(e->text->str, expected);
    g_string_free(e->text, TRUE);
    g_free(e);
}

static void a_counter_is_named_as_each_format_wants_it(void **state)
{
    (void)state;
    for (int openmetrics = 0; openmetrics < 2; openmetrics++) {
        struct exposition *e = new_exposition(openmetrics);

        exposition_family(e, "x_bytes", METRIC_COUNTER, "bytes", "Words.");
        exposition_labels(e, "a", "1", "b", "2", NULL);
        exposition_count(e, UINT64_MAX);
        exposition_end(e);
        is_text(e, openmetrics ? "# TYPE x_bytes counter\n# UNIT x_bytes bytes\n"
                                 "# HELP x_bytes Words.\n"
                                 "x_bytes_total{a=\"1\",b=\"2\"} 18446744073709551615\n# EOF\n"
                               : "# TYPE x_bytes_total counter\n# HELP x_bytes_total Words.\n"
                                 "x_bytes_total{a=\"1\",b=\"2\"} 18446744073709551615\n");
    }
}

static void information_is_a_gauge_in_the_older_format(void **state)
{
    struct exposition *e = new_exposition(false);

    (void)state;
    exposition_family(e, "x", METRIC_INFO, "", "Words.");
    exposition_count(e, 1);
    is_text(e, "# TYPE x_info gauge\n# HELP x_info Words.\nx_info 1\n");
}

static void values_of_labels_are_escaped(void **state)
{
    struct exposition *e = new_exposition(true);

    (void)state;
    exposition_family(e, "x", METRIC_GAUGE, "", "Words.");
    exposition_labels(e, "name", "a\"b\\c\nd", NULL);
    exposition_number(e, 0.25);
    is_text(e, "# TYPE x gauge\n# HELP x Words.\nx{name=\"a\\\"b\\\\c\\nd\"} 0.250000\n");
}

static void a_label_that_is_too_long_is_cut_and_still_ends(void **state)
{
    struct exposition *e = new_exposition(true);
    g_autofree char *much = g_strnfill(20000, '"');

    (void)state;
    exposition_family(e, "x", METRIC_GAUGE, "", "Words.");
    exposition_labels(e, "name", much, "other", "left out", NULL);
    exposition_count(e, 1);
    assert_true(g_str_has_suffix(e->text->str, "\\\"\"} 1\n"));
    assert_true(e->text->len < 9000);
    g_string_free(e->text, TRUE);
    g_free(e);
}

static void a_histogram_has_cumulative_buckets_a_count_and_a_sum(void **state)
{
    struct exposition *e = new_exposition(true);
    struct histogram h = { 0 };

    (void)state;
    histogram_add(&h, 20000, 2);
    histogram_add(&h, INT64_C(20000000000), 1);
    exposition_family(e, "x_seconds", METRIC_HISTOGRAM, "seconds", "Words.");
    exposition_labels(e, "a", "1", NULL);
    exposition_histogram(e, &h);
    assert_non_null(strstr(e->text->str, "x_seconds_bucket{a=\"1\",le=\"1e-05\"} 0\n"
                                         "x_seconds_bucket{a=\"1\",le=\"2.5e-05\"} 2\n"));
    assert_non_null(strstr(e->text->str, "x_seconds_bucket{a=\"1\",le=\"10.0\"} 2\n"
                                         "x_seconds_bucket{a=\"1\",le=\"+Inf\"} 3\n"
                                         "x_seconds_count{a=\"1\"} 3\n"
                                         "x_seconds_sum{a=\"1\"} 20.000040000\n"));
    g_string_free(e->text, TRUE);
    g_free(e);
}

static void the_older_format_is_for_those_who_know_no_other(void **state)
{
    (void)state;
    assert_false(exposition_wants_old(""));
    assert_false(exposition_wants_old("*/*"));
    assert_false(exposition_wants_old("application/openmetrics-text;version=1.0.0,text/plain"));
    assert_true(exposition_wants_old("text/plain;version=0.0.4"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_duration_falls_into_the_first_bucket_that_holds_it),
        cmocka_unit_test(the_bounds_and_their_texts_are_the_same_numbers),
        cmocka_unit_test(every_command_and_error_has_its_kind),
        cmocka_unit_test(sums_grow_by_what_was_counted_since),
        cmocka_unit_test(a_counter_is_named_as_each_format_wants_it),
        cmocka_unit_test(information_is_a_gauge_in_the_older_format),
        cmocka_unit_test(values_of_labels_are_escaped),
        cmocka_unit_test(a_label_that_is_too_long_is_cut_and_still_ends),
        cmocka_unit_test(a_histogram_has_cumulative_buckets_a_count_and_a_sum),
        cmocka_unit_test(the_older_format_is_for_those_who_know_no_other),
    };

    return cmocka_run_group_tests_name("counters", tests, NULL, NULL);
}
