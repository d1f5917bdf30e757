/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Fuzz target: whatever a client may send, from its first byte on. The first byte of the
 * input says in which pieces the rest is sent.
 */
#include <unistd.h>

#include "connection.h"
#include "fuzz.h"

static struct server *server;

static void set_up(void)
{
    server = fuzz_server_new();
    fuzz_add_export(server, "disk1", "mem", false);
    fuzz_add_export(server, "iso", "null", true);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sockaddr peer = { .sa_family = AF_UNIX };
    int fds[2];

    if (size < 1)
        return 0;
    if (server == NULL)
        set_up();
    fuzz_pair(fds);
    connection_accept(server->connections, fds[1], &peer);
    fuzz_send(server, fds[0], data + 1, size - 1, data[0] % 32);
    fuzz_settle(server, fds[0]);
    close(fds[0]);
    while (connection_count(server->connections) > 0)
        event_base_loop(loop_base(server->loop), EVLOOP_ONCE);
    return 0;
}
