/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * export list, export show: what the daemon knows about its exports.
 */
#include "answer.h"
#include "command.h"
#include "counting.h"
#include "listing.h"
#include "output.h"
#include "size.h"

#include <glib.h>
#include <inttypes.h>
#include <string.h>

const struct word words_export_name[] = {
    {.name = "EXPORT",
     .kind = WORD_POSITION,
     .min = 1,
     .max = NR_NAME_MAX,
     .help = "name of the export"},
    {.name = NULL},
};

static void print_export_row(struct table *table, const nr_export *x)
{
    char size[SIZE_TEXT_MAX];

    table_add(table, x->name);
    table_add(table, export_state_word(x->state));
    table_add(table, size_format(x->size, size));
    table_add(table, x->readonly ? "yes" : "no");
    table_add_format(table, "%u", x->connections);
    table_add_format(table, "%u", x->mappings.mappings_len);
    table_add_format(table, "%s:%s", x->store.handler, x->store.target);
}

/* An export and what was counted about it. */
static json_object *row_json(const nr_export *x, const struct counting *counting)
{
    json_object *object = export_json(x);

    if (counting->head != NULL)
        json_object_object_add(object, "counters",
                               counters_row_json(counting_find(counting, x->name)));
    return object;
}

int cmd_export_list(struct cli *cli, struct failure *why)
{
    static const char *const titles[] = {"EXPORT", "STATE",    "SIZE",      "RO",
                                         "CONN",   "MAPPINGS", "BACKSTORE", NULL};
    struct counting counting = {0};
    struct listing listing;
    struct table *table;
    json_object *array;
    int r = listing_fetch(cli, "", NR_L_ALL, &listing, why);

    if (r == 0 && cli->json) {
        r = counting_fetch(cli, "", &counting, why);
        if (r != 0)
            listing_clear(&listing);
    }
    if (r != 0)
        return r;
    table = table_new(titles);
    array = json_object_new_array();
    for (guint i = 0; i < listing.exports->len; i++) {
        print_export_row(table, g_ptr_array_index(listing.exports, i));
        json_object_array_add(array,
                              row_json(g_ptr_array_index(listing.exports, i), &counting));
    }
    table_paint(table, "STATE");
    if (!cli->json)
        table_print(table, cli->out);
    json_object_object_add(cli_answer(cli), "exports", array);
    table_free(table);
    listing_clear(&listing);
    counting_clear(&counting);
    return 0;
}

static void say_mapping(struct cli *cli, const nr_mapping *mapping)
{
    cli_say(cli,
            "mapping        %s %s on %s since %s, %u of %u connections, timeout %u s, "
            "dead-timeout %u s%s",
            map_state_word(mapping->state),
            mapping->device[0] != '\0' ? mapping->device : "(no device yet)", mapping->client,
            time_text(mapping->since), mapping->connected, mapping->connections,
            mapping->timeout_s, mapping->dead_timeout_s,
            mapping->readonly ? ", readonly" : "");
}

static void say_export(struct cli *cli, const nr_export *x)
{
    g_autofree char *flags = flags_text(x->flags);
    char size[SIZE_TEXT_MAX];

    cli_say(cli, "export         %s", x->name);
    if (x->description[0] != '\0')
        cli_say(cli, "description    %s", x->description);
    cli_say(cli, "backstore      %s %s", x->store.handler, x->store.target);
    for (u_int i = 0; i < x->store.opts.opts_len; i++)
        cli_say(cli, "opt            %s=%s", x->store.opts.opts_val[i].key,
                x->store.opts.opts_val[i].value);
    cli_say(cli, "state          %s", export_state_word(x->state));
    if (x->fault.message[0] != '\0')
        cli_say(cli, "fault          %s", x->fault.message);
    cli_say(cli, "size           %s (%" PRIu64 " bytes)", size_format(x->size, size), x->size);
    cli_say(cli, "block sizes    %u minimum, %u preferred, %u maximum", x->blk_min,
            x->blk_pref, x->blk_max);
    cli_say(cli, "flags          %s", x->flags == 0 ? "not opened yet" : flags);
    cli_say(cli, "readonly       %s", x->readonly ? "yes" : "no");
    cli_say(cli, "origin         %s%s%s", origin_word(x->origin),
            x->origin_file[0] != '\0' ? " " : "", x->origin_file);
    cli_say(cli, "created        %s", time_text(x->created));
    if (x->max_connections != 0)
        cli_say(cli, "connections    %u of %u", x->connections, x->max_connections);
    else
        cli_say(cli, "connections    %u", x->connections);
    if (x->job[0] != '\0')
        cli_say(cli, "job            %s", x->job);
    cli_say(cli, "id             %s", x->id);
    for (u_int i = 0; i < x->mappings.mappings_len; i++)
        say_mapping(cli, &x->mappings.mappings_val[i]);
}

/* What can be set, and who may connect. A daemon of before these has neither. */
static int show_changeable(struct cli *cli, nr_name_args *args, struct failure *why)
{
    nr_settings_res settings;
    nr_acl_res acl;
    const nr_acl *list = &acl.nr_acl_res_u.acl;
    int r = client_call(cli->client, NR_EXPORT_SETTINGS, args, &settings, why);

    if (r != 0)
        return strcmp(why->code, "ENOTSUP") == 0 ? 0 : r;
    for (u_int i = 0; i < settings.nr_settings_res_u.settings.rows.rows_len; i++) {
        const nr_opt *row = &settings.nr_settings_res_u.settings.rows.rows_val[i];

        if (strcmp(row->key, "hidden") == 0)
            cli_say(cli, "hidden         %s", row->value);
        if (strcmp(row->key, "request_timeout") == 0 && strcmp(row->value, "0") != 0)
            cli_say(cli, "time limit     %s s for a request", row->value);
        if (strcmp(row->key, "drain_timeout") == 0 && strcmp(row->value, "0") != 0)
            cli_say(cli, "drain limit    %s s for clients to leave", row->value);
    }
    json_object_object_add(cli_answer(cli), "settings",
                           settings_json(&settings.nr_settings_res_u.settings));
    client_free(NR_EXPORT_SETTINGS, &settings);
    r = client_call(cli->client, NR_ACL_GET, args, &acl, why);
    if (r != 0)
        return r;
    for (u_int i = 0; i < list->entries.entries_len; i++)
        cli_say(cli, "acl            %s", list->entries.entries_val[i]);
    if (list->entries.entries_len == 0)
        cli_say(cli, "acl            %s", list->default_deny ? "nobody" : "everybody");
    json_object_object_add(cli_answer(cli), "acl", acl_json(list));
    client_free(NR_ACL_GET, &acl);
    return 0;
}

static void say_counters(struct cli *cli, const nr_counters_row *row)
{
    const nr_counters *counters = &row->counters;
    char read[SIZE_TEXT_MAX], written[SIZE_TEXT_MAX];

    cli_say(cli, "requests       %" PRIu64 " (%u in flight, %" PRIu64 " failed)",
            counters_requests(counters), row->in_flight, counters_errors(counters));
    cli_say(cli, "bytes          %s read, %s written",
            size_format(counters_bytes(counters, 0), read),
            size_format(counters_bytes(counters, 1), written));
}

static int show_counters(struct cli *cli, const char *name, struct failure *why)
{
    const nr_counters_row *row;
    struct counting counting;
    int r = counting_fetch(cli, name, &counting, why);

    if (r != 0)
        return r;
    row = counting_find(&counting, name);
    if (row != NULL)
        say_counters(cli, row);
    json_object_object_add(cli_answer(cli), "counters", counters_row_json(row));
    counting_clear(&counting);
    return 0;
}

int cmd_export_show(struct cli *cli, struct failure *why)
{
    nr_name_args args = {.name = (char *)words_text(&cli->words, "EXPORT", "")};
    nr_export_res res;
    bool is_leaving;
    int r = cli_client(cli, why);

    if (r == 0)
        r = client_call(cli->client, NR_EXPORT_GET, &args, &res, why);
    if (r != 0)
        return r;
    is_leaving = res.nr_export_res_u.x.state == NR_X_DRAINING;
    say_export(cli, &res.nr_export_res_u.x);
    json_object_object_add(cli_answer(cli), "export", export_json(&res.nr_export_res_u.x));
    client_free(NR_EXPORT_GET, &res);
    r = show_counters(cli, args.name, why);
    if (r != 0 || is_leaving) /* what could be changed of it has gone with its name */
        return r;
    return show_changeable(cli, &args, why);
}
