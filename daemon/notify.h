/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What the service manager is told: sd_notify(3), and the watchdog, which the loop itself feeds.
 * Outside of systemd, and in a build without libsystemd, all of this does nothing. Loop thread.
 *
 * A reload is framed like this, whatever comes of it:
 *
 *     notify_reloading();
 *     ... read, compare, apply ...
 *     notify_ready("serving %u exports", n);      or, when it was refused:
 *     notify_ready("the configuration was not reloaded: %s", why.message);
 */
#ifndef NR_NOTIFY_H
#define NR_NOTIFY_H

#include "loop.h"

/* READY=1: all ports are open and the state is loaded; or the reload that notify_reloading()
 * began is over. The text is what `systemctl status` shows, one line. */
__attribute__((format(printf, 1, 2)))
void notify_ready(const char *status, ...);

/* RELOADING=1, with the time that Type=notify-reload wants. */
void notify_reloading(void);

/* STOPPING=1: the end has begun. */
__attribute__((format(printf, 1, 2)))
void notify_stopping(const char *status, ...);

/* The end takes longer than the unit allows: this many seconds more from now, at least. */
__attribute__((format(printf, 2, 3)))
void notify_extend(unsigned seconds, const char *status, ...);

/* Feeds the watchdog while the loop runs, twice in the time that the unit sets (WatchdogSec=),
 * so that a loop that is stuck lets it starve. NULL when the unit has none. */
struct watchdog;
struct watchdog *watchdog_start(struct loop *loop);
void watchdog_stop(struct watchdog *watchdog);

#endif
