/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What the runs of nbd-cli on one host tell each other, as files in /run/nbd-cli: who changes
 * a device just now, which mapping was given up, whether a monitor runs. All of it may vanish:
 * then only the protection against each other is missing.
 */
#ifndef CLI_RUNDIR_H
#define CLI_RUNDIR_H

#include "sysfs.h"

#include <sys/types.h>

/* The exclusive right to change a device, against other runs of nbd-cli. A descriptor, to be
 * closed, or a negative errno; -ETIMEDOUT when another one had it until the deadline. */
int rundir_lock_device(const struct sysfs *sysfs, int index, int64_t deadline);

/* The right to be the monitor of this host. A descriptor, to be kept, or a negative errno;
 * -EBUSY when there is one: then *ret_pid is its pid, or 0. */
int rundir_lock_monitor(const struct sysfs *sysfs, pid_t *ret_pid);
bool rundir_monitor_runs(const struct sysfs *sysfs);

/* A mapping that was detached for good, although its device may be left occupied by a program
 * that has it open, and although its daemon may not know: nobody is to reconnect it. */
void rundir_give_up(const struct sysfs *sysfs, const char *cookie);
bool rundir_is_given_up(const struct sysfs *sysfs, const char *cookie);
void rundir_take_back(const struct sysfs *sysfs, const char *cookie);
/* Forget those whose device is free now. */
void rundir_tidy(const struct sysfs *sysfs);

#endif
