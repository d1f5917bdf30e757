/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * status, clients, kick, log-level: the daemon as a whole and its connections.
 */
#include "answer.h"
#include "command.h"
#include "counting.h"
#include "greeting.h"
#include "output.h"
#include "size.h"

#include <glib.h>
#include <inttypes.h>
#include <string.h>
#include <strings.h>

#define LOOK_MS 3000 /* whether NBD answers, at all addresses together */

const struct word words_status[] = {
    {.name = "EXPORT",
     .kind = WORD_OPTIONAL,
     .min = 1,
     .max = NR_NAME_MAX,
     .help = "of this export (the daemon)"},
    {.name = NULL},
};

const struct word words_clients[] = {
    {.name = "EXPORT",
     .kind = WORD_OPTIONAL,
     .min = 1,
     .max = NR_NAME_MAX,
     .help = "only of this export (all)"},
    {.name = NULL},
};

const struct word words_kick[] = {
    {.name = "ID",
     .kind = WORD_POSITION,
     .value = "CLIENT-ID",
     .type = TYPE_NUMBER,
     .min = 0,
     .help = "as 'clients' shows it"},
    {.name = "reason",
     .kind = WORD_VALUE,
     .value = "TEXT",
     .max = NR_TEXT_MAX,
     .help = "for the daemon's log"},
    {.name = NULL},
};

const struct word words_log_level[] = {
    {.name = "LEVEL",
     .kind = WORD_POSITION,
     .value = "error|warning|info|debug",
     .min = 1,
     .max = 16,
     .help = "error, warning, info, debug, or syslog's number 0 to 7"},
    {.name = NULL},
};

/* key=value, one line; blanks and what else would break it as %XX. */
static void say_pair(GString *line, const char *key, const char *value)
{
    g_string_append_printf(line, "%s%s=", line->len > 0 ? " " : "", key);
    for (const unsigned char *p = (const unsigned char *)value; *p != '\0'; p++)
        if (*p <= ' ' || *p == '%' || *p == 0x7f)
            g_string_append_printf(line, "%%%02x", *p);
        else
            g_string_append_c(line, (char)*p);
}

static void say_number(GString *line, const char *key, uint64_t number)
{
    g_string_append_printf(line, "%s%s=%" PRIu64, line->len > 0 ? " " : "", key, number);
}

/* The first six keys and their order are flexnbd's. */
static int status_export(struct cli *cli, const char *name, unsigned pid, struct failure *why)
{
    nr_name_args args = {.name = (char *)name};
    g_autoptr(GString) line = g_string_new(NULL);
    nr_export_res res;
    const nr_export *x = &res.nr_export_res_u.x;
    int r = client_call(cli->client, NR_EXPORT_GET, &args, &res, why);
    bool is_listening;

    if (r != 0)
        return r;
    is_listening = x->state == NR_X_LISTENING || x->state == NR_X_FINALISING;
    say_number(line, "pid", pid);
    say_number(line, "size", x->size);
    say_pair(line, "is_mirroring", "false");
    say_pair(line, "clients_allowed", x->state == NR_X_READY ? "true" : "false");
    say_number(line, "num_clients", x->connections);
    say_pair(line, "has_control", is_listening ? "false" : "true");
    say_pair(line, "name", x->name);
    say_pair(line, "state", export_state_word(x->state));
    say_number(line, "mappings", x->mappings.mappings_len);
    if (x->fault.message[0] != '\0')
        say_pair(line, "last_error", x->fault.message);
    cli_say(cli, "%s", line->str);
    json_object_object_add(cli_answer(cli), "export", export_json(x));
    client_free(NR_EXPORT_GET, &res);
    return 0;
}

static void say_endpoints(GString *line, const char *key, const nr_endpoint *endpoints,
                          u_int count)
{
    g_autoptr(GString) list = g_string_new(NULL);

    for (u_int i = 0; i < count; i++) {
        g_autofree char *text = endpoint_text(&endpoints[i]);

        g_string_append_printf(list, "%s%s", i > 0 ? "," : "", text);
    }
    say_pair(line, key, list->str);
}

static void say_handlers(GString *line, const nr_status *status)
{
    g_autoptr(GString) list = g_string_new(NULL);

    for (u_int i = 0; i < status->handlers.handlers_len; i++)
        g_string_append_printf(list, "%s%s", i > 0 ? "," : "",
                               status->handlers.handlers_val[i]);
    say_pair(line, "handlers", list->str);
}

static void say_counting(GString *line, const nr_counters_ok *head)
{
    if (head == NULL)
        return;
    say_number(line, "zeroed_bytes", counters_bytes(&head->total, 2));
    say_number(line, "trimmed_bytes", counters_bytes(&head->total, 3));
    say_number(line, "errors", counters_errors(&head->total));
    say_number(line, "in_flight", head->in_flight);
    if (head->metrics_endpoints.metrics_endpoints_len > 0)
        say_endpoints(line, "metrics", head->metrics_endpoints.metrics_endpoints_val,
                      head->metrics_endpoints.metrics_endpoints_len);
}

static void say_status(struct cli *cli, const nr_status *status, const nr_counters_ok *head,
                       const char *answers)
{
    g_autoptr(GString) line = g_string_new(NULL);

    say_number(line, "pid", status->pid);
    say_pair(line, "version", status->server_version);
    say_pair(line, "started", time_text(status->started));
    say_number(line, "exports", status->exports);
    say_number(line, "faulted", status->faulted);
    say_number(line, "mappings", status->mappings);
    say_number(line, "num_clients", status->clients);
    say_number(line, "jobs", status->jobs);
    say_number(line, "requests", status->requests);
    say_number(line, "read_bytes", status->read_bytes);
    say_number(line, "write_bytes", status->write_bytes);
    say_number(line, "payload_bytes", status->payload_bytes);
    say_number(line, "log_level", status->log_level);
    say_pair(line, "state", status->state);
    say_endpoints(line, "rpc", status->rpc_endpoints.rpc_endpoints_val,
                  status->rpc_endpoints.rpc_endpoints_len);
    say_endpoints(line, "nbd", status->nbd_endpoints.nbd_endpoints_val,
                  status->nbd_endpoints.nbd_endpoints_len);
    say_handlers(line, status);
    say_counting(line, head);
    say_pair(line, "nbd_answers", answers);
    if (status->state_error[0] != '\0')
        say_pair(line, "last_error", status->state_error);
    cli_say(cli, "%s", line->str);
}

static json_object *status_counting_json(const nr_status *status, const nr_counters_ok *head)
{
    json_object *object = status_json(status);

    if (head == NULL)
        return object;
    json_put_number(object, "in_flight", head->in_flight);
    json_put_number(object, "log_lost", head->log_lost);
    json_object_object_add(object, "metrics_endpoints",
                           endpoints_json(head->metrics_endpoints.metrics_endpoints_val,
                                          head->metrics_endpoints.metrics_endpoints_len));
    json_object_object_add(object, "counters", counters_json(&head->total));
    return object;
}

/* ---- Does NBD answer? ---- */

/* The address is spelled as in nbd_endpoints. */
static json_object *greeting_json(const nr_endpoint *endpoint, const struct greeting *greeting)
{
    json_object *object = json_object_new_object();
    g_autofree char *text = endpoint_text(endpoint);

    json_put_text(object, "address", text);
    json_put_text(object, "answer", answer_word(greeting->answer));
    json_put_optional(object, "message", greeting->message);
    return object;
}

static int fail_unseen(const struct greeting *greetings, u_int n, struct failure *why)
{
    for (u_int i = 0; i < n; i++)
        if (greetings[i].answer == ANSWER_NOT_ADMITTED)
            return fail_with(why, STATUS_FAILED,
                             "the daemon runs; whether NBD answers cannot be seen from here: %s",
                             greetings[i].message);
    return fail_with(why, STATUS_FAILED,
                     "the daemon runs; whether NBD answers can only be seen on its own host");
}

/* One answer is enough where the others cannot be seen; one that fails is a failure. */
static int judge_greetings(const struct greeting *greetings, u_int n, struct failure *why)
{
    bool any = false;

    if (n == 0)
        return fail_with(why, STATUS_FAILED, "the daemon runs, but listens nowhere for NBD "
                                             "clients; it is stopping, or its log tells why");
    for (u_int i = 0; i < n; i++) {
        if (greetings[i].answer == ANSWER_NO)
            return fail_with(why, STATUS_FAILED,
                             "the daemon runs, but NBD does not answer at %s: %s",
                             greetings[i].address, greetings[i].message);
        any = any || greetings[i].answer == ANSWER_YES;
    }
    return any ? 0 : fail_unseen(greetings, n, why);
}

/* Each address gets its share of what is left of the time. */
static int look_at_ports(struct cli *cli, const nr_status *status, GString *words,
                         json_object *array, struct failure *why)
{
    const nr_endpoint *endpoints = status->nbd_endpoints.nbd_endpoints_val;
    u_int n = status->nbd_endpoints.nbd_endpoints_len;
    int64_t deadline = deadline_in_ms(MIN(LOOK_MS, cli_timeout_ms(cli)));
    g_autofree struct greeting *greetings = g_new0(struct greeting, n + 1);

    for (u_int i = 0; i < n; i++) {
        greeting_look(cli->client, &endpoints[i], deadline_left_ms(deadline) / (n - i),
                      &greetings[i]);
        g_string_append_printf(words, "%s%s", i > 0 ? "," : "",
                               answer_word(greetings[i].answer));
        json_object_array_add(array, greeting_json(&endpoints[i], &greetings[i]));
    }
    return judge_greetings(greetings, n, why);
}

static int status_daemon(struct cli *cli, const nr_status *status, struct failure *why)
{
    struct counting counting;
    g_autoptr(GString) answers = g_string_new(NULL);
    json_object *object, *array;
    int r = counting_fetch(cli, NULL, &counting, why);

    if (r != 0)
        return r;
    array = json_object_new_array();
    r = look_at_ports(cli, status, answers, array, why);
    say_status(cli, status, counting.head, answers->str);
    object = status_counting_json(status, counting.head);
    json_object_object_add(object, "nbd_answers", array);
    json_object_object_add(cli_answer(cli), "status", object);
    cli->partly = true;
    counting_clear(&counting);
    return r;
}

int cmd_status(struct cli *cli, struct failure *why)
{
    const char *name = words_text(&cli->words, "EXPORT", NULL);
    nr_status_res res;
    nr_status *status = &res.nr_status_res_u.status;
    int r = cli_client(cli, why);

    if (r == 0)
        r = client_call(cli->client, NR_STATUS, NULL, &res, why);
    if (r != 0)
        return r;
    r = name != NULL ? status_export(cli, name, status->pid, why)
                     : status_daemon(cli, status, why);
    client_free(NR_STATUS, &res);
    return r;
}

/* ---- Clients ---- */

static void print_client(struct table *table, const nr_client *client)
{
    table_add_format(table, "%" PRIu64, client->id);
    table_add(table, client->export_name);
    table_add(table, client->addr);
    table_add(table, client->phase);
    table_add(table, time_text(client->since));
    table_add(table, time_text(client->last_activity));
    table_add_format(table, "%" PRIu64, client->requests);
    table_add_format(table, "%" PRIu64, client->read_bytes);
    table_add_format(table, "%" PRIu64, client->write_bytes);
    table_add_format(table, "%u", client->in_flight);
}

static int print_clients_page(struct cli *cli, nr_page_args *args, struct table *table,
                              json_object *array, bool *ret_more, struct failure *why)
{
    nr_clients_res res;
    const nr_clients_ok *page = &res.nr_clients_res_u.clients;
    uint64_t before = args->after;
    int r = client_call(cli->client, NR_CLIENTS, args, &res, why);

    if (r != 0)
        return r;
    for (u_int i = 0; i < page->rows.rows_len; i++) {
        print_client(table, &page->rows.rows_val[i]);
        json_object_array_add(array, client_json(&page->rows.rows_val[i]));
        args->after = page->rows.rows_val[i].id;
    }
    *ret_more = page->more && args->after > before;
    client_free(NR_CLIENTS, &res);
    return 0;
}

int cmd_clients(struct cli *cli, struct failure *why)
{
    static const char *const titles[] = {"ID",       "EXPORT", "ADDRESS", "PHASE",
                                         "SINCE",    "ACTIVE", "REQUESTS", "READ",
                                         "WRITTEN",  "INFLIGHT", NULL};
    nr_page_args args = {.name = (char *)words_text(&cli->words, "EXPORT", "")};
    struct table *table = table_new(titles);
    json_object *array = json_object_new_array();
    bool more = true;
    int r = cli_client(cli, why);

    while (r == 0 && more)
        r = print_clients_page(cli, &args, table, array, &more, why);
    table_paint(table, "PHASE");
    if (r == 0 && !cli->json)
        table_print(table, cli->out);
    json_object_object_add(cli_answer(cli), "clients", array);
    table_free(table);
    return r;
}

int cmd_kick(struct cli *cli, struct failure *why)
{
    nr_kick_args args = {
        .id = words_number(&cli->words, "ID", 0),
        .reason = (char *)words_text(&cli->words, "reason", ""),
    };
    nr_void_res res;
    int r = cli_client(cli, why);

    if (r == 0)
        r = client_call(cli->client, NR_CLIENT_KICK, &args, &res, why);
    if (r != 0)
        return r;
    cli_say(cli, "Client %" PRIu64 " disconnected.", args.id);
    json_put_number(cli_answer(cli), "id", args.id);
    client_free(NR_CLIENT_KICK, &res);
    return 0;
}

/* ---- Log level ---- */

static int parse_level(const char *text, unsigned *ret_level, struct failure *why)
{
    static const char *const names[] = {"emerg",   "alert",  "crit", "error",
                                        "warning", "notice", "info", "debug"};
    uint64_t number;

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++)
        if (strcasecmp(names[i], text) == 0) {
            *ret_level = i;
            return 0;
        }
    if (number_parse(text, &number) != NULL || number >= G_N_ELEMENTS(names))
        return fail_with(why, STATUS_USAGE,
                         "'%s' is no log level; these are error, warning, info, "
                         "debug, or 0 to 7",
                         text);
    *ret_level = (unsigned)number;
    return 0;
}

int cmd_log_level(struct cli *cli, struct failure *why)
{
    nr_level_args args;
    nr_void_res res;
    int r = parse_level(words_text(&cli->words, "LEVEL", ""), &args.level, why);

    if (r == 0)
        r = cli_client(cli, why);
    if (r == 0)
        r = client_call(cli->client, NR_LOG_LEVEL, &args, &res, why);
    if (r != 0)
        return r;
    cli_say(cli, "Log level set to %u.", args.level);
    json_put_number(cli_answer(cli), "log_level", args.level);
    client_free(NR_LOG_LEVEL, &res);
    return 0;
}
