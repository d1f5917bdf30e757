/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * map all, unmap all: every line of nbdtab(5), in its order. Each line is run like the command
 * that it stands for. Also how `map ... persist` and `unmap ... forget` edit that file.
 */
#include "cmd_nbdtab.h"
#include "listing.h"
#include "nbdtab.h"
#include "net.h"
#include "output.h"

#include <string.h>
#include <unistd.h>

#define RETRY_MS 500

#define WORD_TAB                                                                              \
    {                                                                                         \
        .name = "tab", .kind = WORD_VALUE, .value = "FILE", .min = 1, .max = 4096,            \
        .help = "instead of " SYSCONF_DIR "/nbdtab"                                           \
    }
#define WORD_ALL                                                                              \
    {                                                                                         \
        .name = "all", .kind = WORD_FLAG, .help = "every line of nbdtab(5)"                   \
    }

const struct word words_map_all[] = {
    WORD_ALL,
    {.name = "wait",
     .kind = WORD_VALUE,
     .type = TYPE_SECONDS,
     .value = "TIME",
     .max = 86400,
     .help = "keep trying so long while a daemon is not reached (0)"},
    WORD_TAB,
    {.name = NULL},
};

const struct word words_unmap_all[] = {WORD_ALL, WORD_TAB, {.name = NULL}};

/* ---- One line ---- */

/* Is the target mapped on this host already? */
static bool is_mapped_here(struct cli *cli, const char *backstore, const char *target)
{
    g_autofree struct local_device *devices = NULL;
    size_t n = sysfs_list(&cli->sysfs, &devices);
    struct listing listing = {0};
    struct failure ignored;
    bool found = false;

    if (n == 0 || cli_client(cli, &ignored) != 0 ||
        listing_fetch(cli, backstore, NR_L_MAPPED, &listing, &ignored) != 0)
        return false;
    for (size_t i = 0; i < n && !found; i++) {
        const nr_export *x = NULL;

        found = devices[i].in_use && devices[i].cookie[0] != '\0' &&
                listing_find(&listing, devices[i].cookie, &x) != NULL &&
                nbdtab_is_target(x->store.target, target);
    }
    listing_clear(&listing);
    return found;
}

static int map_line(struct cli *cli, struct failure *why)
{
    const char *target = words_text(&cli->words, "TARGET", "");

    if (!is_mapped_here(cli, cli->backstore, target))
        return cmd_map(cli, why);
    cli_say(cli, "%s %s is mapped already", cli->backstore, target);
    json_put_bool(cli_answer(cli), "mapped_already", true);
    return 0;
}

static int unmap_line(struct cli *cli, struct failure *why)
{
    const char *target = words_text(&cli->words, "TARGET", "");

    return is_mapped_here(cli, cli->backstore, target) ? cmd_unmap(cli, why) : 0;
}

struct verb {
    const struct word *words;
    int (*run)(struct cli *cli, struct failure *why);
    bool takes_words; /* of the line; else only where the daemon is */
};

/* The words of the line, and what is left of the command line's own: where the daemon is. */
static int parse_line(struct cli *line, const struct nbdtab_line *tab, const struct verb *verb,
                      struct failure *why)
{
    g_autofree const char **argv = g_new0(const char *, (gsize)tab->n_fields + 1);
    int n = 0;

    argv[n++] = tab->fields[2];
    if (strcmp(tab->fields[0], "-") != 0 && verb->takes_words)
        argv[n++] = tab->fields[0];
    for (int i = 3; i < tab->n_fields; i++) {
        bool is_host = strcmp(tab->fields[i], "host") == 0 && i + 1 < tab->n_fields;

        if (!verb->takes_words && !is_host)
            continue;
        argv[n++] = tab->fields[i];
        if (is_host)
            argv[n++] = tab->fields[++i];
    }
    words_init(&line->words, verb->words, common_words);
    return words_parse(&line->words, n, (char **)argv, why);
}

static int run_line(struct cli *cli, const struct nbdtab_line *tab, const struct verb *verb,
                    json_object *answers, struct failure *why)
{
    struct cli line = *cli;
    int r;

    line.client = NULL;
    line.answer = NULL;
    line.backstore = tab->fields[1];
    r = parse_line(&line, tab, verb, why);
    if (r == 0)
        r = verb->run(&line, why);
    if (r == 0 && line.answer != NULL)
        json_object_array_add(answers, json_object_get(line.answer));
    if (line.answer != NULL)
        json_object_put(line.answer);
    client_close(line.client);
    words_clear(&line.words);
    return r;
}

/* ---- All of them ---- */

const char *nbdtab_path(const struct cli *cli)
{
    return words_text(&cli->words, "tab", SYSCONF_DIR "/nbdtab");
}

static bool is_worth_waiting(int status)
{
    return status == STATUS_UNREACHABLE || status == STATUS_NO_ANSWER;
}

/* Runs what is left in `lines`, takes out what is done or has failed for good. */
static void run_round(struct cli *cli, GPtrArray *lines, const struct verb *verb, bool is_last,
                      json_object *answers, unsigned *failed, struct failure *why)
{
    for (guint i = 0; i < lines->len;) {
        const struct nbdtab_line *line = g_ptr_array_index(lines, i);
        struct failure failure;
        int r = run_line(cli, line, verb, answers, &failure);

        if (r != 0 && is_worth_waiting(r) && !is_last) {
            i++;
            continue;
        }
        if (r != 0) {
            cli_note(cli, "line %u, %s %s: %s", line->number, line->fields[1], line->fields[2],
                     failure.message);
            /* The status tells whether another try may help. */
            if ((*failed)++ == 0 || is_worth_waiting(r))
                *why = failure;
        }
        g_ptr_array_remove_index(lines, i);
    }
}

static int run_all(struct cli *cli, const struct verb *verb, int64_t wait_ms,
                   struct failure *why)
{
    int64_t deadline = deadline_in_ms(wait_ms);
    json_object *answers = json_object_new_array();
    g_autoptr(GPtrArray) lines = NULL;
    struct failure first;
    unsigned failed = 0, all;
    int r = nbdtab_read(nbdtab_path(cli), &lines, why);

    json_object_object_add(cli_answer(cli), "lines", answers);
    if (r != 0)
        return r;
    all = lines->len;
    while (lines->len > 0) {
        bool is_last = deadline_left_ms(deadline) == 0;

        run_round(cli, lines, verb, is_last, answers, &failed, &first);
        if (lines->len > 0)
            usleep(RETRY_MS * 1000);
    }
    if (failed == 0)
        return 0;
    return fail_code(why, (enum status)first.status, first.code, "%u of %u lines of %s failed",
                     failed, all, nbdtab_path(cli));
}

/* "map" and "unmap" without a backstore make sense with "all" only. */
static int check_all(struct cli *cli, const char *verb, struct failure *why)
{
    if (words_has(&cli->words, "all"))
        return 0;
    return fail_with(why, STATUS_USAGE, "'nbd-cli %s all' is every line of nbdtab; else it is "
                     "'nbd-cli BACKSTORE %s TARGET'", verb, verb);
}

int cmd_map_all(struct cli *cli, struct failure *why)
{
    static const struct verb verb = {words_map, map_line, true};
    int64_t wait_ms = (int64_t)words_number(&cli->words, "wait", 0) * 1000;
    int r = check_all(cli, "map", why);

    return r == 0 ? run_all(cli, &verb, wait_ms, why) : r;
}

int cmd_unmap_all(struct cli *cli, struct failure *why)
{
    static const struct verb verb = {words_unmap, unmap_line, false};
    int r = check_all(cli, "unmap", why);

    return r == 0 ? run_all(cli, &verb, 0, why) : r;
}

/* ---- persist, forget ---- */

/* Words that are about this run only. */
static bool is_kept(const struct word *word)
{
    static const char *const not_kept[] = {"persist", "tab", "json", "help", "call-timeout",
                                           "dir", "TARGET", "DEVICE"};

    for (size_t i = 0; i < G_N_ELEMENTS(not_kept); i++)
        if (strcmp(word->name, not_kept[i]) == 0)
            return false;
    return true;
}

static void keep_words(const struct words *words, GPtrArray *fields)
{
    for (size_t i = 0; i < words->n_slots; i++) {
        const struct word *word = words->slot[i].word;

        if (!words->slot[i].given || !is_kept(word))
            continue;
        for (size_t j = 0; word->kind == WORD_LIST && j < words->n_list; j++) {
            g_ptr_array_add(fields, g_strdup(word->name));
            g_ptr_array_add(fields, g_strdup(words->list[j]));
        }
        if (word->kind == WORD_LIST)
            continue;
        g_ptr_array_add(fields, g_strdup(word->name));
        if (word->kind == WORD_VALUE)
            g_ptr_array_add(fields, g_strdup(words->slot[i].text));
    }
}

/* The daemon that was called, unless it is the one that is called when nobody says. */
static void keep_host(struct cli *cli, GPtrArray *fields)
{
    const struct words *both[] = {&cli->words, &cli->leading};
    char text[ADDRESS_MAX];
    bool is_given = false;

    if (words_has(&cli->words, "host"))
        return;
    for (size_t i = 0; i < G_N_ELEMENTS(both); i++)
        is_given |= words_has(both[i], "dir") || words_has(both[i], "host");
    is_given |= g_getenv("NBD_RUNNER_HOST") != NULL || g_getenv("NBD_RUNNER_DIR") != NULL;
    if (!is_given)
        return;
    g_ptr_array_add(fields, g_strdup("host"));
    g_ptr_array_add(fields, g_strdup(address_format(client_address(cli->client), text)));
}

int nbdtab_persist(struct cli *cli, struct failure *why)
{
    g_autoptr(GPtrArray) fields = g_ptr_array_new_with_free_func(g_free);

    g_ptr_array_add(fields, g_strdup(words_text(&cli->words, "DEVICE", "-")));
    g_ptr_array_add(fields, g_strdup(cli->backstore));
    g_ptr_array_add(fields, g_strdup(words_text(&cli->words, "TARGET", "")));
    keep_words(&cli->words, fields);
    keep_host(cli, fields);
    g_ptr_array_add(fields, NULL);
    return nbdtab_add(nbdtab_path(cli), (char **)fields->pdata, why);
}
