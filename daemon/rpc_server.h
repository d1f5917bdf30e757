/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * ONC-RPC (RFC 5531) on TCP and Unix sockets: record marking on bufferevents, call and reply
 * headers. Knows no procedure: a table of them comes from control.c. Loop thread only.
 */
#ifndef NR_RPC_SERVER_H
#define NR_RPC_SERVER_H

#include <glib.h>
#include <rpc/rpc.h>
#include <stdbool.h>

#include "nbd-runner/handler.h"
#include "loop.h"

struct rpc_server;
struct rpc_call; /* one call that waits for its answer */

/* May the peer call? The others get a few answers from refuse(), so that they learn why. */
enum rpc_standing { RPC_ALLOWED, RPC_NOT_ALLOWED, RPC_TOO_MANY_CLIENTS };

/* A procedure. start() gets the decoded arguments, which live until the answer, and answers
 * now or later, exactly once, with rpc_reply(). One that answers later must have called
 * rpc_call_on_gone() when it returns. */
struct rpc_procedure {
    const char *name;
    xdrproc_t decode_args; /* NULL: void */
    size_t args_size;
    xdrproc_t encode_result;
    void (*start)(struct rpc_call *call, void *args, void *arg);
};

struct rpc_program {
    unsigned long program, version;
    const struct rpc_procedure *procedures; /* by number; name NULL: no such procedure */
    unsigned n_procedures;
    /* Called for a peer who may not call, see rpc_call_standing(); answers with
     * rpc_reply_as(). Not called for procedure 0, which anybody may call. NULL: closes. */
    void (*refuse)(struct rpc_call *call, void *arg);
    void *arg;
};

struct rpc_limits {
    unsigned max_clients;     /* surplus ones are told so */
    unsigned record_bytes;    /* 1 MiB */
    unsigned record_timeout_s;/* 10: for a begun record to be whole */
    unsigned idle_timeout_s;  /* 300; counts while no call waits for its answer */
};

#define RPC_CALLS_MAX 64           /* of one peer at a time; then it is not read */
#define RPC_OUTPUT_MAX (4u << 20)  /* bytes of answers that a peer has not taken */
#define RPC_REFUSED_MAX 32         /* peers that may not call, kept for their refusal */
#define RPC_SURPLUS_MAX 16         /* peers beyond max_clients, likewise */

struct rpc_server *rpc_server_new(struct loop *loop, const struct rpc_program *program,
                                  const struct rpc_limits *limits);
/* Closes all connections; calls that still wait are dropped. */
void rpc_server_free(struct rpc_server *server);

/* For those who connect from now on. */
void rpc_server_set_max_clients(struct rpc_server *server, unsigned max_clients);

/* Takes over an accepted socket. `allowed`: may this peer call at all? */
void rpc_server_accept(struct rpc_server *server, int fd, const char *peer, bool allowed);

/* Sends the result (encoded before this returns) and frees the call. */
void rpc_reply(struct rpc_call *call, const void *result);

/* The same with another encoder, as for a refusal that looks alike for all procedures. */
void rpc_reply_as(struct rpc_call *call, xdrproc_t encode_result, const void *result);

/* Called when the peer leaves before the answer; the call is then freed, do not reply. */
void rpc_call_on_gone(struct rpc_call *call, void (*gone)(void *arg), void *arg);
const char *rpc_call_peer(const struct rpc_call *call); /* "127.0.0.1:40312", "unix:PID" */
enum rpc_standing rpc_call_standing(const struct rpc_call *call);

unsigned rpc_server_clients(const struct rpc_server *server);

#endif
