/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Backing stores are made and deleted. work_*() run on a worker, all else on the loop.
 */
#include "export_private.h"

#include <assert.h>

/* ---- Creating ---- */

static void work_create(struct call *call)
{
    struct export *export = call->export;

    if (export->handler->create == NULL) {
        call->result = nbd_fail(&call->why, ENOTSUP, "the %s backstore cannot be created from "
                                "here; export one that exists", export->handler_name);
        return;
    }
    if (call_parse(call) < 0)
        return;
    if (export->private->canceled)
        call->result = nbd_fail(&call->why, ECANCELED, "canceled before it began");
    else
        call_settle(call, export->handler->create(&export->dev, &call->why), "create");
}

static void end_create(struct call *call)
{
    struct export *export = call->export;
    struct export_private *x = export->private;
    export_done *done = x->made_done;

    x->made_done = NULL;
    if (call->result == 0) {
        export->state = EXPORT_READY;
        export_save_handler_data(export);
    }
    done(x->store_arg, call->result, &call->why);
}

void export_create(struct export *export, export_done *done, void *arg)
{
    assert(export->state == EXPORT_CREATING);
    export->private->made_done = done;
    export->private->store_arg = arg;
    call_start(export, work_create, end_create);
}

void export_create_cancel(struct export *export)
{
    if (export->state != EXPORT_CREATING)
        return;
    export->private->canceled = true; /* first: what is parsed after this looks at it */
    if (export->handler->cancel != NULL && export->private->parsed)
        export->handler->cancel(&export->dev);
}

void export_create_progress(struct export *export, uint64_t *ret_done, uint64_t *ret_total)
{
    *ret_done = 0;
    *ret_total = export->size;
    if (export->state == EXPORT_CREATING && export->handler->progress != NULL &&
        export->private->parsed)
        export->handler->progress(&export->dev, ret_done, ret_total);
    else if (export->state == EXPORT_READY)
        *ret_done = export->size;
}

/* ---- Deleting ---- */

static void work_delete(struct call *call)
{
    struct export *export = call->export;
    int r;

    if (export->handler->delete == NULL) {
        call->result = nbd_fail(&call->why, ENOTSUP, "the %s backstore cannot be deleted from "
                                "here; forget the export with \"keep-data\"",
                                export->handler_name);
        return;
    }
    if (call_parse(call) < 0)
        return;
    r = export->handler->delete(&export->dev, &call->why);
    call_settle(call, r == -ENOENT ? 0 : r, "delete");
}

static void end_delete(struct call *call)
{
    struct export_private *x = call->export->private;
    export_done *done = x->delete_done;

    x->delete_done = NULL;
    done(x->store_arg, call->result, &call->why);
}

void export_start_delete(struct export *export)
{
    call_start(export, work_delete, end_delete);
}

void export_delete(struct export *export, export_done *done, void *arg)
{
    struct export_private *x = export->private;
    struct nbd_failure why;

    if (x->delete_done != NULL || export->handler == NULL) {
        nbd_fail(&why, EBUSY, "export \"%s\" %s", export->name,
                 export->handler == NULL ? "has no handler: it can only be forgotten "
                                           "(\"keep-data\")" : "is being deleted");
        done(arg, -EBUSY, &why);
        return;
    }
    x->delete_done = done;
    x->store_arg = arg;
    x->close_soon = true;
    export_advance(export);
}
