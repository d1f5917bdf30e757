/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The control procedures that change a mapping: POSTMAP makes it lasting, UNMAP ends it. Both
 * answer when the state file says so. Loop thread only.
 */
#include "control_private.h"

#include <errno.h>
#include <string.h>

#include "connection.h"
#include "log.h"
#include "registry.h"

struct mapping *control_find_mapping(struct rpc_call *call, struct server *server,
                                     const char *cookie)
{
    struct mapping *mapping = mapping_find(server->mappings, cookie);
    g_autofree char *quoted = log_quote(cookie, strlen(cookie));

    if (mapping == NULL)
        control_refuse(call, NR_ENOENT, ENOENT, "there is no mapping %s: it was unmapped, or "
                       "its lease has ended; map anew", quoted);
    return mapping;
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
static void postmap_failed(struct rpc_call *call, struct server *server,
                           struct mapping *mapping, const char *reason)
{
    struct map_change *change = map_change_new(server, call, mapping);
    g_autofree char *quoted = log_quote(reason, strlen(reason));

    log_event(NBD_LOG_WARNING, mapping->export->name, rpc_call_peer(call),
              "control client %s: host \"%s\" could not map export \"%s\": %s",
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
        control_refuse(call, NR_ESTATE, 0, "the mapping %s of export \"%s\" is %s on %s of "
                       "host \"%s\"; it is not waiting for a device", mapping->cookie,
                       mapping->export->name, mapping_state_name(mapping_state(mapping)),
                       *mapping->device != '\0' ? mapping->device : "a device",
                       mapping->client);
        return;
    }
    change = map_change_new(server, call, mapping);
    if (mapping->connected == 0)
        log_event(NBD_LOG_WARNING, mapping->export->name, rpc_call_peer(call),
                  "export \"%s\" is mapped as %s on host \"%s\", but not connected",
                  mapping->export->name, device, mapping->client);
    mapping_commit(mapping, device);
    log_event(NBD_LOG_INFO, mapping->export->name, rpc_call_peer(call),
              "control client %s: export \"%s\" is mapped as %s on host \"%s\"",
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
        control_refuse(call, NR_EINVAL, EINVAL, "the field \"device\" must name the device, "
                       "such as /dev/nbd0");
        return;
    }
    mapping = control_find_mapping(call, server, a->cookie);
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
        return control_find_mapping(call, server, args->cookie);
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

void control_kick_mapping(struct server *server, const struct mapping *mapping,
                          const char *reason)
{
    struct connection *conn = connection_next(server->connections, 0);
    struct connection_info info;

    for (; conn != NULL; conn = connection_next(server->connections, info.id)) {
        connection_describe(conn, &info);
        if (g_strcmp0(info.cookie, mapping->cookie) == 0)
            connection_kick(server->connections, info.id, reason);
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
    log_event(NBD_LOG_INFO, export->name, rpc_call_peer(call),
              "control client %s: export \"%s\" is no longer mapped as %s on host \"%s\"",
              rpc_call_peer(call), export->name,
              *mapping->device != '\0' ? mapping->device : "a device", mapping->client);
    /* After BEGIN the kernel's disconnect may still be on its way. */
    if (force)
        control_kick_mapping(server, mapping, "its device was unmapped by force");
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
        control_refuse(call, NR_EINVAL, EINVAL, "the field \"step\" has the value %d, which "
                       "this version does not know", (int)a->step);
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
