/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Where the lines of the log go: a stream, the journal's own socket, or syslog's. Not for
 * anything but log.c. Sending is for any thread and never waits: a reader that does not keep
 * up loses lines. The rest is for the loop thread.
 */
#ifndef NR_LOG_OUTPUT_H
#define NR_LOG_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>

#include "nbd-runner/handler.h"

#define LOG_TEXT_MAX 2000 /* bytes of the text of a line */

/* A line. All strings are clean: one line of UTF-8. */
struct log_line {
    enum nbd_log_level level;
    const char *export, *client; /* what it is about; NULL or "": nothing */
    const char *text;            /* at most LOG_TEXT_MAX bytes */
};

/* As log_set_target(). What was open stays in use when that fails. */
int log_output_set(const char *target);

/* Opens the file again, if it is one: 0 or a negative errno. */
int log_output_reopen(void);
const char *log_output_file(void); /* NULL: no file */

/* False: the line is lost. */
bool log_output_send(const struct log_line *line);

#endif
