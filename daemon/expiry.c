/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Requests in order of age. The timer is set when the first one comes and then runs to its
 * end, whatever becomes of that request: at most once in request_timeout it is set anew, so
 * that a request costs two pointers and a look at the coarse clock.
 */
#include "expiry.h"

#include <glib.h>

#include "away.h"
#include "loop.h"
#include "server.h"

#define NS_PER_S INT64_C(1000000000)

struct expiry {
    int64_t limit_ns; /* 0: none any more */
    struct request *oldest, *youngest;
    struct event *timer;
};

static void (*expired)(struct request *request);

void expiry_init(void (*on_expired)(struct request *request))
{
    expired = on_expired;
}

static int64_t limit_of(const struct export *export)
{
    unsigned limit_s = export->request_timeout_s > 0 ? export->request_timeout_s
                                                     : export->server->config->request_timeout_s;

    if (limit_s == 0 && export_is_away(export))
        limit_s = AWAY_LIMIT_S;
    return limit_s * NS_PER_S;
}

/* For when the oldest is over; a little later rather than too early. */
static void set_timer(struct expiry *expiry)
{
    int64_t left_ns;
    struct timeval left;

    if (expiry->oldest == NULL || expiry->limit_ns == 0)
        return;
    left_ns = MAX(expiry->oldest->since_ns + expiry->limit_ns - loop_now_ns(), 0) + 1000000;
    left.tv_sec = (time_t)(left_ns / NS_PER_S);
    left.tv_usec = (suseconds_t)(left_ns % NS_PER_S / 1000);
    evtimer_add(expiry->timer, &left);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct expiry *expiry = arg;
    int64_t now_ns = loop_now_ns();

    (void)fd;
    (void)what;
    while (expiry->oldest != NULL && expiry->limit_ns > 0 &&
           now_ns - expiry->oldest->since_ns >= expiry->limit_ns) {
        struct request *request = expiry->oldest;

        expiry_forget(request);
        expired(request);
    }
    set_timer(expiry);
}

void expiry_update(struct export *export)
{
    struct expiry *expiry = export->expiry;
    int64_t limit_ns = limit_of(export);

    if (expiry == NULL && limit_ns == 0)
        return;
    if (expiry == NULL) {
        expiry = export->expiry = g_new0(struct expiry, 1);
        expiry->timer = evtimer_new(loop_base(export->server->loop), on_timer, expiry);
    }
    expiry->limit_ns = limit_ns;
    evtimer_del(expiry->timer);
    set_timer(expiry);
}

void expiry_drop(struct export *export)
{
    if (export->expiry == NULL)
        return;
    event_free(export->expiry->timer);
    g_clear_pointer(&export->expiry, g_free);
}

void expiry_watch(struct request *request)
{
    struct expiry *expiry = request->export->expiry;

    if (expiry->limit_ns == 0 || expiry_is_watched(request))
        return;
    request->since_ns = loop_now_ns();
    request->older = expiry->youngest;
    request->younger = NULL;
    *(expiry->youngest != NULL ? &expiry->youngest->younger : &expiry->oldest) = request;
    expiry->youngest = request;
    if (!evtimer_pending(expiry->timer, NULL))
        set_timer(expiry);
}

void expiry_forget(struct request *request)
{
    struct expiry *expiry = request->export->expiry;

    *(request->older != NULL ? &request->older->younger : &expiry->oldest) = request->younger;
    *(request->younger != NULL ? &request->younger->older : &expiry->youngest) = request->older;
    request->since_ns = 0;
}
