/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Tables, JSON members, colours.
 */
#include "output.h"

#include "nbd_protocol.h"

#include <assert.h>
#include <glib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define COLUMN_GAP 2

/* ---- Tables ---- */

struct table {
    GPtrArray *cells; /* the titles are the first row */
    guint n_columns;
    guint painted; /* column of states; n_columns or more: none */
};

/* ---- Colours ---- */

bool has_colours(FILE *out)
{
    const char *no_color = g_getenv("NO_COLOR"), *terminal = g_getenv("TERM");

    return (no_color == NULL || *no_color == '\0') && isatty(fileno(out)) &&
           terminal != NULL && *terminal != '\0' && strcmp(terminal, "dumb") != 0;
}

void paint(FILE *out, enum colour colour, const char *format, ...)
{
    static const char *const codes[] = {
        [COLOUR_GOOD] = "\033[32m", [COLOUR_BUSY] = "\033[33m", [COLOUR_BAD] = "\033[31m"};
    bool is_painted = colour != COLOUR_NONE && has_colours(out);
    va_list args;

    if (is_painted)
        fputs(codes[colour], out);
    va_start(args, format);
    vfprintf(out, format, args);
    va_end(args);
    if (is_painted)
        fputs("\033[0m", out);
}

enum colour state_colour(const char *state)
{
    static const struct {
        const char *word;
        enum colour colour;
    } words[] = {
        {"ready", COLOUR_GOOD},      {"live", COLOUR_GOOD},       {"done", COLOUR_GOOD},
        {"transmission", COLOUR_GOOD}, {"faulted", COLOUR_BAD},   {"dead", COLOUR_BAD},
        {"failed", COLOUR_BAD},      {"created", COLOUR_NONE},    {"na", COLOUR_NONE},
        {"mapped", COLOUR_NONE},     {"unmapped", COLOUR_NONE},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(words); i++)
        if (g_ascii_strcasecmp(words[i].word, state) == 0)
            return words[i].colour;
    return COLOUR_BUSY;
}

struct table *table_new(const char *const *titles)
{
    struct table *table = g_new0(struct table, 1);

    table->cells = g_ptr_array_new_with_free_func(g_free);
    for (; *titles != NULL; titles++)
        table_add(table, *titles);
    table->n_columns = table->cells->len;
    table->painted = table->n_columns;
    assert(table->n_columns <= TABLE_COLUMNS_MAX);
    return table;
}

void table_free(struct table *table)
{
    if (table == NULL)
        return;
    g_ptr_array_free(table->cells, TRUE);
    g_free(table);
}

/* Names come from elsewhere: what would break the line or move the cursor is replaced. */
void table_add(struct table *table, const char *text)
{
    char *cell = g_strdup(text == NULL || *text == '\0' ? "NA" : text);

    for (unsigned char *p = (unsigned char *)cell; *p != '\0'; p++)
        if (*p < ' ' || *p == 0x7f)
            *p = '?';
    g_ptr_array_add(table->cells, cell);
}

void table_add_format(struct table *table, const char *format, ...)
{
    va_list args;
    g_autofree char *text = NULL;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    table_add(table, text);
}

void table_paint(struct table *table, const char *title)
{
    for (guint i = 0; i < table->n_columns; i++)
        if (strcmp(g_ptr_array_index(table->cells, i), title) == 0)
            table->painted = i;
}

static int width_of(const char *text)
{
    return g_utf8_validate(text, -1, NULL) ? (int)g_utf8_strlen(text, -1) : (int)strlen(text);
}

void table_print(const struct table *table, FILE *out)
{
    int widths[TABLE_COLUMNS_MAX] = {0};

    assert(table->cells->len % table->n_columns == 0);
    for (guint i = 0; i < table->cells->len; i++) {
        int *width = &widths[i % table->n_columns];

        *width = MAX(*width, width_of(g_ptr_array_index(table->cells, i)));
    }
    for (guint i = 0; i < table->cells->len; i++) {
        guint column = i % table->n_columns;
        const char *cell = g_ptr_array_index(table->cells, i);

        paint(out,
              column == table->painted && i >= table->n_columns ? state_colour(cell)
                                                                : COLOUR_NONE,
              "%s", cell);
        if (column == table->n_columns - 1)
            fputc('\n', out);
        else
            fprintf(out, "%*s", widths[column] - width_of(cell) + COLUMN_GAP, "");
    }
}

/* ---- JSON ---- */

static json_object *text_json(const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);

    return json_object_new_string(valid);
}

void json_put_text(json_object *object, const char *key, const char *text)
{
    json_object_object_add(object, key, text_json(text != NULL ? text : ""));
}

void json_put_optional(json_object *object, const char *key, const char *text)
{
    json_object_object_add(object, key,
                           text != NULL && *text != '\0' ? text_json(text) : NULL);
}

void json_put_number(json_object *object, const char *key, uint64_t number)
{
    json_object_object_add(object, key, json_object_new_uint64(number));
}

void json_put_bool(json_object *object, const char *key, bool value)
{
    json_object_object_add(object, key, json_object_new_boolean(value));
}

void json_put_time(json_object *object, const char *key, int64_t time_us)
{
    time_t seconds = (time_t)(time_us / 1000000);
    char text[64] = "";
    struct tm tm;

    if (time_us > 0 && gmtime_r(&seconds, &tm) != NULL)
        strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
    json_put_optional(object, key, text);
}

void json_print(json_object *object, FILE *out)
{
    fprintf(out, "%s\n",
            json_object_to_json_string_ext(object, JSON_C_TO_STRING_PRETTY |
                                                       JSON_C_TO_STRING_SPACED |
                                                       JSON_C_TO_STRING_NOSLASHESCAPE));
}

const char *time_text(int64_t time_us)
{
    static char text[64];
    time_t seconds = (time_t)(time_us / 1000000);
    struct tm tm;

    if (time_us <= 0 || localtime_r(&seconds, &tm) == NULL ||
        strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm) == 0)
        return "NA";
    return text;
}

/* ---- Transmission flags ---- */

static const struct {
    uint32_t flag;
    const char *name;
} flag_names[] = {
    {NBD_FLAG_READ_ONLY, "read-only"},
    {NBD_FLAG_SEND_FLUSH, "flush"},
    {NBD_FLAG_SEND_FUA, "fua"},
    {NBD_FLAG_ROTATIONAL, "rotational"},
    {NBD_FLAG_SEND_TRIM, "trim"},
    {NBD_FLAG_SEND_WRITE_ZEROES, "write-zeroes"},
    {NBD_FLAG_SEND_DF, "df"},
    {NBD_FLAG_CAN_MULTI_CONN, "multi-conn"},
    {NBD_FLAG_SEND_RESIZE, "resize"},
    {NBD_FLAG_SEND_CACHE, "cache"},
    {NBD_FLAG_SEND_FAST_ZERO, "fast-zero"},
    {NBD_FLAG_BLOCK_STATUS_PAYLOAD, "block-status-payload"},
};

json_object *flags_json(uint32_t flags)
{
    json_object *names = json_object_new_array();

    for (size_t i = 0; i < G_N_ELEMENTS(flag_names); i++)
        if (flags & flag_names[i].flag)
            json_object_array_add(names, json_object_new_string(flag_names[i].name));
    return names;
}

char *flags_text(uint32_t flags)
{
    GString *text = g_string_new(NULL);

    for (size_t i = 0; i < G_N_ELEMENTS(flag_names); i++)
        if (flags & flag_names[i].flag)
            g_string_append_printf(text, "%s%s", text->len > 0 ? "," : "", flag_names[i].name);
    return g_string_free(text, FALSE);
}
