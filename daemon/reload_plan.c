/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The difference between what is defined and what is wanted. Any thread.
 */
#include "reload_plan.h"

#include <string.h>

/* ---- What stays though its file is rejected ---- */

static GHashTable *rejected_files(const struct config_set *set)
{
    GHashTable *files = g_hash_table_new(g_str_hash, g_str_equal);

    for (guint i = 0; i < set->units->len; i++) {
        const struct config_unit *unit = set->units->pdata[i];

        if (unit->rejected)
            g_hash_table_add(files, unit->file);
    }
    return files;
}

static bool is_kept(const struct config_set *set, GHashTable *rejected,
                    const struct export_def *def)
{
    if (g_hash_table_contains(rejected, def->file))
        return true;
    return set->directory_failed && strcmp(def->file, set->config->config_file) != 0;
}

/* ---- Names ---- */

/* Who has which name: name -> struct export_def. */
static GHashTable *claims_new(const struct config_set *set, GHashTable *current)
{
    GHashTable *claims = g_hash_table_new(g_str_hash, g_str_equal);
    GHashTable *rejected = rejected_files(set);
    GHashTableIter iter;
    void *name, *def;

    g_hash_table_iter_init(&iter, current);
    while (g_hash_table_iter_next(&iter, &name, &def))
        if (is_kept(set, rejected, def))
            g_hash_table_insert(claims, name, def);
    g_hash_table_unref(rejected);
    return claims;
}

/* What is served wins: names that a file has now, and still wants. */
static void claim_served(const struct config_set *set, GHashTable *current, GHashTable *claims)
{
    for (guint i = 0; i < set->units->len; i++) {
        const struct config_unit *unit = set->units->pdata[i];

        for (guint j = 0; !unit->rejected && j < unit->defs->len; j++) {
            struct export_def *def = unit->defs->pdata[j];
            const struct export_def *before = g_hash_table_lookup(current, def->name);

            if (before != NULL && strcmp(before->file, def->file) == 0)
                g_hash_table_insert(claims, def->name, def);
        }
    }
}

static void reject_duplicate(struct config_unit *unit, const struct export_def *def,
                             const struct export_def *other, const char *owner)
{
    if (other != NULL)
        config_unit_reject(unit, g_strdup_printf(
            "export \"%s\" in %s line %u is already defined in %s line %u; %s ignored",
            def->name, def->file, def->line, other->file, other->line, unit->file));
    else
        config_unit_reject(unit, g_strdup_printf(
            "export \"%s\" in %s line %u is already defined by %s; %s ignored", def->name,
            def->file, def->line, owner, unit->file));
}

/* All of its names or none. */
static void claim_unit(struct config_unit *unit, GHashTable *claims, plan_owner *owner,
                       void *arg)
{
    for (guint i = 0; i < unit->defs->len; i++) {
        struct export_def *def = unit->defs->pdata[i];
        const struct export_def *other = g_hash_table_lookup(claims, def->name);
        const char *by = other == NULL && owner != NULL ? owner(arg, def->name) : NULL;

        if ((other != NULL && other != def) || by != NULL)
            reject_duplicate(unit, def, other, by);
    }
    for (guint i = 0; !unit->rejected && i < unit->defs->len; i++) {
        struct export_def *def = unit->defs->pdata[i];

        g_hash_table_insert(claims, def->name, def);
    }
}

void plan_resolve(struct config_set *set, GHashTable *current, plan_owner *owner, void *arg)
{
    bool again = true;

    while (again) {
        GHashTable *claims = claims_new(set, current);

        again = false;
        claim_served(set, current, claims);
        for (guint i = 0; i < set->units->len; i++) {
            struct config_unit *unit = set->units->pdata[i];

            if (unit->rejected)
                continue;
            claim_unit(unit, claims, owner, arg);
            again |= unit->rejected;
        }
        g_hash_table_unref(claims);
    }
}

/* ---- Steps ---- */

static enum plan_action action_for(const struct export_def *def,
                                   const struct export_def *before)
{
    if (before == NULL)
        return PLAN_ADD;
    if (!export_def_same_backing(before, def))
        return PLAN_REPLACE;
    return export_def_same_limits(before, def) ? PLAN_KEEP : PLAN_LIMITS;
}

static void add_unit_steps(GArray *steps, struct config_unit *unit, GHashTable *current,
                           GHashTable *done)
{
    for (guint i = 0; i < unit->defs->len; i++) {
        struct plan_step step = { .def = unit->defs->pdata[i], .unit = unit };

        step.before = g_hash_table_lookup(current, step.def->name);
        step.action = action_for(step.def, step.before);
        g_array_append_val(steps, step);
        g_hash_table_add(done, step.def->name);
    }
}

GArray *plan_make(const struct config_set *set, GHashTable *current)
{
    GArray *steps = g_array_new(FALSE, FALSE, sizeof(struct plan_step));
    GHashTable *done = g_hash_table_new(g_str_hash, g_str_equal);
    GHashTable *rejected = rejected_files(set);
    GHashTableIter iter;
    void *name, *def;

    for (guint i = 0; i < set->units->len; i++) {
        struct config_unit *unit = set->units->pdata[i];

        if (!unit->rejected)
            add_unit_steps(steps, unit, current, done);
    }
    g_hash_table_iter_init(&iter, current);
    while (g_hash_table_iter_next(&iter, &name, &def)) {
        bool kept = is_kept(set, rejected, def);
        struct plan_step step = { .action = kept ? PLAN_KEEP : PLAN_REMOVE,
                                  .def = kept ? def : NULL, .before = def };

        if (!g_hash_table_contains(done, name))
            g_array_append_val(steps, step);
    }
    g_hash_table_unref(rejected);
    g_hash_table_unref(done);
    return steps;
}

/* ---- Warnings ---- */

static bool is_new(const struct plan_step *step)
{
    return step->action == PLAN_ADD || step->action == PLAN_REPLACE;
}

static void warn_pair(const struct plan_step *a, const struct plan_step *b,
                      GPtrArray *warnings)
{
    const struct export_def *writer = a->def->readonly ? b->def : a->def;
    const struct export_def *other = a->def->readonly ? a->def : b->def;

    if ((is_new(a) || is_new(b)) && !writer->readonly)
        g_ptr_array_add(warnings, g_strdup_printf(
            "export \"%s\" in %s line %u writes to what export \"%s\" in %s line %u serves, "
            "the %s backstore %s", writer->name, writer->file, writer->line, other->name,
            other->file, other->line, writer->handler, writer->target));
}

void plan_warn_shared(const GArray *steps, GPtrArray *warnings)
{
    g_autoptr(GHashTable) first = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    for (guint i = 0; i < steps->len; i++) {
        const struct plan_step *step = &g_array_index(steps, struct plan_step, i);
        const struct plan_step *other;
        char *key;

        if (step->def == NULL)
            continue;
        key = export_store_key(step->def->handler, step->def->target, NULL);
        other = g_hash_table_lookup(first, key);
        if (other != NULL) {
            warn_pair(step, other, warnings);
            g_free(key);
        } else {
            g_hash_table_insert(first, key, (void *)step);
        }
    }
}
