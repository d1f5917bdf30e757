/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * export set, export sync, acl: what changes on an export while it is in use.
 */
#include "answer.h"
#include "command.h"
#include "follow.h"
#include "output.h"

#include <glib.h>
#include <string.h>

#define WORD_EXPORT                                                                           \
    {                                                                                         \
        .name = "EXPORT", .kind = WORD_POSITION, .min = 1, .max = NR_NAME_MAX,                \
        .help = "name of the export"                                                          \
    }

/* The names on the wire have '_' for '-'. */
const struct word words_export_set[] = {
    WORD_EXPORT,
    {.name = "description",
     .kind = WORD_VALUE,
     .value = "TEXT",
     .max = NR_TEXT_MAX,
     .help = "shown to clients that ask"},
    {.name = "hidden",
     .kind = WORD_VALUE,
     .value = "yes|no",
     .min = 1,
     .max = 8,
     .help = "not in the list that clients see"},
    {.name = "readonly",
     .kind = WORD_VALUE,
     .value = "yes|no",
     .min = 1,
     .max = 8,
     .help = "nobody can write to it; not while it is in use"},
    {.name = "max-connections",
     .kind = WORD_VALUE,
     .type = TYPE_NUMBER,
     .value = "N",
     .max = 1000000,
     .help = "how many at the same time (0: as the daemon's max_export_connections)"},
    {.name = "request-timeout",
     .kind = WORD_VALUE,
     .type = TYPE_SECONDS,
     .value = "TIME",
     .max = 86400,
     .help = "a request that takes longer fails (0: as the daemon's request_timeout)"},
    {.name = "drain-timeout",
     .kind = WORD_VALUE,
     .type = TYPE_SECONDS,
     .value = "TIME",
     .max = 86400,
     .help = "how long clients may stay when it is deleted by force (0: not at all)"},
    {.name = "size",
     .kind = WORD_VALUE,
     .type = TYPE_SIZE,
     .value = "SIZE",
     .help = "of the backing store, as 'BACKSTORE resize' does it"},
    {.name = "shrink",
     .kind = WORD_FLAG,
     .help = "although what is behind the new end is lost"},
    {.name = NULL},
};

const struct word words_export_sync[] = {
    WORD_EXPORT,
    WORDS_WAIT,
    {.name = NULL},
};

const struct word words_acl[] = {
    WORD_EXPORT,
    {.name = "show", .kind = WORD_FLAG, .help = "who may connect (default)"},
    {.name = "set", .kind = WORD_FLAG, .help = "exactly these entries; none: no entries"},
    {.name = "add", .kind = WORD_FLAG, .help = "these as well"},
    {.name = "del", .kind = WORD_FLAG, .help = "these no longer"},
    {.name = "default-deny",
     .kind = WORD_VALUE,
     .value = "on|off",
     .min = 1,
     .max = 8,
     .help = "without entries nobody may connect (on), or everybody (off)"},
    {.name = "ENTRY",
     .kind = WORD_MANY,
     .min = 1,
     .max = NR_TEXT_MAX,
     .help = "an address or a network: 192.0.2.7, 10.0.0.0/8, ::1, 2001:db8::/32"},
    {.name = NULL},
};

static int read_bool(const char *name, const char *text, bool *ret, struct failure *why)
{
    static const char *const words[] = {"no", "yes", "off", "on", "false", "true", "0", "1"};

    for (size_t i = 0; i < G_N_ELEMENTS(words); i++)
        if (strcmp(text, words[i]) == 0) {
            *ret = i % 2 == 1;
            return 0;
        }
    return fail_with(why, STATUS_USAGE, "%s '%.64s' is none of yes, no, on, off", name, text);
}

/* ---- Settings ---- */

json_object *settings_json(const nr_settings *settings)
{
    json_object *object = json_object_new_object();

    for (u_int i = 0; i < settings->rows.rows_len; i++) {
        const nr_opt *row = &settings->rows.rows_val[i];
        guint64 number;

        if (strcmp(row->key, "description") == 0)
            json_put_text(object, row->key, row->value);
        else if (strcmp(row->value, "yes") == 0 || strcmp(row->value, "no") == 0)
            json_put_bool(object, row->key, row->value[0] == 'y');
        else if (g_ascii_string_to_unsigned(row->value, 10, 0, G_MAXUINT64, &number, NULL))
            json_put_number(object, row->key, number);
        else
            json_put_text(object, row->key, row->value);
    }
    return object;
}

static void answer_settings(struct cli *cli, const nr_settings *settings)
{
    json_object *object = settings_json(settings);

    for (u_int i = 0; i < settings->rows.rows_len; i++) {
        g_autofree char *key =
            g_strdelimit(g_strdup(settings->rows.rows_val[i].key), "_", '-');

        cli_say(cli, "%-16s %s", key, settings->rows.rows_val[i].value);
    }
    json_object_object_add(cli_answer(cli), "settings", object);
}

/* The given words as rows; the caller frees keys and values. */
static int collect_settings(const struct words *words, GArray *rows, struct failure *why)
{
    for (const struct word *word = words_export_set + 1; word->name != NULL; word++) {
        nr_opt row;
        bool value = false;
        int r;

        if (!words_has(words, word->name) || strcmp(word->name, "size") == 0 ||
            strcmp(word->name, "shrink") == 0)
            continue;
        if (g_strcmp0(word->value, "yes|no") == 0) {
            r = read_bool(word->name, words_text(words, word->name, ""), &value, why);
            if (r != 0)
                return r;
            row.value = g_strdup(value ? "yes" : "no");
        } else if (word->type == TYPE_TEXT) {
            row.value = g_strdup(words_text(words, word->name, ""));
        } else {
            row.value = g_strdup_printf("%" G_GUINT64_FORMAT,
                                        (guint64)words_number(words, word->name, 0));
        }
        row.key = g_strdelimit(g_strdup(word->name), "-", '_');
        g_array_append_val(rows, row);
    }
    return 0;
}

static void clear_row(gpointer data)
{
    nr_opt *row = data;

    g_free(row->key);
    g_free(row->value);
}

static int change_settings(struct cli *cli, const char *name, GArray *rows,
                           struct failure *why)
{
    nr_export_set_args args = {.name = (char *)name};
    nr_settings_res res;
    int r = cli_client(cli, why);

    args.settings.rows.rows_val = (nr_opt *)(void *)rows->data;
    args.settings.rows.rows_len = rows->len;
    if (r == 0)
        r = client_call(cli->client, NR_EXPORT_SET, &args, &res, why);
    if (r != 0)
        return r;
    answer_settings(cli, &res.nr_settings_res_u.settings);
    client_free(NR_EXPORT_SET, &res);
    return 0;
}

int cmd_export_set(struct cli *cli, struct failure *why)
{
    static const nr_backstore none = {.handler = (char *)"", .target = (char *)""};
    const char *name = words_text(&cli->words, "EXPORT", "");
    g_autoptr(GArray) rows = g_array_new(FALSE, FALSE, sizeof(nr_opt));
    bool resizes = words_has(&cli->words, "size");
    int r;

    g_array_set_clear_func(rows, clear_row);
    r = collect_settings(&cli->words, rows, why);
    if (r == 0 && words_has(&cli->words, "shrink") && !resizes)
        r = fail_with(why, STATUS_USAGE, "'shrink' goes with 'size SIZE'");
    if (r == 0 && rows->len == 0 && !resizes)
        r = fail_with(why, STATUS_USAGE,
                      "nothing to set; 'nbd-cli export set help' lists "
                      "the settings");
    json_put_text(cli_answer(cli), "export", name);
    if (r == 0 && rows->len > 0)
        r = change_settings(cli, name, rows, why);
    if (r == 0 && resizes)
        r = resize_export(cli, name, &none, why);
    return r;
}

/* ---- The access list ---- */

json_object *acl_json(const nr_acl *acl)
{
    json_object *object = json_object_new_object(), *entries = json_object_new_array();

    json_put_bool(object, "default_deny", acl->default_deny);
    for (u_int i = 0; i < acl->entries.entries_len; i++)
        json_object_array_add(entries, json_object_new_string(acl->entries.entries_val[i]));
    json_object_object_add(object, "entries", entries);
    return object;
}

static void answer_acl(struct cli *cli, const char *name, const nr_acl *acl)
{
    cli_say(cli, "default-deny %s", acl->default_deny ? "on" : "off");
    for (u_int i = 0; i < acl->entries.entries_len; i++)
        cli_say(cli, "%s", acl->entries.entries_val[i]);
    if (acl->entries.entries_len == 0)
        cli_say(cli, "no entries: %s may connect", acl->default_deny ? "nobody" : "everybody");
    json_put_text(cli_answer(cli), "export", name);
    json_object_object_add(cli_answer(cli), "acl", acl_json(acl));
}

/* The one thing that the words ask for. */
static int read_acl_op(const struct words *words, bool *ret_shows, nr_acl_op *ret_op,
                       struct failure *why)
{
    static const struct {
        const char *word;
        bool shows;
        nr_acl_op op;
    } ops[] = {
        {"show", true, NR_A_REPLACE},
        {"set", false, NR_A_REPLACE},
        {"add", false, NR_A_ADD},
        {"del", false, NR_A_DEL},
        {"default-deny", false, NR_A_DEFAULT_DENY},
    };
    const char *given = NULL;

    *ret_shows = true;
    for (size_t i = 0; i < G_N_ELEMENTS(ops); i++) {
        if (!words_has(words, ops[i].word))
            continue;
        if (given != NULL)
            return fail_with(why, STATUS_USAGE, "'%s' and '%s' exclude each other", given,
                             ops[i].word);
        given = ops[i].word;
        *ret_shows = ops[i].shows;
        *ret_op = ops[i].op;
    }
    if (words->n_list > 0 && (*ret_shows || *ret_op == NR_A_DEFAULT_DENY))
        return fail_with(why, STATUS_USAGE, "'%.64s': entries go with 'set', 'add' or 'del'",
                         words->list[0]);
    if (words->n_list == 0 && !*ret_shows && (*ret_op == NR_A_ADD || *ret_op == NR_A_DEL))
        return fail_with(why, STATUS_USAGE, "'%s' needs an entry: an address or a network",
                         given);
    if (words->n_list > NR_ACL_MAX)
        return fail_with(why, STATUS_USAGE, "more than %d entries; use networks", NR_ACL_MAX);
    return 0;
}

static int call_acl(struct cli *cli, bool shows, nr_acl_set_args *args, nr_acl_res *res,
                    struct failure *why)
{
    nr_name_args name = {.name = args->name};
    int r = cli_client(cli, why);

    if (r != 0)
        return r;
    return shows ? client_call(cli->client, NR_ACL_GET, &name, res, why)
                 : client_call(cli->client, NR_ACL_SET, args, res, why);
}

int cmd_acl(struct cli *cli, struct failure *why)
{
    const char *name = words_text(&cli->words, "EXPORT", "");
    const char *deny = words_text(&cli->words, "default-deny", "no");
    nr_acl_set_args args = {.name = (char *)name};
    bool shows, is_denying = false;
    nr_acl_res res;
    int r = read_acl_op(&cli->words, &shows, &args.op, why);

    if (r == 0)
        r = read_bool("default-deny", deny, &is_denying, why);
    args.acl.default_deny = is_denying;
    args.acl.entries.entries_val = (nr_text *)cli->words.list; /* encoding only reads them */
    args.acl.entries.entries_len = (u_int)cli->words.n_list;
    if (r == 0)
        r = call_acl(cli, shows, &args, &res, why);
    if (r != 0)
        return r;
    answer_acl(cli, name, &res.nr_acl_res_u.acl);
    client_free(NR_ACL_GET, &res);
    return 0;
}

/* ---- Sync ---- */

int cmd_export_sync(struct cli *cli, struct failure *why)
{
    const char *name = words_text(&cli->words, "EXPORT", "");
    nr_name_args args = {.name = (char *)name};
    g_autofree char *success = g_strdup_printf("Export %s is on stable storage.", name);
    nr_job_res res;
    int r = cli_client(cli, why);

    if (r == 0)
        r = client_call(cli->client, NR_SYNC, &args, &res, why);
    return r == 0 ? finish_job(cli, NR_SYNC, &res, success, why) : r;
}
