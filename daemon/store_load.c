/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The saved state: what is read at start, and what becomes of damaged and of old files. The
 * registry, the mappings and the jobs are filled from it. Before the loop runs.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "store_file.h"
#include "store_json.h"
#include "store_private.h"
#include "store_text.h"

static const char *const top_members[] = {
    "format", "version", "generation", "saved_at", "saved_by", "exports",
    "config_exports", "jobs", "checksum", NULL
};

/* 0: not a state file of ours. */
static int version_of(struct json_object *top)
{
    struct json_object *format, *version, *exports;

    if (store_json_is_v1(top))
        return 1;
    if (!json_object_is_type(top, json_type_object) ||
        !json_object_object_get_ex(top, "format", &format) ||
        !json_object_is_type(format, json_type_string) ||
        strcmp(json_object_get_string(format), STATE_FORMAT) != 0)
        return 0;
    if (!json_object_object_get_ex(top, "version", &version) ||
        !json_object_is_type(version, json_type_int) ||
        json_object_get_int(version) < STATE_VERSION)
        return 0;
    if (!json_object_object_get_ex(top, "exports", &exports) ||
        !json_object_is_type(exports, json_type_object))
        return 0;
    return json_object_get_int(version);
}

/* 0, -ENOENT, -EBADMSG when it is damaged or not ours, or why it cannot be read. */
static int read_top(const char *path, struct json_object **ret_top, struct nbd_failure *why)
{
    struct nbd_failure problem;
    struct json_object *top;
    GString *text;
    int r = store_file_read(path, &text, why);

    if (r < 0)
        return r;
    top = store_json_parse(text->str, text->len, &problem);
    if (top == NULL)
        r = nbd_fail(why, EBADMSG, "the state file %s %s", path, problem.message);
    else if (version_of(top) == 0)
        r = nbd_fail(why, EBADMSG, "the state file %s is not one of nbd-runner's", path);
    else if (version_of(top) >= STATE_VERSION &&
             document_check(text->str, text->len) == CHECKSUM_WRONG)
        log_warning("the checksum of the state file %s is not that of its content: it was "
                    "edited by hand, and is used as it is", path);
    g_string_free(text, TRUE);
    if (r < 0)
        json_object_put(top);
    else
        *ret_top = top;
    return r;
}

static void load_export(struct store *store, const char *key, struct json_object *object,
                        bool v1)
{
    struct export *export;
    struct nbd_failure why;
    int r = v1 ? store_json_v1_to_export(store->server, key, object, &export, &why)
               : store_json_to_export(store->server, key, object, &export, &why);

    if (r < 0) {
        char *quoted = log_quote(key, strlen(key));

        log_error("export %s of the state file is kept there but not served: %s", quoted,
                  why.message);
        g_free(quoted);
        store_set_object(store, key, object);
        return;
    }
    if (export->state == EXPORT_FAULTED)
        log_event(NBD_LOG_WARNING, export->name, NULL,
                  "export %s: %s", export->name, export->fault.message);
    if (v1)
        store_set_export(store, export);
    else
        store_set_object(store, key, object);
}

static struct json_object *section(struct json_object *top, const char *name)
{
    struct json_object *object;

    if (json_object_object_get_ex(top, name, &object) &&
        json_object_is_type(object, json_type_object))
        return object;
    return NULL;
}

static void load_exports(struct store *store, struct json_object *exports, bool v1)
{
    if (exports == NULL)
        return;
    json_object_object_foreach(exports, key, object)
        load_export(store, key, object, v1);
}

/* The configuration has not been read yet. */
static void load_config_exports(struct store *store, struct json_object *exports)
{
    if (exports == NULL)
        return;
    json_object_object_foreach(exports, name, object)
        store_set_unclaimed(store, name, object);
}

static void load_jobs(struct store *store, struct json_object *jobs)
{
    if (jobs == NULL)
        return;
    json_object_object_foreach(jobs, key, object) {
        struct nbd_failure why;

        if (store_json_to_job(store->server, key, object, &why) < 0)
            log_debug("job %.64s of the state file is forgotten: %s", key, why.message);
    }
    store_collect_jobs(store);
}

static void keep_extras(struct store *store, struct json_object *top)
{
    json_object_object_foreach(top, key, value) {
        if (!g_strv_contains(top_members, key))
            g_ptr_array_add(store->extras, fragment_new(1, key, value));
    }
}

static void load_top(struct store *store, struct json_object *top)
{
    int version = version_of(top);
    struct json_object *generation;

    if (version == 1) {
        load_exports(store, top, true);
        if (store->predecessor == PREDECESSOR_BACKUP)
            store->predecessor = PREDECESSOR_KEEP_V1;
        log_info("the state file %s is of version 1; it is kept as %s.v1 when the first "
                 "change is saved", store->path, store->path);
        return;
    }
    if (version > STATE_VERSION) {
        store->readonly = true;
        log_warning("the state file %s is of version %d, this is nbd-runner for version %d: "
                    "what it understands is served, nothing can be changed", store->path,
                    version, STATE_VERSION);
    }
    if (json_object_object_get_ex(top, "generation", &generation) &&
        json_object_get_int64(generation) > 0 && json_object_get_int64(generation) < INT64_MAX)
        store->generation = (uint64_t)json_object_get_int64(generation);
    load_exports(store, section(top, "exports"), false);
    load_config_exports(store, section(top, "config_exports"));
    load_jobs(store, section(top, "jobs"));
    keep_extras(store, top);
}

/* Neither can be used: both stay for whoever wants to repair them. */
static void set_aside(struct store *store, const char *backup, const char *error)
{
    struct nbd_failure why;

    log_error("no state can be loaded: %s; the daemon starts without saved exports, and "
              "%s.corrupt-* keep the files", error, store->path);
    store->degraded = true;
    store->load_error = g_strdup(error);
    if (store_file_set_aside(store->real_path, &why) < 0) {
        log_error("%s", why.message);
        store->predecessor = PREDECESSOR_SET_ASIDE;
    }
    if (store_file_set_aside(backup, &why) < 0)
        log_error("%s", why.message);
}

/* The main file is missing (-ENOENT) or damaged (-EBADMSG, *problem says how). */
static struct json_object *read_backup(struct store *store, int main_result,
                                       const struct nbd_failure *problem)
{
    char *backup = g_strconcat(store->real_path, ".bak", NULL);
    struct nbd_failure why;
    struct json_object *top = NULL;
    int r = read_top(backup, &top, &why);

    if (r == 0 && main_result == -ENOENT) {
        log_warning("the state file %s is missing, %s is used; remove both to start anew",
                    store->path, backup);
    } else if (r == 0) {
        log_error("%s; %s is used, the last changes may be missing", problem->message, backup);
        store->predecessor = PREDECESSOR_SET_ASIDE;
    } else if (main_result != -ENOENT || r != -ENOENT) {
        set_aside(store, backup, main_result == -ENOENT ? why.message : problem->message);
    }
    g_free(backup);
    return top;
}

int store_load(struct store *store, struct nbd_failure *why)
{
    char *real = realpath(store->path, NULL);
    struct json_object *top = NULL;
    struct nbd_failure problem;
    int r;

    if (real != NULL) {
        g_free(store->real_path);
        store->real_path = g_strdup(real);
        free(real);
    }
    r = read_top(store->real_path, &top, &problem);
    if (r == -ENOENT || r == -EBADMSG)
        top = read_backup(store, r, &problem);
    else if (r < 0)
        return nbd_fail(why, -r, "%s; make the state file readable for this user, or name "
                        "another one with --state", problem.message);
    if (top != NULL) {
        load_top(store, top);
        json_object_put(top);
    }
    store->saved_generation = store->generation;
    return 0;
}
