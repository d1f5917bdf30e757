/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * A device whose connections are dead gets new ones, one that is too small gets the size of
 * its export: by a task, again and again until it works.
 */
#include "monitor_private.h"

#include <inttypes.h>
#include <string.h>

#define REATTACH_LIMIT_MS 120000
#define LATE_BACKOFF_MS 30000 /* when requests have failed already */

bool monitor_needs_repair(const struct watched *w)
{
    return w->link == LINK_DEAD ||
           (w->link == LINK_LIVE && w->suspected_ms == 0 &&
            device_size_for(&w->device, w->facts.size_bytes) > w->device.size_bytes);
}

/* In a child. */
static int repair(struct cli *cli, void *arg, int out, struct failure *why)
{
    const struct watched *w = arg;
    int r;

    (void)out;
    cli->timeout_s = ASK_TIMEOUT_S;
    r = cli_client_of(cli, w->device.address, why);
    if (r != 0)
        return r;
    return w->is_resizing ? reattach_size(cli, &w->device, &w->facts, why)
                          : reattach(cli, &w->device, &w->facts, w->cut, why);
}

static void on_resized(struct monitor *monitor, struct watched *w,
                       const struct task_record *end)
{
    monitor->scan_ms = 0;
    if (end->status == 0)
        monitor_tell(monitor, "resized", w, "has %" PRIu64 " bytes now",
                     device_size_for(&w->device, w->facts.size_bytes));
    else if (monitor_is_news(w->told, sizeof(w->told), end->message))
        monitor_tell(monitor, "failed", w, "not resized: %s", end->message);
    w->next_ms = monitor_now_ms() + monitor->interval_ms;
}

static void on_reattached(struct monitor *monitor, struct watched *w,
                          const struct task_record *end)
{
    int64_t now = monitor_now_ms();

    if (end->status == 0) {
        monitor_tell(monitor, "restored", w, "is connected again, after %.1f s",
                     (double)(now - w->dead_ms) / 1000);
        w->link = LINK_UNKNOWN;
        w->suspected_ms = 0;
        w->cut = false;
        monitor_ask_soon(monitor, w, now + RECHECK_MS);
        return;
    }
    if (strcmp(end->code, "GONE") == 0) {
        w->link = LINK_BUSY;
        monitor->scan_ms = 0;
        return;
    }
    /* The daemon ends its side of the connections, or somebody maps or unmaps: no failure. */
    if (strcmp(end->code, "ESTATE") != 0 &&
        monitor_is_news(w->told, sizeof(w->told), end->message))
        monitor_tell(monitor, "failed", w, "not connected: %s; trying on", end->message);
    w->next_ms = now + (w->is_late ? LATE_BACKOFF_MS : monitor_backoff_ms(w->attempts++));
    monitor_ask_soon(monitor, w, w->next_ms);
}

void monitor_on_repaired(struct monitor *monitor, struct watched *w,
                         const struct task_record *end)
{
    if (w->is_resizing)
        on_resized(monitor, w, end);
    else
        on_reattached(monitor, w, end);
}

void monitor_start_repair(struct monitor *monitor, struct watched *w)
{
    struct failure why;

    w->is_fresh = false;
    if (task_start(&w->task, monitor->cli, repair, w, monitor->close_fds, REATTACH_LIMIT_MS,
                   &why) != 0)
        monitor_on_repaired(monitor, w,
                            &(struct task_record){.is_end = true, .status = why.status});
}
