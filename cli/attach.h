/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The way from a ticket of the daemon to a device with sockets, which map and restore have
 * in common: connect, negotiate, hand over to the kernel, report back.
 */
#ifndef CLI_ATTACH_H
#define CLI_ATTACH_H

#include "command.h"
#include "device.h"
#include "handshake.h"

/* Open `count` negotiated sockets and put them into setup, with size and flags. */
int attach_sockets(struct cli *cli, const nr_ticket *ticket, size_t count,
                   struct device_setup *setup, struct terms *ret_terms, struct failure *why);
void attach_close(struct device_setup *setup);

/* What the kernel is to remember of the mapping: its cookie and where its daemon is; g_free. */
char *attach_backend(struct cli *cli, const char *cookie);

/* PREMAP for this host. */
int attach_premap(struct cli *cli, nr_map_args *args, nr_ticket_res *res, struct failure *why);

/* POSTMAP: the device works. */
int attach_done(struct cli *cli, const char *cookie, int index, struct failure *why);
/* POSTMAP: it does not, for the reason in why. A failure of the call itself is not told: the
 * lease ends by itself, and what went wrong before matters more. */
void attach_failed(struct cli *cli, const char *cookie, const struct failure *why);

#endif
