/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Sections of configuration files as definitions of exports. A key is a row of the table
 * below; nbd-runner.conf(5) describes them. Any thread.
 */
#include "export_config.h"

#include <string.h>

#include "acl.h"
#include "log.h"
#include "nbd_protocol.h"
#include "setting.h"

#define OPT_PREFIX "opt."
#define SEPARATORS " \t,;"

/* One section while it is read. */
struct section {
    const struct ini *ini;
    const struct ini_section *section;
    const struct ini_entry *entry; /* the one that is read */
    GPtrArray *problems, *ignored;
    struct export_def *def;
    const struct ini_entry *exportname, *backstore, *target; /* NULL: not there */
    bool has_authfile;
};

struct key {
    const char *name;
    void (*take)(struct section *section, const struct key *key);
    size_t offset;   /* in struct export_def, for the plain kinds */
    int64_t most;
    uint16_t flag;
    const char *why; /* it is not supported: what to do instead */
};

/* ---- Problems ---- */

__attribute__((format(printf, 2, 3)))
static void complain(const struct section *section, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    ini_problem(section->problems, section->ini->file, section->entry->line, "%s: %s",
                section->entry->key, text);
}

static void complain_value(const struct section *section, const char *problem)
{
    const char *value = section->entry->value;
    g_autofree char *quoted = log_quote(value, strlen(value));

    complain(section, "%s %s", quoted, problem);
}

/* ---- Plain values ---- */

static void *field(const struct section *section, const struct key *key)
{
    return (char *)section->def + key->offset;
}

static bool parse_bool(const struct section *section, bool *ret)
{
    const char *value = section->entry->value;

    if (strcmp(value, "true") == 0 || strcmp(value, "1") == 0) {
        *ret = true;
        return true;
    }
    if (strcmp(value, "false") == 0 || strcmp(value, "0") == 0) {
        *ret = false;
        return true;
    }
    complain_value(section, "is neither true nor false");
    return false;
}

static void take_bool(struct section *section, const struct key *key)
{
    parse_bool(section, field(section, key));
}

static void take_number(struct section *section, const struct key *key)
{
    gint64 number;

    if (g_ascii_string_to_signed(section->entry->value, 10, 0, key->most, &number, NULL))
        *(unsigned *)field(section, key) = (unsigned)number;
    else
        complain(section, "\"%.64s\" is not a number from 0 to %" G_GINT64_FORMAT,
                 section->entry->value, (gint64)key->most);
}

static void take_size(struct section *section, const struct key *key)
{
    uint64_t bytes;

    if (!setting_parse_size(section->entry->value, &bytes) || bytes == 0)
        complain_value(section, "is not a size; give bytes, or a number with K, M, G or T");
    else
        *(uint64_t *)field(section, key) = bytes;
}

static void take_text(struct section *section, const struct key *key)
{
    char **text = field(section, key);

    g_free(*text);
    *text = g_strdup(section->entry->value);
}

/* Off or on whatever the handler says: true is the default. */
static void take_flag(struct section *section, const struct key *key)
{
    bool value = true;

    if (parse_bool(section, &value) && !value)
        section->def->flags_off |= key->flag;
}

static void take_rotational(struct section *section, const struct key *key)
{
    bool value = false;

    if (parse_bool(section, &value) && value)
        section->def->flags_on |= key->flag;
}

/* ---- What is served ---- */

static void take_exportname(struct section *section, const struct key *key)
{
    (void)key;
    section->exportname = section->entry;
    if (strstr(section->entry->value, "%s") != NULL)
        complain(section, "a file for each client (%%s) is not supported by this version; if "
                 "the name of the file has these characters, write it as target");
}

static void take_backstore(struct section *section, const struct key *key)
{
    const char *value = section->entry->value;

    take_text(section, key);
    section->backstore = section->entry;
    if (value[0] == '\0' || strspn(value, "abcdefghijklmnopqrstuvwxyz0123456789") !=
                                strlen(value))
        complain_value(section, "is no backstore; file, gluster, ceph and nbd are");
}

static void take_target(struct section *section, const struct key *key)
{
    (void)key;
    section->target = section->entry;
}

static void take_detect_zeroes(struct section *section, const struct key *key)
{
    bool value = false;

    (void)key;
    if (strcmp(section->entry->value, "on") == 0)
        value = true;
    else if (strcmp(section->entry->value, "off") != 0 && !parse_bool(section, &value))
        return;
    g_hash_table_replace(section->def->opts, g_strdup("detect-zeroes"),
                         g_strdup(value ? "on" : "off"));
}

/* ---- Who may connect ---- */

static void add_network(struct section *section, const char *entry)
{
    char **acl = section->def->acl;
    guint length = g_strv_length(acl);

    section->def->acl = acl = g_renew(char *, acl, length + 2);
    acl[length] = g_strdup(entry);
    acl[length + 1] = NULL;
}

static void take_acl(struct section *section, const struct key *key)
{
    g_auto(GStrv) entries = g_strsplit_set(section->entry->value, SEPARATORS, -1);

    (void)key;
    for (char **entry = entries; *entry != NULL; entry++) {
        const char *const one[] = { *entry, NULL };
        struct nbd_failure why;
        struct acl *acl;

        if (**entry == '\0')
            continue;
        if (acl_new(one, &acl, &why) < 0) {
            complain(section, "%s", why.message);
            continue;
        }
        acl_free(acl);
        add_network(section, *entry);
    }
}

static void take_authfile_line(struct section *section, const char *path, unsigned line,
                               char *text)
{
    const char *const one[] = { text, NULL };
    struct nbd_failure why;
    struct acl *acl;

    text[strcspn(text, "#")] = '\0';
    g_strstrip(text);
    if (text[0] == '\0')
        return;
    if (acl_new(one, &acl, &why) < 0) {
        complain(section, "%s line %u: %s", path, line, why.message);
        return;
    }
    acl_free(acl);
    add_network(section, text);
}

/* nbd-server's list of addresses, one a line. Who is not in it may not connect; nbd-server
 * lets everybody in when it cannot read the file, we do not. */
static void take_authfile(struct section *section, const struct key *key)
{
    g_autofree char *path = NULL, *text = NULL;
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) lines = NULL;

    (void)key;
    if (section->entry->value[0] == '\0')
        return;
    path = g_canonicalize_filename(section->entry->value, section->ini->directory);
    if (!g_file_test(path, G_FILE_TEST_IS_REGULAR) ||
        !g_file_get_contents(path, &text, NULL, &error)) {
        complain(section, "cannot read %s: %s", path,
                 error != NULL ? error->message : "there is no such file");
        return;
    }
    section->has_authfile = true;
    lines = g_strsplit(text, "\n", -1);
    for (unsigned i = 0; lines[i] != NULL; i++)
        take_authfile_line(section, path, i + 1, lines[i]);
}

/* ---- Keys without meaning here ---- */

static void take_ignored(struct section *section, const struct key *key)
{
    (void)key;
    g_ptr_array_add(section->ignored, g_strdup_printf("%s in line %u", section->entry->key,
                                                      section->entry->line));
}

static void refuse(struct section *section, const struct key *key)
{
    complain(section, "not supported by this version%s%s", key->why != NULL ? "; " : "",
             key->why != NULL ? key->why : "");
}

/* "false" asks for nothing. */
static void refuse_if_true(struct section *section, const struct key *key)
{
    const char *value = section->entry->value;

    if (strcmp(value, "false") != 0 && strcmp(value, "0") != 0)
        refuse(section, key);
}

/* ---- The table ---- */

#define AT(member) .offset = offsetof(struct export_def, member)
#define ONE_LISTENER "every export is served on all addresses and ports of [generic]"
#define USE_NBD "for an export of another NBD server write backstore = nbd and " \
                "target = nbd://HOST:PORT/NAME"
#define NO_COMMANDS "run the command from the unit of nbd-runner, or from what changes the " \
                    "configuration"

static const struct key keys[] = {
    { .name = "exportname", .take = take_exportname },
    { .name = "backstore", .take = take_backstore, AT(handler) },
    { .name = "target", .take = take_target },
    { .name = "size", .take = take_size, AT(size) },
    { .name = "filesize", .take = take_size, AT(size) },
    { .name = "create", .take = take_bool, AT(create) },
    { .name = "prealloc", .take = take_bool, AT(prealloc) },
    { .name = "readonly", .take = take_bool, AT(readonly) },
    { .name = "flush", .take = take_flag, .flag = NBD_FLAG_SEND_FLUSH },
    { .name = "fua", .take = take_flag, .flag = NBD_FLAG_SEND_FUA },
    { .name = "trim", .take = take_flag, .flag = NBD_FLAG_SEND_TRIM },
    { .name = "sync", .take = take_bool, AT(sync) },
    { .name = "rotational", .take = take_rotational, .flag = NBD_FLAG_ROTATIONAL },
    { .name = "detect-zeroes", .take = take_detect_zeroes },
    { .name = "detect_zeroes", .take = take_detect_zeroes },
    { .name = "description", .take = take_text, AT(description) },
    { .name = "hidden", .take = take_bool, AT(hidden) },
    { .name = "acl", .take = take_acl },
    { .name = "authfile", .take = take_authfile },
    { .name = "default_deny", .take = take_bool, AT(default_deny) },
    { .name = "max_connections", .take = take_number, AT(max_connections), .most = 1000000 },
    { .name = "maxconnections", .take = take_number, AT(max_connections), .most = 1000000 },
    { .name = "request_timeout", .take = take_number, AT(request_timeout_s), .most = 86400 },
    { .name = "drain_timeout", .take = take_number, AT(drain_timeout_s), .most = 86400 },
    /* nbd-server's, which mean nothing here */
    { .name = "timeout", .take = take_ignored },
    { .name = "virtstyle", .take = take_ignored },
    { .name = "splice", .take = take_ignored },
    { .name = "sdp", .take = take_ignored },
    { .name = "cowdir", .take = take_ignored },
    { .name = "datalog", .take = take_ignored },
    { .name = "sparse_cow", .take = take_ignored },
    { .name = "listenaddr", .take = take_ignored }, /* neither does it there, any more */
    /* nbd-server's and our own, which are not there */
    { .name = "copyonwrite", .take = refuse_if_true,
      .why = "export a snapshot, or an overlay made by other means" },
    { .name = "multifile", .take = refuse_if_true, .why = "join the files by device mapper" },
    { .name = "treefiles", .take = refuse_if_true, .why = "use one sparse file" },
    { .name = "temporary", .take = refuse_if_true },
    { .name = "waitfile", .take = refuse_if_true },
    { .name = "force_tls", .take = refuse_if_true },
    { .name = "tlsonly", .take = refuse_if_true },
    { .name = "oldstyle", .take = refuse_if_true,
      .why = "clients have to use fixed newstyle negotiation" },
    { .name = "killswitch", .take = refuse_if_true },
    { .name = "bitmaps", .take = refuse },
    { .name = "blocksize", .take = refuse, .why = "clients are told what the storage has" },
    { .name = "transactionlog", .take = refuse },
    { .name = "prerun", .take = refuse, .why = NO_COMMANDS },
    { .name = "postrun", .take = refuse, .why = NO_COMMANDS },
    { .name = "port", .take = refuse, .why = ONE_LISTENER },
    { .name = "addr", .take = refuse, .why = ONE_LISTENER },
    { .name = "control_socket", .take = refuse, .why = "the daemon has one, rpc_socket" },
    { .name = "conn-addr", .take = refuse, .why = USE_NBD },
    { .name = "conn-port", .take = refuse, .why = USE_NBD },
    { .name = "bind", .take = refuse },
    { .name = "cache", .take = refuse },
};

static const struct key *find_key(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++)
        if (strcmp(keys[i].name, name) == 0)
            return &keys[i];
    return NULL;
}

static const char *nearest_key(const char *name)
{
    g_autofree char *head = g_strndup(name, 48);
    const char *nearest = keys[0].name;
    size_t least = SIZE_MAX;

    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        size_t distance = setting_distance(head, keys[i].name);

        if (distance < least) {
            least = distance;
            nearest = keys[i].name;
        }
    }
    return nearest;
}

/* ---- Sections ---- */

static void take_opt(struct section *section)
{
    const char *key = section->entry->key + strlen(OPT_PREFIX);

    if (key[0] == '\0')
        complain(section, "names no option; write " OPT_PREFIX "NAME = VALUE");
    else if (!g_hash_table_insert(section->def->opts, g_strdup(key),
                                  g_strdup(section->entry->value)))
        complain(section, "is set twice");
}

/* Two spellings of one key. */
static bool is_said_twice(const struct section *section, const struct key *key)
{
    for (guint i = 0; i < section->section->entries->len; i++) {
        const struct ini_entry *entry = section->section->entries->pdata[i];
        const struct key *other = find_key(entry->key);

        if (entry == section->entry)
            return false;
        if (other == NULL || key->take == refuse || key->take == take_ignored)
            continue;
        if (other->take == key->take && other->offset == key->offset &&
            other->flag == key->flag && key->take != refuse_if_true) {
            complain(section, "sets again what '%s' in line %u has set", entry->key,
                     entry->line);
            return true;
        }
    }
    return false;
}

static void take_entry(struct section *section)
{
    const struct key *key = find_key(section->entry->key);

    if (g_str_has_prefix(section->entry->key, OPT_PREFIX))
        take_opt(section);
    else if (key == NULL)
        ini_problem(section->problems, section->ini->file, section->entry->line,
                    "unknown key '%.64s': did you mean '%s'?", section->entry->key,
                    nearest_key(section->entry->key));
    else if (!is_said_twice(section, key))
        key->take(section, key);
}

/* Of a file, from the directory of the configuration file; others have their own forms. */
static char *make_target(const struct section *section, const char *value)
{
    if (strcmp(section->def->handler, "file") != 0 || value[0] == '\0')
        return g_strdup(value);
    return g_canonicalize_filename(value, section->ini->directory);
}

__attribute__((format(printf, 2, 3)))
static void complain_section(const struct section *section, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    ini_problem(section->problems, section->ini->file, section->section->line,
                "export \"%s\": %s", section->def->name, text);
}

static void settle_target(struct section *section)
{
    struct export_def *def = section->def;
    const struct ini_entry *named = section->exportname != NULL ? section->exportname
                                                                : section->target;

    if (def->handler == NULL)
        def->handler = g_strdup("file");
    if (section->exportname != NULL && (section->target != NULL || section->backstore != NULL))
        complain_section(section, "exportname means backstore = file with this target: give "
                         "either the one or the others");
    else if (named == NULL)
        complain_section(section, "what to serve is missing: exportname = FILE, or backstore "
                         "and target");
    def->target = make_target(section, named != NULL ? named->value : "");
}

/* What the keys mean together. */
static void settle(struct section *section)
{
    struct export_def *def = section->def;
    struct export_spec spec;
    struct nbd_failure why;

    settle_target(section);
    if (def->create && def->size == 0)
        complain_section(section, "create = true needs a size");
    if (def->create && def->readonly)
        complain_section(section, "create = true makes no sense with readonly = true");
    if (def->prealloc && !def->create)
        complain_section(section, "prealloc = true needs create = true");
    if (section->has_authfile && def->acl[0] == NULL)
        def->default_deny = true; /* the list is empty: nobody */
    if (section->problems->len > 0)
        return;
    export_def_get_spec(def, &spec);
    if (export_check_spec(&spec, &why) < 0)
        complain_section(section, "%s", why.message);
}

struct export_def *export_def_new(const struct ini *ini, const struct ini_section *section,
                                  GPtrArray *problems, GPtrArray *ignored)
{
    struct export_def *def = g_atomic_rc_box_new0(struct export_def);
    g_autoptr(GPtrArray) own = g_ptr_array_new();
    struct section s = { .ini = ini, .section = section, .problems = own, .ignored = ignored,
                         .def = def };
    bool good;

    def->name = g_strdup(section->name);
    def->file = g_strdup(ini->file);
    def->line = section->line;
    def->description = g_strdup("");
    def->opts = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    def->acl = g_new0(char *, 1);
    for (guint i = 0; i < section->entries->len; i++) {
        s.entry = section->entries->pdata[i];
        take_entry(&s);
    }
    if (own->len == 0)
        settle(&s);
    good = own->len == 0;
    g_ptr_array_extend_and_steal(problems, g_steal_pointer(&own));
    if (good)
        return def;
    export_def_unref(def);
    return NULL;
}

/* ---- Definitions ---- */

struct export_def *export_def_ref(struct export_def *def)
{
    return g_atomic_rc_box_acquire(def);
}

static void def_clear(void *data)
{
    struct export_def *def = data;

    g_free(def->name);
    g_free(def->file);
    g_free(def->handler);
    g_free(def->target);
    g_hash_table_unref(def->opts);
    g_free(def->description);
    g_strfreev(def->acl);
}

void export_def_unref(void *def)
{
    g_atomic_rc_box_release_full(def, def_clear);
}

static bool same_opts(GHashTable *a, GHashTable *b)
{
    GHashTableIter iter;
    void *key, *value;

    if (g_hash_table_size(a) != g_hash_table_size(b))
        return false;
    g_hash_table_iter_init(&iter, a);
    while (g_hash_table_iter_next(&iter, &key, &value))
        if (g_strcmp0(g_hash_table_lookup(b, key), value) != 0)
            return false;
    return true;
}

bool export_def_same_backing(const struct export_def *a, const struct export_def *b)
{
    return strcmp(a->handler, b->handler) == 0 && strcmp(a->target, b->target) == 0 &&
           same_opts(a->opts, b->opts) && a->size == b->size && a->readonly == b->readonly &&
           a->flags_off == b->flags_off && a->flags_on == b->flags_on && a->sync == b->sync;
}

bool export_def_same_limits(const struct export_def *a, const struct export_def *b)
{
    return strcmp(a->description, b->description) == 0 &&
           g_strv_equal((const gchar *const *)a->acl, (const gchar *const *)b->acl) &&
           a->default_deny == b->default_deny && a->hidden == b->hidden &&
           a->max_connections == b->max_connections &&
           a->request_timeout_s == b->request_timeout_s &&
           a->drain_timeout_s == b->drain_timeout_s;
}

void export_def_get_spec(const struct export_def *def, struct export_spec *ret_spec)
{
    *ret_spec = (struct export_spec){
        .name = def->name,
        .description = def->description,
        .handler = def->handler,
        .target = def->target,
        .opts = def->opts,
        .origin = EXPORT_BY_CONFIG,
        .origin_file = def->file,
        .size = def->size,
        .serve_bytes = def->size,
        .readonly = def->readonly,
        .sync = def->sync,
        .acl = (const char *const *)def->acl,
        .default_deny = def->default_deny,
        .hidden = def->hidden,
        .max_connections = def->max_connections,
        .request_timeout_s = def->request_timeout_s,
        .drain_timeout_s = def->drain_timeout_s,
        .flags_off = def->flags_off,
        .flags_on = def->flags_on,
    };
}
