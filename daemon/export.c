/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What an export is: its definition, checked, copied, shown and changed. Knows neither the
 * tables of exports (registry.c) nor when a backstore opens and closes (export_state.c).
 */
#include "export.h"

#include <string.h>

#include <json-c/json.h>

#include "acl.h"
#include "expiry.h"
#include "export_private.h"
#include "extents.h"
#include "log.h"
#include "server.h"

#define DETECT_ZEROES "detect-zeroes"

/* ---- Checks ---- */

static int check_name(const char *name, struct nbd_failure *why)
{
    size_t length = strlen(name);
    g_autofree char *quoted = log_quote(name, length);

    if (length == 0)
        return nbd_fail(why, EINVAL, "an export needs a name");
    if (length > EXPORT_NAME_MAX)
        return nbd_fail(why, EINVAL, "the export name %s has %zu bytes; at most %d are allowed",
                        quoted, length, EXPORT_NAME_MAX);
    if (!g_utf8_validate(name, (gssize)length, NULL))
        return nbd_fail(why, EINVAL, "the export name %s is not UTF-8", quoted);
    for (const char *p = name; *p != '\0'; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return nbd_fail(why, EINVAL, "the export name %s has control characters", quoted);
    if (name[0] == '@' || name[0] == '/' || name[0] == ' ' || name[length - 1] == ' ')
        return nbd_fail(why, EINVAL, "the export name %s starts with '@', '/' or a space, or "
                        "ends with a space; choose another with \"name\"", quoted);
    if (strcmp(name, "..") == 0 || strstr(name, "/../") != NULL ||
        g_str_has_prefix(name, "../") || g_str_has_suffix(name, "/.."))
        return nbd_fail(why, EINVAL, "the export name %s has a \"..\" component", quoted);
    return 0;
}

static int check_target(const struct export_spec *spec, struct nbd_failure *why)
{
    size_t length = strlen(spec->target);

    if (length == 0)
        return nbd_fail(why, EINVAL, "the %s backstore needs a target: a file, VOLUME/FILEPATH, "
                        "POOL/IMAGE", spec->handler);
    if (length > EXPORT_TARGET_MAX || !g_utf8_validate(spec->target, (gssize)length, NULL))
        return nbd_fail(why, EINVAL, "the target of a backstore must be UTF-8 of at most %d "
                        "bytes", EXPORT_TARGET_MAX);
    return 0;
}

static int check_opts(const struct export_spec *spec, struct nbd_failure *why)
{
    const char *value = spec->opts != NULL ? g_hash_table_lookup(spec->opts, DETECT_ZEROES)
                                           : NULL;

    if (value != NULL && strcmp(value, "on") != 0 && strcmp(value, "off") != 0)
        return nbd_fail(why, EINVAL, DETECT_ZEROES " is on or off, not \"%s\"", value);
    return 0;
}

bool export_opt_is_ours(const char *key)
{
    return strcmp(key, DETECT_ZEROES) == 0;
}

char *export_name_for(const struct export_spec *spec)
{
    const char *target = spec->target;

    if (spec->name != NULL && spec->name[0] != '\0')
        return g_strdup(spec->name);
    while (*target == '/')
        target++;
    return g_strconcat(spec->handler, "/", target, NULL);
}

int export_check_spec(const struct export_spec *spec, struct nbd_failure *why)
{
    g_autofree char *name = export_name_for(spec);
    int r;

    if ((r = check_target(spec, why)) < 0 || (r = check_opts(spec, why)) < 0)
        return r;
    return check_name(name, why);
}

/* ---- Ways to write the same backstore ---- */

/* Slashes that follow each other count as one. */
static char *squeeze_slashes(const char *target)
{
    char *text = g_strdup(target), *to = text;

    for (const char *from = target; *from != '\0'; from++)
        if (*from != '/' || from == target || from[-1] != '/')
            *to++ = *from;
    *to = '\0';
    return text;
}

char *export_store_key(const char *handler, const char *target, const char *directory)
{
    bool is_file = strcmp(handler, "file") == 0;
    g_autofree char *path = is_file || strcmp(handler, "gluster") == 0
                                ? squeeze_slashes(target) : g_strdup(target);

    /* Where ".." leads to is not to be seen from the text, as a link may stand before it. */
    if (is_file && path[0] != '\0' && strstr(path, "..") == NULL) {
        g_autofree char *plain = g_canonicalize_filename(path, directory);

        return g_strconcat(handler, " ", plain, NULL);
    }
    return g_strconcat(handler, " ", path, NULL);
}

/* ---- Making and freeing ---- */

/* All of them are remembered; those that are the handler's are what it sees. */
static void set_opts(struct export *export, GHashTable *opts)
{
    struct export_private *x = export->private;
    GHashTableIter iter;
    void *key, *value;
    size_t n = 0;

    export->opts = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    if (opts == NULL)
        return;
    x->opts = g_new0(struct nbd_opt, g_hash_table_size(opts));
    g_hash_table_iter_init(&iter, opts);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        char *own_key = g_strdup(key), *own_value = g_strdup(value);

        g_hash_table_insert(export->opts, own_key, own_value);
        if (export_opt_is_ours(own_key))
            export->detect_zeroes = strcmp(own_value, "on") == 0;
        else
            x->opts[n++] = (struct nbd_opt){ own_key, own_value };
    }
    export->dev.opts = x->opts;
    export->dev.n_opts = n;
}

static void set_changeable(struct export *export, const struct export_spec *spec,
                           struct acl *acl)
{
    acl_set_default_deny(acl, spec->default_deny);
    export->acl = acl;
    export->description = g_strdup(spec->description != NULL ? spec->description : "");
    export->hidden = spec->hidden;
    export->max_connections = spec->max_connections;
    export->request_timeout_s = spec->request_timeout_s;
    export->drain_timeout_s = spec->drain_timeout_s;
    expiry_update(export);
}

/* Takes over name and acl. */
/* NULL: it has none yet. */
static void set_id(struct export *export, const char *id)
{
    g_autofree char *made = id == NULL ? g_uuid_string_random() : NULL;

    g_strlcpy(export->id, id != NULL ? id : made, sizeof(export->id));
}

/* What stays as it is. */
static void set_definition(struct export *export, const struct export_spec *spec)
{
    export->handler_name = g_strdup(spec->handler);
    export->target = g_strdup(spec->target);
    export->origin = spec->origin;
    export->origin_file = g_strdup(spec->origin_file != NULL ? spec->origin_file : "");
    export->size = spec->size;
    export->serve_bytes = spec->serve_bytes;
    export->flags_off = spec->flags_off;
    export->flags_on = spec->flags_on;
    export->prealloc = spec->prealloc;
    export->readonly = spec->readonly;
    export->sync = spec->sync;
    export->created_us = spec->created_us != 0 ? spec->created_us : g_get_real_time();
    set_opts(export, spec->opts);
}

/* What the handler sees; set_opts() has been called. */
static void set_device(struct export *export)
{
    export->dev.name = export->name;
    export->dev.target = export->target;
    export->dev.readonly = export->readonly;
    export->dev.prealloc = export->prealloc;
    export->dev.trusted = export->origin != EXPORT_BY_RPC;
    export->dev.size = export->size;
}

struct export *export_new(struct registry *registry, const struct export_spec *spec,
                          char *name, struct acl *acl)
{
    struct export *export = g_new0(struct export, 1);
    struct export_private *x = g_new0(struct export_private, 1);

    export->private = x;
    x->export = export;
    x->registry = registry;
    x->linger = evtimer_new(loop_base(registry->server->loop), export_on_linger, export);
    x->retry = evtimer_new(loop_base(registry->server->loop), export_on_retry, export);
    x->retry_s = RETRY_MIN_S;
    x->closers = g_array_new(FALSE, FALSE, sizeof(struct closer));
    export->server = registry->server;
    set_id(export, spec->id);
    export->name = name;
    set_changeable(export, spec, acl);
    set_definition(export, spec);
    set_device(export);
    export->min_block = 1;
    export->pref_block = 4096;
    export->logical_block = 512;
    export->mappings = g_ptr_array_new();
    export->blocked_tail = &export->blocked;
    export->handler = handler_find(registry->server->handlers, spec->handler);
    export->io = export->handler;
    return export;
}

void export_free(struct export *export)
{
    struct export_private *x = export->private;

    sums_add(export->server->sums, export->handler_name, &export->tally);
    tally_clear(&export->tally);
    extents_drop(export);
    expiry_drop(export);
    event_free(x->linger);
    event_free(x->retry);
    g_queue_clear(&x->waiters);
    g_array_free(x->closers, TRUE);
    g_hash_table_destroy(export->opts);
    g_free(x->opts);
    g_ptr_array_free(export->mappings, TRUE);
    if (export->unknown_json != NULL)
        json_object_put(export->unknown_json);
    acl_free(export->acl);
    g_free(export->away);
    g_free(export->name);
    g_free(export->description);
    g_free(export->handler_name);
    g_free(export->target);
    g_free(export->origin_file);
    g_free(x);
    g_free(export);
}

/* ---- What is asked of it, and what may change ---- */

const char *export_state_name(enum export_state state)
{
    static const char *const names[] = { "creating", "ready", "draining", "faulted" };

    return names[state];
}

unsigned export_connection_limit(const struct export *export)
{
    return export->max_connections > 0 ? export->max_connections
                                       : export->server->config->max_export_connections;
}

void export_get_spec(const struct export *export, struct export_spec *ret_spec)
{
    *ret_spec = (struct export_spec){
        .id = export->id, .name = export->name, .description = export->description,
        .handler = export->handler_name, .target = export->target, .opts = export->opts,
        .origin = export->origin, .origin_file = export->origin_file, .size = export->size,
        .prealloc = export->prealloc, .readonly = export->readonly,
        .sync = export->sync,
        .created_us = export->created_us, .acl = acl_entries(export->acl),
        .default_deny = acl_default_deny(export->acl), .hidden = export->hidden,
        .max_connections = export->max_connections,
        .request_timeout_s = export->request_timeout_s,
        .drain_timeout_s = export->drain_timeout_s,
    };
}

int export_apply(struct export *export, const struct export_spec *spec,
                 struct nbd_failure *why)
{
    const struct registry *registry = export->private->registry;
    char *old_description = export->description; /* the spec may refer to both */
    struct acl *old_acl = export->acl, *acl;
    int r = acl_new(spec->acl, &acl, why);

    if (r < 0)
        return r;
    set_changeable(export, spec, acl);
    acl_free(old_acl);
    g_free(old_description);
    if (registry->on_access_changed != NULL)
        registry->on_access_changed(registry->access_arg, export);
    return 0;
}

int export_set_readonly(struct export *export, bool readonly, struct nbd_failure *why)
{
    struct export_private *x = export->private;

    if (export->readonly == readonly)
        return 0;
    if (x->users > 0 || x->waiters.length > 0 || export->mappings->len > 0)
        return nbd_fail(why, EBUSY, "export \"%s\" is %s; what clients may do cannot change "
                        "under them: end that first", export->name,
                        export->mappings->len > 0 ? "mapped" : "in use");
    if (x->busy)
        return nbd_fail(why, EBUSY, "export \"%s\" is just being opened or closed; try again",
                        export->name);
    export->readonly = export->dev.readonly = readonly;
    if (x->backstore == OPEN) { /* lingers, opened for the other mode */
        x->close_soon = true;
        export_advance(export);
    }
    return 0;
}

void export_set_origin_file(struct export *export, const char *file)
{
    char *copy = g_strdup(file);

    g_free(export->origin_file);
    export->origin_file = copy;
}
