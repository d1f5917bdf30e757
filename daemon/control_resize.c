/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The control procedure RESIZE: a job that changes the size of a backing store. It is done
 * when the state file has the new size. Clients keep the size that they were told; devices of
 * kernels are told by nbd-cli on their hosts. Loop thread only.
 */
#include "control_private.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "log.h"

#define OPEN_TIMEOUT_MS 10000

struct resize {
    struct server *server;
    struct job *job;
    struct export *export;
    uint64_t size;
    bool may_shrink;
};

static void resize_end(struct resize *resize, int result, const struct nbd_failure *why)
{
    struct server *server = resize->server;

    if (result < 0)
        log_info("export \"%s\" is not resized: %s", resize->export->name, why->message);
    resize->export->job = NULL;
    job_end(resize->job, result, why);
    store_jobs_changed(server->store);
    control_save(server);
    g_free(resize);
}

static void on_saved(void *arg, int result, const struct nbd_failure *why)
{
    struct resize *resize = arg;
    struct export *export = resize->export;
    struct nbd_failure failure;

    if (result < 0) {
        nbd_fail(&failure, -result, "export \"%s\" has %" PRIu64 " bytes now, but that cannot "
                 "be saved: %s", export->name, export->size, why->message);
        resize_end(resize, result, &failure);
    } else {
        resize_end(resize, 0, NULL);
    }
    export_close(export);
}

static void on_resized(void *arg, int result, const struct nbd_failure *why)
{
    struct resize *resize = arg;
    struct export *export = resize->export;
    struct nbd_failure failure;

    if (result < 0) {
        failure = *why;
        resize_end(resize, result, &failure);
        export_close(export);
        return;
    }
    job_seal(resize->job, 0, NULL);
    store_changed(resize->server->store, export);
    store_jobs_changed(resize->server->store);
    store_save(resize->server->store, on_saved, resize);
}

/* Its size is known now. */
static int check_size(const struct resize *resize, struct nbd_failure *why)
{
    const struct export *export = resize->export;

    if (export->state == EXPORT_DRAINING)
        return nbd_fail(why, ENOENT, "export \"%s\" has been removed", export->name);
    if (resize->size < export->size && !resize->may_shrink)
        return nbd_fail(why, EINVAL, "export \"%s\" has %" PRIu64 " bytes; what is behind byte "
                        "%" PRIu64 " would be lost: add the word \"shrink\" if that is meant",
                        export->name, export->size, resize->size);
    if (resize->size % export->min_block != 0)
        return nbd_fail(why, EINVAL, "%" PRIu64 " bytes are no multiple of the block size of "
                        "export \"%s\", %u", resize->size, export->name, export->min_block);
    return 0;
}

static void on_opened(void *arg, int result, const struct nbd_failure *why)
{
    struct resize *resize = arg;
    struct nbd_failure failure;

    if (result < 0) {
        failure = *why;
        resize_end(resize, result, &failure);
        return;
    }
    result = check_size(resize, &failure);
    if (result < 0)
        on_resized(resize, result, &failure);
    else
        export_resize(resize->export, resize->size, on_resized, resize);
}

/* False: refused. */
static bool check_resize(struct rpc_call *call, const struct export *export, uint64_t size)
{
    if (size == 0 || size > INT64_MAX) {
        control_refuse(call, NR_EINVAL, EINVAL, "the size of export \"%s\" must be between 1 "
                       "byte and 8 EiB", export->name);
        return false;
    }
    if (export->serve_bytes > 0) {
        control_refuse(call, NR_ECONFIG, 0, "the size of export \"%s\" is set by %s; change it "
                       "there", export->name, export->origin_file);
        return false;
    }
    if (export->readonly) {
        control_refuse(call, NR_EPERM, EROFS, "export \"%s\" is read-only", export->name);
        return false;
    }
    if (export->job != NULL) {
        control_refuse(call, NR_EBUSY, EBUSY, "a %s job runs on export \"%s\"; wait for its end "
                       "(\"nbd-cli job wait %s\")", job_kind_name(export->job->kind),
                       export->name, export->job->id);
        return false;
    }
    return true;
}

void control_resize(struct rpc_call *call, void *args, void *arg)
{
    const nr_resize_args *a = args;
    struct server *server = arg;
    struct nbd_failure why;
    struct export *export;
    struct resize *resize;

    if (!control_may_change(call, server) ||
        !control_check_text(call, a->store.target, "target"))
        return;
    export = control_find_export(server, a->name, &a->store, &why);
    if (export == NULL) {
        control_refuse_failure(call, &why);
        return;
    }
    if (!check_resize(call, export, a->size))
        return;
    resize = g_new0(struct resize, 1);
    resize->server = server;
    resize->export = export;
    resize->size = a->size;
    resize->may_shrink = a->shrink;
    resize->job = export->job = job_start(server->jobs, JOB_RESIZE, export->name, NULL);
    log_info("control client %s: resizes export \"%s\" to %" PRIu64 " bytes",
             rpc_call_peer(call), export->name, resize->size);
    control_reply_job(call, resize->job); /* the arguments are gone from here on */
    export_open(export, OPEN_TIMEOUT_MS, on_opened, resize);
}
