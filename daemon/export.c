/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Exports: the registry, and the life of a backstore. Handlers' blocking calls run on
 * workers, one at a time per export; advance() decides which one comes next.
 */
#include "export.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#include <json-c/json.h>

#include "acl.h"
#include "away.h"
#include "expiry.h"
#include "extents.h"
#include "log.h"
#include "mapping.h"
#include "nbd_protocol.h"
#include "server.h"
#include "store.h"

/* How long a backstore stays open after its last user, for the next one to find it ready. */
#define LINGER_S 3

/* A backstore that does not open is tried again, after 1, 2, 4 ... 60 seconds. */
#define RETRY_MIN_S 1
#define RETRY_MAX_S 60
#define TRIALS_MAX 4 /* attempts that nobody waits for, at once: they take workers */

/* Its size is looked at so often at most, but for each new user. */
#define LOOK_AGAIN_US (5 * G_USEC_PER_SEC)

#define DETECT_ZEROES "detect-zeroes"

enum backstore { CLOSED, OPEN };

/* A user in waiting. */
struct waiter {
    struct export_private *x;
    struct event *timer; /* NULL: no limit */
    export_done *done;
    void *arg;
};

/* A blocking call, from its start on a worker to its end on the loop. */
struct call {
    struct export *export;
    void (*work)(struct call *call);
    void (*end)(struct call *call);
    struct nbd_failure why;
    int result;
    uint64_t size; /* of the opened backstore, bytes */
    int64_t block; /* logical, of the opened backstore */
    struct json_object *saved; /* what the handler had saved; a copy */
};

struct closer {
    void (*on_closed)(void *arg);
    void *arg;
};

struct export_private {
    struct export *export;
    struct registry *registry;
    enum backstore backstore;
    atomic_bool parsed; /* cfg_parse() has succeeded: destroy() is due */
    atomic_bool canceled; /* a create */
    bool busy;          /* a call runs */
    bool close_soon;    /* do not linger */
    bool try_now;       /* to open it, though nobody waits */
    bool on_trial;      /* that attempt runs */
    struct event *retry;
    unsigned retry_s;   /* pause before the next attempt */
    bool removed;
    bool lost;          /* open or closed, it has to be closed and opened again */
    bool troubled;      /* open, but its handler says that it does not work now */
    bool must_match;    /* clients are attached: it has to be what it was */
    uint32_t caps;      /* when it was opened last */
    bool stale;         /* open, but its target names something else by now */
    unsigned users;
    GQueue waiters;     /* struct waiter * */
    struct event *linger;
    export_done *made_done;   /* a create runs */
    export_done *delete_done; /* a delete is wanted or runs */
    void *store_arg;          /* of the create or delete */
    export_done *resize_done; /* a resize is wanted or runs */
    void *resize_arg;
    uint64_t resize_to;
    int64_t looked_us;        /* at the size, when it was open; monotonic */
    bool look;                /* at it again, though nobody waits */
    GArray *closers;          /* struct closer: who wait for it to be closed */
    void (*on_gone)(void *arg);
    void *gone_arg;
    struct nbd_opt *opts; /* what dev.opts points to */
};

struct registry {
    struct server *server;
    GTree *by_name;       /* name -> struct export */
    GHashTable *by_store; /* "handler target" -> GPtrArray of struct export */
    GTree *leaving;       /* struct export -> itself, by name and id: removed, not yet gone */
    unsigned trials;      /* that run */
    bool checking;        /* every export is opened once; done up to ... */
    char *checked;        /* ... this name; NULL: to none */
    void (*on_access_changed)(void *arg, struct export *export);
    void *access_arg;
};

static void advance(struct export *export);

/* ---- Names ---- */

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

static char *store_key(const struct registry *registry, const char *handler,
                       const char *target)
{
    char *const *roots = registry->server->config->file_roots;
    const char *first = roots != NULL && roots[0] != NULL ? roots[0] : "/";

    return export_store_key(handler, target, first);
}

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

static char *default_name(const struct export_spec *spec)
{
    const char *target = spec->target;

    while (*target == '/')
        target++;
    return g_strconcat(spec->handler, "/", target, NULL);
}

static const char *origin_text(const struct export *export)
{
    switch (export->origin) {
    case EXPORT_BY_CONFIG: return export->origin_file;
    case EXPORT_BY_COMMAND_LINE: return "the command line";
    default: return "a create through the control port";
    }
}

/* ---- Making and freeing ---- */

bool export_opt_is_ours(const char *key)
{
    return strcmp(key, DETECT_ZEROES) == 0;
}

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

static int check_opts(const struct export_spec *spec, struct nbd_failure *why)
{
    const char *value = spec->opts != NULL ? g_hash_table_lookup(spec->opts, DETECT_ZEROES)
                                           : NULL;

    if (value != NULL && strcmp(value, "on") != 0 && strcmp(value, "off") != 0)
        return nbd_fail(why, EINVAL, DETECT_ZEROES " is on or off, not \"%s\"", value);
    return 0;
}

static void on_linger(evutil_socket_t fd, short what, void *arg)
{
    struct export *export = arg;

    (void)fd;
    (void)what;
    export->private->close_soon = true;
    advance(export);
}

static void on_retry(evutil_socket_t fd, short what, void *arg);
static void retry_later(struct export_private *x);

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
static struct export *export_new(struct registry *registry, const struct export_spec *spec,
                                 char *name, struct acl *acl)
{
    struct export *export = g_new0(struct export, 1);
    struct export_private *x = g_new0(struct export_private, 1);

    export->private = x;
    x->export = export;
    x->registry = registry;
    x->linger = evtimer_new(loop_base(registry->server->loop), on_linger, export);
    x->retry = evtimer_new(loop_base(registry->server->loop), on_retry, export);
    x->retry_s = RETRY_MIN_S;
    x->closers = g_array_new(FALSE, FALSE, sizeof(struct closer));
    export->server = registry->server;
    if (spec->id != NULL) {
        g_strlcpy(export->id, spec->id, sizeof(export->id));
    } else {
        g_autofree char *id = g_uuid_string_random();

        g_strlcpy(export->id, id, sizeof(export->id));
    }
    export->name = name;
    set_changeable(export, spec, acl);
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
    export->min_block = 1;
    export->pref_block = 4096;
    export->logical_block = 512;
    export->mappings = g_ptr_array_new();
    export->blocked_tail = &export->blocked;
    set_opts(export, spec->opts);
    export->dev.name = export->name;
    export->dev.target = export->target;
    export->dev.readonly = spec->readonly;
    export->dev.prealloc = spec->prealloc;
    export->dev.trusted = spec->origin != EXPORT_BY_RPC;
    export->dev.size = spec->size;
    export->handler = handler_find(registry->server->handlers, spec->handler);
    export->io = export->handler;
    return export;
}

static void export_free(void *data)
{
    struct export *export = data;
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

/* ---- Registry ---- */

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

const char *export_state_name(enum export_state state)
{
    static const char *const names[] = { "creating", "ready", "draining", "faulted" };

    return names[state];
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

int export_check_spec(const struct export_spec *spec, struct nbd_failure *why)
{
    g_autofree char *name = spec->name != NULL && spec->name[0] != '\0' ? g_strdup(spec->name)
                                                                        : default_name(spec);
    int r;

    if ((r = check_target(spec, why)) < 0 || (r = check_opts(spec, why)) < 0)
        return r;
    return check_name(name, why);
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
    g_autofree char *name = spec->name != NULL && spec->name[0] != '\0' ? g_strdup(spec->name)
                                                                        : default_name(spec);
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

/* ---- What may change ---- */

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
        advance(export);
    }
    return 0;
}

void export_set_origin_file(struct export *export, const char *file)
{
    char *copy = g_strdup(file);

    g_free(export->origin_file);
    export->origin_file = copy;
}

unsigned export_connection_limit(const struct export *export)
{
    return export->max_connections > 0 ? export->max_connections
                                       : export->server->config->max_export_connections;
}

void registry_watch_access(struct registry *registry,
                           void (*on_changed)(void *arg, struct export *export), void *arg)
{
    registry->on_access_changed = on_changed;
    registry->access_arg = arg;
}

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
    advance(export);
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
        retry_later(x);
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
static const struct export *predecessor_in_use(const struct export *export)
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

/* ---- Blocking calls ---- */

static void on_worker(void *arg)
{
    struct call *call = arg;

    call->work(call);
}

/* What the handler wants to remember, once it has made or opened the backing store, goes into
 * the state file with the next save. */
static void save_handler_data(struct export *export)
{
    struct json_object *data;

    if (export->handler->update_json == NULL || export->private->removed)
        return;
    data = json_object_new_object();
    if (!export->handler->update_json(&export->dev, data)) {
        json_object_put(data);
        return;
    }
    if (export->unknown_json == NULL)
        export->unknown_json = json_object_new_object();
    json_object_object_add(export->unknown_json, "handler_data", data);
    if (export->server->store != NULL)
        store_changed(export->server->store, export);
}

static void on_call_end(void *arg)
{
    struct call *call = arg;
    struct export *export = call->export;

    call->end(call); /* still busy: what it sets off waits for the advance() below */
    if (call->saved != NULL)
        json_object_put(call->saved);
    g_free(call);
    export->private->busy = false;
    advance(export);
}

static void start_call(struct export *export, void (*work)(struct call *call),
                       void (*end)(struct call *call))
{
    struct call *call = g_new0(struct call, 1);
    struct json_object *saved;

    assert(!export->private->busy);
    export->private->busy = true;
    call->export = export;
    call->work = work;
    call->end = end;
    if (export->unknown_json != NULL &&
        json_object_object_get_ex(export->unknown_json, "handler_data", &saved))
        json_object_deep_copy(saved, &call->saved, NULL);
    worker_run(export->server->workers, on_worker, on_call_end, call);
}

/* On a worker. A handler that fails without a word gets a sentence from its errno. */
static int settle(struct call *call, int r, const char *what)
{
    const struct export *export = call->export;

    if (r < 0 && call->why.message[0] == '\0')
        nbd_fail(&call->why, -r, "cannot %s the %s backstore %s: %s", what,
                 export->handler_name, export->target, strerror(-r));
    if (r < 0 && call->why.code == 0)
        call->why.code = -r;
    call->result = r < 0 ? r : 0;
    return call->result;
}

static int parse(struct call *call)
{
    struct export *export = call->export;

    if (export->private->parsed)
        return 0;
    if (settle(call, export->handler->cfg_parse(&export->dev, export->target, &call->why),
               "understand") < 0)
        return call->result;
    export->private->parsed = true;
    if (call->saved != NULL && export->handler->load_json != NULL &&
        !export->handler->load_json(&export->dev, call->saved))
        log_event(NBD_LOG_WARNING, export->name, NULL,
                  "export \"%s\": its handler does not understand what it had saved",
                  export->name);
    return 0;
}

/* ---- Opening ---- */

static bool is_power_of_two(uint32_t n)
{
    return n != 0 && (n & (n - 1)) == 0;
}

static int check_size(struct call *call, uint64_t size)
{
    const struct export *export = call->export;

    if (export->serve_bytes <= size)
        return 0;
    return settle(call, nbd_fail(&call->why, EINVAL, "the %s backstore %s has %" PRIu64
                                 " bytes, but the export is to have %" PRIu64 "; make it "
                                 "larger, or correct the size of the export",
                                 export->handler_name, export->target, size,
                                 export->serve_bytes), "open");
}

/* Clients have been told what the backstore can do. */
static int check_match(struct call *call, int64_t size)
{
    const struct export *export = call->export;
    const struct export_private *x = export->private;
    uint32_t missing = x->caps & ~export->dev.caps & ~(uint32_t)NBD_CAP_ROTATIONAL;
    const char *how = NULL;

    if (!x->must_match)
        return 0;
    if ((uint64_t)size < export->size)
        how = "smaller";
    else if (export->dev.min_block > export->min_block)
        how = "with larger blocks";
    else if (missing != 0)
        how = "with fewer abilities";
    if (how == NULL)
        return 0;
    return settle(call, nbd_fail(&call->why, EIO, "the %s backstore %s has come back %s; its "
                                 "clients cannot go on with it", export->handler_name,
                                 export->target, how), "open");
}

static void work_open(struct call *call)
{
    struct nbd_device *dev = &call->export->dev;
    const struct nbd_handler *handler = call->export->handler;
    int64_t size, block;

    dev->caps = 0;
    dev->min_block = 1;
    dev->pref_block = 4096;
    if (parse(call) < 0 || settle(call, handler->map(dev, &call->why), "open") < 0)
        return;
    size = handler->get_size(dev);
    if (size < 0) {
        settle(call, (int)size, "get the size of");
        handler->unmap(dev);
        return;
    }
    if (check_size(call, (uint64_t)size) < 0) {
        handler->unmap(dev);
        return;
    }
    if (check_match(call, size) < 0) {
        handler->unmap(dev);
        return;
    }
    block = handler->get_blksize != NULL ? handler->get_blksize(dev) : 0;
    call->size = (uint64_t)size;
    call->block = block;
}

static uint16_t flags_of_handler(const struct export *export)
{
    uint32_t caps = export->dev.caps;
    uint16_t flags = NBD_FLAG_HAS_FLAGS;

    if (caps & NBD_CAP_MULTI_CONN)
        flags |= NBD_FLAG_CAN_MULTI_CONN;
    if (caps & NBD_CAP_ROTATIONAL)
        flags |= NBD_FLAG_ROTATIONAL;
    flags |= NBD_FLAG_SEND_CACHE;
    if (export->readonly)
        return flags | NBD_FLAG_READ_ONLY;
    if (caps & NBD_CAP_FLUSH)
        flags |= NBD_FLAG_SEND_FLUSH;
    if (caps & (NBD_CAP_FUA | NBD_CAP_FLUSH))
        flags |= NBD_FLAG_SEND_FUA;
    if (caps & NBD_CAP_TRIM)
        flags |= NBD_FLAG_SEND_TRIM;
    flags |= NBD_FLAG_SEND_WRITE_ZEROES;
    if (caps & NBD_CAP_FAST_ZERO)
        flags |= NBD_FLAG_SEND_FAST_ZERO;
    return flags;
}

static uint16_t transmission_flags(const struct export *export)
{
    uint16_t flags = flags_of_handler(export) & (uint16_t)~export->flags_off;

    return flags | export->flags_on;
}

static void take_facts(struct export *export, const struct call *call)
{
    const struct nbd_device *dev = &export->dev;

    export->private->caps = dev->caps;
    export->size = export->serve_bytes > 0 ? export->serve_bytes : call->size;
    export->private->looked_us = g_get_monotonic_time();
    export->min_block = is_power_of_two(dev->min_block) && dev->min_block <= 65536
                            ? dev->min_block : 1;
    export->pref_block = is_power_of_two(dev->pref_block) && dev->pref_block <= 1u << 22
                             ? MAX(dev->pref_block, MAX(export->min_block, 512u)) : 4096;
    export->logical_block = call->block >= 512 && call->block <= 4096 &&
                                    is_power_of_two((uint32_t)call->block)
                                ? (uint32_t)call->block : 512;
    export->flags = transmission_flags(export);
}

/* Take the waiter off and tell it how its wait has ended. */
static void answer(struct waiter *waiter, int result, const struct nbd_failure *why)
{
    struct waiter w = *waiter;

    g_queue_remove(&w.x->waiters, waiter);
    if (w.timer != NULL)
        event_free(w.timer);
    g_free(waiter);
    if (result == 0)
        w.x->users++;
    w.done(w.arg, result, why);
}

static void start_linger(struct export_private *x)
{
    evtimer_add(x->linger, &(struct timeval){ .tv_sec = LINGER_S });
}

static void answer_all(struct export_private *x, int result, const struct nbd_failure *why)
{
    /* Those who come while we answer are for the next round. */
    for (guint n = x->waiters.length; n > 0 && x->waiters.head != NULL; n--)
        answer(x->waiters.head->data, result, why);
}

/* ---- Backstores that are away ---- */

static void retry_later(struct export_private *x)
{
    if (!x->removed && !evtimer_pending(x->retry, NULL))
        evtimer_add(x->retry, &(struct timeval){ .tv_sec = x->retry_s });
    if (x->on_trial)
        x->retry_s = MIN(2 * x->retry_s, RETRY_MAX_S);
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
    struct export *export = arg;
    struct export_private *x = export->private;

    (void)fd;
    (void)what;
    if (x->backstore == OPEN) { /* lost: to be closed first */
        advance(export);
        return;
    }
    if (x->registry->trials >= TRIALS_MAX) {
        evtimer_add(x->retry, &(struct timeval){ .tv_sec = RETRY_MIN_S });
        return;
    }
    x->try_now = true;
    advance(export);
}

void export_is_idle(struct export *export)
{
    /* Not right here: the handler may be on the stack. */
    event_active(export->private->retry, 0, 0);
}

static struct export *export_of(struct nbd_device *dev)
{
    return (struct export *)(void *)((char *)dev - offsetof(struct export, dev));
}

static void set_fault(struct export *export, const char *reason)
{
    nbd_fail(&export->fault, EIO, "%s", reason);
    if (export->state == EXPORT_READY)
        export->state = EXPORT_FAULTED;
}

/* False: that makes no difference. */
static bool lose(struct export *export, const char *reason, const char *then)
{
    struct export_private *x = export->private;
    bool unsafe = export->changes != export->flushed_changes && (x->caps & NBD_CAP_FLUSH);

    if (x->backstore != OPEN || x->lost || x->removed || x->delete_done != NULL ||
        export->handler->sendfile_fd != NULL)
        return false;
    x->lost = true;
    set_fault(export, reason);
    log_event(NBD_LOG_WARNING, export->name, NULL, "export \"%s\": %s; it is opened again, and "
              "requests %s%s", export->name, reason, then,
              unsafe ? "; changes that were not flushed may be lost, and the next flush of each "
                       "client fails" : "");
    export->losses += unsafe;
    away_begin(export);
    export_is_idle(export);
    return true;
}

void export_lost(struct nbd_device *dev, const char *reason)
{
    lose(export_of(dev), reason, "wait");
}

void export_fenced(struct nbd_device *dev, const char *reason)
{
    struct export *export = export_of(dev);

    if (lose(export, reason, "fail until then"))
        away_fail(export);
}

void export_troubled(struct nbd_device *dev, const char *reason)
{
    struct export *export = export_of(dev);
    struct export_private *x = export->private;

    if (x->backstore != OPEN || x->lost || (reason == NULL && !x->troubled))
        return;
    x->troubled = reason != NULL;
    if (reason != NULL) {
        set_fault(export, reason);
    } else {
        if (export->state == EXPORT_FAULTED)
            export->state = EXPORT_READY;
        export_is_idle(export); /* somebody may wait */
    }
}

/* Open the exports that have not been looked at since the start, some at a time. */
static void check_more(struct registry *registry)
{
    while (registry->checking && registry->trials < TRIALS_MAX) {
        struct export *export = registry_next(registry, registry->checked);

        if (export == NULL) {
            registry->checking = false;
            return;
        }
        g_free(registry->checked);
        registry->checked = g_strdup(export->name);
        if (export->handler == NULL || export->state != EXPORT_READY ||
            export->private->backstore == OPEN)
            continue;
        export->private->try_now = true;
        advance(export);
    }
}

void registry_check_all(struct registry *registry)
{
    registry->checking = true;
    g_clear_pointer(&registry->checked, g_free);
    check_more(registry);
}

/* ---- The end of an attempt to open ---- */

static void open_succeeded(struct export *export, const struct call *call)
{
    struct export_private *x = export->private;

    x->backstore = OPEN;
    x->close_soon = x->removed || (x->on_trial && x->waiters.length == 0);
    x->retry_s = RETRY_MIN_S;
    evtimer_del(x->retry);
    take_facts(export, call);
    save_handler_data(export);
    if (export->state == EXPORT_FAULTED) {
        export->state = EXPORT_READY;
        log_event(NBD_LOG_INFO, export->name, NULL,
                  "export \"%s\" is back: its backstore opened", export->name);
    }
    if (x->lost) {
        x->lost = false;
        x->close_soon = x->removed || (x->users == 0 && x->waiters.length == 0);
        away_end(export);
    }
}

/* The same sentence again is no news. */
static void open_failed(struct export *export, const struct nbd_failure *why)
{
    bool same = export->state == EXPORT_FAULTED &&
                strcmp(export->fault.message, why->message) == 0;

    log_event(same ? NBD_LOG_DEBUG : NBD_LOG_WARNING, export->name, NULL,
              "export \"%s\" cannot be opened: %s", export->name, why->message);
    export->fault = *why;
    if (export->state == EXPORT_READY)
        export->state = EXPORT_FAULTED;
    if (export->state == EXPORT_FAULTED)
        retry_later(export->private);
}

static void end_trial(struct export_private *x)
{
    if (!x->on_trial)
        return;
    x->on_trial = false;
    x->registry->trials--;
    check_more(x->registry);
}

static void end_open(struct call *call)
{
    struct export *export = call->export;
    struct export_private *x = export->private;

    if (call->result == 0)
        open_succeeded(export, call);
    else
        open_failed(export, &call->why);
    answer_all(x, call->result, &call->why);
    if (x->backstore == OPEN && x->users == 0 && !x->close_soon) /* nobody waits any more */
        start_linger(x);
    end_trial(x);
}

static void on_wait_too_long(evutil_socket_t fd, short what, void *arg)
{
    struct waiter *waiter = arg;
    const struct export *export = waiter->x->export;
    struct nbd_failure why;

    (void)fd;
    (void)what;
    nbd_fail(&why, ETIMEDOUT, "the %s backstore %s did not open in time; the export keeps "
             "trying%s%s", export->handler_name, export->target,
             export->state == EXPORT_FAULTED ? "; it is faulted: " : "",
             export->state == EXPORT_FAULTED ? export->fault.message : "");
    answer(waiter, -ETIMEDOUT, &why);
}

/* Why it cannot have users now, whatever its backstore does; 0: it can. */
static int check_open(const struct export *export, struct nbd_failure *why)
{
    const struct export *other;

    if (export->handler == NULL) {
        *why = export->fault;
        return -why->code;
    }
    if (export->private->removed || export->state == EXPORT_CREATING)
        return nbd_fail(why, EBUSY, "export \"%s\" is %s", export->name,
                        export->private->removed ? "being removed" : "still being created");
    other = predecessor_in_use(export);
    if (other != NULL)
        return nbd_fail(why, ESHUTDOWN, "export \"%s\" has changed, and %u client(s) are "
                        "still attached to what it was before (%s); nobody else can connect "
                        "until they have left", export->name, other->connections,
                        other->target);
    return 0;
}

void export_open(struct export *export, unsigned timeout_ms, export_done *done, void *arg)
{
    struct export_private *x = export->private;
    struct nbd_failure why;
    struct waiter *waiter;
    int r = check_open(export, &why);

    if (r < 0) {
        done(arg, r, &why);
        return;
    }
    waiter = g_new0(struct waiter, 1);
    waiter->x = x;
    waiter->done = done;
    waiter->arg = arg;
    if (timeout_ms > 0) {
        struct timeval limit = { .tv_sec = timeout_ms / 1000,
                                 .tv_usec = timeout_ms % 1000 * 1000 };

        waiter->timer = evtimer_new(loop_base(export->server->loop), on_wait_too_long, waiter);
        evtimer_add(waiter->timer, &limit);
    }
    g_queue_push_tail(&x->waiters, waiter);
    advance(export);
}

/* ---- Joining: it is open already ---- */

static void work_probe(struct call *call)
{
    const struct nbd_handler *handler = call->export->handler;
    int64_t size;

    /* Whatever else is wrong with the name: what is open can be used. */
    if (handler->probe != NULL && handler->probe(&call->export->dev, &call->why) == -ESTALE) {
        settle(call, -ESTALE, "join");
        return;
    }
    size = handler->get_size(&call->export->dev);
    call->size = size >= 0 ? (uint64_t)size : call->export->size;
}

static void take_size(struct export *export, uint64_t size)
{
    export->private->looked_us = g_get_monotonic_time();
    if (export->serve_bytes > 0)
        size = MIN(size, export->serve_bytes);
    if (size == export->size)
        return;
    log_info("export \"%s\" has %" PRIu64 " bytes now, before %" PRIu64, export->name, size,
             export->size);
    export->size = size;
    export->changes++; /* what is known of its extents is of no use any more */
    if (export->server->store != NULL && !export->private->removed)
        store_changed(export->server->store, export);
}

/* Nobody joins those who see other bytes. Without any, it is closed and opened anew. */
static void end_probe(struct call *call)
{
    struct export_private *x = call->export->private;

    x->look = false;
    if (call->result == 0) {
        take_size(call->export, call->size);
        answer_all(x, 0, NULL);
        if (x->users == 0) /* nobody waits any more */
            start_linger(x);
    } else if (x->users == 0) {
        x->stale = true;
    } else {
        log_warning("export \"%s\": %s", call->export->name, call->why.message);
        answer_all(x, -ESHUTDOWN, &call->why);
    }
}

void export_look_at_size(const struct export *export)
{
    struct export_private *x = export->private;

    if (x->backstore != OPEN || x->busy || x->removed ||
        g_get_monotonic_time() - x->looked_us < LOOK_AGAIN_US)
        return;
    x->look = true;
    advance(x->export);
}

/* ---- Resizing ---- */

static void work_resize(struct call *call)
{
    struct export *export = call->export;
    int64_t size;

    if (export->handler->resize == NULL) {
        settle(call, nbd_fail(&call->why, ENOTSUP, "the %s backstore cannot be resized from "
                              "here", export->handler_name), "resize");
        return;
    }
    export->dev.size = export->private->resize_to;
    if (settle(call, export->handler->resize(&export->dev, &call->why), "resize") < 0)
        return;
    size = export->handler->get_size(&export->dev);
    if (size < 0)
        settle(call, (int)size, "get the size of");
    else
        call->size = (uint64_t)size;
}

static void end_resize(struct call *call)
{
    struct export_private *x = call->export->private;
    export_done *done = x->resize_done;

    x->resize_done = NULL;
    if (call->result == 0)
        take_size(call->export, call->size);
    done(x->resize_arg, call->result, &call->why);
}

/* Here and not earlier: nobody can connect between this check and the end of the call. */
static void start_resize(struct export *export)
{
    struct export_private *x = export->private;
    bool is_used = export->connections > 0 || export->mappings->len > 0;
    export_done *done = x->resize_done;
    struct nbd_failure why;

    if (x->backstore == OPEN && (x->resize_to >= export->size || !is_used)) {
        start_call(export, work_resize, end_resize);
        return;
    }
    if (x->backstore != OPEN)
        nbd_fail(&why, EIO, "the backstore of export \"%s\" was lost meanwhile; try again when "
                 "it is back", export->name);
    else
        nbd_fail(&why, EBUSY, "export \"%s\" is in use by %u connection(s) and mapped %u "
                 "time(s), so it cannot become smaller; unmap it and end them first",
                 export->name, export->connections, export->mappings->len);
    x->resize_done = NULL;
    done(x->resize_arg, -why.code, &why); /* ends a use of the export: goes on from there */
}

void export_resize(struct export *export, uint64_t size, export_done *done, void *arg)
{
    struct export_private *x = export->private;

    assert(x->users > 0 && x->resize_done == NULL);
    x->resize_done = done;
    x->resize_arg = arg;
    x->resize_to = size;
    advance(export);
}

/* ---- Closing ---- */

static void work_close(struct call *call)
{
    call->export->handler->unmap(&call->export->dev);
}

static void end_close(struct call *call)
{
    struct export_private *x = call->export->private;

    extents_drop(call->export);
    x->backstore = CLOSED;
    x->stale = false;
    x->try_now = x->lost && !x->removed;
    if (x->troubled) /* still shown as faulted */
        retry_later(x);
    x->troubled = false;
}

void export_close(struct export *export)
{
    struct export_private *x = export->private;

    assert(x->users > 0);
    if (--x->users == 0 && !x->close_soon)
        start_linger(x);
    advance(export);
}

void export_close_now(struct export *export, void (*on_closed)(void *arg), void *arg)
{
    struct export_private *x = export->private;

    x->close_soon = true;
    if (on_closed != NULL)
        g_array_append_val(x->closers, ((struct closer){ on_closed, arg }));
    advance(export);
}

/* ---- Creating and deleting ---- */

static void work_create(struct call *call)
{
    struct export *export = call->export;

    if (export->handler->create == NULL) {
        settle(call, nbd_fail(&call->why, ENOTSUP, "the %s backstore cannot be created from "
                              "here; export one that exists", export->handler_name), "create");
        return;
    }
    if (parse(call) < 0)
        return;
    if (export->private->canceled)
        settle(call, nbd_fail(&call->why, ECANCELED, "canceled before it began"), "create");
    else
        settle(call, export->handler->create(&export->dev, &call->why), "create");
}

static void end_create(struct call *call)
{
    struct export *export = call->export;
    struct export_private *x = export->private;
    export_done *done = x->made_done;

    x->made_done = NULL;
    if (call->result == 0) {
        export->state = EXPORT_READY;
        save_handler_data(export);
    }
    done(x->store_arg, call->result, &call->why);
}

void export_create(struct export *export, export_done *done, void *arg)
{
    assert(export->state == EXPORT_CREATING);
    export->private->made_done = done;
    export->private->store_arg = arg;
    start_call(export, work_create, end_create);
}

void export_create_cancel(struct export *export)
{
    if (export->state != EXPORT_CREATING)
        return;
    export->private->canceled = true; /* first: what is parsed after this looks at it */
    if (export->handler->cancel != NULL && export->private->parsed)
        export->handler->cancel(&export->dev);
}

void export_create_progress(struct export *export, uint64_t *ret_done, uint64_t *ret_total)
{
    *ret_done = 0;
    *ret_total = export->size;
    if (export->state == EXPORT_CREATING && export->handler->progress != NULL &&
        export->private->parsed)
        export->handler->progress(&export->dev, ret_done, ret_total);
    else if (export->state == EXPORT_READY)
        *ret_done = export->size;
}

static void work_delete(struct call *call)
{
    struct export *export = call->export;
    int r;

    if (export->handler->delete == NULL) {
        settle(call, nbd_fail(&call->why, ENOTSUP, "the %s backstore cannot be deleted from "
                              "here; forget the export with \"keep-data\"",
                              export->handler_name), "delete");
        return;
    }
    if (parse(call) < 0)
        return;
    r = export->handler->delete(&export->dev, &call->why);
    settle(call, r == -ENOENT ? 0 : r, "delete");
}

static void end_delete(struct call *call)
{
    struct export_private *x = call->export->private;
    export_done *done = x->delete_done;

    x->delete_done = NULL;
    done(x->store_arg, call->result, &call->why);
}

void export_delete(struct export *export, export_done *done, void *arg)
{
    struct export_private *x = export->private;
    struct nbd_failure why;

    if (x->delete_done != NULL || export->handler == NULL) {
        nbd_fail(&why, EBUSY, "export \"%s\" %s", export->name,
                 export->handler == NULL ? "has no handler: it can only be forgotten "
                                           "(\"keep-data\")" : "is being deleted");
        done(arg, -EBUSY, &why);
        return;
    }
    x->delete_done = done;
    x->store_arg = arg;
    x->close_soon = true;
    advance(export);
}

/* ---- What comes next ---- */

static void work_destroy(struct call *call)
{
    if (call->export->private->parsed && call->export->handler->destroy != NULL)
        call->export->handler->destroy(&call->export->dev);
}

static void end_destroy(struct call *call)
{
    call->export->private->parsed = false;
}

static void vanish(struct export *export)
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

static void tell_closed(struct export_private *x)
{
    GArray *closers = x->closers;

    if (closers->len == 0)
        return;
    x->closers = g_array_new(FALSE, FALSE, sizeof(struct closer));
    for (guint i = 0; i < closers->len; i++) {
        struct closer *closer = &g_array_index(closers, struct closer, i);

        closer->on_closed(closer->arg);
    }
    g_array_free(closers, TRUE);
}

static void start_open(struct export *export)
{
    struct export_private *x = export->private;

    x->on_trial = x->try_now && x->waiters.length == 0;
    x->must_match = x->users > 0;
    x->registry->trials += x->on_trial;
    x->try_now = false;
    start_call(export, work_open, end_open);
}

static void advance_closed(struct export *export)
{
    struct export_private *x = export->private;

    if (x->users > 0 && (x->removed || x->delete_done != NULL))
        return; /* it was lost while they used it: they leave first */
    if (x->delete_done != NULL)
        start_call(export, work_delete, end_delete);
    else if (x->waiters.length > 0 || x->try_now)
        start_open(export);
    else if (x->removed && x->parsed)
        start_call(export, work_destroy, end_destroy);
    else if (x->removed)
        vanish(export);
    else
        tell_closed(x);
}

static void advance(struct export *export)
{
    struct export_private *x = export->private;

    if (x->busy)
        return;
    if (x->removed && x->waiters.length > 0) {
        struct nbd_failure why;

        nbd_fail(&why, ENOENT, "export \"%s\" has been removed", export->name);
        answer_all(x, -ENOENT, &why);
    }
    if (x->backstore == OPEN)
        x->try_now = false; /* it is */
    if (x->resize_done != NULL) {
        start_resize(export);
    } else if (x->backstore == CLOSED) {
        advance_closed(export);
    } else if (x->lost && !x->removed) {
        evtimer_del(x->linger);
        if (export->submitted == 0)
            start_call(export, work_close, end_close);
    } else if (x->waiters.length > 0 && x->delete_done == NULL && !x->stale && !x->troubled) {
        evtimer_del(x->linger);
        x->close_soon = false;
        start_call(export, work_probe, end_probe);
    } else if (x->look && !x->stale && !x->troubled) {
        start_call(export, work_probe, end_probe);
    } else if (x->users == 0 && (x->close_soon || x->stale)) {
        evtimer_del(x->linger);
        start_call(export, work_close, end_close);
    }
}
