/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The difference between the exports that are defined now and those that the files want, and
 * which files contradict each other. Pure: changes nothing but its own. Any thread.
 */
#ifndef NR_RELOAD_PLAN_H
#define NR_RELOAD_PLAN_H

#include "config_set.h"

/* Who has this name and is not a configuration file: "a create through the control port", or
 * NULL. */
typedef const char *plan_owner(void *arg, const char *name);

/* Rejects units that want a name that is taken: by somebody else, by the file that it is
 * served from now, or by a file that comes first. `current`: name -> struct export_def. What a
 * rejected unit has defined before stays defined, so rejecting one may reject others. */
void plan_resolve(struct config_set *set, GHashTable *current, plan_owner *owner, void *arg);

enum plan_action {
    PLAN_KEEP,    /* as it was; perhaps in another place of the files */
    PLAN_LIMITS,  /* changes in what may change while in use */
    PLAN_REPLACE, /* another backstore, or the same in another way */
    PLAN_ADD,
    PLAN_REMOVE,
};

struct plan_step {
    enum plan_action action;
    struct export_def *def;    /* wanted; NULL: REMOVE. The set's, or for what is kept though
                                  its file is rejected, the current one */
    struct export_def *before; /* the current one; NULL: ADD */
    struct config_unit *unit;  /* NULL: REMOVE, or kept */
    uint64_t size;             /* of the backing store, bytes; 0: not known */
};

/* The steps (struct plan_step, to be freed by g_array_unref()) after plan_resolve(): removals
 * come last. Valid as long as the set and `current` are. */
GArray *plan_make(const struct config_set *set, GHashTable *current);

/* Two names for one backstore with a writer: appends a sentence for each pair of which one is
 * new. */
void plan_warn_shared(const GArray *steps, GPtrArray *warnings);

#endif
