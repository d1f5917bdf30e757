/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The control procedure PREMAP, with which a client begins to attach an export to a device
 * of its own: it opens the export and gives a ticket with a lease. What follows is in
 * control_unmap.c. Loop thread only.
 */
#include "control_private.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "connection.h"
#include "listener.h"
#include "log.h"
#include "registry.h"

#define OPEN_TIMEOUT_MS 10000
#define CONNECTIONS_MAX 64 /* that one mapping may ask for */

/* ---- PREMAP ---- */

struct premap {
    struct server *server;
    struct rpc_call *call; /* NULL: the caller has gone */
    struct export *export;
    char cookie[37];       /* the mapping is looked up again: it may be removed meanwhile */
    bool adopted;          /* the export is new, and forgotten if it cannot be opened */
    bool resumed;
};

static void on_premap_gone(void *arg)
{
    struct premap *premap = arg;

    premap->call = NULL;
}

/* The mapping goes back to what it was. */
static void premap_undo(struct premap *premap)
{
    struct mapping *mapping = mapping_find(premap->server->mappings, premap->cookie);

    if (mapping == NULL)
        return;
    if (mapping->phase == MAPPING_LEASED)
        mapping_remove(mapping);
    else if (premap->resumed && mapping->phase == MAPPING_LASTING)
        mapping_fall_back(mapping);
}

static void premap_fail(struct premap *premap, const struct nbd_failure *why)
{
    premap_undo(premap);
    if (premap->adopted) {
        store_removed(premap->server->store, premap->export->id);
        control_forget_export(premap->export, "the export could not be opened", NULL, NULL);
    }
    if (premap->call != NULL)
        control_refuse_failure(premap->call, why);
    g_free(premap);
}

static bool is_wildcard(const char *host)
{
    return strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0 || *host == '\0';
}

/* Where to connect for the data: the sockets of files first, and only for those who called
 * through one; an address that means all of them becomes "the host that you called". */
static u_int fill_endpoints(const struct premap *premap, GStringChunk *texts,
                            nr_endpoint *rows)
{
    const GPtrArray *endpoints = listener_endpoints(premap->server->nbd_listeners);
    bool local = g_str_has_prefix(rpc_call_peer(premap->call), "unix:");
    u_int n = 0, port;

    for (int tcp = 0; tcp <= 1; tcp++) {
        for (guint i = 0; i < endpoints->len && n < NR_ENDP_MAX; i++) {
            const struct endpoint *endpoint = g_ptr_array_index(endpoints, i);
            const char *host = is_wildcard(endpoint->host) ? "" : endpoint->host;
            bool seen = false;

            port = (u_int)endpoint->port;
            if (g_str_has_prefix(host, "unix:") != !tcp || (!tcp && !local))
                continue;
            for (u_int k = 0; k < n; k++)
                seen |= strcmp(rows[k].addr, host) == 0 && rows[k].port == port;
            if (seen)
                continue;
            rows[n].addr = control_text(texts, host, NR_HOST_MAX);
            rows[n++].port = port;
        }
    }
    return n;
}

static void reply_ticket(const struct premap *premap, const struct mapping *mapping)
{
    GStringChunk *texts = g_string_chunk_new(512);
    nr_endpoint endpoints[NR_ENDP_MAX] = { 0 };
    char io_name[sizeof(MAPPING_IO_PREFIX) + sizeof(mapping->cookie)];
    nr_ticket_res result = { .code = NR_OK };
    nr_ticket *ticket = &result.nr_ticket_res_u.ticket;

    g_snprintf(io_name, sizeof(io_name), MAPPING_IO_PREFIX "%s", mapping->cookie);
    ticket->cookie = (char *)mapping->cookie;
    ticket->io_name = io_name;
    ticket->export_name = control_text(texts, mapping->export->name, NR_NAME_MAX);
    ticket->endpoints.endpoints_val = endpoints;
    ticket->endpoints.endpoints_len = fill_endpoints(premap, texts, endpoints);
    ticket->lease_s = MAPPING_LEASE_S;
    ticket->resumed = premap->resumed;
    ticket->device = control_text(texts, mapping->device, NR_DEV_MAX);
    rpc_reply(premap->call, &result);
    g_string_chunk_free(texts);
}

/* The export is open and saved. */
static void premap_finish(struct premap *premap)
{
    struct mapping *mapping = mapping_find(premap->server->mappings, premap->cookie);
    struct nbd_failure why;

    if (premap->server->stopping) {
        nbd_fail(&why, EBUSY, "the daemon is stopping; map export \"%s\" when it runs anew",
                 premap->export->name);
        premap_fail(premap, &why);
        return;
    }
    if (mapping == NULL || mapping->phase == MAPPING_UNMAPPING ||
        premap->export->state == EXPORT_DRAINING) {
        nbd_fail(&why, EBUSY, "export \"%s\" was deleted or unmapped while it was being "
                 "mapped", premap->export->name);
        premap_fail(premap, &why);
        return;
    }
    if (premap->call == NULL) {
        premap_undo(premap);
    } else {
        mapping_lease(mapping);
        reply_ticket(premap, mapping);
    }
    g_free(premap);
}

static void on_adopted(void *arg, int result, const struct nbd_failure *why)
{
    struct premap *premap = arg;
    struct export *export = premap->export;
    struct nbd_failure failure;

    if (result < 0) {
        nbd_fail(&failure, -result, "export \"%s\" cannot be saved: %s", export->name,
                 why->message);
        premap->adopted = export->state != EXPORT_DRAINING; /* else gone by another's hand */
        premap_fail(premap, &failure);
    } else {
        premap->adopted = false;
        premap_finish(premap);
    }
    export_close(export);
}

static void on_opened(void *arg, int result, const struct nbd_failure *why)
{
    struct premap *premap = arg;
    struct export *export = premap->export;
    struct nbd_failure failure;

    if (result < 0) {
        failure = *why;
        premap->adopted = premap->adopted && export->state != EXPORT_DRAINING;
        premap_fail(premap, &failure);
        return;
    }
    if (premap->adopted && export->state != EXPORT_DRAINING) {
        log_event(NBD_LOG_INFO, export->name, NULL,
                  "export \"%s\" is adopted: %s backstore %s, %" PRIu64 " bytes", export->name,
                  export->handler_name, export->target, export->size);
        store_changed(premap->server->store, export);
        store_save(premap->server->store, on_adopted, premap);
        return;
    }
    premap->adopted = false;
    premap_finish(premap);
    export_close(export);
}

/* False: refused. May this export get a new mapping? */
static bool check_premap(struct rpc_call *call, const struct export *export,
                         const nr_map_args *args)
{
    const struct mapping *mapping;

    if (export->job != NULL) {
        control_refuse(call, NR_EBUSY, EBUSY, "a %s job runs on export \"%s\"; wait for its "
                       "end (job %s)", job_kind_name(export->job->kind), export->name,
                       export->job->id);
        return false;
    }
    if (args->connections > CONNECTIONS_MAX) {
        control_refuse(call, NR_EINVAL, EINVAL, "%u connections are too many for a device; at "
                       "most %d are possible", args->connections, CONNECTIONS_MAX);
        return false;
    }
    if (export->mappings->len >= NR_MAPS_MAX) {
        control_refuse(call, NR_ELIMIT, 0, "export \"%s\" is mapped %d times, which is the "
                       "limit; unmap one", export->name, NR_MAPS_MAX);
        return false;
    }
    if (export->mappings->len == 0 || args->multi)
        return true;
    mapping = g_ptr_array_index(export->mappings, 0);
    control_refuse(call, NR_EBUSY, EBUSY, "export \"%s\" is mapped already: %s on host \"%s\" "
                   "(%s); unmap it there first", export->name,
                   *mapping->device != '\0' ? mapping->device : "a device", mapping->client,
                   mapping_state_name(mapping_state(mapping)));
    return false;
}

/* A backstore that was made by other tools becomes an export. */
static struct export *adopt(struct server *server, const nr_map_args *args,
                            struct nbd_failure *why)
{
    g_autoptr(GHashTable) opts = control_opts(&args->store, why);
    struct export_spec spec = {
        .handler = args->store.handler,
        .target = args->store.target,
        .opts = opts,
        .origin = EXPORT_BY_RPC,
    };
    struct export *export;

    if (opts == NULL || registry_add(server->registry, &spec, false, &export, why) < 0)
        return NULL;
    return export;
}

static void start_premap(struct rpc_call *call, struct server *server, struct mapping *mapping,
                         bool adopted, bool resumed)
{
    struct premap *premap = g_new0(struct premap, 1);

    premap->server = server;
    premap->call = call;
    premap->export = mapping->export;
    premap->adopted = adopted;
    premap->resumed = resumed;
    g_strlcpy(premap->cookie, mapping->cookie, sizeof(premap->cookie));
    rpc_call_on_gone(call, on_premap_gone, premap);
    log_event(NBD_LOG_INFO, mapping->export->name, rpc_call_peer(call),
              "control client %s: host \"%s\" %s export \"%s\"", rpc_call_peer(call),
              mapping->client, resumed ? "resumes" : "maps", mapping->export->name);
    export_open(mapping->export, OPEN_TIMEOUT_MS, on_opened, premap);
}

static void premap_new(struct rpc_call *call, struct server *server, const nr_map_args *args)
{
    struct nbd_failure why;
    struct export *export = control_find_export(server, args->name, &args->store, &why);
    bool adopted = false;

    if (export == NULL && why.code == ENOENT && *args->name == '\0') {
        export = adopt(server, args, &why);
        adopted = true;
    }
    if (export == NULL) {
        control_refuse_failure(call, &why);
        return;
    }
    if (!check_premap(call, export, args)) {
        if (adopted)
            control_forget_export(export, "it was not mapped", NULL, NULL);
        return;
    }
    start_premap(call, server,
                 mapping_new(server->mappings, export, &(struct mapping_spec){
                     .client = args->client,
                     .client_boot = args->client_boot,
                     .timeout_s = args->timeout_s,
                     .dead_timeout_s = args->dead_timeout_s,
                     .connections = MAX(args->connections, 1u),
                     .readonly = args->readonly || export->readonly,
                 }),
                 adopted, false);
}

/* The same kernel that has the device, not a copy of its cookie elsewhere. */
static bool is_from_its_client(const struct mapping *mapping, const nr_map_args *args)
{
    return strcmp(mapping->client, args->client) == 0 && *args->client_boot != '\0' &&
           strcmp(mapping->client_boot, args->client_boot) == 0;
}

/* A dead mapping may be taken up by whoever has its cookie. While it is live its own client may
 * replace connections: those that are missing, or, with "multi", all. For these the client
 * knows that they are dead although this side has not heard of it; what still comes in on them
 * would be older than what the new ones bring, so they have to end first. False: refused. */
static bool may_resume(struct rpc_call *call, struct server *server, struct mapping *mapping,
                       const nr_map_args *args)
{
    enum mapping_state state = mapping_state(mapping);
    bool live = state == MAPPING_STATE_LIVE && is_from_its_client(mapping, args);

    if (state == MAPPING_STATE_DEAD ||
        (live && !args->multi && mapping->connected < mapping->connections))
        return true;
    if (live && args->multi) {
        control_kick_mapping(server, mapping, "its device has lost this connection");
        control_refuse(call, NR_ESTATE, EAGAIN, "the connections of mapping %s of export "
                       "\"%s\" are being ended; try again in a moment", mapping->cookie,
                       mapping->export->name);
        return false;
    }
    control_refuse(call, NR_ESTATE, 0, "the mapping %s of export \"%s\" on host \"%s\" is %s; "
                   "only a dead one can be taken up again", mapping->cookie,
                   mapping->export->name, mapping->client, mapping_state_name(state));
    return false;
}

static void premap_resume(struct rpc_call *call, struct server *server,
                          const nr_map_args *args)
{
    struct mapping *mapping = control_find_mapping(call, server, args->resume);
    const struct export *export;
    struct nbd_failure why;

    if (mapping == NULL)
        return;
    if (*args->name != '\0' || *args->store.target != '\0') {
        export = control_find_export(server, args->name, &args->store, &why);
        if (export == NULL) {
            control_refuse_failure(call, &why);
            return;
        }
        if (export != mapping->export) {
            control_refuse(call, NR_EINVAL, EINVAL, "the mapping %s is of export \"%s\", not "
                           "of \"%s\"", mapping->cookie, mapping->export->name, export->name);
            return;
        }
    }
    if (!may_resume(call, server, mapping, args))
        return;
    if (mapping->export->job != NULL) {
        control_refuse(call, NR_EBUSY, EBUSY, "a %s job runs on export \"%s\"; wait for its "
                       "end", job_kind_name(mapping->export->job->kind),
                       mapping->export->name);
        return;
    }
    mapping_lease(mapping);
    start_premap(call, server, mapping, false, true);
}

void control_premap(struct rpc_call *call, void *args, void *arg)
{
    const nr_map_args *a = args;
    struct server *server = arg;

    if (!control_may_change(call, server) || !control_check_text(call, a->client, "client") ||
        !control_check_text(call, a->client_boot, "client_boot") ||
        !control_check_text(call, a->store.target, "target"))
        return;
    if (*a->resume != '\0')
        premap_resume(call, server, a);
    else
        premap_new(call, server, a);
}
