/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * ONC-RPC for many peers on the event loop. libtirpc's own server would wait for the rest of
 * a record in the thread that serves everybody; here only its XDR routines are used, on whole
 * records in memory. Bounded per peer: the size of a record and the time it takes, calls that
 * wait for an answer, answers that wait to be taken. Loop thread only.
 */
#include "rpc_server.h"

#include <assert.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"

#define HEADER_BYTES 4
#define LAST_FRAGMENT 0x80000000u
#define FRAGMENTS_MAX 4096       /* of one record: empty ones count too */
#define RECORDS_PER_WAKEUP 16
#define OUTPUT_HIGH (256u << 10) /* more than this: the peer is not read */
#define OUTPUT_LOW (64u << 10)
#define RESULT_MAX (1u << 20)
#define REPLY_HEADER_MAX 512     /* header, verifier, and what libtirpc may round up */
#define WRITE_TIMEOUT_S 60       /* without the peer taking a byte */
#define REFUSALS_MAX 8           /* answers to a peer that may not call */
#define REFUSED_IDLE_S 10

/* What the one timer of a peer waits for. */
enum deadline { DEADLINE_NONE, DEADLINE_RECORD, DEADLINE_IDLE };

struct peer {
    struct rpc_server *server; /* not owned */
    GList *link;               /* in server->peers */
    struct bufferevent *bev;
    char *name;
    enum rpc_standing standing;
    GQueue calls;              /* struct rpc_call *; owned */
    unsigned answers;          /* given to a peer that may not call */

    struct evbuffer *record;   /* whole fragments and parts of the next one */
    uint32_t fragment_left;    /* bytes of the fragment that are still to come */
    unsigned fragments;        /* whose header has come; 0: between two records */
    bool last_fragment;

    struct event *timer;
    enum deadline deadline;
    struct event *work;        /* go on with the input, or reap when closing */
    bool closing;
};

struct rpc_server {
    struct loop *loop;
    struct rpc_program program;
    struct rpc_limits limits;
    GQueue peers;              /* struct peer *; owned */
    unsigned count[3];         /* by standing */
};

struct rpc_call {
    struct peer *peer;         /* not owned; outlives the call */
    GList *link;               /* in peer->calls */
    uint32_t xid;
    const struct rpc_procedure *procedure;
    void *args;
    void (*gone)(void *arg);
    void *gone_arg;
};

/* ---- Closing ---- */

/* Safe anywhere, any number of times: the peer and its calls stay until the loop reaps them,
 * so that nobody on the stack loses what it works with. */
static void peer_close(struct peer *peer, const char *why)
{
    if (peer->closing)
        return;
    log_debug("control client %s: closing: %s", peer->name, why);
    peer->closing = true;
    bufferevent_disable(peer->bev, EV_READ | EV_WRITE);
    event_del(peer->timer);
    event_active(peer->work, 0, 0);
}

static void call_free(struct rpc_call *call)
{
    g_queue_delete_link(&call->peer->calls, call->link);
    if (call->args != NULL) {
        xdr_free(call->procedure->decode_args, call->args);
        g_free(call->args);
    }
    g_free(call);
}

static void peer_free(struct peer *peer)
{
    while (!g_queue_is_empty(&peer->calls)) {
        struct rpc_call *call = g_queue_peek_head(&peer->calls);

        if (call->gone != NULL)
            call->gone(call->gone_arg);
        call_free(call);
    }
    g_queue_delete_link(&peer->server->peers, peer->link);
    peer->server->count[peer->standing]--;
    bufferevent_free(peer->bev);
    evbuffer_free(peer->record);
    event_free(peer->timer);
    event_free(peer->work);
    g_free(peer->name);
    g_free(peer);
}

/* ---- Time limits ---- */

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
    struct peer *peer = arg;

    (void)fd;
    (void)what;
    peer_close(peer, peer->deadline == DEADLINE_RECORD ? "its record was not whole in time"
                                                       : "it was idle for too long");
}

/* A limit runs on when it is set again: a record that comes byte by byte has no more time
 * than one that comes at once. */
static void set_deadline(struct peer *peer, enum deadline deadline)
{
    const struct rpc_limits *limits = &peer->server->limits;
    struct timeval limit = { 0 };

    if (peer->deadline == deadline)
        return;
    peer->deadline = deadline;
    event_del(peer->timer);
    if (deadline == DEADLINE_NONE || peer->closing)
        return;
    if (deadline == DEADLINE_RECORD)
        limit.tv_sec = limits->record_timeout_s;
    else if (peer->standing == RPC_ALLOWED)
        limit.tv_sec = limits->idle_timeout_s;
    else
        limit.tv_sec = MIN(REFUSED_IDLE_S, limits->idle_timeout_s);
    event_add(peer->timer, &limit);
}

/* ---- Replies ---- */

static size_t output_pending(const struct peer *peer)
{
    return evbuffer_get_length(bufferevent_get_output(peer->bev));
}

static bool is_full(const struct peer *peer)
{
    return peer->calls.length >= RPC_CALLS_MAX || output_pending(peer) > OUTPUT_HIGH;
}

/* Encodes straight into the peer's output. False: the message does not fit its bound. */
static bool send_message(struct peer *peer, struct rpc_msg *message, size_t bytes)
{
    struct evbuffer *output = bufferevent_get_output(peer->bev);
    struct evbuffer_iovec room;
    uint32_t header;
    XDR xdrs;
    bool ok;

    if (bytes > RESULT_MAX)
        return false;
    bytes += REPLY_HEADER_MAX;
    if (evbuffer_reserve_space(output, (ev_ssize_t)bytes, &room, 1) != 1)
        return false;
    xdrmem_create(&xdrs, (char *)room.iov_base + HEADER_BYTES,
                  (u_int)MIN(room.iov_len - HEADER_BYTES, G_MAXINT32), XDR_ENCODE);
    ok = xdr_replymsg(&xdrs, message);
    if (ok) {
        header = htonl(LAST_FRAGMENT | xdr_getpos(&xdrs));
        memcpy(room.iov_base, &header, HEADER_BYTES);
        room.iov_len = HEADER_BYTES + xdr_getpos(&xdrs);
        ok = evbuffer_commit_space(output, &room, 1) == 0;
    }
    xdr_destroy(&xdrs);
    return ok;
}

static bool_t xdr_nothing(XDR *xdrs, ...)
{
    (void)xdrs;
    return TRUE;
}

static struct rpc_msg accepted(uint32_t xid, enum accept_stat stat)
{
    struct rpc_msg message = { .rm_xid = xid, .rm_direction = REPLY };

    message.rm_reply.rp_stat = MSG_ACCEPTED;
    message.acpted_rply.ar_verf = _null_auth;
    message.acpted_rply.ar_stat = stat;
    message.acpted_rply.ar_results.proc = xdr_nothing;
    return message;
}

static void send_status(struct peer *peer, struct rpc_msg message)
{
    if (peer->closing)
        return;
    if (!send_message(peer, &message, 0) || output_pending(peer) > RPC_OUTPUT_MAX)
        peer_close(peer, "it does not take its answers");
}

static void send_denied(struct peer *peer, uint32_t xid, enum reject_stat stat)
{
    struct rpc_msg message = { .rm_xid = xid, .rm_direction = REPLY };

    message.rm_reply.rp_stat = MSG_DENIED;
    message.rjcted_rply.rj_stat = stat;
    if (stat == RPC_MISMATCH) {
        message.rjcted_rply.rj_vers.low = RPC_MSG_VERSION;
        message.rjcted_rply.rj_vers.high = RPC_MSG_VERSION;
    } else {
        message.rjcted_rply.rj_why = AUTH_BADCRED;
    }
    send_status(peer, message);
}

static void send_result(struct rpc_call *call, xdrproc_t encode, const void *result)
{
    struct peer *peer = call->peer;
    struct rpc_msg message = accepted(call->xid, SUCCESS);

    if (peer->closing)
        return;
    message.acpted_rply.ar_results.proc = encode;
    message.acpted_rply.ar_results.where = (caddr_t)result;
    if (!send_message(peer, &message, xdr_sizeof(encode, (void *)result))) {
        log_event(NBD_LOG_ERROR, NULL, peer->name,
                  "control client %s: the answer to %s could not be encoded", peer->name,
                  call->procedure->name);
        send_status(peer, accepted(call->xid, SYSTEM_ERR));
    } else if (output_pending(peer) > RPC_OUTPUT_MAX) {
        peer_close(peer, "it does not take its answers");
    }
}

void rpc_reply_as(struct rpc_call *call, xdrproc_t encode_result, const void *result)
{
    struct peer *peer = call->peer;

    send_result(call, encode_result, result);
    call_free(call);
    /* The next record may be in the buffer already, and then no socket event will come. */
    event_active(peer->work, 0, 0);
}

void rpc_reply(struct rpc_call *call, const void *result)
{
    rpc_reply_as(call, call->procedure->encode_result, result);
}

void rpc_call_on_gone(struct rpc_call *call, void (*gone)(void *arg), void *arg)
{
    call->gone = gone;
    call->gone_arg = arg;
}

const char *rpc_call_peer(const struct rpc_call *call)
{
    return call->peer->name;
}

enum rpc_standing rpc_call_standing(const struct rpc_call *call)
{
    return call->peer->standing;
}

/* ---- Calls ---- */

/* Do the arguments read as they were written? Not so when a string has a NUL inside: what
 * lies behind it would be dropped without a word. */
static bool is_canonical(xdrproc_t encode, void *args, const char *bytes, u_int length)
{
    char *again = g_malloc(length + 1);
    XDR xdrs;
    bool same;

    xdrmem_create(&xdrs, again, length, XDR_ENCODE);
    same = encode(&xdrs, args) && xdr_getpos(&xdrs) == length &&
           memcmp(again, bytes, length) == 0;
    xdr_destroy(&xdrs);
    g_free(again);
    return same;
}

/* False: the arguments are not what the procedure takes. */
static bool decode_args(struct rpc_call *call, XDR *xdrs, const char *record, u_int length)
{
    const struct rpc_procedure *procedure = call->procedure;
    u_int start = xdr_getpos(xdrs);

    if (procedure->decode_args == NULL)
        return start == length;
    call->args = g_malloc0(procedure->args_size);
    return procedure->decode_args(xdrs, call->args) && xdr_getpos(xdrs) == length &&
           is_canonical(procedure->decode_args, call->args, record + start, length - start);
}

static struct rpc_call *call_new(struct peer *peer, uint32_t xid,
                                 const struct rpc_procedure *procedure)
{
    struct rpc_call *call = g_new0(struct rpc_call, 1);

    call->peer = peer;
    call->xid = xid;
    call->procedure = procedure;
    g_queue_push_tail(&peer->calls, call);
    call->link = peer->calls.tail;
    return call;
}

static void start_call(struct peer *peer, const struct rpc_msg *message, XDR *xdrs,
                       const char *record, u_int length)
{
    const struct rpc_program *program = &peer->server->program;
    const struct rpc_procedure *procedure = &program->procedures[message->rm_call.cb_proc];
    struct rpc_call *call = call_new(peer, message->rm_xid, procedure);
    bool refused = peer->standing != RPC_ALLOWED && message->rm_call.cb_proc != NULLPROC;

    if (refused && (program->refuse == NULL || ++peer->answers > REFUSALS_MAX)) {
        call_free(call);
        peer_close(peer, "it may not call");
    } else if (refused) {
        program->refuse(call, program->arg);
    } else if (!decode_args(call, xdrs, record, length)) {
        call_free(call);
        send_status(peer, accepted(message->rm_xid, GARBAGE_ARGS));
    } else {
        procedure->start(call, call->args, program->arg);
    }
}

static void dispatch(struct peer *peer, const struct rpc_msg *message, XDR *xdrs,
                     const char *record, u_int length)
{
    const struct rpc_program *program = &peer->server->program;
    const struct call_body *body = &message->rm_call;

    if (body->cb_prog != program->program) {
        send_status(peer, accepted(message->rm_xid, PROG_UNAVAIL));
    } else if (body->cb_vers != program->version) {
        struct rpc_msg reply = accepted(message->rm_xid, PROG_MISMATCH);

        reply.acpted_rply.ar_vers.low = program->version;
        reply.acpted_rply.ar_vers.high = program->version;
        send_status(peer, reply);
    } else if (body->cb_proc >= program->n_procedures ||
               program->procedures[body->cb_proc].name == NULL) {
        send_status(peer, accepted(message->rm_xid, PROC_UNAVAIL));
    } else {
        start_call(peer, message, xdrs, record, length);
    }
}

/* One whole record. xdr_callmsg() says only yes or no, so what must be told apart is read
 * by hand first: xid, direction, version of RPC. */
static void take_record(struct peer *peer, char *record, u_int length)
{
    char credential[MAX_AUTH_BYTES], verifier[MAX_AUTH_BYTES];
    struct rpc_msg message = { 0 };
    uint32_t words[3];
    XDR xdrs;

    if (length < sizeof(words)) {
        peer_close(peer, "its record is too short for a call");
        return;
    }
    memcpy(words, record, sizeof(words));
    if (ntohl(words[1]) != CALL) {
        peer_close(peer, "its record is no call");
        return;
    }
    if (ntohl(words[2]) != RPC_MSG_VERSION) {
        send_denied(peer, ntohl(words[0]), RPC_MISMATCH);
        return;
    }
    message.rm_call.cb_cred.oa_base = credential;
    message.rm_call.cb_verf.oa_base = verifier;
    xdrmem_create(&xdrs, record, length, XDR_DECODE);
    if (xdr_callmsg(&xdrs, &message))
        dispatch(peer, &message, &xdrs, record, length);
    else
        send_denied(peer, ntohl(words[0]), AUTH_ERROR);
    xdr_destroy(&xdrs);
}

/* ---- Records ---- */

/* The header of the next fragment. False: not here yet, or the peer is closed. */
static bool receive_header(struct peer *peer)
{
    struct evbuffer *input = bufferevent_get_input(peer->bev);
    uint32_t header;

    if (evbuffer_get_length(input) < HEADER_BYTES)
        return false;
    evbuffer_remove(input, &header, HEADER_BYTES);
    header = ntohl(header);
    peer->last_fragment = header & LAST_FRAGMENT;
    peer->fragment_left = header & ~LAST_FRAGMENT;
    peer->fragments++;
    if (peer->fragment_left > peer->server->limits.record_bytes -
                                  evbuffer_get_length(peer->record)) {
        peer_close(peer, "its record is too long");
        return false;
    }
    if (peer->fragments > FRAGMENTS_MAX) {
        peer_close(peer, "its record has too many fragments");
        return false;
    }
    return true;
}

/* Take what is here of the record. True: it is whole. */
static bool receive_record(struct peer *peer)
{
    struct evbuffer *input = bufferevent_get_input(peer->bev);

    for (;;) {
        if (peer->fragment_left > 0) {
            int moved = evbuffer_remove_buffer(input, peer->record, peer->fragment_left);

            if (moved <= 0)
                return false;
            peer->fragment_left -= (uint32_t)moved;
            continue;
        }
        if (peer->fragments > 0 && peer->last_fragment)
            return true;
        if (!receive_header(peer))
            return false;
    }
}

/* Which limit runs: none while we make the peer wait. */
static void update_deadline(struct peer *peer, bool paused)
{
    if (paused)
        set_deadline(peer, DEADLINE_NONE);
    else if (peer->fragments > 0 || evbuffer_get_length(bufferevent_get_input(peer->bev)) > 0)
        set_deadline(peer, DEADLINE_RECORD);
    else if (peer->calls.length > 0)
        set_deadline(peer, DEADLINE_NONE);
    else
        set_deadline(peer, DEADLINE_IDLE);
}

static void finish_record(struct peer *peer)
{
    size_t length = evbuffer_get_length(peer->record);
    unsigned char *record = evbuffer_pullup(peer->record, -1);

    /* The next one gets a time limit of its own. */
    set_deadline(peer, DEADLINE_NONE);
    peer->fragments = 0;
    take_record(peer, (char *)record, (u_int)length);
    evbuffer_drain(peer->record, length);
}

static void receive(struct peer *peer)
{
    unsigned taken = 0;

    while (!peer->closing && !is_full(peer) && taken < RECORDS_PER_WAKEUP &&
           receive_record(peer)) {
        finish_record(peer);
        taken++;
    }
    if (peer->closing)
        return;
    if (is_full(peer)) {
        bufferevent_disable(peer->bev, EV_READ);
        update_deadline(peer, true);
        return;
    }
    bufferevent_enable(peer->bev, EV_READ);
    update_deadline(peer, false);
    /* There may be more; the others go first. */
    if (taken == RECORDS_PER_WAKEUP)
        event_active(peer->work, 0, 0);
}

static void on_work(evutil_socket_t fd, short what, void *arg)
{
    struct peer *peer = arg;

    (void)fd;
    (void)what;
    if (peer->closing)
        peer_free(peer);
    else
        receive(peer);
}

static void on_readable(struct bufferevent *bev, void *arg)
{
    (void)bev;
    receive(arg);
}

/* The output has drained: read again. */
static void on_writable(struct bufferevent *bev, void *arg)
{
    (void)bev;
    receive(arg);
}

static void on_event(struct bufferevent *bev, short what, void *arg)
{
    struct peer *peer = arg;

    (void)bev;
    if (what & BEV_EVENT_TIMEOUT)
        peer_close(peer, "it does not take its answers");
    else
        peer_close(peer, what & BEV_EVENT_EOF ? "it has left" : "the connection broke");
}

/* ---- The server ---- */

struct rpc_server *rpc_server_new(struct loop *loop, const struct rpc_program *program,
                                  const struct rpc_limits *limits)
{
    struct rpc_server *server = g_new0(struct rpc_server, 1);

    server->loop = loop;
    server->program = *program;
    server->limits = *limits;
    g_queue_init(&server->peers);
    return server;
}

void rpc_server_free(struct rpc_server *server)
{
    if (server == NULL)
        return;
    while (!g_queue_is_empty(&server->peers))
        peer_free(g_queue_peek_head(&server->peers));
    g_free(server);
}

void rpc_server_set_max_clients(struct rpc_server *server, unsigned max_clients)
{
    server->limits.max_clients = max_clients;
}

unsigned rpc_server_clients(const struct rpc_server *server)
{
    return server->count[RPC_ALLOWED];
}

/* What a new peer is, or -1: it is not even kept for a refusal. */
static int standing_of(const struct rpc_server *server, bool allowed)
{
    if (allowed && server->count[RPC_ALLOWED] < server->limits.max_clients)
        return RPC_ALLOWED;
    if (allowed && server->count[RPC_TOO_MANY_CLIENTS] < RPC_SURPLUS_MAX)
        return RPC_TOO_MANY_CLIENTS;
    if (!allowed && server->count[RPC_NOT_ALLOWED] < RPC_REFUSED_MAX)
        return RPC_NOT_ALLOWED;
    return -1;
}

/* Fails for Unix sockets, where neither is needed. */
static void set_socket_options(int fd)
{
    int on = 1;

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
}

void rpc_server_accept(struct rpc_server *server, int fd, const char *name, bool allowed)
{
    struct event_base *base = loop_base(server->loop);
    struct timeval write_limit = { .tv_sec = WRITE_TIMEOUT_S };
    int standing = standing_of(server, allowed);
    struct peer *peer;

    if (standing < 0) {
        log_event(NBD_LOG_INFO, NULL, name,
                  "control client %s: closed at once, there are too many", name);
        close(fd);
        return;
    }
    set_socket_options(fd);
    peer = g_new0(struct peer, 1);
    peer->server = server;
    peer->standing = (enum rpc_standing)standing;
    server->count[standing]++;
    peer->name = g_strdup(name);
    g_queue_init(&peer->calls);
    g_queue_push_tail(&server->peers, peer);
    peer->link = server->peers.tail;
    peer->record = evbuffer_new();
    peer->timer = evtimer_new(base, on_deadline, peer);
    peer->work = event_new(base, -1, 0, on_work, peer);
    peer->bev = bufferevent_socket_new(base, fd,
                                       BEV_OPT_CLOSE_ON_FREE | BEV_OPT_DEFER_CALLBACKS);
    g_assert(peer->record != NULL && peer->timer != NULL && peer->work != NULL &&
             peer->bev != NULL);
    bufferevent_setcb(peer->bev, on_readable, on_writable, on_event, peer);
    bufferevent_setwatermark(peer->bev, EV_READ, 0,
                             server->limits.record_bytes + HEADER_BYTES);
    bufferevent_setwatermark(peer->bev, EV_WRITE, OUTPUT_LOW, 0);
    bufferevent_set_timeouts(peer->bev, NULL, &write_limit);
    bufferevent_enable(peer->bev, EV_READ | EV_WRITE);
    set_deadline(peer, DEADLINE_IDLE);
    log_debug("control client %s: connected", name);
}
