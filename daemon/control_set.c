/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The control procedures that show and change what may change while an export is in use: its
 * settings and its access list. A change takes effect at once; the caller hears of it when
 * the state file has it too, and when that cannot be written it is taken back. Changes of one
 * export go one after the other, so that taking one back never meets another. Loop thread
 * only.
 */
#include "control_private.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "acl.h"
#include "log.h"
#include "registry.h"

#define TIMEOUT_MAX_S 86400
#define CONNECTIONS_MAX 1000000

struct change {
    struct server *server;
    struct rpc_call *call; /* NULL: the caller has gone */
    void *args;            /* the call's, until it is answered or gone */
    const struct change_kind *kind;
    char *name;
    char id[37];               /* of the export, once it is being changed; else "" */
    struct export_spec before; /* what export_apply() looks at, and readonly; own copies */
    char **entries;            /* of the new access list, NULL-terminated; strings borrowed */
};

struct change_kind {
    /* Change the spec as the arguments say. */
    int (*edit)(struct change *change, const struct export *export, struct export_spec *spec,
                struct nbd_failure *why);
    void (*reply)(struct rpc_call *call, const struct export *export);
};

/* struct change, in the order of the calls; the first one of each export is being saved. */
static GQueue changes = G_QUEUE_INIT;

/* ---- Settings as text ---- */

static int take_description(struct export_spec *spec, const char *value,
                            struct nbd_failure *why)
{
    (void)why;
    spec->description = value;
    return 0;
}

static int take_bool(const char *key, const char *value, bool *ret, struct nbd_failure *why)
{
    static const char *const words[] = {"no", "yes", "off", "on", "false", "true", "0", "1"};

    for (size_t i = 0; i < G_N_ELEMENTS(words); i++)
        if (strcmp(value, words[i]) == 0) {
            *ret = i % 2 == 1;
            return 0;
        }
    return nbd_fail(why, EINVAL, "%s is yes or no, not \"%s\"", key, value);
}

static int take_number(const char *key, const char *value, unsigned max, unsigned *ret,
                       struct nbd_failure *why)
{
    guint64 number;

    if (!g_ascii_string_to_unsigned(value, 10, 0, max, &number, NULL))
        return nbd_fail(why, EINVAL, "%s is a number from 0 to %u, not \"%s\"", key, max,
                        value);
    *ret = (unsigned)number;
    return 0;
}

static int take_hidden(struct export_spec *spec, const char *value, struct nbd_failure *why)
{
    return take_bool("hidden", value, &spec->hidden, why);
}

static int take_readonly(struct export_spec *spec, const char *value, struct nbd_failure *why)
{
    return take_bool("readonly", value, &spec->readonly, why);
}

static int take_max_connections(struct export_spec *spec, const char *value,
                                struct nbd_failure *why)
{
    return take_number("max_connections", value, CONNECTIONS_MAX, &spec->max_connections, why);
}

static int take_request_timeout(struct export_spec *spec, const char *value,
                                struct nbd_failure *why)
{
    return take_number("request_timeout", value, TIMEOUT_MAX_S, &spec->request_timeout_s, why);
}

static int take_drain_timeout(struct export_spec *spec, const char *value,
                              struct nbd_failure *why)
{
    return take_number("drain_timeout", value, TIMEOUT_MAX_S, &spec->drain_timeout_s, why);
}

static const char *show_bool(bool value)
{
    return value ? "yes" : "no";
}

static const struct {
    const char *key;
    int (*take)(struct export_spec *spec, const char *value, struct nbd_failure *why);
} settings[] = {
    {"description", take_description},
    {"hidden", take_hidden},
    {"readonly", take_readonly},
    {"max_connections", take_max_connections},
    {"request_timeout", take_request_timeout},
    {"drain_timeout", take_drain_timeout},
};

static int edit_setting(struct export_spec *spec, const nr_opt *opt, struct nbd_failure *why)
{
    for (size_t i = 0; i < G_N_ELEMENTS(settings); i++)
        if (strcmp(settings[i].key, opt->key) == 0)
            return settings[i].take(spec, opt->value, why);
    return nbd_fail(why, EINVAL,
                    "an export has no setting \"%s\" that can be changed; there are "
                    "description, hidden, readonly, max_connections, request_timeout and "
                    "drain_timeout",
                    opt->key);
}

static void add_setting(nr_settings *rows, GStringChunk *texts, const char *key,
                        const char *value)
{
    nr_opt *row = &rows->rows.rows_val[rows->rows.rows_len++];

    row->key = (char *)key;
    row->value = control_text(texts, value, NR_OPTVAL_MAX);
}

static void add_number(nr_settings *rows, GStringChunk *texts, const char *key, unsigned value)
{
    char text[16];

    g_snprintf(text, sizeof(text), "%u", value);
    add_setting(rows, texts, key, g_string_chunk_insert(texts, text));
}

static void reply_settings(struct rpc_call *call, const struct export *export)
{
    GStringChunk *texts = g_string_chunk_new(512);
    nr_settings_res result = {.code = NR_OK};
    nr_settings *rows = &result.nr_settings_res_u.settings;
    nr_opt row[G_N_ELEMENTS(settings)];

    rows->rows.rows_val = row;
    add_setting(rows, texts, "description", export->description);
    add_setting(rows, texts, "hidden", show_bool(export->hidden));
    add_setting(rows, texts, "readonly", show_bool(export->readonly));
    add_number(rows, texts, "max_connections", export->max_connections);
    add_number(rows, texts, "request_timeout", export->request_timeout_s);
    add_number(rows, texts, "drain_timeout", export->drain_timeout_s);
    rpc_reply(call, &result);
    g_string_chunk_free(texts);
}

/* ---- One change ---- */

static void clear_before(struct change *change)
{
    g_free((char *)change->before.description);
    g_strfreev((char **)change->before.acl);
    change->before.description = NULL;
    change->before.acl = NULL;
}

static void change_free(struct change *change)
{
    g_queue_remove(&changes, change);
    clear_before(change);
    g_free(change->entries);
    g_free(change->name);
    g_free(change);
}

static void remember(struct change *change, const struct export *export)
{
    export_get_spec(export, &change->before);
    change->before.description = g_strdup(export->description);
    change->before.acl = (const char *const *)g_strdupv((char **)acl_entries(export->acl));
    g_strlcpy(change->id, export->id, sizeof(change->id));
}

/* The export may have gone, and another one may have got its name. */
static struct export *changed_export(const struct change *change)
{
    struct export *export = registry_find(change->server->registry, change->name);

    return export != NULL && strcmp(export->id, change->id) == 0 ? export : NULL;
}

static void start_change(struct change *change);

/* The first one of those that concern an export of this name. */
static struct change *first_change(const struct server *server, const char *name)
{
    for (GList *link = changes.head; link != NULL; link = link->next) {
        struct change *change = link->data;

        if (change->server == server && strcmp(change->name, name) == 0)
            return change;
    }
    return NULL;
}

/* It is over: the next one of the same export may begin. */
static void finish_change(struct change *change)
{
    g_autofree char *name = g_strdup(change->name);
    const struct server *server = change->server;

    change_free(change);
    change = first_change(server, name);
    if (change != NULL)
        start_change(change);
}

static void take_back(struct change *change, struct export *export)
{
    struct nbd_failure ignored;

    if (export_apply(export, &change->before, &ignored) == 0 &&
        export_set_readonly(export, change->before.readonly, &ignored) < 0)
        log_warning("export \"%s\" stays %s until its clients have left, which is not saved",
                    export->name, export->readonly ? "read-only" : "writable");
    store_changed(change->server->store, export);
}

static void on_change_saved(void *arg, int result, const struct nbd_failure *why)
{
    struct change *change = arg;
    struct export *export = changed_export(change);

    if (result < 0 && export != NULL)
        take_back(change, export);
    if (change->call != NULL && export == NULL)
        control_refuse(change->call, NR_ENOENT, ENOENT, "export \"%s\" was removed meanwhile",
                       change->name);
    else if (change->call != NULL && result < 0)
        control_refuse(change->call, control_code_of(-result), -result,
                       "export \"%s\" is not "
                       "changed, since that cannot be saved: %s",
                       change->name, why->message);
    else if (change->call != NULL)
        change->kind->reply(change->call, export);
    finish_change(change);
}

static bool check_owner(struct rpc_call *call, const struct export *export)
{
    if (export->origin == EXPORT_BY_RPC)
        return true;
    control_refuse(
        call, NR_EPERM, 0, "export \"%s\" was defined by %s; change it there", export->name,
        export->origin == EXPORT_BY_CONFIG ? export->origin_file : "the command line");
    return false;
}

/* An export that is coming or going is not for the state file. */
static bool check_lasting(struct rpc_call *call, const struct export *export)
{
    const struct job *job = export->job;

    if (job == NULL || (job->kind != JOB_CREATE && job->kind != JOB_DELETE))
        return true;
    control_refuse(call, NR_EBUSY, EBUSY,
                   "a %s job runs on export \"%s\"; wait for its end "
                   "(\"nbd-cli job wait %s\")",
                   job_kind_name(job->kind), export->name, job->id);
    return false;
}

/* Either the mode or the list is what may be refused, never both: no change edits both. */
static int apply(struct change *change, struct export *export, struct nbd_failure *why)
{
    struct export_spec spec;
    int r;

    export_get_spec(export, &spec);
    r = change->kind->edit(change, export, &spec, why);
    if (r == 0)
        r = export_set_readonly(export, spec.readonly, why);
    return r == 0 ? export_apply(export, &spec, why) : r;
}

static void start_change(struct change *change)
{
    static const nr_backstore none = {.handler = (char *)"", .target = (char *)""};
    struct nbd_failure why;
    struct export *export = control_find_export(change->server, change->name, &none, &why);
    int r = export == NULL ? -ENOENT : 0;

    if (export != NULL &&
        (!check_owner(change->call, export) || !check_lasting(change->call, export))) {
        finish_change(change);
        return;
    }
    if (r == 0) {
        remember(change, export);
        r = apply(change, export, &why);
    }
    if (r < 0) {
        control_refuse_failure(change->call, &why);
        finish_change(change);
        return;
    }
    log_event(NBD_LOG_INFO, export->name, rpc_call_peer(change->call),
              "control client %s: changed the settings of export \"%s\"",
              rpc_call_peer(change->call), export->name);
    store_changed(change->server->store, export);
    store_save(change->server->store, on_change_saved, change);
}

static void on_caller_gone(void *arg)
{
    struct change *change = arg;

    change->call = NULL;
    change->args = NULL;
    if (*change->id == '\0') /* it had not begun */
        change_free(change);
}

static void begin_change(struct rpc_call *call, struct server *server, const char *name,
                         void *args, const struct change_kind *kind)
{
    struct change *change;

    if (!control_may_change(call, server))
        return;
    change = g_new0(struct change, 1);
    change->server = server;
    change->call = call;
    change->args = args;
    change->kind = kind;
    change->name = g_strdup(name);
    g_queue_push_tail(&changes, change);
    rpc_call_on_gone(call, on_caller_gone, change);
    if (first_change(server, name) == change)
        start_change(change);
}

/* ---- Settings ---- */

static int edit_settings(struct change *change, const struct export *export,
                         struct export_spec *spec, struct nbd_failure *why)
{
    const nr_export_set_args *args = change->args;
    int r = 0;

    (void)export;
    for (u_int i = 0; r == 0 && i < args->settings.rows.rows_len; i++)
        r = edit_setting(spec, &args->settings.rows.rows_val[i], why);
    return r;
}

void control_export_set(struct rpc_call *call, void *args, void *arg)
{
    static const struct change_kind kind = {.edit = edit_settings, .reply = reply_settings};
    nr_export_set_args *a = args;

    for (u_int i = 0; i < a->settings.rows.rows_len; i++)
        if (!control_check_text(call, a->settings.rows.rows_val[i].key, "key") ||
            !control_check_text(call, a->settings.rows.rows_val[i].value,
                                a->settings.rows.rows_val[i].key))
            return;
    begin_change(call, arg, a->name, args, &kind);
}

/* The export that is asked about. NULL: the call has been refused. */
static struct export *find_export(struct rpc_call *call, const struct server *server,
                                  const char *name)
{
    static const nr_backstore none = {.handler = (char *)"", .target = (char *)""};
    struct nbd_failure why;
    struct export *export = control_find_export(server, name, &none, &why);

    if (export == NULL)
        control_refuse_failure(call, &why);
    return export;
}

void control_export_settings(struct rpc_call *call, void *args, void *arg)
{
    const nr_name_args *a = args;
    const struct export *export = find_export(call, arg, a->name);

    if (export != NULL)
        reply_settings(call, export);
}

/* ---- The access list ---- */

static void reply_acl(struct rpc_call *call, const struct export *export)
{
    const char *const *entries = acl_entries(export->acl);
    nr_acl_res result = {.code = NR_OK};
    nr_acl *acl = &result.nr_acl_res_u.acl;

    acl->default_deny = acl_default_deny(export->acl);
    acl->entries.entries_val = (nr_text *)entries; /* encoding only reads them */
    acl->entries.entries_len = MIN(g_strv_length((char **)entries), (u_int)NR_ACL_MAX);
    rpc_reply(call, &result);
}

static bool has_entry(const GPtrArray *entries, const char *entry)
{
    return g_ptr_array_find_with_equal_func((GPtrArray *)entries, entry, g_str_equal, NULL);
}

static int edit_entries(const nr_acl_set_args *args, GPtrArray *entries,
                        struct nbd_failure *why)
{
    for (u_int i = 0; i < args->acl.entries.entries_len; i++) {
        const char *entry = args->acl.entries.entries_val[i];
        guint at;

        if (args->op != NR_A_DEL && !has_entry(entries, entry)) {
            g_ptr_array_add(entries, (char *)entry);
        } else if (args->op == NR_A_DEL) {
            if (!g_ptr_array_find_with_equal_func(entries, entry, g_str_equal, &at))
                return nbd_fail(why, ENOENT,
                                "the access list of export \"%s\" has no entry "
                                "\"%s\"",
                                args->name, entry);
            g_ptr_array_remove_index(entries, at);
        }
    }
    if (entries->len > NR_ACL_MAX)
        return nbd_fail(why, EMFILE,
                        "the access list of export \"%s\" would have %u entries; "
                        "at most %d are allowed: use networks",
                        args->name, entries->len, NR_ACL_MAX);
    return 0;
}

/* The new list borrows from the old one and from the arguments; export_apply() copies it. */
static int edit_acl(struct change *change, const struct export *export,
                    struct export_spec *spec, struct nbd_failure *why)
{
    const nr_acl_set_args *args = change->args;
    g_autoptr(GPtrArray) entries = g_ptr_array_new();
    int r;

    if (args->op == NR_A_DEFAULT_DENY) {
        spec->default_deny = args->acl.default_deny;
        return 0;
    }
    for (const char *const *entry = acl_entries(export->acl);
         args->op != NR_A_REPLACE && *entry != NULL; entry++)
        g_ptr_array_add(entries, (char *)*entry);
    r = edit_entries(args, entries, why);
    if (r < 0)
        return r;
    g_ptr_array_add(entries, NULL);
    change->entries = (char **)g_ptr_array_free(g_steal_pointer(&entries), FALSE);
    spec->acl = (const char *const *)change->entries;
    return 0;
}

void control_acl_get(struct rpc_call *call, void *args, void *arg)
{
    const nr_name_args *a = args;
    const struct export *export = find_export(call, arg, a->name);

    if (export != NULL)
        reply_acl(call, export);
}

void control_acl_set(struct rpc_call *call, void *args, void *arg)
{
    static const struct change_kind kind = {.edit = edit_acl, .reply = reply_acl};
    nr_acl_set_args *a = args;

    if (a->op < NR_A_REPLACE || a->op > NR_A_DEFAULT_DENY) {
        control_refuse(call, NR_EINVAL, EINVAL,
                       "the field \"op\" has the value %d, which this "
                       "version does not know",
                       (int)a->op);
        return;
    }
    for (u_int i = 0; i < a->acl.entries.entries_len; i++)
        if (!control_check_text(call, a->acl.entries.entries_val[i], "entry"))
            return;
    begin_change(call, arg, a->name, args, &kind);
}
