/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Users of an export come: its backstore is opened, or looked at when it is open already; who
 * waits for that is answered. work_*() run on a worker, all else on the loop.
 */
#include "export_private.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "away.h"
#include "job.h"
#include "log.h"
#include "nbd_protocol.h"
#include "registry.h"
#include "server.h"

/* A user in waiting. */
struct waiter {
    struct export_private *x;
    struct event *timer; /* NULL: no limit */
    export_done *done;
    void *arg;
};

/* ---- Who waits ---- */

/* Take the waiter off and tell it how its wait has ended. */
static void answer(struct waiter *waiter, int result, const struct nbd_failure *why)
{
    struct waiter w = *waiter;

    g_queue_remove(&w.x->waiters, waiter);
    if (w.timer != NULL)
        event_free(w.timer);
    g_free(waiter);
    if (result == 0)
        w.x->users++;
    w.done(w.arg, result, why);
}

void export_answer_waiters(struct export_private *x, int result, const struct nbd_failure *why)
{
    /* Those who come while we answer are for the next round. */
    for (guint n = x->waiters.length; n > 0 && x->waiters.head != NULL; n--)
        answer(x->waiters.head->data, result, why);
}

static void on_wait_too_long(evutil_socket_t fd, short what, void *arg)
{
    struct waiter *waiter = arg;
    const struct export *export = waiter->x->export;
    struct nbd_failure why;

    (void)fd;
    (void)what;
    nbd_fail(&why, ETIMEDOUT, "the %s backstore %s did not open in time; the export keeps "
             "trying%s%s", export->handler_name, export->target,
             export->state == EXPORT_FAULTED ? "; it is faulted: " : "",
             export->state == EXPORT_FAULTED ? export->fault.message : "");
    answer(waiter, -ETIMEDOUT, &why);
}

/* Why it cannot have users now, whatever its backstore does; 0: it can. */
static int check_open(const struct export *export, struct nbd_failure *why)
{
    const struct export *other;

    if (export->handler == NULL) {
        *why = export->fault;
        return -why->code;
    }
    if (export->private->removed || export->state == EXPORT_CREATING)
        return nbd_fail(why, EBUSY, "export \"%s\" is %s", export->name,
                        export->private->removed ? "being removed" : "still being created");
    if (export->job != NULL && export->job->kind == JOB_DELETE)
        return nbd_fail(why, EBUSY, "export \"%s\" is being deleted", export->name);
    other = registry_predecessor_in_use(export);
    if (other != NULL)
        return nbd_fail(why, ESHUTDOWN, "export \"%s\" has changed, and %u client(s) are "
                        "still attached to what it was before (%s); nobody else can connect "
                        "until they have left", export->name, other->connections,
                        other->target);
    return 0;
}

void export_open(struct export *export, unsigned timeout_ms, export_done *done, void *arg)
{
    struct export_private *x = export->private;
    struct nbd_failure why;
    struct waiter *waiter;
    int r = check_open(export, &why);

    if (r < 0) {
        done(arg, r, &why);
        return;
    }
    waiter = g_new0(struct waiter, 1);
    waiter->x = x;
    waiter->done = done;
    waiter->arg = arg;
    if (timeout_ms > 0) {
        struct timeval limit = { .tv_sec = timeout_ms / 1000,
                                 .tv_usec = timeout_ms % 1000 * 1000 };

        waiter->timer = evtimer_new(loop_base(export->server->loop), on_wait_too_long, waiter);
        evtimer_add(waiter->timer, &limit);
    }
    g_queue_push_tail(&x->waiters, waiter);
    export_advance(export);
}

/* ---- On a worker ---- */

static bool is_power_of_two(uint32_t n)
{
    return n != 0 && (n & (n - 1)) == 0;
}

static int check_size(struct call *call, uint64_t size)
{
    const struct export *export = call->export;

    if (export->serve_bytes <= size)
        return 0;
    call->result = nbd_fail(&call->why, EINVAL, "the %s backstore %s has %" PRIu64 " bytes, "
                            "but the export is to have %" PRIu64 "; make it larger, or correct "
                            "the size of the export", export->handler_name, export->target,
                            size, export->serve_bytes);
    return call->result;
}

/* Clients have been told what the backstore can do. */
static int check_match(struct call *call, int64_t size)
{
    const struct export *export = call->export;
    const struct export_private *x = export->private;
    uint32_t missing = x->caps & ~export->dev.caps & ~(uint32_t)NBD_CAP_ROTATIONAL;
    const char *how = NULL;

    if (!x->must_match)
        return 0;
    if ((uint64_t)size < export->size)
        how = "smaller";
    else if (export->dev.min_block > export->min_block)
        how = "with larger blocks";
    else if (missing != 0)
        how = "with fewer abilities";
    if (how == NULL)
        return 0;
    call->result = nbd_fail(&call->why, EIO, "the %s backstore %s has come back %s; its "
                            "clients cannot go on with it", export->handler_name,
                            export->target, how);
    return call->result;
}

/* What it has to be, now that it is open. */
static int look_at(struct call *call)
{
    const struct nbd_handler *handler = call->export->handler;
    struct nbd_device *dev = &call->export->dev;
    int64_t size = handler->get_size(dev);
    int r;

    if (size < 0)
        return call_settle(call, (int)size, "get the size of");
    if ((r = check_size(call, (uint64_t)size)) < 0 || (r = check_match(call, size)) < 0)
        return r;
    call->size = (uint64_t)size;
    call->block = handler->get_blksize != NULL ? handler->get_blksize(dev) : 0;
    return 0;
}

static void work_open(struct call *call)
{
    const struct nbd_handler *handler = call->export->handler;
    struct nbd_device *dev = &call->export->dev;

    dev->caps = 0;
    dev->min_block = 1;
    dev->pref_block = 4096;
    if (call_parse(call) < 0 || call_settle(call, handler->map(dev, &call->why), "open") < 0)
        return;
    if (look_at(call) < 0)
        handler->unmap(dev);
}

/* ---- The end of an attempt to open ---- */

static uint16_t flags_of_handler(const struct export *export)
{
    uint32_t caps = export->dev.caps;
    uint16_t flags = NBD_FLAG_HAS_FLAGS;

    if (caps & NBD_CAP_MULTI_CONN)
        flags |= NBD_FLAG_CAN_MULTI_CONN;
    if (caps & NBD_CAP_ROTATIONAL)
        flags |= NBD_FLAG_ROTATIONAL;
    flags |= NBD_FLAG_SEND_CACHE;
    if (export->readonly)
        return flags | NBD_FLAG_READ_ONLY;
    if (caps & NBD_CAP_FLUSH)
        flags |= NBD_FLAG_SEND_FLUSH;
    if (caps & (NBD_CAP_FUA | NBD_CAP_FLUSH))
        flags |= NBD_FLAG_SEND_FUA;
    if (caps & NBD_CAP_TRIM)
        flags |= NBD_FLAG_SEND_TRIM;
    flags |= NBD_FLAG_SEND_WRITE_ZEROES;
    if (caps & NBD_CAP_FAST_ZERO)
        flags |= NBD_FLAG_SEND_FAST_ZERO;
    return flags;
}

static uint16_t transmission_flags(const struct export *export)
{
    uint16_t flags = flags_of_handler(export) & (uint16_t)~export->flags_off;

    return flags | export->flags_on;
}

static void take_facts(struct export *export, const struct call *call)
{
    const struct nbd_device *dev = &export->dev;

    export->private->caps = dev->caps;
    export->size = export->serve_bytes > 0 ? export->serve_bytes : call->size;
    export->private->looked_us = g_get_monotonic_time();
    export->min_block = is_power_of_two(dev->min_block) && dev->min_block <= 65536
                            ? dev->min_block : 1;
    export->pref_block = is_power_of_two(dev->pref_block) && dev->pref_block <= 1u << 22
                             ? MAX(dev->pref_block, MAX(export->min_block, 512u)) : 4096;
    export->logical_block = call->block >= 512 && call->block <= 4096 &&
                                    is_power_of_two((uint32_t)call->block)
                                ? (uint32_t)call->block : 512;
    export->flags = transmission_flags(export);
}

static void open_succeeded(struct export *export, const struct call *call)
{
    struct export_private *x = export->private;

    x->backstore = OPEN;
    x->close_soon = x->removed || (x->on_trial && x->waiters.length == 0);
    x->retry_s = RETRY_MIN_S;
    evtimer_del(x->retry);
    take_facts(export, call);
    export_save_handler_data(export);
    if (export->state == EXPORT_FAULTED) {
        export->state = EXPORT_READY;
        log_event(NBD_LOG_INFO, export->name, NULL,
                  "export \"%s\" is back: its backstore opened", export->name);
    }
    if (x->lost) {
        x->lost = false;
        x->close_soon = x->removed || (x->users == 0 && x->waiters.length == 0);
        away_end(export);
    }
}

/* The same sentence again is no news. */
static void open_failed(struct export *export, const struct nbd_failure *why)
{
    bool same = export->state == EXPORT_FAULTED &&
                strcmp(export->fault.message, why->message) == 0;

    log_event(same ? NBD_LOG_DEBUG : NBD_LOG_WARNING, export->name, NULL,
              "export \"%s\" cannot be opened: %s", export->name, why->message);
    export->fault = *why;
    if (export->state == EXPORT_READY)
        export->state = EXPORT_FAULTED;
    if (export->state == EXPORT_FAULTED)
        export_retry_later(export->private);
}

static void end_trial(struct export_private *x)
{
    if (!x->on_trial)
        return;
    x->on_trial = false;
    x->registry->trials--;
    registry_check_more(x->registry);
}

static void end_open(struct call *call)
{
    struct export *export = call->export;
    struct export_private *x = export->private;

    if (call->result == 0)
        open_succeeded(export, call);
    else
        open_failed(export, &call->why);
    export_answer_waiters(x, call->result, &call->why);
    if (x->backstore == OPEN && x->users == 0 && !x->close_soon) /* nobody waits any more */
        export_start_linger(x);
    end_trial(x);
}

void export_start_open(struct export *export)
{
    struct export_private *x = export->private;

    x->on_trial = x->try_now && x->waiters.length == 0;
    x->must_match = x->users > 0;
    x->registry->trials += x->on_trial;
    x->try_now = false;
    call_start(export, work_open, end_open);
}

/* ---- Joining: it is open already ---- */

static void work_probe(struct call *call)
{
    const struct nbd_handler *handler = call->export->handler;
    int64_t size;

    /* Whatever else is wrong with the name: what is open can be used. */
    if (handler->probe != NULL && handler->probe(&call->export->dev, &call->why) == -ESTALE) {
        call_settle(call, -ESTALE, "join");
        return;
    }
    size = handler->get_size(&call->export->dev);
    call->size = size >= 0 ? (uint64_t)size : call->export->size;
}

/* Nobody joins those who see other bytes. Without any, it is closed and opened anew. */
static void end_probe(struct call *call)
{
    struct export_private *x = call->export->private;

    x->look = false;
    if (call->result == 0) {
        export_take_size(call->export, call->size);
        export_answer_waiters(x, 0, NULL);
        if (x->users == 0) /* nobody waits any more */
            export_start_linger(x);
    } else if (x->users == 0) {
        x->stale = true;
    } else {
        log_warning("export \"%s\": %s", call->export->name, call->why.message);
        export_answer_waiters(x, -ESHUTDOWN, &call->why);
    }
}

void export_start_probe(struct export *export)
{
    call_start(export, work_probe, end_probe);
}
