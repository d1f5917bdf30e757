/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The control procedures by which a client attaches an export to a device of its own: PREMAP
 * gives a ticket with a lease, POSTMAP makes the mapping lasting, UNMAP ends it. Loop thread
 * only.
 */
#include "control_private.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "connection.h"
#include "listener.h"
#include "log.h"

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
        control_forget_export(premap->export, "the export could not be opened");
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
static u_int fill_endpoints(const struct premap *premap, GStringChunk *texts, nr_endpoint *rows)
{
    const GPtrArray *endpoints = listener_endpoints(premap->server->nbd_listeners);
    bool local = g_str_has_prefix(rpc_call_peer(premap->call), "unix:");
    u_int n = 0;

    for (int tcp = 0; tcp <= 1; tcp++) {
        for (guint i = 0; i < endpoints->len && n < NR_ENDP_MAX; i++) {
            const struct endpoint *endpoint = g_ptr_array_index(endpoints, i);
            const char *host = is_wildcard(endpoint->host) ? "" : endpoint->host;
            bool seen = false;

            if (g_str_has_prefix(host, "unix:") != !tcp || (!tcp && !local))
                continue;
            for (u_int k = 0; k < n; k++)
                seen |= strcmp(rows[k].addr, host) == 0 && rows[k].port == (u_int)endpoint->port;
            if (seen)
                continue;
            rows[n].addr = control_text(texts, host, NR_HOST_MAX);
            rows[n++].port = (u_int)endpoint->port;
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

    if (mapping == NULL || mapping->phase == MAPPING_UNMAPPING ||
        premap->export->state == EXPORT_DRAINING) {
        nbd_fail(&why, EBUSY, "export \"%s\" was deleted or unmapped while it was being mapped",
                 premap->export->name);
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
        log_info("export \"%s\" is adopted: %s backstore %s, %" PRIu64 " bytes", export->name,
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
        control_refuse(call, NR_EBUSY, EBUSY, "a %s job runs on export \"%s\"; wait for its end "
                       "(job %s)", job_kind_name(export->job->kind), export->name,
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
    log_info("control client %s: host \"%s\" %s export \"%s\"", rpc_call_peer(call),
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
            control_forget_export(export, "it was not mapped");
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

/* NULL: the call has been refused. */
static struct mapping *find_cookie(struct rpc_call *call, struct server *server,
                                   const char *cookie)
{
    struct mapping *mapping = mapping_find(server->mappings, cookie);
    g_autofree char *quoted = log_quote(cookie, strlen(cookie));

    if (mapping == NULL)
        control_refuse(call, NR_ENOENT, ENOENT, "there is no mapping %s: it was unmapped, or its "
                       "lease has ended; map anew", quoted);
    return mapping;
}

static void premap_resume(struct rpc_call *call, struct server *server, const nr_map_args *args)
{
    struct mapping *mapping = find_cookie(call, server, args->resume);
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
            control_refuse(call, NR_EINVAL, EINVAL, "the mapping %s is of export \"%s\", not of "
                           "\"%s\"", mapping->cookie, mapping->export->name, export->name);
            return;
        }
    }
    if (mapping_state(mapping) != MAPPING_STATE_DEAD) {
        control_refuse(call, NR_ESTATE, 0, "the mapping %s of export \"%s\" on host \"%s\" is %s; "
                       "only a dead one can be taken up again", mapping->cookie,
                       mapping->export->name, mapping->client,
                       mapping_state_name(mapping_state(mapping)));
        return;
    }
    if (mapping->export->job != NULL) {
        control_refuse(call, NR_EBUSY, EBUSY, "a %s job runs on export \"%s\"; wait for its end",
                       job_kind_name(mapping->export->job->kind), mapping->export->name);
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
        !control_check_text(call, a->client_boot, "client_boot"))
        return;
    if (*a->resume != '\0')
        premap_resume(call, server, a);
    else
        premap_new(call, server, a);
}

/* ---- Changes of a mapping that are being saved ---- */

/* What the mapping was before, to go back to; owns its strings. */
struct map_change {
    struct server *server;
    struct rpc_call *call; /* NULL: the caller has gone */
    char *export_name;
    struct mapping_spec before;
    char cookie[37];
    bool was_leased;
    bool removed;
};

static void map_change_free(struct map_change *change)
{
    g_free(change->export_name);
    g_free((char *)change->before.client);
    g_free((char *)change->before.client_boot);
    g_free((char *)change->before.device);
    g_free(change);
}

static void reply_mapping(struct rpc_call *call, const struct mapping *mapping)
{
    GStringChunk *texts = g_string_chunk_new(512);
    nr_mapping_res result = { .code = NR_OK };

    control_describe_mapping(mapping, texts, &result.nr_mapping_res_u.mapping);
    rpc_reply(call, &result);
    g_string_chunk_free(texts);
}

/* The answer about a mapping that is no more. */
static void reply_former(struct rpc_call *call, const struct mapping_spec *former)
{
    GStringChunk *texts = g_string_chunk_new(512);
    nr_mapping_res result = { .code = NR_OK };

    result.nr_mapping_res_u.mapping = (nr_mapping){
        .cookie = (char *)former->cookie,
        .state = NR_M_NONE,
        .client = control_text(texts, former->client, NR_HOST_MAX),
        .device = control_text(texts, former->device, NR_DEV_MAX),
        .since = former->since_us,
        .timeout_s = former->timeout_s,
        .dead_timeout_s = former->dead_timeout_s,
        .connections = former->connections,
        .readonly = former->readonly,
    };
    rpc_reply(call, &result);
    g_string_chunk_free(texts);
}

static void on_change_gone(void *arg)
{
    struct map_change *change = arg;

    change->call = NULL;
}

static struct map_change *map_change_new(struct server *server, struct rpc_call *call,
                                         const struct mapping *mapping)
{
    struct map_change *change = g_new0(struct map_change, 1);

    change->server = server;
    change->call = call;
    change->export_name = g_strdup(mapping->export->name);
    change->was_leased = mapping->phase == MAPPING_LEASED;
    g_strlcpy(change->cookie, mapping->cookie, sizeof(change->cookie));
    change->before = (struct mapping_spec){
        .cookie = change->cookie,
        .client = g_strdup(mapping->client),
        .client_boot = g_strdup(mapping->client_boot),
        .device = g_strdup(mapping->device),
        .since_us = mapping->since_us,
        .timeout_s = mapping->timeout_s,
        .dead_timeout_s = mapping->dead_timeout_s,
        .connections = mapping->connections,
        .readonly = mapping->readonly,
    };
    rpc_call_on_gone(call, on_change_gone, change);
    return change;
}

/* The state file still says what was before: so does the memory now. */
static void map_change_undo(struct map_change *change)
{
    struct server *server = change->server;
    struct mapping *mapping = mapping_find(server->mappings, change->cookie);
    struct export *export = registry_find(server->registry, change->export_name);

    if (export == NULL)
        return;
    if (change->removed && !change->was_leased && mapping == NULL)
        mapping_restore(server->mappings, export, &change->before, NULL);
    else if (!change->removed && change->was_leased && mapping != NULL)
        mapping_uncommit(mapping);
    else if (!change->removed && mapping != NULL && mapping->phase == MAPPING_LASTING)
        mapping_commit(mapping, change->before.device);
    store_changed(server->store, export);
}

static void on_change_saved(void *arg, int result, const struct nbd_failure *why)
{
    struct map_change *change = arg;
    struct mapping *mapping;

    if (result < 0) {
        map_change_undo(change);
        if (change->call != NULL)
            control_refuse(change->call, control_code_of(-result), -result, "the mapping of "
                           "export \"%s\" is not changed, since that cannot be saved: %s",
                           change->export_name, why->message);
    } else if (change->call != NULL) {
        mapping = mapping_find(change->server->mappings, change->cookie);
        if (mapping != NULL)
            reply_mapping(change->call, mapping);
        else
            reply_former(change->call, &change->before);
    }
    map_change_free(change);
}

/* ---- POSTMAP ---- */

/* The client could not attach the device. */
static void postmap_failed(struct rpc_call *call, struct server *server, struct mapping *mapping,
                           const char *reason)
{
    struct map_change *change = map_change_new(server, call, mapping);
    g_autofree char *quoted = log_quote(reason, strlen(reason));

    log_warning("control client %s: host \"%s\" could not map export \"%s\": %s",
                rpc_call_peer(call), mapping->client, mapping->export->name, quoted);
    if (mapping->phase == MAPPING_LEASED)
        mapping_remove(mapping);
    else if (mapping->resuming)
        mapping_fall_back(mapping);
    on_change_saved(change, 0, NULL); /* nothing of it is in the state file */
}

static void postmap_ok(struct rpc_call *call, struct server *server, struct mapping *mapping,
                       const char *device)
{
    struct map_change *change;

    /* The same again: its answer was lost. */
    if (mapping->phase == MAPPING_LASTING && !mapping->resuming &&
        strcmp(mapping->device, device) == 0) {
        reply_mapping(call, mapping);
        return;
    }
    if (mapping->phase == MAPPING_UNMAPPING ||
        (mapping->phase == MAPPING_LASTING && !mapping->resuming)) {
        control_refuse(call, NR_ESTATE, 0, "the mapping %s of export \"%s\" is %s on %s of host "
                       "\"%s\"; it is not waiting for a device", mapping->cookie,
                       mapping->export->name, mapping_state_name(mapping_state(mapping)),
                       *mapping->device != '\0' ? mapping->device : "a device",
                       mapping->client);
        return;
    }
    change = map_change_new(server, call, mapping);
    if (mapping->connected == 0)
        log_warning("export \"%s\" is mapped as %s on host \"%s\", but not connected",
                    mapping->export->name, device, mapping->client);
    mapping_commit(mapping, device);
    log_info("control client %s: export \"%s\" is mapped as %s on host \"%s\"",
             rpc_call_peer(call), mapping->export->name, device, mapping->client);
    store_changed(server->store, mapping->export);
    store_save(server->store, on_change_saved, change);
}

void control_postmap(struct rpc_call *call, void *args, void *arg)
{
    const nr_postmap_args *a = args;
    struct server *server = arg;
    struct mapping *mapping;

    if (!control_may_change(call, server) || !control_check_text(call, a->device, "device"))
        return;
    if (a->ok && !g_str_has_prefix(a->device, "/dev/")) {
        control_refuse(call, NR_EINVAL, EINVAL, "the field \"device\" must name the device, such "
                       "as /dev/nbd0");
        return;
    }
    mapping = find_cookie(call, server, a->cookie);
    if (mapping == NULL)
        return;
    if (a->ok)
        postmap_ok(call, server, mapping, a->device);
    else
        postmap_failed(call, server, mapping, a->reason);
}

/* ---- UNMAP ---- */

static struct mapping *find_by_device(struct rpc_call *call, struct server *server,
                                      const nr_unmap_args *args)
{
    g_autofree char *quoted = log_quote(args->device, strlen(args->device));
    unsigned count;
    struct mapping *mapping = mapping_find_device(server->mappings, args->device, args->client,
                                                  &count);

    if (count == 0)
        control_refuse(call, NR_ENOENT, ENOENT, "no export is mapped as %s%s%s", quoted,
                       *args->client != '\0' ? " on host " : "", args->client);
    else if (count > 1)
        control_refuse(call, NR_EBUSY, EBUSY, "%u hosts have an export mapped as %s; name the "
                       "host, or unmap by cookie", count, quoted);
    return mapping;
}

/* "/dev/nbd0 on a, /dev/nbd1 on b": cut at a few hundred bytes by the message's limit. */
static char *mapping_names(const struct export *export)
{
    GString *names = g_string_new(NULL);

    for (guint i = 0; i < export->mappings->len; i++) {
        const struct mapping *mapping = g_ptr_array_index(export->mappings, i);

        g_string_append_printf(names, "%s%s on \"%s\"", i > 0 ? ", " : "",
                               *mapping->device != '\0' ? mapping->device : "a device",
                               mapping->client);
    }
    return g_string_free(names, FALSE);
}

static struct mapping *find_by_export(struct rpc_call *call, struct server *server,
                                      const nr_unmap_args *args)
{
    struct nbd_failure why;
    struct export *export = control_find_export(server, args->name, &args->store, &why);
    g_autofree char *names = NULL;

    if (export == NULL) {
        control_refuse_failure(call, &why);
        return NULL;
    }
    if (export->mappings->len == 1)
        return g_ptr_array_index(export->mappings, 0);
    names = mapping_names(export);
    if (export->mappings->len == 0)
        control_refuse(call, NR_ENOENT, ENOENT, "export \"%s\" is not mapped", export->name);
    else
        control_refuse(call, NR_EBUSY, EBUSY, "export \"%s\" is mapped %u times: %s; name the "
                       "device and its host", export->name, export->mappings->len, names);
    return NULL;
}

/* NULL: the call has been refused. */
static struct mapping *find_to_unmap(struct rpc_call *call, struct server *server,
                                     const nr_unmap_args *args)
{
    if (*args->cookie != '\0')
        return find_cookie(call, server, args->cookie);
    if (*args->device != '\0')
        return find_by_device(call, server, args);
    return find_by_export(call, server, args);
}

static void refuse_leased(struct rpc_call *call, const struct mapping *mapping)
{
    control_refuse(call, NR_EBUSY, EBUSY, "export \"%s\" is just being mapped by host \"%s\"; "
                   "wait for at most %d seconds, or use \"force\"", mapping->export->name,
                   mapping->client, MAPPING_LEASE_S);
}

static void unmap_begin(struct rpc_call *call, struct mapping *mapping, bool force)
{
    if (mapping->phase == MAPPING_LEASED && !force) {
        refuse_leased(call, mapping);
        return;
    }
    if (mapping->phase != MAPPING_LEASED)
        mapping_begin_unmap(mapping);
    reply_mapping(call, mapping);
}

static void kick_mapping(struct server *server, const struct mapping *mapping)
{
    struct connection *conn = connection_next(server->connections, 0);
    struct connection_info info;

    for (; conn != NULL; conn = connection_next(server->connections, info.id)) {
        connection_describe(conn, &info);
        if (g_strcmp0(info.cookie, mapping->cookie) == 0)
            connection_kick(server->connections, info.id, "its device was unmapped by force");
    }
}

static void unmap_done(struct rpc_call *call, struct server *server, struct mapping *mapping,
                       bool force)
{
    struct export *export = mapping->export;
    struct map_change *change;

    if (mapping->phase == MAPPING_LEASED && !force) {
        refuse_leased(call, mapping);
        return;
    }
    if (mapping_state(mapping) == MAPPING_STATE_LIVE && !force) {
        control_refuse(call, NR_EBUSY, EBUSY, "export \"%s\" is in use as %s on host \"%s\"; "
                       "unmap it there, or use \"force\"", export->name, mapping->device,
                       mapping->client);
        return;
    }
    change = map_change_new(server, call, mapping);
    change->removed = true;
    log_info("control client %s: export \"%s\" is no longer mapped as %s on host \"%s\"",
             rpc_call_peer(call), export->name,
             *mapping->device != '\0' ? mapping->device : "a device", mapping->client);
    /* After BEGIN the kernel's disconnect may still be on its way. */
    if (force)
        kick_mapping(server, mapping);
    mapping_remove(mapping);
    store_changed(server->store, export);
    store_save(server->store, on_change_saved, change);
}

static void unmap_abort(struct rpc_call *call, struct mapping *mapping)
{
    if (mapping->phase == MAPPING_UNMAPPING)
        mapping_fall_back(mapping);
    reply_mapping(call, mapping);
}

void control_unmap(struct rpc_call *call, void *args, void *arg)
{
    const nr_unmap_args *a = args;
    struct server *server = arg;
    struct mapping *mapping;

    if (!control_may_change(call, server) || !control_check_text(call, a->client, "client"))
        return;
    if (a->step < NR_U_BEGIN || a->step > NR_U_ABORT) {
        control_refuse(call, NR_EINVAL, EINVAL, "the field \"step\" has the value %d, which this "
                       "version does not know", (int)a->step);
        return;
    }
    mapping = find_to_unmap(call, server, a);
    if (mapping == NULL)
        return;
    if (a->step == NR_U_BEGIN)
        unmap_begin(call, mapping, a->force);
    else if (a->step == NR_U_DONE)
        unmap_done(call, server, mapping, a->force);
    else
        unmap_abort(call, mapping);
}
