/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The root of the daemon: one pointer per subsystem, and the order in which they start and
 * stop. No logic of its own. Loop thread only.
 */
#ifndef NR_SERVER_H
#define NR_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include "config.h"
#include "export.h"
#include "handler.h"
#include "loop.h"
#include "worker.h"

/* All owned, in order of start. Those marked * are NULL in `nbd-runner serve`. */
struct server {
    struct config *config;
    struct loop *loop;
    struct worker_pool *workers;      /* handlers' blocking calls */
    struct nbd_config handler_config;
    struct handler_set *handlers;
    struct sums_table *sums;          /* counters by handler */
    struct registry *registry;
    struct buffer_pool *buffers;      /* memory for payloads */
    struct connection_table *connections; /* NBD clients */
    struct mapping_table *mappings;
    struct job_table *jobs;           /* * */
    struct store *store;              /* * */
    struct reload *reload;            /* * : exports of the configuration */
    struct rpc_server *rpc;           /* * */
    struct control_gate *gate;        /* * */
    struct listener_set *rpc_listeners; /* * */
    struct listener_set *nbd_listeners;
    struct metrics *metrics;          /* NULL: not wanted */

    char boot_id[37];                 /* of this run of the daemon */
    int64_t started_us;
    bool stopping;                    /* draining: no new connections or jobs */
};

/* Exit codes of nbd-runner(8). */
enum exit_code {
    EXIT_OK = 0,
    EXIT_RUNTIME = 1,
    EXIT_USAGE = 2,
    EXIT_CONFIG = 3,
    EXIT_RUNNING = 4, /* another instance is */
    EXIT_BIND = 5,
};

/* What `serve` and the daemon share: loop, workers, handlers, registry, clients. Takes over
 * config. NULL with *why. */
struct server *server_new(struct config *config, struct nbd_failure *why);

/* The daemon's own: state, jobs, control port, all listeners. 0 or a negative errno; *ret_exit
 * is then the exit code. */
int server_start(struct server *server, enum exit_code *ret_exit, struct nbd_failure *why);

/* A reload has changed this member of config, given by its offset: tell who uses it. */
void server_setting_changed(struct server *server, size_t offset);

/* Runs until SIGTERM, SIGINT (or SIGQUIT), and drains. The exit code. */
int server_run(struct server *server);

/* Takes down in reverse what is there. */
void server_free(struct server *server);

#endif
