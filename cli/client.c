/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * ONC-RPC over a stream, by libtirpc's XDR and our own record marks: libtirpc's stream client
 * has no deadline for a peer that sends half a record, and no limit for a record's size.
 */
#include "client.h"

#include <arpa/inet.h>
#include <assert.h>
#include <glib.h>
#include <rpc/rpc.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SYSTEM_SOCKET "/run/nbd-runner/control.sock"
#define CALL_MAX (1u << 20) /* more than any arguments that rpc_nbd.x allows */
#define REPLY_MAX (16u << 20)
#define LAST_FRAGMENT 0x80000000u
#define STALE_REPLIES_MAX 16

struct client {
    int fd;
    uint32_t xid;
    int64_t timeout_ms;
    struct address address;
    char peer[ADDRESS_MAX + 32]; /* for sentences */
};

/* xdr_void() with the arguments that an xdrproc_t is called with. */
static bool_t xdr_nothing(XDR *xdrs, void *nothing)
{
    (void)xdrs;
    (void)nothing;
    return TRUE;
}

/* Every result is a union that starts with the code, and nr_error is its only other member
 * with pointers first, so each can be looked at as an nr_void_res. */
static const struct {
    xdrproc_t args, res;
    size_t res_size;
} procedures[] = {
#define PROCEDURE(number, args, res)                                                          \
    [number] = {(xdrproc_t)xdr_##args, (xdrproc_t)xdr_##res, sizeof(res)}
    PROCEDURE(NR_HELLO, nr_hello_args, nr_hello_res),
    PROCEDURE(NR_CREATE, nr_create_args, nr_job_res),
    PROCEDURE(NR_DELETE, nr_delete_args, nr_job_res),
    PROCEDURE(NR_RESIZE, nr_resize_args, nr_job_res),
    PROCEDURE(NR_PREMAP, nr_map_args, nr_ticket_res),
    PROCEDURE(NR_POSTMAP, nr_postmap_args, nr_mapping_res),
    PROCEDURE(NR_UNMAP, nr_unmap_args, nr_mapping_res),
    PROCEDURE(NR_LIST, nr_list_args, nr_list_res),
    PROCEDURE(NR_EXPORT_GET, nr_name_args, nr_export_res),
    PROCEDURE(NR_EXPORT_SET, nr_export_set_args, nr_settings_res),
    PROCEDURE(NR_EXPORT_SETTINGS, nr_name_args, nr_settings_res),
    PROCEDURE(NR_ACL_GET, nr_name_args, nr_acl_res),
    PROCEDURE(NR_ACL_SET, nr_acl_set_args, nr_acl_res),
    PROCEDURE(NR_CLIENTS, nr_page_args, nr_clients_res),
    PROCEDURE(NR_CLIENT_KICK, nr_kick_args, nr_void_res),
    PROCEDURE(NR_JOB_GET, nr_job_args, nr_job_res),
    PROCEDURE(NR_JOBS, nr_jobs_args, nr_jobs_res),
    PROCEDURE(NR_JOB_CANCEL, nr_id_args, nr_job_res),
    PROCEDURE(NR_SYNC, nr_name_args, nr_job_res),
    PROCEDURE(NR_ADMISSION, nr_admission_args, nr_admission_res),
    PROCEDURE(NR_LOG_LEVEL, nr_level_args, nr_void_res),
    [NR_HANDLERS] = {(xdrproc_t)xdr_nothing, (xdrproc_t)xdr_nr_handlers_res,
                     sizeof(nr_handlers_res)},
    PROCEDURE(NR_COUNTERS, nr_counters_args, nr_counters_res),
    [NR_STATUS] = {(xdrproc_t)xdr_nothing, (xdrproc_t)xdr_nr_status_res,
                   sizeof(nr_status_res)},
    [NR_RELOAD] = {(xdrproc_t)xdr_nothing, (xdrproc_t)xdr_nr_reload_res,
                   sizeof(nr_reload_res)},
#undef PROCEDURE
};

static const char *const code_names[] = {
    [NR_OK] = "OK",
    [NR_EINVAL] = "EINVAL",
    [NR_EPERM] = "EPERM",
    [NR_ENOENT] = "ENOENT",
    [NR_EEXIST] = "EEXIST",
    [NR_EBUSY] = "EBUSY",
    [NR_ESTATE] = "ESTATE",
    [NR_ENOSPC] = "ENOSPC",
    [NR_EBACKEND] = "EBACKEND",
    [NR_ETIMEOUT] = "ETIMEOUT",
    [NR_ELIMIT] = "ELIMIT",
    [NR_ENOTSUP] = "ENOTSUP",
    [NR_ECANCELED] = "ECANCELED",
    [NR_ECONFIG] = "ECONFIG",
    [NR_EINTERNAL] = "EINTERNAL",
};

const char *code_name(nr_code code)
{
    if ((unsigned)code >= G_N_ELEMENTS(code_names))
        return "UNKNOWN";
    return code_names[code];
}

/* ---- Connecting ---- */

static int open_address(const struct address *address, int64_t timeout_ms,
                        struct client **ret_client, struct failure *why)
{
    int fd = net_connect(address, NULL, deadline_in_ms(timeout_ms), why);
    struct client *client;
    char text[ADDRESS_MAX];

    if (fd < 0)
        return why->status;
    client = g_new0(struct client, 1);
    client->fd = fd;
    client->xid = g_random_int();
    client->timeout_ms = timeout_ms;
    client->address = *address;
    snprintf(client->peer, sizeof(client->peer), "the daemon at %s",
             address_format(address, text));
    *ret_client = client;
    return 0;
}

/* Nobody said where the daemon is: its Unix socket, else this host's TCP port. */
static int open_default(int64_t timeout_ms, struct client **ret_client, struct failure *why)
{
    struct address socket = {.unix_path = SYSTEM_SOCKET};
    struct address tcp = {.host = "localhost", .port = CONTROL_PORT};
    struct failure first;

    if (open_address(&socket, timeout_ms, ret_client, &first) == 0)
        return 0;
    if (open_address(&tcp, timeout_ms, ret_client, why) == 0)
        return 0;
    return fail_with(
        why, first.status == STATUS_PERMISSION ? STATUS_PERMISSION : why->status,
        "no daemon on this host: %s; localhost:%u: no connection either; is nbd-runner "
        "running? 'host' names another one",
        first.message, CONTROL_PORT);
}

int client_open(const char *host, int64_t timeout_ms, struct client **ret_client,
                struct failure *why)
{
    const char *dir = g_getenv("NBD_RUNNER_DIR");
    struct address address;
    char path[sizeof(address.unix_path) + 64];
    int r;

    if (host == NULL)
        host = g_getenv("NBD_RUNNER_HOST");
    if (host != NULL && *host == '\0')
        host = NULL;
    if (host == NULL && dir != NULL && *dir != '\0') {
        snprintf(path, sizeof(path), "unix:%.140s/control.sock", dir);
        host = path;
    }
    if (host == NULL)
        return open_default(timeout_ms, ret_client, why);
    r = address_parse(host, CONTROL_PORT, &address, why);
    return r == 0 ? open_address(&address, timeout_ms, ret_client, why) : r;
}

void client_close(struct client *client)
{
    if (client == NULL)
        return;
    close(client->fd);
    g_free(client);
}

const struct address *client_address(const struct client *client)
{
    return &client->address;
}

bool client_remote_host(const struct client *client, char *ret_host, size_t size)
{
    return !net_is_local(client->fd) && net_peer(client->fd, ret_host, size);
}

/* ---- One call ---- */

size_t call_encode(uint32_t xid, u_long procedure, void *args, char *buffer, size_t size)
{
    struct rpc_msg call = {.rm_xid = xid, .rm_direction = CALL};
    XDR xdrs;
    size_t length = 0;

    call.rm_call.cb_rpcvers = RPC_MSG_VERSION;
    call.rm_call.cb_prog = RPC_NBD;
    call.rm_call.cb_vers = RPC_NBD_V2;
    call.rm_call.cb_proc = (rpcproc_t)procedure;
    call.rm_call.cb_cred = _null_auth;
    call.rm_call.cb_verf = _null_auth;
    xdrmem_create(&xdrs, buffer, (u_int)size, XDR_ENCODE);
    if (xdr_callmsg(&xdrs, &call) && procedures[procedure].args(&xdrs, args))
        length = xdr_getpos(&xdrs);
    xdr_destroy(&xdrs);
    return length;
}

static int fail_accepted(const struct accepted_reply *reply, const char *peer,
                         struct failure *why)
{
    switch (reply->ar_stat) {
    case PROG_UNAVAIL:
        return fail_with(why, STATUS_UNREACHABLE, "%s is no nbd-runner", peer);
    case PROG_MISMATCH:
        return fail_with(why, STATUS_UNREACHABLE,
                         "%s speaks versions %u to %u of the control protocol, not %d", peer,
                         (unsigned)reply->ar_vers.low, (unsigned)reply->ar_vers.high,
                         RPC_NBD_V2);
    case PROC_UNAVAIL:
        return fail_code(why, STATUS_FAILED, "ENOTSUP", "%s is too old for this command",
                         peer);
    case GARBAGE_ARGS:
        return fail_code(why, STATUS_FAILED, "EINVAL", "%s does not understand the arguments",
                         peer);
    default:
        return fail_code(why, STATUS_FAILED, "EINTERNAL",
                         "%s failed to answer (RPC status %d)", peer, (int)reply->ar_stat);
    }
}

static int fail_header(struct rpc_msg *reply, const char *peer, struct failure *why)
{
    if (reply->rm_reply.rp_stat == MSG_ACCEPTED)
        return fail_accepted(&reply->acpted_rply, peer, why);
    if (reply->rjcted_rply.rj_stat == AUTH_ERROR)
        return fail_with(why, STATUS_PERMISSION, "%s refuses this caller", peer);
    return fail_with(why, STATUS_UNREACHABLE, "%s speaks another version of ONC-RPC", peer);
}

/* The daemon said no: its sentence is the best there is. */
static int fail_refused(u_long procedure, void *res, struct failure *why)
{
    const nr_void_res *refusal = res;
    nr_code code = refusal->code;
    const char *message = refusal->nr_void_res_u.err.message;

    if (message == NULL || *message == '\0')
        message = "the daemon refused, without a reason";
    fail_code(why, code == NR_EPERM ? STATUS_PERMISSION : STATUS_FAILED, code_name(code), "%s",
              message);
    client_free(procedure, res);
    return why->status;
}

int reply_decode(char *data, size_t length, uint32_t xid, u_long procedure, void *res,
                 bool *ret_is_other, const char *peer, struct failure *why)
{
    struct rpc_msg reply = {0};
    struct opaque_auth verf = {.oa_base = (char[MAX_AUTH_BYTES]){0}};
    XDR xdrs;
    int r = 0;

    *ret_is_other = false;
    memset(res, 0, procedures[procedure].res_size);
    reply.acpted_rply.ar_verf = verf;
    reply.acpted_rply.ar_results.proc = (xdrproc_t)xdr_nothing;
    xdrmem_create(&xdrs, data, (u_int)length, XDR_DECODE);
    if (!xdr_replymsg(&xdrs, &reply)) {
        r = fail_with(why, STATUS_UNREACHABLE, "%s answers, but not in ONC-RPC", peer);
    } else if (reply.rm_xid != xid) {
        *ret_is_other = true;
    } else if (reply.rm_reply.rp_stat != MSG_ACCEPTED ||
               reply.acpted_rply.ar_stat != SUCCESS) {
        r = fail_header(&reply, peer, why);
    } else if (!procedures[procedure].res(&xdrs, res)) {
        client_free(procedure, res);
        r = fail_with(why, STATUS_UNREACHABLE, "the answer of %s cannot be read", peer);
    }
    xdr_destroy(&xdrs);
    if (r != 0 || *ret_is_other || ((nr_void_res *)res)->code == NR_OK)
        return r;
    return fail_refused(procedure, res, why);
}

/* One record of any number of fragments, into *ret_record (g_free). */
static int read_record(struct client *client, int64_t deadline, char **ret_record,
                       size_t *ret_length, struct failure *why)
{
    char *record = NULL;
    size_t length = 0;
    uint32_t mark;

    do {
        int r = net_read(client->fd, &mark, sizeof(mark), deadline, client->peer, why);
        size_t more;

        mark = ntohl(mark);
        more = mark & ~LAST_FRAGMENT;
        if (r == 0 && (more > REPLY_MAX - length || (more == 0 && !(mark & LAST_FRAGMENT))))
            r = fail_with(why, STATUS_UNREACHABLE,
                          "the answer of %s is no record of ONC-RPC below "
                          "%u MiB",
                          client->peer, REPLY_MAX >> 20);
        if (r == 0) {
            record = g_realloc(record, length + more + 1);
            r = net_read(client->fd, record + length, more, deadline, client->peer, why);
        }
        if (r != 0) {
            g_free(record);
            return r;
        }
        length += more;
    } while (!(mark & LAST_FRAGMENT));
    *ret_record = record;
    *ret_length = length;
    return 0;
}

static int send_call(struct client *client, u_long procedure, void *args, int64_t deadline,
                     struct failure *why)
{
    g_autofree char *record = g_malloc(CALL_MAX);
    size_t length;
    uint32_t mark;

    length = call_encode(client->xid, procedure, args, record + sizeof(mark),
                         CALL_MAX - sizeof(mark));
    if (length == 0)
        return fail_with(why, STATUS_USAGE,
                         "an argument is longer than the control protocol allows");
    mark = htonl(LAST_FRAGMENT | (uint32_t)length);
    memcpy(record, &mark, sizeof(mark));
    return net_write(client->fd, record, sizeof(mark) + length, deadline, client->peer, why);
}

int client_call_slow(struct client *client, u_long procedure, void *args, void *res,
                     int64_t extra_ms, struct failure *why)
{
    int64_t deadline = deadline_in_ms(client->timeout_ms + extra_ms);
    bool is_other = true;
    int r;

    assert(procedure < G_N_ELEMENTS(procedures) && procedures[procedure].res != NULL);
    client->xid++;
    r = send_call(client, procedure, args, deadline, why);
    /* The answer to a call that timed out before may still come in front of this one. */
    for (int i = 0; r == 0 && is_other; i++) {
        g_autofree char *record = NULL;
        size_t length;

        if (i == STALE_REPLIES_MAX)
            return fail_with(why, STATUS_UNREACHABLE, "%s answers calls that nobody made",
                             client->peer);
        r = read_record(client, deadline, &record, &length, why);
        if (r == 0)
            r = reply_decode(record, length, client->xid, procedure, res, &is_other,
                             client->peer, why);
    }
    return r;
}

int client_call(struct client *client, u_long procedure, void *args, void *res,
                struct failure *why)
{
    return client_call_slow(client, procedure, args, res, 0, why);
}

void client_free(u_long procedure, void *res)
{
    xdr_free(procedures[procedure].res, res);
}
