/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Sockets that the service manager opened and handed over (socket activation). Each has a
 * name, which says what it is for: FileDescriptorName= of its unit. Before the loop runs.
 */
#ifndef NR_ACTIVATION_H
#define NR_ACTIVATION_H

#include <stdbool.h>

#include "listener.h"

struct activation;

/* What was handed over, which may be nothing; once, later there is nothing. -EINVAL: one has a
 * name that nobody knows, or is of another kind than its name says; *why names it. */
int activation_take(struct activation **ret_activation, struct nbd_failure *why);
void activation_free(struct activation *activation); /* closes what was not adopted */

/* "control" and "nbd" (TCP), "control-unix" and "nbd-unix". The set listens on all sockets of
 * that name; *ret_adopted is how many there were: with none, the caller opens its own. */
int activation_adopt(struct activation *activation, const char *name, struct listener_set *set,
                     unsigned *ret_adopted, struct nbd_failure *why);

#endif
