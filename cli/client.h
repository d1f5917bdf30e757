/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The daemon's control protocol from the caller's side: connect, call, time out, and turn a
 * refusal into the daemon's own sentence. One call at a time; knows no command.
 */
#ifndef CLI_CLIENT_H
#define CLI_CLIENT_H

#include "failure.h"
#include "net.h"

#include "rpc/rpc_nbd.h"

#define CONTROL_PORT 24110

struct client;

/* host is NULL or as in address_parse(). Without one: the environment's NBD_RUNNER_HOST, then
 * NBD_RUNNER_DIR, then the system's Unix socket, then the TCP port of this host. */
int client_open(const char *host, int64_t timeout_ms, struct client **ret_client,
                struct failure *why);
void client_close(struct client *client);

/* Call a procedure (NR_CREATE ...). args and res are the types that rpc_nbd.x gives to it. On
 * success res is filled, and the caller frees it with client_free(). A refusal is a failure.
 */
int client_call(struct client *client, u_long procedure, void *args, void *res,
                struct failure *why);
/* The same for a call that the daemon may hold back for extra_ms. */
int client_call_slow(struct client *client, u_long procedure, void *args, void *res,
                     int64_t extra_ms, struct failure *why);
void client_free(u_long procedure, void *res);

/* Where it is connected to. */
const struct address *client_address(const struct client *client);

/* Where TCP clients of it find that host, as a number; false when it is this host. */
bool client_remote_host(const struct client *client, char *ret_host, size_t size);

/* How an nr_code is called in JSON: "ENOENT". */
const char *code_name(nr_code code);

/* Encode a call (header and arguments) and decode an answer, for client.c and its test. The
 * record mark is not part of either. call_encode() returns the length, 0 when it does not fit.
 */
size_t call_encode(uint32_t xid, u_long procedure, void *args, char *buffer, size_t size);
int reply_decode(char *data, size_t length, uint32_t xid, u_long procedure, void *res,
                 bool *ret_is_other, const char *peer, struct failure *why);

#endif
