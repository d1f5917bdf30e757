/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The file nbdtab(5): what is to be mapped on this host when it boots. A line is
 *     DEVICE BACKSTORE TARGET [WORD...]
 * with the words of `map`. Reads and edits the file; maps nothing.
 */
#ifndef CLI_NBDTAB_H
#define CLI_NBDTAB_H

#include "failure.h"

#include <glib.h>

struct nbdtab_line {
    unsigned number; /* in the file, from 1 */
    int n_fields;
    char **fields; /* DEVICE BACKSTORE TARGET WORD...; at least three */
};

/* The lines (struct nbdtab_line *) that are no comment, into an array for
 * g_ptr_array_unref(). A file that is not there has none. */
int nbdtab_read(const char *path, GPtrArray **ret_lines, struct failure *why);

/* Put a line of these fields at the end, in place of one of the same backstore and target. */
int nbdtab_add(const char *path, char **fields, struct failure *why);
/* Take out the line of the backstore and target, if there is one. */
int nbdtab_remove(const char *path, const char *backstore, const char *target,
                  struct failure *why);

/* Whether two targets mean the same: leading slashes do not count. */
bool nbdtab_is_target(const char *a, const char *b);

#endif
