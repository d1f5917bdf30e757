/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What store.c (writing) and store_load.c (reading at start) share. Loop thread.
 */
#ifndef NR_STORE_PRIVATE_H
#define NR_STORE_PRIVATE_H

#include <event2/event.h>
#include <glib.h>

#include "job.h"
#include "store.h"
#include "store_file.h"
#include "worker.h"

#define STATE_FORMAT "nbd-runner-state"
#define STATE_VERSION 2

struct json_object;

/* A finished job and what was true when its text was made. */
struct saved_job {
    struct fragment *fragment;
    enum job_state state;
    int code;
    int64_t ended_us;
};

struct store {
    struct server *server;
    char *path;               /* as configured */
    char *real_path;          /* without symbolic links */
    struct worker_pool *writer;
    GQueue exports;           /* struct fragment *, in the order of the file */
    GHashTable *export_links; /* id -> its GList link */
    GTree *config_exports;    /* name -> struct fragment: mappings of configured exports */
    GHashTable *unclaimed;    /* name -> struct json_object: those that nobody has adopted */
    GPtrArray *jobs;          /* struct saved_job *, oldest first */
    GPtrArray *extras;        /* struct fragment *: unknown members */
    uint64_t generation;      /* of the newest snapshot */
    uint64_t saved_generation;
    bool changed;             /* since the newest snapshot, or that was not saved */
    bool answering;           /* waiters are being called: no write starts */
    struct write *running;
    GQueue retired;           /* struct fragment *: no longer in exports, freed after that */
    GQueue waiting;           /* struct waiter *, for the next write */
    GQueue posted;            /* struct waiter *, to be answered without one */
    struct event *retry;
    unsigned retry_s;         /* 0: the last write was good */
    enum predecessor predecessor; /* of the next write */
    bool degraded, readonly;
    char *load_error;         /* while degraded */
    char *write_error;        /* while retry_s > 0 */
};

/* The text under this id, from an object or from the export as it is now. */
void store_set_object(struct store *store, const char *id, struct json_object *object);
void store_set_export(struct store *store, const struct export *export);

/* What was saved for a configured export, until store_adopt_mappings(). */
void store_set_unclaimed(struct store *store, const char *name, struct json_object *object);

/* Takes the finished jobs from the job table. Converts only those that are new: up to a
 * thousand are kept. */
void store_collect_jobs(struct store *store);

#endif
