/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The table of commands, and the way from an argument vector to one of them: options in
 * front, the command's name, its words, its run, and one line for a failure.
 */
#include "command.h"
#include "net.h"
#include "output.h"
#include "progress.h"

#include <errno.h>
#include <glib.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

/* For the help alone: the daemon's handlers check them. */
static const struct backstore_option file_options[] = {
    {"direct=true|false", "past the page cache (false)"},
    {NULL},
};
static const struct backstore_option gluster_options[] = {
    {"host=HOST", "a host of the volume, for its layout (the daemon's ghost)"},
    {"request_timeout=S", "seconds a request waits for bricks that are away (30)"},
    {"durable=true|false", "each write on stable storage before it is answered (false)"},
    {"log_level=LEVEL", "none, critical, error, warning, info, debug or trace (warning)"},
    {"log_file=PATH", "for gluster's own log; in the configuration only (none)"},
    {NULL},
};
static const struct backstore_option ceph_options[] = {
    {"conf=PATH", "below /etc/ceph or beside the daemon's $CEPH_CONF (ceph.conf there)"},
    {"user=NAME", "a client's name without 'client.' (admin)"},
    {"keyring=PATH", "with that user's key, where conf may be as well (what conf says)"},
    {"object_size=SIZE", "of a new image, a power of two from 4K to 32M (4M)"},
    {"request_timeout=S", "seconds after which a request fails, 0: never (0)"},
    {NULL},
};
static const struct backstore_option nbd_options[] = {
    {"connections=N", "to the server, if it allows several (1)"},
    {"request_timeout=S", "seconds a request waits for a server that is away (30)"},
    {"tls_certificates=DIR", "with ca-cert.pem, for URIs that begin with nbds"},
    {NULL},
};
static const struct backstore_option size_options[] = {
    {"size=SIZE", "of an export that is added, not created"},
    {NULL},
};

const struct backstore backstores[] = {
    {"file", "PATH", "files and block devices of the daemon's host", file_options},
    {"gluster", "VOLUME/FILEPATH", "files on a GlusterFS volume", gluster_options},
    {"ceph", "POOL[/NAMESPACE]/IMAGE[@SNAP]", "RBD images", ceph_options},
    {"nbd", "HOST[:PORT]/EXPORT|unix:PATH:EXPORT", "exports of another NBD server",
     nbd_options},
    {"null", "NAME", "reads as zeros, forgets writes; for tests", size_options},
    {"mem", "NAME", "memory of the daemon; for tests", size_options},
};
const size_t n_backstores = G_N_ELEMENTS(backstores);

const struct command commands[] = {
    {GROUP_BACKSTORE, "create", "make a backing store and its export", words_create,
     cmd_create},
    {GROUP_BACKSTORE, "delete", "remove an export and its backing store", words_delete,
     cmd_delete},
    {GROUP_BACKSTORE, "resize", "change the size of a backing store and of what is mapped here",
     words_resize, cmd_resize},
    {GROUP_BACKSTORE, "map", "attach an export to a local /dev/nbdN", words_map, cmd_map},
    {GROUP_BACKSTORE, "unmap", "detach it again", words_unmap, cmd_unmap},
    {GROUP_BACKSTORE, "list", "local devices and the daemon's backstores", words_list,
     cmd_list},
    {"global", "list", "the same for all backstores together", words_list, cmd_list},
    {"export", "list", "the daemon's exports", NULL, cmd_export_list},
    {"export", "show", "everything about one export", words_export_name, cmd_export_show},
    {"export", "add", "export a backing store that exists", words_export_add, cmd_export_add},
    {"export", "remove", "forget an export, leave its backing store", words_export_remove,
     cmd_export_remove},
    {"export", "set", "change what may change while it is in use", words_export_set,
     cmd_export_set},
    {"export", "sync", "bring what was written to stable storage", words_export_sync,
     cmd_export_sync},
    {NULL, "acl", "who may connect to an export", words_acl, cmd_acl},
    {NULL, "status", "state of the daemon or of an export, as key=value", words_status,
     cmd_status},
    {NULL, "info", "what an NBD server says about an export", words_info, cmd_info},
    {NULL, "read", "copy a range of an export to stdout", words_read, cmd_read},
    {NULL, "write", "copy stdin to a range of an export", words_write, cmd_write},
    {NULL, "clients", "who is connected", words_clients, cmd_clients},
    {NULL, "top", "what the daemon is doing, again and again", words_top, cmd_top},
    {NULL, "kick", "end a client's connection", words_kick, cmd_kick},
    {"job", "list", "long operations", NULL, cmd_job_list},
    {"job", "show", "one of them", words_job, cmd_job_show},
    {"job", "wait", "wait for its end", words_job, cmd_job_wait},
    {"job", "cancel", "stop it", words_job, cmd_job_cancel},
    {NULL, "map", "map what nbdtab(5) lists", words_map_all, cmd_map_all},
    {NULL, "unmap", "unmap what nbdtab(5) lists", words_unmap_all, cmd_unmap_all},
    {NULL, "restore", "reconnect local devices whose connection is dead", words_restore,
     cmd_restore},
    {NULL, "reload", "read the configuration again", NULL, cmd_reload},
    {NULL, "monitor", "watch the local devices and reconnect them, until it is stopped",
     words_monitor, cmd_monitor},
    {NULL, "log-level", "set what the daemon logs", words_log_level, cmd_log_level},
    {NULL, "doctor", "what is not in order, and what to do about it", NULL, cmd_doctor},
    {NULL, "version", "versions of this tool and the protocol", NULL, cmd_version},
};
const size_t n_commands = G_N_ELEMENTS(commands);

/* Words of every command. A command's own word of the same name goes first: "timeout" of map
 * is the kernel's. */
const struct word common_words[] = {
    {.name = "host",
     .kind = WORD_VALUE,
     .value = "HOST",
     .min = 1,
     .max = 255,
     .help = "where the daemon is: NAME, ADDRESS, [V6], each with :PORT, or unix:PATH"},
    {.name = "dir",
     .kind = WORD_VALUE,
     .value = "DIR",
     .min = 1,
     .max = 90,
     .option_only = true,
     .help = "the daemon whose control.sock is in DIR"},
    {.name = "call-timeout",
     .alias = "timeout",
     .kind = WORD_VALUE,
     .type = TYPE_SECONDS,
     .value = "S",
     .min = 1,
     .max = 86400,
     .option_only = true,
     .help = "wait so long for each answer of the daemon (25)"},
    {.name = "json", .kind = WORD_FLAG, .option_only = true, .help = "answer in JSON"},
    {.name = "help",
     .kind = WORD_FLAG,
     .option_only = true,
     .letter = 'h',
     .help = "this text"},
    {.name = NULL},
};

/* ---- What commands use ---- */

int64_t cli_timeout_ms(const struct cli *cli)
{
    uint64_t usual = cli->timeout_s != 0 ? cli->timeout_s : CALL_TIMEOUT_S;
    uint64_t before = words_number(&cli->leading, "call-timeout", usual);

    return (int64_t)words_number(&cli->words, "call-timeout", before) * 1000;
}

int cli_client(struct cli *cli, struct failure *why)
{
    const char *host = words_text(&cli->words, "host", NULL);
    const char *dir = words_text(&cli->words, "dir", NULL);
    g_autofree char *socket = NULL;

    if (cli->client != NULL)
        return 0;
    if (host == NULL && dir == NULL) {
        host = words_text(&cli->leading, "host", NULL);
        dir = words_text(&cli->leading, "dir", NULL);
    }
    if (host != NULL && dir != NULL)
        return fail_with(why, STATUS_USAGE, "'host' and '--dir' both say where the daemon is");
    if (dir != NULL)
        host = socket = g_strdup_printf("unix:%s/control.sock", dir);
    return client_open(host, cli_timeout_ms(cli), &cli->client, why);
}

int cli_client_of(struct cli *cli, const char *address, struct failure *why)
{
    static const char *const words[] = {"host", "dir"};
    char text[ADDRESS_MAX];

    for (size_t i = 0; i < G_N_ELEMENTS(words); i++)
        if (words_has(&cli->words, words[i]) || words_has(&cli->leading, words[i]))
            return cli_client(cli, why);
    if (*address == '\0')
        return cli_client(cli, why);
    if (cli->client != NULL &&
        strcmp(address_format(client_address(cli->client), text), address) == 0)
        return 0;
    client_close(cli->client);
    cli->client = NULL;
    return client_open(address, cli_timeout_ms(cli), &cli->client, why);
}

json_object *cli_answer(struct cli *cli)
{
    if (cli->answer == NULL)
        cli->answer = json_object_new_object();
    return cli->answer;
}

void cli_say(struct cli *cli, const char *format, ...)
{
    va_list args;

    if (cli->json)
        return;
    va_start(args, format);
    vfprintf(cli->out, format, args);
    va_end(args);
    fputc('\n', cli->out);
}

void cli_note(struct cli *cli, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    clean_text(text);
    fprintf(stderr, "%s: note: %s\n", cli->prefix, text);
}

static int split_opt(const char *text, nr_opt *ret_opt, struct failure *why)
{
    const char *equals = strchr(text, '=');

    if (equals == NULL || equals == text || (size_t)(equals - text) > NR_TEXT_MAX)
        return fail_with(why, STATUS_USAGE, "opt '%.64s' is not of the form KEY=VALUE", text);
    if (strlen(equals + 1) > NR_OPTVAL_MAX)
        return fail_with(why, STATUS_USAGE, "opt '%.64s': the value is longer than %d bytes",
                         text, NR_OPTVAL_MAX);
    ret_opt->key = g_strndup(text, (gsize)(equals - text));
    ret_opt->value = g_strdup(equals + 1);
    return 0;
}

int cli_backstore(struct cli *cli, const char *handler, nr_backstore *ret_store,
                  struct failure *why)
{
    const struct words *words = &cli->words;
    nr_backstore store = {.handler = g_strdup(handler),
                          .target = g_strdup(words_text(words, "TARGET", ""))};
    int r = 0;

    if (words->n_list > NR_OPTS_MAX)
        r = fail_with(why, STATUS_USAGE, "more than %d opts", NR_OPTS_MAX);
    /* By malloc, as the whole is freed by xdr_free(). */
    store.opts.opts_val = calloc(words->n_list + 1, sizeof(nr_opt));
    g_assert(store.opts.opts_val != NULL);
    for (size_t i = 0; r == 0 && i < words->n_list; i++) {
        r = split_opt(words->list[i], &store.opts.opts_val[i], why);
        if (r == 0)
            store.opts.opts_len++;
    }
    if (r == 0)
        *ret_store = store;
    else
        xdr_free((xdrproc_t)xdr_nr_backstore, &store);
    return r;
}

void cli_backstore_clear(nr_backstore *store)
{
    xdr_free((xdrproc_t)xdr_nr_backstore, store);
}

const char *cli_host_name(void)
{
    static char name[NR_HOST_MAX + 1];

    if (name[0] == '\0' && (gethostname(name, sizeof(name) - 1) < 0 || name[0] == '\0'))
        strcpy(name, "localhost");
    return name;
}

int cmd_version(struct cli *cli, struct failure *why)
{
    (void)why;
    cli_say(cli, "nbd-cli %s, control protocol %d", PACKAGE_VERSION, RPC_NBD_V2);
    json_put_text(cli_answer(cli), "version", PACKAGE_VERSION);
    json_put_number(cli_answer(cli), "protocol", RPC_NBD_V2);
    return 0;
}

/* ---- Finding the command ---- */

static bool is_backstore(const char *word)
{
    for (size_t i = 0; i < n_backstores; i++)
        if (strcmp(backstores[i].name, word) == 0)
            return true;
    return false;
}

/* Is `word` the first word of the command's name? */
bool command_is_in_group(const struct command *command, const char *word)
{
    if (command->group == NULL)
        return false;
    if (strcmp(command->group, GROUP_BACKSTORE) == 0)
        return is_backstore(word);
    return strcmp(command->group, word) == 0;
}

const struct command *command_find(const char *group, const char *verb)
{
    for (size_t i = 0; i < n_commands; i++) {
        const struct command *command = &commands[i];

        if (strcmp(command->verb, verb) == 0 &&
            (group == NULL ? command->group == NULL : command_is_in_group(command, group)))
            return command;
    }
    return NULL;
}

bool command_is_group(const char *word)
{
    for (size_t i = 0; i < n_commands; i++)
        if (command_is_in_group(&commands[i], word))
            return true;
    return false;
}

/* A handler that was built elsewhere has no line in the table; the daemon knows it. Not for
 * "list", a verb of other groups too, and not for what looks like a slip. */
const struct command *command_find_foreign(const char *word, const char *verb)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    const char *names[G_N_ELEMENTS(backstores)];

    for (size_t i = 0; i < n_backstores; i++)
        names[i] = backstores[i].name;
    if (word[strspn(word, letters)] != '\0' || strcmp(verb, "list") == 0 ||
        nearest_word(word, names, n_backstores) != NULL)
        return NULL;
    return command_find(names[0], verb);
}

static int fail_unknown(const char *kind, const char *word, const char *const *names, size_t n,
                        struct failure *why)
{
    const char *near = nearest_word(word, names, n);

    if (near != NULL)
        return fail_with(why, STATUS_USAGE, "unknown %s '%.64s'; did you mean '%s'?", kind,
                         word, near);
    return fail_with(why, STATUS_USAGE, "unknown %s '%.64s'; 'nbd-cli help' lists all", kind,
                     word);
}

static int fail_first_word(const char *word, struct failure *why)
{
    const char *names[64] = {"help"};
    size_t n = 1;

    for (size_t i = 0; i < n_commands; i++)
        if (commands[i].group == NULL)
            names[n++] = commands[i].verb;
        else if (strcmp(commands[i].group, GROUP_BACKSTORE) != 0)
            names[n++] = commands[i].group;
    for (size_t i = 0; i < n_backstores; i++)
        names[n++] = backstores[i].name;
    return fail_unknown("command", word, names, n, why);
}

static int fail_verb(const char *group, const char *word, struct failure *why)
{
    const char *names[64] = {"help"};
    g_autofree char *kind = g_strdup_printf("%s command", group);
    size_t n = 1;

    for (size_t i = 0; i < n_commands; i++)
        if (command_is_in_group(&commands[i], group))
            names[n++] = commands[i].verb;
    return fail_unknown(kind, word, names, n, why);
}

/* "nbd-cli help [COMMAND]": the words behind "help". */
static int help_about(struct cli *cli, int argc, char **argv, struct failure *why)
{
    const struct command *command;

    if (argc == 0 || strcmp(argv[0], "help") == 0) {
        print_help(cli->out, NULL, NULL);
        return 0;
    }
    command = command_find(NULL, argv[0]);
    if (command == NULL && argc >= 2 && command_is_group(argv[0])) {
        command = command_find(argv[0], argv[1]);
        if (command == NULL)
            return fail_verb(argv[0], argv[1], why);
    }
    if (command == NULL && !command_is_group(argv[0]))
        return fail_first_word(argv[0], why);
    print_help(cli->out, command_is_group(argv[0]) ? argv[0] : NULL, command);
    return 0;
}

static bool asks_for_help(int argc, char **argv)
{
    if (argc == 1 && strcmp(argv[0], "help") == 0)
        return true;
    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

static int run_command(struct cli *cli, const struct command *command, const char *group,
                       int argc, char **argv, struct failure *why)
{
    int r;

    snprintf(cli->prefix, sizeof(cli->prefix), "nbd-cli %s%s%s", group != NULL ? group : "",
             group != NULL ? " " : "", command->verb);
    if (command->group != NULL && strcmp(command->group, GROUP_BACKSTORE) == 0)
        cli->backstore = group;
    if (asks_for_help(argc, argv)) {
        print_help(cli->out, group, command);
        return 0;
    }
    words_clear(&cli->words);
    words_init(&cli->words, command->words, common_words);
    r = words_parse(&cli->words, argc, argv, why);
    if (r != 0)
        return r;
    if (words_given(&cli->words, "wait") != NULL && words_given(&cli->words, "nowait") != NULL)
        return fail_with(why, STATUS_USAGE, "'wait' and 'nowait' exclude each other");
    cli->json = words_has(&cli->words, "json") || words_has(&cli->leading, "json");
    return command->run(cli, why);
}

static int run(struct cli *cli, int argc, char **argv, struct failure *why)
{
    const struct command *command;
    int used, r;

    for (; argc > 0 && argv[0][0] == '-'; argc -= used, argv += used) {
        if (strcmp(argv[0], "--version") == 0 || strcmp(argv[0], "-v") == 0)
            return cmd_version(cli, why);
        r = words_parse_option(&cli->leading, argc, argv, &used, why);
        if (r != 0)
            return r;
        if (words_has(&cli->leading, "help"))
            break;
    }
    if (argc == 0 || words_has(&cli->leading, "help"))
        return help_about(cli, 0, NULL, why);
    if (strcmp(argv[0], "complete") == 0)
        return complete(cli, argc - 1, argv + 1);
    if (strcmp(argv[0], "help") == 0)
        return help_about(cli, argc - 1, argv + 1, why);
    command = command_find(NULL, argv[0]);
    if (command != NULL)
        return run_command(cli, command, NULL, argc - 1, argv + 1, why);
    command = argc > 2 && !command_is_group(argv[0]) ? command_find_foreign(argv[0], argv[1]) : NULL;
    if (command != NULL)
        return run_command(cli, command, argv[0], argc - 2, argv + 2, why);
    if (!command_is_group(argv[0]))
        return fail_first_word(argv[0], why);
    if (argc == 1 || strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0 ||
        strcmp(argv[1], "-h") == 0)
        return help_about(cli, 1, argv, why);
    snprintf(cli->prefix, sizeof(cli->prefix), "nbd-cli %.32s", argv[0]);
    command = command_find(argv[0], argv[1]);
    if (command == NULL)
        return fail_verb(argv[0], argv[1], why);
    return run_command(cli, command, argv[0], argc - 2, argv + 2, why);
}

/* ---- The end of it ---- */

static void print_failure(struct cli *cli, const struct failure *why)
{
    json_object *error;

    if (why->message[0] == '\0')
        return; /* the answer says it all */
    fprintf(stderr, "%s: %s\n", cli->prefix, why->message);
    if (!cli->json)
        return;
    error = json_object_new_object();
    json_put_text(error, "code", why->code);
    json_put_text(error, "message", why->message);
    if (cli->answer != NULL && !cli->partly) {
        json_object_put(cli->answer);
        cli->answer = NULL;
    }
    if (cli->answer == NULL)
        cli->answer = json_object_new_object();
    json_object_object_add(cli->answer, "error", error);
}

int command_main(int argc, char **argv, FILE *out)
{
    struct cli cli = {.prefix = "nbd-cli", .sysfs = SYSFS_SYSTEM, .out = out};
    struct failure why = {0};
    int status;

    signal(SIGPIPE, SIG_IGN);
    /* A wrong word must be answered in JSON too, wherever --json stands. */
    for (int i = 1; i < argc; i++)
        cli.json = cli.json || strcmp(argv[i], "--json") == 0;
    words_init(&cli.leading, NULL, common_words);
    words_init(&cli.words, NULL, common_words);
    status = argc > 0 ? run(&cli, argc - 1, argv + 1, &why) : STATUS_USAGE;
    progress_end();
    if (status != 0 && g_strcmp0(why.code, "ENOENT") == 0)
        suggest(&cli, &why);
    if (status != 0)
        print_failure(&cli, &why);
    if (cli.json && cli.answer != NULL)
        json_print(cli.answer, out);
    if ((fflush(out) != 0 || ferror(out)) && status == 0) {
        if (errno != EPIPE) /* who reads, such as head, has seen enough */
            fprintf(stderr, "%s: writing the answer failed: %s\n", cli.prefix,
                    strerror(errno));
        status = STATUS_FAILED;
    }
    if (cli.answer != NULL)
        json_object_put(cli.answer);
    client_close(cli.client);
    words_clear(&cli.words);
    words_clear(&cli.leading);
    return status;
}
