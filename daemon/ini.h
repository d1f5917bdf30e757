/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Configuration files as sections of keys and values, with the line of each. GKeyFile's
 * dialect, but what it lets pass in silence is a problem here: sections and keys that are
 * there twice. Knows no key. Any thread; blocks.
 */
#ifndef NR_INI_H
#define NR_INI_H

#include <glib.h>

#include "nbd-runner/handler.h"

#define INI_FILE_MAX (16u << 20) /* bytes */

struct ini_entry {
    char *key, *value;
    unsigned line;
};

struct ini_section {
    char *name;
    unsigned line;
    GPtrArray *entries; /* struct ini_entry * */
};

struct ini {
    char *file;
    char *directory;     /* that relative paths in it start from */
    GPtrArray *sections; /* struct ini_section *, in order */
};

/* 0, -EBADMSG for what is in the file, or another negative errno when it cannot be read. In
 * both cases appends to `problems` (char *, freed by its owner) one sentence for each, that
 * begins with the file and has the line. */
int ini_read(const char *file, struct ini **ret_ini, GPtrArray *problems);

/* The same for a text that was read from the file. */
int ini_parse(const char *file, const char *text, size_t length, struct ini **ret_ini,
              GPtrArray *problems);
void ini_free(struct ini *ini);

/* NULL: there is none of this name. */
const struct ini_section *ini_find(const struct ini *ini, const char *section);

/* Appends "FILE line LINE: ..." to the problems. */
__attribute__((format(printf, 4, 5)))
void ini_problem(GPtrArray *problems, const char *file, unsigned line,
                 const char *format, ...);

#endif
