/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The root of the daemon: what starts and stops in which order, and the signals.
 */
#include "server.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "activation.h"
#include "buffer.h"
#include "connection.h"
#include "control.h"
#include "dump.h"
#include "instance.h"
#include "job.h"
#include "listener.h"
#include "log.h"
#include "mapping.h"
#include "metrics.h"
#include "notify.h"
#include "registry.h"
#include "reload.h"
#include "rpc/rpc_nbd.h"
#include "rpc_server.h"
#include "rpcbind.h"
#include "setting.h"
#include "store.h"

#define WORKER_THREADS 64
#define DRAIN_POLL_MS 20
/* While draining, the service manager is asked for more time: this much, this often. */
#define EXTEND_S 15
#define EXTEND_EVERY_S 5

/* ---- Start ---- */

/* Each client is a descriptor, and so is each open backstore: take all that we may have. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static void load_handlers(struct server *server)
{
    server->handler_config.threads = server->config->threads;
    server->handler_config.gluster_host = server->config->gluster_host;
    server->handler_config.file_roots = (const char *const *)server->config->file_roots;
    server->handlers = handler_set_load(server->config->handler_dir,
                                        server->config->only_handler, &server->handler_config,
                                        server->loop, server->workers);
}

struct server *server_new(struct config *config, struct nbd_failure *why)
{
    struct server *server = g_new0(struct server, 1);
    struct connection_limits limits = { config->max_connections,
                                        config->negotiation_timeout_s,
                                        (const char *const *)config->nbd_allow };
    g_autofree char *boot_id = g_uuid_string_random();

    signal(SIGPIPE, SIG_IGN);
    raise_descriptor_limit();
    server->config = config;
    server->started_us = g_get_real_time();
    g_strlcpy(server->boot_id, boot_id, sizeof(server->boot_id));
    server->loop = loop_new();
    if (server->loop == NULL) {
        nbd_fail(why, errno, "cannot make the event loop: %s", strerror(errno));
        server_free(server);
        return NULL;
    }
    server->workers = worker_pool_new(server->loop, WORKER_THREADS);
    load_handlers(server);
    server->sums = sums_table_new();
    server->registry = registry_new(server);
    handler_on_reports(export_lost, export_fenced, export_troubled);
    server->buffers = buffer_pool_new(server->loop, config->max_inflight_bytes);
    server->connections = connection_table_new(server, &limits);
    server->mappings = mapping_table_new(server);
    server->nbd_listeners =
        listener_set_new(server->loop, connection_accept, server->connections);
    return server;
}

static void on_rpc_accept(void *arg, int fd, const struct sockaddr *peer)
{
    struct server *server = arg;
    g_autofree char *name = listener_peer_name(fd, peer);

    rpc_server_accept(server->rpc, fd, name, control_gate_allows(server->gate, fd, peer));
}

/* ---- Settings that a reload changes ---- */

static void apply_log_level(struct server *server)
{
    log_set_level(server->config->log_level);
}

static void apply_rpc_allow(struct server *server)
{
    struct nbd_failure why;
    struct control_gate *gate =
        control_gate_new((const char *const *)server->config->rpc_allow, &why);

    if (gate == NULL) {
        log_error("rpc_allow is not changed: %s", why.message);
        return;
    }
    control_gate_free(server->gate);
    server->gate = gate;
}

static void apply_rpc_clients(struct server *server)
{
    rpc_server_set_max_clients(server->rpc, server->config->rpc_max_clients);
}

static void apply_nbd_allow(struct server *server)
{
    struct nbd_failure why;

    if (connection_table_allow(server->connections,
                               (const char *const *)server->config->nbd_allow, &why) < 0)
        log_error("nbd_allow is not changed: %s", why.message);
}

static void apply_connection_limits(struct server *server)
{
    connection_table_set_limits(server->connections, server->config->max_connections,
                                server->config->negotiation_timeout_s);
}

/* Others are looked up in config whenever they matter. */
void server_setting_changed(struct server *server, size_t offset)
{
    static const struct { size_t offset; void (*apply)(struct server *server); } table[] = {
        { offsetof(struct config, log_level), apply_log_level },
        { offsetof(struct config, rpc_allow), apply_rpc_allow },
        { offsetof(struct config, rpc_max_clients), apply_rpc_clients },
        { offsetof(struct config, nbd_allow), apply_nbd_allow },
        { offsetof(struct config, max_connections), apply_connection_limits },
        { offsetof(struct config, negotiation_timeout_s), apply_connection_limits },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(table); i++)
        if (table[i].offset == offset)
            table[i].apply(server);
}

/* ---- Ports ---- */

/* A configured list of hosts, or every address. All get the port of the first one. */
static int listen_on(struct listener_set *set, char **hosts, int port, struct nbd_failure *why)
{
    int r = 0;

    if (hosts == NULL || hosts[0] == NULL)
        return listener_add_tcp(set, NULL, port, why);
    for (char **host = hosts; r == 0 && *host != NULL; host++) {
        r = listener_add_tcp(set, *host, port, why);
        if (r == 0 && port == 0)
            port = ((struct endpoint *)listener_endpoints(set)->pdata[0])->port;
    }
    return r;
}

static int open_metrics(struct server *server, struct nbd_failure *why)
{
    g_autofree char *host = NULL;
    int port;

    if (server->config->metrics[0] == '\0')
        return 0;
    setting_parse_endpoint(server->config->metrics, &host, &port);
    server->metrics = metrics_new(server);
    return metrics_listen(server->metrics, host, port, why);
}

static int make_parent(const char *path, struct nbd_failure *why)
{
    g_autofree char *directory = g_path_get_dirname(path);

    if (g_mkdir_with_parents(directory, 0755) < 0)
        return nbd_fail(why, errno, "cannot make the directory %s: %s", directory,
                        strerror(errno));
    return 0;
}

static int listen_unix(struct listener_set *set, const char *path, unsigned mode,
                       struct nbd_failure *why)
{
    int r;

    if (path[0] == '\0')
        return 0;
    r = make_parent(path, why);
    return r < 0 ? r : listener_add_unix(set, path, mode, why);
}

/* nbd-server's port. Unless it was asked for, another server may have it. */
static int open_stock_port(struct server *server, struct nbd_failure *why)
{
    const struct config *config = server->config;
    char **hosts = config->stock_hosts[0] != NULL ? config->stock_hosts : config->nbd_hosts;
    int r = 0;

    if (config->stock != STOCK_PORT_OFF &&
        (config->stock_port == 0 || config->stock_port != config->nbd_port))
        r = listen_on(server->nbd_listeners, hosts, config->stock_port, why);
    if (r < 0 && config->stock == STOCK_PORT_TRY) {
        log_warning("%s; clients of nbd-server find no exports there", why->message);
        r = 0;
    }
    return r == 0 ? listen_unix(server->nbd_listeners, config->stock_socket, 0666, why) : r;
}

/* What the service manager has opened is not opened again. */
static int open_ports(struct server *server, struct nbd_failure *why)
{
    const struct config *config = server->config;
    struct listener_set *nbd = server->nbd_listeners, *rpc = server->rpc_listeners;
    struct activation *given;
    unsigned n = 0;
    int r = activation_take(&given, why);

    if (r < 0)
        return r;
    if ((r = activation_adopt(given, "nbd", nbd, &n, why)) == 0 && n == 0)
        r = listen_on(nbd, config->nbd_hosts, config->nbd_port, why);
    if (r == 0 && (r = activation_adopt(given, "control", rpc, &n, why)) == 0 && n == 0)
        r = listen_on(rpc, config->rpc_hosts, config->rpc_port, why);
    if (r == 0 && (r = activation_adopt(given, "nbd-unix", nbd, &n, why)) == 0 && n == 0)
        r = listen_unix(nbd, config->nbd_socket, 0666, why);
    if (r == 0 && (r = activation_adopt(given, "control-unix", rpc, &n, why)) == 0 && n == 0)
        r = listen_unix(rpc, config->rpc_socket, 0660, why);
    activation_free(given);
    return r == 0 ? open_stock_port(server, why) : r;
}

/* Below --dir we make the place for images; elsewhere that is the administrator's. */
static void make_roots(const struct config *config)
{
    for (char **root = config->file_roots; root != NULL && *root != NULL; root++)
        if (config->dir[0] != '\0' && mkdir(*root, 0700) < 0 && errno != EEXIST)
            log_warning("cannot make the directory %s: %s", *root, strerror(errno));
}

static void announce(const struct server *server)
{
    g_autoptr(GString) text = g_string_new(NULL);
    const GPtrArray *sets[] = {
        listener_endpoints(server->rpc_listeners), listener_endpoints(server->nbd_listeners),
        server->metrics != NULL ? metrics_endpoints(server->metrics) : NULL,
    };
    static const char *const names[] = { "rpc", ", nbd", ", metrics" };

    for (size_t i = 0; i < G_N_ELEMENTS(sets) && sets[i] != NULL; i++) {
        g_string_append(text, names[i]);
        for (guint j = 0; j < sets[i]->len; j++) {
            const struct endpoint *e = sets[i]->pdata[j];

            if (g_str_has_prefix(e->host, "unix:"))
                g_string_append_printf(text, " %s", e->host);
            else
                g_string_append_printf(text, strchr(e->host, ':') != NULL ? " [%s]:%d" : " %s:%d",
                                       e->host[0] != '\0' ? e->host : "*", e->port);
        }
    }
    log_info("nbd-runner %s is ready: %s; %u exports", PACKAGE_VERSION, text->str,
             registry_size(server->registry));
}

/* By name or number. */
static const struct passwd *find_user(const char *text)
{
    const struct passwd *user = getpwnam(text);
    guint64 number;

    if (user == NULL && g_ascii_string_to_unsigned(text, 10, 0, UINT32_MAX, &number, NULL))
        user = getpwuid((uid_t)number);
    return user;
}

static const struct group *find_group(const char *text)
{
    const struct group *group = getgrnam(text);
    guint64 number;

    if (group == NULL && g_ascii_string_to_unsigned(text, 10, 0, UINT32_MAX, &number, NULL))
        group = getgrgid((gid_t)number);
    return group;
}

/* Ports, sockets and files are open: what remains needs no privileges. */
static int drop_privileges(const struct config *config, struct nbd_failure *why)
{
    const struct passwd *user = NULL;
    const struct group *group = NULL;

    if (config->user[0] != '\0' && (user = find_user(config->user)) == NULL)
        return nbd_fail(why, ENOENT, "there is no user \"%s\"", config->user);
    if (config->group[0] != '\0' && (group = find_group(config->group)) == NULL)
        return nbd_fail(why, ENOENT, "there is no group \"%s\"", config->group);
    if (user != NULL && initgroups(user->pw_name, user->pw_gid) < 0)
        return nbd_fail(why, errno, "cannot take the groups of user \"%s\": %s", config->user,
                        strerror(errno));
    if ((user != NULL || group != NULL) &&
        setgid(group != NULL ? group->gr_gid : user->pw_gid) < 0)
        return nbd_fail(why, errno, "cannot become group \"%s\": %s", config->group,
                        strerror(errno));
    if (user != NULL && setuid(user->pw_uid) < 0)
        return nbd_fail(why, errno, "cannot become user \"%s\": %s", config->user,
                        strerror(errno));
    return 0;
}

/* An instance in a directory of its own is nobody else's business. */
static bool is_public(const struct config *config)
{
    return config->dir[0] == '\0' && config->rpc_port != 0;
}

static void work_register(void *arg)
{
    const struct config *config = arg;

    if (rpcbind_set(RPC_NBD, RPC_NBD_V2, config->rpc_port))
        log_info("rpcbind knows the control port");
}

static void work_unregister(void *arg)
{
    (void)arg;
    rpcbind_unset(RPC_NBD, RPC_NBD_V2);
}

int server_start(struct server *server, enum exit_code *ret_exit, struct nbd_failure *why)
{
    const struct config *config = server->config;
    struct rpc_limits limits = { .max_clients = config->rpc_max_clients,
                                 .record_bytes = 1u << 20, .record_timeout_s = 10,
                                 .idle_timeout_s = 300 };
    struct rpc_program program;
    int r = instance_lock(config->lock_file, why);

    *ret_exit = r == -EALREADY ? EXIT_RUNNING : EXIT_CONFIG;
    if (r < 0)
        return r;
    signal(SIGHUP, SIG_IGN); /* until server_run(): the configuration is being read anyway */
    make_roots(config);
    server->gate = control_gate_new((const char *const *)config->rpc_allow, why);
    if (server->gate == NULL)
        return -EINVAL;
    server->jobs = job_table_new(server);
    server->store = store_new(server, config->state_file);
    r = store_load(server->store, why);
    if (r < 0)
        return r;
    program = control_program(server);
    server->rpc = rpc_server_new(server->loop, &program, &limits);
    server->rpc_listeners = listener_set_new(server->loop, on_rpc_accept, server);
    *ret_exit = EXIT_BIND;
    r = open_ports(server, why);
    if (r == 0)
        r = open_metrics(server, why);
    if (r < 0)
        return r;
    *ret_exit = EXIT_CONFIG;
    r = instance_write_pid(config->pid_file, why);
    if (r == 0)
        r = drop_privileges(config, why);
    if (r < 0)
        return r;
    server->reload = reload_new(server);
    r = reload_start(server->reload, why);
    if (r < 0)
        return r;
    announce(server);
    registry_check_all(server->registry);
    if (is_public(config))
        worker_run(server->workers, work_register, NULL, server->config);
    return 0;
}

/* ---- Run ---- */

/* The end of the daemon, step by step. */
struct ending {
    struct server *server;
    struct event *poll;
    int64_t deadline_ns;
    int64_t extend_ns; /* when to ask for more time */
    bool saving, saved;
    int exit_code;
};

static void on_saved(void *arg, int result, const struct nbd_failure *why)
{
    struct ending *ending = arg;

    if (result < 0) {
        log_error("the state could not be saved: %s", why->message);
        ending->exit_code = EXIT_RUNTIME;
    }
    ending->saved = true;
}

/* Nothing that was accepted is left to do, or the time is over. */
static bool has_drained(struct ending *ending)
{
    const struct server *server = ending->server;

    if (server->config->drain_timeout_s > 0 && loop_now_ns() > ending->deadline_ns) {
        log_warning("stopping with %u connections that did not end in time",
                    connection_count(server->connections));
        if (server->jobs != NULL)
            job_cancel_all(server->jobs);
        return true;
    }
    if (connection_count(server->connections) > 0 ||
        (server->jobs != NULL && job_running_count(server->jobs) > 0))
        return false;
    if (server->store == NULL || ending->saved)
        return true;
    if (!ending->saving) {
        ending->saving = true;
        store_save(server->store, on_saved, ending);
    }
    return ending->saved;
}

/* drain_timeout is the limit, not that of the unit; a loop that is stuck asks for nothing. */
static void ask_for_time(struct ending *ending)
{
    if (loop_now_ns() < ending->extend_ns)
        return;
    ending->extend_ns = loop_now_ns() + EXTEND_EVERY_S * INT64_C(1000000000);
    notify_extend(EXTEND_S, "stopping: %u connections have not ended",
                  connection_count(ending->server->connections));
}

static void on_drain_poll(evutil_socket_t fd, short what, void *arg)
{
    struct ending *ending = arg;

    (void)fd;
    (void)what;
    if (has_drained(ending)) {
        loop_stop(ending->server->loop);
        return;
    }
    ask_for_time(ending);
    evtimer_add(ending->poll, &(struct timeval){ .tv_usec = DRAIN_POLL_MS * 1000 });
}

static void on_stop_signal(evutil_socket_t signal_number, short what, void *arg)
{
    struct ending *ending = arg;
    struct server *server = ending->server;

    (void)what;
    if (server->stopping) {
        log_warning("a second signal: stopping at once");
        _exit(EXIT_RUNTIME);
    }
    log_info("stopping: %s", strsignal((int)signal_number));
    server->stopping = true;
    notify_stopping("stopping: %s", strsignal((int)signal_number));
    listener_set_free(server->nbd_listeners);
    listener_set_free(server->rpc_listeners);
    server->nbd_listeners = server->rpc_listeners = NULL;
    connection_table_drain(server->connections);
    if (server->reload != NULL)
        reload_stop(server->reload);
    if (server->rpc != NULL && is_public(server->config))
        worker_run(server->workers, work_unregister, NULL, NULL);
    ending->deadline_ns = loop_now_ns() + server->config->drain_timeout_s * INT64_C(1000000000);
    on_drain_poll(-1, 0, ending);
}

static void on_reload_signal(evutil_socket_t signal_number, short what, void *arg)
{
    const struct ending *ending = arg;
    const struct server *server = ending->server;

    if (server->reload == NULL) /* `serve`: its terminal has gone */
        on_stop_signal(signal_number, what, arg);
    else if (!server->stopping)
        reload_request(server->reload, NULL, NULL);
}

static void on_reopen_signal(evutil_socket_t signal_number, short what, void *arg)
{
    (void)signal_number;
    (void)what;
    (void)arg;
    log_reopen();
}

static void on_dump_signal(evutil_socket_t signal_number, short what, void *arg)
{
    (void)signal_number;
    (void)what;
    dump_start(arg);
}

int server_run(struct server *server)
{
    struct event_base *base = loop_base(server->loop);
    struct dump *dump = dump_new(server);
    struct ending ending = { .server = server, .exit_code = EXIT_OK };
    struct watchdog *watchdog = watchdog_start(server->loop);
    struct event *signals[] = {
        evsignal_new(base, SIGTERM, on_stop_signal, &ending),
        evsignal_new(base, SIGINT, on_stop_signal, &ending),
        evsignal_new(base, SIGQUIT, on_stop_signal, &ending),
        evsignal_new(base, SIGHUP, on_reload_signal, &ending),
        evsignal_new(base, SIGUSR1, on_reopen_signal, &ending),
        evsignal_new(base, SIGUSR2, on_dump_signal, dump),
    };

    ending.poll = evtimer_new(base, on_drain_poll, &ending);
    for (size_t i = 0; i < G_N_ELEMENTS(signals); i++)
        event_add(signals[i], NULL);
    notify_ready("serving %u exports", registry_size(server->registry));
    loop_run(server->loop);
    for (size_t i = 0; i < G_N_ELEMENTS(signals); i++)
        event_free(signals[i]);
    dump_free(dump);
    event_free(ending.poll);
    watchdog_stop(watchdog);
    log_info("stopped");
    return ending.exit_code;
}

/* ---- Stop ---- */

/* Requests that are still in flight belong to handlers: nothing may be freed under them. */
static bool has_requests(const struct server *server)
{
    return server->connections != NULL && connection_in_flight(server->connections) > 0;
}

/* Blocking calls and saves end, with what they set off: they may use all that follows. */
static void settle(struct server *server)
{
    while ((server->workers != NULL && worker_pool_is_busy(server->workers)) ||
           (server->store != NULL && store_is_busy(server->store)))
        event_base_loop(loop_base(server->loop), EVLOOP_ONCE);
}

void server_free(struct server *server)
{
    if (server == NULL)
        return;
    if (server->config->pid_file[0] != '\0' && server->store != NULL)
        instance_end(server->config->pid_file);
    if (has_requests(server)) {
        log_warning("requests are still with the storage: ending without cleaning up");
        _exit(EXIT_RUNTIME);
    }
    metrics_free(server->metrics);
    listener_set_free(server->rpc_listeners);
    listener_set_free(server->nbd_listeners);
    rpc_server_free(server->rpc);
    control_gate_free(server->gate);
    connection_table_free(server->connections);
    server->connections = NULL; /* for what the last calls set off */
    settle(server);
    reload_free(server->reload);
    store_free(server->store);
    job_table_free(server->jobs);
    mapping_table_free(server->mappings);
    registry_free(server->registry);
    sums_table_free(server->sums);
    handler_set_free(server->handlers);
    worker_pool_free(server->workers);
    buffer_pool_free(server->buffers);
    loop_free(server->loop);
    config_free(server->config);
    g_free(server);
}
