/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Exports that a reload has removed or replaced and that still have users: these go on until
 * they leave, or until drain_timeout is over. Loop thread.
 */
#include "reload_private.h"

#include <string.h>

#include "connection.h"
#include "export_config.h"
#include "log.h"
#include "mapping.h"
#include "registry.h"
#include "server.h"
#include "store.h"

/* An export that has been removed and still has users. */
struct drain {
    struct reload *reload;
    struct export *export;
    struct export_def *def;
    struct event *timer; /* NULL: they may take as long as they like */
    bool had_clients;
};

static void drain_free(struct drain *drain)
{
    g_hash_table_remove(drain->reload->drains, drain->export);
    if (drain->timer != NULL)
        event_free(drain->timer);
    export_def_unref(drain->def);
    g_free(drain);
}

static void on_drained(void *arg)
{
    struct drain *drain = arg;

    if (drain->had_clients)
        log_event(NBD_LOG_INFO, drain->def->name, NULL,
                  "export \"%s\" (%s) is closed: its last client has left", drain->def->name,
                  drain->def->target);
    drain_free(drain);
}

static void on_drain_timeout(evutil_socket_t fd, short what, void *arg)
{
    struct drain *drain = arg;

    (void)fd;
    (void)what;
    connection_kick_export(drain->reload->server->connections, drain->export,
                           "the export was removed, and its drain_timeout is over");
}

/* Mappings whose clients are away are forgotten, with those that attached ones have when they
 * leave; none is kept in the state file. */
static void forget_mappings(struct export *export)
{
    for (guint i = export->mappings->len; i > 0; i--) {
        struct mapping *mapping = export->mappings->pdata[i - 1];

        if (mapping->connected > 0)
            continue;
        log_event(NBD_LOG_WARNING, export->name, NULL,
                  "export \"%s\" is removed: the mapping to %s on host \"%s\" is forgotten",
                  export->name, mapping->device, mapping->client);
        mapping_remove(mapping);
    }
}

void reload_start_drain(struct reload *reload, struct export *export, struct export_def *def)
{
    struct drain *drain = g_new0(struct drain, 1);

    drain->reload = reload;
    drain->export = export;
    drain->def = export_def_ref(def);
    drain->had_clients = export->connections > 0;
    if (drain->had_clients)
        log_event(NBD_LOG_INFO, export->name, NULL,
                  "export \"%s\": %u client(s) go on until they leave", export->name,
                  export->connections);
    if (def->drain_timeout_s > 0) {
        drain->timer = evtimer_new(loop_base(reload->server->loop), on_drain_timeout, drain);
        evtimer_add(drain->timer, &(struct timeval){ .tv_sec = def->drain_timeout_s });
    }
    g_hash_table_insert(reload->drains, export, drain);
    forget_mappings(export);
    store_removed_config(reload->server->store, export->name);
    registry_remove(export, on_drained, drain);
}

/* One that drains, and is what is wanted again. */
static struct drain *find_drain(const struct reload *reload, const struct export_def *def)
{
    struct export *export = registry_next_leaving(reload->server->registry, def->name, "");

    while (export != NULL && strcmp(export->name, def->name) == 0) {
        struct drain *drain = g_hash_table_lookup(reload->drains, export);

        if (drain != NULL && export_def_same_backing(drain->def, def))
            return drain;
        export = registry_next_leaving(reload->server->registry, export->name, export->id);
    }
    return NULL;
}

struct export *reload_revive_drained(struct reload *reload, const struct export_def *def)
{
    struct drain *drain = find_drain(reload, def);
    struct export *export;

    if (drain == NULL)
        return NULL;
    export = drain->export;
    registry_revive(export);
    drain_free(drain);
    return export;
}

void reload_free_drains(struct reload *reload)
{
    GHashTableIter iter;
    void *drain;

    g_hash_table_iter_init(&iter, reload->drains);
    while (g_hash_table_iter_next(&iter, NULL, &drain)) {
        g_hash_table_iter_steal(&iter);
        drain_free(drain);
    }
    g_hash_table_unref(reload->drains);
}
