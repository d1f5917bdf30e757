/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * nbd-runner: takes the command line, builds the server, runs it and takes it down.
 */
#include <stdio.h>
#include <string.h>

#include "config.h"
#include "log.h"
#include "reload.h"
#include "serve.h"
#include "server.h"

static int fail(enum exit_code code, const struct nbd_failure *why)
{
    fprintf(stderr, "nbd-runner: %s\n", why->message);
    return code;
}

/* Each mistake of the configuration file. */
static int fail_config(const struct config *config, int r, const struct nbd_failure *why)
{
    for (guint i = 1; i < config->problems->len; i++)
        fprintf(stderr, "nbd-runner: %s\n", (const char *)config->problems->pdata[i]);
    return fail(r == -EINVAL ? EXIT_USAGE : EXIT_CONFIG, why);
}

/* Nothing is opened, made or locked. */
static int check_config(struct config *config)
{
    struct nbd_failure why = { 0 };
    struct server *server;
    bool good;

    log_set_level(NBD_LOG_WARNING);
    log_set_target("stderr");
    server = server_new(config, &why);
    if (server == NULL)
        return fail(EXIT_RUNTIME, &why);
    good = reload_check(server);
    server_free(server);
    return good ? EXIT_OK : EXIT_CONFIG;
}

static int run_daemon(struct config *config)
{
    struct nbd_failure why = { 0 };
    enum exit_code code = EXIT_RUNTIME;
    struct server *server;
    int r;

    log_set_level(config->log_level);
    r = log_set_target(config->log_target);
    if (r < 0) {
        nbd_fail(&why, -r, "cannot log to %s: %s", config->log_target, strerror(-r));
        config_free(config);
        return fail(EXIT_CONFIG, &why);
    }
    server = server_new(config, &why);
    if (server == NULL)
        return fail(EXIT_RUNTIME, &why);
    if (server_start(server, &code, &why) < 0)
        fail(code, &why);
    else
        code = (enum exit_code)server_run(server);
    server_free(server);
    return code;
}

int main(int argc, char **argv)
{
    struct config *config;
    struct nbd_failure why = { 0 };
    enum config_verdict verdict = CONFIG_RUN;
    int r;

    if (argc > 1 && strcmp(argv[1], "serve") == 0)
        return serve_main(argc - 1, argv + 1);
    config = config_new();
    r = config_load(config, argc, argv, &verdict, &why);
    if (config->check_config && r != -EINVAL && verdict == CONFIG_RUN)
        return check_config(config);
    if (r < 0 || verdict == CONFIG_EXIT_OK) {
        r = r < 0 ? fail_config(config, r, &why) : EXIT_OK;
        config_free(config);
        return r;
    }
    return run_daemon(config);
}
