/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Makes sure that a monitor runs on this host, once a device has been mapped.
 */
#ifndef CLI_MONITOR_START_H
#define CLI_MONITOR_START_H

#include "command.h"

/* By systemd where its service is installed, else as a process that ends with the last
 * mapping. A failure is no more than noted: the device works. */
void monitor_start(struct cli *cli);

#endif
