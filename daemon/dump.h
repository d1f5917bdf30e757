/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The state of the daemon as lines of the log, for SIGUSR2: a line for the daemon, for each
 * export, client, mapping and job. Some lines per turn, so that the loop goes on. Loop thread
 * only.
 */
#ifndef NR_DUMP_H
#define NR_DUMP_H

struct dump;
struct server;

struct dump *dump_new(struct server *server);
void dump_free(struct dump *dump);

/* Begins anew when one is running. */
void dump_start(struct dump *dump);

#endif
