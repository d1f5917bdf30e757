/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The procedures of the control protocol (rpc/rpc_nbd.x): XDR in, calls of the core, XDR out.
 * Loop thread only.
 */
#ifndef NR_CONTROL_H
#define NR_CONTROL_H

#include "rpc_server.h"

struct server;

/* The program for rpc_server_new(); `server` must outlive the RPC server. */
struct rpc_program control_program(struct server *server);

/* May this peer call? Loopback, Unix peers that are root or our own user, rpc_allow. */
struct control_gate;
struct control_gate *control_gate_new(const char *const *rpc_allow, struct nbd_failure *why);
void control_gate_free(struct control_gate *gate);
bool control_gate_allows(const struct control_gate *gate, int fd, const struct sockaddr *peer);

#endif
