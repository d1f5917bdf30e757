/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What the files of a reload share: reload.c, reload_apply.c, reload_check.c, reload_drain.c
 * and reload_report.c, nobody else. Loop thread, but for what a worker has during the run.
 */
#ifndef NR_RELOAD_PRIVATE_H
#define NR_RELOAD_PRIVATE_H

#include <event2/event.h>

#include "reload.h"

struct config_set;
struct export;
struct export_def;

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

/* ---- reload_report.c ---- */

void reload_report_init(struct reload_report *report);
void reload_report_clear(struct reload_report *report);
/* All that is wrong with the files, or worth a notice, as texts of the report. */
void reload_report_problems(struct reload_report *report, const struct config_set *set);
void reload_log_report(const struct reload *reload);

/* ---- reload_drain.c ---- */

/* The name is free now; who is connected goes on. */
void reload_start_drain(struct reload *reload, struct export *export, struct export_def *def);
/* One that drains, and is what is wanted again, goes back into the registry. NULL: there is
 * none. */
struct export *reload_revive_drained(struct reload *reload, const struct export_def *def);
/* They are forgotten, with the table. */
void reload_free_drains(struct reload *reload);

/* ---- reload_apply.c ---- */

/* Those that need a restart become notices. */
void reload_apply_settings(struct reload *reload);
/* Steps of the plan, for a bounded time; true: all is done. */
bool reload_apply_some(struct reload *reload);

#endif
