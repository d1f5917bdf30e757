/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Which way the data of a file leaves: copied from where it is mapped into memory, or page by
 * page by sendfile(2). Which one costs less CPU time depends on the processor, on how much is on
 * its way to the client, and on whether that is on this machine or behind a network card: by a
 * factor of two to three, in both directions. So each connection measures it, again and again.
 * Loop thread.
 */
#ifndef NR_SEND_WAY_H
#define NR_SEND_WAY_H

#include <stddef.h>
#include <stdint.h>

enum send_way { SEND_FROM_MEMORY, SEND_BY_SENDFILE, SEND_WAYS };

/* Of one connection; all zero at first. */
struct send_costs {
    uint64_t cost[SEND_WAYS]; /* CPU time, ns for 1 MiB, when it was measured last; 0: never */
    enum send_way way;        /* of these turns */
    uint32_t turn;            /* of a round; send_way.c */
    uint64_t bytes, ns;       /* of the turns that are being measured */
    int64_t since_ns;         /* CPU time of this thread at the start of a turn; 0: not measured */
};

/* The way to take in the turn that begins now. */
enum send_way send_way_begin(struct send_costs *costs);

/* At its end: so many bytes have been sent. */
void send_way_end(struct send_costs *costs, size_t bytes);

#endif
