/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * top: what the daemon is doing, again and again. On a terminal top_screen.c shows it; here it
 * is text or lines of JSON.
 */
#include "command.h"
#include "output.h"
#include "top.h"

#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define INTERVAL_S 2

const struct word words_top[] = {
    {.name = "interval",
     .kind = WORD_VALUE,
     .type = TYPE_SECONDS,
     .value = "TIME",
     .min = 1,
     .max = 86400,
     .help = "between two looks (2)"},
    {.name = "count",
     .kind = WORD_VALUE,
     .type = TYPE_NUMBER,
     .value = "N",
     .min = 1,
     .max = UINT32_MAX,
     .help = "end after N of them (go on)"},
    {.name = "sort",
     .kind = WORD_VALUE,
     .value = "COLUMN",
     .min = 1,
     .max = 16,
     .help = "requests, read, written, time, in-flight, connections, errors or name (requests)"},
    {.name = "rows",
     .kind = WORD_VALUE,
     .type = TYPE_NUMBER,
     .value = "N",
     .min = 1,
     .max = UINT32_MAX,
     .help = "at most N exports and N clients in text and JSON (all)"},
    {.name = "batch", .kind = WORD_FLAG, .help = "text, also on a terminal"},
    {.name = NULL},
};

/* ---- Text ---- */

static void add_rates(struct table *table, const struct top_row *row)
{
    char text[TOP_TEXT_MAX];

    table_add(table, top_rate(row->requests, 1000, text));
    table_add(table, top_rate(row->read_bytes, 1024, text));
    table_add(table, top_rate(row->written_bytes, 1024, text));
}

static void print_exports(const struct top *top, guint rows, FILE *out)
{
    static const char *const titles[] = {"EXPORT", "STATE",    "REQ/S", "READ/S", "WRITTEN/S",
                                         "TIME",   "INFLIGHT", "CONN",  "ERR/S",  NULL};
    struct table *table = table_new(titles);
    char text[TOP_TEXT_MAX];

    table_paint(table, "STATE");
    for (guint i = 0; i < MIN(rows, top->exports->len); i++) {
        const struct top_row *row = g_ptr_array_index(top->exports, i);

        table_add(table, row->name);
        table_add(table, row->state);
        add_rates(table, row);
        table_add(table, top_time(row->time_s, text));
        table_add_format(table, "%u", row->in_flight);
        table_add_format(table, "%u", row->connections);
        table_add(table, top_rate(row->errors, 1000, text));
    }
    table_print(table, out);
    table_free(table);
}

static void print_clients(const struct top *top, guint rows, FILE *out)
{
    static const char *const titles[] = {"CLIENT",   "EXPORT", "REQ/S", "READ/S", "WRITTEN/S",
                                         "INFLIGHT", NULL};
    struct table *table = table_new(titles);

    for (guint i = 0; i < MIN(rows, top->clients->len); i++) {
        const struct top_row *row = g_ptr_array_index(top->clients, i);

        table_add(table, row->name);
        table_add(table, row->note);
        add_rates(table, row);
        table_add_format(table, "%u", row->in_flight);
    }
    table_print(table, out);
    table_free(table);
}

static void print_text(const struct top *top, guint rows, FILE *out)
{
    g_autofree char *headline = top_headline(top);

    fprintf(out, "%s\n\n", headline);
    print_exports(top, rows, out);
    if (top->clients->len > 0) {
        fputc('\n', out);
        print_clients(top, rows, out);
    }
    fputc('\n', out);
}

/* ---- JSON: one object a line ---- */

static void put_double(json_object *object, const char *key, double value)
{
    char text[32];

    g_ascii_formatd(text, sizeof(text), "%.3f", value);
    json_object_object_add(object, key, json_object_new_double_s(value, text));
}

static json_object *row_json(const struct top_row *row)
{
    json_object *object = json_object_new_object();

    put_double(object, "requests_per_s", row->requests);
    put_double(object, "read_bytes_per_s", row->read_bytes);
    put_double(object, "written_bytes_per_s", row->written_bytes);
    json_put_number(object, "in_flight", row->in_flight);
    return object;
}

static void put_times(json_object *object, const struct top_row *row)
{
    put_double(object, "errors_per_s", row->errors);
    if (row->time_s < 0)
        json_object_object_add(object, "mean_time_us", NULL);
    else
        put_double(object, "mean_time_us", row->time_s * 1e6);
}

static json_object *daemon_json(const struct top *top)
{
    json_object *object = row_json(&top->daemon);

    put_times(object, &top->daemon);
    json_put_text(object, "version", top->facts.version);
    json_put_time(object, "started", top->facts.started_us);
    json_put_number(object, "exports", top->facts.exports);
    json_put_number(object, "faulted", top->facts.faulted);
    json_put_number(object, "clients", top->facts.clients);
    json_put_number(object, "jobs", top->facts.jobs);
    json_put_number(object, "payload_bytes", top->facts.payload_bytes);
    json_put_number(object, "log_lost", top->facts.log_lost);
    json_put_text(object, "state", top->facts.state);
    return object;
}

static json_object *exports_json(const struct top *top, guint rows)
{
    json_object *array = json_object_new_array();

    for (guint i = 0; i < MIN(rows, top->exports->len); i++) {
        const struct top_row *row = g_ptr_array_index(top->exports, i);
        json_object *object = row_json(row);

        put_times(object, row);
        json_put_text(object, "name", row->name);
        json_put_text(object, "handler", row->note);
        json_put_text(object, "state", row->state);
        json_put_number(object, "connections", row->connections);
        json_object_array_add(array, object);
    }
    return array;
}

static json_object *clients_json(const struct top *top, guint rows)
{
    json_object *array = json_object_new_array();

    for (guint i = 0; i < MIN(rows, top->clients->len); i++) {
        const struct top_row *row = g_ptr_array_index(top->clients, i);
        json_object *object = row_json(row);

        json_put_text(object, "address", row->name);
        json_put_optional(object, "export", row->note);
        json_object_array_add(array, object);
    }
    return array;
}

static void print_json(const struct top *top, guint rows, FILE *out)
{
    json_object *object = json_object_new_object();

    json_put_time(object, "time", g_get_real_time());
    put_double(object, "interval_s", top->elapsed_s);
    json_object_object_add(object, "daemon", daemon_json(top));
    json_object_object_add(object, "exports", exports_json(top, rows));
    json_object_object_add(object, "clients", clients_json(top, rows));
    fprintf(out, "%s\n",
            json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN |
                                                       JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(object);
}

/* ---- The command ---- */

static void wait_s(uint64_t seconds)
{
    struct timespec left = {.tv_sec = (time_t)seconds};

    while (nanosleep(&left, &left) < 0 && errno == EINTR)
        continue;
}

/* The first look is only what the second one is compared with. */
static int run_batch(struct cli *cli, struct top *top, uint64_t interval_s, uint64_t count,
                     struct failure *why)
{
    guint rows = (guint)words_number(&cli->words, "rows", G_MAXUINT);
    int r = top_refresh(top, cli, why);

    for (uint64_t i = 0; r == 0 && (count == 0 || i < count); i++) {
        wait_s(interval_s);
        r = top_refresh(top, cli, why);
        if (r != 0)
            break;
        if (cli->json)
            print_json(top, rows, cli->out);
        else
            print_text(top, rows, cli->out);
        if (fflush(cli->out) != 0)
            return fail_with(why, STATUS_FAILED, "writing failed: %s", strerror(errno));
    }
    return r;
}

#ifdef HAVE_NCURSES
static bool wants_screen(const struct cli *cli)
{
    const char *terminal = g_getenv("TERM");

    return !cli->json && !words_has(&cli->words, "batch") && isatty(STDIN_FILENO) &&
           isatty(fileno(cli->out)) && terminal != NULL && strcmp(terminal, "dumb") != 0;
}
#endif

int cmd_top(struct cli *cli, struct failure *why)
{
    uint64_t interval_s = words_number(&cli->words, "interval", INTERVAL_S);
    uint64_t count = words_number(&cli->words, "count", 0);
    const char *sort = words_text(&cli->words, "sort", "requests");
    struct top top;
    int r;

    top_init(&top);
    if (!top_sort_find(sort, &top.sort))
        r = fail_with(why, STATUS_USAGE, "'%.64s' is nothing to sort by; these are requests, "
                      "read, written, time, in-flight, connections, errors and name", sort);
#ifdef HAVE_NCURSES
    else if (wants_screen(cli))
        r = top_screen(cli, &top, interval_s, count, why);
#endif
    else
        r = run_batch(cli, &top, interval_s, count, why);
    top_clear(&top);
    return r;
}
