/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Sizes in powers of 1024 and times in seconds, read and written exactly: no floating point,
 * so that what cannot be kept to the byte is an error and never a near miss.
 */
#include "size.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <strings.h>

typedef unsigned __int128 wide;

#define FRACTION_DIGITS_MAX 38 /* as many as fit into 128 bits */

static const char units[] = "BKMGTPEZY";

/* A number as it was written: digits, and fraction / 10^fraction_digits. */
struct decimal {
    wide whole;
    wide fraction;
    int fraction_digits;
};

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Read digits up to a value that can still be shifted by 60 bits. */
static const char *read_whole(const char **text, wide *ret_value)
{
    wide value = 0;

    if (!is_digit(**text))
        return "does not start with a digit";
    for (; is_digit(**text); (*text)++) {
        value = value * 10 + (wide)(**text - '0');
        if (value > UINT64_MAX)
            return "is too large; sizes end at 2^63-1 bytes";
    }
    *ret_value = value;
    return NULL;
}

static const char *read_fraction(const char **text, struct decimal *number)
{
    int zeros = 0;

    if (!is_digit(**text))
        return "has no digits after the point";
    for (; is_digit(**text); (*text)++) {
        if (**text == '0') {
            zeros++;
            continue;
        }
        number->fraction_digits += zeros + 1;
        if (number->fraction_digits > FRACTION_DIGITS_MAX)
            return "has too many digits after the point";
        for (; zeros > 0; zeros--)
            number->fraction *= 10;
        number->fraction = number->fraction * 10 + (wide)(**text - '0');
    }
    return NULL;
}

/* The power of two of the unit that *text starts with, -1 when there is no such unit. */
static int read_unit(const char **text)
{
    int power = 0;

    if (**text == '\0')
        return 0;
    while (units[power] != '\0' && strncasecmp(*text, &units[power], 1) != 0)
        power++;
    if (units[power] == '\0')
        return -1;
    (*text)++;
    if (power > 0) {
        if (strncasecmp(*text, "iB", 2) == 0)
            *text += 2;
        else if (strncasecmp(*text, "B", 1) == 0)
            *text += 1;
    }
    return power * 10;
}

/* fraction / 10^digits * 2^shift is whole only when 5^digits divides the fraction; what is
 * left is below 2^digits. */
static const char *scale_fraction(const struct decimal *number, int shift, wide *ret_bytes)
{
    wide rest = number->fraction;
    int digits = number->fraction_digits;

    for (int i = 0; i < digits; i++) {
        if (rest % 5 != 0)
            return "is not a whole number of bytes";
        rest /= 5;
    }
    if (digits > shift) {
        if ((rest & (((wide)1 << (digits - shift)) - 1)) != 0)
            return "is not a whole number of bytes";
        rest >>= digits - shift;
    } else {
        rest <<= shift - digits;
    }
    *ret_bytes = rest;
    return NULL;
}

const char *size_parse(const char *text, uint64_t *ret_bytes)
{
    struct decimal number = {0};
    const char *problem;
    wide fraction_bytes, bytes;
    int shift;

    if (*text == '\0')
        return "is empty";
    if (*text == '-')
        return "is negative";
    problem = read_whole(&text, &number.whole);
    if (problem == NULL && *text == '.') {
        text++;
        problem = read_fraction(&text, &number);
    }
    if (problem != NULL)
        return problem;
    shift = read_unit(&text);
    if (shift < 0 || *text != '\0')
        return "has an unknown unit; units are B K M G T P E, each also with B or iB";
    if (shift > 60 && (number.whole != 0 || number.fraction != 0))
        return "is too large; sizes end at 2^63-1 bytes";
    if (shift > 60)
        shift = 0;
    problem = scale_fraction(&number, shift, &fraction_bytes);
    if (problem != NULL)
        return problem;
    bytes = (number.whole << shift) + fraction_bytes;
    if (bytes > INT64_MAX)
        return "is too large; sizes end at 2^63-1 bytes";
    *ret_bytes = (uint64_t)bytes;
    return NULL;
}

const char *number_parse(const char *text, uint64_t *ret_number)
{
    wide value;
    const char *problem;

    if (*text == '\0')
        return "is empty";
    if (*text == '-')
        return "is negative";
    problem = read_whole(&text, &value);
    if (problem != NULL)
        return is_digit(*text) ? "is too large" : "is not a number";
    if (*text != '\0')
        return "is not a whole number";
    *ret_number = (uint64_t)value;
    return NULL;
}

const char *seconds_parse(const char *text, uint64_t *ret_seconds)
{
    wide value;
    unsigned factor = 1;

    if (*text == '\0')
        return "is empty";
    if (*text == '-')
        return "is negative";
    if (read_whole(&text, &value) != NULL)
        return is_digit(*text) ? "is too large" : "is not a time in seconds";
    switch (*text) {
    case 'h':
        factor *= 60; /* fall through */
    case 'm':
        factor *= 60; /* fall through */
    case 's':
        text++;
        break;
    default:
        break;
    }
    if (*text != '\0')
        return "has an unknown unit; times are seconds, or end in s, m or h";
    if (value * factor > UINT32_MAX)
        return "is too large";
    *ret_seconds = (uint64_t)(value * factor);
    return NULL;
}

const char *size_format(uint64_t bytes, char text[SIZE_TEXT_MAX])
{
    int power = 0;

    while (bytes != 0 && bytes % 1024 == 0 && power < 6) {
        bytes /= 1024;
        power++;
    }
    if (power == 0)
        snprintf(text, SIZE_TEXT_MAX, "%" PRIu64, bytes);
    else
        snprintf(text, SIZE_TEXT_MAX, "%" PRIu64 "%c", bytes, units[power]);
    return text;
}
