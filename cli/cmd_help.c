/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Help texts, made from the tables of commands and words so that they cannot be out of date.
 * Needs no daemon, no module and no root.
 */
#include "command.h"

#include <glib.h>
#include <string.h>

static bool is_backstore_group(const char *group)
{
    return group != NULL && strcmp(group, GROUP_BACKSTORE) == 0;
}

/* How a word is written: "[size SIZE]". */
static char *spelling(const struct word *word, const char *target)
{
    bool is_repeated = word->kind == WORD_LIST || word->kind == WORD_MANY;
    bool required = word->required || word->kind == WORD_POSITION;
    const char *dashes = word->option_only ? "--" : "";
    g_autofree char *plain = NULL;

    switch (word->kind) {
    case WORD_POSITION:
    case WORD_OPTIONAL:
    case WORD_MANY:
    case WORD_DEVICE:
        if (word->value != NULL)
            plain = g_strdup(word->value);
        else
            plain = g_strdup(strcmp(word->name, "TARGET") == 0 && target != NULL ? target
                                                                                 : word->name);
        break;
    case WORD_FLAG:
        plain = g_strdup_printf("%s%s", dashes, word->name);
        break;
    case WORD_VALUE:
    case WORD_LIST:
        plain = g_strdup_printf("%s%s %s", dashes, word->name, word->value);
        break;
    }
    return g_strdup_printf(required      ? "%s"
                           : is_repeated ? "[%s]..."
                                         : "[%s]",
                           plain);
}

static void print_usage(FILE *out, const char *group, const struct command *command,
                        const char *target)
{
    fprintf(out, "  nbd-cli %s%s%s", group != NULL ? group : "", group != NULL ? " " : "",
            command->verb);
    for (const struct word *word = command->words; word != NULL && word->name != NULL;
         word++) {
        g_autofree char *text = spelling(word, target);

        fprintf(out, " %s", text);
    }
    fprintf(out, "\n      %s\n", command->summary);
}

static void print_words(FILE *out, const struct word *word)
{
    for (; word != NULL && word->name != NULL; word++) {
        g_autofree char *text = spelling(word, NULL);

        if (word->help != NULL)
            fprintf(out, "  %-22s %s\n", text, word->help);
    }
}

static const struct backstore *find_backstore(const char *name)
{
    for (size_t i = 0; name != NULL && i < n_backstores; i++)
        if (strcmp(backstores[i].name, name) == 0)
            return &backstores[i];
    return NULL;
}

static const char *target_of(const char *name)
{
    const struct backstore *backstore = find_backstore(name);

    return backstore != NULL ? backstore->target : NULL;
}

static bool takes_options(const struct command *command)
{
    for (const struct word *word = command->words; word != NULL && word->name != NULL; word++)
        if (strcmp(word->name, "opt") == 0)
            return true;
    return false;
}

static void print_options(FILE *out, const char *name)
{
    const struct backstore *backstore = find_backstore(name);

    if (backstore == NULL)
        return;
    fprintf(out, "\noptions of a %s backstore, each behind 'opt':\n", name);
    for (const struct backstore_option *o = backstore->options; o->spelling != NULL; o++)
        fprintf(out, "    %-20s %s\n", o->spelling, o->help);
    fprintf(out, "    %-20s %s\n", "detect-zeroes=on|off", "make holes of written zeroes (off)");
}

static void help_command(FILE *out, const char *group, const struct command *command)
{
    fprintf(out, "usage:\n");
    print_usage(out, group, command, target_of(group));
    fprintf(out, "\nwords:\n");
    print_words(out, command->words);
    print_words(out, common_words);
    fprintf(out,
            "\nWords come in any order behind the first one; 'word VALUE', '--word VALUE' and "
            "'--word=VALUE' are the same.\n");
    if (takes_options(command))
        print_options(out, group);
}

static void help_group(FILE *out, const char *group)
{
    const char *target = target_of(group);

    fprintf(out, "usage:\n  nbd-cli %s help\n", group);
    for (size_t i = 0; i < n_commands; i++) {
        bool is_member = target != NULL ? is_backstore_group(commands[i].group)
                                        : g_strcmp0(commands[i].group, group) == 0;

        if (is_member)
            print_usage(out, group, &commands[i], target);
    }
    print_options(out, group);
    fprintf(out, "\n'nbd-cli %s COMMAND help' explains the words of a command.\n", group);
}

static void help_all(FILE *out)
{
    fprintf(out,
            "nbd-cli %s: creates, maps and watches the exports of nbd-runner\n\nusage:\n"
            "  nbd-cli help [COMMAND]\n",
            PACKAGE_VERSION);
    for (size_t i = 0; i < n_commands; i++)
        print_usage(out, commands[i].group, &commands[i], NULL);
    fprintf(out, "\nBACKSTORE and its TARGET:\n");
    for (size_t i = 0; i < n_backstores; i++)
        fprintf(out, "  %-8s %-36s %s\n", backstores[i].name, backstores[i].target,
                backstores[i].summary);
    fprintf(out, "\nwith every command:\n");
    print_words(out, common_words);
    fprintf(out,
            "\nSIZE: bytes, or with B K M G T P E (powers of 1024), also written KB or KiB.\n"
            "exit status: 0 done, 1 refused or failed, 2 usage, 3 daemon not reached,\n"
            "4 no answer in time, 5 permission. Details: nbd-cli(8).\n");
}

void print_help(FILE *out, const char *group, const struct command *command)
{
    if (command != NULL)
        help_command(out, group, command);
    else if (group != NULL)
        help_group(out, group);
    else
        help_all(out);
}
