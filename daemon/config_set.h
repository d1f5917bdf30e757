/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Everything that the configuration says: the settings, and the definitions of exports file by
 * file. Reads it; compares nothing, applies nothing. Any thread; blocks.
 */
#ifndef NR_CONFIG_SET_H
#define NR_CONFIG_SET_H

#include "config.h"
#include "export_config.h"

/* A file, which counts as a whole or not at all. */
struct config_unit {
    char *file;
    bool main;           /* the configuration file; the others define exports only */
    bool rejected;
    GPtrArray *defs;     /* struct export_def *, as they stand in it */
    GPtrArray *problems; /* char *: why it is rejected, with file and line */
};

struct config_set {
    struct config *config;  /* never NULL; half filled when main_failed */
    bool main_failed;       /* nothing of this may be applied */
    char *directory;        /* of the other files */
    bool directory_failed;  /* it could not be read: what is known of it stays */
    GPtrArray *units;       /* struct config_unit *: the configuration file, if there is one,
                               then the others in byte order of their names */
    GPtrArray *problems;    /* char *: of no unit */
    GPtrArray *notices;     /* char *: what is worth a line, and no mistake */
};

/* With the command line of `config`. `is_reload`: a directory that is gone is a problem, since
 * an unmounted file system must not look like the wish to remove all exports. */
struct config_set *config_set_read(const struct config *config, bool is_reload);
void config_set_free(struct config_set *set);

void config_unit_reject(struct config_unit *unit, char *problem); /* takes over the text */

#endif
