/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The log. Each line is written with one system call, so that lines of different threads
 * never mix; no lock is held while writing.
 */
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include <glib.h>

#define LINE_MAX_BYTES 2048

static atomic_int threshold = NBD_LOG_INFO;
static atomic_int output = STDERR_FILENO; /* -1: syslog */
static char *log_file;                    /* loop thread only */
static bool journal;                      /* stderr is the journal: it wants priorities */

static const struct {
    const char *name;
    enum nbd_log_level level;
} levels[] = {
    { "error", NBD_LOG_ERROR },
    { "warning", NBD_LOG_WARNING },
    { "info", NBD_LOG_INFO },
    { "debug", NBD_LOG_DEBUG },
};

static int open_file(const char *path)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);

    return fd < 0 ? -errno : fd;
}

static void switch_output(int fd)
{
    int old = atomic_exchange(&output, fd);

    if (old > STDERR_FILENO)
        close(old);
}

static void set_log_file(const char *path)
{
    g_free(log_file);
    log_file = g_strdup(path);
}

int log_set_target(const char *target)
{
    journal = getenv("JOURNAL_STREAM") != NULL;
    if (strcmp(target, "stderr") == 0 || strcmp(target, "journal") == 0) {
        switch_output(STDERR_FILENO);
        set_log_file(NULL);
    } else if (strcmp(target, "syslog") == 0) {
        openlog("nbd-runner", LOG_PID | LOG_NDELAY, LOG_DAEMON);
        switch_output(-1);
        set_log_file(NULL);
    } else if (g_str_has_prefix(target, "file:")) {
        int fd = open_file(target + 5);

        if (fd < 0)
            return fd;
        switch_output(fd);
        set_log_file(target + 5);
    } else {
        return -EINVAL;
    }
    return 0;
}

void log_reopen(void)
{
    int fd;

    if (log_file == NULL)
        return;
    fd = open_file(log_file);
    if (fd < 0)
        log_error("cannot open the log file %s again: %s; going on with the old one", log_file,
                  strerror(-fd));
    else
        switch_output(fd);
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

/* "<6>text" for the journal, else "2026-11-21 04:05:06.789 info: text". */
static int format_prefix(char *line, size_t size, enum nbd_log_level level)
{
    struct timespec now;
    struct tm tm;
    size_t length;

    if (journal)
        return snprintf(line, size, "<%d>", (int)level);
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &tm);
    length = strftime(line, size, "%F %T", &tm);
    return (int)length + snprintf(line + length, size - length, ".%03ld %s: ",
                                  now.tv_nsec / 1000000, log_level_name(level));
}

void log_write(enum nbd_log_level level, const char *format, ...)
{
    char line[LINE_MAX_BYTES];
    int fd = atomic_load(&output), prefix, length;
    va_list args;

    if (level > log_level())
        return;
    prefix = fd < 0 ? 0 : format_prefix(line, sizeof(line), level);
    va_start(args, format);
    length = vsnprintf(line + prefix, sizeof(line) - (size_t)prefix - 1, format, args);
    va_end(args);
    length = MIN(prefix + MAX(length, 0), (int)sizeof(line) - 2);
    if (fd < 0) {
        syslog((int)level, "%s", line);
        return;
    }
    line[length] = '\n';
    if (write(fd, line, (size_t)length + 1) < 0)
        return; /* there is nowhere left to say so */
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
