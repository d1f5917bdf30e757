/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What a section of a configuration file says of an export: our keys, and those that
 * nbd-server has. Knows neither the registry nor what is served now. Any thread; blocks to
 * read files that a section names.
 */
#ifndef NR_EXPORT_CONFIG_H
#define NR_EXPORT_CONFIG_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "export.h"
#include "ini.h"
#include "registry.h"

/* A definition. Never changes; shared by reference. */
struct export_def {
    char *name, *file; /* where it stands */
    unsigned line;
    char *handler, *target;
    GHashTable *opts;          /* char * -> char * */
    uint64_t size;             /* of what is served, bytes; 0: all of the backing store */
    bool readonly;
    bool sync;                 /* each change is durable when it is answered */
    uint16_t flags_off, flags_on; /* NBD transmission flags, whatever the handler can do */
    bool create, prealloc;     /* make the backing store when there is none */

    /* These may change while it is in use. */
    char *description;
    char **acl;                /* never NULL */
    bool default_deny, hidden;
    unsigned max_connections, request_timeout_s, drain_timeout_s; /* 0: not said */
};

/* From a section. Appends what is wrong to `problems`; then the result is NULL. Keys of
 * nbd-server that mean nothing here are appended to `ignored` ("line 3: timeout"). */
struct export_def *export_def_new(const struct ini *ini, const struct ini_section *section,
                                  GPtrArray *problems, GPtrArray *ignored);
struct export_def *export_def_ref(struct export_def *def);
void export_def_unref(void *def);

/* Do both serve the same bytes in the same way? Else one has to go before the other comes. */
bool export_def_same_backing(const struct export_def *a, const struct export_def *b);
/* And are they equal in what may change while in use? */
bool export_def_same_limits(const struct export_def *a, const struct export_def *b);

/* As registry_add() takes it; the strings stay the definition's. */
void export_def_get_spec(const struct export_def *def, struct export_spec *ret_spec);

#endif
