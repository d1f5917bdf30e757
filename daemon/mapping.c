/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Mappings: their table, leases and states. Saves nothing: who changes a mapping tells the
 * store. Loop thread only.
 */
#include "mapping.h"

#include <assert.h>
#include <glib.h>
#include <json-c/json.h>
#include <string.h>

#include "log.h"
#include "server.h"

struct mapping_table {
    struct server *server;
    GHashTable *by_cookie; /* cookie -> struct mapping *; owns them */
    unsigned lease_ms;
};

static void mapping_free(struct mapping *mapping)
{
    if (mapping->lease != NULL)
        event_free(mapping->lease);
    if (mapping->unknown_json != NULL)
        json_object_put(mapping->unknown_json);
    g_free(mapping->client);
    g_free(mapping->client_boot);
    g_free(mapping->device);
    g_free(mapping);
}

/* ---- The table ---- */

struct mapping_table *mapping_table_new(struct server *server)
{
    struct mapping_table *table = g_new0(struct mapping_table, 1);

    table->server = server;
    table->by_cookie = g_hash_table_new(g_str_hash, g_str_equal);
    table->lease_ms = MAPPING_LEASE_S * 1000;
    return table;
}

void mapping_table_free(struct mapping_table *table)
{
    GHashTableIter iter;
    gpointer value;

    if (table == NULL)
        return;
    g_hash_table_iter_init(&iter, table->by_cookie);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        g_hash_table_iter_remove(&iter);
        mapping_remove(value);
    }
    g_hash_table_unref(table->by_cookie);
    g_free(table);
}

void mapping_table_set_lease_ms(struct mapping_table *table, unsigned lease_ms)
{
    table->lease_ms = lease_ms;
}

struct mapping *mapping_find(struct mapping_table *table, const char *cookie)
{
    return g_hash_table_lookup(table->by_cookie, cookie);
}

unsigned mapping_count(const struct mapping_table *table)
{
    return g_hash_table_size(table->by_cookie);
}

struct mapping *mapping_find_device(struct mapping_table *table, const char *device,
                                    const char *client, unsigned *ret_count)
{
    struct mapping *found = NULL;
    GHashTableIter iter;
    gpointer value;

    *ret_count = 0;
    g_hash_table_iter_init(&iter, table->by_cookie);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        struct mapping *mapping = value;

        if (strcmp(mapping->device, device) != 0)
            continue;
        if (client != NULL && *client != '\0' && strcmp(mapping->client, client) != 0)
            continue;
        found = mapping;
        (*ret_count)++;
    }
    return *ret_count == 1 ? found : NULL;
}

/* ---- States ---- */

enum mapping_state mapping_state(const struct mapping *mapping)
{
    switch (mapping->phase) {
    case MAPPING_LEASED:
        return MAPPING_STATE_MAPPING;
    case MAPPING_LASTING:
        return mapping->connected > 0 ? MAPPING_STATE_LIVE : MAPPING_STATE_DEAD;
    case MAPPING_UNMAPPING:
        return MAPPING_STATE_UNMAPPING;
    }
    return MAPPING_STATE_NONE;
}

const char *mapping_state_name(enum mapping_state state)
{
    static const char *const names[] = {
        [MAPPING_STATE_NONE] = "not mapped",
        [MAPPING_STATE_MAPPING] = "being mapped",
        [MAPPING_STATE_LIVE] = "live",
        [MAPPING_STATE_DEAD] = "dead",
        [MAPPING_STATE_UNMAPPING] = "being unmapped",
    };

    return names[state];
}

static const char *client_of(const struct mapping *mapping)
{
    return *mapping->client != '\0' ? mapping->client : "an unnamed host";
}

static void set_phase(struct mapping *mapping, enum mapping_phase phase, bool resuming)
{
    mapping->phase = phase;
    mapping->resuming = resuming;
    log_debug("mapping %s of export %s: %s%s", mapping->cookie, mapping->export->name,
              mapping_state_name(mapping_state(mapping)), resuming ? ", resuming" : "");
}

/* ---- Leases ---- */

static void start_lease(struct mapping *mapping)
{
    unsigned ms = mapping->table->lease_ms;
    struct timeval limit = { .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 };

    event_add(mapping->lease, &limit);
}

static bool lease_runs(const struct mapping *mapping)
{
    return event_pending(mapping->lease, EV_TIMEOUT, NULL) != 0;
}

static void on_lease_end(evutil_socket_t fd, short what, void *arg)
{
    struct mapping *mapping = arg;
    const char *name = mapping->export->name;

    (void)fd;
    (void)what;
    if (mapping->phase != MAPPING_LEASED) {
        log_event(NBD_LOG_WARNING, name, NULL,
                  "mapping %s of export %s: %s did not finish in time; it is mapped as "
                  "before", mapping->cookie, name, client_of(mapping));
        mapping_fall_back(mapping);
    } else if (mapping->connected > 0) {
        /* Perhaps its kernel has the device already: cutting it off would help nobody. */
        log_event(NBD_LOG_WARNING, name, NULL,
                  "mapping %s of export %s: %s is connected but has not confirmed; it is "
                  "forgotten when it leaves", mapping->cookie, name, client_of(mapping));
    } else {
        log_event(NBD_LOG_WARNING, name, NULL,
                  "mapping %s of export %s: %s has not confirmed it in time; it is undone",
                  mapping->cookie, name, client_of(mapping));
        mapping_remove(mapping);
    }
}

void mapping_lease(struct mapping *mapping)
{
    assert(mapping->phase != MAPPING_UNMAPPING);
    set_phase(mapping, mapping->phase, mapping->phase == MAPPING_LASTING);
    start_lease(mapping);
}

/* ---- Their life ---- */

static struct mapping *mapping_add(struct mapping_table *table, struct export *export,
                                   const struct mapping_spec *spec, enum mapping_phase phase)
{
    struct mapping *mapping = g_new0(struct mapping, 1);

    if (spec->cookie != NULL) {
        g_strlcpy(mapping->cookie, spec->cookie, sizeof(mapping->cookie));
    } else {
        char *cookie = g_uuid_string_random();

        g_strlcpy(mapping->cookie, cookie, sizeof(mapping->cookie));
        g_free(cookie);
    }
    mapping->table = table;
    mapping->export = export;
    mapping->client = g_strdup(spec->client != NULL ? spec->client : "");
    mapping->client_boot = g_strdup(spec->client_boot != NULL ? spec->client_boot : "");
    mapping->device = g_strdup(spec->device != NULL ? spec->device : "");
    mapping->since_us = spec->since_us != 0 ? spec->since_us : g_get_real_time();
    mapping->timeout_s = spec->timeout_s;
    mapping->dead_timeout_s = spec->dead_timeout_s;
    mapping->connections = spec->connections;
    mapping->readonly = spec->readonly;
    mapping->lease = evtimer_new(loop_base(table->server->loop), on_lease_end, mapping);
    g_assert(mapping->lease != NULL);
    g_hash_table_insert(table->by_cookie, mapping->cookie, mapping);
    g_ptr_array_add(export->mappings, mapping);
    set_phase(mapping, phase, false);
    return mapping;
}

struct mapping *mapping_new(struct mapping_table *table, struct export *export,
                            const struct mapping_spec *spec)
{
    struct mapping *mapping = mapping_add(table, export, spec, MAPPING_LEASED);

    start_lease(mapping);
    return mapping;
}

struct mapping *mapping_restore(struct mapping_table *table, struct export *export,
                                const struct mapping_spec *spec, struct nbd_failure *why)
{
    if (spec->cookie != NULL && !g_uuid_string_is_valid(spec->cookie)) {
        nbd_fail(why, EINVAL, "the cookie of a mapping of export %s is no UUID", export->name);
        return NULL;
    }
    if (spec->cookie != NULL && mapping_find(table, spec->cookie) != NULL) {
        nbd_fail(why, EEXIST, "the mapping %s of export %s is there twice", spec->cookie,
                 export->name);
        return NULL;
    }
    return mapping_add(table, export, spec, MAPPING_LASTING);
}

void mapping_commit(struct mapping *mapping, const char *device)
{
    char *copy = g_strdup(device); /* device may be mapping->device */

    g_free(mapping->device);
    mapping->device = copy;
    event_del(mapping->lease);
    set_phase(mapping, MAPPING_LASTING, false);
}

void mapping_uncommit(struct mapping *mapping)
{
    set_phase(mapping, MAPPING_LEASED, false);
    start_lease(mapping);
}

void mapping_begin_unmap(struct mapping *mapping)
{
    assert(mapping->phase != MAPPING_LEASED);
    set_phase(mapping, MAPPING_UNMAPPING, false);
    start_lease(mapping);
}

void mapping_fall_back(struct mapping *mapping)
{
    assert(mapping->phase != MAPPING_LEASED);
    event_del(mapping->lease);
    set_phase(mapping, MAPPING_LASTING, false);
}

void mapping_remove(struct mapping *mapping)
{
    event_del(mapping->lease);
    g_hash_table_remove(mapping->table->by_cookie, mapping->cookie);
    g_ptr_array_remove(mapping->export->mappings, mapping);
    mapping->table = NULL;
    if (mapping->connected == 0)
        mapping_free(mapping);
}

/* ---- The data path ---- */

struct mapping *mapping_for_io_name(struct mapping_table *table, const char *name)
{
    struct mapping *mapping;

    if (!g_str_has_prefix(name, MAPPING_IO_PREFIX))
        return NULL;
    mapping = mapping_find(table, name + strlen(MAPPING_IO_PREFIX));
    if (mapping == NULL || mapping->phase == MAPPING_UNMAPPING || !lease_runs(mapping))
        return NULL;
    return mapping;
}

void mapping_connected(struct mapping *mapping)
{
    mapping->connected++;
}

void mapping_disconnected(struct mapping *mapping)
{
    assert(mapping->connected > 0);
    if (--mapping->connected > 0)
        return;
    if (mapping->table == NULL) {
        mapping_free(mapping);
        return;
    }
    if (mapping->phase == MAPPING_LEASED && !lease_runs(mapping)) {
        log_event(NBD_LOG_INFO, mapping->export->name, NULL,
                  "mapping %s of export %s: %s has gone without confirming it; it is undone",
                  mapping->cookie, mapping->export->name, client_of(mapping));
        mapping_remove(mapping);
        return;
    }
    if (mapping->phase == MAPPING_LASTING)
        log_event(NBD_LOG_INFO, mapping->export->name, NULL,
                  "mapping %s of export %s: the last connection from %s (%s) has gone; it is "
                  "dead", mapping->cookie, mapping->export->name, client_of(mapping),
                  mapping->device);
}
