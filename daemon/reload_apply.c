/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What a reload changes: the settings that may change while the daemon runs, and the exports,
 * step by step of the plan. When that is, reload.c decides. Loop thread.
 */
#include "reload_private.h"

#include <string.h>

#include "config_set.h"
#include "ini.h"
#include "log.h"
#include "registry.h"
#include "reload_plan.h"
#include "server.h"
#include "setting.h"
#include "store.h"

/* How long the loop may be busy with this in one turn. */
#define TURN_US 5000
#define STEPS_PER_CLOCK 16

/* ---- Exports: one step ---- */

static void warn_foreign(struct reload *reload, const struct export_def *def)
{
    const struct registry *registry = reload->server->registry;
    const struct export *other = registry_find_backstore(registry, def->handler, def->target);

    if (other != NULL && other->origin != EXPORT_BY_CONFIG &&
        !(other->readonly && def->readonly))
        g_ptr_array_add(reload->report.notices, g_strdup_printf(
            "export \"%s\" in %s line %u serves the same %s backstore %s as export \"%s\", "
            "and one of them writes", def->name, def->file, def->line, def->handler,
            def->target, other->name));
}

static int add_export(struct reload *reload, const struct plan_step *step,
                      struct nbd_failure *why)
{
    const struct export_def *def = step->def;
    struct export *export = reload_revive_drained(reload, def);
    struct export_spec spec;
    int r;

    export_def_get_spec(def, &spec);
    if (export != NULL) {
        export_set_origin_file(export, def->file);
        return export_apply(export, &spec, why);
    }
    warn_foreign(reload, def);
    if (spec.size == 0)
        spec.size = step->size;
    r = registry_add(reload->server->registry, &spec, false, &export, why);
    if (r == 0)
        store_adopt_mappings(reload->server->store, export);
    return r;
}

static void remember(GHashTable *fresh, struct export_def *def)
{
    g_hash_table_replace(fresh, def->name, export_def_ref(def));
}

static void step_add(struct reload *reload, const struct plan_step *step)
{
    struct nbd_failure why;

    if (add_export(reload, step, &why) < 0) {
        /* Its name was given away by the control port while the storage was looked at. */
        ini_problem(reload->report.rejected, step->def->file, step->def->line, "%s",
                    why.message);
        return;
    }
    remember(reload->fresh, step->def);
    if (step->before != NULL)
        return;
    g_ptr_array_add(reload->report.added, g_strdup(step->def->name));
    if (!reload->at_start)
        log_event(NBD_LOG_INFO, step->def->name, NULL, "export \"%s\" is added by %s",
                  step->def->name, step->def->file);
}

static void step_remove(struct reload *reload, const struct plan_step *step)
{
    struct export *export = registry_find(reload->server->registry, step->before->name);

    log_event(NBD_LOG_INFO, step->before->name, NULL,
              "export \"%s\" is removed from %s", step->before->name, step->before->file);
    if (export != NULL)
        reload_start_drain(reload, export, step->before);
    g_ptr_array_add(reload->report.removed, g_strdup(step->before->name));
}

static void step_replace(struct reload *reload, const struct plan_step *step)
{
    struct export *export = registry_find(reload->server->registry, step->before->name);

    log_event(NBD_LOG_INFO, step->def->name, NULL,
              "export \"%s\" is another one now, by %s line %u", step->def->name,
              step->def->file, step->def->line);
    if (export != NULL)
        reload_start_drain(reload, export, step->before);
    step_add(reload, step);
    g_ptr_array_add(reload->report.changed, g_strdup(step->def->name));
}

static void step_limits(struct reload *reload, const struct plan_step *step)
{
    struct export *export = registry_find(reload->server->registry, step->def->name);
    struct export_spec spec;
    struct nbd_failure why;

    export_def_get_spec(step->def, &spec);
    export_set_origin_file(export, step->def->file);
    if (export_apply(export, &spec, &why) < 0) {
        ini_problem(reload->report.rejected, step->def->file, step->def->line, "%s",
                    why.message);
        remember(reload->fresh, step->before);
        return;
    }
    remember(reload->fresh, step->def);
    g_ptr_array_add(reload->report.changed, g_strdup(step->def->name));
    log_event(NBD_LOG_INFO, step->def->name, NULL, "export \"%s\" is changed by %s",
              step->def->name, step->def->file);
}

static void step_keep(struct reload *reload, const struct plan_step *step)
{
    struct export *export = registry_find(reload->server->registry, step->def->name);

    if (strcmp(step->def->file, step->before->file) != 0)
        export_set_origin_file(export, step->def->file);
    remember(reload->fresh, step->def);
    reload->report.unchanged++;
}

static void apply_step(struct reload *reload, const struct plan_step *step)
{
    static void (*const functions[])(struct reload *reload, const struct plan_step *step) = {
        [PLAN_KEEP] = step_keep, [PLAN_LIMITS] = step_limits, [PLAN_REPLACE] = step_replace,
        [PLAN_ADD] = step_add, [PLAN_REMOVE] = step_remove,
    };

    functions[step->action](reload, step);
}

bool reload_apply_some(struct reload *reload)
{
    int64_t end_us = g_get_monotonic_time() + TURN_US;

    while (reload->applied < reload->steps->len) {
        apply_step(reload, &g_array_index(reload->steps, struct plan_step, reload->applied));
        reload->applied++;
        if (reload->applied % STEPS_PER_CLOCK == 0 && g_get_monotonic_time() > end_us)
            return false;
    }
    return true;
}

/* ---- Settings ---- */

static bool is_in_file(const struct setting *setting)
{
    return setting->keys != NULL && setting->offset != SETTING_NOWHERE;
}

static void apply_setting(struct reload *reload, const struct setting *setting)
{
    struct config *config = reload->server->config, *wanted = reload->set->config;

    if (setting_is_equal(setting, config, wanted))
        return;
    if (setting->live) {
        setting_swap(setting, config, wanted);
        server_setting_changed(reload->server, setting->offset);
        log_info("configuration: %s is changed", setting->keys);
        return;
    }
    g_ptr_array_add(reload->report.notices, g_strdup_printf(
        "%s: %s has changed, which needs a restart of the daemon", wanted->config_file,
        setting->keys));
}

void reload_apply_settings(struct reload *reload)
{
    GHashTable *seen = g_hash_table_new(NULL, NULL); /* two rows may be about one member */

    for (size_t i = 0; i < n_settings; i++)
        if (is_in_file(&settings[i]) &&
            g_hash_table_add(seen, GSIZE_TO_POINTER(settings[i].offset)))
            apply_setting(reload, &settings[i]);
    g_hash_table_unref(seen);
    if (reload->server->config->stock == STOCK_PORT_OFF &&
        reload->set->config->stock != STOCK_PORT_OFF)
        g_ptr_array_add(reload->report.notices, g_strdup_printf(
            "%s: listening on port %d needs a restart of the daemon",
            reload->set->config->config_file, reload->set->config->stock_port));
}
