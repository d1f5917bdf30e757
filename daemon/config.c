/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The settings of one instance. The table `settings` says for each how it is spelt on the
 * command line and in the file, what it takes and where it goes; everything else here walks
 * that table. Reads files, starts nothing. Loop thread, before the loop runs.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "acl.h"
#include "config.h"
#include "log.h"

#define GROUP "generic"
#define FILE_MAX (1u << 20)
#define HOST_MAX 255

/* One value for one setting, and where it was written. */
struct assignment {
    const struct setting *setting;
    char *where; /* "--threads", or "/etc/x.conf line 3: threads" */
    char *text;
    const char *base; /* directory that relative paths start from; not owned */
};

/* Checks and stores. -EINVAL with a sentence that begins with a->where. */
typedef int set_value(struct config *config, const struct assignment *a,
                      struct nbd_failure *why);

struct setting {
    const char *words;    /* bare words of the command line, or NULL */
    const char *options;  /* "-t --threads", or NULL */
    const char *keys;     /* in [generic], or NULL */
    const char *argument; /* NULL: takes none */
    const char *help;
    set_value *set;
    size_t offset;
    int64_t min, max;
    const char *list;     /* may be given many times; in the file separated by these */
};

/* ---- Values ---- */

static void *field(struct config *config, const struct setting *setting)
{
    return (char *)config + setting->offset;
}

static void replace_string(char **string, char *value)
{
    g_free(*string);
    *string = value;
}

static void append_string(char ***list, const char *value)
{
    unsigned length = g_strv_length(*list);

    *list = g_renew(char *, *list, length + 2);
    (*list)[length] = g_strdup(value);
    (*list)[length + 1] = NULL;
}

static int bad_value(const struct assignment *a, struct nbd_failure *why, const char *problem)
{
    char *quoted = log_quote(a->text, strlen(a->text));

    nbd_fail(why, EINVAL, "%s: %s %s", a->where, quoted, problem);
    g_free(quoted);
    return -EINVAL;
}

/* A whole decimal number of any size; what does not fit is saturated. */
static int parse_number(const struct assignment *a, int64_t *ret_number,
                        struct nbd_failure *why)
{
    GError *error = NULL;

    if (g_ascii_string_to_signed(a->text, 10, INT64_MIN, INT64_MAX, ret_number, &error))
        return 0;
    if (error->code == G_NUMBER_PARSER_ERROR_OUT_OF_BOUNDS) {
        g_error_free(error);
        *ret_number = a->text[0] == '-' ? INT64_MIN : INT64_MAX;
        return 0;
    }
    g_error_free(error);
    return bad_value(a, why, "is not a whole number");
}

static int check_range(const struct assignment *a, int64_t number, struct nbd_failure *why)
{
    const struct setting *setting = a->setting;

    if (number >= setting->min && number <= setting->max)
        return 0;
    return nbd_fail(why, EINVAL, "%s: %.64s is out of range, give %" PRId64 " to %" PRId64,
                    a->where, a->text, setting->min, setting->max);
}

static int set_unsigned(struct config *config, const struct assignment *a,
                        struct nbd_failure *why)
{
    int64_t number;
    int r = parse_number(a, &number, why);

    if (r == 0)
        r = check_range(a, number, why);
    if (r == 0)
        *(unsigned *)field(config, a->setting) = (unsigned)number;
    return r;
}

static int set_port(struct config *config, const struct assignment *a, struct nbd_failure *why)
{
    int64_t number;
    int r = parse_number(a, &number, why);

    if (r == 0)
        r = check_range(a, number, why);
    if (r == 0)
        *(int *)field(config, a->setting) = (int)number;
    return r;
}

/* Out of range is no reason not to start. */
static int set_threads(struct config *config, const struct assignment *a,
                       struct nbd_failure *why)
{
    int64_t number, clamped;
    int r = parse_number(a, &number, why);

    if (r < 0)
        return r;
    clamped = CLAMP(number, a->setting->min, a->setting->max);
    if (clamped != number)
        log_warning("%s: %.64s is out of range, %" PRId64 " is used", a->where, a->text,
                    clamped);
    *(unsigned *)field(config, a->setting) = (unsigned)clamped;
    return 0;
}

/* The power of two behind a number: "" 0, "K" or "KiB" 10, ... "T" 40; -1: no such unit. */
static int unit_shift(const char *unit)
{
    static const char units[] = "kmgt";
    const char *found;

    if (unit[0] == '\0')
        return 0;
    found = strchr(units, g_ascii_tolower(unit[0]));
    if (found == NULL || (unit[1] != '\0' && g_ascii_strcasecmp(unit + 1, "ib") != 0))
        return -1;
    return 10 * (int)(found - units + 1);
}

static int set_size(struct config *config, const struct assignment *a, struct nbd_failure *why)
{
    char *unit;
    uint64_t number = g_ascii_strtoull(a->text, &unit, 10);
    int shift = unit_shift(unit);

    if (!g_ascii_isdigit(a->text[0]) || shift < 0)
        return bad_value(a, why, "is not a size; give bytes, or a number with K, M, G or T");
    number = number > (uint64_t)INT64_MAX >> shift ? INT64_MAX : number << shift;
    if (check_range(a, (int64_t)number, why) < 0)
        return -EINVAL;
    *(uint64_t *)field(config, a->setting) = number;
    return 0;
}

static int set_flag(struct config *config, const struct assignment *a, struct nbd_failure *why)
{
    (void)why;
    *(bool *)field(config, a->setting) = true;
    return 0;
}

/* Of a host name, an IPv4 or an IPv6 address with or without brackets and zone. */
static bool is_host(const char *text)
{
    size_t length = strlen(text);

    return length > 0 && length <= HOST_MAX &&
           strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                        ".-_:%") == length;
}

static char *without_brackets(const char *text)
{
    size_t length = strlen(text);

    if (length > 2 && text[0] == '[' && text[length - 1] == ']')
        return g_strndup(text + 1, length - 2);
    return g_strdup(text);
}

static int set_host(struct config *config, const struct assignment *a, struct nbd_failure *why)
{
    char *host = without_brackets(a->text);

    if (!is_host(host)) {
        g_free(host);
        return bad_value(a, why, "is not a host name or address");
    }
    if (a->setting->list != NULL) {
        append_string(field(config, a->setting), host);
        g_free(host);
    } else {
        replace_string(field(config, a->setting), host);
    }
    return 0;
}

static int add_network(struct config *config, const struct assignment *a,
                       struct nbd_failure *why)
{
    const char *entries[] = { a->text, NULL };
    struct nbd_failure reason = { 0 };
    struct acl *acl;

    if (acl_new(entries, &acl, &reason) < 0)
        return nbd_fail(why, EINVAL, "%s: %s", a->where, reason.message);
    acl_free(acl);
    append_string(field(config, a->setting), a->text);
    return 0;
}

/* The absolute path, or NULL with *why. */
static char *make_path(const struct assignment *a, struct nbd_failure *why)
{
    if (a->text[0] != '\0')
        return g_canonicalize_filename(a->text, a->base);
    nbd_fail(why, EINVAL, "%s: a path is needed, not an empty word", a->where);
    return NULL;
}

static int set_path(struct config *config, const struct assignment *a, struct nbd_failure *why)
{
    char *path = make_path(a, why);

    if (path == NULL)
        return -EINVAL;
    replace_string(field(config, a->setting), path);
    return 0;
}

static int add_path(struct config *config, const struct assignment *a, struct nbd_failure *why)
{
    char *path = make_path(a, why);

    if (path == NULL)
        return -EINVAL;
    append_string(field(config, a->setting), path);
    g_free(path);
    return 0;
}

/* An empty word means that there shall be none. */
static int set_path_or_none(struct config *config, const struct assignment *a,
                            struct nbd_failure *why)
{
    if (a->text[0] != '\0')
        return set_path(config, a, why);
    replace_string(field(config, a->setting), g_strdup(""));
    return 0;
}

static int check_socket_path(const char *where, const char *path, struct nbd_failure *why)
{
    const size_t most = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1;

    if (strlen(path) <= most)
        return 0;
    return nbd_fail(why, EINVAL,
                    "%s: %s is too long for a socket, %zu bytes is the most; take a shorter path",
                    where, path, most);
}

static int set_socket(struct config *config, const struct assignment *a,
                      struct nbd_failure *why)
{
    char *path = NULL;
    int r = 0;

    if (a->text[0] != '\0')
        path = g_canonicalize_filename(a->text, a->base);
    if (path != NULL)
        r = check_socket_path(a->where, path, why);
    if (r == 0)
        replace_string(field(config, a->setting), path != NULL ? path : g_strdup(""));
    else
        g_free(path);
    return r;
}

static int set_log_level(struct config *config, const struct assignment *a,
                         struct nbd_failure *why)
{
    if (!log_parse_level(a->text, field(config, a->setting)))
        return bad_value(a, why, "is no log level; give error, warning, info or debug");
    return 0;
}

/* "auto" and "journal" are stderr: log.c adds priorities there when systemd reads it. */
static int set_log_target(struct config *config, const struct assignment *a,
                          struct nbd_failure *why)
{
    char **target = field(config, a->setting);
    char *path;

    if (strcmp(a->text, "auto") == 0 || strcmp(a->text, "journal") == 0 ||
        strcmp(a->text, "stderr") == 0) {
        replace_string(target, g_strdup("stderr"));
        return 0;
    }
    if (strcmp(a->text, "syslog") == 0) {
        replace_string(target, g_strdup("syslog"));
        return 0;
    }
    if (!g_str_has_prefix(a->text, "file:") || a->text[5] == '\0')
        return bad_value(a, why,
                         "is no log target; give stderr, journal, syslog or file:PATH");
    path = g_canonicalize_filename(a->text + 5, a->base);
    replace_string(target, g_strconcat("file:", path, NULL));
    g_free(path);
    return 0;
}

static int set_log_dir(struct config *config, const struct assignment *a,
                       struct nbd_failure *why)
{
    char *path = make_path(a, why);
    char *file;

    if (path == NULL)
        return -EINVAL;
    file = g_build_filename(path, "nbd-runner.log", NULL);
    replace_string(field(config, a->setting), g_strconcat("file:", file, NULL));
    g_free(file);
    g_free(path);
    return 0;
}

static int set_text(struct config *config, const struct assignment *a, struct nbd_failure *why)
{
    if (a->text[0] == '\0')
        return nbd_fail(why, EINVAL, "%s: a name or number is needed, not an empty word",
                        a->where);
    replace_string(field(config, a->setting), g_strdup(a->text));
    return 0;
}

/* ---- The table ---- */

#define AT(member) .offset = offsetof(struct config, member)
#define HOSTS " ,;"
#define PATHS ",;"

static const struct setting settings[] = {
    { .words = "threads", .options = "-t --threads", .keys = "threads", .argument = "N",
      .help = "worker threads one export may keep busy, 1 to 16 (1)",
      .set = set_threads, AT(threads), .min = 1, .max = 16 },
    { .words = "rpchost rhost", .options = "-r --rpchost --rhost", .keys = "rpchost rhost",
      .argument = "HOST", .help = "address for control, repeatable (every address)",
      .set = set_host, AT(rpc_hosts), .list = HOSTS },
    { .words = "iohost ihost", .options = "-i --iohost --ihost", .keys = "iohost ihost",
      .argument = "HOST", .help = "address for NBD, repeatable (every address)",
      .set = set_host, AT(nbd_hosts), .list = HOSTS },
    { .words = "ghost", .options = "-G --ghost", .keys = "ghost", .argument = "HOST",
      .help = "gluster management host (localhost)", .set = set_host, AT(gluster_host) },
    { .options = "--rpcport", .keys = "rpcport", .argument = "PORT",
      .help = "control port, 0: any free one (24110)", .set = set_port, AT(rpc_port),
      .max = 65535 },
    { .options = "--ioport", .keys = "ioport", .argument = "PORT",
      .help = "NBD port, 0: any free one (24111)", .set = set_port, AT(nbd_port),
      .max = 65535 },
    { .options = "--rpc-socket", .keys = "rpc_socket", .argument = "PATH",
      .help = "Unix socket for control, empty: none", .set = set_socket, AT(rpc_socket) },
    { .options = "--nbd-socket", .keys = "nbd_socket", .argument = "PATH",
      .help = "Unix socket for NBD, empty: none", .set = set_socket, AT(nbd_socket) },
    { .options = "--rpc-allow", .keys = "rpc_allow", .argument = "NET",
      .help = "address or network that may control, repeatable", .set = add_network,
      AT(rpc_allow), .list = HOSTS },
    { .options = "-C --config", .argument = "FILE", .help = "configuration file",
      .set = set_path, AT(config_file) },
    { .options = "--conf-dir", .argument = "DIR", .help = "export definitions",
      .set = set_path, AT(conf_dir) },
    { .options = "--dir", .argument = "DIR",
      .help = "keep all of the instance in DIR: local, on free ports",
      .set = set_path, AT(dir) },
    { .options = "--state", .keys = "state_file", .argument = "FILE", .help = "saved state",
      .set = set_path, AT(state_file) },
    { .options = "--file-root", .keys = "file_roots", .argument = "DIR",
      .help = "where control may make images, repeatable", .set = add_path, AT(file_roots),
      .list = PATHS },
    { .options = "--handler-dir", .keys = "handler_dir", .argument = "DIR",
      .help = "where libXXX_handler.so are", .set = set_path, AT(handler_dir) },
    { .options = "--pidfile", .argument = "FILE", .help = "process id, empty: none",
      .set = set_path_or_none, AT(pid_file) },
    { .options = "--lockfile", .argument = "FILE", .help = "one instance only, empty: none",
      .set = set_path_or_none, AT(lock_file) },
    { .options = "--log-level", .keys = "log_level", .argument = "L",
      .help = "error, warning, info, debug (info)", .set = set_log_level, AT(log_level) },
    { .options = "--log-target", .keys = "log_target", .argument = "T",
      .help = "stderr, journal, syslog, file:PATH (stderr)", .set = set_log_target,
      AT(log_target) },
    { .keys = "log_dir", .argument = "DIR", .set = set_log_dir, AT(log_target) },
    { .options = "-u --user", .keys = "user", .argument = "UID", .help = "run as this user",
      .set = set_text, AT(user) },
    { .options = "-g --group", .keys = "group", .argument = "GID",
      .help = "run as this group", .set = set_text, AT(group) },
    { .keys = "rpc_max_clients", .argument = "N", .set = set_unsigned, AT(rpc_max_clients),
      .min = 1, .max = 100000 },
    { .keys = "negotiation_timeout", .argument = "S", .set = set_unsigned,
      AT(negotiation_timeout_s), .min = 1, .max = 3600 },
    { .keys = "max_connections", .argument = "N", .set = set_unsigned, AT(max_connections),
      .min = 1, .max = 1000000 },
    /* A request of the largest advertised payload must fit. */
    { .keys = "max_inflight_bytes", .argument = "SIZE", .set = set_size,
      AT(max_inflight_bytes), .min = 64 << 20, .max = INT64_MAX },
    { .keys = "drain_timeout", .argument = "S", .set = set_unsigned, AT(drain_timeout_s),
      .max = 86400 },
    { .options = "--foreground", .help = "as always: nothing goes to the background",
      .set = set_flag, AT(foreground) },
    { .options = "--check-config", .help = "read the configuration, report, end",
      .set = set_flag, AT(check_config) },
    { .words = "help", .options = "-h --help", .help = "print this", .set = set_flag,
      AT(show_help) },
    { .words = "version", .options = "-v --version", .help = "print the version",
      .set = set_flag, AT(show_version) },
};

/* ---- Finding a spelling ---- */

/* Which of the three lists of spellings. */
enum spelling { WORD, OPTION, KEY };

static const char *spellings(const struct setting *setting, enum spelling kind)
{
    return kind == WORD ? setting->words : kind == OPTION ? setting->options : setting->keys;
}

/* Calls visit() for each spelling of this kind until it says true. */
static bool each_spelling(enum spelling kind,
                          bool (*visit)(const struct setting *setting, const char *text,
                                        void *arg),
                          void *arg)
{
    for (size_t i = 0; i < G_N_ELEMENTS(settings); i++) {
        const char *all = spellings(&settings[i], kind);
        char **names = g_strsplit(all != NULL ? all : "", " ", -1);
        bool enough = false;

        for (char **name = names; *name != NULL && !enough; name++)
            enough = visit(&settings[i], *name, arg);
        g_strfreev(names);
        if (enough)
            return true;
    }
    return false;
}

struct search {
    const char *text;
    const struct setting *found;
    char nearest[64];
    size_t distance;
};

static bool is_spelt(const struct setting *setting, const char *text, void *arg)
{
    struct search *search = arg;

    if (strcmp(text, search->text) != 0)
        return false;
    search->found = setting;
    return true;
}

static const struct setting *find_setting(enum spelling kind, const char *text)
{
    struct search search = { .text = text };

    each_spelling(kind, is_spelt, &search);
    return search.found;
}

/* Levenshtein's distance; both are short. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t row[64], length = strlen(b);

    g_assert(length < G_N_ELEMENTS(row));
    for (size_t j = 0; j <= length; j++)
        row[j] = j;
    for (size_t i = 1; a[i - 1] != '\0'; i++) {
        size_t diagonal = row[0];

        row[0] = i;
        for (size_t j = 1; j <= length; j++) {
            size_t swap = diagonal + (a[i - 1] != b[j - 1]);

            diagonal = row[j];
            row[j] = MIN(swap, MIN(row[j], row[j - 1]) + 1);
        }
    }
    return row[length];
}

static bool keep_nearest(const struct setting *setting, const char *text, void *arg)
{
    struct search *search = arg;
    size_t distance = edit_distance(search->text, text);

    (void)setting;
    if (search->nearest[0] == '\0' || distance < search->distance) {
        search->distance = distance;
        g_strlcpy(search->nearest, text, sizeof(search->nearest));
    }
    return false;
}

static void nearest_spelling(enum spelling kind, const char *text, struct search *ret_search)
{
    char *head = g_strndup(text, 48);

    *ret_search = (struct search){ .text = head };
    each_spelling(kind, keep_nearest, ret_search);
    ret_search->text = NULL;
    g_free(head);
}

/* ---- The command line ---- */

static void assignment_free(void *arg)
{
    struct assignment *a = arg;

    g_free(a->where);
    g_free(a->text);
    g_free(a);
}

static void assign(GPtrArray *layer, const struct setting *setting, char *where, char *text,
                   const char *base)
{
    struct assignment *a = g_new0(struct assignment, 1);

    a->setting = setting;
    a->where = where;
    a->text = text;
    a->base = base;
    g_ptr_array_add(layer, a);
}

static int unknown_word(enum spelling kind, const char *text, struct nbd_failure *why)
{
    char *quoted = log_quote(text, strlen(text));
    struct search search;

    nearest_spelling(kind, text, &search);
    nbd_fail(why, EINVAL, "unknown %s %s: did you mean '%s'? 'nbd-runner help' lists all",
             kind == OPTION ? "option" : "word", quoted, search.nearest);
    g_free(quoted);
    return -EINVAL;
}

/* Is this what follows the value that somebody forgot? Negative numbers are values. */
static bool looks_like_a_setting(const char *text, enum spelling kind)
{
    if (text[0] == '-')
        return !g_ascii_isdigit(text[1]) && text[1] != '\0';
    return kind == WORD && find_setting(WORD, text) != NULL;
}

static int missing_value(const struct setting *setting, const char *name, const char *next,
                         struct nbd_failure *why)
{
    if (next == NULL)
        return nbd_fail(why, EINVAL, "%s needs a value: %s %s", name, name,
                        setting->argument);
    return nbd_fail(why, EINVAL, "%s needs a value: %s %s, but '%.64s' follows", name, name,
                    setting->argument, next);
}

/* "--opt", "--opt=VALUE", "-o" or "-oVALUE" in its two parts. */
static void split_option(const char *word, char **ret_name, const char **ret_value)
{
    const char *equals = strchr(word, '=');

    *ret_value = NULL;
    if (word[1] != '-') {
        *ret_name = g_strndup(word, 2);
        if (word[1] != '\0' && word[2] != '\0')
            *ret_value = word + 2;
    } else if (equals != NULL) {
        *ret_name = g_strndup(word, (size_t)(equals - word));
        *ret_value = equals + 1;
    } else {
        *ret_name = g_strdup(word);
    }
}

/* Takes one setting from words[0] on. Returns how many words it took, or -EINVAL. */
static int parse_setting(char **words, GPtrArray *layer, struct nbd_failure *why)
{
    enum spelling kind = words[0][0] == '-' ? OPTION : WORD;
    const struct setting *setting;
    const char *value = NULL;
    char *name;
    int r = 1;

    if (kind == OPTION)
        split_option(words[0], &name, &value);
    else
        name = g_strdup(words[0]);
    setting = find_setting(kind, name);
    if (setting == NULL) {
        r = unknown_word(kind, name, why);
    } else if (setting->argument == NULL && value != NULL) {
        r = nbd_fail(why, EINVAL, "%s takes no value, but was given '%.64s'", name, value);
    } else if (setting->argument != NULL && value == NULL) {
        value = words[1];
        r = value == NULL || looks_like_a_setting(value, kind)
                ? missing_value(setting, name, value, why) : 2;
    }
    if (r > 0)
        assign(layer, setting, g_strdup(name), g_strdup(value != NULL ? value : ""), NULL);
    g_free(name);
    return r;
}

static int parse_command_line(int argc, char **argv, GPtrArray *layer, struct nbd_failure *why)
{
    int r;

    for (int i = 1; i < argc; i += r) {
        r = parse_setting(argv + i, layer, why);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- The configuration file ---- */

/* What a line scan finds before GKeyFile, which would merge duplicates in silence. */
struct file_scan {
    const char *file;
    GHashTable *seen;  /* setting's offset -> "key in line N" */
    GPtrArray *layer;
    char *directory;
    bool in_generic, had_generic;
    unsigned line;
};

__attribute__((format(printf, 3, 4)))
static int bad_line(const struct file_scan *scan, struct nbd_failure *why, const char *format,
                    ...)
{
    char *text;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    nbd_fail(why, EBADMSG, "%s line %u: %s", scan->file, scan->line, text);
    g_free(text);
    return -EBADMSG;
}

static int scan_group(struct file_scan *scan, const char *line, struct nbd_failure *why)
{
    size_t length = strlen(line);

    if (length < 3 || line[length - 1] != ']' || strpbrk(line + 1, "[]") != line + length - 1)
        return bad_line(scan, why, "'%.64s' is not a section header", line);
    if (strcmp(line, "[" GROUP "]") != 0)
        return bad_line(scan, why, "section %.64s: export sections are not supported yet by "
                        "this version: create exports with nbd-cli", line);
    if (scan->had_generic)
        return bad_line(scan, why, "section [" GROUP "] is there twice; join the two");
    scan->in_generic = scan->had_generic = true;
    return 0;
}

static int unknown_key(struct file_scan *scan, const char *key, struct nbd_failure *why)
{
    struct search search;

    nearest_spelling(KEY, key, &search);
    return bad_line(scan, why, "unknown key '%.64s': did you mean '%s'?", key, search.nearest);
}

static int scan_key(struct file_scan *scan, const char *line, struct nbd_failure *why)
{
    const char *equals = strchr(line, '=');
    const struct setting *setting;
    const char *before;
    char *key;
    int r = 0;

    if (equals == NULL || equals == line)
        return bad_line(scan, why, "'%.64s' is neither 'key = value', a section nor a comment",
                        line);
    if (!scan->in_generic)
        return bad_line(scan, why, "a key stands before the section [" GROUP "]");

    key = g_strchomp(g_strndup(line, (size_t)(equals - line)));
    setting = find_setting(KEY, key);
    before = setting == NULL
                 ? NULL : g_hash_table_lookup(scan->seen, GSIZE_TO_POINTER(setting->offset));
    if (setting == NULL) {
        r = unknown_key(scan, key, why);
    } else if (before != NULL) {
        r = bad_line(scan, why, "'%.64s' sets again what %s has set", key, before);
    } else {
        g_hash_table_insert(scan->seen, GSIZE_TO_POINTER(setting->offset),
                            g_strdup_printf("'%s' in line %u", key, scan->line));
        assign(scan->layer, setting,
               g_strdup_printf("%s line %u: %s", scan->file, scan->line, key),
               g_strdup(key), scan->directory);
    }
    g_free(key);
    return r;
}

/* Leaves in scan->layer one assignment per key, with the key itself for text. */
static int scan_lines(struct file_scan *scan, const char *content, struct nbd_failure *why)
{
    char **lines = g_strsplit(content, "\n", -1);
    int r = 0;

    for (char **line = lines; *line != NULL && r == 0; line++) {
        const char *text = g_strstrip(*line);

        scan->line++;
        if (text[0] == '[')
            r = scan_group(scan, text, why);
        else if (text[0] != '\0' && text[0] != '#')
            r = scan_key(scan, text, why);
    }
    g_strfreev(lines);
    return r;
}

/* Puts the values, as GKeyFile understands them, in the place of the keys. */
static int take_values(struct file_scan *scan, const char *content, size_t length,
                       struct nbd_failure *why)
{
    GKeyFile *keys = g_key_file_new();
    GError *error = NULL;
    int r = 0;

    if (!g_key_file_load_from_data(keys, content, length, G_KEY_FILE_NONE, &error))
        r = nbd_fail(why, EBADMSG, "%s: %s", scan->file, error->message);
    for (unsigned i = 0; i < scan->layer->len && r == 0; i++) {
        struct assignment *a = g_ptr_array_index(scan->layer, i);
        char *value = g_key_file_get_string(keys, GROUP, a->text, &error);

        if (value == NULL)
            r = nbd_fail(why, EBADMSG, "%s: %s", a->where, error->message);
        else
            replace_string(&a->text, g_strchomp(value));
    }
    g_clear_error(&error);
    g_key_file_free(keys);
    return r;
}

static int read_fd(int fd, const char *file, GByteArray *bytes, struct nbd_failure *why)
{
    uint8_t piece[16384];
    ssize_t got;

    while ((got = TEMP_FAILURE_RETRY(read(fd, piece, sizeof(piece)))) > 0) {
        g_byte_array_append(bytes, piece, (unsigned)got);
        if (bytes->len > FILE_MAX)
            return nbd_fail(why, EFBIG, "%s: larger than 1 MiB, this is no configuration file",
                            file);
    }
    if (got < 0) {
        int error = errno;

        return nbd_fail(why, error, "cannot read %s: %s", file, g_strerror(error));
    }
    return 0;
}

static int read_text(const char *file, GByteArray *bytes, struct nbd_failure *why)
{
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    int r;

    if (fd < 0) {
        r = errno;
        return nbd_fail(why, r, "cannot read %s: %s", file, g_strerror(r));
    }
    r = read_fd(fd, file, bytes, why);
    close(fd);
    if (r < 0)
        return r;
    if (bytes->len >= 3 && memcmp(bytes->data, "\xef\xbb\xbf", 3) == 0)
        return nbd_fail(why, EBADMSG, "%s: begins with a byte-order mark; save it without one",
                        file);
    if (!g_utf8_validate((const char *)bytes->data, bytes->len, NULL))
        return nbd_fail(why, EBADMSG, "%s: is not UTF-8 text", file);
    g_byte_array_append(bytes, (const uint8_t *)"", 1);
    return 0;
}

/* Fills `layer`; *ret_directory must outlive it. */
static int parse_file(const char *file, GPtrArray *layer, char **ret_directory,
                      struct nbd_failure *why)
{
    GByteArray *bytes = g_byte_array_new();
    struct file_scan scan = {
        .file = file,
        .layer = layer,
        .directory = g_path_get_dirname(file),
        .seen = g_hash_table_new_full(NULL, NULL, NULL, g_free),
    };
    int r = read_text(file, bytes, why);

    if (r == 0)
        r = scan_lines(&scan, (const char *)bytes->data, why);
    if (r == 0)
        r = take_values(&scan, (const char *)bytes->data, bytes->len - 1, why);
    g_hash_table_unref(scan.seen);
    g_byte_array_unref(bytes);
    *ret_directory = scan.directory;
    return r;
}

/* ---- Applying ---- */

/* A list that this layer gives replaces that of the layer below. */
static void clear_lists(struct config *config, const GPtrArray *layer)
{
    for (unsigned i = 0; i < layer->len; i++) {
        const struct assignment *a = g_ptr_array_index(layer, i);

        if (a->setting->list != NULL) {
            char ***list = field(config, a->setting);

            g_strfreev(*list);
            *list = g_new0(char *, 1);
        }
    }
}

static int apply_list(struct config *config, const struct assignment *a,
                      struct nbd_failure *why)
{
    char **entries = g_strsplit_set(a->text, a->setting->list, -1);
    int r = 0;

    for (char **entry = entries; *entry != NULL && r == 0; entry++) {
        struct assignment one = *a;

        one.text = g_strstrip(*entry);
        if (one.text[0] != '\0')
            r = a->setting->set(config, &one, why);
    }
    g_strfreev(entries);
    return r;
}

static int apply_file(struct config *config, const GPtrArray *layer, struct nbd_failure *why)
{
    clear_lists(config, layer);
    for (unsigned i = 0; i < layer->len; i++) {
        const struct assignment *a = g_ptr_array_index(layer, i);
        int r = a->setting->list != NULL ? apply_list(config, a, why)
                                         : a->setting->set(config, a, why);

        if (r < 0) {
            if (why != NULL)
                why->code = EBADMSG;
            return -EBADMSG;
        }
    }
    return 0;
}

static int apply_command_line(struct config *config, const GPtrArray *layer,
                              struct nbd_failure *why)
{
    clear_lists(config, layer);
    for (unsigned i = 0; i < layer->len; i++) {
        const struct assignment *a = g_ptr_array_index(layer, i);
        int r = a->setting->set(config, a, why);

        if (r < 0)
            return r;
    }
    return 0;
}

/* The last assignment to the member at this offset, stored at once: it decides what comes
 * below the command line. *ret_given: was there one? */
static int apply_early(struct config *config, const GPtrArray *layer, size_t offset,
                       bool *ret_given, struct nbd_failure *why)
{
    int r = 0;

    *ret_given = false;
    for (unsigned i = 0; i < layer->len && r == 0; i++) {
        const struct assignment *a = g_ptr_array_index(layer, i);

        if (a->setting->offset == offset) {
            *ret_given = true;
            r = a->setting->set(config, a, why);
        }
    }
    return r;
}

static void one_string(char ***list, char *string)
{
    g_strfreev(*list);
    *list = g_new0(char *, 2);
    (*list)[0] = string;
}

static int make_directory(const struct config *config, struct nbd_failure *why)
{
    struct stat status;
    int error;

    if (stat(config->dir, &status) == 0) {
        if (S_ISDIR(status.st_mode))
            return 0;
        return nbd_fail(why, ENOTDIR, "--dir: %s is not a directory", config->dir);
    }
    if (errno == ENOENT && mkdir(config->dir, 0700) == 0)
        return 0;
    error = errno;
    return nbd_fail(why, error, "--dir: cannot make the directory %s: %s", config->dir,
                    g_strerror(error));
}

/* The defaults of an instance that is whole in one directory. */
static void use_directory(struct config *config)
{
    static const struct { size_t offset; const char *name; } files[] = {
        { offsetof(struct config, config_file), "nbd-runner.conf" },
        { offsetof(struct config, conf_dir), "conf.d" },
        { offsetof(struct config, state_file), "saveconfig.json" },
        { offsetof(struct config, rpc_socket), "control.sock" },
        { offsetof(struct config, nbd_socket), "nbd.sock" },
        { offsetof(struct config, pid_file), "nbd-runner.pid" },
        { offsetof(struct config, lock_file), "nbd-runner.lock" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(files); i++)
        replace_string((char **)((char *)config + files[i].offset),
                       g_build_filename(config->dir, files[i].name, NULL));
    one_string(&config->file_roots, g_build_filename(config->dir, "images", NULL));
    one_string(&config->rpc_hosts, g_strdup("127.0.0.1"));
    one_string(&config->nbd_hosts, g_strdup("127.0.0.1"));
    config->rpc_port = config->nbd_port = 0;
}

/* Sockets that --dir has placed may have been moved by what came after. */
static int check_sockets(const struct config *config, struct nbd_failure *why)
{
    int r = check_socket_path("--dir", config->rpc_socket, why);

    return r < 0 ? r : check_socket_path("--dir", config->nbd_socket, why);
}

/* The file may be missing when nobody has named it. */
static int load_file(struct config *config, bool named, struct nbd_failure *why)
{
    GPtrArray *layer = g_ptr_array_new_with_free_func(assignment_free);
    char *directory;
    int r = parse_file(config->config_file, layer, &directory, why);

    if (r == 0)
        r = apply_file(config, layer, why);
    else if ((r == -ENOENT || r == -ENOTDIR) && !named)
        r = 0;
    g_ptr_array_unref(layer);
    g_free(directory);
    return r;
}

static int load_layers(struct config *config, const GPtrArray *words, struct nbd_failure *why)
{
    bool given;
    int r = apply_early(config, words, offsetof(struct config, dir), &given, why);

    if (r == 0 && given)
        use_directory(config);
    if (r == 0)
        r = apply_early(config, words, offsetof(struct config, config_file), &given, why);
    if (r == 0)
        r = load_file(config, given, why);
    if (r == 0)
        r = apply_command_line(config, words, why);
    if (r == 0)
        r = check_sockets(config, why);
    if (r == 0 && config->dir[0] != '\0' && !config->check_config)
        r = make_directory(config, why);
    return r;
}

/* ---- Help ---- */

static void print_help(void)
{
    g_print("Usage: nbd-runner [WORD VALUE | OPTION]...\n"
            "       nbd-runner serve ...        one image, without control port\n\n"
            "Serves block devices over NBD (ports 24110 control, 24111 NBD).\n\n");
    for (size_t i = 0; i < G_N_ELEMENTS(settings); i++) {
        const struct setting *setting = &settings[i];
        char *names, *left;

        if (setting->help == NULL)
            continue;
        names = g_strjoin(" ", setting->words != NULL ? setting->words : setting->options,
                          setting->words != NULL ? setting->options : NULL, NULL);
        left = g_strjoin(" ", g_strdelimit(names, " ", '|'), setting->argument, NULL);
        g_print("  %-40s %s\n", left, setting->help);
        g_free(left);
        g_free(names);
    }
    g_print("\nOPTION VALUE and OPTION=VALUE mean the same; of several, the last one counts.\n"
            "The command line wins over " SYSCONF_DIR "/nbd-runner.conf (nbd-runner.conf(5)).\n"
            "Exit codes: 0 end, 1 failure, 2 usage, 3 configuration, 4 already running,\n"
            "5 cannot listen. See nbd-runner(8).\n");
}

static void print_version(void)
{
    g_print(PACKAGE_STRING "\nLicence: LGPL-3.0-or-later or GPL-2.0-only. No warranty.\n");
}

/* ---- Public ---- */

struct config *config_new(void)
{
    struct config *config = g_new0(struct config, 1);

    *config = (struct config){
        .config_file = g_strdup(SYSCONF_DIR "/nbd-runner.conf"),
        .conf_dir = g_strdup(SYSCONF_DIR "/conf.d"),
        .dir = g_strdup(""),
        .state_file = g_strdup(SYSCONF_DIR "/saveconfig.json"),
        .pid_file = g_strdup(RUN_DIR "/nbd-runner.pid"),
        .lock_file = g_strdup(RUN_DIR "/nbd-runner.lock"),
        .handler_dir = g_strdup(HANDLER_DIR),
        .rpc_hosts = g_new0(char *, 1),
        .nbd_hosts = g_new0(char *, 1),
        .rpc_port = 24110,
        .nbd_port = 24111,
        .rpc_socket = g_strdup(RUN_DIR "/nbd-runner/control.sock"),
        .nbd_socket = g_strdup(RUN_DIR "/nbd-runner/nbd.sock"),
        .rpc_allow = g_new0(char *, 1),
        .rpc_max_clients = 256,
        .threads = 1,
        .gluster_host = g_strdup("localhost"),
        .negotiation_timeout_s = 10,
        .max_connections = 1024,
        .max_inflight_bytes = 256 << 20,
        .drain_timeout_s = 25,
        .log_level = NBD_LOG_INFO,
        .log_target = g_strdup("stderr"),
        .user = g_strdup(""),
        .group = g_strdup(""),
        .foreground = true,
    };
    one_string(&config->file_roots, g_strdup(STATE_DIR "/images"));
    return config;
}

void config_free(struct config *config)
{
    if (config == NULL)
        return;
    g_free(config->config_file);
    g_free(config->conf_dir);
    g_free(config->dir);
    g_free(config->state_file);
    g_free(config->pid_file);
    g_free(config->lock_file);
    g_free(config->handler_dir);
    g_strfreev(config->file_roots);
    g_strfreev(config->rpc_hosts);
    g_strfreev(config->nbd_hosts);
    g_free(config->rpc_socket);
    g_free(config->nbd_socket);
    g_strfreev(config->rpc_allow);
    g_free(config->gluster_host);
    g_free(config->log_target);
    g_free(config->user);
    g_free(config->group);
    g_free(config);
}

int config_load(struct config *config, int argc, char **argv, enum config_verdict *ret_verdict,
                struct nbd_failure *why)
{
    GPtrArray *words = g_ptr_array_new_with_free_func(assignment_free);
    bool help = false, version = false;
    int r = parse_command_line(argc, argv, words, why);

    if (r == 0)
        r = apply_early(config, words, offsetof(struct config, show_help), &help, why);
    if (r == 0)
        r = apply_early(config, words, offsetof(struct config, show_version), &version, why);
    if (r == 0 && version)
        print_version();
    if (r == 0 && help)
        print_help();
    if (r == 0 && !version && !help)
        r = load_layers(config, words, why);
    if (r == 0)
        *ret_verdict = help || version ? CONFIG_EXIT_OK : CONFIG_RUN;
    g_ptr_array_unref(words);
    return r;
}
