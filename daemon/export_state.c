/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The life of a backstore: whenever something has happened to an export, export_advance()
 * decides which call of its handler comes next. Here are also the calls that end a life: the
 * backstore is closed some time after its last user left, and forgotten. work_*() run on a
 * worker, all else on the loop.
 */
#include "export_private.h"

#include <assert.h>

#include "extents.h"
#include "registry.h"

/* How long a backstore stays open after its last user, for the next one to find it ready. */
#define LINGER_S 3

/* ---- Closing ---- */

static void work_close(struct call *call)
{
    call->export->handler->unmap(&call->export->dev);
}

static void end_close(struct call *call)
{
    struct export_private *x = call->export->private;

    extents_drop(call->export);
    x->backstore = CLOSED;
    x->stale = false;
    x->try_now = x->lost && !x->removed;
    if (x->troubled) /* still shown as faulted */
        export_retry_later(x);
    x->troubled = false;
}

void export_on_linger(evutil_socket_t fd, short what, void *arg)
{
    struct export *export = arg;

    (void)fd;
    (void)what;
    export->private->close_soon = true;
    export_advance(export);
}

void export_start_linger(struct export_private *x)
{
    evtimer_add(x->linger, &(struct timeval){ .tv_sec = LINGER_S });
}

void export_close(struct export *export)
{
    struct export_private *x = export->private;

    assert(x->users > 0);
    if (--x->users == 0 && !x->close_soon)
        export_start_linger(x);
    export_advance(export);
}

void export_close_now(struct export *export, void (*on_closed)(void *arg), void *arg)
{
    struct export_private *x = export->private;

    x->close_soon = true;
    if (on_closed != NULL)
        g_array_append_val(x->closers, ((struct closer){ on_closed, arg }));
    export_advance(export);
}

static void tell_closed(struct export_private *x)
{
    GArray *closers = x->closers;

    if (closers->len == 0)
        return;
    x->closers = g_array_new(FALSE, FALSE, sizeof(struct closer));
    for (guint i = 0; i < closers->len; i++) {
        struct closer *closer = &g_array_index(closers, struct closer, i);

        closer->on_closed(closer->arg);
    }
    g_array_free(closers, TRUE);
}

/* ---- Forgetting ---- */

static void work_destroy(struct call *call)
{
    if (call->export->private->parsed && call->export->handler->destroy != NULL)
        call->export->handler->destroy(&call->export->dev);
}

static void end_destroy(struct call *call)
{
    call->export->private->parsed = false;
}

/* ---- What comes next ---- */

static void advance_closed(struct export *export)
{
    struct export_private *x = export->private;

    if (x->users > 0 && (x->removed || x->delete_done != NULL))
        return; /* it was lost while they used it: they leave first */
    if (x->delete_done != NULL)
        export_start_delete(export);
    else if (x->waiters.length > 0 || x->try_now)
        export_start_open(export);
    else if (x->removed && x->parsed)
        call_start(export, work_destroy, end_destroy);
    else if (x->removed)
        registry_vanish(export);
    else
        tell_closed(x);
}

void export_advance(struct export *export)
{
    struct export_private *x = export->private;

    if (x->busy)
        return;
    if (x->removed && x->waiters.length > 0) {
        struct nbd_failure why;

        nbd_fail(&why, ENOENT, "export \"%s\" has been removed", export->name);
        export_answer_waiters(x, -ENOENT, &why);
    }
    if (x->backstore == OPEN)
        x->try_now = false; /* it is */
    if (x->resize_done != NULL) {
        export_start_resize(export);
    } else if (x->backstore == CLOSED) {
        advance_closed(export);
    } else if (x->lost && !x->removed) {
        evtimer_del(x->linger);
        if (export->submitted == 0)
            call_start(export, work_close, end_close);
    } else if (x->waiters.length > 0 && x->delete_done == NULL && !x->stale && !x->troubled) {
        evtimer_del(x->linger);
        x->close_soon = false;
        export_start_probe(export);
    } else if (x->look && !x->stale && !x->troubled) {
        export_start_probe(export);
    } else if (x->users == 0 && (x->close_soon || x->stale)) {
        evtimer_del(x->linger);
        call_start(export, work_close, end_close);
    }
}
