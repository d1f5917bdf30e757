/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * A run of the reload, from who asks for it to the answer: read the files (worker), find the
 * difference, look at the storage of what is new (worker), apply. Nothing is taken down before
 * all that can fail has been done. Loop thread, but for the functions named work_*.
 */
#include "reload_private.h"

#include <errno.h>
#include <string.h>

#include "log.h"
#include "notify.h"
#include "registry.h"
#include "reload_plan.h"
#include "reload_storage.h"
#include "server.h"
#include "store.h"

struct waiter {
    reload_done *done;
    void *arg;
};

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
    reload_log_report(reload);
    if (!reload->at_start && !reload->server->stopping)
        notify_end(reload);
    answer_all(reload);
    reload_report_clear(&reload->report);
    free_leftovers(reload);
    reload->running = false;
    if (reload->again)
        start_run(reload);
}

static void fail_run(struct reload *reload)
{
    reload->report.failed = reload->failed = true;
    reload->report.unchanged = g_hash_table_size(reload->current);
    reload_report_problems(&reload->report, reload->set);
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

static void on_turn(evutil_socket_t fd, short what, void *arg)
{
    struct reload *reload = arg;

    (void)fd;
    (void)what;
    if (reload_apply_some(reload))
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
    reload_report_problems(&reload->report, reload->set);
    plan_warn_shared(reload->steps, reload->report.notices);
    if (!reload->at_start)
        reload_apply_settings(reload);
    reload->had_file = reload->set->config->file_found;
    reload->fresh = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, export_def_unref);
    reload->applied = 0;
    if (!reload->at_start) {
        on_turn(-1, 0, reload);
        return;
    }
    while (!reload_apply_some(reload))
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
    reload_report_init(&reload->report);
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
    if (reload == NULL)
        return;
    reload_free_drains(reload);
    if (reload->running)
        reload_report_clear(&reload->report);
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
    reload_report_init(&reload->report);
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
