/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Long operations that the control port starts: states, progress, waiting. Knows nothing of
 * storage. Finished jobs are kept for a day or until 1000 newer ones have finished, so that
 * a caller who lost the answer can ask again with the same token. Loop thread only.
 */
#ifndef NR_JOB_H
#define NR_JOB_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "nbd-runner/handler.h"

#define JOB_KEEP_S 86400
#define JOB_KEEP_COUNT 1000

enum job_kind { /* as nr_job_kind */
    JOB_CREATE, JOB_MIRROR, JOB_DELETE, JOB_RESIZE, JOB_SYNC
};
enum job_state { /* as nr_job_state */
    JOB_QUEUED, JOB_RUNNING, JOB_CONVERGING, JOB_RETRYING, JOB_DONE, JOB_FAILED, JOB_CANCELED
};

struct job {
    char id[37];
    char *token;        /* "" = none */
    enum job_kind kind;
    enum job_state state; /* as it is to be saved: already the last one while `sealed` */
    bool sealed;        /* its outcome is being saved; for callers it still runs */
    char *export_name;
    int64_t started_us, ended_us;
    struct nbd_failure failure;

    /* Of the one who runs the job; NULL: cannot. */
    void (*cancel)(struct job *job, void *arg);
    void (*progress)(struct job *job, void *arg, uint64_t *ret_done, uint64_t *ret_total);
    void *arg;
    uint64_t done_bytes, total_bytes; /* the last of progress(), once it has ended */

    struct job_table *table; /* job.c's own, like all that follows */
    GList *link;
    GQueue waits;            /* struct job_wait * */
};

struct job_table;
struct server;

struct job_table *job_table_new(struct server *server);
void job_table_free(struct job_table *table);

/* A new job in state RUNNING. Owned by the table. */
struct job *job_start(struct job_table *table, enum job_kind kind, const char *export_name,
                      const char *token);
/* A finished job from the state file. NULL: the id is no UUID or is known, or the job has not
 * ended, or its day is over. */
struct job *job_restore(struct job_table *table, const char *id, const char *token,
                        enum job_kind kind, enum job_state state, const char *export_name,
                        int64_t started_us, int64_t ended_us,
                        const struct nbd_failure *failure);

/* The outcome is known and shall be saved together with what the job did, before anybody
 * hears of it. Again, when that has failed; job_end() follows. */
void job_seal(struct job *job, int result, const struct nbd_failure *why);

/* Ends it: DONE for 0, CANCELED for -ECANCELED, else FAILED; wakes those who wait. The job
 * stays valid until control returns to the loop. */
void job_end(struct job *job, int result, const struct nbd_failure *why);

/* The daemon ends: cancels those that can be canceled. */
void job_cancel_all(struct job_table *table);

/* For callers: what the job is doing, and whether it has ended. */
enum job_state job_shown_state(const struct job *job);
bool job_has_ended(const struct job *job);
const char *job_kind_name(enum job_kind kind);

struct job *job_find(struct job_table *table, const char *id);
struct job *job_find_token(struct job_table *table, const char *token);
/* Oldest first. NULL, "" or an id that is no longer kept: the oldest one. */
struct job *job_next(struct job_table *table, const char *after_id);
unsigned job_running_count(const struct job_table *table);

/* Calls woken(arg, job) when the job has ended or after timeout_ms. When it has ended
 * already, or timeout_ms is 0, woken() is called at once and the result is NULL. The wait is
 * gone when woken() is called. */
struct job_wait;
struct job_wait *job_wait_start(struct job *job, unsigned timeout_ms,
                                void (*woken)(void *arg, struct job *job), void *arg);
void job_wait_stop(struct job_wait *wait); /* the caller has gone */

#endif
