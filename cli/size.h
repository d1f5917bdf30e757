/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Sizes and times as people write them. Pure functions, no I/O.
 */
#ifndef CLI_SIZE_H
#define CLI_SIZE_H

#include <stddef.h>
#include <stdint.h>

#define SECTOR_BYTES 512u
#define SIZE_TEXT_MAX 24 /* enough for any result of size_format() */

/* "10G", "1.5KiB", "4096": 0..2^63-1 bytes. Returns NULL and sets *ret_bytes,
 * or returns what is wrong, as the end of the sentence "'1X' ...". */
const char *size_parse(const char *text, uint64_t *ret_bytes);

/* "30", "30s", "5m", "2h": seconds, at most 2^32-1. Returns like size_parse(). */
const char *seconds_parse(const char *text, uint64_t *ret_seconds);

/* A decimal number. Returns like size_parse(). */
const char *number_parse(const char *text, uint64_t *ret_number);

/* Exact and short: the largest unit that divides it, so that it can be typed in again. */
const char *size_format(uint64_t bytes, char text[SIZE_TEXT_MAX]);

#endif
