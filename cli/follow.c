/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Long polls of NR_JOB_GET. A job belongs to the daemon: whoever stops waiting for it by
 * SIGINT is told how to stop the job itself.
 */
#include "answer.h"
#include "follow.h"
#include "output.h"
#include "progress.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define WAIT_MS 10000
#define WAIT_DRAWING_MS 500 /* while somebody looks at the progress */

static char goodbye[256];

static void on_interrupt(int signal_number)
{
    ssize_t unused = write(STDERR_FILENO, goodbye, strlen(goodbye));

    (void)unused;
    (void)signal_number;
    _exit(STATUS_FAILED);
}

static bool is_over(const nr_job *job)
{
    return job->state == NR_J_DONE || job->state == NR_J_FAILED || job->state == NR_J_CANCELED;
}

static int job_result(const nr_job *job, struct failure *why)
{
    const char *message = job->last_error.message;

    switch (job->state) {
    case NR_J_FAILED:
        if (message == NULL || *message == '\0')
            message = "the job failed, without a reason";
        return fail_code(why, job->code == NR_EPERM ? STATUS_PERMISSION : STATUS_FAILED,
                         code_name(job->code), "%s", message);
    case NR_J_CANCELED:
        return fail_code(why, STATUS_FAILED, "ECANCELED", "job %s was canceled", job->id);
    default:
        return 0;
    }
}

static int poll_job(struct cli *cli, const char *id, unsigned wait_ms, bool *ret_over,
                    struct failure *why)
{
    nr_job_args args = {.id = (char *)id, .wait_ms = wait_ms};
    nr_job_res res;
    nr_job *job = &res.nr_job_res_u.job;
    int r = client_call_slow(cli->client, NR_JOB_GET, &args, &res, wait_ms, why);

    if (r != 0)
        return r;
    *ret_over = is_over(job);
    if (!*ret_over || job->progress.total_bytes > 0)
        progress_show(job_kind_word(job->kind), job->progress.done_bytes,
                      job->progress.total_bytes);
    if (*ret_over) {
        json_object_object_add(cli_answer(cli), "job", job_json(job));
        r = job_result(job, why);
    }
    client_free(NR_JOB_GET, &res);
    return r;
}

int follow_job(struct cli *cli, const char *id, struct failure *why)
{
    struct sigaction action = {.sa_handler = on_interrupt}, before;
    unsigned wait_ms = isatty(STDERR_FILENO) ? WAIT_DRAWING_MS : WAIT_MS;
    bool over = false;
    int r = 0;

    snprintf(
        goodbye, sizeof(goodbye),
        "\n%s: note: the job goes on in the daemon; 'nbd-cli job cancel %.36s' stops it\n",
        cli->prefix, id);
    sigaction(SIGINT, &action, &before);
    while (r == 0 && !over)
        r = poll_job(cli, id, wait_ms, &over, why);
    sigaction(SIGINT, &before, NULL);
    progress_end();
    return r;
}

int finish_job(struct cli *cli, u_long procedure, nr_job_res *res, const char *success,
                      struct failure *why)
{
    nr_job *job = &res->nr_job_res_u.job;
    int r = 0;

    if (words_has(&cli->words, "nowait")) {
        cli_say(cli, "%s", job->id);
        json_object_object_add(cli_answer(cli), "job", job_json(job));
    } else {
        r = follow_job(cli, job->id, why);
        if (r == 0)
            cli_say(cli, "%s", success);
    }
    client_free(procedure, res);
    return r;
}
