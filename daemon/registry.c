/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The tables of exports: by name, by backstore, and those that are leaving. Checks that a new
 * one fits in; what it is in itself, export.c checks.
 */
#include "registry.h"

#include <assert.h>
#include <string.h>

#include "acl.h"
#include "away.h"
#include "export_private.h"
#include "log.h"
#include "mapping.h"
#include "server.h"

static int by_bytes(const void *a, const void *b, void *data)
{
    (void)data;
    return strcmp(a, b);
}

static int by_name_and_id(const void *a, const void *b, void *data)
{
    const struct export *left = a, *right = b;
    int order = strcmp(left->name, right->name);

    (void)data;
    return order != 0 ? order : strcmp(left->id, right->id);
}

static char *store_key(const struct registry *registry, const char *handler,
                       const char *target)
{
    char *const *roots = registry->server->config->file_roots;
    const char *first = roots != NULL && roots[0] != NULL ? roots[0] : "/";

    return export_store_key(handler, target, first);
}

struct registry *registry_new(struct server *server)
{
    struct registry *registry = g_new0(struct registry, 1);

    registry->server = server;
    registry->by_name = g_tree_new_full(by_bytes, NULL, NULL, NULL);
    registry->by_store = g_hash_table_new_full(g_str_hash, g_str_equal, g_free,
                                               (GDestroyNotify)g_ptr_array_unref);
    registry->leaving = g_tree_new_full(by_name_and_id, NULL, NULL, NULL);
    return registry;
}

/* At the end of the daemon: the loop no longer runs, so what is open is closed right here. */
static void shut_down(struct export *export)
{
    if (export->private->backstore == OPEN)
        export->handler->unmap(&export->dev);
    if (export->private->parsed && export->handler->destroy != NULL)
        export->handler->destroy(&export->dev);
    export_free(export);
}

static gboolean collect(void *key, void *value, void *data)
{
    (void)key;
    g_ptr_array_add(data, value);
    return FALSE;
}

void registry_free(struct registry *registry)
{
    GPtrArray *all;

    if (registry == NULL)
        return;
    all = g_ptr_array_new();
    g_tree_foreach(registry->by_name, collect, all);
    g_tree_foreach(registry->leaving, collect, all);
    for (guint i = 0; i < all->len; i++)
        shut_down(all->pdata[i]);
    g_ptr_array_free(all, TRUE);
    g_tree_destroy(registry->by_name);
    g_hash_table_destroy(registry->by_store);
    g_tree_destroy(registry->leaving);
    g_free(registry->checked);
    g_free(registry);
}

void registry_watch_access(struct registry *registry,
                           void (*on_changed)(void *arg, struct export *export), void *arg)
{
    registry->on_access_changed = on_changed;
    registry->access_arg = arg;
}

/* ---- Finding ---- */

struct export *registry_find(const struct registry *registry, const char *name)
{
    return g_tree_lookup(registry->by_name, name);
}

struct export *registry_find_backstore(const struct registry *registry, const char *handler,
                                       const char *target)
{
    g_autofree char *key = store_key(registry, handler, target);
    const GPtrArray *exports = g_hash_table_lookup(registry->by_store, key);

    return exports != NULL ? exports->pdata[0] : NULL;
}

struct export *registry_next(const struct registry *registry, const char *name)
{
    GTreeNode *node = name == NULL ? g_tree_node_first(registry->by_name)
                                   : g_tree_upper_bound(registry->by_name, name);

    return node != NULL ? g_tree_node_value(node) : NULL;
}

struct export *registry_next_leaving(const struct registry *registry, const char *name,
                                     const char *id)
{
    struct export probe = { .name = (char *)name };
    GTreeNode *node;

    if (name == NULL) {
        node = g_tree_node_first(registry->leaving);
    } else {
        g_strlcpy(probe.id, id, sizeof(probe.id));
        node = g_tree_upper_bound(registry->leaving, &probe);
    }
    return node != NULL ? g_tree_node_value(node) : NULL;
}

unsigned registry_size(const struct registry *registry)
{
    return (unsigned)g_tree_nnodes(registry->by_name);
}

/* ---- Adding ---- */

static const char *origin_text(const struct export *export)
{
    switch (export->origin) {
    case EXPORT_BY_CONFIG: return export->origin_file;
    case EXPORT_BY_COMMAND_LINE: return "the command line";
    default: return "a create through the control port";
    }
}

static int check_collision(const struct registry *registry, const struct export_spec *spec,
                           const char *name, struct nbd_failure *why)
{
    const struct export *other = registry_find(registry, name);
    g_autofree char *quoted = log_quote(name, strlen(name));

    if (other != NULL)
        return nbd_fail(why, EEXIST, "there is an export named %s already, by %s", quoted,
                        origin_text(other));
    /* The administrator has a reason, and who reads the files warns; what was saved was
     * accepted when it was made. */
    if (spec->origin == EXPORT_BY_CONFIG || spec->id != NULL)
        return 0;
    other = registry_find_backstore(registry, spec->handler, spec->target);
    if (other != NULL)
        return nbd_fail(why, EEXIST, "the %s backstore %s is exported already, as \"%s\", by %s",
                        spec->handler, spec->target, other->name, origin_text(other));
    return 0;
}

/* Into the tables that clients' questions go to. */
static void show(struct export *export)
{
    struct registry *registry = export->private->registry;
    char *key = store_key(registry, export->handler_name, export->target);
    GPtrArray *exports = g_hash_table_lookup(registry->by_store, key);

    g_tree_insert(registry->by_name, export->name, export);
    if (exports == NULL) {
        exports = g_ptr_array_new();
        g_hash_table_insert(registry->by_store, key, exports);
    } else {
        g_free(key);
    }
    g_ptr_array_add(exports, export);
}

static void hide(struct export *export)
{
    struct registry *registry = export->private->registry;
    g_autofree char *key = store_key(registry, export->handler_name, export->target);
    GPtrArray *exports = g_hash_table_lookup(registry->by_store, key);

    g_tree_remove(registry->by_name, export->name);
    g_ptr_array_remove(exports, export);
    if (exports->len == 0)
        g_hash_table_remove(registry->by_store, key);
}

int registry_add(struct registry *registry, const struct export_spec *spec, bool creating,
                 struct export **ret_export, struct nbd_failure *why)
{
    g_autofree char *name = export_name_for(spec);
    bool saved = spec->id != NULL || spec->origin != EXPORT_BY_RPC;
    struct export *export;
    struct acl *acl;
    int r;

    if ((r = export_check_spec(spec, why)) < 0 ||
        (r = check_collision(registry, spec, name, why)) < 0)
        return r;
    if (handler_find(registry->server->handlers, spec->handler) == NULL && !saved) {
        g_autofree char *quoted = log_quote(spec->handler, strlen(spec->handler));

        return nbd_fail(why, ENOENT, "there is no handler %s here; \"nbd-cli status\" lists "
                        "those that are loaded", quoted);
    }
    if ((r = acl_new(spec->acl, &acl, why)) < 0)
        return r;
    export = export_new(registry, spec, g_steal_pointer(&name), acl);
    export->state = creating ? EXPORT_CREATING : EXPORT_READY;
    if (export->handler == NULL) {
        export->state = EXPORT_FAULTED;
        nbd_fail(&export->fault, ENOENT, "its handler \"%s\" is not loaded; install it and "
                 "restart the daemon", spec->handler);
    }
    show(export);
    *ret_export = export;
    return 0;
}

/* ---- Removing ---- */

void registry_remove(struct export *export, void (*on_gone)(void *arg), void *arg)
{
    struct export_private *x = export->private;

    assert(!x->removed);
    hide(export);
    g_tree_insert(x->registry->leaving, export, export);
    export->state = EXPORT_DRAINING;
    x->removed = true;
    x->close_soon = true;
    x->try_now = false;
    evtimer_del(x->retry);
    if (x->lost)
        away_fail(export);
    x->on_gone = on_gone;
    x->gone_arg = arg;
    export_advance(export);
}

void registry_revive(struct export *export)
{
    struct export_private *x = export->private;

    assert(x->removed && registry_find(x->registry, export->name) == NULL);
    g_tree_remove(x->registry->leaving, export);
    show(export);
    export->state = export->handler != NULL ? EXPORT_READY : EXPORT_FAULTED;
    x->removed = false;
    x->on_gone = NULL;
    if (x->lost)
        export_retry_later(x);
}

void registry_vanish(struct export *export)
{
    void (*on_gone)(void *arg) = export->private->on_gone;
    void *arg = export->private->gone_arg;

    g_tree_remove(export->private->registry->leaving, export);
    while (export->mappings->len > 0) /* their clients have gone */
        mapping_remove(export->mappings->pdata[0]);
    export_free(export);
    if (on_gone != NULL)
        on_gone(arg);
}

static bool is_same_backstore(const struct export *a, const struct export *b)
{
    GHashTableIter iter;
    void *key, *value;

    if (strcmp(a->handler_name, b->handler_name) != 0 || strcmp(a->target, b->target) != 0 ||
        g_hash_table_size(a->opts) != g_hash_table_size(b->opts))
        return false;
    g_hash_table_iter_init(&iter, a->opts);
    while (g_hash_table_iter_next(&iter, &key, &value))
        if (g_strcmp0(g_hash_table_lookup(b->opts, key), value) != 0)
            return false;
    return true;
}

/* One of the same name that still has users, who see other bytes; or NULL. */
const struct export *registry_predecessor_in_use(const struct export *export)
{
    const struct registry *registry = export->private->registry;
    const struct export *other = registry_next_leaving(registry, export->name, "");

    while (other != NULL && strcmp(other->name, export->name) == 0) {
        if (other->private->users > 0 && !is_same_backstore(export, other))
            return other;
        other = registry_next_leaving(registry, other->name, other->id);
    }
    return NULL;
}
