/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The monitor's memory and decisions: which devices there are, what their daemons say about
 * them, whose connection is to be made anew and when. Waits for nothing itself: what blocks is
 * done by tasks, and the loop around it is cmd_monitor.c's.
 */
#ifndef CLI_MONITOR_H
#define CLI_MONITOR_H

#include "monitor_task.h"

#include <glib.h>
#include <poll.h>

#define MONITOR_TASKS_MAX 8 /* at the same time, of all kinds */

enum link_state {
    LINK_UNKNOWN, /* its daemon has not been heard about it yet */
    LINK_LIVE,
    LINK_DEAD,
    LINK_BUSY,    /* somebody maps or unmaps it */
    LINK_FOREIGN, /* its daemon does not know it, or it was given up: left alone */
};

/* A local device of ours. */
struct watched {
    struct local_device device;
    struct mapping_facts facts;
    enum link_state link;
    bool is_there, is_heard;  /* in this look at sysfs, in this answer of its daemon */
    bool is_fresh;            /* facts came behind the last attempt */
    int64_t suspected_ms;     /* the kernel said that a connection died; 0: no */
    struct device_load load;  /* at that time */
    bool cut;                 /* the daemon is to end its side first */
    int64_t dead_ms, next_ms; /* since when, and when to try next */
    unsigned attempts;
    bool is_late, is_smaller; /* was told already */
    struct task task;
    bool is_resizing;         /* what the task does; else it reconnects */
    char told[256];           /* the last failure */
};

/* A daemon that some of the devices belong to. */
struct source {
    char address[BACKEND_MAX]; /* empty: the one that the command line or the system says */
    struct task task;
    int64_t next_ms; /* when to ask it */
    unsigned attempts;
    char told[256];
};

struct monitor {
    struct cli *cli;
    int64_t interval_ms;
    GPtrArray *devices; /* struct watched * */
    GPtrArray *sources; /* struct source * */
    int64_t scan_ms;    /* when to look at sysfs next */
    const int *close_fds;
    bool to_syslog;
};

void monitor_init(struct monitor *monitor, struct cli *cli, int64_t interval_ms);
void monitor_clear(struct monitor *monitor);

/* One line about an event, or one JSON object; device may be NULL. */
__attribute__((format(printf, 4, 5))) void monitor_tell(struct monitor *monitor,
                                                        const char *event,
                                                        const struct watched *device,
                                                        const char *format, ...);

/* The kernel says that a connection of the device has died. */
void monitor_suspect(struct monitor *monitor, int index);
/* Such news may have been lost: look at everything now. */
void monitor_look(struct monitor *monitor);

/* Look, ask and start what is due. Returns the milliseconds until there is more to do. */
int64_t monitor_step(struct monitor *monitor);

/* The pipes of the tasks, and what came through them. */
size_t monitor_poll_fds(struct monitor *monitor, struct pollfd *fds, size_t max);
void monitor_receive(struct monitor *monitor);
unsigned monitor_tasks(const struct monitor *monitor);
void monitor_kill_tasks(struct monitor *monitor);

/* Milliseconds before the next attempt: 100 to 5000, growing, never the same for two. */
int64_t monitor_backoff_ms(unsigned attempts);

/* Take in what the daemon says (NULL: it does not know the mapping). For the tests as well. */
void monitor_judge(struct monitor *monitor, struct watched *w,
                   const struct mapping_facts *facts, int64_t now_ms);

#endif
