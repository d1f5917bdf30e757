/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The size of a backstore that is open: changed from here, or found changed by others.
 * work_resize() runs on a worker, all else on the loop.
 */
#include "export_private.h"

#include <assert.h>
#include <inttypes.h>

#include "log.h"
#include "server.h"
#include "store.h"

/* Its size is looked at so often at most, but for each new user. */
#define LOOK_AGAIN_US (5 * G_USEC_PER_SEC)

void export_take_size(struct export *export, uint64_t size)
{
    export->private->looked_us = g_get_monotonic_time();
    if (export->serve_bytes > 0)
        size = MIN(size, export->serve_bytes);
    if (size == export->size)
        return;
    log_info("export \"%s\" has %" PRIu64 " bytes now, before %" PRIu64, export->name, size,
             export->size);
    export->size = size;
    export->changes++; /* what is known of its extents is of no use any more */
    if (export->server->store != NULL && !export->private->removed)
        store_changed(export->server->store, export);
}

void export_look_at_size(const struct export *export)
{
    struct export_private *x = export->private;

    if (x->backstore != OPEN || x->busy || x->removed ||
        g_get_monotonic_time() - x->looked_us < LOOK_AGAIN_US)
        return;
    x->look = true;
    export_advance(x->export);
}

/* ---- Resizing ---- */

static void work_resize(struct call *call)
{
    struct export *export = call->export;
    int64_t size;

    if (export->handler->resize == NULL) {
        call->result = nbd_fail(&call->why, ENOTSUP, "the %s backstore cannot be resized from "
                                "here", export->handler_name);
        return;
    }
    export->dev.size = export->private->resize_to;
    if (call_settle(call, export->handler->resize(&export->dev, &call->why), "resize") < 0)
        return;
    size = export->handler->get_size(&export->dev);
    if (size < 0)
        call_settle(call, (int)size, "get the size of");
    else
        call->size = (uint64_t)size;
}

static void end_resize(struct call *call)
{
    struct export_private *x = call->export->private;
    export_done *done = x->resize_done;

    x->resize_done = NULL;
    if (call->result == 0)
        export_take_size(call->export, call->size);
    done(x->resize_arg, call->result, &call->why);
}

/* Here and not earlier: nobody can connect between this check and the end of the call. */
void export_start_resize(struct export *export)
{
    struct export_private *x = export->private;
    bool is_used = export->connections > 0 || export->mappings->len > 0;
    export_done *done = x->resize_done;
    struct nbd_failure why;

    if (x->backstore == OPEN && (x->resize_to >= export->size || !is_used)) {
        call_start(export, work_resize, end_resize);
        return;
    }
    if (x->backstore != OPEN)
        nbd_fail(&why, EIO, "the backstore of export \"%s\" was lost meanwhile; try again "
                 "when it is back", export->name);
    else
        nbd_fail(&why, EBUSY, "export \"%s\" is in use by %u connection(s) and mapped %u "
                 "time(s), so it cannot become smaller; unmap it and end them first",
                 export->name, export->connections, export->mappings->len);
    x->resize_done = NULL;
    done(x->resize_arg, -why.code, &why); /* ends a use of the export: goes on from there */
}

void export_resize(struct export *export, uint64_t size, export_done *done, void *arg)
{
    struct export_private *x = export->private;

    assert(x->users > 0 && x->resize_done == NULL);
    x->resize_done = done;
    x->resize_arg = arg;
    x->resize_to = size;
    export_advance(export);
}
