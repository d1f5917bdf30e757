/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The kernel's messages about connections that died. They may get lost, and say no more than
 * the device's number: they are a reason to look, never a fact to act upon.
 */
#ifndef CLI_DEVICE_WATCH_H
#define CLI_DEVICE_WATCH_H

#include <stdbool.h>

struct device_watch;

/* NULL when the driver is not loaded. */
struct device_watch *device_watch_open(void);
void device_watch_close(struct device_watch *watch);
int device_watch_fd(const struct device_watch *watch); /* non-blocking; readable: read */

/* Calls on_dead for each message that is there. False when some were lost. */
bool device_watch_read(struct device_watch *watch, void (*on_dead)(int index, void *arg),
                       void *arg);

#endif
