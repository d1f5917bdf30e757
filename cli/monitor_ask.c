/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * A daemon is asked about the devices that are its, by a task, and the answers are judged. A
 * daemon that does not answer is asked again and again.
 */
#include "listing.h"
#include "monitor_private.h"

#include <string.h>

#define ASK_LIMIT_MS 60000

struct question {
    struct monitor *monitor;
    const struct source *source;
};

/* In a child. */
static int ask(struct cli *cli, void *arg, int out, struct failure *why)
{
    const struct question *question = arg;
    struct listing listing = {0};
    int r;

    cli->timeout_s = ASK_TIMEOUT_S;
    r = cli_client_of(cli, question->source->address, why);
    if (r == 0)
        r = listing_fetch(cli, "", NR_L_MAPPED, &listing, why);
    if (r != 0)
        return r;
    for (EACH_DEVICE(question->monitor, w)) {
        const nr_export *x = NULL;
        const nr_mapping *mapping = listing_find(&listing, w->device.cookie, &x);
        struct mapping_facts facts;

        if (mapping == NULL || strcmp(w->device.address, question->source->address) != 0)
            continue;
        mapping_facts_take(&facts, x, mapping);
        task_send(out, &facts);
    }
    return 0;
}

void monitor_on_heard(struct monitor *monitor, const struct source *source,
                      const struct mapping_facts *facts)
{
    for (EACH_DEVICE(monitor, w)) {
        if (strcmp(w->device.cookie, facts->cookie) != 0 ||
            strcmp(w->device.address, source->address) != 0)
            continue;
        w->is_heard = true;
        monitor_judge(monitor, w, facts, monitor_now_ms());
    }
}

void monitor_on_asked(struct monitor *monitor, struct source *source,
                      const struct task_record *end)
{
    if (end->status != 0) {
        source->next_ms = monitor_now_ms() + monitor_backoff_ms(source->attempts++);
        if (monitor_is_news(source->told, sizeof(source->told), end->message))
            monitor_tell(monitor, "unreachable", NULL, "%s; trying on", end->message);
        return;
    }
    if (source->told[0] != '\0')
        monitor_tell(monitor, "reachable", NULL, "the daemon%s%s answers again",
                     source->address[0] != '\0' ? " at " : "", source->address);
    source->told[0] = '\0';
    source->attempts = 0;
    for (EACH_DEVICE(monitor, w))
        if (!w->is_heard && strcmp(w->device.address, source->address) == 0)
            monitor_judge(monitor, w, NULL, monitor_now_ms());
}

void monitor_start_asking(struct monitor *monitor, struct source *source)
{
    struct question question = {.monitor = monitor, .source = source};
    struct failure why;

    source->next_ms = monitor_now_ms() + monitor->interval_ms;
    for (EACH_DEVICE(monitor, w))
        if (strcmp(w->device.address, source->address) == 0)
            w->is_heard = false;
    if (task_start(&source->task, monitor->cli, ask, &question, monitor->close_fds,
                   ASK_LIMIT_MS, &why) != 0)
        monitor_on_asked(monitor, source,
                         &(struct task_record){.is_end = true, .status = why.status});
}
