/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * rpc_nbd.x's structures as JSON.
 */
#include "answer.h"
#include "client.h"
#include "output.h"

#include <glib.h>
#include <string.h>

#define WORD(table, value)                                                                    \
    ((unsigned)(value) < G_N_ELEMENTS(table) && table[value] != NULL ? table[value]           \
                                                                     : "unknown")

const char *export_state_word(nr_export_state state)
{
    static const char *const words[] = {
        [NR_X_CREATING] = "creating",       [NR_X_READY] = "ready",
        [NR_X_LISTENING] = "listening",     [NR_X_FINALISING] = "finalising",
        [NR_X_HANDED_OVER] = "handed-over", [NR_X_DRAINING] = "draining",
        [NR_X_FAULTED] = "faulted",
    };

    return WORD(words, state);
}

const char *map_state_word(nr_map_state state)
{
    static const char *const words[] = {
        [NR_M_NONE] = "none", [NR_M_MAPPING] = "mapping",     [NR_M_LIVE] = "live",
        [NR_M_DEAD] = "dead", [NR_M_UNMAPPING] = "unmapping",
    };

    return WORD(words, state);
}

const char *job_kind_word(nr_job_kind kind)
{
    static const char *const words[] = {
        [NR_J_CREATE] = "create", [NR_J_MIRROR] = "mirror", [NR_J_DELETE] = "delete",
        [NR_J_RESIZE] = "resize", [NR_J_SYNC] = "sync",
    };

    return WORD(words, kind);
}

const char *job_state_word(nr_job_state state)
{
    static const char *const words[] = {
        [NR_J_QUEUED] = "queued",
        [NR_J_RUNNING] = "running",
        [NR_J_CONVERGING] = "converging",
        [NR_J_RETRYING] = "retrying",
        [NR_J_DONE] = "done",
        [NR_J_FAILED] = "failed",
        [NR_J_CANCELED] = "canceled",
    };

    return WORD(words, state);
}

const char *origin_word(nr_origin origin)
{
    static const char *const words[] = {
        [NR_BY_RPC] = "rpc",
        [NR_BY_CONFIG] = "config",
        [NR_BY_COMMAND_LINE] = "command-line",
    };

    return WORD(words, origin);
}

char *endpoint_text(const nr_endpoint *endpoint)
{
    if (g_str_has_prefix(endpoint->addr, "unix:"))
        return g_strdup(endpoint->addr);
    if (strchr(endpoint->addr, ':') != NULL && endpoint->addr[0] != '[')
        return g_strdup_printf("[%s]:%u", endpoint->addr, endpoint->port);
    return g_strdup_printf("%s:%u", endpoint->addr, endpoint->port);
}

static json_object *error_json(nr_code code, const nr_error *error)
{
    json_object *object;

    if (error->message == NULL || *error->message == '\0')
        return NULL;
    object = json_object_new_object();
    if (code != NR_OK)
        json_put_text(object, "code", code_name(code));
    json_put_number(object, "errno", (uint64_t)MAX(error->sys_errno, 0));
    json_put_text(object, "message", error->message);
    return object;
}

json_object *mapping_json(const nr_mapping *mapping)
{
    json_object *object = json_object_new_object();

    json_put_text(object, "cookie", mapping->cookie);
    json_put_text(object, "state", map_state_word(mapping->state));
    json_put_text(object, "client", mapping->client);
    json_put_optional(object, "device", mapping->device);
    json_put_time(object, "since", mapping->since);
    json_put_number(object, "timeout_s", mapping->timeout_s);
    json_put_number(object, "dead_timeout_s", mapping->dead_timeout_s);
    json_put_number(object, "connections", mapping->connections);
    json_put_number(object, "connected", mapping->connected);
    json_put_bool(object, "readonly", mapping->readonly);
    return object;
}

static void put_store(json_object *object, const nr_backstore *store)
{
    json_object *opts = json_object_new_object();

    json_put_text(object, "backstore", store->handler);
    json_put_text(object, "target", store->target);
    for (u_int i = 0; i < store->opts.opts_len; i++)
        json_put_text(opts, store->opts.opts_val[i].key, store->opts.opts_val[i].value);
    json_object_object_add(object, "opts", opts);
}

json_object *export_json(const nr_export *x)
{
    json_object *object = json_object_new_object(), *mappings = json_object_new_array();

    json_put_text(object, "id", x->id);
    json_put_text(object, "name", x->name);
    json_put_optional(object, "description", x->description);
    put_store(object, &x->store);
    json_put_text(object, "origin", origin_word(x->origin));
    json_put_optional(object, "origin_file", x->origin_file);
    json_put_text(object, "state", export_state_word(x->state));
    json_put_time(object, "created", x->created);
    json_put_number(object, "size_bytes", x->size);
    json_put_number(object, "block_min", x->blk_min);
    json_put_number(object, "block_preferred", x->blk_pref);
    json_put_number(object, "block_max", x->blk_max);
    json_put_number(object, "flags", x->flags);
    json_object_object_add(object, "flag_names", flags_json(x->flags));
    json_put_bool(object, "readonly", x->readonly);
    json_put_bool(object, "prealloc", x->prealloc);
    json_put_number(object, "max_connections", x->max_connections);
    json_put_number(object, "connections", x->connections);
    for (u_int i = 0; i < x->mappings.mappings_len; i++)
        json_object_array_add(mappings, mapping_json(&x->mappings.mappings_val[i]));
    json_object_object_add(object, "mappings", mappings);
    json_put_optional(object, "job", x->job);
    json_object_object_add(object, "fault", error_json(NR_OK, &x->fault));
    return object;
}

static json_object *progress_json(const nr_progress *progress)
{
    json_object *object = json_object_new_object();

    json_put_number(object, "done_bytes", progress->done_bytes);
    json_put_number(object, "total_bytes", progress->total_bytes);
    json_put_number(object, "rate_bps", progress->rate_bps);
    json_put_number(object, "limit_bps", progress->limit_bps);
    if (progress->eta_s == UINT64_MAX)
        json_object_object_add(object, "eta_s", NULL);
    else
        json_put_number(object, "eta_s", progress->eta_s);
    return object;
}

json_object *job_json(const nr_job *job)
{
    json_object *object = json_object_new_object();

    json_put_text(object, "id", job->id);
    json_put_text(object, "kind", job_kind_word(job->kind));
    json_put_text(object, "state", job_state_word(job->state));
    json_put_optional(object, "export", job->export_name);
    json_put_time(object, "started", job->started);
    json_put_time(object, "ended", job->ended);
    json_put_number(object, "attempts", job->attempts);
    json_object_object_add(object, "progress", progress_json(&job->progress));
    json_object_object_add(object, "error", error_json(job->code, &job->last_error));
    return object;
}

json_object *client_json(const nr_client *client)
{
    json_object *object = json_object_new_object();

    json_put_number(object, "id", client->id);
    json_put_optional(object, "export", client->export_name);
    json_put_text(object, "address", client->addr);
    json_put_text(object, "phase", client->phase);
    json_put_time(object, "since", client->since);
    json_put_time(object, "last_activity", client->last_activity);
    json_put_number(object, "requests", client->requests);
    json_put_number(object, "read_bytes", client->read_bytes);
    json_put_number(object, "write_bytes", client->write_bytes);
    json_put_number(object, "in_flight", client->in_flight);
    json_put_bool(object, "structured", client->structured);
    json_put_optional(object, "cookie", client->cookie);
    return object;
}

json_object *endpoints_json(const nr_endpoint *endpoints, u_int count)
{
    json_object *array = json_object_new_array();

    for (u_int i = 0; i < count; i++) {
        g_autofree char *text = endpoint_text(&endpoints[i]);

        json_object_array_add(array, json_object_new_string(text));
    }
    return array;
}

json_object *status_json(const nr_status *status)
{
    json_object *object = json_object_new_object(), *handlers = json_object_new_array();

    json_put_text(object, "version", status->server_version);
    json_put_number(object, "pid", status->pid);
    json_put_text(object, "boot_id", status->boot_id);
    json_put_time(object, "started", status->started);
    json_object_object_add(object, "rpc_endpoints",
                           endpoints_json(status->rpc_endpoints.rpc_endpoints_val,
                                          status->rpc_endpoints.rpc_endpoints_len));
    json_object_object_add(object, "nbd_endpoints",
                           endpoints_json(status->nbd_endpoints.nbd_endpoints_val,
                                          status->nbd_endpoints.nbd_endpoints_len));
    for (u_int i = 0; i < status->handlers.handlers_len; i++)
        json_object_array_add(handlers,
                              json_object_new_string(status->handlers.handlers_val[i]));
    json_object_object_add(object, "handlers", handlers);
    json_put_number(object, "exports", status->exports);
    json_put_number(object, "faulted", status->faulted);
    json_put_number(object, "mappings", status->mappings);
    json_put_number(object, "clients", status->clients);
    json_put_number(object, "jobs", status->jobs);
    json_put_number(object, "log_level", status->log_level);
    json_put_number(object, "requests", status->requests);
    json_put_number(object, "read_bytes", status->read_bytes);
    json_put_number(object, "write_bytes", status->write_bytes);
    json_put_number(object, "payload_bytes", status->payload_bytes);
    json_put_text(object, "state", status->state);
    json_put_optional(object, "state_file", status->state_file);
    json_put_optional(object, "state_error", status->state_error);
    json_put_number(object, "generation", status->generation);
    return object;
}
