/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Fuzz target: bytes to the control port. The first byte of the input says in which pieces
 * the rest is sent. Each input has a daemon of its own, since calls change it.
 */
#include <unistd.h>

#include "control.h"
#include "fuzz.h"
#include "job.h"
#include "rpc_server.h"
#include "store.h"

static struct server *daemon_with_control(void)
{
    struct server *server = fuzz_server_new();
    g_autofree char *state = g_build_filename(fuzz_directory(), "saveconfig.json", NULL);
    struct rpc_limits limits = { .max_clients = 4, .record_bytes = 1u << 20,
                                 .record_timeout_s = 10, .idle_timeout_s = 300 };
    struct rpc_program program;
    struct nbd_failure why;

    server->jobs = job_table_new(server);
    server->store = store_new(server, state);
    if (store_load(server->store, &why) < 0)
        g_error("%s", why.message);
    fuzz_add_export(server, "disk1", "mem", false);
    program = control_program(server);
    server->rpc = rpc_server_new(server->loop, &program, &limits);
    return server;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct server *server;
    int fds[2];

    if (size < 1)
        return 0;
    server = daemon_with_control();
    fuzz_pair(fds);
    rpc_server_accept(server->rpc, fds[1], "unix:1", !(data[0] & 0x80));
    fuzz_send(server, fds[0], data + 1, size - 1, data[0] % 64);
    for (int i = 0; i < 4; i++)
        fuzz_settle(server, fds[0]);
    close(fds[0]);
    event_base_loop(loop_base(server->loop), EVLOOP_NONBLOCK);
    fuzz_server_free(server);
    fuzz_empty_directory();
    return 0;
}
