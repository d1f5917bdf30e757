/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Exports that configuration files define: made at start, brought up to date by a reload.
 * Files are read, and the storage behind new definitions is looked at, on a worker; what
 * follows is applied in bounded turns of the loop. Loop thread only.
 */
#ifndef NR_RELOAD_H
#define NR_RELOAD_H

#include <glib.h>
#include <stdbool.h>

#include "nbd-runner/handler.h"

struct reload;
struct server;

/* What a reload has done. All texts are char *. */
struct reload_report {
    GPtrArray *added, *changed, *removed; /* names of exports */
    unsigned unchanged, draining;         /* numbers of exports */
    GPtrArray *rejected; /* a sentence each; the files concerned are as they were */
    GPtrArray *notices;
    bool failed;         /* nothing was applied at all: the configuration file is wrong */
};

typedef void reload_done(void *arg, const struct reload_report *report);

struct reload *reload_new(struct server *server);
void reload_free(struct reload *reload);

/* Before the loop runs; blocks. Files with mistakes are logged and left out; -EBADMSG with the
 * first sentence when the configuration file has any. */
int reload_start(struct reload *reload, struct nbd_failure *why);

/* Read everything and say what is wrong with it, touching nothing: --check-config. Blocks.
 * Prints to stderr; true: all is well. */
bool reload_check(struct server *server);

/* Begin, or begin again when the one that runs has ended: what is on disk now will be in
 * effect when done(arg, report) is called. done may be NULL. */
void reload_request(struct reload *reload, reload_done *done, void *arg);

/* The daemon is stopping: the run that is under way shall end soon. */
void reload_stop(struct reload *reload);

/* Who waits has left: done() is not called. */
void reload_forget(struct reload *reload, void *arg);

#endif
