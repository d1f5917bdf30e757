/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * How far something long is, on stderr: on a terminal a bar that redraws itself, else now and
 * then a line, and none at all for what is over soon.
 */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include <stdint.h>

#define PROGRESS_TEXT_MAX 160

/* As often as there is news; total 0: not known. */
void progress_show(const char *what, uint64_t done_bytes, uint64_t total_bytes);
/* It is over, or something else is to be printed. */
void progress_end(void);

/* "12% of 10.0G, 120.5M/s, 75 s left"; the result is text. */
const char *progress_format(uint64_t done_bytes, uint64_t total_bytes, int64_t elapsed_ms,
                            char text[PROGRESS_TEXT_MAX]);

/* Between two lines when stderr is no terminal; tests cannot wait for so long. */
extern int64_t progress_line_every_ms;

#endif
