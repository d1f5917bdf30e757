/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Tables for people, JSON for programs, and colours. Knows no command.
 */
#ifndef CLI_OUTPUT_H
#define CLI_OUTPUT_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define TABLE_COLUMNS_MAX 12

struct table;

/* Column titles, NULL-terminated; as many cells have to follow in each row. */
struct table *table_new(const char *const *titles);
void table_free(struct table *table);
/* The next cell of the row, row by row; the text is copied. NULL and "" are shown as NA. */
void table_add(struct table *table, const char *text);
__attribute__((format(printf, 2, 3))) void table_add_format(struct table *table,
                                                            const char *format, ...);
/* Its cells are states, see state_colour(). */
void table_paint(struct table *table, const char *title);
void table_print(const struct table *table, FILE *out);

/* Members of objects. A u64 beyond 2^63-1 is kept. An empty string becomes null where the
 * protocol uses it for "none". */
void json_put_text(json_object *object, const char *key, const char *text);
void json_put_optional(json_object *object, const char *key, const char *text);
void json_put_number(json_object *object, const char *key, uint64_t number);
void json_put_bool(json_object *object, const char *key, bool value);
/* Microseconds since the epoch as "2026-01-31T12:00:00Z", null for 0. */
void json_put_time(json_object *object, const char *key, int64_t time_us);
void json_print(json_object *object, FILE *out);

/* Local time without blanks; "NA" for 0. Static storage. */
const char *time_text(int64_t time_us);

/* Names of the NBD transmission flags that are set: a JSON array, or words by commas
 * (g_free). */
json_object *flags_json(uint32_t flags);
char *flags_text(uint32_t flags);

/* Colours of words on terminals; none with NO_COLOR, on a dumb terminal or in a file. */
enum colour { COLOUR_NONE, COLOUR_GOOD, COLOUR_BUSY, COLOUR_BAD };
bool has_colours(FILE *out);
__attribute__((format(printf, 3, 4))) void paint(FILE *out, enum colour colour,
                                                 const char *format, ...);
/* What the state of something looks like: "Live", "running", "faulted". */
enum colour state_colour(const char *state);

#endif
