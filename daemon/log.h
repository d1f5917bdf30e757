/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The log: one line per event, for the journal with fields that tell what it is about. Any
 * thread. Never waits: lines that nobody takes are dropped, counted, and mentioned later.
 * Whatever a text contains, a line stays one line of printable characters.
 */
#ifndef NR_LOG_H
#define NR_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "nbd-runner/handler.h"

/* Where lines go: "stderr" (with the priorities of sd-daemon(3) when systemd reads it),
 * "journal" or "journal:SOCKET" (with fields), "syslog" or "syslog:SOCKET", "file:PATH";
 * "auto": the journal when systemd has connected stderr to it, else stderr. 0 or a negative
 * errno; then nothing has changed. Loop thread. */
int log_set_target(const char *target);
void log_set_level(enum nbd_log_level level);
enum nbd_log_level log_level(void);

/* "error", "warning", "info", "debug", or 0..7 as syslog(3) numbers; false: no such level. */
bool log_parse_level(const char *text, enum nbd_log_level *ret_level);
const char *log_level_name(enum nbd_log_level level);

/* Opens a log file again, after logrotate(8) has moved it. Loop thread. */
void log_reopen(void);

/* A line about an export, a client, or both: the fields EXPORT and CLIENT. Either may be
 * NULL. The text says it too, for those who read it elsewhere than in the journal. */
__attribute__((format(printf, 4, 5)))
void log_event(enum nbd_log_level level, const char *export, const char *client,
               const char *format, ...);

__attribute__((format(printf, 2, 3)))
void log_write(enum nbd_log_level level, const char *format, ...);

#define log_error(...) log_write(NBD_LOG_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(NBD_LOG_WARNING, __VA_ARGS__)
#define log_info(...) log_write(NBD_LOG_INFO, __VA_ARGS__)
#define log_debug(...) \
    do { \
        if (log_level() >= NBD_LOG_DEBUG) \
            log_write(NBD_LOG_DEBUG, __VA_ARGS__); \
    } while (0)

/* Since the start: lines that were written, of this level; lines that were lost. */
uint64_t log_written(enum nbd_log_level level);
uint64_t log_lost(void);

/* A peer's string for a log line or an error text: quoted, control characters and bytes that
 * are not UTF-8 escaped, cut at 128 characters. Caller frees with g_free(). */
char *log_quote(const char *text, size_t length);

#endif
