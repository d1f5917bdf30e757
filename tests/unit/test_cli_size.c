/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Sizes, times and numbers as people write them.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <string.h>

#include "size.h"

static void a_size_is_read_to_the_byte(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } cases[] = {
        {"0", 0},
        {"1", 1},
        {"512", 512},
        {"512B", 512},
        {"512b", 512},
        {"1K", 1024},
        {"1k", 1024},
        {"1KB", 1024},
        {"1KiB", 1024},
        {"1kib", 1024},
        {"1M", UINT64_C(1) << 20},
        {"10G", UINT64_C(10) << 30},
        {"2T", UINT64_C(2) << 40},
        {"3PiB", UINT64_C(3) << 50},
        {"7E", UINT64_C(7) << 60},
        {"1.5K", 1536},
        {"1.50K", 1536},
        {"1.5000000000000000000000000000000000000000000000000K", 1536},
        {"0.5K", 512},
        {"0.0009765625K", 1},
        {"0.00000095367431640625M", 1},
        {"7.5E", UINT64_C(15) << 59},
        {"1.0", 1},
        {"0Y", 0},
        {"2147483648", UINT64_C(1) << 31},
        {"4294967296", UINT64_C(1) << 32},
        {"9223372036854775807", INT64_MAX},
        {"000000000000000000000000000000010", 10},
    };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t bytes = 77;
        const char *problem = size_parse(cases[i].text, &bytes);

        if (problem != NULL || bytes != cases[i].bytes)
            fail_msg("'%s' gave %" PRIu64 ", %s", cases[i].text, bytes, problem);
    }
}

static void a_wrong_size_says_what_is_wrong(void **state)
{
    static const struct {
        const char *text, *problem;
    } cases[] = {
        {"", "empty"},
        {"-1", "negative"},
        {"+1", "digit"},
        {" 1", "digit"},
        {"x", "digit"},
        {".5K", "digit"},
        {"1X", "unknown unit"},
        {"1 K", "unknown unit"},
        {"1KX", "unknown unit"},
        {"1KiBB", "unknown unit"},
        {"1BB", "unknown unit"},
        {"1BiB", "unknown unit"},
        {"1Ki", "unknown unit"},
        {"1e3", "unknown unit"},
        {"0x10", "unknown unit"},
        {"1.", "no digits"},
        {"1.K", "no digits"},
        {"1.5", "whole number of bytes"},
        {"1.0001K", "whole number of bytes"},
        {"0.3G", "whole number of bytes"},
        {"1.00000000000000000000000000000000000000001K", "too many digits"},
        {"8E", "too large"},
        {"9223372036854775808", "too large"},
        {"18446744073709551616", "too large"},
        {"99999999999999999999999999999999999999999999", "too large"},
        {"1Z", "too large"},
        {"99Y", "too large"},
        {"0.5Y", "too large"},
        {"16777216T", "too large"},
    };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t bytes = 77;
        const char *problem = size_parse(cases[i].text, &bytes);

        if (problem == NULL || strstr(problem, cases[i].problem) == NULL || bytes != 77)
            fail_msg("'%s' gave %" PRIu64 ", %s", cases[i].text, bytes, problem);
    }
}

static void a_printed_size_can_be_read_again(void **state)
{
    static const uint64_t sizes[] = {0, 1, 511, 1024, 1536, 1000000, UINT64_C(10) << 30,
                                     UINT64_C(7) << 60, INT64_MAX};
    char text[SIZE_TEXT_MAX];
    (void)state;

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        uint64_t bytes = 77;

        assert_null(size_parse(size_format(sizes[i], text), &bytes));
        assert_true(bytes == sizes[i]);
    }
    assert_string_equal(size_format(UINT64_C(10) << 30, text), "10G");
    assert_string_equal(size_format(1536, text), "1536");
}

static void a_time_is_in_seconds_or_says_its_unit(void **state)
{
    static const struct {
        const char *text;
        int64_t seconds; /* -1: refused */
    } cases[] = {
        {"0", 0},     {"30", 30},   {"30s", 30}, {"5m", 300},          {"2h", 7200},
        {"", -1},     {"-1", -1},   {"m", -1},   {"1d", -1},           {"1.5h", -1},
        {"1ms", -1},  {"1 s", -1},  {"x", -1},   {"4294967295", 4294967295},
        {"4294967296", -1}, {"1193047h", -1}, {"99999999999999999999999", -1},
    };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t seconds = 0;
        const char *problem = seconds_parse(cases[i].text, &seconds);

        if ((problem == NULL) != (cases[i].seconds >= 0) ||
            (problem == NULL && seconds != (uint64_t)cases[i].seconds))
            fail_msg("'%s' gave %" PRIu64 ", %s", cases[i].text, seconds, problem);
    }
}

static void a_number_has_digits_only(void **state)
{
    static const char *const wrong[] = {"", "-1", "x", "1x", "1.0", " 1", "18446744073709551616"};
    uint64_t number = 77;
    (void)state;

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_non_null(number_parse(wrong[i], &number));
    assert_int_equal(number, 77);
    assert_null(number_parse("18446744073709551615", &number));
    assert_true(number == UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_size_is_read_to_the_byte),
        cmocka_unit_test(a_wrong_size_says_what_is_wrong),
        cmocka_unit_test(a_printed_size_can_be_read_again),
        cmocka_unit_test(a_time_is_in_seconds_or_says_its_unit),
        cmocka_unit_test(a_number_has_digits_only),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
