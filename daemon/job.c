/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Jobs: their table, who waits for them, and when they are forgotten. What a job does is
 * known to the one who started it. Loop thread only.
 */
#include "job.h"

#include <assert.h>
#include <event2/event.h>
#include <string.h>

#include "server.h"

#define USEC_PER_S 1000000

struct job_table {
    struct server *server;
    GQueue jobs;          /* struct job *, oldest first; owns them */
    GHashTable *by_id;    /* id -> struct job * */
    GHashTable *by_token; /* token -> struct job *; without the jobs that have none */
    unsigned running;
    struct event *tidy;   /* drops old jobs when nothing on the stack can hold one */
};

struct job_wait {
    struct job *job;
    GList *link; /* in job->waits */
    struct event *timer;
    void (*woken)(void *arg, struct job *job);
    void *arg;
};

/* Which states a job may go to; asserted. */
static const unsigned may_become[] = {
    [JOB_QUEUED] = 1 << JOB_RUNNING | 1 << JOB_FAILED | 1 << JOB_CANCELED,
    [JOB_RUNNING] = 1 << JOB_CONVERGING | 1 << JOB_RETRYING | 1 << JOB_DONE | 1 << JOB_FAILED |
                    1 << JOB_CANCELED,
    [JOB_CONVERGING] = 1 << JOB_RETRYING | 1 << JOB_DONE | 1 << JOB_FAILED | 1 << JOB_CANCELED,
    [JOB_RETRYING] = 1 << JOB_RUNNING | 1 << JOB_DONE | 1 << JOB_FAILED | 1 << JOB_CANCELED,
    /* While it is sealed only: saving failed. */
    [JOB_DONE] = 1 << JOB_FAILED,
    [JOB_FAILED] = 1 << JOB_FAILED,
    [JOB_CANCELED] = 1 << JOB_FAILED,
};

static bool is_last(enum job_state state)
{
    return state >= JOB_DONE;
}

/* ---- The table ---- */

static void wait_free(struct job_wait *wait)
{
    g_queue_delete_link(&wait->job->waits, wait->link);
    event_free(wait->timer);
    g_free(wait);
}

static void job_free(struct job *job)
{
    struct job_table *table = job->table;

    while (!g_queue_is_empty(&job->waits))
        wait_free(g_queue_peek_head(&job->waits));
    g_hash_table_remove(table->by_id, job->id);
    if (*job->token != '\0' && g_hash_table_lookup(table->by_token, job->token) == job)
        g_hash_table_remove(table->by_token, job->token);
    g_queue_delete_link(&table->jobs, job->link);
    g_free(job->token);
    g_free(job->export_name);
    g_free(job);
}

static void on_tidy(evutil_socket_t fd, short what, void *arg)
{
    struct job_table *table = arg;
    int64_t oldest_us = g_get_real_time() - (int64_t)JOB_KEEP_S * USEC_PER_S;
    unsigned surplus = table->jobs.length - table->running;
    GList *next;

    (void)fd;
    (void)what;
    surplus = surplus > JOB_KEEP_COUNT ? surplus - JOB_KEEP_COUNT : 0;
    for (GList *link = table->jobs.head; link != NULL; link = next) {
        struct job *job = link->data;

        next = link->next;
        if (!job_has_ended(job) || (surplus == 0 && job->ended_us >= oldest_us))
            continue;
        surplus -= surplus > 0;
        job_free(job);
    }
}

struct job_table *job_table_new(struct server *server)
{
    struct job_table *table = g_new0(struct job_table, 1);

    table->server = server;
    g_queue_init(&table->jobs);
    table->by_id = g_hash_table_new(g_str_hash, g_str_equal);
    table->by_token = g_hash_table_new(g_str_hash, g_str_equal);
    table->tidy = event_new(loop_base(server->loop), -1, 0, on_tidy, table);
    g_assert(table->tidy != NULL);
    return table;
}

void job_table_free(struct job_table *table)
{
    if (table == NULL)
        return;
    while (!g_queue_is_empty(&table->jobs))
        job_free(g_queue_peek_head(&table->jobs));
    g_hash_table_unref(table->by_id);
    g_hash_table_unref(table->by_token);
    event_free(table->tidy);
    g_free(table);
}

static struct job *job_add(struct job_table *table, const char *id, enum job_kind kind,
                           const char *export_name, const char *token)
{
    struct job *job = g_new0(struct job, 1);

    g_strlcpy(job->id, id, sizeof(job->id));
    job->table = table;
    job->kind = kind;
    job->export_name = g_strdup(export_name);
    job->token = g_strdup(token != NULL ? token : "");
    g_queue_init(&job->waits);
    g_queue_push_tail(&table->jobs, job);
    job->link = table->jobs.tail;
    g_hash_table_insert(table->by_id, job->id, job);
    if (*job->token != '\0')
        g_hash_table_replace(table->by_token, job->token, job);
    return job;
}

struct job *job_start(struct job_table *table, enum job_kind kind, const char *export_name,
                      const char *token)
{
    char *id = g_uuid_string_random();
    struct job *job = job_add(table, id, kind, export_name, token);

    g_free(id);
    job->state = JOB_RUNNING;
    job->started_us = g_get_real_time();
    table->running++;
    return job;
}

struct job *job_restore(struct job_table *table, const char *id, const char *token,
                        enum job_kind kind, enum job_state state, const char *export_name,
                        int64_t started_us, int64_t ended_us,
                        const struct nbd_failure *failure)
{
    struct job *job;

    if (!g_uuid_string_is_valid(id) || job_find(table, id) != NULL || !is_last(state) ||
        ended_us < g_get_real_time() - (int64_t)JOB_KEEP_S * USEC_PER_S)
        return NULL;
    job = job_add(table, id, kind, export_name, token);
    job->state = state;
    job->started_us = started_us;
    job->ended_us = ended_us;
    if (failure != NULL)
        job->failure = *failure;
    return job;
}

struct job *job_find(struct job_table *table, const char *id)
{
    return g_hash_table_lookup(table->by_id, id);
}

struct job *job_find_token(struct job_table *table, const char *token)
{
    return *token != '\0' ? g_hash_table_lookup(table->by_token, token) : NULL;
}

struct job *job_next(struct job_table *table, const char *after_id)
{
    struct job *after = after_id != NULL ? job_find(table, after_id) : NULL;
    GList *link = after != NULL ? after->link->next : table->jobs.head;

    return link != NULL ? link->data : NULL;
}

unsigned job_running_count(const struct job_table *table)
{
    return table->running;
}

/* ---- Their end ---- */

bool job_has_ended(const struct job *job)
{
    return is_last(job->state) && !job->sealed;
}

enum job_state job_shown_state(const struct job *job)
{
    return job->sealed ? JOB_RUNNING : job->state;
}

const char *job_kind_name(enum job_kind kind)
{
    static const char *const names[] = {
        [JOB_CREATE] = "create", [JOB_MIRROR] = "mirror", [JOB_DELETE] = "delete",
        [JOB_RESIZE] = "resize", [JOB_SYNC] = "sync",
    };

    return names[kind];
}

static void set_outcome(struct job *job, int result, const struct nbd_failure *why)
{
    enum job_state state = result == 0              ? JOB_DONE
                           : result == -ECANCELED ? JOB_CANCELED
                                                  : JOB_FAILED;

    if (state != job->state)
        assert(may_become[job->state] & 1u << state);
    job->state = state;
    job->ended_us = g_get_real_time();
    job->failure = (struct nbd_failure){ 0 };
    if (result == 0)
        return;
    if (why != NULL)
        job->failure = *why;
    job->failure.code = -result;
    if (job->failure.message[0] == '\0')
        g_strlcpy(job->failure.message, g_strerror(-result), sizeof(job->failure.message));
}

void job_seal(struct job *job, int result, const struct nbd_failure *why)
{
    assert(!job_has_ended(job));
    set_outcome(job, result, why);
    job->sealed = true;
    job->cancel = NULL;
}

void job_end(struct job *job, int result, const struct nbd_failure *why)
{
    assert(!job_has_ended(job));
    if (job->progress != NULL)
        job->progress(job, job->arg, &job->done_bytes, &job->total_bytes);
    set_outcome(job, result, why);
    job->sealed = false;
    job->cancel = NULL;
    job->progress = NULL;
    job->arg = NULL;
    job->table->running--;
    event_active(job->table->tidy, 0, 0);

    while (!g_queue_is_empty(&job->waits)) {
        struct job_wait wait = *(struct job_wait *)g_queue_peek_head(&job->waits);

        wait_free(g_queue_peek_head(&job->waits));
        wait.woken(wait.arg, job);
    }
}

void job_cancel_all(struct job_table *table)
{
    for (struct job *job = job_next(table, NULL); job != NULL; job = job_next(table, job->id))
        if (!job_has_ended(job) && job->cancel != NULL)
            job->cancel(job, job->arg);
}

/* ---- Waiting ---- */

static void on_wait_timeout(evutil_socket_t fd, short what, void *arg)
{
    struct job_wait wait = *(struct job_wait *)arg;

    (void)fd;
    (void)what;
    wait_free(arg);
    wait.woken(wait.arg, wait.job);
}

struct job_wait *job_wait_start(struct job *job, unsigned timeout_ms,
                                void (*woken)(void *arg, struct job *job), void *arg)
{
    struct timeval limit = { .tv_sec = timeout_ms / 1000,
                             .tv_usec = timeout_ms % 1000 * 1000 };
    struct job_wait *wait;

    if (job_has_ended(job) || timeout_ms == 0) {
        woken(arg, job);
        return NULL;
    }
    wait = g_new0(struct job_wait, 1);
    wait->job = job;
    wait->woken = woken;
    wait->arg = arg;
    wait->timer = evtimer_new(loop_base(job->table->server->loop), on_wait_timeout, wait);
    g_assert(wait->timer != NULL);
    event_add(wait->timer, &limit);
    g_queue_push_tail(&job->waits, wait);
    wait->link = job->waits.tail;
    return wait;
}

void job_wait_stop(struct job_wait *wait)
{
    if (wait != NULL)
        wait_free(wait);
}
