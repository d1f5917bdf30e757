/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * One instance at a time: lock file and pid file.
 */
#ifndef NR_INSTANCE_H
#define NR_INSTANCE_H

#include "nbd-runner/handler.h"

/* Takes the lock, which holds until the process ends. -EALREADY names the holder's pid. */
int instance_lock(const char *lock_file, struct nbd_failure *why);

/* Writes the pid, one line, as a whole; removed by instance_end(). */
int instance_write_pid(const char *pid_file, struct nbd_failure *why);
void instance_end(const char *pid_file);

#endif
