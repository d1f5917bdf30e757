/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The control procedure that reads the configuration again and answers with what has come of
 * it. Loop thread only.
 */
#include "control_private.h"

#include "log.h"
#include "reload.h"

struct reloading {
    struct rpc_call *call;
    struct reload *reload; /* not owned */
};

/* As many as an answer takes; the array is the caller's. */
static char **rows(const GPtrArray *from, GStringChunk *texts, size_t most, u_int *ret_n)
{
    char **row;

    *ret_n = MIN(from->len, (u_int)NR_PAGE_MAX);
    row = g_new0(char *, *ret_n + 1);
    for (u_int i = 0; i < *ret_n; i++)
        row[i] = control_text(texts, from->pdata[i], most);
    return row;
}

static void on_reloaded(void *arg, const struct reload_report *report)
{
    struct reloading *reloading = arg;
    GStringChunk *texts = g_string_chunk_new(4096);
    nr_reload_res result = { .code = NR_OK };
    nr_reload *r = &result.nr_reload_res_u.reload;

    r->added = report->added->len;
    r->changed = report->changed->len;
    r->removed = report->removed->len;
    r->unchanged = report->unchanged;
    r->draining = report->draining;
    r->rejected = report->rejected->len;
    r->failed = report->failed;
    r->added_names.added_names_val =
        rows(report->added, texts, NR_NAME_MAX, &r->added_names.added_names_len);
    r->changed_names.changed_names_val =
        rows(report->changed, texts, NR_NAME_MAX, &r->changed_names.changed_names_len);
    r->removed_names.removed_names_val =
        rows(report->removed, texts, NR_NAME_MAX, &r->removed_names.removed_names_len);
    r->problems.problems_val =
        rows(report->rejected, texts, NR_MSG_MAX, &r->problems.problems_len);
    r->notices.notices_val = rows(report->notices, texts, NR_MSG_MAX, &r->notices.notices_len);
    rpc_reply(reloading->call, &result);
    g_free(r->added_names.added_names_val);
    g_free(r->changed_names.changed_names_val);
    g_free(r->removed_names.removed_names_val);
    g_free(r->problems.problems_val);
    g_free(r->notices.notices_val);
    g_string_chunk_free(texts);
    g_free(reloading);
}

static void on_caller_gone(void *arg)
{
    struct reloading *reloading = arg;

    reload_forget(reloading->reload, reloading);
    g_free(reloading);
}

void control_reload(struct rpc_call *call, void *args, void *arg)
{
    struct server *server = arg;
    struct reloading *reloading;

    (void)args;
    if (server->stopping || server->reload == NULL) {
        control_refuse(call, NR_ESTATE, 0, "the daemon is stopping; it reads its "
                       "configuration when it starts anew");
        return;
    }
    log_info("control client %s: reload", rpc_call_peer(call));
    reloading = g_new0(struct reloading, 1);
    reloading->call = call;
    reloading->reload = server->reload;
    rpc_call_on_gone(call, on_caller_gone, reloading);
    reload_request(server->reload, on_reloaded, reloading);
}
