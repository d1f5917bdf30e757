/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Reloading, step by step: read the files (worker), find the difference, look at the storage
 * of what is new (worker), apply. Nothing is taken down before all that can fail has been
 * done. Loop thread, but for the functions named work_*.
 */
#include "reload.h"

#include <errno.h>
#include <string.h>

#include "connection.h"
#include "log.h"
#include "mapping.h"
#include "notify.h"
#include "registry.h"
#include "reload_plan.h"
#include "reload_storage.h"
#include "server.h"
#include "setting.h"
#include "store.h"

/* How long the loop may be busy with this in one turn. */
#define TURN_US 5000
#define STEPS_PER_CLOCK 16

struct waiter {
    reload_done *done;
    void *arg;
};

struct reload {
    struct server *server;
    GHashTable *current;     /* name -> struct export_def, referenced: what is in effect */
    GHashTable *drains;      /* struct export -> struct drain: removed, with users */
    struct storage_maker *maker;
    struct event *turn;      /* goes on with applying */
    bool running, again, at_start;
    bool failed;             /* the last run */
    bool had_file;           /* what is in effect came from a configuration file as well */
    GQueue waiting, next;    /* struct waiter *: for this run, for the one after */

    /* Of the run. While a worker has it, nobody else touches these. */
    struct config_set *set;
    GArray *steps;           /* struct plan_step */
    guint applied;
    unsigned rejected_before; /* units, before the storage was looked at */
    GHashTable *fresh;       /* what becomes `current` */
    GHashTable *former;      /* what has been */
    struct reload_report report;
};

/* An export that has been removed and still has users. */
struct drain {
    struct reload *reload;
    struct export *export;
    struct export_def *def;
    struct event *timer; /* NULL: they may take as long as they like */
    bool had_clients;
};

/* ---- The report ---- */

static void report_init(struct reload_report *report)
{
    *report = (struct reload_report){
        .added = g_ptr_array_new_with_free_func(g_free),
        .changed = g_ptr_array_new_with_free_func(g_free),
        .removed = g_ptr_array_new_with_free_func(g_free),
        .rejected = g_ptr_array_new_with_free_func(g_free),
        .notices = g_ptr_array_new_with_free_func(g_free),
    };
}

static void report_clear(struct reload_report *report)
{
    g_ptr_array_unref(report->added);
    g_ptr_array_unref(report->changed);
    g_ptr_array_unref(report->removed);
    g_ptr_array_unref(report->rejected);
    g_ptr_array_unref(report->notices);
}

static void move_texts(GPtrArray *from, GPtrArray *to)
{
    for (guint i = 0; i < from->len; i++)
        g_ptr_array_add(to, g_strdup(from->pdata[i]));
}

static void report_problems(struct reload_report *report, const struct config_set *set)
{
    move_texts(set->problems, report->rejected);
    for (guint i = 0; i < set->units->len; i++) {
        const struct config_unit *unit = set->units->pdata[i];

        move_texts(unit->problems, report->rejected);
    }
    move_texts(set->notices, report->notices);
}

static void log_report(const struct reload *reload)
{
    const struct reload_report *report = &reload->report;

    for (guint i = 0; i < report->rejected->len; i++)
        log_error("configuration: %s", (char *)report->rejected->pdata[i]);
    for (guint i = 0; i < report->notices->len; i++)
        log_warning("configuration: %s", (char *)report->notices->pdata[i]);
    if (report->failed)
        log_error("configuration: nothing was changed: %s has mistakes",
                  reload->server->config->config_file);
    else if (!reload->at_start || g_hash_table_size(reload->current) > 0)
        log_info("configuration: %u exports added, %u changed, %u removed, %u unchanged; "
                 "mistakes: %u", report->added->len, report->changed->len,
                 report->removed->len, report->unchanged, report->rejected->len);
}

/* ---- Draining ---- */

static void drain_free(struct drain *drain)
{
    g_hash_table_remove(drain->reload->drains, drain->export);
    if (drain->timer != NULL)
        event_free(drain->timer);
    export_def_unref(drain->def);
    g_free(drain);
}

static void on_drained(void *arg)
{
    struct drain *drain = arg;

    if (drain->had_clients)
        log_event(NBD_LOG_INFO, drain->def->name, NULL,
                  "export \"%s\" (%s) is closed: its last client has left", drain->def->name,
                  drain->def->target);
    drain_free(drain);
}

static void on_drain_timeout(evutil_socket_t fd, short what, void *arg)
{
    struct drain *drain = arg;

    (void)fd;
    (void)what;
    connection_kick_export(drain->reload->server->connections, drain->export,
                           "the export was removed, and its drain_timeout is over");
}

/* Mappings whose clients are away are forgotten, with those that attached ones have when they
 * leave; none is kept in the state file. */
static void forget_mappings(struct export *export)
{
    for (guint i = export->mappings->len; i > 0; i--) {
        struct mapping *mapping = export->mappings->pdata[i - 1];

        if (mapping->connected > 0)
            continue;
        log_event(NBD_LOG_WARNING, export->name, NULL,
                  "export \"%s\" is removed: the mapping to %s on host \"%s\" is forgotten",
                  export->name, mapping->device, mapping->client);
        mapping_remove(mapping);
    }
}

/* The name is free now; who is connected goes on. */
static void start_drain(struct reload *reload, struct export *export, struct export_def *def)
{
    struct drain *drain = g_new0(struct drain, 1);

    drain->reload = reload;
    drain->export = export;
    drain->def = export_def_ref(def);
    drain->had_clients = export->connections > 0;
    if (drain->had_clients)
        log_event(NBD_LOG_INFO, export->name, NULL,
                  "export \"%s\": %u client(s) go on until they leave", export->name,
                  export->connections);
    if (def->drain_timeout_s > 0) {
        drain->timer = evtimer_new(loop_base(reload->server->loop), on_drain_timeout, drain);
        evtimer_add(drain->timer, &(struct timeval){ .tv_sec = def->drain_timeout_s });
    }
    g_hash_table_insert(reload->drains, export, drain);
    forget_mappings(export);
    store_removed_config(reload->server->store, export->name);
    registry_remove(export, on_drained, drain);
}

/* One that drains, and is what is wanted again. */
static struct drain *find_drain(const struct reload *reload, const struct export_def *def)
{
    struct export *export = registry_next_leaving(reload->server->registry, def->name, "");

    while (export != NULL && strcmp(export->name, def->name) == 0) {
        struct drain *drain = g_hash_table_lookup(reload->drains, export);

        if (drain != NULL && export_def_same_backing(drain->def, def))
            return drain;
        export = registry_next_leaving(reload->server->registry, export->name, export->id);
    }
    return NULL;
}

/* ---- Applying: one step ---- */

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
    struct drain *drain = find_drain(reload, def);
    struct export_spec spec;
    struct export *export;
    int r;

    export_def_get_spec(def, &spec);
    if (drain != NULL) {
        export = drain->export;
        registry_revive(export);
        drain_free(drain);
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
        start_drain(reload, export, step->before);
    g_ptr_array_add(reload->report.removed, g_strdup(step->before->name));
}

static void step_replace(struct reload *reload, const struct plan_step *step)
{
    struct export *export = registry_find(reload->server->registry, step->before->name);

    log_event(NBD_LOG_INFO, step->def->name, NULL,
              "export \"%s\" is another one now, by %s line %u", step->def->name,
              step->def->file, step->def->line);
    if (export != NULL)
        start_drain(reload, export, step->before);
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

/* ---- Applying: settings ---- */

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

static void apply_settings(struct reload *reload)
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

/* ---- The end of a run ---- */

static void start_run(struct reload *reload);

static void answer_all(struct reload *reload)
{
    GQueue waiting = reload->waiting;
    struct waiter *waiter;

    g_queue_init(&reload->waiting);
    while ((waiter = g_queue_pop_head(&waiting)) != NULL) {
        if (waiter->done != NULL)
            waiter->done(waiter->arg, &reload->report);
        g_free(waiter);
    }
}

static void notify_end(const struct reload *reload)
{
    unsigned n = registry_size(reload->server->registry);

    if (reload->report.failed)
        notify_ready("the configuration was not reloaded: it has mistakes");
    else if (reload->report.rejected->len > 0)
        notify_ready("serving %u exports; mistakes in the configuration: %u", n,
                     reload->report.rejected->len);
    else
        notify_ready("serving %u exports", n);
}

/* Of ten thousand exports this is worth a worker. */
struct leftovers {
    struct config_set *set;
    GArray *steps;
    GHashTable *former; /* NULL: nothing was applied */
};

static void work_free(void *arg)
{
    struct leftovers *leftovers = arg;

    if (leftovers->steps != NULL)
        g_array_unref(leftovers->steps);
    if (leftovers->former != NULL)
        g_hash_table_unref(leftovers->former);
    config_set_free(leftovers->set);
    g_free(leftovers);
}

static void free_leftovers(struct reload *reload)
{
    struct leftovers *leftovers = g_new0(struct leftovers, 1);

    leftovers->set = g_steal_pointer(&reload->set);
    leftovers->steps = g_steal_pointer(&reload->steps);
    leftovers->former = g_steal_pointer(&reload->former);
    worker_run(reload->server->workers, work_free, NULL, leftovers);
}

static void end_run(struct reload *reload)
{
    reload->report.draining = g_hash_table_size(reload->drains);
    log_report(reload);
    if (!reload->at_start && !reload->server->stopping)
        notify_end(reload);
    answer_all(reload);
    report_clear(&reload->report);
    free_leftovers(reload);
    reload->running = false;
    if (reload->again)
        start_run(reload);
}

static void fail_run(struct reload *reload)
{
    reload->report.failed = reload->failed = true;
    reload->report.unchanged = g_hash_table_size(reload->current);
    report_problems(&reload->report, reload->set);
    end_run(reload);
}

/* A failure shows in `status`, and the store tries again. */
static void on_saved(void *arg, int result, const struct nbd_failure *why)
{
    (void)arg;
    (void)result;
    (void)why;
}

static void end_applying(struct reload *reload)
{
    struct store *store = reload->server->store;

    reload->former = reload->current;
    reload->current = g_steal_pointer(&reload->fresh);
    /* What a file with mistakes has defined may come back. */
    if (reload->report.rejected->len == 0)
        store_forget_unclaimed(store);
    if (!reload->at_start)
        store_save(store, on_saved, NULL);
    end_run(reload);
}

/* True: all is done. */
static bool apply_some(struct reload *reload)
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

static void on_turn(evutil_socket_t fd, short what, void *arg)
{
    struct reload *reload = arg;

    (void)fd;
    (void)what;
    if (apply_some(reload))
        end_applying(reload);
    else
        evtimer_add(reload->turn, &(struct timeval){ 0 });
}

/* ---- The run ---- */

static const char *foreign_owner(void *arg, const char *name)
{
    const struct reload *reload = arg;
    const struct export *export = registry_find(reload->server->registry, name);

    if (export == NULL || export->origin == EXPORT_BY_CONFIG)
        return NULL;
    return export->origin == EXPORT_BY_RPC ? "a create through the control port"
                                           : "the command line";
}

/* Files that contradict what is there are rejected; false: the configuration file is one. */
static bool resolve(struct reload *reload)
{
    struct config_set *set = reload->set;

    plan_resolve(set, reload->current, foreign_owner, reload);
    for (guint i = 0; i < set->units->len; i++) {
        const struct config_unit *unit = set->units->pdata[i];

        set->main_failed |= unit->main && unit->rejected;
    }
    return !set->main_failed;
}

/* An editor may be about to put it back, and nobody removes all settings that way. */
static void judge_file(struct reload *reload)
{
    struct config_set *set = reload->set;

    if (set->config->file_found || !reload->had_file)
        return;
    set->main_failed = true;
    g_ptr_array_add(set->problems, g_strdup_printf(
        "the configuration file %s is gone; to do without it, put an empty file there",
        set->config->config_file));
}

/* The directory has gone: only a problem when something came from it. */
static void judge_directory(struct reload *reload)
{
    GHashTableIter iter;
    void *name, *def;
    unsigned count = 0;

    if (!reload->set->directory_failed || reload->set->problems->len > 0)
        return;
    g_hash_table_iter_init(&iter, reload->current);
    while (g_hash_table_iter_next(&iter, &name, &def))
        count += strcmp(((struct export_def *)def)->file,
                        reload->set->config->config_file) != 0;
    if (count > 0)
        g_ptr_array_add(reload->set->problems, g_strdup_printf(
            "the directory %s is gone: its %u export(s) stay; to remove them, make it anew "
            "and leave it empty", reload->set->directory, count));
}

static unsigned count_rejected(const struct config_set *set)
{
    unsigned count = 0;

    for (guint i = 0; i < set->units->len; i++)
        count += ((const struct config_unit *)set->units->pdata[i])->rejected;
    return count;
}

static void start_applying(struct reload *reload)
{
    if (!resolve(reload)) {
        fail_run(reload);
        return;
    }
    if (count_rejected(reload->set) != reload->rejected_before) {
        g_array_unref(reload->steps);
        reload->steps = plan_make(reload->set, reload->current);
    }
    report_problems(&reload->report, reload->set);
    plan_warn_shared(reload->steps, reload->report.notices);
    if (!reload->at_start)
        apply_settings(reload);
    reload->had_file = reload->set->config->file_found;
    reload->fresh = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, export_def_unref);
    reload->applied = 0;
    if (!reload->at_start) {
        on_turn(-1, 0, reload);
        return;
    }
    while (!apply_some(reload))
        ;
    end_applying(reload);
}

static void work_look(void *arg)
{
    struct reload *reload = arg;

    reload_storage_check(reload->server->handlers, reload->steps, reload->maker);
}

static bool is_stopping(struct reload *reload)
{
    if (!reload->server->stopping)
        return false;
    g_ptr_array_add(reload->set->problems, g_strdup("the daemon is stopping"));
    fail_run(reload);
    return true;
}

static void on_looked(void *arg)
{
    if (!is_stopping(arg))
        start_applying(arg);
}

static void work_read(void *arg)
{
    struct reload *reload = arg;

    reload->set = config_set_read(reload->server->config, !reload->at_start);
}

static void on_read(void *arg)
{
    struct reload *reload = arg;

    if (is_stopping(reload))
        return;
    judge_directory(reload);
    judge_file(reload);
    if (reload->set->main_failed || !resolve(reload)) {
        fail_run(reload);
        return;
    }
    reload->steps = plan_make(reload->set, reload->current);
    reload->rejected_before = count_rejected(reload->set);
    if (!reload->at_start) {
        worker_run(reload->server->workers, work_look, on_looked, reload);
        return;
    }
    work_look(reload);
    start_applying(reload);
}

static void start_run(struct reload *reload)
{
    if (!reload->server->stopping)
        notify_reloading();
    reload->running = true;
    reload->again = false;
    reload->waiting = reload->next;
    g_queue_init(&reload->next);
    report_init(&reload->report);
    worker_run(reload->server->workers, work_read, on_read, reload);
}

/* ---- Public ---- */

struct reload *reload_new(struct server *server)
{
    struct reload *reload = g_new0(struct reload, 1);

    reload->server = server;
    reload->current = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, export_def_unref);
    reload->drains = g_hash_table_new(NULL, NULL);
    reload->maker = storage_maker_new();
    reload->turn = evtimer_new(loop_base(server->loop), on_turn, reload);
    return reload;
}

/* No worker has a part of it any more. */
void reload_free(struct reload *reload)
{
    GHashTableIter iter;
    void *drain;

    if (reload == NULL)
        return;
    g_hash_table_iter_init(&iter, reload->drains);
    while (g_hash_table_iter_next(&iter, NULL, &drain)) {
        g_hash_table_iter_steal(&iter);
        drain_free(drain);
    }
    g_hash_table_unref(reload->drains);
    if (reload->running)
        report_clear(&reload->report);
    g_clear_pointer(&reload->steps, g_array_unref);
    g_clear_pointer(&reload->fresh, g_hash_table_unref);
    config_set_free(reload->set);
    g_queue_clear_full(&reload->waiting, g_free);
    g_queue_clear_full(&reload->next, g_free);
    g_hash_table_unref(reload->current);
    event_free(reload->turn);
    storage_maker_free(reload->maker);
    g_free(reload);
}

void reload_stop(struct reload *reload)
{
    storage_maker_stop(reload->maker);
}

int reload_start(struct reload *reload, struct nbd_failure *why)
{
    reload->at_start = reload->running = true;
    report_init(&reload->report);
    work_read(reload);
    on_read(reload);
    reload->at_start = false;
    if (reload->failed)
        return nbd_fail(why, EBADMSG, "the configuration has mistakes; \"nbd-runner "
                        "--check-config\" shows them");
    return 0;
}

void reload_request(struct reload *reload, reload_done *done, void *arg)
{
    struct waiter *waiter = g_new0(struct waiter, 1);

    waiter->done = done;
    waiter->arg = arg;
    g_queue_push_tail(&reload->next, waiter);
    if (reload->running)
        reload->again = true;
    else
        start_run(reload);
}

static void forget_in(GQueue *queue, const void *arg)
{
    for (GList *link = queue->head; link != NULL; link = link->next) {
        struct waiter *waiter = link->data;

        if (waiter->arg == arg)
            waiter->done = NULL;
    }
}

void reload_forget(struct reload *reload, void *arg)
{
    forget_in(&reload->waiting, arg);
    forget_in(&reload->next, arg);
}

/* ---- --check-config ---- */

static void print_all(const GPtrArray *texts)
{
    for (guint i = 0; i < texts->len; i++)
        g_printerr("nbd-runner: %s\n", (char *)texts->pdata[i]);
}

bool reload_check(struct server *server)
{
    g_autoptr(GHashTable) none = g_hash_table_new(g_str_hash, g_str_equal);
    struct config_set *set = config_set_read(server->config, false);
    struct reload_report report;
    GArray *steps;
    unsigned count;
    bool good;

    plan_resolve(set, none, NULL, NULL);
    steps = plan_make(set, none);
    reload_storage_check(server->handlers, steps, NULL);
    report_init(&report);
    plan_warn_shared(steps, report.notices);
    report_problems(&report, set);
    print_all(report.rejected);
    print_all(report.notices);
    good = report.rejected->len == 0;
    count = steps->len;
    if (good)
        g_print("The configuration is good: %u exports in %u files.\n", count,
                set->units->len);
    g_array_unref(steps);
    report_clear(&report);
    config_set_free(set);
    return good;
}
