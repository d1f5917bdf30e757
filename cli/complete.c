/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What can stand at the end of an unfinished command line, for the completions of the shells
 * (completions/): "nbd-cli complete WORD... PARTIAL". PARTIAL is the word under the cursor,
 * maybe empty. Each line of the answer is a candidate, a tab, and what it means; the line
 * ":files" or ":directories" asks the shell for these. Made from the tables of commands and
 * words, and from what the daemon has at the moment. A daemon that does not answer at once is
 * as good as none: this runs at every press of the tab key, so it is quick and says no error.
 */
#include "answer.h"
#include "command.h"
#include "listing.h"
#include "size.h"

#include <glib.h>
#include <inttypes.h>
#include <string.h>

#define ANSWER_TIMEOUT_S 1

struct completion {
    struct cli *cli;
    const struct command *command; /* NULL in front of its name */
    const char *prefix;            /* goes in front of each candidate: "--host=" */
    const char *partial;
    const char *previous; /* the word in front of the cursor; NULL for the first */
};

static void offer(const struct completion *c, const char *text, const char *meaning)
{
    if (!g_str_has_prefix(text, c->partial))
        return;
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0'; p++)
        if (*p < ' ' || *p == 0x7f)
            return; /* no shell could take it as a line */
    fprintf(c->cli->out, "%s%s\t%s\n", c->prefix, text, meaning);
}

__attribute__((format(printf, 3, 4))) static void
offer_format(const struct completion *c, const char *text, const char *format, ...)
{
    g_autofree char *meaning = NULL;
    va_list args;

    va_start(args, format);
    meaning = g_strdup_vprintf(format, args);
    va_end(args);
    clean_text(meaning);
    offer(c, text, meaning);
}

/* ---- What the daemon and the kernel have ---- */

static void offer_exports(const struct completion *c)
{
    struct listing listing = {0};
    struct failure ignored;
    char size[SIZE_TEXT_MAX];

    if (listing_fetch(c->cli, "", NR_L_ALL, &listing, &ignored) != 0)
        return;
    for (guint i = 0; i < listing.exports->len; i++) {
        const nr_export *x = g_ptr_array_index(listing.exports, i);

        offer_format(c, x->name, "%s, %s", export_state_word(x->state),
                     size_format(x->size, size));
    }
    listing_clear(&listing);
}

static void offer_targets(const struct completion *c)
{
    const char *handler = c->cli->backstore;
    struct listing listing = {0};
    struct failure ignored;

    if (handler == NULL || strcmp(c->command->verb, "create") == 0) {
        /* a new one, or one that no export has yet */
        if (g_strcmp0(handler != NULL ? handler : c->previous, "file") == 0 &&
            c->partial[0] == '/')
            fprintf(c->cli->out, ":files\n");
        return;
    }
    if (listing_fetch(c->cli, handler, NR_L_ALL, &listing, &ignored) != 0)
        return;
    for (guint i = 0; i < listing.exports->len; i++) {
        const nr_export *x = g_ptr_array_index(listing.exports, i);

        offer_format(c, x->store.target, "export %s", x->name);
    }
    listing_clear(&listing);
}

static void offer_devices(const struct completion *c)
{
    g_autofree struct local_device *devices = NULL;
    size_t n = sysfs_list(&c->cli->sysfs, &devices);

    for (size_t i = 0; i < n; i++) {
        g_autofree char *name = g_strdup_printf("/dev/nbd%d", devices[i].index);

        offer(c, name, devices[i].in_use ? "mapped" : "free");
    }
}

static void offer_handlers(const struct completion *c)
{
    nr_hello_args args = {.client = (char *)cli_host_name(), .agent = (char *)"nbd-cli"};
    struct failure ignored;
    nr_hello_res res;
    const nr_hello *hello = &res.nr_hello_res_u.hello;

    for (size_t i = 0; i < n_backstores; i++)
        offer(c, backstores[i].name, backstores[i].summary);
    if (cli_client(c->cli, &ignored) != 0 ||
        client_call(c->cli->client, NR_HELLO, &args, &res, &ignored) != 0)
        return;
    for (u_int i = 0; i < hello->handlers.handlers_len; i++) {
        const char *name = hello->handlers.handlers_val[i];

        if (!command_is_group(name))
            offer(c, name, "a handler of the daemon");
    }
    client_free(NR_HELLO, &res);
}

static void offer_jobs(const struct completion *c)
{
    bool only_running = strcmp(c->command->verb, "show") != 0;
    nr_jobs_args args = {.after = (char *)""};
    struct failure ignored;
    nr_jobs_res res;
    const nr_jobs_ok *page = &res.nr_jobs_res_u.jobs;

    if (cli_client(c->cli, &ignored) != 0 ||
        client_call(c->cli->client, NR_JOBS, &args, &res, &ignored) != 0)
        return;
    for (u_int i = 0; i < page->rows.rows_len; i++) {
        const nr_job *job = &page->rows.rows_val[i];

        if (!only_running || job->ended == 0)
            offer_format(c, job->id, "%s %s, %s", job_kind_word(job->kind), job->export_name,
                         job_state_word(job->state));
    }
    client_free(NR_JOBS, &res);
}

static void offer_clients(const struct completion *c)
{
    nr_page_args args = {.name = (char *)""};
    struct failure ignored;
    nr_clients_res res;
    const nr_clients_ok *page = &res.nr_clients_res_u.clients;

    if (cli_client(c->cli, &ignored) != 0 ||
        client_call(c->cli->client, NR_CLIENTS, &args, &res, &ignored) != 0)
        return;
    for (u_int i = 0; i < page->rows.rows_len; i++) {
        const nr_client *client = &page->rows.rows_val[i];
        g_autofree char *id = g_strdup_printf("%" PRIu64, (uint64_t)client->id);

        offer_format(c, id, "%s, %s", client->addr,
                     *client->export_name != '\0' ? client->export_name : client->phase);
    }
    client_free(NR_CLIENTS, &res);
}

static void offer_directories(const struct completion *c)
{
    fprintf(c->cli->out, ":directories\n");
}

static void offer_files(const struct completion *c)
{
    fprintf(c->cli->out, ":files\n");
}

/* ---- Values ---- */

/* By what the help calls the value. */
static const struct {
    const char *value;
    void (*offer)(const struct completion *c);
} sources[] = {
    {"EXPORT", offer_exports},     {"TARGET", offer_targets}, {"nbd-device", offer_devices},
    {"BACKSTORE", offer_handlers}, {"JOB-ID", offer_jobs},    {"CLIENT-ID", offer_clients},
    {"DIR", offer_directories},    {"FILE", offer_files},
};

/* The value is described as "on|off", "nbd-device|TARGET": each part is a source, or in small
 * letters the word itself. */
static void offer_value(const struct completion *c, const struct word *word)
{
    const char *description = word->value != NULL ? word->value : word->name;
    g_auto(GStrv) parts = g_strsplit(description, "|", -1);

    if (word->kind == WORD_VALUE && strcmp(word->name, "name") == 0)
        return; /* of something new */
    for (char **part = parts; *part != NULL; part++) {
        bool is_known = false;

        for (size_t i = 0; i < G_N_ELEMENTS(sources); i++)
            if (strcmp(sources[i].value, *part) == 0) {
                sources[i].offer(c);
                is_known = true;
            }
        if (!is_known && (*part)[strspn(*part, "abcdefghijklmnopqrstuvwxyz-")] == '\0')
            offer(c, *part, word->help != NULL ? word->help : "");
    }
}

/* ---- Words ---- */

static void offer_options(const struct completion *c, const struct words *words)
{
    for (size_t i = 0; i < words->n_slots; i++) {
        const struct word *word = words->slot[i].word;
        g_autofree char *text = g_strdup_printf("--%s", word->name);

        if (word->kind == WORD_FLAG || word->kind == WORD_VALUE || word->kind == WORD_LIST)
            if (!words_is_used(words, i))
                offer(c, text, word->help != NULL ? word->help : "");
    }
}

static void offer_keywords(const struct completion *c, const struct words *words)
{
    for (size_t i = 0; i < words->n_slots; i++) {
        const struct word *word = words->slot[i].word;

        if (words_is_used(words, i))
            continue;
        if (word->kind == WORD_DEVICE)
            offer_value(c, word);
        else if (word->kind != WORD_POSITION && word->kind != WORD_OPTIONAL &&
                 word->kind != WORD_MANY && !word->option_only)
            offer(c, word->name, word->help != NULL ? word->help : "");
    }
}

/* "--host=PARTIAL": true when it was that. */
static bool complete_assignment(struct completion *c, const struct words *words)
{
    const char *equals = strchr(c->partial, '=');
    int i;

    if (equals == NULL || strncmp(c->partial, "--", 2) != 0)
        return false;
    i = words_option(words, c->partial + 2, (size_t)(equals - c->partial - 2));
    if (i >= 0) {
        g_autofree char *prefix = g_strndup(c->partial, (gsize)(equals + 1 - c->partial));

        c->prefix = prefix;
        c->partial = equals + 1;
        offer_value(c, words->slot[i].word);
        c->prefix = "";
    }
    return true;
}

static void complete_words(struct completion *c, int argc, char **argv)
{
    struct words *words = &c->cli->words;
    const struct word *awaited;
    int i;

    words_clear(words);
    words_init(words, c->command->words, common_words);
    awaited = words_expect(words, argc, argv);
    if (awaited != NULL) {
        offer_value(c, awaited);
        return;
    }
    if (complete_assignment(c, words))
        return;
    if (c->partial[0] == '-') {
        offer_options(c, words);
        return;
    }
    if (argc == 0)
        offer(c, "help", "explain this command");
    i = words_next_position(words, WORD_POSITION);
    if (i >= 0) {
        offer_value(c, words->slot[i].word);
        return;
    }
    offer_keywords(c, words);
    i = words_next_position(words, WORD_OPTIONAL);
    if (i >= 0)
        offer_value(c, words->slot[i].word);
}

/* ---- The command's name ---- */

static void offer_first_words(const struct completion *c, bool with_help)
{
    for (size_t i = 0; i < n_commands; i++) {
        const char *group = commands[i].group;
        bool is_first = group != NULL && strcmp(group, GROUP_BACKSTORE) != 0;

        for (size_t j = 0; is_first && j < i; j++)
            is_first = g_strcmp0(commands[j].group, group) != 0;
        if (group == NULL)
            offer(c, commands[i].verb, commands[i].summary);
        else if (is_first)
            offer_format(c, group, "'nbd-cli %s help' tells more", group);
    }
    offer_handlers(c);
    if (with_help)
        offer(c, "help", "explain the commands");
}

static void offer_verbs(const struct completion *c, const char *group)
{
    bool is_foreign = !command_is_group(group);

    for (size_t i = 0; i < n_commands; i++)
        if (is_foreign ? command_find_foreign(group, commands[i].verb) == &commands[i]
                       : command_is_in_group(&commands[i], group))
            offer(c, commands[i].verb, commands[i].summary);
    offer(c, "help", "explain these commands");
}

/* Options in front of the command; returns how many words they are, or -1 when the cursor
 * stands in them. */
static int skip_leading(struct completion *c, int argc, char **argv)
{
    int used = 0, at = 0;

    for (; at < argc && argv[at][0] == '-'; at += used) {
        const struct word *awaited =
            at == argc - 1 ? words_expect(&c->cli->leading, 1, argv + at) : NULL;
        struct failure ignored;

        used = 1;
        if (awaited != NULL) {
            offer_value(c, awaited);
            return -1;
        }
        if (at < argc - 1)
            words_parse_option(&c->cli->leading, argc - at, argv + at, &used, &ignored);
    }
    if (at < argc)
        return at;
    if (complete_assignment(c, &c->cli->leading))
        return -1;
    if (c->partial[0] == '-') {
        offer_options(c, &c->cli->leading);
        return -1;
    }
    return at;
}

static void complete_line(struct completion *c, int argc, char **argv)
{
    int used = skip_leading(c, argc, argv);
    bool is_help;

    if (used < 0)
        return;
    argc -= used;
    argv += used;
    is_help = argc > 0 && strcmp(argv[0], "help") == 0;
    if (is_help) {
        argc--;
        argv++;
    }
    if (argc == 0) {
        offer_first_words(c, !is_help);
        return;
    }
    c->command = command_find(NULL, argv[0]);
    used = 1;
    if (c->command == NULL && argc == 1) {
        offer_verbs(c, argv[0]);
        return;
    }
    if (c->command == NULL) {
        c->command = command_is_group(argv[0]) ? command_find(argv[0], argv[1])
                                               : command_find_foreign(argv[0], argv[1]);
        used = 2;
    }
    if (c->command == NULL || is_help)
        return;
    if (c->command->group != NULL && strcmp(c->command->group, GROUP_BACKSTORE) == 0)
        c->cli->backstore = argv[0];
    complete_words(c, argc - used, argv + used);
}

int complete(struct cli *cli, int argc, char **argv)
{
    struct completion c = {
        .cli = cli,
        .prefix = "",
        .partial = argc > 0 ? argv[argc - 1] : "",
        .previous = argc > 1 ? argv[argc - 2] : NULL,
    };

    cli->json = false; /* if it stands in the line, it is no wish of the shell's */
    cli->timeout_s = ANSWER_TIMEOUT_S;
    complete_line(&c, MAX(argc - 1, 0), argv);
    return 0;
}
