/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The daemon's services to a handler, without a daemon: a loop on poll(2) that runs in the
 * thread that calls fake_host_run_until(), and a few worker threads. One at a time.
 */
#ifndef FAKE_HOST_H
#define FAKE_HOST_H

#include "nbd-runner/handler.h"

const struct nbd_host *fake_host_start(void);
void fake_host_stop(void);

/* Turns the loop until *flag or until time is over; returns *flag. */
bool fake_host_run_until(const bool *flag, int timeout_ms);

/* Calls of host->run() since the start. */
unsigned fake_host_runs(void);

#endif
