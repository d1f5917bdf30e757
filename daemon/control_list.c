/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The control procedures that show exports and NBD clients, in pages. Loop thread only.
 */
#include "control_private.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "connection.h"
#include "log.h"
#include "registry.h"

#define LAST_ID "~" /* behind every UUID */
#define PAGE_BYTES (768u << 10)

/* ---- Rows ---- */

void control_describe_mapping(const struct mapping *mapping, GStringChunk *texts,
                              nr_mapping *ret_row)
{
    *ret_row = (nr_mapping){
        .cookie = (char *)mapping->cookie,
        .state = (nr_map_state)mapping_state(mapping),
        .client = control_text(texts, mapping->client, NR_HOST_MAX),
        .device = control_text(texts, mapping->device, NR_DEV_MAX),
        .since = mapping->since_us,
        .timeout_s = mapping->timeout_s,
        .dead_timeout_s = mapping->dead_timeout_s,
        .connections = mapping->connections,
        .connected = mapping->connected,
        .readonly = mapping->readonly,
    };
}

static void describe_opts(const struct export *export, GStringChunk *texts,
                          nr_backstore *store)
{
    GList *keys = g_list_sort(g_hash_table_get_keys(export->opts), (GCompareFunc)strcmp);
    u_int n = 0;

    store->opts.opts_val = g_new0(nr_opt, NR_OPTS_MAX);
    for (GList *key = keys; key != NULL && n < NR_OPTS_MAX; key = key->next, n++) {
        store->opts.opts_val[n].key = control_text(texts, key->data, NR_TEXT_MAX);
        store->opts.opts_val[n].value =
            control_text(texts, g_hash_table_lookup(export->opts, key->data), NR_OPTVAL_MAX);
    }
    store->opts.opts_len = n;
    g_list_free(keys);
}

nr_export_state control_shown_state(enum export_state state)
{
    static const nr_export_state states[] = {
        [EXPORT_CREATING] = NR_X_CREATING,
        [EXPORT_READY] = NR_X_READY,
        [EXPORT_DRAINING] = NR_X_DRAINING,
        [EXPORT_FAULTED] = NR_X_FAULTED,
    };

    return states[state];
}

void control_describe_export(const struct export *export, GStringChunk *texts,
                             nr_export *ret_row)
{
    u_int n_mappings = MIN(export->mappings->len, (u_int)NR_MAPS_MAX);

    *ret_row = (nr_export){
        .id = (char *)export->id,
        .name = control_text(texts, export->name, NR_NAME_MAX),
        .description = control_text(texts, export->description, NR_TEXT_MAX),
        .store.handler = control_text(texts, export->handler_name, NR_TEXT_MAX),
        .store.target = control_text(texts, export->target, NR_TARGET_MAX),
        .origin = (nr_origin)export->origin,
        .origin_file = control_text(texts, export->origin_file, NR_TEXT_MAX),
        .state = control_shown_state(export->state),
        .created = export->created_us,
        .size = export->size,
        .blk_min = export->min_block,
        .blk_pref = export->pref_block,
        .blk_max = EXPORT_MAX_BLOCK,
        .flags = export->flags,
        .readonly = export->readonly,
        .prealloc = export->prealloc,
        .max_connections = export_connection_limit(export),
        .connections = export->connections,
        .job = export->job != NULL ? export->job->id : (char *)"",
        .fault.message = (char *)"",
    };
    describe_opts(export, texts, &ret_row->store);
    ret_row->mappings.mappings_val = g_new0(nr_mapping, n_mappings + 1);
    ret_row->mappings.mappings_len = n_mappings;
    for (u_int i = 0; i < n_mappings; i++)
        control_describe_mapping(g_ptr_array_index(export->mappings, i), texts,
                                 &ret_row->mappings.mappings_val[i]);
    if (export->state == EXPORT_FAULTED) {
        ret_row->fault.sys_errno = export->fault.code;
        ret_row->fault.message = control_text(texts, export->fault.message, NR_MSG_MAX);
    }
}

void control_clear_export(nr_export *row)
{
    g_free(row->store.opts.opts_val);
    g_free(row->mappings.mappings_val);
}

/* ---- Exports ---- */

static bool has_mapping_in(const struct export *export, enum mapping_state state)
{
    for (guint i = 0; i < export->mappings->len; i++)
        if (mapping_state(g_ptr_array_index(export->mappings, i)) == state)
            return true;
    return false;
}

static bool is_wanted(const struct export *export, const nr_list_args *args)
{
    if (*args->handler != '\0' && strcmp(export->handler_name, args->handler) != 0)
        return false;
    switch (args->what) {
    case NR_L_CREATE: return export->mappings->len == 0;
    case NR_L_DEAD: return has_mapping_in(export, MAPPING_STATE_DEAD);
    case NR_L_LIVE: return has_mapping_in(export, MAPPING_STATE_LIVE);
    case NR_L_MAPPED: return export->mappings->len > 0;
    default: return true;
    }
}

/* The first export behind this name (NULL: of all). */
static const struct export *first_behind(const struct server *server, const char *name)
{
    const struct export *export = registry_next(server->registry, name);
    const struct export *leaving = registry_next_leaving(server->registry, name, LAST_ID);

    if (export == NULL || (leaving != NULL && strcmp(leaving->name, export->name) < 0))
        return leaving;
    return export;
}

/* In order of names; behind the one that has a name those that had it and are draining. */
static const struct export *next_export(const struct server *server,
                                        const struct export *export)
{
    const char *id = export->state == EXPORT_DRAINING ? export->id : "";
    const struct export *leaving = registry_next_leaving(server->registry, export->name, id);

    if (leaving != NULL && strcmp(leaving->name, export->name) == 0)
        return leaving;
    return first_behind(server, export->name);
}

static const struct export *skip_unwanted(const struct server *server,
                                          const struct export *export,
                                          const nr_list_args *args)
{
    while (export != NULL && !is_wanted(export, args))
        export = next_export(server, export);
    return export;
}

/* The next page begins behind the name of the last row: all rows of a name are in one page. */
static void end_page_at_name(nr_list_ok *ok, const struct export *next)
{
    while (next != NULL && ok->rows.rows_len > 1 &&
           strcmp(ok->rows.rows_val[ok->rows.rows_len - 1].name, next->name) == 0)
        control_clear_export(&ok->rows.rows_val[--ok->rows.rows_len]);
}

void control_list(struct rpc_call *call, void *args, void *arg)
{
    const nr_list_args *a = args;
    const struct server *server = arg;
    GStringChunk *texts;
    nr_list_res result = { .code = NR_OK };
    nr_list_ok *ok = &result.nr_list_res_u.list;
    u_int limit = control_page_limit(a->limit);
    const struct export *export;
    size_t bytes = 0;

    if (a->what < NR_L_ALL || a->what > NR_L_MAPPED) {
        control_refuse(call, NR_EINVAL, EINVAL, "the field \"what\" has the value %d, which "
                       "this version does not know", (int)a->what);
        return;
    }
    texts = g_string_chunk_new(4096);
    ok->rows.rows_val = g_new0(nr_export, limit);
    export = skip_unwanted(server, first_behind(server, *a->after != '\0' ? a->after : NULL), a);
    for (; export != NULL && ok->rows.rows_len < limit;
         export = skip_unwanted(server, next_export(server, export), a)) {
        nr_export *row = &ok->rows.rows_val[ok->rows.rows_len];

        control_describe_export(export, texts, row);
        export_look_at_size(export); /* for the next time: this answer does not wait */
        bytes += xdr_sizeof((xdrproc_t)xdr_nr_export, row);
        if (bytes > PAGE_BYTES && ok->rows.rows_len > 0) {
            control_clear_export(row);
            break;
        }
        ok->rows.rows_len++;
    }
    end_page_at_name(ok, export);
    ok->more = export != NULL;
    rpc_reply(call, &result);
    for (u_int i = 0; i < ok->rows.rows_len; i++)
        control_clear_export(&ok->rows.rows_val[i]);
    g_free(ok->rows.rows_val);
    g_string_chunk_free(texts);
}

/* One that had this name and still has clients. */
static struct export *find_draining(const struct server *server, const char *name)
{
    struct export *export = registry_next_leaving(server->registry, name, "");

    return export != NULL && strcmp(export->name, name) == 0 ? export : NULL;
}

void control_export_get(struct rpc_call *call, void *args, void *arg)
{
    static const nr_backstore no_store = { .handler = (char *)"", .target = (char *)"" };
    const nr_name_args *a = args;
    const struct server *server = arg;
    nr_export_res result = { .code = NR_OK };
    struct nbd_failure why;
    struct export *export = control_find_export(server, a->name, &no_store, &why);
    GStringChunk *texts;

    if (export == NULL)
        export = find_draining(server, a->name);
    if (export == NULL) {
        control_refuse_failure(call, &why);
        return;
    }
    texts = g_string_chunk_new(1024);
    control_describe_export(export, texts, &result.nr_export_res_u.x);
    if (export->state != EXPORT_DRAINING)
        export_look_at_size(export);
    rpc_reply(call, &result);
    control_clear_export(&result.nr_export_res_u.x);
    g_string_chunk_free(texts);
}

/* ---- NBD clients ---- */

static void describe_client(const struct connection_info *info, GStringChunk *texts,
                            nr_client *ret_row)
{
    *ret_row = (nr_client){
        .id = info->id,
        .export_name = control_text(texts, info->export_name != NULL ? info->export_name : "",
                                    NR_NAME_MAX),
        .addr = control_text(texts, info->peer, NR_HOST_MAX),
        .phase = (char *)info->phase,
        .since = info->since_us,
        .last_activity = info->last_activity_us,
        .requests = info->requests,
        .read_bytes = info->read_bytes,
        .write_bytes = info->write_bytes,
        .in_flight = info->in_flight,
        .structured = info->structured,
        .cookie = (char *)(info->cookie != NULL ? info->cookie : ""),
    };
}

void control_clients(struct rpc_call *call, void *args, void *arg)
{
    const nr_page_args *a = args;
    struct server *server = arg;
    GStringChunk *texts = g_string_chunk_new(1024);
    nr_clients_res result = { .code = NR_OK };
    nr_clients_ok *ok = &result.nr_clients_res_u.clients;
    u_int limit = control_page_limit(a->limit);
    struct connection *conn = connection_next(server->connections, a->after);
    struct connection_info info = { 0 };

    ok->rows.rows_val = g_new0(nr_client, limit);
    for (; conn != NULL; conn = connection_next(server->connections, info.id)) {
        connection_describe(conn, &info);
        if (*a->name != '\0' && g_strcmp0(info.export_name, a->name) != 0)
            continue;
        if (ok->rows.rows_len == limit)
            break;
        describe_client(&info, texts, &ok->rows.rows_val[ok->rows.rows_len++]);
    }
    ok->more = conn != NULL;
    rpc_reply(call, &result);
    g_free(ok->rows.rows_val);
    g_string_chunk_free(texts);
}

void control_client_kick(struct rpc_call *call, void *args, void *arg)
{
    const nr_kick_args *a = args;
    struct server *server = arg;
    nr_void_res result = { .code = NR_OK };

    if (!control_check_text(call, a->reason, "reason"))
        return;
    if (!connection_kick(server->connections, a->id,
                         *a->reason != '\0' ? a->reason : "ended by an operator")) {
        control_refuse(call, NR_ENOENT, ENOENT, "there is no NBD client %" PRIu64 "; it may "
                       "have left", (uint64_t)a->id);
        return;
    }
    log_info("control client %s: ended NBD client %" PRIu64 ": %s", rpc_call_peer(call),
             (uint64_t)a->id, a->reason);
    rpc_reply(call, &result);
}
