/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Holding requests while a backstore is lost. What the handler could not finish is repeated
 * whole: a block device bears writing the same bytes twice.
 */
#include "away.h"

#include <errno.h>

#include <glib.h>

#include "expiry.h"
#include "extents.h"

struct away {
    struct request *held, **tail;
    bool hopeless;
};

static void hold(struct request *request)
{
    struct away *away = request->export->away;

    request->held = true;
    request->next = NULL;
    *away->tail = request;
    away->tail = &request->next;
    if (request->export->expiry != NULL)
        expiry_watch(request);
}

/* In the place of a handler's submit(). */
static void on_submit(struct nbd_request *rq)
{
    struct request *request = (struct request *)rq;

    request_left(request->export);
    if (away_hold(request))
        return;
    request->completed(request, -EIO);
}

static const struct nbd_handler holder = { .name = "away", .submit = on_submit };

void away_begin(struct export *export)
{
    export->away = g_new0(struct away, 1);
    export->away->tail = &export->away->held;
    export->io = &holder;
    expiry_update(export);
    extents_drop(export);
}

static struct request *take_all(struct away *away)
{
    struct request *all = away->held;

    away->held = NULL;
    away->tail = &away->held;
    return all;
}

void away_end(struct export *export)
{
    struct request *request = take_all(export->away), *next;

    export->io = export->handler;
    g_clear_pointer(&export->away, g_free);
    expiry_update(export);
    extents_drop(export); /* while it was away everything passed for data */
    for (; request != NULL; request = next) {
        next = request->next;
        request->held = false;
        request_repeat(request);
    }
    request_submit_batch(export);
}

void away_fail(struct export *export)
{
    struct request *request = take_all(export->away), *next;

    export->away->hopeless = true;
    for (; request != NULL; request = next) {
        next = request->next;
        request->held = false;
        request->completed(request, -EIO);
    }
}

/* Those of no client (a control job) do not wait: who asked is told at once. */
bool away_hold(struct request *request)
{
    if (request->export->away->hopeless || request->conn == NULL || request_is_orphan(request))
        return false;
    hold(request);
    return true;
}

void away_let_go(struct request *request)
{
    struct away *away = request->export->away;
    struct request **at = &away->held;

    while (*at != request)
        at = &(*at)->next;
    *at = request->next;
    if (*at == NULL)
        away->tail = at;
    request->held = false;
}

void away_forget(struct export *export, const struct connection *conn)
{
    struct request *request = take_all(export->away), *next;

    for (; request != NULL; request = next) {
        next = request->next;
        if (request->conn != conn) {
            request->next = NULL;
            *export->away->tail = request;
            export->away->tail = &request->next;
        } else {
            request->held = false;
            request->completed(request, -ECANCELED);
        }
    }
}
