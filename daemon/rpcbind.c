/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Registration at rpcbind(8), through libtirpc.
 */
#include "rpcbind.h"

#include <arpa/inet.h>
#include <netconfig.h>
#include <netinet/in.h>
#include <rpc/rpc.h>
#include <unistd.h>

/* Without its socket no rpcbind runs: libtirpc would try several ways and wait. */
static bool is_running(void)
{
    return access("/run/rpcbind.sock", F_OK) == 0;
}

static bool set_for(const char *network, unsigned long program, unsigned long version,
                    struct netbuf *address)
{
    struct netconfig *netconfig = getnetconfigent(network);
    bool done;

    if (netconfig == NULL)
        return false;
    done = rpcb_set((rpcprog_t)program, (rpcvers_t)version, netconfig, address);
    freenetconfigent(netconfig);
    return done;
}

bool rpcbind_set(unsigned long program, unsigned long version, int port)
{
    struct sockaddr_in four = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port) };
    struct netbuf four_buf = { sizeof(four), sizeof(four), &four };
    struct netbuf six_buf = { sizeof(six), sizeof(six), &six };
    bool done;

    if (!is_running())
        return false;
    rpcbind_unset(program, version); /* what a crash has left behind */
    done = set_for("tcp", program, version, &four_buf);
    return set_for("tcp6", program, version, &six_buf) || done;
}

void rpcbind_unset(unsigned long program, unsigned long version)
{
    if (is_running())
        rpcb_unset((rpcprog_t)program, (rpcvers_t)version, NULL);
}
