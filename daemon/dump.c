/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The state of the daemon as lines of the log. Between two turns anything may come or go, so
 * each turn looks for what follows the last one that was written.
 */
#include "dump.h"

#include <inttypes.h>

#include "buffer.h"
#include "connection.h"
#include "job.h"
#include "log.h"
#include "registry.h"
#include "server.h"
#include "store.h"

#define LINES_PER_TURN 32
#define TURN_MS 5 /* between two turns: the reader of the log needs some time, too */

struct dump {
    struct server *server; /* not owned */
    struct event *turn;
    unsigned part;         /* of parts[] */
    char *export_name;     /* the last one that was written; NULL: none */
    uint64_t client_id;
    char job_id[37];
};

/* ---- One line each; false: there are no more ---- */

static bool write_daemon(struct dump *dump)
{
    const struct server *server = dump->server;
    static const char *const states[] = { [STORE_SAVED] = "saved", [STORE_UNSAVED] = "unsaved",
                                          [STORE_DEGRADED] = "degraded" };
    const char *state = server->store != NULL ? states[store_state(server->store, NULL)] : "none";

    log_info("dump: %u exports, %u clients with %u requests in flight, %u jobs running, "
             "%" PRIu64 " bytes of payload, state %s%s", registry_size(server->registry),
             connection_count(server->connections), connection_in_flight(server->connections),
             server->jobs != NULL ? job_running_count(server->jobs) : 0,
             buffer_pool_used(server->buffers), state, server->stopping ? ", stopping" : "");
    return false;
}

static void write_mapping(const struct export *export, const struct mapping *mapping)
{
    log_event(NBD_LOG_INFO, export->name, NULL, "dump: export \"%s\": mapping %s, %s, as %s on "
              "host \"%s\", %u of %u connections", export->name, mapping->cookie,
              mapping_state_name(mapping_state(mapping)), mapping->device, mapping->client,
              mapping->connected, mapping->connections);
}

static bool write_export(struct dump *dump)
{
    struct export *export = registry_next(dump->server->registry, dump->export_name);

    g_free(dump->export_name);
    dump->export_name = export != NULL ? g_strdup(export->name) : NULL;
    if (export == NULL)
        return false;
    log_event(NBD_LOG_INFO, export->name, NULL, "dump: export \"%s\": %s, %s backstore %s, "
              "%" PRIu64 " bytes, %u connections%s%s", export->name,
              export_state_name(export->state), export->handler_name, export->target,
              export->size, export->connections, export->state == EXPORT_FAULTED ? ": " : "",
              export->state == EXPORT_FAULTED ? export->fault.message : "");
    for (guint i = 0; i < export->mappings->len; i++)
        write_mapping(export, g_ptr_array_index(export->mappings, i));
    return true;
}

static bool write_client(struct dump *dump)
{
    const struct connection *conn = connection_next(dump->server->connections, dump->client_id);
    struct connection_info info;

    if (conn == NULL)
        return false;
    connection_describe(conn, &info);
    dump->client_id = info.id;
    log_event(NBD_LOG_INFO, info.export_name, info.peer, "dump: client %s: number %" PRIu64
              ", %s, export %s, %" PRIu64 " requests, %u in flight, %" PRIu64 " bytes read, "
              "%" PRIu64 " written", info.peer, info.id, info.phase,
              info.export_name != NULL ? info.export_name : "none", info.requests,
              info.in_flight, info.read_bytes, info.write_bytes);
    return true;
}

static bool write_job(struct dump *dump)
{
    const struct job *job;

    if (dump->server->jobs == NULL)
        return false;
    do { /* those that have ended are no state, but history */
        job = job_next(dump->server->jobs, dump->job_id);
        if (job != NULL)
            g_strlcpy(dump->job_id, job->id, sizeof(dump->job_id));
    } while (job != NULL && job_has_ended(job));
    if (job == NULL)
        return false;
    log_event(NBD_LOG_INFO, job->export_name, NULL, "dump: job %s: %s of export \"%s\" runs",
              job->id, job_kind_name(job->kind), job->export_name);
    return true;
}

static bool (*const parts[])(struct dump *dump) = { write_daemon, write_export, write_client,
                                                    write_job };

/* ---- Turns ---- */

static void on_turn(evutil_socket_t fd, short what, void *arg)
{
    struct dump *dump = arg;

    (void)fd;
    (void)what;
    for (unsigned i = 0; i < LINES_PER_TURN; i++) {
        if (dump->part == G_N_ELEMENTS(parts)) {
            log_info("dump: that is all");
            return;
        }
        if (!parts[dump->part](dump))
            dump->part++;
    }
    evtimer_add(dump->turn, &(struct timeval){ .tv_usec = TURN_MS * 1000 });
}

struct dump *dump_new(struct server *server)
{
    struct dump *dump = g_new0(struct dump, 1);

    dump->server = server;
    dump->turn = evtimer_new(loop_base(server->loop), on_turn, dump);
    return dump;
}

void dump_free(struct dump *dump)
{
    if (dump == NULL)
        return;
    event_free(dump->turn);
    g_free(dump->export_name);
    g_free(dump);
}

void dump_start(struct dump *dump)
{
    dump->part = 0;
    g_free(dump->export_name);
    dump->export_name = NULL;
    dump->client_id = 0;
    dump->job_id[0] = '\0';
    event_active(dump->turn, 0, 0);
}
