/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Tries a handler's library in a process of its own, so that one that crashes or hangs while
 * it is loaded does not take the daemon with it. Before the daemon has threads.
 */
#ifndef NR_HANDLER_PROBE_H
#define NR_HANDLER_PROBE_H

#include <stdbool.h>

#include "nbd-runner/handler.h"

/* Does the library survive being loaded, and its handler_init() return? Whether it is right
 * otherwise is not looked at. false: *ret_complaint says what happened; g_free. Blocks. */
bool handler_probe(const char *path, const struct nbd_config *config, char **ret_complaint);

/* Is it a library whose handler_init() this daemon would call? */
bool handler_abi_fits(const struct nbd_handler_abi *abi);

#endif
