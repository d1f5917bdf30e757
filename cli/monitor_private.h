/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What the files of the monitor share: monitor.c, and the monitor_*.c that judge, ask and
 * repair. Nobody else includes it.
 */
#ifndef CLI_MONITOR_PRIVATE_H
#define CLI_MONITOR_PRIVATE_H

#include "monitor.h"

#define ASK_TIMEOUT_S 10 /* for each answer of a daemon */
#define RECHECK_MS 500   /* while news of a dead connection are not cleared up */

/* What stands in the parentheses of a `for`. */
#define EACH_DEVICE(monitor, w)                                                               \
    struct watched *w, **w##_at = (struct watched **)(monitor)->devices->pdata,               \
                       **w##_end = w##_at + (monitor)->devices->len;                          \
    w##_at < w##_end && (w = *w##_at, true);                                                  \
    w##_at++
#define EACH_SOURCE(monitor, s)                                                               \
    struct source *s, **s##_at = (struct source **)(monitor)->sources->pdata,                 \
                      **s##_end = s##_at + (monitor)->sources->len;                           \
    s##_at < s##_end && (s = *s##_at, true);                                                  \
    s##_at++

/* ---- monitor.c ---- */

int64_t monitor_now_ms(void); /* monotonic */

/* A failure is told once, until it is another one: false when `told` has it already. */
bool monitor_is_news(char *told, size_t size, const char *message);

/* Have the device's daemon asked about it at that time, if not earlier. */
void monitor_ask_soon(struct monitor *monitor, const struct watched *w, int64_t at_ms);

/* ---- monitor_ask.c ---- */

void monitor_start_asking(struct monitor *monitor, struct source *source);
/* A mapping that the daemon knows; then the end of the task. */
void monitor_on_heard(struct monitor *monitor, const struct source *source,
                      const struct mapping_facts *facts);
void monitor_on_asked(struct monitor *monitor, struct source *source,
                      const struct task_record *end);

/* ---- monitor_repair.c ---- */

bool monitor_needs_repair(const struct watched *w);
void monitor_start_repair(struct monitor *monitor, struct watched *w);
void monitor_on_repaired(struct monitor *monitor, struct watched *w,
                         const struct task_record *end);

#endif
