/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What nbd-cli top shows: short numbers, and the order of rows.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "top.h"

static void rates_are_short_and_never_round_to_a_thousand(void **state)
{
    static const struct { double rate, unit; const char *text; } cases[] = {
        { 0, 1000, "0" }, { 0.04, 1000, "0.0" }, { 9.94, 1000, "9.9" }, { 9.96, 1000, "10" },
        { 999, 1000, "999" }, { 999.9, 1000, "1.0K" }, { 1000, 1000, "1.0K" },
        { 9960, 1000, "10K" }, { 123456, 1000, "123K" }, { 1e6, 1000, "1.0M" },
        { 1023, 1024, "1023" }, { 1024, 1024, "1.0K" }, { 5.0 * (1 << 30), 1024, "5.0G" },
        { 1e30, 1000, "1000000000000E" },
    };
    char text[TOP_TEXT_MAX];

    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++)
        assert_string_equal(top_rate(cases[i].rate, cases[i].unit, text), cases[i].text);
}

static void times_have_the_unit_that_fits(void **state)
{
    static const struct { double seconds; const char *text; } cases[] = {
        { -1, "-" }, { 0, "0.0us" }, { 1.5e-6, "1.5us" }, { 85e-6, "85us" },
        { 999.9e-6, "1.0ms" }, { 0.0123, "12ms" }, { 0.9999, "1.0s" }, { 75, "75s" },
        { 1e300, "1000000s" },
    };
    char text[TOP_TEXT_MAX];

    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++)
        assert_string_equal(top_time(cases[i].seconds, text), cases[i].text);
}

static void add(struct top *top, const char *name, double requests, uint64_t before)
{
    struct top_row *row = g_new0(struct top_row, 1);

    row->name = g_strdup(name);
    row->note = g_strdup("");
    row->state = "ready";
    row->requests = requests;
    row->totals.requests = before;
    g_ptr_array_add(top->exports, row);
}

static const char *order(const struct top *top)
{
    static char text[64];

    text[0] = '\0';
    for (guint i = 0; i < top->exports->len; i++)
        g_strlcat(text, ((struct top_row *)g_ptr_array_index(top->exports, i))->name,
                  sizeof(text));
    return text;
}

static void the_busiest_come_first_then_those_that_were_then_names(void **state)
{
    struct top top;

    (void)state;
    top_init(&top);
    add(&top, "d", 0, 0);
    add(&top, "c", 0, 0);
    add(&top, "b", 0, 7);
    add(&top, "a", 0, 5);
    add(&top, "z", 2, 2);
    top_sort(&top);
    assert_string_equal(order(&top), "zbacd");
    top.sort = TOP_BY_NAME;
    top_sort(&top);
    assert_string_equal(order(&top), "abcdz");
    top_clear(&top);
}

static void each_order_has_a_name_that_finds_it(void **state)
{
    enum top_sort found;

    (void)state;
    for (unsigned i = 0; i < N_TOP_SORTS; i++) {
        assert_true(top_sort_find(top_sort_name((enum top_sort)i), &found));
        assert_int_equal(found, i);
    }
    assert_false(top_sort_find("", &found));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rates_are_short_and_never_round_to_a_thousand),
        cmocka_unit_test(times_have_the_unit_that_fits),
        cmocka_unit_test(the_busiest_come_first_then_those_that_were_then_names),
        cmocka_unit_test(each_order_has_a_name_that_finds_it),
    };

    return cmocka_run_group_tests_name("top", tests, NULL, NULL);
}
