/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * job list, show, wait, cancel: the daemon's long operations.
 */
#include "answer.h"
#include "command.h"
#include "follow.h"
#include "output.h"

#include <glib.h>
#include <inttypes.h>
#include <string.h>

const struct word words_job[] = {
    {.name = "ID",
     .kind = WORD_POSITION,
     .value = "JOB-ID",
     .min = 1,
     .max = NR_ID_MAX,
     .help = "as 'job list' shows it"},
    {.name = NULL},
};

static void print_job(struct table *table, const nr_job *job)
{
    const nr_progress *progress = &job->progress;

    table_add(table, job->id);
    table_add(table, job_kind_word(job->kind));
    table_add(table, job_state_word(job->state));
    table_add(table, job->export_name);
    table_add(table, time_text(job->started));
    if (progress->total_bytes > 0)
        table_add_format(
            table, "%d%%",
            (int)(100.0 * (double)progress->done_bytes / (double)progress->total_bytes));
    else
        table_add(table, NULL);
    table_add(table, job->last_error.message);
}

static int print_jobs_page(struct cli *cli, char **after, struct table *table,
                           json_object *array, bool *ret_more, struct failure *why)
{
    nr_jobs_args args = {.after = *after};
    nr_jobs_res res;
    const nr_jobs_ok *page = &res.nr_jobs_res_u.jobs;
    int r = client_call(cli->client, NR_JOBS, &args, &res, why);

    if (r != 0)
        return r;
    for (u_int i = 0; i < page->rows.rows_len; i++) {
        print_job(table, &page->rows.rows_val[i]);
        json_object_array_add(array, job_json(&page->rows.rows_val[i]));
    }
    *ret_more = page->more && page->rows.rows_len > 0 &&
                strcmp(page->rows.rows_val[page->rows.rows_len - 1].id, *after) != 0;
    if (*ret_more) {
        g_free(*after);
        *after = g_strdup(page->rows.rows_val[page->rows.rows_len - 1].id);
    }
    client_free(NR_JOBS, &res);
    return 0;
}

int cmd_job_list(struct cli *cli, struct failure *why)
{
    static const char *const titles[] = {"ID",      "KIND", "STATE", "EXPORT",
                                         "STARTED", "DONE", "ERROR", NULL};
    struct table *table = table_new(titles);
    json_object *array = json_object_new_array();
    g_autofree char *after = g_strdup("");
    bool more = true;
    int r = cli_client(cli, why);

    while (r == 0 && more)
        r = print_jobs_page(cli, &after, table, array, &more, why);
    table_paint(table, "STATE");
    if (r == 0 && !cli->json)
        table_print(table, cli->out);
    json_object_object_add(cli_answer(cli), "jobs", array);
    table_free(table);
    return r;
}

static void say_job(struct cli *cli, const nr_job *job)
{
    const nr_progress *progress = &job->progress;

    cli_say(cli, "job            %s", job->id);
    cli_say(cli, "kind           %s", job_kind_word(job->kind));
    cli_say(cli, "state          %s", job_state_word(job->state));
    cli_say(cli, "export         %s", job->export_name);
    cli_say(cli, "started        %s", time_text(job->started));
    cli_say(cli, "ended          %s", time_text(job->ended));
    cli_say(cli, "progress       %" PRIu64 " of %" PRIu64 " bytes, %" PRIu64 " bytes/s",
            progress->done_bytes, progress->total_bytes, progress->rate_bps);
    if (progress->eta_s != UINT64_MAX)
        cli_say(cli, "time left      %" PRIu64 " s", progress->eta_s);
    if (job->last_error.message[0] != '\0')
        cli_say(cli, "error          %s", job->last_error.message);
}

/* show and cancel both answer with the job. */
static int answer_job(struct cli *cli, u_long procedure, void *args, struct failure *why)
{
    nr_job_res res;
    int r = cli_client(cli, why);

    if (r == 0)
        r = client_call(cli->client, procedure, args, &res, why);
    if (r != 0)
        return r;
    say_job(cli, &res.nr_job_res_u.job);
    json_object_object_add(cli_answer(cli), "job", job_json(&res.nr_job_res_u.job));
    client_free(procedure, &res);
    return 0;
}

int cmd_job_show(struct cli *cli, struct failure *why)
{
    nr_job_args args = {.id = (char *)words_text(&cli->words, "ID", "")};

    return answer_job(cli, NR_JOB_GET, &args, why);
}

int cmd_job_cancel(struct cli *cli, struct failure *why)
{
    nr_id_args args = {.id = (char *)words_text(&cli->words, "ID", "")};

    return answer_job(cli, NR_JOB_CANCEL, &args, why);
}

int cmd_job_wait(struct cli *cli, struct failure *why)
{
    const char *id = words_text(&cli->words, "ID", "");
    int r = cli_client(cli, why);

    if (r == 0)
        r = follow_job(cli, id, why);
    if (r == 0)
        cli_say(cli, "Job %s is done.", id);
    return r;
}
