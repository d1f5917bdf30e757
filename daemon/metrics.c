/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The pages /metrics and /healthz, and a timer that tells how late the loop is.
 */
#include "metrics.h"

#include <errno.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "exposition.h"
#include "http.h"
#include "log.h"
#include "metrics_table.h"
#include "server.h"
#include "store.h"

#define TICK_NS INT64_C(100000000)
#define SLICE_NS INT64_C(2000000) /* of the loop's time, for a part of a scrape */

struct metrics {
    struct server *server; /* not owned */
    struct http_server *http;
    struct histogram lateness;
    struct event *tick;    /* NULL: there is no timer, and no lateness */
    int timer;
    int64_t due_ns;        /* of the next tick; counters_now_ns() */
};

/* ---- How late the loop is ---- */

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct metrics *metrics = arg;
    uint64_t ticks;

    (void)what;
    if (read(fd, &ticks, sizeof(ticks)) != sizeof(ticks))
        return;
    histogram_add(&metrics->lateness, counters_now_ns() - metrics->due_ns, 1);
    metrics->due_ns += (int64_t)ticks * TICK_NS;
}

/* libevent's own timers are a few milliseconds coarse. */
static void start_ticking(struct metrics *metrics)
{
    struct itimerspec every = { .it_interval.tv_nsec = TICK_NS, .it_value.tv_nsec = TICK_NS };

    metrics->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (metrics->timer < 0 || timerfd_settime(metrics->timer, 0, &every, NULL) < 0) {
        log_warning("there is no timer for metrics: %s; the loop's lateness is not measured",
                    strerror(errno));
        return;
    }
    metrics->due_ns = counters_now_ns() + TICK_NS;
    metrics->tick = event_new(loop_base(metrics->server->loop), metrics->timer,
                              EV_READ | EV_PERSIST, on_tick, metrics);
    event_add(metrics->tick, NULL);
}

/* ---- /metrics ---- */

static bool on_more(void *arg, struct evbuffer *to)
{
    struct scrape *scrape = arg;
    GString *text = scrape_text(scrape);
    int64_t until_ns = counters_now_ns() + SLICE_NS;
    bool more;

    do
        more = scrape_step(scrape);
    while (more && text->len < HTTP_CHUNK_BYTES && counters_now_ns() < until_ns);
    evbuffer_add(to, text->str, text->len);
    g_string_truncate(text, 0);
    return more;
}

static void on_gone(void *arg)
{
    scrape_free(arg);
}

static void get_metrics(struct http_reply *reply, void *arg)
{
    const struct metrics *metrics = arg;
    bool openmetrics = !exposition_wants_old(http_reply_accept(reply));

    http_reply_stream(reply, exposition_content_type(openmetrics), on_more, on_gone,
                      scrape_new(metrics->server, &metrics->lateness, openmetrics));
}

/* ---- /healthz ---- */

/* What is wrong, to be freed; NULL: nothing. */
static char *find_trouble(const struct server *server)
{
    const char *error = "";

    if (server->stopping)
        return g_strdup("the daemon is stopping");
    if (server->store == NULL)
        return NULL;
    switch (store_state(server->store, &error)) {
    case STORE_UNSAVED: return g_strdup_printf("the state is not saved: %s", error);
    case STORE_DEGRADED: return g_strdup_printf("the state is degraded: %s", error);
    default: return NULL;
    }
}

static void get_health(struct http_reply *reply, void *arg)
{
    const struct metrics *metrics = arg;
    g_autofree char *trouble = find_trouble(metrics->server);

    http_reply_text(reply, trouble == NULL ? 200 : 503, trouble == NULL ? "ok" : trouble);
}

/* ---- Start and end ---- */

static const struct http_page pages[] = {
    { "/metrics", get_metrics },
    { "/healthz", get_health },
    { NULL, NULL },
};

struct metrics *metrics_new(struct server *server)
{
    struct metrics *metrics = g_new0(struct metrics, 1);

    metrics->server = server;
    metrics->http = http_server_new(server->loop, pages, metrics);
    start_ticking(metrics);
    return metrics;
}

void metrics_free(struct metrics *metrics)
{
    if (metrics == NULL)
        return;
    http_server_free(metrics->http);
    if (metrics->tick != NULL)
        event_free(metrics->tick);
    if (metrics->timer >= 0)
        close(metrics->timer);
    g_free(metrics);
}

int metrics_listen(struct metrics *metrics, const char *host, int port,
                   struct nbd_failure *why)
{
    return http_server_listen(metrics->http, host, port, why);
}

const GPtrArray *metrics_endpoints(const struct metrics *metrics)
{
    return http_server_endpoints(metrics->http);
}
