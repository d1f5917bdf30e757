/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The log: levels, and lines that are fit to be written. Where they go is log_output.c's.
 */
#include "log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <glib.h>

#include "log_output.h"

#define FIELD_MAX 1024 /* bytes of an export's or a client's name */

static atomic_int threshold = NBD_LOG_INFO;
static _Atomic uint64_t written[NBD_LOG_DEBUG + 1], lost;
static _Atomic uint64_t unmentioned; /* lost, and nothing in the log says so */

static const struct {
    const char *name;
    enum nbd_log_level level;
} levels[] = {
    { "error", NBD_LOG_ERROR },
    { "warning", NBD_LOG_WARNING },
    { "info", NBD_LOG_INFO },
    { "debug", NBD_LOG_DEBUG },
};

int log_set_target(const char *target)
{
    return log_output_set(target);
}

void log_reopen(void)
{
    int r = log_output_reopen();

    if (r < 0)
        log_error("cannot open the log file %s again: %s; going on with the old one",
                  log_output_file(), strerror(-r));
}

void log_set_level(enum nbd_log_level level)
{
    atomic_store_explicit(&threshold, (int)level, memory_order_relaxed);
}

enum nbd_log_level log_level(void)
{
    return (enum nbd_log_level)atomic_load_explicit(&threshold, memory_order_relaxed);
}

const char *log_level_name(enum nbd_log_level level)
{
    for (size_t i = 0; i < G_N_ELEMENTS(levels); i++)
        if (level <= levels[i].level)
            return levels[i].name;
    return "debug";
}

bool log_parse_level(const char *text, enum nbd_log_level *ret_level)
{
    for (size_t i = 0; i < G_N_ELEMENTS(levels); i++) {
        if (g_ascii_strcasecmp(text, levels[i].name) == 0) {
            *ret_level = levels[i].level;
            return true;
        }
    }
    if (text[0] < '0' || text[0] > '7' || text[1] != '\0')
        return false;
    log_parse_level(log_level_name((enum nbd_log_level)(text[0] - '0')), ret_level);
    return true;
}

uint64_t log_written(enum nbd_log_level level)
{
    return atomic_load(&written[level]);
}

uint64_t log_lost(void)
{
    return atomic_load(&lost);
}

/* ---- What may stand in a line ---- */

/* Control characters would end the line or move a terminal's cursor; separators and marks of
 * direction would make it look like another one. */
static bool is_harmless(gunichar c)
{
    return c != (gunichar)-1 && c != (gunichar)-2 && c >= 0x20 && (c < 0x7f || c > 0x9f) &&
           c != 0x2028 && c != 0x2029 && (c < 0x202a || c > 0x202e) &&
           (c < 0x2066 || c > 0x2069);
}

/* Copies as much as fits, with everything else than printable UTF-8 as \\xNN. */
static void clean(char *to, size_t size, const char *from)
{
    char *end = to + size - 1;

    while (*from != '\0') {
        bool harmless = is_harmless(g_utf8_get_char_validated(from, -1));
        ptrdiff_t length = harmless ? g_utf8_next_char(from) - from : 1;

        if (end - to < (harmless ? length : 4))
            break;
        if (harmless)
            to = mempcpy(to, from, (size_t)length);
        else
            to += sprintf(to, "\\x%02x", (unsigned char)*from);
        from += length;
    }
    *to = '\0';
}

/* ---- Lines ---- */

/* As soon as lines are taken again: that some are missing. False: they are not. */
static bool mention_lost(void)
{
    uint64_t count = atomic_exchange(&unmentioned, 0);
    char text[128];
    struct log_line line = { .level = NBD_LOG_WARNING, .text = text };

    if (count == 0)
        return true;
    snprintf(text, sizeof(text), "%" PRIu64 " lines of this log are missing here: they were not "
             "taken in time", count);
    if (log_output_send(&line))
        return true;
    atomic_fetch_add(&unmentioned, count);
    return false;
}

static void send_line(const struct log_line *line)
{
    if (mention_lost() && log_output_send(line)) {
        atomic_fetch_add(&written[line->level], 1);
    } else {
        atomic_fetch_add(&lost, 1);
        atomic_fetch_add(&unmentioned, 1);
    }
}

__attribute__((format(printf, 4, 0)))
static void write_line(enum nbd_log_level level, const char *export, const char *client,
                       const char *format, va_list args)
{
    char raw[LOG_TEXT_MAX + 1], text[LOG_TEXT_MAX + 1];
    char clean_export[FIELD_MAX], clean_client[FIELD_MAX];
    struct log_line line = { level, clean_export, clean_client, text };

    vsnprintf(raw, sizeof(raw), format, args);
    clean(text, sizeof(text), raw);
    clean(clean_export, sizeof(clean_export), export != NULL ? export : "");
    clean(clean_client, sizeof(clean_client), client != NULL ? client : "");
    send_line(&line);
}

void log_event(enum nbd_log_level level, const char *export, const char *client,
               const char *format, ...)
{
    va_list args;

    if (level > log_level())
        return;
    va_start(args, format);
    write_line(level, export, client, format, args);
    va_end(args);
}

void log_write(enum nbd_log_level level, const char *format, ...)
{
    va_list args;

    if (level > log_level())
        return;
    va_start(args, format);
    write_line(level, NULL, NULL, format, args);
    va_end(args);
}

char *log_quote(const char *text, size_t length)
{
    GString *out = g_string_new("\"");
    const char *end = text + MIN(length, 128);

    for (const char *p = text; p < end;) {
        gunichar c = g_utf8_get_char_validated(p, end - p);

        if (c == (gunichar)-1 || c == (gunichar)-2) {
            g_string_append_printf(out, "\\x%02x", (unsigned char)*p++);
            continue;
        }
        if (c < 0x20 || c == 0x7f || c == '"' || c == '\\')
            g_string_append_printf(out, "\\x%02x", (unsigned)c);
        else
            g_string_append_unichar(out, c);
        p = g_utf8_next_char(p);
    }
    g_string_append(out, length > 128 ? "...\"" : "\"");
    return g_string_free(out, FALSE);
}
