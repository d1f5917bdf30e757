/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The settings of one instance: the command line is taken apart, and the layers are applied
 * from the lowest: defaults, those of --dir, the file, the command line. What settings there
 * are says setting.c. Starts nothing. Any thread.
 */
#include <string.h>
#include <sys/stat.h>

#include "config.h"
#include "config_file.h"
#include "log.h"
#include "setting.h"

static void replace_string(char **string, char *value)
{
    g_free(*string);
    *string = value;
}

/* ---- The command line ---- */

static int unknown_word(enum spelling kind, const char *text, struct nbd_failure *why)
{
    char *quoted = log_quote(text, strlen(text));
    char nearest[64];

    setting_nearest(kind, text, nearest);
    nbd_fail(why, EINVAL, "unknown %s %s: did you mean '%s'? 'nbd-runner help' lists all",
             kind == SPELT_OPTION ? "option" : "word", quoted, nearest);
    g_free(quoted);
    return -EINVAL;
}

/* Is this what follows the value that somebody forgot? Negative numbers are values. */
static bool looks_like_a_setting(const char *text, enum spelling kind)
{
    if (text[0] == '-')
        return !g_ascii_isdigit(text[1]) && text[1] != '\0';
    return kind == SPELT_WORD && setting_find(SPELT_WORD, text) != NULL;
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
    enum spelling kind = words[0][0] == '-' ? SPELT_OPTION : SPELT_WORD;
    const struct setting *setting;
    const char *value = NULL;
    char *name;
    int r = 1;

    if (kind == SPELT_OPTION)
        split_option(words[0], &name, &value);
    else
        name = g_strdup(words[0]);
    setting = setting_find(kind, name);
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
        assignment_add(layer, setting, g_strdup(name), g_strdup(value != NULL ? value : ""),
                       NULL);
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

/* ---- Applying ---- */

/* A list that this layer gives replaces that of the layer below. */
static void clear_lists(struct config *config, const GPtrArray *layer)
{
    for (unsigned i = 0; i < layer->len; i++) {
        const struct assignment *a = g_ptr_array_index(layer, i);

        if (a->setting->list != NULL) {
            char ***list = setting_field(config, a->setting);

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

/* All of it, so that all that is wrong is said at once. */
static void apply_file(struct config *config, const GPtrArray *layer)
{
    struct nbd_failure why;

    clear_lists(config, layer);
    for (unsigned i = 0; i < layer->len; i++) {
        const struct assignment *a = g_ptr_array_index(layer, i);
        int r = a->setting->list != NULL ? apply_list(config, a, &why)
                                         : a->setting->set(config, a, &why);

        if (r < 0)
            g_ptr_array_add(config->problems, g_strdup(why.message));
    }
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
    int r = setting_check_socket("--dir", config->rpc_socket, why);

    return r < 0 ? r : setting_check_socket("--dir", config->nbd_socket, why);
}

/* The file may be missing when nobody has named it. */
static int load_file(struct config *config, bool named, struct nbd_failure *why)
{
    GPtrArray *layer;
    int r = ini_read(config->config_file, &config->ini, config->problems);

    if ((r == -ENOENT || r == -ENOTDIR) && !named) {
        g_ptr_array_set_size(config->problems, 0);
        return 0;
    }
    config->file_found = true;
    if (r == 0) {
        layer = g_ptr_array_new_with_free_func(assignment_free);
        config_file_take(config->ini, layer, config->problems);
        apply_file(config, layer);
        g_ptr_array_unref(layer);
        if (config->stock == STOCK_PORT_OFF && config_file_is_stock(config->ini))
            config->stock = STOCK_PORT_TRY;
    }
    if (r == 0 && config->problems->len > 0)
        r = -EBADMSG;
    return r < 0 ? nbd_fail(why, -r, "%s", (char *)config->problems->pdata[0]) : 0;
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
    if (r < 0) {
        apply_command_line(config, words, NULL); /* what can be said of the rest is said */
        return r;
    }
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
    for (size_t i = 0; i < n_settings; i++) {
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
            "The command line wins over " SYSCONF_DIR "/nbd-runner.conf.\n"
            "Exit codes: 0 end, 1 failure, 2 usage, 3 configuration, 4 already running,\n"
            "5 cannot listen. See nbd-runner(8) and nbd-runner.conf(5).\n");
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
        .nbd_allow = g_new0(char *, 1),
        .threads = 1,
        .gluster_host = g_strdup("localhost"),
        .negotiation_timeout_s = 10,
        .max_connections = 1024,
        .max_export_connections = 128,
        .max_inflight_bytes = 256 << 20,
        .drain_timeout_s = 25,
        .log_level = NBD_LOG_INFO,
        .metrics = g_strdup(""),
        .log_target = g_strdup("auto"),
        .user = g_strdup(""),
        .group = g_strdup(""),
        .foreground = true,
        .stock_port = 10809,
        .stock_hosts = g_new0(char *, 1),
        .stock_socket = g_strdup(""),
        .allow_list = true,
        .state_backup = true,
        .problems = g_ptr_array_new_with_free_func(g_free),
        .ignored = g_ptr_array_new_with_free_func(g_free),
    };
    one_string(&config->file_roots, g_strdup(STATE_DIR "/images"));
    return config;
}

void config_free(struct config *config)
{
    if (config == NULL)
        return;
    ini_free(config->ini);
    g_ptr_array_unref(config->problems);
    g_ptr_array_unref(config->ignored);
    g_strfreev(config->arguments);
    g_strfreev(config->stock_hosts);
    g_free(config->stock_socket);
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
    g_strfreev(config->nbd_allow);
    g_free(config->gluster_host);
    g_free(config->log_target);
    g_free(config->metrics);
    g_free(config->user);
    g_free(config->group);
    g_free(config);
}

int config_load(struct config *config, int argc, char **argv, enum config_verdict *ret_verdict,
                struct nbd_failure *why)
{
    GPtrArray *words = g_ptr_array_new_with_free_func(assignment_free);
    bool help = false, version = false, check = false;
    int r = parse_command_line(argc, argv, words, why);

    g_strfreev(config->arguments);
    config->arguments = g_strdupv(argv);
    if (r == 0)
        r = apply_early(config, words, offsetof(struct config, show_help), &help, why);
    if (r == 0)
        r = apply_early(config, words, offsetof(struct config, show_version), &version, why);
    if (r == 0)
        r = apply_early(config, words, offsetof(struct config, check_config), &check, why);
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

int config_load_again(const struct config *config, struct config **ret_config,
                      struct nbd_failure *why)
{
    enum config_verdict verdict;

    *ret_config = config_new();
    return config_load(*ret_config, (int)g_strv_length(config->arguments), config->arguments,
                       &verdict, why);
}
