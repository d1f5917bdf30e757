/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * How a command fails: with an exit status, a word for programs and a sentence for people.
 * Written where the cause is known, printed once by command.c. No thread but the only one.
 */
#ifndef CLI_FAILURE_H
#define CLI_FAILURE_H

#include <stdbool.h>

/* Exit statuses, documented in nbd-cli(8). */
enum status {
    STATUS_DONE = 0,
    STATUS_FAILED = 1, /* refused or failed */
    STATUS_USAGE = 2,
    STATUS_UNREACHABLE = 3, /* no connection to the daemon */
    STATUS_NO_ANSWER = 4,   /* connected, but no answer in time */
    STATUS_PERMISSION = 5,
};

struct failure {
    int status;
    const char *code;   /* the "code" of the JSON error; static storage */
    char message[1536]; /* starts with a small letter: it is put behind a prefix */
};

/* Fill *why and return the status. */
__attribute__((format(printf, 3, 4))) int fail_with(struct failure *why, enum status status,
                                                    const char *format, ...);

/* The same, with a code of its own instead of the one that belongs to the status. */
__attribute__((format(printf, 4, 5))) int fail_code(struct failure *why, enum status status,
                                                    const char *code, const char *format, ...);

/* Make control characters of a sentence from elsewhere harmless to terminals; in place. */
void clean_text(char *text);

#endif
