/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * create, delete, export add, export remove: the commands that start a CREATE or DELETE job.
 */
#include "answer.h"
#include "command.h"
#include "follow.h"
#include "output.h"

#include <glib.h>
#include <inttypes.h>
#include <string.h>

#define WORD_TARGET                                                                           \
    {                                                                                         \
        .name = "TARGET", .kind = WORD_POSITION, .min = 1, .max = NR_TARGET_MAX,              \
        .help = "what the backstore opens"                                                    \
    }
#define WORD_NAME(is_required)                                                                \
    {                                                                                         \
        .name = "name", .kind = WORD_VALUE, .value = "EXPORT", .min = 1, .max = NR_NAME_MAX,  \
        .required = is_required, .help = "name of the export (BACKSTORE/TARGET)"              \
    }
#define WORD_READONLY                                                                         \
    {                                                                                         \
        .name = "readonly", .kind = WORD_FLAG, .help = "an export that nobody can write to"   \
    }
#define WORD_DESCRIPTION                                                                      \
    {                                                                                         \
        .name = "description", .kind = WORD_VALUE, .value = "TEXT", .max = NR_TEXT_MAX,       \
        .help = "shown to clients that ask"                                                   \
    }
#define WORD_OPT                                                                              \
    {                                                                                         \
        .name = "opt", .kind = WORD_LIST, .value = "KEY=VALUE",                               \
        .help = "option of the handler"                                                       \
    }
#define WORD_FORCE                                                                            \
    {                                                                                         \
        .name = "force", .kind = WORD_FLAG, .help = "although it is mapped or connected"      \
    }

const struct word words_create[] = {
    WORD_TARGET,
    {.name = "prealloc", .kind = WORD_FLAG, .help = "allocate all of it now"},
    {.name = "size",
     .kind = WORD_VALUE,
     .type = TYPE_SIZE,
     .value = "SIZE",
     .required = true,
     .help = "for example 10G"},
    WORD_NAME(false),
    WORD_READONLY,
    WORD_DESCRIPTION,
    WORD_OPT,
    WORDS_WAIT,
    {.name = NULL},
};

const struct word words_export_add[] = {
    {.name = "BACKSTORE",
     .kind = WORD_POSITION,
     .min = 1,
     .max = NR_TEXT_MAX,
     .help = "file, gluster, ceph, nbd ..."},
    WORD_TARGET,
    WORD_NAME(true),
    WORD_READONLY,
    WORD_DESCRIPTION,
    WORD_OPT,
    WORDS_WAIT,
    {.name = NULL},
};

const struct word words_delete[] = {
    WORD_TARGET,
    WORD_FORCE,
    {.name = "keep-data", .kind = WORD_FLAG, .help = "leave the backing store"},
    WORDS_WAIT,
    {.name = NULL},
};

const struct word words_export_remove[] = {
    {.name = "EXPORT",
     .kind = WORD_POSITION,
     .min = 1,
     .max = NR_NAME_MAX,
     .help = "name of the export"},
    WORD_FORCE,
    WORDS_WAIT,
    {.name = NULL},
};

/* A lost answer is asked for again: the same token gives the same job. */
static int call_create(struct cli *cli, nr_create_args *args, nr_job_res *res,
                       struct failure *why)
{
    int r = cli_client(cli, why);

    if (r != 0)
        return r;
    r = client_call(cli->client, NR_CREATE, args, res, why);
    if (r != STATUS_UNREACHABLE)
        return r;
    client_close(cli->client);
    cli->client = NULL;
    r = cli_client(cli, why);
    return r == 0 ? client_call(cli->client, NR_CREATE, args, res, why) : r;
}

static int create(struct cli *cli, const char *handler, nr_create_args *args,
                  const char *success, struct failure *why)
{
    g_autofree char *token = g_uuid_string_random();
    nr_job_res res;
    int r = cli_backstore(cli, handler, &args->store, why);

    if (r != 0)
        return r;
    args->token = token;
    args->name = (char *)words_text(&cli->words, "name", "");
    args->description = (char *)words_text(&cli->words, "description", "");
    args->readonly = words_has(&cli->words, "readonly");
    r = call_create(cli, args, &res, why);
    if (r == 0)
        r = finish_job(cli, NR_CREATE, &res, success, why);
    cli_backstore_clear(&args->store);
    return r;
}

int cmd_create(struct cli *cli, struct failure *why)
{
    nr_create_args args = {
        .size = words_number(&cli->words, "size", 0),
        .prealloc = words_has(&cli->words, "prealloc"),
    };

    if (words_cut_bytes(&cli->words, "size") != 0)
        cli_note(cli, "size %s is no multiple of 512; rounded down to %" PRIu64,
                 words_text(&cli->words, "size", ""), args.size);
    return create(cli, cli->backstore, &args, "Create succeeded!", why);
}

int cmd_export_add(struct cli *cli, struct failure *why)
{
    nr_create_args args = {.adopt = true};
    g_autofree char *success =
        g_strdup_printf("Export %s added.", words_text(&cli->words, "name", ""));

    return create(cli, words_text(&cli->words, "BACKSTORE", ""), &args, success, why);
}

static int delete (struct cli *cli, nr_delete_args *args, const char *success,
                   struct failure *why)
{
    nr_job_res res;
    int r = cli_client(cli, why);

    args->force = words_has(&cli->words, "force");
    if (r == 0)
        r = client_call(cli->client, NR_DELETE, args, &res, why);
    return r == 0 ? finish_job(cli, NR_DELETE, &res, success, why) : r;
}

int cmd_delete(struct cli *cli, struct failure *why)
{
    nr_delete_args args = {
        .name = (char *)"",
        .keep_data = words_has(&cli->words, "keep-data"),
    };
    int r = cli_backstore(cli, cli->backstore, &args.store, why);

    if (r != 0)
        return r;
    r = delete (cli, &args, "Delete succeeded!", why);
    cli_backstore_clear(&args.store);
    return r;
}

int cmd_export_remove(struct cli *cli, struct failure *why)
{
    const char *name = words_text(&cli->words, "EXPORT", "");
    nr_delete_args args = {
        .store = {.handler = (char *)"", .target = (char *)""},
        .name = (char *)name,
        .keep_data = true,
    };
    g_autofree char *success = g_strdup_printf("Export %s removed.", name);

    return delete (cli, &args, success, why);
}
