/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The settings of one instance: defaults, then [generic] of the configuration file, then the
 * command line. One table in config.c describes them all.
 */
#ifndef NR_CONFIG_H
#define NR_CONFIG_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "nbd-runner/handler.h"

/* Owned by whoever made it with config_new(). Strings are never NULL unless said. */
struct config {
    char **arguments;   /* the command line, for a reload */
    char *config_file;  /* -C; may be absent when it is the default one */
    char *conf_dir;     /* files that define exports, besides the configuration file */
    bool conf_dir_named;
    char *dir;          /* --dir: all of the instance is in here; "" = no such directory */
    char *state_file;   /* saveconfig.json */
    bool state_backup;  /* keep the former one as .bak */
    char *pid_file;     /* "" = none */
    char *lock_file;    /* "" = none */
    char *handler_dir;
    const char *only_handler; /* of `serve`: the one that it needs, not owned; else NULL: all */
    char **file_roots;  /* absolute directories */
    char **rpc_hosts;   /* empty: every address */
    char **nbd_hosts;   /* empty: every address */
    int rpc_port;       /* 0: the kernel chooses */
    int nbd_port;
    enum stock_port { STOCK_PORT_OFF, STOCK_PORT_TRY, STOCK_PORT_MUST } stock; /* nbd-server's
                           port as well: never, if it is free (its configuration is in use),
                           or because the configuration names it */
    int stock_port;
    char **stock_hosts; /* for that port; empty: as nbd_hosts */
    char *stock_socket; /* nbd-server's Unix socket, "" = none */
    bool allow_list;    /* clients may list exports */
    char *rpc_socket;   /* Unix socket, "" = none */
    char *nbd_socket;
    char **rpc_allow;   /* addresses or CIDR networks, besides loopback and the socket */
    unsigned rpc_max_clients;
    char **nbd_allow;   /* the same for NBD; empty: everybody */
    unsigned threads;   /* worker threads one export may keep busy, 1..16 */
    char *gluster_host;
    unsigned negotiation_timeout_s;
    unsigned max_connections;
    unsigned max_export_connections; /* of one export that does not say */
    uint64_t max_inflight_bytes; /* of request payload in the daemon */
    unsigned request_timeout_s;  /* of exports that do not say; 0: none */
    unsigned drain_timeout_s;    /* at SIGTERM */
    enum nbd_log_level log_level;
    char *log_target;
    char *metrics;      /* "HOST:PORT" of the HTTP port, "" = none */
    char *user, *group; /* to run as, name or number; "" = as started */
    bool check_config;  /* --check-config: read, report, end */
    bool foreground;    /* always: nothing here forks */
    bool show_help, show_version; /* config_load() has done it */

    bool file_found;     /* there is a configuration file */
    struct ini *ini;     /* the configuration file; NULL: there is none, or it is damaged */
    GPtrArray *problems; /* char *: all that is wrong with it, file and line first */
    GPtrArray *ignored;  /* char *: where nbd-server's keys stand that mean nothing here */
};

struct config *config_new(void); /* the defaults */
void config_free(struct config *config);

/* What a command line asks for. */
enum config_verdict {
    CONFIG_RUN,     /* start */
    CONFIG_EXIT_OK, /* help or version was printed */
};

/* Take the command line (words and options of nbd-runner(8)), read the configuration file
 * that it names, and fill *config. 0, or -EINVAL for usage (exit code 2), or another negative
 * errno for the file (exit code 3; -EBADMSG for what is in it), with *why; config->problems
 * then has all that is wrong with it. With --dir makes that directory, but nothing in it. */
int config_load(struct config *config, int argc, char **argv, enum config_verdict *ret_verdict,
                struct nbd_failure *why);

/* Read everything again, with the same command line, into a new config; nothing is made and
 * nothing is printed. On failure *ret_config is there as well, for its problems. Any thread. */
int config_load_again(const struct config *config, struct config **ret_config,
                      struct nbd_failure *why);

#endif
