/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * All connections: who is let in and who is turned away, limits, the end of all at a shutdown;
 * finding, counting and kicking them for the control port. Loop thread. What a connection does
 * is connection.c's.
 */
#include "connection_private.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "acl.h"
#include "away.h"
#include "commands.h"
#include "expiry.h"
#include "listener.h"
#include "log.h"
#include "registry.h"
#include "server.h"

#define SHUTDOWN_GRACE_US 250000 /* in which clients are told that the server shuts down */
#define TURNED_AWAY_NS INT64_C(1000000000) /* between lines about peers who may not connect */
#define HANDSHAKES_BEYOND 4096   /* connections beyond the limit that are at least told so */

/* ---- Accepting ---- */

static void on_memory(void *arg)
{
    struct connection *conn = arg;

    connection_resume(conn);
}

static void append(struct connection_table *table, struct connection *conn)
{
    conn->id = ++table->last_id;
    conn->previous = table->last;
    *(table->last != NULL ? &table->last->next : &table->first) = conn;
    table->last = conn;
    g_hash_table_insert(table->by_id, &conn->id, conn);
    table->count++;
}

void connection_table_remove(struct connection_table *table, struct connection *conn)
{
    *(conn->previous != NULL ? &conn->previous->next : &table->first) = conn->next;
    *(conn->next != NULL ? &conn->next->previous : &table->last) = conn->previous;
    g_hash_table_remove(table->by_id, &conn->id);
    table->count--;
}

int connection_table_admits(const struct connection_table *table, const struct sockaddr *peer,
                            struct nbd_failure *why)
{
    if (!acl_allows(table->allowed, peer))
        return nbd_fail(why, EACCES, "its address is not in nbd_allow");
    if (table->draining)
        return nbd_fail(why, EBUSY, "the server is shutting down");
    if (table->count >= table->limits.max_connections + HANDSHAKES_BEYOND)
        return nbd_fail(why, EMFILE, "far beyond max_connections");
    return 0;
}

/* Who keeps knocking must not fill the log: one line a second at most. */
static void turn_away(struct connection_table *table, int fd, const struct sockaddr *peer,
                      const char *why)
{
    int64_t now_ns = loop_now_ns();

    table->turned_away++;
    table->all_turned_away++;
    if (table->turned_away_ns == 0 || now_ns - table->turned_away_ns >= TURNED_AWAY_NS) {
        g_autofree char *name = listener_peer_name(fd, peer);
        g_autofree char *others = table->turned_away == 1 ? g_strdup("")
                                      : g_strdup_printf(" (and %u others since the last such "
                                                        "line)", table->turned_away - 1);

        log_event(NBD_LOG_WARNING, NULL, name, "client %s: closed at once: %s%s", name, why,
                  others);
        table->turned_away_ns = now_ns;
        table->turned_away = 0;
    }
    close(fd);
}

static void remember_address(struct connection *conn, const struct sockaddr *peer)
{
    if (peer->sa_family == AF_INET)
        memcpy(&conn->address.v4, peer, sizeof(conn->address.v4));
    else if (peer->sa_family == AF_INET6)
        memcpy(&conn->address.v6, peer, sizeof(conn->address.v6));
    else
        conn->address.any.sa_family = peer->sa_family;
}

void connection_accept(void *arg, int fd, const struct sockaddr *peer)
{
    struct connection_table *table = arg;
    struct nbd_failure why_not;
    struct connection *conn;

    if (connection_table_admits(table, peer, &why_not) < 0) {
        turn_away(table, fd, peer, why_not.message);
        return;
    }
    conn = g_new0(struct connection, 1);
    conn->table = table;
    conn->turn = &table->turn;
    conn->server = table->server;
    conn->fd = fd;
    conn->peer = listener_peer_name(fd, peer);
    remember_address(conn, peer);
    conn->over_limit = table->count >= table->limits.max_connections;
    conn->since_us = g_get_real_time();
    conn->active_ns = loop_now_ns();
    conn->replies_tail = &conn->replies;
    conn->going_on.data = conn;
    conn->memory.wake = on_memory;
    conn->memory.arg = conn;
    append(table, conn);
    connection_start(conn);
}

/* ---- The table ---- */

/* Requests that are held for a backstore may have to wait for long: their clients are not told
 * anything, and a kernel sends them again to our successor. */
static void end_for_shutdown(struct connection *conn)
{
    if (conn->export != NULL && export_is_away(conn->export))
        connection_close(conn, "the server is shutting down, and its storage is away");
    else
        connection_finish(conn, "the server is shutting down");
}

static void on_grace_over(evutil_socket_t fd, short what, void *arg)
{
    struct connection_table *table = arg;

    (void)fd;
    (void)what;
    for (struct connection *conn = table->first; conn != NULL; conn = conn->next)
        end_for_shutdown(conn);
}

static void on_access_changed(void *arg, struct export *export)
{
    struct connection_table *table = arg;

    for (struct connection *conn = table->first; conn != NULL; conn = conn->next)
        if (conn->export == export && !acl_allows(export->acl, &conn->address.any))
            connection_close(conn, "it is not in the access list of the export any more");
}

void connection_table_set_limits(struct connection_table *table, unsigned max_connections,
                                 unsigned negotiation_timeout_s)
{
    table->limits.max_connections = max_connections;
    table->limits.negotiation_timeout_s = negotiation_timeout_s;
}

int connection_table_allow(struct connection_table *table, const char *const *allowed,
                           struct nbd_failure *why)
{
    struct acl *acl;
    int r = acl_new(allowed, &acl, why);

    if (r < 0)
        return r;
    acl_free(table->allowed);
    table->allowed = acl;
    for (struct connection *conn = table->first; conn != NULL; conn = conn->next)
        if (!acl_allows(acl, &conn->address.any))
            connection_close(conn, "its address is not in nbd_allow any more");
    return 0;
}

struct connection_table *connection_table_new(struct server *server,
                                              const struct connection_limits *limits)
{
    struct connection_table *table = g_new0(struct connection_table, 1);
    int r = acl_new(limits->allowed, &table->allowed, NULL);

    g_assert(r == 0);
    table->server = server;
    table->limits = *limits;
    expiry_init(command_expired);
    registry_watch_access(server->registry, on_access_changed, table);
    table->by_id = g_hash_table_new(g_int64_hash, g_int64_equal);
    table->in = g_malloc(SCRATCH_BYTES);
    table->out = g_malloc(SCRATCH_BYTES);
    table->go_on = evtimer_new(loop_base(server->loop), connection_on_go_on, table);
    table->look_after = event_new(loop_base(server->loop), -1, 0, connection_on_look_after,
                                  table);
    table->grace = evtimer_new(loop_base(server->loop), on_grace_over, table);
    table->pressure = evtimer_new(loop_base(server->loop), connection_on_pressure, table);
    return table;
}

void connection_table_free(struct connection_table *table)
{
    if (table == NULL)
        return;
    while (table->first != NULL) {
        connection_close(table->first, "the server is shutting down");
        connection_reap(table->first);
    }
    while (table->free_requests != NULL) {
        struct request *request = table->free_requests;

        table->free_requests = request->next;
        g_free(request);
    }
    registry_watch_access(table->server->registry, NULL, NULL);
    acl_free(table->allowed);
    event_free(table->go_on);
    event_free(table->look_after);
    event_free(table->grace);
    event_free(table->pressure);
    g_hash_table_destroy(table->by_id);
    g_free(table->in);
    g_free(table->out);
    g_free(table);
}

/* A kernel that has mapped an export keeps what was not answered and sends it again to our
 * successor: an error would reach its file system. Every other client is told. */
void connection_table_drain(struct connection_table *table)
{
    table->draining = true;
    for (struct connection *conn = table->first; conn != NULL; conn = conn->next)
        if (conn->mapping != NULL)
            end_for_shutdown(conn);
    evtimer_add(table->grace, &(struct timeval){ .tv_usec = SHUTDOWN_GRACE_US });
}

unsigned connection_count(const struct connection_table *table)
{
    return table->count;
}

uint64_t connection_accepted(const struct connection_table *table)
{
    return table->last_id;
}

uint64_t connection_turned_away(const struct connection_table *table)
{
    return table->all_turned_away;
}

unsigned connection_in_flight(const struct connection_table *table)
{
    unsigned n = 0;

    for (const struct connection *conn = table->first; conn != NULL; conn = conn->next)
        n += conn->in_flight;
    return n;
}

struct connection *connection_next(struct connection_table *table, uint64_t after_id)
{
    struct connection *conn = table->first;

    while (conn != NULL && conn->id <= after_id)
        conn = conn->next;
    return conn;
}

bool connection_kick(struct connection_table *table, uint64_t id, const char *reason)
{
    struct connection *conn = g_hash_table_lookup(table->by_id, &id);

    if (conn == NULL)
        return false;
    connection_log(conn, NBD_LOG_INFO, "kicked: %s", reason);
    connection_close(conn, "kicked by the operator");
    return true;
}

unsigned connection_kick_export(struct connection_table *table, const struct export *export,
                                const char *reason)
{
    unsigned n = 0;

    for (struct connection *conn = table->first; conn != NULL; conn = conn->next) {
        if (conn->export != export || conn->phase == PHASE_CLOSING)
            continue;
        connection_log(conn, NBD_LOG_INFO, "kicked: %s", reason);
        connection_close(conn, "its export went away");
        n++;
    }
    return n;
}
