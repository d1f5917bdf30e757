/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Exports, mappings and jobs as JSON objects, and back; saveconfig.json(5) describes them.
 * Members that this version does not know are carried along. Loop thread.
 */
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <time.h>

#include "acl.h"
#include "log.h"
#include "registry.h"
#include "nbd-runner/handler.h"
#include "store_json.h"

static const char *const export_members[] = {
    "name", "description", "handler", "target", "opts", "size", "blksize", "prealloc",
    "readonly", "created_at", "state", "acl", "hidden", "max_connections", "request_timeout",
    "drain_timeout", "mappings", NULL
};
static const char *const mapping_members[] = {
    "cookie", "client", "client_boot", "nbd", "maptime", "timeout", "dead_timeout", "readonly",
    "connections", NULL
};
static const char *const job_kinds[] = { "create", "mirror", "delete", "resize", "sync" };
static const struct { enum job_state state; const char *name; } job_ends[] = {
    { JOB_DONE, "done" }, { JOB_FAILED, "failed" }, { JOB_CANCELED, "canceled" },
};

/* ---- Writing ---- */

static void add_string(struct json_object *object, const char *key, const char *value)
{
    json_object_object_add(object, key, json_object_new_string(value != NULL ? value : ""));
}

static void add_number(struct json_object *object, const char *key, int64_t value)
{
    json_object_object_add(object, key, json_object_new_int64(value));
}

static void add_bool(struct json_object *object, const char *key, bool value)
{
    json_object_object_add(object, key, json_object_new_boolean(value));
}

static void add_unknown(struct json_object *object, struct json_object *unknown)
{
    if (unknown == NULL)
        return;
    json_object_object_foreach(unknown, key, value) {
        if (!json_object_object_get_ex(object, key, NULL))
            json_object_object_add(object, key, json_object_get(value));
    }
}

/* RFC 3339, UTC, with microseconds. */
struct json_object *store_json_from_time(int64_t us)
{
    time_t seconds = (time_t)(us / G_USEC_PER_SEC);
    struct tm tm;
    char date[32], text[48];

    if (us < 0 || gmtime_r(&seconds, &tm) == NULL)
        return json_object_new_string("1970-01-01T00:00:00.000000Z");
    strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text, sizeof(text), "%s.%06dZ", date, (int)(us % G_USEC_PER_SEC));
    return json_object_new_string(text);
}

static struct json_object *from_opts(GHashTable *opts)
{
    struct json_object *object = json_object_new_object();
    GList *keys;

    if (opts == NULL)
        return object;
    keys = g_list_sort(g_hash_table_get_keys(opts), (GCompareFunc)strcmp);
    for (GList *key = keys; key != NULL; key = key->next)
        add_string(object, key->data, g_hash_table_lookup(opts, key->data));
    g_list_free(keys);
    return object;
}

static struct json_object *from_mapping(const struct mapping *mapping)
{
    struct json_object *object = json_object_new_object();

    add_string(object, "cookie", mapping->cookie);
    add_string(object, "client", mapping->client);
    add_string(object, "client_boot", mapping->client_boot);
    add_string(object, "nbd", mapping->device);
    json_object_object_add(object, "maptime", store_json_from_time(mapping->since_us));
    add_number(object, "timeout", mapping->timeout_s);
    add_number(object, "dead_timeout", mapping->dead_timeout_s);
    add_bool(object, "readonly", mapping->readonly);
    add_number(object, "connections", mapping->connections);
    add_unknown(object, mapping->unknown_json);
    return object;
}

/* Leases are not saved: a restart undoes them. Entries that could not be read are. */
static struct json_object *from_mappings(const struct export *export)
{
    struct json_object *array = json_object_new_array();
    struct json_object *unread = NULL;
    size_t n_unread = 0;

    for (unsigned i = 0; i < export->mappings->len; i++) {
        const struct mapping *mapping = g_ptr_array_index(export->mappings, i);

        if (mapping->phase != MAPPING_LEASED)
            json_object_array_add(array, from_mapping(mapping));
    }
    if (export->unknown_json != NULL &&
        json_object_object_get_ex(export->unknown_json, "mappings", &unread))
        n_unread = json_object_array_length(unread);
    for (size_t i = 0; i < n_unread; i++)
        json_object_array_add(array,
                              json_object_get(json_object_array_get_idx(unread, i)));
    return array;
}

static struct json_object *from_acl(const struct acl *acl)
{
    struct json_object *object = json_object_new_object();
    struct json_object *entries = json_object_new_array();

    for (const char *const *entry = acl_entries(acl); *entry != NULL; entry++)
        json_object_array_add(entries, json_object_new_string(*entry));
    add_bool(object, "default_deny", acl_default_deny(acl));
    json_object_object_add(object, "entries", entries);
    return object;
}

struct json_object *store_json_from_export(const struct export *export)
{
    struct json_object *object = json_object_new_object();

    add_string(object, "name", export->name);
    add_string(object, "description", export->description);
    add_string(object, "handler", export->handler_name);
    add_string(object, "target", export->target);
    json_object_object_add(object, "opts", from_opts(export->opts));
    add_number(object, "size", (int64_t)export->size);
    add_number(object, "blksize", export->logical_block);
    add_bool(object, "prealloc", export->prealloc);
    add_bool(object, "readonly", export->readonly);
    json_object_object_add(object, "created_at", store_json_from_time(export->created_us));
    json_object_object_add(object, "acl", from_acl(export->acl));
    add_bool(object, "hidden", export->hidden);
    add_number(object, "max_connections", export->max_connections);
    add_number(object, "request_timeout", export->request_timeout_s);
    add_number(object, "drain_timeout", export->drain_timeout_s);
    json_object_object_add(object, "mappings", from_mappings(export));
    add_unknown(object, export->unknown_json);
    return object;
}

struct json_object *store_json_from_config_export(const struct export *export)
{
    struct json_object *mappings = from_mappings(export), *object;

    if (json_object_array_length(mappings) == 0) {
        json_object_put(mappings);
        return NULL;
    }
    object = json_object_new_object();
    add_string(object, "origin_file", export->origin_file);
    add_string(object, "handler", export->handler_name);
    add_string(object, "target", export->target);
    json_object_object_add(object, "mappings", mappings);
    return object;
}

static struct json_object *from_failure(const struct nbd_failure *failure)
{
    struct json_object *object = json_object_new_object();

    add_number(object, "errno", failure->code);
    add_string(object, "message", failure->message);
    return object;
}

struct json_object *store_json_from_job(const struct job *job)
{
    struct json_object *object = json_object_new_object();
    const char *state = "failed";

    for (size_t i = 0; i < G_N_ELEMENTS(job_ends); i++)
        if (job_ends[i].state == job->state)
            state = job_ends[i].name;
    add_string(object, "kind", job_kinds[job->kind]);
    add_string(object, "export", job->export_name);
    add_string(object, "token", job->token);
    add_string(object, "state", state);
    json_object_object_add(object, "started", store_json_from_time(job->started_us));
    json_object_object_add(object, "ended", store_json_from_time(job->ended_us));
    if (job->failure.code != 0)
        json_object_object_add(object, "error", from_failure(&job->failure));
    return object;
}

/* ---- Reading ---- */

struct json_object *store_json_parse(const char *text, size_t length, struct nbd_failure *why)
{
    struct json_tokener *tokener;
    struct json_object *object;
    enum json_tokener_error error;
    size_t end;

    if (length > INT_MAX) {
        nbd_fail(why, EFBIG, "is too large");
        return NULL;
    }
    tokener = json_tokener_new();
    object = json_tokener_parse_ex(tokener, text, (int)length);
    error = json_tokener_get_error(tokener);
    end = json_tokener_get_parse_end(tokener);
    json_tokener_free(tokener);
    while (error == json_tokener_success && end < length && g_ascii_isspace(text[end]))
        end++;
    if (error == json_tokener_success && end == length && object != NULL)
        return object;

    if (error != json_tokener_success)
        nbd_fail(why, EBADMSG, "is damaged at byte %zu: %s", end,
                 error == json_tokener_continue ? "it ends too early"
                                                : json_tokener_error_desc(error));
    else
        nbd_fail(why, EBADMSG, "is damaged at byte %zu: more text than one object", end);
    json_object_put(object);
    return NULL;
}

/* Takes members from an object; remembers the first that is missing or wrong. */
struct reader {
    struct json_object *object;
    const char *wrong;
};

static struct json_object *read_member(struct reader *reader, const char *key,
                                       enum json_type type, bool required)
{
    struct json_object *value = NULL;

    if (!json_object_object_get_ex(reader->object, key, &value)) {
        if (required && reader->wrong == NULL)
            reader->wrong = key;
        return NULL;
    }
    if (json_object_is_type(value, type))
        return value;
    if (reader->wrong == NULL)
        reader->wrong = key;
    return NULL;
}

/* Text without NUL; "" when it may be missing and is. */
static const char *read_string(struct reader *reader, const char *key, bool required)
{
    struct json_object *value = read_member(reader, key, json_type_string, required);
    const char *text = value != NULL ? json_object_get_string(value) : "";

    if (value != NULL && strlen(text) != (size_t)json_object_get_string_len(value) &&
        reader->wrong == NULL)
        reader->wrong = key;
    return text;
}

/* json-c saturates: a number above the largest must not pass for it. */
static bool is_exact(struct json_object *value)
{
    return json_object_get_int64(value) != INT64_MAX ||
           strcmp(json_object_to_json_string(value), "9223372036854775807") == 0;
}

static int64_t read_number(struct reader *reader, const char *key, int64_t most, bool required)
{
    struct json_object *value = read_member(reader, key, json_type_int, required);
    int64_t number = value != NULL ? json_object_get_int64(value) : 0;

    if (value != NULL && (number < 0 || number > most || !is_exact(value))) {
        if (reader->wrong == NULL)
            reader->wrong = key;
        return 0;
    }
    return number;
}

static bool read_bool(struct reader *reader, const char *key)
{
    struct json_object *value = read_member(reader, key, json_type_boolean, false);

    return value != NULL && json_object_get_boolean(value);
}

/* 0: no time. */
static int64_t parse_time(const char *text, GTimeZone *otherwise)
{
    GDateTime *time = g_date_time_new_from_iso8601(text, otherwise);
    int64_t us;

    if (time == NULL)
        return 0;
    us = g_date_time_to_unix(time) * G_USEC_PER_SEC + g_date_time_get_microsecond(time);
    g_date_time_unref(time);
    return us;
}

static int64_t read_time(struct reader *reader, const char *key)
{
    const char *text = read_string(reader, key, false);
    GTimeZone *utc = g_time_zone_new_utc();
    int64_t us = parse_time(text, utc);

    g_time_zone_unref(utc);
    if (us == 0 && text[0] != '\0' && !g_str_has_prefix(text, "1970-01-01T00:00:00") &&
        reader->wrong == NULL)
        reader->wrong = key;
    return us;
}

static int end_reading(const struct reader *reader, struct nbd_failure *why)
{
    if (reader->wrong == NULL)
        return 0;
    return nbd_fail(why, EINVAL, "its member \"%s\" is missing or makes no sense",
                    reader->wrong);
}

/* What is not among `known`; NULL when that is nothing. */
static struct json_object *unknown_members(struct json_object *object,
                                           const char *const *known)
{
    struct json_object *unknown = NULL;

    json_object_object_foreach(object, key, value) {
        if (g_strv_contains(known, key))
            continue;
        if (unknown == NULL)
            unknown = json_object_new_object();
        json_object_object_add(unknown, key, json_object_get(value));
    }
    return unknown;
}

/* ---- Mappings ---- */

static int to_mapping(struct server *server, struct export *export, struct json_object *object,
                      struct nbd_failure *why)
{
    struct reader reader = { .object = object };
    struct mapping_spec spec = { 0 };
    struct mapping *mapping;

    if (!json_object_is_type(object, json_type_object))
        return nbd_fail(why, EINVAL, "it is no object");
    spec.cookie = read_string(&reader, "cookie", true);
    spec.client = read_string(&reader, "client", false);
    spec.client_boot = read_string(&reader, "client_boot", false);
    spec.device = read_string(&reader, "nbd", false);
    spec.since_us = read_time(&reader, "maptime");
    spec.timeout_s = (unsigned)read_number(&reader, "timeout", UINT_MAX, false);
    spec.dead_timeout_s = (unsigned)read_number(&reader, "dead_timeout", UINT_MAX, false);
    spec.connections = (unsigned)read_number(&reader, "connections", UINT_MAX, false);
    spec.readonly = read_bool(&reader, "readonly");
    if (end_reading(&reader, why) < 0)
        return -EINVAL;
    mapping = mapping_restore(server->mappings, export, &spec, why);
    if (mapping == NULL)
        return -EINVAL;
    mapping->unknown_json = unknown_members(object, mapping_members);
    return 0;
}

/* For the next write to put it back where it was. */
static void keep_unread_mapping(struct export *export, struct json_object *object)
{
    struct json_object *unread;

    if (export->unknown_json == NULL)
        export->unknown_json = json_object_new_object();
    if (!json_object_object_get_ex(export->unknown_json, "mappings", &unread)) {
        unread = json_object_new_array();
        json_object_object_add(export->unknown_json, "mappings", unread);
    }
    json_object_array_add(unread, json_object_get(object));
}

static void to_mappings(struct server *server, struct export *export, struct json_object *array)
{
    for (size_t i = 0; array != NULL && i < json_object_array_length(array); i++) {
        struct json_object *object = json_object_array_get_idx(array, i);
        struct nbd_failure why;

        if (to_mapping(server, export, object, &why) == 0)
            continue;
        log_event(NBD_LOG_ERROR, export->name, NULL,
                  "export %s: mapping %zu of the state file is kept there but not used: %s",
                  export->name, i + 1, why.message);
        keep_unread_mapping(export, object);
    }
}

/* ---- Exports ---- */

static GHashTable *to_opts(struct reader *reader)
{
    struct json_object *object = read_member(reader, "opts", json_type_object, false);
    GHashTable *opts = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);

    if (object == NULL)
        return opts;
    json_object_object_foreach(object, key, value) {
        if (json_object_is_type(value, json_type_string))
            g_hash_table_insert(opts, g_strdup(key), g_strdup(json_object_get_string(value)));
        else if (reader->wrong == NULL)
            reader->wrong = "opts";
    }
    return opts;
}

/* The entries, to be freed with g_free(): the strings stay the object's. What cannot be read
 * makes the export an unread one: a list that guards must not be lost. */
static const char **to_acl(struct reader *reader, bool *ret_default_deny)
{
    struct reader acl = { .object = read_member(reader, "acl", json_type_object, false) };
    struct json_object *entries;
    size_t n;
    const char **list;

    *ret_default_deny = false;
    if (acl.object == NULL)
        return NULL;
    *ret_default_deny = read_bool(&acl, "default_deny");
    entries = read_member(&acl, "entries", json_type_array, false);
    n = entries != NULL ? json_object_array_length(entries) : 0;
    list = g_new0(const char *, n + 1);
    for (size_t i = 0; i < n; i++) {
        struct json_object *entry = json_object_array_get_idx(entries, i);

        list[i] = json_object_is_type(entry, json_type_string) ? json_object_get_string(entry)
                                                               : "";
    }
    if (acl.wrong != NULL && reader->wrong == NULL)
        reader->wrong = "acl";
    return list;
}

static void set_logical_block(struct export *export, int64_t size)
{
    if (size >= 512 && size <= 1 << 20 && (size & (size - 1)) == 0)
        export->logical_block = (uint32_t)size;
}

/* But for its options and its access list, which own memory. */
static void to_spec(struct reader *reader, struct export_spec *spec)
{
    spec->name = read_string(reader, "name", true);
    spec->description = read_string(reader, "description", false);
    spec->handler = read_string(reader, "handler", true);
    spec->target = read_string(reader, "target", true);
    spec->size = (uint64_t)read_number(reader, "size", INT64_MAX, true);
    spec->prealloc = read_bool(reader, "prealloc");
    spec->readonly = read_bool(reader, "readonly");
    spec->created_us = read_time(reader, "created_at");
    spec->hidden = read_bool(reader, "hidden");
    spec->max_connections = (unsigned)read_number(reader, "max_connections", UINT_MAX, false);
    spec->request_timeout_s = (unsigned)read_number(reader, "request_timeout", UINT_MAX, false);
    spec->drain_timeout_s = (unsigned)read_number(reader, "drain_timeout", UINT_MAX, false);
}

int store_json_to_export(struct server *server, const char *id, struct json_object *object,
                         struct export **ret_export, struct nbd_failure *why)
{
    struct reader reader = { .object = object };
    struct export_spec spec = { .id = id, .origin = EXPORT_BY_RPC };
    struct json_object *mappings;
    struct export *export;
    const char **acl;
    int64_t block;
    int r;

    if (!g_uuid_string_is_valid(id))
        return nbd_fail(why, EINVAL, "its id is no UUID");
    if (!json_object_is_type(object, json_type_object))
        return nbd_fail(why, EINVAL, "it is no object");
    to_spec(&reader, &spec);
    block = read_number(&reader, "blksize", INT64_MAX, false);
    mappings = read_member(&reader, "mappings", json_type_array, false);
    if (reader.wrong == NULL && spec.name[0] == '\0')
        reader.wrong = "name";
    spec.opts = to_opts(&reader);
    spec.acl = acl = to_acl(&reader, &spec.default_deny);
    r = end_reading(&reader, why);
    if (r == 0)
        r = registry_add(server->registry, &spec, false, &export, why);
    g_hash_table_unref(spec.opts);
    g_free(acl);
    if (r < 0)
        return r;
    export->unknown_json = unknown_members(object, export_members);
    set_logical_block(export, block);
    to_mappings(server, export, mappings);
    *ret_export = export;
    return 0;
}

/* A mapping's client resumes it by its cookie: it must find the bytes that it knows. */
int store_json_to_config_export(struct server *server, struct export *export,
                                struct json_object *object, struct nbd_failure *why)
{
    struct reader reader = { .object = object };
    const char *handler, *target;
    struct json_object *mappings;

    if (!json_object_is_type(object, json_type_object))
        return nbd_fail(why, EINVAL, "they are no object");
    handler = read_string(&reader, "handler", true);
    target = read_string(&reader, "target", true);
    mappings = read_member(&reader, "mappings", json_type_array, true);
    if (end_reading(&reader, why) < 0)
        return -EINVAL;
    if (strcmp(handler, export->handler_name) != 0 || strcmp(target, export->target) != 0)
        return nbd_fail(why, EINVAL, "they are of the %s backstore %s", handler, target);
    to_mappings(server, export, mappings);
    return 0;
}

/* ---- Jobs ---- */

static int find_job_kind(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(job_kinds); i++)
        if (strcmp(name, job_kinds[i]) == 0)
            return (int)i;
    return -1;
}

static void read_failure(struct reader *reader, struct nbd_failure *ret_failure)
{
    struct reader error = {
        .object = read_member(reader, "error", json_type_object, false),
    };

    *ret_failure = (struct nbd_failure){ 0 };
    if (error.object == NULL)
        return;
    ret_failure->code = (int)read_number(&error, "errno", INT_MAX, true);
    g_strlcpy(ret_failure->message, read_string(&error, "message", false),
              sizeof(ret_failure->message));
    if (error.wrong != NULL && reader->wrong == NULL)
        reader->wrong = "error";
}

int store_json_to_job(struct server *server, const char *id, struct json_object *object,
                      struct nbd_failure *why)
{
    struct reader reader = { .object = object };
    struct nbd_failure failure;
    const char *state, *export, *token;
    int64_t started_us, ended_us;
    int kind;

    if (!json_object_is_type(object, json_type_object))
        return nbd_fail(why, EINVAL, "it is no object");
    kind = find_job_kind(read_string(&reader, "kind", true));
    state = read_string(&reader, "state", true);
    export = read_string(&reader, "export", false);
    token = read_string(&reader, "token", false);
    started_us = read_time(&reader, "started");
    ended_us = read_time(&reader, "ended");
    read_failure(&reader, &failure);
    if (reader.wrong == NULL && kind < 0)
        reader.wrong = "kind";
    if (end_reading(&reader, why) < 0)
        return -EINVAL;
    for (size_t i = 0; i < G_N_ELEMENTS(job_ends); i++)
        if (strcmp(state, job_ends[i].name) == 0 &&
            job_restore(server->jobs, id, token, (enum job_kind)kind, job_ends[i].state, export,
                        started_us, ended_us, &failure) != NULL)
            return 0;
    return nbd_fail(why, EINVAL, "it has not ended, or its day is over");
}

/* ---- Version 1 ---- */

bool store_json_is_v1(struct json_object *top)
{
    if (!json_object_is_type(top, json_type_object) ||
        json_object_object_get_ex(top, "format", NULL))
        return false;
    json_object_object_foreach(top, key, value) {
        if (!json_object_is_type(value, json_type_object) || key[0] == '\0')
            return false;
    }
    return true;
}

static const char *v1_handler(struct json_object *object)
{
    struct json_object *type;

    if (!json_object_object_get_ex(object, "type", &type) ||
        !json_object_is_type(type, json_type_int))
        return NULL;
    switch (json_object_get_int(type)) {
    case 0: return "gluster";
    case 1: return "ceph";
    case 16: return "file";
    default: return NULL;
    }
}

/* It wrote local times such as "2019-06-01 10:20:30"; the mapping's age is no more than news. */
static int64_t v1_time(const char *text)
{
    GTimeZone *local = g_time_zone_new_local();
    int64_t us = parse_time(text, local);

    g_time_zone_unref(local);
    return us;
}

/* It wrote 0 and 1 as well as false and true. */
static bool v1_bool(struct json_object *object, const char *key)
{
    struct json_object *value;

    return json_object_object_get_ex(object, key, &value) &&
           !json_object_is_type(value, json_type_string) && json_object_get_boolean(value);
}

int store_json_v1_to_export(struct server *server, const char *target,
                            struct json_object *object, struct export **ret_export,
                            struct nbd_failure *why)
{
    g_autofree char *id = g_uuid_string_random();
    struct reader reader = { .object = object };
    struct export_spec spec = {
        .id = id, /* it was saved: it may not be lost because its handler is missing */
        .origin = EXPORT_BY_RPC,
        .handler = v1_handler(object),
        .target = target,
        .size = (uint64_t)read_number(&reader, "size", INT64_MAX, true),
        .prealloc = v1_bool(object, "prealloc"),
        .readonly = v1_bool(object, "readonly"),
    };
    struct mapping_spec mapping = {
        .device = read_string(&reader, "nbd", false),
        .timeout_s = (unsigned)read_number(&reader, "timeout", UINT_MAX, false),
        .readonly = spec.readonly,
        .connections = 1,
        .since_us = v1_time(read_string(&reader, "maptime", false)),
    };
    int64_t block = read_number(&reader, "blksize", INT64_MAX, false);

    if (reader.wrong == NULL && spec.handler == NULL)
        reader.wrong = "type";
    if (end_reading(&reader, why) < 0 ||
        registry_add(server->registry, &spec, false, ret_export, why) < 0)
        return -EINVAL;
    set_logical_block(*ret_export, block);
    if (mapping.device[0] != '\0')
        mapping_restore(server->mappings, *ret_export, &mapping, NULL); /* a fresh cookie */
    return 0;
}
