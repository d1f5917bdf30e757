/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Tells rpcbind(8), where one runs, on which port the control program answers. Nobody of ours
 * ever asks it. Blocking calls: for worker threads.
 */
#ifndef NR_RPCBIND_H
#define NR_RPCBIND_H

#include <stdbool.h>

/* program at TCP port `port` of every address. false: there is no rpcbind, or it refused. */
bool rpcbind_set(unsigned long program, unsigned long version, int port);
void rpcbind_unset(unsigned long program, unsigned long version);

#endif
