/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The report of a reload: what was done, what is wrong with the files; and its lines of the
 * log. Loop thread.
 */
#include "reload_private.h"

#include "config_set.h"
#include "log.h"
#include "server.h"

void reload_report_init(struct reload_report *report)
{
    *report = (struct reload_report){
        .added = g_ptr_array_new_with_free_func(g_free),
        .changed = g_ptr_array_new_with_free_func(g_free),
        .removed = g_ptr_array_new_with_free_func(g_free),
        .rejected = g_ptr_array_new_with_free_func(g_free),
        .notices = g_ptr_array_new_with_free_func(g_free),
    };
}

void reload_report_clear(struct reload_report *report)
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

void reload_report_problems(struct reload_report *report, const struct config_set *set)
{
    move_texts(set->problems, report->rejected);
    for (guint i = 0; i < set->units->len; i++) {
        const struct config_unit *unit = set->units->pdata[i];

        move_texts(unit->problems, report->rejected);
    }
    move_texts(set->notices, report->notices);
}

void reload_log_report(const struct reload *reload)
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
