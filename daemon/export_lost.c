/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Backstores that fail: what handlers report while one is open, the attempts to open one
 * again, and the look at all of them after the start. Loop thread.
 */
#include "export_private.h"

#include "away.h"
#include "log.h"
#include "registry.h"
#include "server.h"

/* A backstore that does not open is tried again, after 1, 2, 4 ... 60 seconds. */
#define RETRY_MAX_S 60
#define TRIALS_MAX 4 /* attempts that nobody waits for, at once: they take workers */

/* ---- Attempts ---- */

void export_retry_later(struct export_private *x)
{
    if (!x->removed && !evtimer_pending(x->retry, NULL))
        evtimer_add(x->retry, &(struct timeval){ .tv_sec = x->retry_s });
    if (x->on_trial)
        x->retry_s = MIN(2 * x->retry_s, RETRY_MAX_S);
}

void export_on_retry(evutil_socket_t fd, short what, void *arg)
{
    struct export *export = arg;
    struct export_private *x = export->private;

    (void)fd;
    (void)what;
    if (x->backstore == OPEN) { /* lost: to be closed first */
        export_advance(export);
        return;
    }
    if (x->registry->trials >= TRIALS_MAX) {
        evtimer_add(x->retry, &(struct timeval){ .tv_sec = RETRY_MIN_S });
        return;
    }
    x->try_now = true;
    export_advance(export);
}

void export_is_idle(struct export *export)
{
    /* Not right here: the handler may be on the stack. */
    event_active(export->private->retry, 0, 0);
}

/* Open the exports that have not been looked at since the start, some at a time. */
void registry_check_more(struct registry *registry)
{
    while (registry->checking && registry->trials < TRIALS_MAX) {
        struct export *export = registry_next(registry, registry->checked);

        if (export == NULL) {
            registry->checking = false;
            return;
        }
        g_free(registry->checked);
        registry->checked = g_strdup(export->name);
        if (export->handler == NULL || export->state != EXPORT_READY ||
            export->private->backstore == OPEN)
            continue;
        export->private->try_now = true;
        export_advance(export);
    }
}

void registry_check_all(struct registry *registry)
{
    registry->checking = true;
    g_clear_pointer(&registry->checked, g_free);
    registry_check_more(registry);
}

/* ---- What handlers report ---- */

static struct export *export_of(struct nbd_device *dev)
{
    return (struct export *)(void *)((char *)dev - offsetof(struct export, dev));
}

static void set_fault(struct export *export, const char *reason)
{
    nbd_fail(&export->fault, EIO, "%s", reason);
    if (export->state == EXPORT_READY)
        export->state = EXPORT_FAULTED;
}

/* False: that makes no difference. */
static bool lose(struct export *export, const char *reason, const char *then)
{
    struct export_private *x = export->private;
    bool unsafe = export->changes != export->flushed_changes && (x->caps & NBD_CAP_FLUSH);

    if (x->backstore != OPEN || x->lost || x->removed || x->delete_done != NULL ||
        export->handler->sendfile_fd != NULL)
        return false;
    x->lost = true;
    set_fault(export, reason);
    log_event(NBD_LOG_WARNING, export->name, NULL, "export \"%s\": %s; it is opened again, and "
              "requests %s%s", export->name, reason, then,
              unsafe ? "; changes that were not flushed may be lost, and the next flush of each "
                       "client fails" : "");
    export->losses += unsafe;
    away_begin(export);
    export_is_idle(export);
    return true;
}

void export_lost(struct nbd_device *dev, const char *reason)
{
    lose(export_of(dev), reason, "wait");
}

void export_fenced(struct nbd_device *dev, const char *reason)
{
    struct export *export = export_of(dev);

    if (lose(export, reason, "fail until then"))
        away_fail(export);
}

void export_troubled(struct nbd_device *dev, const char *reason)
{
    struct export *export = export_of(dev);
    struct export_private *x = export->private;

    if (x->backstore != OPEN || x->lost || (reason == NULL && !x->troubled))
        return;
    x->troubled = reason != NULL;
    if (reason != NULL) {
        set_fault(export, reason);
    } else {
        if (export->state == EXPORT_FAULTED)
            export->state = EXPORT_READY;
        export_is_idle(export); /* somebody may wait */
    }
}
