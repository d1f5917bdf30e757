/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What a command is, and what it is given to run. command.c has the table of all commands;
 * to add one, write its words and its run function in a cmd_*.c and add a line there.
 */
#ifndef CLI_COMMAND_H
#define CLI_COMMAND_H

#include "client.h"
#include "failure.h"
#include "sysfs.h"
#include "words.h"

#include <json-c/json.h>
#include <stdio.h>

#define CALL_TIMEOUT_S 25

/* One run of nbd-cli. */
struct cli {
    char prefix[64];       /* "nbd-cli file create" */
    const char *backstore; /* "file" for the commands of a backstore, else NULL */
    struct words leading;  /* options in front of the command's name */
    struct words words;    /* those behind it */
    bool json;
    unsigned timeout_s;    /* for each answer, unless the words say it; 0: CALL_TIMEOUT_S */
    struct client *client; /* made by cli_client() */
    struct sysfs sysfs;
    FILE *out;
    json_object *answer; /* made by cli_answer() */
    bool partly;         /* the answer stands although there was a failure */
};

struct command {
    const char *group; /* first word, NULL when the verb is the first word;
                          GROUP_BACKSTORE for the name of any backstore */
    const char *verb;
    const char *summary;      /* one line of help */
    const struct word *words; /* may be NULL */
    int (*run)(struct cli *cli, struct failure *why);
};

#define GROUP_BACKSTORE "BACKSTORE"

struct backstore_option {
    const char *spelling; /* behind "opt"; NULL ends the list */
    const char *help;
};

struct backstore {
    const char *name;
    const char *target; /* how a TARGET is written */
    const char *summary;
    const struct backstore_option *options;
};

extern const struct command commands[];
extern const size_t n_commands;
extern const struct backstore backstores[];
extern const size_t n_backstores;
extern const struct word common_words[];

/* The whole tool: returns the exit status. */
int command_main(int argc, char **argv, FILE *out);

/* cmd_help.c: for everything (both NULL), a group, or one command. */
void print_help(FILE *out, const char *group, const struct command *command);

/* complete.c: print what can stand at the end of these words, for the shells. Never fails. */
int complete(struct cli *cli, int argc, char **argv);

/* ---- Finding commands ---- */

/* group NULL: a verb that is the first word. NULL when there is none. */
const struct command *command_find(const char *group, const char *verb);
/* The command of a backstore whose handler is in no table here. */
const struct command *command_find_foreign(const char *word, const char *verb);
bool command_is_group(const char *word);
bool command_is_in_group(const struct command *command, const char *word);

/* ---- For cmd_*.c ---- */

/* Connect to the daemon at the first call. */
int cli_client(struct cli *cli, struct failure *why);
/* The same, but to the daemon at `address` when the words do not name one and it is not empty.
 * A connection to another daemon is closed before. */
int cli_client_of(struct cli *cli, const char *address, struct failure *why);
int64_t cli_timeout_ms(const struct cli *cli);

/* The object that is printed at the end when --json was given; *cli owns it. */
json_object *cli_answer(struct cli *cli);

/* A line for people: nothing with --json. */
__attribute__((format(printf, 2, 3))) void cli_say(struct cli *cli, const char *format, ...);
/* A remark on stderr that does not change the exit status. */
__attribute__((format(printf, 2, 3))) void cli_note(struct cli *cli, const char *format, ...);

/* The TARGET and the opt words as the daemon wants them. */
int cli_backstore(struct cli *cli, const char *handler, nr_backstore *ret_store,
                  struct failure *why);
void cli_backstore_clear(nr_backstore *store);

/* This host as the daemon knows it. */
const char *cli_host_name(void);

/* What a word of several commands is. */
#define WORDS_WAIT                                                                            \
    {.name = "wait", .kind = WORD_FLAG, .help = "wait for the job's end (default)"},          \
    {                                                                                         \
        .name = "nowait", .kind = WORD_FLAG,                                                  \
        .help = "print the job's id instead of waiting for it"                                \
    }

/* cmd_resize.c: change the size of an export by its name, or else its backstore, as the words
 * "size" and "shrink" say, and that of the devices of this host that it is mapped as. */
int resize_export(struct cli *cli, const char *name, const nr_backstore *store,
                  struct failure *why);

/* suggest.c: add to a failure that nothing has that name which one was probably meant. */
void suggest(struct cli *cli, struct failure *why);

int cmd_acl(struct cli *cli, struct failure *why);
int cmd_clients(struct cli *cli, struct failure *why);
int cmd_create(struct cli *cli, struct failure *why);
int cmd_delete(struct cli *cli, struct failure *why);
int cmd_doctor(struct cli *cli, struct failure *why);
int cmd_export_add(struct cli *cli, struct failure *why);
int cmd_export_list(struct cli *cli, struct failure *why);
int cmd_export_remove(struct cli *cli, struct failure *why);
int cmd_export_set(struct cli *cli, struct failure *why);
int cmd_export_show(struct cli *cli, struct failure *why);
int cmd_export_sync(struct cli *cli, struct failure *why);
int cmd_info(struct cli *cli, struct failure *why);
int cmd_job_cancel(struct cli *cli, struct failure *why);
int cmd_job_list(struct cli *cli, struct failure *why);
int cmd_job_show(struct cli *cli, struct failure *why);
int cmd_job_wait(struct cli *cli, struct failure *why);
int cmd_kick(struct cli *cli, struct failure *why);
int cmd_list(struct cli *cli, struct failure *why);
int cmd_reload(struct cli *cli, struct failure *why);
int cmd_log_level(struct cli *cli, struct failure *why);
int cmd_map(struct cli *cli, struct failure *why);
int cmd_map_all(struct cli *cli, struct failure *why);
int cmd_monitor(struct cli *cli, struct failure *why);
int cmd_read(struct cli *cli, struct failure *why);
int cmd_resize(struct cli *cli, struct failure *why);
int cmd_restore(struct cli *cli, struct failure *why);
int cmd_status(struct cli *cli, struct failure *why);
int cmd_top(struct cli *cli, struct failure *why);
int cmd_unmap_all(struct cli *cli, struct failure *why);
int cmd_unmap(struct cli *cli, struct failure *why);
int cmd_version(struct cli *cli, struct failure *why);
int cmd_write(struct cli *cli, struct failure *why);

extern const struct word words_acl[], words_clients[], words_create[], words_delete[],
    words_export_add[], words_export_name[], words_export_remove[], words_export_set[],
    words_export_sync[], words_info[], words_job[], words_kick[], words_list[],
    words_log_level[], words_map[], words_map_all[], words_monitor[], words_read[],
    words_resize[], words_restore[], words_status[], words_top[], words_unmap[],
    words_unmap_all[], words_write[];

#endif
