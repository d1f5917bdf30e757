/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Negotiates an export on a socket, in the plain form that the kernel's driver speaks, before
 * the kernel takes the socket over. Knows no device and no daemon.
 */
#ifndef CLI_HANDSHAKE_H
#define CLI_HANDSHAKE_H

#include "failure.h"

#include <stdint.h>

/* What the server says about the export. */
struct terms {
    uint64_t size_bytes;
    uint16_t flags;     /* NBD_FLAG_*, for transmission */
    uint32_t block_min; /* 1 when the server does not say */
    uint32_t block_preferred;
    uint32_t block_max; /* 0 when the server does not say */
};

/* fd: a non-blocking socket, fresh. `peer` names the server in sentences. */
int handshake(int fd, const char *export_name, int64_t deadline, const char *peer,
              struct terms *ret_terms, struct failure *why);

/* Blocking, without time limits, keepalive on: as the kernel's driver needs it. */
void handshake_hand_over(int fd);

#endif
