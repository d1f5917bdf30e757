/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The table of settings, and the functions that check and store the values. A new setting is
 * one row, and one more member of struct config. Any thread.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "acl.h"
#include "log.h"
#include "setting.h"

#define HOST_MAX 255

/* ---- Values ---- */

void *setting_field(struct config *config, const struct setting *setting)
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
        *(unsigned *)setting_field(config, a->setting) = (unsigned)number;
    return r;
}

static int set_port(struct config *config, const struct assignment *a, struct nbd_failure *why)
{
    int64_t number;
    int r = parse_number(a, &number, why);

    if (r == 0)
        r = check_range(a, number, why);
    if (r == 0)
        *(int *)setting_field(config, a->setting) = (int)number;
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
    *(unsigned *)setting_field(config, a->setting) = (unsigned)clamped;
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

bool setting_parse_size(const char *text, uint64_t *ret_bytes)
{
    char *unit;
    uint64_t number = g_ascii_strtoull(text, &unit, 10);
    int shift = unit_shift(unit);

    if (!g_ascii_isdigit(text[0]) || shift < 0)
        return false;
    *ret_bytes = number > (uint64_t)INT64_MAX >> shift ? INT64_MAX : number << shift;
    return true;
}

static int set_size(struct config *config, const struct assignment *a, struct nbd_failure *why)
{
    uint64_t number;

    if (!setting_parse_size(a->text, &number))
        return bad_value(a, why, "is not a size; give bytes, or a number with K, M, G or T");
    if (check_range(a, (int64_t)number, why) < 0)
        return -EINVAL;
    *(uint64_t *)setting_field(config, a->setting) = number;
    return 0;
}

static int set_flag(struct config *config, const struct assignment *a, struct nbd_failure *why)
{
    (void)why;
    *(bool *)setting_field(config, a->setting) = true;
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
        append_string(setting_field(config, a->setting), host);
        g_free(host);
    } else {
        replace_string(setting_field(config, a->setting), host);
    }
    return 0;
}

bool setting_parse_endpoint(const char *text, char **ret_host, int *ret_port)
{
    const char *colon = strrchr(text, ':');
    g_autofree char *written = NULL, *host = NULL;
    gint64 port;

    if (colon == NULL || !g_ascii_string_to_signed(colon + 1, 10, 0, 65535, &port, NULL))
        return false;
    written = g_strndup(text, (gsize)(colon - text));
    host = without_brackets(written);
    if ((*host != '\0' && !is_host(host)) || (strchr(host, ':') != NULL && *written != '['))
        return false;
    *ret_host = g_steal_pointer(&host);
    *ret_port = (int)port;
    return true;
}

static int set_endpoint(struct config *config, const struct assignment *a,
                        struct nbd_failure *why)
{
    g_autofree char *host = NULL;
    int port;

    if (*a->text != '\0' && !setting_parse_endpoint(a->text, &host, &port))
        return bad_value(a, why, "is not HOST:PORT; give such as localhost:9111, [::1]:9111, "
                                 "or :9111 for every address");
    replace_string(setting_field(config, a->setting), g_strdup(a->text));
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
    append_string(setting_field(config, a->setting), a->text);
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
    replace_string(setting_field(config, a->setting), path);
    return 0;
}

static int add_path(struct config *config, const struct assignment *a, struct nbd_failure *why)
{
    char *path = make_path(a, why);

    if (path == NULL)
        return -EINVAL;
    append_string(setting_field(config, a->setting), path);
    g_free(path);
    return 0;
}

/* An empty word means that there shall be none. */
static int set_path_or_none(struct config *config, const struct assignment *a,
                            struct nbd_failure *why)
{
    if (a->text[0] != '\0')
        return set_path(config, a, why);
    replace_string(setting_field(config, a->setting), g_strdup(""));
    return 0;
}

int setting_check_socket(const char *where, const char *path, struct nbd_failure *why)
{
    const size_t most = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1;

    if (strlen(path) <= most)
        return 0;
    return nbd_fail(why, EINVAL,
                    "%s: %s is too long for a socket, %zu bytes is the most; take a "
                    "shorter path",
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
        r = setting_check_socket(a->where, path, why);
    if (r == 0)
        replace_string(setting_field(config, a->setting), path != NULL ? path : g_strdup(""));
    else
        g_free(path);
    return r;
}

static int set_log_level(struct config *config, const struct assignment *a,
                         struct nbd_failure *why)
{
    if (!log_parse_level(a->text, setting_field(config, a->setting)))
        return bad_value(a, why, "is no log level; give error, warning, info or debug");
    return 0;
}

/* Targets that may have a path behind a colon; "file" must. */
static const char *const log_targets[] = { "journal", "syslog", "file" };

static int set_log_target(struct config *config, const struct assignment *a,
                          struct nbd_failure *why)
{
    char **target = setting_field(config, a->setting);
    const char *colon = strchr(a->text, ':');
    g_autofree char *word = colon != NULL ? g_strndup(a->text, (gsize)(colon - a->text))
                                          : g_strdup(a->text);
    g_autofree char *path = NULL;
    bool known = false;

    for (size_t i = 0; i < G_N_ELEMENTS(log_targets); i++)
        known |= strcmp(word, log_targets[i]) == 0;
    if (colon == NULL && strcmp(word, "file") != 0 &&
        (known || strcmp(word, "auto") == 0 || strcmp(word, "stderr") == 0)) {
        replace_string(target, g_strdup(word));
        return 0;
    }
    if (!known || colon == NULL || colon[1] == '\0')
        return bad_value(a, why, "is no log target; give auto, stderr, journal, syslog or "
                                 "file:PATH");
    path = g_canonicalize_filename(colon + 1, a->base);
    replace_string(target, g_strconcat(word, ":", path, NULL));
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
    replace_string(setting_field(config, a->setting), g_strconcat("file:", file, NULL));
    g_free(file);
    g_free(path);
    return 0;
}

static int set_text(struct config *config, const struct assignment *a, struct nbd_failure *why)
{
    if (a->text[0] == '\0')
        return nbd_fail(why, EINVAL, "%s: a name or number is needed, not an empty word",
                        a->where);
    replace_string(setting_field(config, a->setting), g_strdup(a->text));
    return 0;
}

/* As GKeyFile and nbd-server have it. */
static int parse_bool(const struct assignment *a, bool *ret, struct nbd_failure *why)
{
    if (strcmp(a->text, "true") == 0 || strcmp(a->text, "1") == 0)
        *ret = true;
    else if (strcmp(a->text, "false") == 0 || strcmp(a->text, "0") == 0)
        *ret = false;
    else
        return bad_value(a, why, "is neither true nor false");
    return 0;
}

static int set_bool(struct config *config, const struct assignment *a, struct nbd_failure *why)
{
    return parse_bool(a, setting_field(config, a->setting), why);
}

/* ---- nbd-server's keys ---- */

static int set_stock_port(struct config *config, const struct assignment *a,
                          struct nbd_failure *why)
{
    int r = set_port(config, a, why);

    if (r == 0)
        config->stock = STOCK_PORT_MUST;
    return r;
}

static int set_include_dir(struct config *config, const struct assignment *a,
                           struct nbd_failure *why)
{
    int r = set_path(config, a, why);

    if (r == 0)
        config->conf_dir_named = true;
    return r;
}

/* What was meant encrypted is never served in clear. */
static int refuse_tls(struct config *config, const struct assignment *a,
                      struct nbd_failure *why)
{
    (void)config;
    return nbd_fail(why, EINVAL, "%s: TLS is not supported by this version; remove the key to "
                    "serve without encryption", a->where);
}

static int refuse_force_tls(struct config *config, const struct assignment *a,
                            struct nbd_failure *why)
{
    bool value;
    int r = parse_bool(a, &value, why);

    return r == 0 && value ? refuse_tls(config, a, why) : r;
}

static int refuse_oldstyle(struct config *config, const struct assignment *a,
                           struct nbd_failure *why)
{
    bool value;
    int r = parse_bool(a, &value, why);

    (void)config;
    if (r == 0 && value)
        return nbd_fail(why, EINVAL, "%s: oldstyle negotiation is not supported by this "
                        "version; clients have to use fixed newstyle", a->where);
    return r;
}

/* It means nothing here; config.c says so once. */
static int set_ignored(struct config *config, const struct assignment *a,
                       struct nbd_failure *why)
{
    (void)why;
    g_ptr_array_add(config->ignored, g_strdup_printf("%s in line %u", a->key, a->line));
    return 0;
}

/* ---- The table ---- */

#define AT(member) .offset = offsetof(struct config, member)
#define HOSTS " ,;"
#define PATHS ",;"

const struct setting settings[] = {
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
      AT(rpc_allow), .list = HOSTS, .live = true },
    { .options = "--nbd-allow", .keys = "nbd_allow", .argument = "NET",
      .help = "address or network that may use NBD, repeatable (all)", .set = add_network,
      AT(nbd_allow), .list = HOSTS, .live = true },
    { .options = "-C --config", .argument = "FILE", .help = "configuration file",
      .set = set_path, AT(config_file) },
    { .options = "--conf-dir", .keys = "conf_dir", .argument = "DIR",
      .help = "files that define exports", .set = set_include_dir, AT(conf_dir),
      .live = true },
    { .keys = "includedir", .argument = "DIR", .set = set_include_dir, AT(conf_dir),
      .stock = true, .live = true },
    { .keys = "port", .argument = "PORT", .set = set_stock_port, AT(stock_port), .max = 65535,
      .stock = true },
    { .keys = "listenaddr", .argument = "HOST", .set = set_host, AT(stock_hosts),
      .list = HOSTS, .stock = true },
    { .keys = "unixsock", .argument = "PATH", .set = set_socket, AT(stock_socket),
      .stock = true },
    { .keys = "allowlist", .argument = "BOOL", .set = set_bool, AT(allow_list), .stock = true,
      .live = true },
    { .keys = "max_threads duallisten splice", .argument = "VALUE", .set = set_ignored,
      .offset = SETTING_NOWHERE, .stock = true },
    { .keys = "certfile keyfile cacertfile tlsprio", .argument = "VALUE", .set = refuse_tls,
      .offset = SETTING_NOWHERE, .stock = true },
    { .keys = "force_tls tlsonly", .argument = "BOOL", .set = refuse_force_tls,
      .offset = SETTING_NOWHERE, .stock = true },
    { .keys = "oldstyle", .argument = "BOOL", .set = refuse_oldstyle,
      .offset = SETTING_NOWHERE, .stock = true },
    { .options = "--dir", .argument = "DIR",
      .help = "keep all of the instance in DIR: local, on free ports",
      .set = set_path, AT(dir) },
    { .options = "--state", .keys = "state_file", .argument = "FILE", .help = "saved state",
      .set = set_path, AT(state_file) },
    { .keys = "state_backup", .argument = "BOOL", .set = set_bool, AT(state_backup),
      .live = true },
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
      .help = "error, warning, info, debug (info)", .set = set_log_level, AT(log_level),
      .live = true },
    { .options = "--log-target", .keys = "log_target", .argument = "T",
      .help = "auto, stderr, journal, syslog, file:PATH (auto)", .set = set_log_target,
      AT(log_target) },
    { .keys = "log_dir", .argument = "DIR", .set = set_log_dir, AT(log_target) },
    { .options = "-u --user", .keys = "user", .argument = "UID", .help = "run as this user",
      .set = set_text, AT(user) },
    { .options = "-g --group", .keys = "group", .argument = "GID",
      .help = "run as this group", .set = set_text, AT(group) },
    { .options = "--metrics", .keys = "metrics", .argument = "HOST:PORT",
      .help = "OpenMetrics and health over HTTP, empty: none (none)", .set = set_endpoint,
      AT(metrics) },
    { .keys = "rpc_max_clients", .argument = "N", .set = set_unsigned, AT(rpc_max_clients),
      .min = 1, .max = 100000, .live = true },
    { .keys = "negotiation_timeout", .argument = "S", .set = set_unsigned,
      AT(negotiation_timeout_s), .min = 1, .max = 3600, .live = true },
    { .keys = "max_connections", .argument = "N", .set = set_unsigned, AT(max_connections),
      .min = 1, .max = 1000000, .live = true },
    { .keys = "max_export_connections", .argument = "N", .set = set_unsigned,
      AT(max_export_connections), .min = 1, .max = 1000000, .live = true },
    /* A request of the largest advertised payload must fit. */
    { .keys = "max_inflight_bytes", .argument = "SIZE", .set = set_size,
      AT(max_inflight_bytes), .min = 64 << 20, .max = INT64_MAX },
    { .keys = "request_timeout", .argument = "S", .set = set_unsigned, AT(request_timeout_s),
      .max = 86400, .live = true },
    { .keys = "drain_timeout", .argument = "S", .set = set_unsigned, AT(drain_timeout_s),
      .max = 86400, .live = true },
    { .options = "--foreground", .help = "as always: nothing goes to the background",
      .set = set_flag, AT(foreground) },
    { .options = "--check-config", .help = "read the configuration, report, end",
      .set = set_flag, AT(check_config) },
    { .words = "help", .options = "-h --help", .help = "print this", .set = set_flag,
      AT(show_help) },
    { .words = "version", .options = "-v --version", .help = "print the version",
      .set = set_flag, AT(show_version) },
};

const size_t n_settings = G_N_ELEMENTS(settings);

/* ---- Finding a spelling ---- */

static const char *spellings(const struct setting *setting, enum spelling kind)
{
    switch (kind) {
    case SPELT_WORD: return setting->words;
    case SPELT_OPTION: return setting->options;
    default: return setting->keys;
    }
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

const struct setting *setting_find(enum spelling kind, const char *text)
{
    struct search search = { .text = text };

    each_spelling(kind, is_spelt, &search);
    return search.found;
}

/* Levenshtein's distance; both are short. */
size_t setting_distance(const char *a, const char *b)
{
    size_t row[64], length = strlen(b);

    if (length >= G_N_ELEMENTS(row))
        return SIZE_MAX;
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
    size_t distance = setting_distance(search->text, text);

    (void)setting;
    if (search->nearest[0] == '\0' || distance < search->distance) {
        search->distance = distance;
        g_strlcpy(search->nearest, text, sizeof(search->nearest));
    }
    return false;
}

void setting_nearest(enum spelling kind, const char *text, char ret_nearest[static 64])
{
    char *head = g_strndup(text, 48); /* all of ours are shorter */
    struct search search = { .text = head };

    each_spelling(kind, keep_nearest, &search);
    g_strlcpy(ret_nearest, search.nearest, sizeof(search.nearest));
    g_free(head);
}

/* ---- Comparing ---- */

/* How a value is kept. */
enum storage { STORED_BOOL, STORED_INT, STORED_U64, STORED_STRING, STORED_LIST };

static enum storage storage_of(const struct setting *setting)
{
    static const struct { set_value *set; enum storage storage; } table[] = {
        { set_bool, STORED_BOOL }, { set_flag, STORED_BOOL }, { set_unsigned, STORED_INT },
        { set_threads, STORED_INT }, { set_port, STORED_INT }, { set_stock_port, STORED_INT },
        { set_log_level, STORED_INT }, { set_size, STORED_U64 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(table); i++)
        if (table[i].set == setting->set)
            return table[i].storage;
    return setting->list != NULL ? STORED_LIST : STORED_STRING;
}

static size_t stored_bytes(const struct setting *setting)
{
    static const size_t bytes[] = {
        [STORED_BOOL] = sizeof(bool), [STORED_INT] = sizeof(int),
        [STORED_U64] = sizeof(uint64_t), [STORED_STRING] = sizeof(char *),
        [STORED_LIST] = sizeof(char **),
    };

    return bytes[storage_of(setting)];
}

bool setting_is_equal(const struct setting *setting, struct config *a, struct config *b)
{
    void *left = setting_field(a, setting), *right = setting_field(b, setting);

    switch (storage_of(setting)) {
    case STORED_STRING: return strcmp(*(char **)left, *(char **)right) == 0;
    case STORED_LIST:
        return g_strv_equal(*(const gchar *const **)left, *(const gchar *const **)right);
    default: return memcmp(left, right, stored_bytes(setting)) == 0;
    }
}

void setting_swap(const struct setting *setting, struct config *a, struct config *b)
{
    void *left = setting_field(a, setting), *right = setting_field(b, setting);
    uint8_t kept[sizeof(uint64_t)];
    size_t bytes = stored_bytes(setting);

    memcpy(kept, left, bytes);
    memcpy(left, right, bytes);
    memcpy(right, kept, bytes);
}

/* ---- Assignments ---- */

void assignment_free(void *arg)
{
    struct assignment *a = arg;

    g_free(a->where);
    g_free(a->text);
    g_free(a);
}

struct assignment *assignment_add(GPtrArray *layer, const struct setting *setting, char *where,
                                  char *text, const char *base)
{
    struct assignment *a = g_new0(struct assignment, 1);

    a->setting = setting;
    a->where = where;
    a->text = text;
    a->base = base;
    g_ptr_array_add(layer, a);
    return a;
}

