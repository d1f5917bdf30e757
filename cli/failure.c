/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Fills struct failure. Prints nothing.
 */
#include "failure.h"

#include <stdarg.h>
#include <stdio.h>

static const char *const status_codes[] = {
    [STATUS_DONE] = "OK",
    [STATUS_FAILED] = "FAILED",
    [STATUS_USAGE] = "USAGE",
    [STATUS_UNREACHABLE] = "UNREACHABLE",
    [STATUS_NO_ANSWER] = "NO_ANSWER",
    [STATUS_PERMISSION] = "PERMISSION",
};

void clean_text(char *text)
{
    for (unsigned char *p = (unsigned char *)text; *p != '\0'; p++)
        if (*p < ' ' || *p == 0x7f)
            *p = ' ';
}

static void fill(struct failure *why, enum status status, const char *code, const char *format,
                 va_list args)
{
    why->status = status;
    why->code = code;
    vsnprintf(why->message, sizeof(why->message), format, args);
    clean_text(why->message);
}

int fail_with(struct failure *why, enum status status, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fill(why, status, status_codes[status], format, args);
    va_end(args);
    return status;
}

int fail_code(struct failure *why, enum status status, const char *code, const char *format,
              ...)
{
    va_list args;

    va_start(args, format);
    fill(why, status, code, format, args);
    va_end(args);
    return status;
}
