/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * --check-config: what is wrong with the configuration, without a run of the reload. Touches
 * nothing. No loop runs.
 */
#include "reload_private.h"

#include "config_set.h"
#include "reload_plan.h"
#include "reload_storage.h"
#include "server.h"

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
    reload_report_init(&report);
    plan_warn_shared(steps, report.notices);
    reload_report_problems(&report, set);
    print_all(report.rejected);
    print_all(report.notices);
    good = report.rejected->len == 0;
    count = steps->len;
    if (good)
        g_print("The configuration is good: %u exports in %u files.\n", count,
                set->units->len);
    g_array_unref(steps);
    reload_report_clear(&report);
    config_set_free(set);
    return good;
}
