/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The control port: its table of procedures, who may call them, how they refuse, and those
 * that concern the daemon as a whole. The others are in control_*.c. Loop thread only.
 */
#include "control.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pwd.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "acl.h"
#include "buffer.h"
#include "connection.h"
#include "control_private.h"
#include "listener.h"
#include "log.h"
#include "registry.h"

static void control_null(struct rpc_call *call, void *args, void *arg)
{
    (void)args;
    (void)arg;
    rpc_reply(call, NULL);
}

static bool_t xdr_no_result(XDR *xdrs, ...)
{
    (void)xdrs;
    return TRUE;
}

#define PROCEDURE(title, args, result, function) \
    { .name = title, .decode_args = (xdrproc_t)xdr_##args, .args_size = sizeof(args), \
      .encode_result = (xdrproc_t)xdr_##result, .start = function }

static const struct rpc_procedure procedures[] = {
    [NR_NULL] = { .name = "NULL", .encode_result = xdr_no_result, .start = control_null },
    [NR_HELLO] = PROCEDURE("HELLO", nr_hello_args, nr_hello_res, control_hello),
    [NR_CREATE] = PROCEDURE("CREATE", nr_create_args, nr_job_res, control_create),
    [NR_DELETE] = PROCEDURE("DELETE", nr_delete_args, nr_job_res, control_delete),
    [NR_PREMAP] = PROCEDURE("PREMAP", nr_map_args, nr_ticket_res, control_premap),
    [NR_POSTMAP] = PROCEDURE("POSTMAP", nr_postmap_args, nr_mapping_res, control_postmap),
    [NR_UNMAP] = PROCEDURE("UNMAP", nr_unmap_args, nr_mapping_res, control_unmap),
    [NR_LIST] = PROCEDURE("LIST", nr_list_args, nr_list_res, control_list),
    [NR_EXPORT_GET] = PROCEDURE("EXPORT_GET", nr_name_args, nr_export_res, control_export_get),
    [NR_EXPORT_SET] = PROCEDURE("EXPORT_SET", nr_export_set_args, nr_settings_res,
                                control_export_set),
    [NR_EXPORT_SETTINGS] = PROCEDURE("EXPORT_SETTINGS", nr_name_args, nr_settings_res,
                                     control_export_settings),
    [NR_ACL_GET] = PROCEDURE("ACL_GET", nr_name_args, nr_acl_res, control_acl_get),
    [NR_ACL_SET] = PROCEDURE("ACL_SET", nr_acl_set_args, nr_acl_res, control_acl_set),
    [NR_CLIENTS] = PROCEDURE("CLIENTS", nr_page_args, nr_clients_res, control_clients),
    [NR_CLIENT_KICK] = PROCEDURE("CLIENT_KICK", nr_kick_args, nr_void_res,
                                 control_client_kick),
    [NR_JOB_GET] = PROCEDURE("JOB_GET", nr_job_args, nr_job_res, control_job_get),
    [NR_JOBS] = PROCEDURE("JOBS", nr_jobs_args, nr_jobs_res, control_jobs),
    [NR_JOB_CANCEL] = PROCEDURE("JOB_CANCEL", nr_id_args, nr_job_res, control_job_cancel),
    [NR_STATUS] = { .name = "STATUS", .encode_result = (xdrproc_t)xdr_nr_status_res,
                    .start = control_status },
    [NR_HANDLERS] = { .name = "HANDLERS", .encode_result = (xdrproc_t)xdr_nr_handlers_res,
                      .start = control_handlers },
    [NR_SYNC] = PROCEDURE("SYNC", nr_name_args, nr_job_res, control_sync),
    [NR_RESIZE] = PROCEDURE("RESIZE", nr_resize_args, nr_job_res, control_resize),
    [NR_RELOAD] = { .name = "RELOAD", .encode_result = (xdrproc_t)xdr_nr_reload_res,
                    .start = control_reload },
    [NR_COUNTERS] = PROCEDURE("COUNTERS", nr_counters_args, nr_counters_res,
                              control_counters),
    [NR_ADMISSION] = PROCEDURE("ADMISSION", nr_admission_args, nr_admission_res,
                               control_admission),
    [NR_LOG_LEVEL] = PROCEDURE("LOG_LEVEL", nr_level_args, nr_void_res, control_log_level),
};

/* ---- Texts ---- */

char *control_text(GStringChunk *texts, const char *text, size_t most)
{
    size_t length = strlen(text);
    char *valid, *copy;

    if (length <= most && g_utf8_validate(text, (gssize)length, NULL))
        return (char *)text; /* rpcgen knows no const; encoding only reads it */
    valid = g_utf8_make_valid(text, (gssize)length);
    length = strlen(valid);
    if (length > most) {
        const char *end = g_utf8_find_prev_char(valid, valid + most + 1);

        length = end != NULL ? (size_t)(end - valid) : 0;
    }
    copy = g_string_chunk_insert_len(texts, valid, (gssize)length);
    g_free(valid);
    return copy;
}

/* ---- Refusals ---- */

nr_code control_code_of(int error)
{
    static const struct {
        int error;
        nr_code code;
    } table[] = {
        { 0, NR_EINTERNAL },
        { EINVAL, NR_EINVAL },
        { ENAMETOOLONG, NR_EINVAL },
        { ENOENT, NR_ENOENT },
        { EEXIST, NR_EEXIST },
        { EBUSY, NR_EBUSY },
        { ENOSPC, NR_ENOSPC },
        { EDQUOT, NR_ENOSPC },
        { ETIMEDOUT, NR_ETIMEOUT },
        { EMFILE, NR_ELIMIT },
        { ENFILE, NR_ELIMIT },
        { ENOTSUP, NR_ENOTSUP },
        { ENOSYS, NR_ENOTSUP },
        { ECANCELED, NR_ECANCELED },
        { ENOMEM, NR_EINTERNAL },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(table); i++)
        if (table[i].error == error)
            return table[i].code;
    return NR_EBACKEND;
}

/* The message may quote the peer: no control character gets into the log or back to it. */
static void refuse(struct rpc_call *call, nr_code code, int sys_errno, char *message)
{
    GStringChunk *texts = g_string_chunk_new(NR_MSG_MAX);
    nr_void_res result = { .code = code };

    for (char *p = message; *p != '\0'; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
    result.nr_void_res_u.err.sys_errno = sys_errno;
    result.nr_void_res_u.err.message = control_text(texts, message, NR_MSG_MAX);
    log_event(NBD_LOG_INFO, NULL, rpc_call_peer(call),
              "control client %s: refused: %s", rpc_call_peer(call), message);
    rpc_reply_as(call, (xdrproc_t)xdr_nr_void_res, &result);
    g_string_chunk_free(texts);
}

void control_refuse(struct rpc_call *call, nr_code code, int sys_errno,
                    const char *format, ...)
{
    va_list args;
    char *message;

    va_start(args, format);
    message = g_strdup_vprintf(format, args);
    va_end(args);
    refuse(call, code, sys_errno, message);
    g_free(message);
}

void control_refuse_failure(struct rpc_call *call, const struct nbd_failure *why)
{
    struct nbd_failure copy = *why;

    refuse(call, control_code_of(copy.code), copy.code, copy.message);
}

/* ---- Checks ---- */

bool control_may_change(struct rpc_call *call, const struct server *server)
{
    if (server->stopping) {
        control_refuse(call, NR_ESTATE, 0, "the daemon is stopping and makes no more changes; "
                       "ask again when it runs anew");
        return false;
    }
    if (store_is_readonly(server->store)) {
        control_refuse(call, NR_ESTATE, EROFS, "the state file %s was written by a newer "
                       "version of nbd-runner, so nothing can be changed; install that "
                       "version again, or move the file away", store_path(server->store));
        return false;
    }
    return true;
}

bool control_check_text(struct rpc_call *call, const char *text, const char *field)
{
    bool good = g_utf8_validate(text, -1, NULL);

    for (const char *p = text; good && *p != '\0'; p++)
        good = (unsigned char)*p >= 0x20 && *p != 0x7f;
    if (!good)
        control_refuse(call, NR_EINVAL, EINVAL, "the field \"%s\" must be UTF-8 without "
                       "control characters", field);
    return good;
}

struct export *control_find_export(const struct server *server, const char *name,
                                   const nr_backstore *store, struct nbd_failure *why)
{
    struct export *export;
    char *quoted;

    if (*name == '\0' && *store->target == '\0') {
        nbd_fail(why, EINVAL, "name the export, or its handler and target");
        return NULL;
    }
    if (*name != '\0')
        export = registry_find(server->registry, name);
    else
        export = registry_find_backstore(server->registry, store->handler, store->target);
    if (export != NULL)
        return export;
    if (*name == '\0')
        name = store->target;
    quoted = log_quote(name, strlen(name));
    if (name == store->target)
        nbd_fail(why, ENOENT, "there is no export of the %s backstore %s; \"nbd-cli export list\" "
                 "shows those that exist", store->handler, quoted);
    else
        nbd_fail(why, ENOENT, "there is no export named %s; \"nbd-cli export list\" shows those that "
                 "exist", quoted);
    g_free(quoted);
    return NULL;
}

GHashTable *control_opts(const nr_backstore *store, struct nbd_failure *why)
{
    GHashTable *opts = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);

    for (u_int i = 0; i < store->opts.opts_len; i++) {
        const nr_opt *opt = &store->opts.opts_val[i];

        if (*opt->key != '\0' && g_utf8_validate(opt->key, -1, NULL) &&
            g_utf8_validate(opt->value, -1, NULL) &&
            g_hash_table_insert(opts, g_strdup(opt->key), g_strdup(opt->value)))
            continue;
        nbd_fail(why, EINVAL, "option %u of the backstore is empty, not UTF-8 or given twice",
                 i + 1);
        g_hash_table_unref(opts);
        return NULL;
    }
    return opts;
}

/* ---- The state file ---- */

static void on_saved(void *arg, int result, const struct nbd_failure *why)
{
    (void)arg;
    (void)result;
    (void)why;
}

void control_save(struct server *server)
{
    store_save(server->store, on_saved, NULL);
}

void control_kick_export(struct export *export, const char *reason)
{
    if (export->server->connections != NULL)
        connection_kick_export(export->server->connections, export, reason);
}

void control_forget_export(struct export *export, const char *reason, void (*on_gone)(void *arg),
                           void *arg)
{
    control_kick_export(export, reason);
    while (export->mappings->len > 0)
        mapping_remove(g_ptr_array_index(export->mappings, 0));
    registry_remove(export, on_gone, arg);
}

/* ---- The daemon ---- */

/* Names of the handlers, as many as an answer takes; the array is the caller's. */
static nr_text *handler_texts(const struct server *server, GStringChunk *texts, u_int *ret_n)
{
    const GPtrArray *names = handler_names(server->handlers);
    nr_text *rows;

    *ret_n = MIN(names->len, 32u);
    rows = g_new0(nr_text, *ret_n + 1);
    for (u_int i = 0; i < *ret_n; i++)
        rows[i] = control_text(texts, g_ptr_array_index(names, i), NR_TEXT_MAX);
    return rows;
}

void control_hello(struct rpc_call *call, void *args, void *arg)
{
    const nr_hello_args *a = args;
    struct server *server = arg;
    GStringChunk *texts = g_string_chunk_new(256);
    nr_hello_res result = { .code = NR_OK };
    nr_hello *hello = &result.nr_hello_res_u.hello;
    g_autofree char *client = log_quote(a->client, strlen(a->client));
    g_autofree char *agent = log_quote(a->agent, strlen(a->agent));

    log_debug("control client %s: it is %s on %s", rpc_call_peer(call), agent, client);
    hello->server_version = (char *)PACKAGE_VERSION;
    hello->boot_id = server->boot_id;
    hello->started = server->started_us;
    hello->handlers.handlers_val = handler_texts(server, texts, &hello->handlers.handlers_len);
    rpc_reply(call, &result);
    g_free(hello->handlers.handlers_val);
    g_string_chunk_free(texts);
}

void control_handlers(struct rpc_call *call, void *args, void *arg)
{
    const struct handler_set *set = ((struct server *)arg)->handlers;
    const GPtrArray *names = handler_names(set), *skipped = handler_skipped(set);
    GStringChunk *texts = g_string_chunk_new(1024);
    nr_handlers_res result = { .code = NR_OK };
    nr_handlers *handlers = &result.nr_handlers_res_u.handlers;
    nr_handler rows[64];

    (void)args;
    handlers->rows.rows_val = rows;
    for (guint i = 0; i < names->len && handlers->rows.rows_len < G_N_ELEMENTS(rows); i++)
        rows[handlers->rows.rows_len++] = (nr_handler){
            .name = control_text(texts, names->pdata[i], NR_TEXT_MAX),
            .file = control_text(texts, handler_file(set, names->pdata[i]), NR_TEXT_MAX),
            .problem = (char *)"",
        };
    for (guint i = 0; i < skipped->len && handlers->rows.rows_len < G_N_ELEMENTS(rows); i++) {
        const struct skipped_handler *one = skipped->pdata[i];

        rows[handlers->rows.rows_len++] = (nr_handler){
            .name = (char *)"",
            .file = control_text(texts, one->file, NR_TEXT_MAX),
            .problem = control_text(texts, one->reason, NR_MSG_MAX),
        };
    }
    rpc_reply(call, &result);
    g_string_chunk_free(texts);
}

/* Of a set that may be gone, while the daemon stops. */
static nr_endpoint *endpoint_rows(const struct listener_set *set, GStringChunk *texts,
                                  u_int *ret_n)
{
    return control_endpoints(set != NULL ? listener_endpoints(set) : NULL, texts, ret_n);
}

nr_endpoint *control_endpoints(const GPtrArray *endpoints, GStringChunk *texts, u_int *ret_n)
{
    nr_endpoint *rows;

    *ret_n = endpoints != NULL ? MIN(endpoints->len, (u_int)NR_ENDP_MAX) : 0;
    rows = g_new0(nr_endpoint, *ret_n + 1);
    for (u_int i = 0; i < *ret_n; i++) {
        const struct endpoint *endpoint = g_ptr_array_index(endpoints, i);

        rows[i].addr = control_text(texts, endpoint->host, NR_HOST_MAX);
        rows[i].port = (u_int)endpoint->port;
    }
    return rows;
}

/* What only a look at each export tells. */
static void describe_exports(const struct server *server, nr_status *status)
{
    struct counter_sums total;

    for (struct export *export = registry_next(server->registry, NULL); export != NULL;
         export = registry_next(server->registry, export->name)) {
        status->faulted += export->state == EXPORT_FAULTED;
        sums_add(server->sums, export->handler_name, &export->tally);
    }
    sums_total(server->sums, &total);
    status->exports = registry_size(server->registry);
    status->requests = counters_requests(&total.counters);
    status->read_bytes = total.counters.bytes[BYTES_READ];
    status->write_bytes = total.counters.bytes[BYTES_WRITTEN];
}

static void describe_state(const struct store *store, GStringChunk *texts, nr_status *status)
{
    static const char *const names[] = {
        [STORE_SAVED] = "saved", [STORE_UNSAVED] = "unsaved", [STORE_DEGRADED] = "degraded",
    };
    const char *error = NULL;

    status->state = (char *)names[store_state(store, &error)];
    status->state_error = control_text(texts, error != NULL ? error : "", NR_MSG_MAX);
    status->state_file = control_text(texts, store_path(store), NR_TARGET_MAX);
    status->generation = store_generation(store);
}

void control_status(struct rpc_call *call, void *args, void *arg)
{
    struct server *server = arg;
    GStringChunk *texts = g_string_chunk_new(1024);
    nr_status_res result = { .code = NR_OK };
    nr_status *status = &result.nr_status_res_u.status;

    (void)args;
    status->server_version = (char *)PACKAGE_VERSION;
    status->pid = (u_int)getpid();
    status->boot_id = server->boot_id;
    status->started = server->started_us;
    status->rpc_endpoints.rpc_endpoints_val =
        endpoint_rows(server->rpc_listeners, texts, &status->rpc_endpoints.rpc_endpoints_len);
    status->nbd_endpoints.nbd_endpoints_val =
        endpoint_rows(server->nbd_listeners, texts, &status->nbd_endpoints.nbd_endpoints_len);
    status->handlers.handlers_val =
        handler_texts(server, texts, &status->handlers.handlers_len);
    describe_exports(server, status);
    status->mappings = mapping_count(server->mappings);
    status->clients = connection_count(server->connections);
    status->jobs = job_running_count(server->jobs);
    status->log_level = (u_int)log_level();
    status->payload_bytes = buffer_pool_used(server->buffers);
    describe_state(server->store, texts, status);
    rpc_reply(call, &result);
    g_free(status->rpc_endpoints.rpc_endpoints_val);
    g_free(status->nbd_endpoints.nbd_endpoints_val);
    g_free(status->handlers.handlers_val);
    g_string_chunk_free(texts);
}

/* So that a health check need not try, and be logged as one more that was turned away. */
void control_admission(struct rpc_call *call, void *args, void *arg)
{
    const nr_admission_args *a = args;
    const struct server *server = arg;
    nr_admission_res result = { .code = NR_OK };
    nr_admission *admission = &result.nr_admission_res_u.admission;
    struct sockaddr_in v4 = { .sin_family = AF_INET };
    struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };
    const struct sockaddr *from = (struct sockaddr *)&v4;
    struct nbd_failure why = { 0 };

    if (inet_pton(AF_INET6, a->address, &v6.sin6_addr) == 1) {
        from = (struct sockaddr *)&v6;
    } else if (inet_pton(AF_INET, a->address, &v4.sin_addr) != 1) {
        g_autofree char *quoted = log_quote(a->address, strlen(a->address));

        control_refuse(call, NR_EINVAL, EINVAL, "%s is no IPv4 or IPv6 address", quoted);
        return;
    }
    if (connection_table_admits(server->connections, from, &why) < 0)
        admission->code = why.code == EACCES ? NR_EPERM : control_code_of(why.code);
    admission->why = why.message;
    rpc_reply(call, &result);
}

void control_log_level(struct rpc_call *call, void *args, void *arg)
{
    const nr_level_args *a = args;
    nr_void_res result = { .code = NR_OK };
    enum nbd_log_level level;
    char number[16];

    (void)arg;
    g_snprintf(number, sizeof(number), "%u", a->level);
    if (!log_parse_level(number, &level)) {
        control_refuse(call, NR_EINVAL, EINVAL, "there is no log level %u; take 3 (error), "
                       "4 (warning), 6 (info) or 7 (debug)", a->level);
        return;
    }
    log_set_level(level);
    log_event(NBD_LOG_INFO, NULL, rpc_call_peer(call),
              "control client %s: the log level is now %s", rpc_call_peer(call),
              log_level_name(level));
    rpc_reply(call, &result);
}

/* ---- Who may call ---- */

struct control_gate {
    struct acl *allowed;
};

struct control_gate *control_gate_new(const char *const *rpc_allow, struct nbd_failure *why)
{
    struct acl *allowed;
    struct control_gate *gate;

    if (acl_new(rpc_allow, &allowed, why) < 0)
        return NULL;
    gate = g_new0(struct control_gate, 1);
    gate->allowed = allowed;
    return gate;
}

void control_gate_free(struct control_gate *gate)
{
    if (gate == NULL)
        return;
    acl_free(gate->allowed);
    g_free(gate);
}

bool control_gate_allows(const struct control_gate *gate, int fd, const struct sockaddr *peer)
{
    struct ucred credentials;
    socklen_t length = sizeof(credentials);

    if (peer->sa_family != AF_UNIX)
        return acl_is_loopback(peer) || acl_contains(gate->allowed, peer);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) < 0)
        return false;
    return credentials.uid == 0 || credentials.uid == geteuid();
}

static void control_refuse_peer(struct rpc_call *call, void *arg)
{
    const struct server *server = arg;
    const char *peer = rpc_call_peer(call);

    if (rpc_call_standing(call) == RPC_TOO_MANY_CLIENTS)
        control_refuse(call, NR_ELIMIT, 0, "%u control clients are connected, which is the "
                       "limit (rpc_max_clients in %s); try again when one has left",
                       server->config->rpc_max_clients, server->config->config_file);
    else if (g_str_has_prefix(peer, "unix:"))
        control_refuse(call, NR_EPERM, EACCES, "%s may not use this control socket: only root "
                       "and the daemon's own user may", peer);
    else
        control_refuse(call, NR_EPERM, EACCES, "control calls from %s are not allowed; list "
                       "its address under rpc_allow in %s, or run the command on the "
                       "daemon's host",
                       peer, server->config->config_file);
}

struct rpc_program control_program(struct server *server)
{
    return (struct rpc_program){
        .program = RPC_NBD,
        .version = RPC_NBD_V2,
        .procedures = procedures,
        .n_procedures = G_N_ELEMENTS(procedures),
        .refuse = control_refuse_peer,
        .arg = server,
    };
}
