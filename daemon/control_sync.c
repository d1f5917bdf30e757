/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The control procedure that brings what clients have written to stable storage: a job that
 * opens the export, flushes it once and closes it again. It is done when everything that was
 * answered before the call is stable. Loop thread only.
 */
#include "control_private.h"

#include <errno.h>
#include <string.h>

#include "log.h"
#include "request.h"

#define OPEN_TIMEOUT_MS 20000

struct sync {
    struct request request; /* first member; the handler's while it flushes */
    struct server *server;
    struct job *job;
    bool submitting; /* the handler may complete from inside submit() */
    bool flushed;
    int result;
};

static void sync_end(struct sync *sync, int result, const struct nbd_failure *why)
{
    struct export *export = sync->request.export;

    if (result < 0)
        log_event(NBD_LOG_WARNING, export->name, NULL, "export \"%s\" is not flushed: %s",
                  export->name, why->message);
    export->job = NULL;
    job_end(sync->job, result, why);
    store_jobs_changed(sync->server->store);
    control_save(sync->server);
    g_free(sync);
}

static void finish(struct sync *sync)
{
    struct export *export = sync->request.export;
    int result = sync->result;
    struct nbd_failure why = {0};

    if (result < 0)
        nbd_fail(&why, -result,
                 "flushing export \"%s\" failed: %s; what was written since "
                 "the last flush may be lost",
                 export->name, strerror(-result));
    export_close(export);
    sync_end(sync, result, &why);
}

static void on_flushed(struct request *request, int result)
{
    struct sync *sync = (struct sync *)request;

    sync->result = result;
    sync->flushed = true;
    if (!sync->submitting)
        finish(sync);
}

static void on_opened(void *arg, int result, const struct nbd_failure *why)
{
    struct sync *sync = arg;
    struct request *request = &sync->request;
    struct export *export = request->export;
    struct nbd_failure failure;

    if (result < 0) {
        failure = *why;
        sync_end(sync, result, &failure);
        return;
    }
    request->rq.dev = &export->dev;
    request->rq.op = NBD_OP_FLUSH;
    request->completed = on_flushed;
    sync->submitting = true;
    if ((export->dev.caps & NBD_CAP_FLUSH) && !export->readonly) {
        request_submit(request);
        request_submit_batch(export);
    } else { /* each write is stable when it is answered, or there is none */
        sync->flushed = true;
    }
    sync->submitting = false;
    if (sync->flushed)
        finish(sync);
}

void control_sync(struct rpc_call *call, void *args, void *arg)
{
    static const nr_backstore none = {.handler = (char *)"", .target = (char *)""};
    const nr_name_args *a = args;
    struct server *server = arg;
    struct nbd_failure why;
    struct export *export = control_find_export(server, a->name, &none, &why);
    struct sync *sync;

    if (export == NULL) {
        control_refuse_failure(call, &why);
        return;
    }
    if (server->stopping) {
        control_refuse(call, NR_ESTATE, 0,
                       "the daemon is stopping, which flushes all exports");
        return;
    }
    if (export->job != NULL) {
        control_refuse(call, NR_EBUSY, EBUSY,
                       "a %s job runs on export \"%s\"; wait for its end "
                       "(\"nbd-cli job wait %s\")",
                       job_kind_name(export->job->kind), export->name, export->job->id);
        return;
    }
    sync = g_new0(struct sync, 1);
    sync->server = server;
    sync->request.export = export;
    sync->request.file = -1;
    sync->job = export->job = job_start(server->jobs, JOB_SYNC, export->name, NULL);
    control_reply_job(call, sync->job);
    export_open(export, OPEN_TIMEOUT_MS, on_opened, sync);
}
