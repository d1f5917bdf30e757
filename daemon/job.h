/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Long operations that the control port starts: states, progress, waiting. Knows nothing of
 * storage. Finished jobs are kept for a day or until 1000 newer ones have finished, so that
 * a caller who lost the answer can ask again with the same token. Loop thread only.
 */
#ifndef NR_JOB_H
#define NR_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "nbd-runner/handler.h"

enum job_kind { JOB_CREATE, JOB_MIRROR, JOB_DELETE, JOB_RESIZE, JOB_SYNC }; /* as nr_job_kind */
enum job_state {                                                          /* as nr_job_state */
    JOB_QUEUED, JOB_RUNNING, JOB_CONVERGING, JOB_RETRYING, JOB_DONE, JOB_FAILED, JOB_CANCELED
};

struct job {
    char id[37];
    char *token;        /* "" = none */
    enum job_kind kind;
    enum job_state state;
    char *export_name;
    int64_t started_us, ended_us;
    struct nbd_failure failure;

    /* Of the one who runs the job; NULL: cannot. */
    void (*cancel)(struct job *job, void *arg);
    void (*progress)(struct job *job, void *arg, uint64_t *ret_done, uint64_t *ret_total);
    void *arg;
};

struct job_table;
struct server;

struct job_table *job_table_new(struct server *server);
void job_table_free(struct job_table *table);

/* A new job in state RUNNING. Owned by the table. */
struct job *job_start(struct job_table *table, enum job_kind kind, const char *export_name,
                      const char *token);
/* A finished job from the state file. */
struct job *job_restore(struct job_table *table, const char *id, const char *token,
                        enum job_kind kind, enum job_state state, const char *export_name,
                        int64_t started_us, int64_t ended_us, const struct nbd_failure *failure);

/* Ends it: DONE for 0, CANCELED for -ECANCELED, else FAILED; wakes those who wait. */
void job_end(struct job *job, int result, const struct nbd_failure *why);

struct job *job_find(struct job_table *table, const char *id);
struct job *job_find_token(struct job_table *table, const char *token);
struct job *job_next(struct job_table *table, const char *after_id); /* oldest first */
unsigned job_running_count(const struct job_table *table);

/* Calls woken(arg, job) when the job has ended or after timeout_ms; at once when it has. */
struct job_wait;
struct job_wait *job_wait_start(struct job *job, unsigned timeout_ms,
                                void (*woken)(void *arg, struct job *job), void *arg);
void job_wait_stop(struct job_wait *wait); /* the caller has gone */

#endif
