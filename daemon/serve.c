/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * `nbd-runner serve`: one backstore, in the foreground, no state, no control port, no root.
 */
#include "serve.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "listener.h"
#include "log.h"
#include "registry.h"
#include "server.h"

#define NO_PORT (-1)

struct serve_args {
    const char *handler, *target, *name, *description, *address, *socket;
    GHashTable *opts;
    int port;
    bool readonly;
};

static const char usage[] =
    "Usage: nbd-runner serve --file FILE [OPTION]...\n"
    "Serve one file or block device over NBD, in the foreground, until a signal comes.\n"
    "\n"
    "  -f, --file FILE        what to serve\n"
    "  -l, --addr ADDRESS     listen on this address (every address)\n"
    "  -p, --port PORT        TCP port (24111); 0: one that is free, named at the start\n"
    "  -u, --unix PATH        listen on this Unix socket (and on TCP only with --port)\n"
    "  -n, --name NAME        name of the export (default; the empty name means it too)\n"
    "  -r, --readonly         refuse to change it\n"
    "  -o, --opt KEY=VALUE    option of the handler, such as direct=true\n"
    "      --handler NAME     handler (file) that opens FILE\n"
    "      --handler-dir DIR  where handlers are\n"
    "      --description TEXT shown in lists\n"
    "      --threads N        worker threads, for handlers that block (1..16)\n"
    "  -v, --verbose          log everything\n"
    "  -q, --quiet            log errors only\n"
    "  -h, --help             this text\n";

enum { OPT_HANDLER = 256, OPT_HANDLER_DIR, OPT_DESCRIPTION, OPT_THREADS };

static const struct option long_options[] = {
    { "file", required_argument, NULL, 'f' },
    { "addr", required_argument, NULL, 'l' },
    { "port", required_argument, NULL, 'p' },
    { "unix", required_argument, NULL, 'u' },
    { "name", required_argument, NULL, 'n' },
    { "readonly", no_argument, NULL, 'r' },
    { "opt", required_argument, NULL, 'o' },
    { "handler", required_argument, NULL, OPT_HANDLER },
    { "handler-dir", required_argument, NULL, OPT_HANDLER_DIR },
    { "description", required_argument, NULL, OPT_DESCRIPTION },
    { "threads", required_argument, NULL, OPT_THREADS },
    { "verbose", no_argument, NULL, 'v' },
    { "quiet", no_argument, NULL, 'q' },
    { "help", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 },
};

/* ---- Command line ---- */

static int parse_number(const char *text, int low, int high, const char *what, int *ret)
{
    gint64 value;

    if (!g_ascii_string_to_signed(text, 10, low, high, &value, NULL)) {
        fprintf(stderr, "nbd-runner serve: the %s must be a number from %d to %d, not \"%s\"\n",
                what, low, high, text);
        return -EINVAL;
    }
    *ret = (int)value;
    return 0;
}

static int parse_opt(struct serve_args *args, const char *text)
{
    const char *equals = strchr(text, '=');

    if (equals == NULL || equals == text) {
        fprintf(stderr, "nbd-runner serve: --opt takes KEY=VALUE, not \"%s\"\n", text);
        return -EINVAL;
    }
    g_hash_table_replace(args->opts, g_strndup(text, (gsize)(equals - text)),
                         g_strdup(equals + 1));
    return 0;
}

static int take_option(int c, struct serve_args *args, struct config *config)
{
    int threads, r = 0;

    switch (c) {
    case 'f': args->target = optarg; break;
    case 'l': args->address = optarg; break;
    case 'p': r = parse_number(optarg, 0, 65535, "port", &args->port); break;
    case 'u': args->socket = optarg; break;
    case 'n': args->name = optarg; break;
    case 'r': args->readonly = true; break;
    case 'o': r = parse_opt(args, optarg); break;
    case OPT_HANDLER: args->handler = optarg; break;
    case OPT_HANDLER_DIR:
        g_free(config->handler_dir);
        config->handler_dir = g_strdup(optarg);
        break;
    case OPT_DESCRIPTION: args->description = optarg; break;
    case OPT_THREADS:
        r = parse_number(optarg, 1, 16, "number of threads", &threads);
        if (r == 0)
            config->threads = (unsigned)threads;
        break;
    case 'v': config->log_level = NBD_LOG_DEBUG; break;
    case 'q': config->log_level = NBD_LOG_ERROR; break;
    default: r = -EINVAL;
    }
    return r;
}

/* 1: help was asked for. */
static int parse_args(int argc, char **argv, struct serve_args *args, struct config *config)
{
    int c;

    argv[0] = (char *)"nbd-runner serve"; /* getopt's messages begin with it */
    optind = 1;
    while ((c = getopt_long(argc, argv, "f:l:p:u:n:ro:vqh", long_options, NULL)) != -1) {
        if (c == 'h') {
            fputs(usage, stdout);
            return 1;
        }
        if (take_option(c, args, config) < 0)
            return -EINVAL;
    }
    if (optind < argc) {
        fprintf(stderr, "nbd-runner serve: what is \"%s\"? See nbd-runner serve --help\n",
                argv[optind]);
        return -EINVAL;
    }
    if (args->target == NULL) {
        fputs("nbd-runner serve: --file is missing: name the file to serve\n", stderr);
        return -EINVAL;
    }
    if (args->port == NO_PORT && args->socket == NULL)
        args->port = 24111;
    return 0;
}

/* ---- The export ---- */

struct opening {
    struct server *server;
    struct export *export;
    struct nbd_failure why;
    int result;
};

static void on_opened(void *arg, int result, const struct nbd_failure *why)
{
    struct opening *opening = arg;

    opening->result = result;
    if (result < 0)
        opening->why = *why;
    loop_stop(opening->server->loop);
}

/* Opens it at once, so that what is wrong is said at once, and keeps it open. */
static struct export *open_export(struct server *server, const struct serve_args *args,
                                  struct nbd_failure *why)
{
    struct export_spec spec = {
        .name = args->name, .description = args->description, .handler = args->handler,
        .target = args->target, .opts = args->opts, .origin = EXPORT_BY_COMMAND_LINE,
        .readonly = args->readonly,
    };
    struct opening opening = { .server = server, .result = 1 };
    struct export *export;

    if (registry_add(server->registry, &spec, false, &export, why) < 0)
        return NULL;
    log_set_level(NBD_LOG_ERROR); /* a failure is said once, by the caller */
    export_open(export, 0, on_opened, &opening);
    if (opening.result > 0)
        loop_run(server->loop);
    log_set_level(server->config->log_level);
    *why = opening.why;
    return opening.result == 0 ? export : NULL;
}

static int open_ports(struct server *server, const struct serve_args *args,
                      struct nbd_failure *why)
{
    int r = 0;

    if (args->socket != NULL)
        r = listener_add_unix(server->nbd_listeners, args->socket, 0666, why);
    if (r == 0 && args->port != NO_PORT)
        r = listener_add_tcp(server->nbd_listeners,
                             g_strcmp0(args->address, "0") == 0 ? "0.0.0.0" : args->address,
                             args->port, why);
    return r;
}

static void announce(const struct server *server, const struct export *export)
{
    const GPtrArray *endpoints = listener_endpoints(server->nbd_listeners);

    for (guint i = 0; i < endpoints->len; i++) {
        const struct endpoint *e = endpoints->pdata[i];

        if (e->port == 0)
            log_info("serving %s (%" G_GUINT64_FORMAT " bytes) at nbd+unix:///%s?socket=%s",
                     export->target, export->size, export->name, e->host + strlen("unix:"));
        else
            log_info("serving %s (%" G_GUINT64_FORMAT " bytes) at nbd://%s:%d/%s",
                     export->target, export->size, e->host[0] != '\0' ? e->host : "localhost",
                     e->port, export->name);
    }
}

static int serve(struct config *config, const struct serve_args *args)
{
    struct nbd_failure why = { 0 };
    struct server *server;
    struct export *export;
    int code = EXIT_RUNTIME;

    config->only_handler = args->handler;
    server = server_new(config, &why);
    export = server != NULL ? open_export(server, args, &why) : NULL;
    if (export != NULL && open_ports(server, args, &why) == 0) {
        announce(server, export);
        code = server_run(server);
    } else {
        fprintf(stderr, "nbd-runner serve: %s\n", why.message);
    }
    server_free(server);
    return code;
}

int serve_main(int argc, char **argv)
{
    struct config *config = config_new();
    struct serve_args args = { .handler = "file", .name = "default", .port = NO_PORT };
    int r;

    config->max_export_connections = config->max_connections; /* there is but one */
    args.opts = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    r = parse_args(argc, argv, &args, config);
    if (r == 0) {
        log_set_level(config->log_level);
        log_set_target("auto");
        r = serve(config, &args);
    } else {
        config_free(config);
        r = r < 0 ? EXIT_RUNTIME : EXIT_OK;
    }
    g_hash_table_destroy(args.opts);
    return r;
}
