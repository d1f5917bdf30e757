/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What a daemon's answer about a device means: live, dead, smaller than before, or none of our
 * business. Starts nothing itself.
 */
#include "monitor_private.h"
#include "rundir.h"

#include <inttypes.h>

#define STUCK_MS 5000 /* without an answer to any request, behind news of a dead connection */
#define LATE_EXTRA_S 10

static void take_for_dead(struct monitor *monitor, struct watched *w, int64_t now)
{
    if (w->link != LINK_DEAD) {
        w->dead_ms = w->suspected_ms != 0 ? w->suspected_ms : now;
        w->attempts = 0;
        w->is_late = false;
        w->told[0] = '\0';
        w->next_ms = now + g_random_int_range(0, 100);
        monitor_tell(monitor, "dead", w, "%u of %u connections of export \"%s\" are dead",
                     w->facts.connections - MIN(w->facts.connected, w->facts.connections),
                     w->facts.connections, w->facts.export_name);
    }
    w->link = LINK_DEAD;
    if (!w->is_late && w->facts.state == NR_M_DEAD &&
        now - w->dead_ms > ((int64_t)w->facts.dead_timeout_s + LATE_EXTRA_S) * 1000) {
        w->is_late = true;
        monitor_tell(monitor, "late", w,
                     "was dead for longer than its dead-timeout of %u s: requests fail; "
                     "trying on",
                     w->facts.dead_timeout_s);
    }
}

/* The daemon sees all connections. Either the news were old, then requests are answered; or
 * the daemon has not heard of the end of a connection, then they are not. */
static void look_at_suspect(struct monitor *monitor, struct watched *w, int64_t now)
{
    struct device_load load;

    if (!sysfs_load(&monitor->cli->sysfs, w->device.index, &load))
        return;
    if (load.completed != w->load.completed) {
        w->suspected_ms = 0;
    } else if (load.in_flight > 0 && now - w->suspected_ms >= STUCK_MS) {
        w->cut = true;
        take_for_dead(monitor, w, now);
    } else if (now - w->suspected_ms < 2 * STUCK_MS) {
        monitor_ask_soon(monitor, w, now + RECHECK_MS);
    }
}

static void look_at_size(struct monitor *monitor, struct watched *w)
{
    uint64_t wanted = device_size_for(&w->device, w->facts.size_bytes);

    if (wanted >= w->device.size_bytes) {
        w->is_smaller = false;
    } else if (!w->is_smaller) {
        w->is_smaller = true;
        monitor_tell(monitor, "smaller", w,
                     "its export \"%s\" has only %" PRIu64 " bytes now; what is beyond fails",
                     w->facts.export_name, w->facts.size_bytes);
    }
}

static void take_for_live(struct monitor *monitor, struct watched *w, int64_t now)
{
    if (w->link == LINK_DEAD) {
        monitor_tell(monitor, "live", w, "is live again");
        w->suspected_ms = 0;
    }
    w->link = LINK_LIVE;
    w->cut = false;
    if (w->suspected_ms != 0)
        look_at_suspect(monitor, w, now);
    look_at_size(monitor, w);
}

void monitor_judge(struct monitor *monitor, struct watched *w,
                   const struct mapping_facts *facts, int64_t now)
{
    if (w->task.pid != 0)
        return; /* its end makes the daemon be asked again */
    w->is_fresh = true;
    if (facts == NULL) {
        if (w->link != LINK_FOREIGN)
            monitor_tell(monitor, "unknown", w,
                         "its daemon does not know the mapping; it is left alone");
        w->link = LINK_FOREIGN;
        return;
    }
    w->facts = *facts;
    if (rundir_is_given_up(&monitor->cli->sysfs, w->device.cookie))
        w->link = LINK_FOREIGN;
    else if (facts->state != NR_M_DEAD && facts->state != NR_M_LIVE)
        w->link = LINK_BUSY;
    else if (mapping_facts_are_short(facts) || (w->cut && w->link == LINK_DEAD))
        take_for_dead(monitor, w, now);
    else
        take_for_live(monitor, w, now);
}
