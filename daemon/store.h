/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The saved state (saveconfig.json): the only reader and writer of JSON on disk. Replaced
 * whole: temporary file, fsync, rename, fsync of the directory. Loop thread; writing runs on
 * a worker of its own.
 */
#ifndef NR_STORE_H
#define NR_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "nbd-runner/handler.h"
#include "export.h"

struct store;
struct server;

enum store_state { STORE_SAVED, STORE_UNSAVED, STORE_DEGRADED };

/* Does not touch the file. */
struct store *store_new(struct server *server, const char *path);
/* Waits for a write that runs; call store_save() and let it finish before. */
void store_free(struct store *store);

/* At start, before the loop runs: fill the registry, the mappings and the remembered jobs.
 * Never fails for bad content (it is set aside as PATH.corrupt-TIME, the state is DEGRADED);
 * a negative errno only when the file cannot be read at all (exit code 3), with *why. */
int store_load(struct store *store, struct nbd_failure *why);

/* The definition of this export or its mappings have changed, or jobs have ended: what is true
 * at this call is written at the next store_save(). Of exports that a configuration file
 * defines only the mappings are kept. A removed export is named by its id. */
void store_changed(struct store *store, struct export *export);
void store_removed(struct store *store, const char *export_id);
void store_jobs_changed(struct store *store);

/* For exports that a configuration file defines. Restore the mappings that were saved for
 * it, if it is on the same backstore as then. */
void store_adopt_mappings(struct store *store, struct export *export);
/* It is no longer defined: its mappings are not kept. */
void store_removed_config(struct store *store, const char *name);
/* What was saved for exports that no file defines any more is dropped. */
void store_forget_unclaimed(struct store *store);

/* done(arg, 0) once everything that had changed before this call is on stable storage, or
 * done(arg, -errno) with the cause: the caller then takes its change back and says so by
 * store_changed() or store_removed(), before it returns. Calls are joined into one write.
 * done() is never called from inside. */
void store_save(struct store *store, export_done *done, void *arg);

/* Does somebody wait for a save? */
bool store_is_busy(const struct store *store);

/* *ret_error (ret_error may be NULL): "" or a sentence, the store's own until it changes. */
enum store_state store_state(const struct store *store, const char **ret_error);
uint64_t store_generation(const struct store *store);
const char *store_path(const struct store *store);

/* While a newer version's file is in use: changes are refused. */
bool store_is_readonly(const struct store *store);

#endif
