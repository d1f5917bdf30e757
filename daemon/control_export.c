/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The control procedures that make and delete exports. Both answer with a job at once. A job
 * is done when the state file says so; when it cannot be written, what was done is undone, so
 * that memory, disk and answer agree. Loop thread only.
 */
#include "control_private.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "log.h"
#include "registry.h"

#define JOBS_MAX 256        /* that run at the same time */
#define EXPORTS_MAX 65536
#define ADOPT_TIMEOUT_MS 10000

/* ---- Create ---- */

struct creation {
    struct server *server;
    struct job *job;
    struct export *export;
    bool adopt;
    bool canceled;
    struct nbd_failure failure; /* why it is undone */
};

/* The export goes, the job has failed. */
static void creation_fail(struct creation *creation, int result, const struct nbd_failure *why)
{
    struct server *server = creation->server;

    log_event(NBD_LOG_INFO, creation->export->name, NULL,
              "export \"%s\" is not created: %s", creation->export->name, why->message);
    store_removed(server->store, creation->export->id);
    creation->export->job = NULL;
    job_end(creation->job, result, why); /* asks the export for its progress */
    control_forget_export(creation->export, "the export could not be created", NULL, NULL);
    store_jobs_changed(server->store);
    control_save(server);
    g_free(creation);
}

static void on_undone(void *arg, int result, const struct nbd_failure *why)
{
    struct creation *creation = arg;

    if (result < 0)
        log_event(NBD_LOG_ERROR, creation->export->name, NULL,
                  "export \"%s\": what was made for it is left behind: %s",
                  creation->export->name, why->message);
    creation_fail(creation, -creation->failure.code, &creation->failure);
}

/* Take back what was made, and for the state file at once. What we only adopted is not ours
 * to delete. */
static void creation_undo(struct creation *creation, const struct nbd_failure *why)
{
    creation->failure = *why;
    job_seal(creation->job, -why->code, why);
    store_removed(creation->server->store, creation->export->id);
    store_jobs_changed(creation->server->store);
    if (creation->adopt) {
        creation_fail(creation, -why->code, &creation->failure);
        return;
    }
    control_kick_export(creation->export, "the export could not be created");
    export_delete(creation->export, on_undone, creation);
}

static void on_create_saved(void *arg, int result, const struct nbd_failure *why)
{
    struct creation *creation = arg;
    struct nbd_failure failure;

    if (result < 0) {
        nbd_fail(&failure, -result, "export \"%s\" cannot be saved: %s",
                 creation->export->name, why->message);
        creation_undo(creation, &failure);
        return;
    }
    log_event(NBD_LOG_INFO, creation->export->name, NULL,
              "export \"%s\" is created: %s backstore %s, %" PRIu64 " bytes",
              creation->export->name, creation->export->handler_name, creation->export->target,
              creation->export->size);
    creation->export->job = NULL;
    job_end(creation->job, 0, NULL);
    g_free(creation);
}

static void on_created(void *arg, int result, const struct nbd_failure *why)
{
    struct creation *creation = arg;
    struct nbd_failure failure;

    if (result < 0) {
        failure = *why;
        creation_fail(creation, result, &failure);
        return;
    }
    if (creation->adopt)
        export_close(creation->export);
    if (creation->canceled) {
        nbd_fail(&failure, ECANCELED, "canceled; the backing store is deleted again");
        creation_undo(creation, &failure);
        return;
    }
    job_seal(creation->job, 0, NULL);
    store_changed(creation->server->store, creation->export);
    store_jobs_changed(creation->server->store);
    store_save(creation->server->store, on_create_saved, creation);
}

static void on_cancel(struct job *job, void *arg)
{
    struct creation *creation = arg;

    (void)job;
    creation->canceled = true;
    export_create_cancel(creation->export);
}

static void on_progress(struct job *job, void *arg, uint64_t *ret_done, uint64_t *ret_total)
{
    struct creation *creation = arg;

    (void)job;
    export_create_progress(creation->export, ret_done, ret_total);
}

static int check_create(const struct server *server, const nr_create_args *args,
                        struct nbd_failure *why)
{
    if (*args->store.handler == '\0' || *args->store.target == '\0')
        return nbd_fail(why, EINVAL, "a backstore needs a handler and a target");
    if (!args->adopt && (args->size == 0 || args->size > INT64_MAX))
        return nbd_fail(why, EINVAL, "the size of %s must be between 1 byte and 8 EiB",
                        args->store.target);
    if (job_running_count(server->jobs) >= JOBS_MAX)
        return nbd_fail(why, EMFILE, "%d jobs run already, which is the limit; wait for one "
                        "to end", JOBS_MAX);
    if (registry_size(server->registry) >= EXPORTS_MAX)
        return nbd_fail(why, EMFILE, "there are %d exports, which is the limit; delete one",
                        EXPORTS_MAX);
    return 0;
}

static int add_export(const struct server *server, const nr_create_args *args,
                      struct export **ret_export, struct nbd_failure *why)
{
    g_autoptr(GHashTable) opts = control_opts(&args->store, why);
    struct export_spec spec = {
        .name = args->name,
        .description = args->description,
        .handler = args->store.handler,
        .target = args->store.target,
        .opts = opts,
        .origin = EXPORT_BY_RPC,
        .size = args->adopt ? 0 : args->size,
        .prealloc = args->prealloc,
        .readonly = args->readonly,
    };

    if (opts == NULL)
        return -EINVAL;
    return registry_add(server->registry, &spec, !args->adopt, ret_export, why);
}

void control_create(struct rpc_call *call, void *args, void *arg)
{
    const nr_create_args *a = args;
    struct server *server = arg;
    struct job *job = job_find_token(server->jobs, a->token);
    struct creation *creation;
    struct export *export;
    struct nbd_failure why;
    bool adopt = a->adopt;

    if (job != NULL) {
        control_reply_job(call, job);
        return;
    }
    if (!control_may_change(call, server) || !control_check_text(call, a->token, "token") ||
        !control_check_text(call, a->description, "description") ||
        !control_check_text(call, a->store.target, "target"))
        return;
    if (check_create(server, a, &why) < 0 || add_export(server, a, &export, &why) < 0) {
        control_refuse_failure(call, &why);
        return;
    }
    creation = g_new0(struct creation, 1);
    creation->server = server;
    creation->export = export;
    creation->adopt = adopt;
    job = creation->job = export->job = job_start(server->jobs, JOB_CREATE, export->name,
                                                  a->token);
    job->arg = creation;
    job->progress = on_progress;
    if (!adopt && export->handler->cancel != NULL)
        job->cancel = on_cancel;
    log_event(NBD_LOG_INFO, export->name, rpc_call_peer(call),
              "control client %s: %s export \"%s\" (%s backstore %s)", rpc_call_peer(call),
              adopt ? "adopts" : "creates", export->name, export->handler_name,
              export->target);
    control_reply_job(call, job); /* the arguments are gone from here on */
    if (adopt)
        export_open(export, ADOPT_TIMEOUT_MS, on_created, creation);
    else
        export_create(export, on_created, creation);
}

/* ---- Delete ---- */

struct deletion {
    struct server *server;
    struct job *job;
    struct export *export;
    bool unknown;        /* no export of ours, added for the time of this job */
    bool keep_data;
    struct event *drain; /* NULL: its clients have been cut off */
    int result;          /* 0, or negative errno and why */
    struct nbd_failure failure;
};

static void on_gone(void *arg)
{
    struct deletion *deletion = arg;

    job_end(deletion->job, deletion->result, &deletion->failure);
    g_free(deletion);
}

/* Who is told that the job has ended finds nothing of the export any more, unless clients that
 * were cut off have not left yet: those are not waited for. */
static void forget_deleted(struct deletion *deletion)
{
    struct export *export = deletion->export;
    bool in_use = export->connections > 0;

    control_forget_export(export, "the export was deleted", in_use ? NULL : on_gone, deletion);
    if (in_use)
        on_gone(deletion);
}

static void deletion_end(struct deletion *deletion, int result, const struct nbd_failure *why)
{
    struct server *server = deletion->server;

    deletion->result = result;
    if (why != NULL)
        deletion->failure = *why;
    deletion->export->job = NULL;
    if (deletion->drain != NULL)
        event_free(deletion->drain);
    if (result == 0)
        log_event(NBD_LOG_INFO, deletion->export->name, NULL,
                  "export \"%s\" is deleted", deletion->export->name);
    else
        log_event(NBD_LOG_WARNING, deletion->export->name, NULL,
                  "export \"%s\" is not deleted: %s", deletion->export->name, why->message);
    if (result == 0 || deletion->unknown) {
        /* Again: a client that opened it meanwhile made it known to the store. */
        store_removed(server->store, deletion->export->id);
        forget_deleted(deletion);
    } else {
        on_gone(deletion);
    }
    if (result < 0) {
        store_jobs_changed(server->store);
        control_save(server);
    }
}

/* The data may be gone now while the definition is still on disk: then the export stays, and
 * can be deleted again. */
static void on_delete_saved(void *arg, int result, const struct nbd_failure *why)
{
    struct deletion *deletion = arg;
    struct nbd_failure failure;

    if (result < 0) {
        nbd_fail(&failure, -result, "the deletion of export \"%s\" cannot be saved: %s; "
                 "delete it again later", deletion->export->name, why->message);
        store_changed(deletion->server->store, deletion->export);
        deletion_end(deletion, result, &failure);
        return;
    }
    deletion_end(deletion, 0, NULL);
}

static void on_deleted(void *arg, int result, const struct nbd_failure *why)
{
    struct deletion *deletion = arg;
    struct nbd_failure failure;

    if (result < 0) {
        failure = *why;
        deletion_end(deletion, result, &failure);
        return;
    }
    job_seal(deletion->job, 0, NULL);
    if (!deletion->unknown)
        store_removed(deletion->server->store, deletion->export->id);
    store_jobs_changed(deletion->server->store);
    store_save(deletion->server->store, on_delete_saved, deletion);
}

static void on_drain_timeout(evutil_socket_t fd, short what, void *arg)
{
    struct deletion *deletion = arg;

    (void)fd;
    (void)what;
    control_kick_export(deletion->export, "the export is being deleted, and its drain_timeout "
                        "is over");
}

static void on_drained(void *arg)
{
    on_deleted(arg, 0, NULL);
}

/* With a drain_timeout, who is connected may finish within it. export_open() refuses others
 * since there is a job to delete the export. */
static void begin_deletion(struct deletion *deletion)
{
    struct export *export = deletion->export;

    if (export->drain_timeout_s > 0 && export->connections > 0) {
        log_event(NBD_LOG_INFO, export->name, NULL,
                  "export \"%s\": %u client(s) have %u seconds to leave", export->name,
                  export->connections, export->drain_timeout_s);
        deletion->drain = evtimer_new(loop_base(deletion->server->loop), on_drain_timeout,
                                      deletion);
        evtimer_add(deletion->drain, &(struct timeval){ .tv_sec = export->drain_timeout_s });
    } else {
        control_kick_export(export, "the export is being deleted");
    }
    if (!deletion->keep_data)
        export_delete(export, on_deleted, deletion);
    else if (deletion->drain != NULL)
        export_close_now(export, on_drained, deletion);
    else
        on_deleted(deletion, 0, NULL);
}

/* Refuses what must not be deleted now. */
static bool check_delete(struct rpc_call *call, const struct export *export, bool force)
{
    const struct mapping *mapping;

    if (export->origin != EXPORT_BY_RPC) {
        control_refuse(call, NR_EPERM, 0, "export \"%s\" was defined by %s; remove it there",
                       export->name,
                       export->origin == EXPORT_BY_CONFIG ? export->origin_file
                                                          : "the command line");
        return false;
    }
    if (export->job != NULL) {
        control_refuse(call, NR_EBUSY, EBUSY, "a %s job runs on export \"%s\"; wait for "
                       "its end (\"nbd-cli job wait %s\")",
                       job_kind_name(export->job->kind), export->name, export->job->id);
        return false;
    }
    if (force)
        return true;
    if (export->mappings->len > 0) {
        mapping = g_ptr_array_index(export->mappings, 0);
        control_refuse(call, NR_EBUSY, EBUSY, "export \"%s\" is mapped: %s on host \"%s\" "
                       "(%s); unmap it there, or use \"force\"", export->name,
                       *mapping->device != '\0' ? mapping->device : "a device",
                       mapping->client, mapping_state_name(mapping_state(mapping)));
        return false;
    }
    if (export->connections > 0) {
        control_refuse(call, NR_EBUSY, EBUSY, "export \"%s\" is in use by %u connection(s); "
                       "end them (\"nbd-cli clients\" lists them), or use \"force\"",
                       export->name, export->connections);
        return false;
    }
    return true;
}

/* A backing store that no export has: deleting it needs an export for the time being. */
static struct export *add_unknown(const struct server *server, const nr_delete_args *args,
                                  struct nbd_failure *why)
{
    g_autoptr(GHashTable) opts = control_opts(&args->store, why);
    g_autofree char *name = g_uuid_string_random();
    struct export_spec spec = {
        .name = name,
        .handler = args->store.handler,
        .target = args->store.target,
        .opts = opts,
        .origin = EXPORT_BY_RPC,
    };
    struct export *export;

    if (opts == NULL || registry_add(server->registry, &spec, true, &export, why) < 0)
        return NULL;
    return export;
}

/* ---- Clients of what a reload has removed ---- */

/* The next one of this name that is draining; NULL: the first. */
static struct export *next_leaving(const struct server *server, const char *name,
                                   const struct export *before)
{
    struct export *export = registry_next_leaving(server->registry, name,
                                                  before != NULL ? before->id : "");

    return export != NULL && strcmp(export->name, name) == 0 ? export : NULL;
}

/* Their files have gone, or say something else now: all that can be removed are the clients.
 * True: the call was about them, and is answered. */
static bool remove_leaving(struct rpc_call *call, struct server *server, const char *name,
                           bool force)
{
    struct export *export = next_leaving(server, name, NULL);
    struct job *job;

    if (export == NULL)
        return false;
    if (!force) {
        control_refuse(call, NR_EBUSY, EBUSY, "export \"%s\" is removed already, and %u "
                       "client(s) go on until they leave; use \"force\" to end them", name,
                       export->connections);
        return true;
    }
    log_event(NBD_LOG_INFO, name, rpc_call_peer(call), "control client %s: ends the clients of "
              "the removed export \"%s\"", rpc_call_peer(call), name);
    for (; export != NULL; export = next_leaving(server, name, export))
        control_kick_export(export, "the export was removed");
    job = job_start(server->jobs, JOB_DELETE, name, NULL);
    control_reply_job(call, job);
    job_end(job, 0, NULL);
    store_jobs_changed(server->store);
    control_save(server);
    return true;
}

/* Is there nothing else of this name that the call could remove? */
static bool is_about_leaving(const struct export *export, const nr_delete_args *args)
{
    return args->keep_data && *args->name != '\0' &&
           (export == NULL || (export->origin == EXPORT_BY_CONFIG && args->force));
}

/* ---- The call ---- */

void control_delete(struct rpc_call *call, void *args, void *arg)
{
    const nr_delete_args *a = args;
    struct server *server = arg;
    struct nbd_failure why;
    struct export *export;
    struct deletion *deletion;
    bool keep_data = a->keep_data, unknown = false;

    if (!control_may_change(call, server) ||
        !control_check_text(call, a->store.target, "target"))
        return;
    export = control_find_export(server, a->name, &a->store, &why);
    if (is_about_leaving(export, a) && remove_leaving(call, server, a->name, a->force))
        return;
    if (export == NULL && why.code == ENOENT && *a->name == '\0' && !keep_data) {
        export = add_unknown(server, a, &why);
        unknown = true;
    }
    if (export == NULL) {
        control_refuse_failure(call, &why);
        return;
    }
    if (!check_delete(call, export, a->force))
        return;
    deletion = g_new0(struct deletion, 1);
    deletion->server = server;
    deletion->export = export;
    deletion->unknown = unknown;
    deletion->keep_data = keep_data;
    deletion->job = export->job = job_start(server->jobs, JOB_DELETE,
                                            unknown ? a->store.target : export->name, NULL);
    log_event(NBD_LOG_INFO, export->name, rpc_call_peer(call),
              "control client %s: %s export \"%s\" (%s backstore %s)", rpc_call_peer(call),
              keep_data ? "forgets" : "deletes", export->name, export->handler_name,
              export->target);
    control_reply_job(call, deletion->job); /* the arguments are gone from here on */
    begin_deletion(deletion);
}
