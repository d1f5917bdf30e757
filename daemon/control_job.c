/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The control procedures about jobs: asking, waiting, listing, canceling. Loop thread only.
 */
#include "control_private.h"

#include <errno.h>
#include <string.h>

#include "log.h"

#define WAIT_MAX_MS 30000
#define USEC_PER_S 1000000

/* ---- Rows ---- */

static void describe_progress(struct job *job, nr_progress *ret)
{
    int64_t end_us = job->ended_us != 0 ? job->ended_us : g_get_real_time();
    uint64_t done = job->done_bytes, total = job->total_bytes, elapsed_us;

    if (job->progress != NULL)
        job->progress(job, job->arg, &done, &total);
    elapsed_us = (uint64_t)MAX(end_us - job->started_us, 1);
    ret->done_bytes = done;
    ret->total_bytes = total;
    ret->rate_bps = (uint64_t)((double)done * USEC_PER_S / (double)elapsed_us);
    ret->eta_s = UINT64_MAX;
    if (ret->rate_bps > 0 && total >= done)
        ret->eta_s = (total - done) / ret->rate_bps;
}

void control_describe_job(struct job *job, GStringChunk *texts, nr_job *ret_row)
{
    *ret_row = (nr_job){
        .id = job->id,
        .kind = (nr_job_kind)job->kind,
        .state = (nr_job_state)job_shown_state(job),
        .export_name = control_text(texts, job->export_name, NR_NAME_MAX),
        .started = job->started_us,
        .ended = job_has_ended(job) ? job->ended_us : 0,
        .attempts = 1,
        .code = NR_OK,
        .last_error.message = (char *)"",
    };
    describe_progress(job, &ret_row->progress);
    if (!job_has_ended(job) || job->state == JOB_DONE)
        return;
    ret_row->code = control_code_of(job->failure.code);
    ret_row->last_error.sys_errno = job->failure.code;
    ret_row->last_error.message = control_text(texts, job->failure.message, NR_MSG_MAX);
}

void control_reply_job(struct rpc_call *call, struct job *job)
{
    GStringChunk *texts = g_string_chunk_new(256);
    nr_job_res result = { .code = NR_OK };

    control_describe_job(job, texts, &result.nr_job_res_u.job);
    rpc_reply(call, &result);
    g_string_chunk_free(texts);
}

/* NULL: the call has been refused. */
static struct job *find_job(struct rpc_call *call, const struct server *server, const char *id)
{
    struct job *job = job_find(server->jobs, id);
    g_autofree char *quoted = log_quote(id, strlen(id));

    if (job == NULL)
        control_refuse(call, NR_ENOENT, ENOENT, "there is no job %s; jobs are remembered for "
                       "a day after their end", quoted);
    return job;
}

/* ---- Long poll ---- */

struct poll {
    struct rpc_call *call;
    struct job_wait *wait;
};

static void on_job_woken(void *arg, struct job *job)
{
    struct poll *poll = arg;

    control_reply_job(poll->call, job);
    g_free(poll);
}

static void on_poller_gone(void *arg)
{
    struct poll *poll = arg;

    job_wait_stop(poll->wait);
    g_free(poll);
}

void control_job_get(struct rpc_call *call, void *args, void *arg)
{
    const nr_job_args *a = args;
    struct job *job = find_job(call, arg, a->id);
    struct poll *poll;

    if (job == NULL)
        return;
    if (a->wait_ms == 0 || job_has_ended(job)) {
        control_reply_job(call, job);
        return;
    }
    poll = g_new0(struct poll, 1);
    poll->call = call;
    rpc_call_on_gone(call, on_poller_gone, poll);
    poll->wait = job_wait_start(job, MIN(a->wait_ms, WAIT_MAX_MS), on_job_woken, poll);
}

/* ---- List and cancel ---- */

void control_jobs(struct rpc_call *call, void *args, void *arg)
{
    const nr_jobs_args *a = args;
    struct server *server = arg;
    GStringChunk *texts = g_string_chunk_new(1024);
    nr_jobs_res result = { .code = NR_OK };
    nr_jobs_ok *ok = &result.nr_jobs_res_u.jobs;
    u_int limit = control_page_limit(a->limit);
    struct job *job = job_next(server->jobs, a->after);

    ok->rows.rows_val = g_new0(nr_job, limit);
    for (; job != NULL && ok->rows.rows_len < limit; job = job_next(server->jobs, job->id))
        control_describe_job(job, texts, &ok->rows.rows_val[ok->rows.rows_len++]);
    ok->more = job != NULL;
    rpc_reply(call, &result);
    g_free(ok->rows.rows_val);
    g_string_chunk_free(texts);
}

void control_job_cancel(struct rpc_call *call, void *args, void *arg)
{
    const nr_id_args *a = args;
    struct job *job = find_job(call, arg, a->id);

    if (job == NULL)
        return;
    if (job_has_ended(job)) {
        control_refuse(call, NR_ESTATE, 0, "the %s job %s has ended already",
                       job_kind_name(job->kind), job->id);
        return;
    }
    if (job->cancel == NULL) {
        control_refuse(call, NR_ESTATE, 0, "the %s job %s cannot be canceled now; wait for "
                       "its end", job_kind_name(job->kind), job->id);
        return;
    }
    log_event(NBD_LOG_INFO, job->export_name, rpc_call_peer(call),
              "control client %s: cancels the %s of export \"%s\"", rpc_call_peer(call),
              job_kind_name(job->kind), job->export_name);
    job->cancel(job, job->arg);
    control_reply_job(call, job);
}
