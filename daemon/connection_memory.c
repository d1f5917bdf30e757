/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Memory of connections: requests, of which some that are done are kept for the next ones, and
 * payload buffers: who waits for one, and who is closed for holding one without moving. Loop
 * thread. The pool itself is buffer.c's.
 */
#include "connection_private.h"

#include "loop.h"
#include "server.h"

#define FREE_REQUESTS_MAX 4096

struct buffer_pool *connection_buffers(const struct connection *conn)
{
    return conn->server->buffers;
}

/* ---- Requests ---- */

struct request *connection_request_new(struct connection *conn)
{
    struct connection_table *table = conn->table;
    struct request *request = table->free_requests;

    if (request != NULL) {
        table->free_requests = request->next;
        table->n_free_requests--;
    } else {
        request = g_new(struct request, 1);
    }
    request->conn = conn;
    request->next = NULL;
    request->buffer = NULL;
    request->rq.data = NULL;
    request->since_ns = 0;
    request->expired = request->aside = request->held = false;
    request->blocks = false;
    request->group = NULL;
    request->loading = false;
    request->received = request->sent = 0;
    request->data = NULL;
    request->data_length = 0;
    request->head_length = request->tail_length = 0;
    request->file = -1;
    return request;
}

void connection_request_free(struct connection *conn, struct request *request)
{
    struct connection_table *table = conn->table;

    if (request->buffer != NULL && request->aside)
        buffer_free_aside(conn->server->buffers, request->buffer, request->buffer_size);
    else if (request->buffer != NULL)
        buffer_free(conn->server->buffers, &conn->export->buffers, request->buffer,
                    request->buffer_size);
    if (table->n_free_requests >= FREE_REQUESTS_MAX) {
        g_free(request);
        return;
    }
    request->next = table->free_requests;
    table->free_requests = request;
    table->n_free_requests++;
}

/* ---- When memory is short ---- */

/* Does it hold payload memory that others want, for a peer that neither sends nor takes? */
static bool is_stalled(const struct connection *conn, int64_t now_ns)
{
    return conn->phase < PHASE_CLOSING && (conn->receiving != NULL || conn->replies != NULL) &&
           now_ns - conn->active_ns >= MEMORY_STALL_S * INT64_C(1000000000) &&
           buffer_is_wanted(conn->server->buffers, &conn->export->buffers);
}

void connection_on_pressure(evutil_socket_t fd, short what, void *arg)
{
    struct connection_table *table = arg;
    int64_t now_ns = loop_now_ns();

    (void)fd;
    (void)what;
    if (!buffer_is_awaited(table->server->buffers))
        return;
    for (struct connection *conn = table->first; conn != NULL; conn = conn->next)
        if (is_stalled(conn, now_ns))
            connection_close(conn, "it held memory that others waited for, and did not move");
    evtimer_add(table->pressure, &(struct timeval){ .tv_sec = 1 });
}

void connection_wait_memory(struct connection *conn, size_t size)
{
    buffer_wait(conn->server->buffers, &conn->export->buffers, size, &conn->memory);
    conn->paused = true;
    if (!evtimer_pending(conn->table->pressure, NULL))
        evtimer_add(conn->table->pressure, &(struct timeval){ .tv_sec = 1 });
}
