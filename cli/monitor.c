/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * A look at sysfs finds the devices; a task asks each of their daemons; a task each reconnects
 * what is dead. The kernel's news only make a daemon be asked at once.
 */
#include "monitor.h"
#include "listing.h"
#include "net.h"
#include "output.h"
#include "rundir.h"

#include <inttypes.h>
#include <string.h>
#include <syslog.h>

#define ASK_LIMIT_MS 60000
#define REATTACH_LIMIT_MS 120000
#define ASK_TIMEOUT_S 10      /* for each answer of a daemon */
#define STUCK_MS 5000         /* without an answer to any request, behind such news */
#define RECHECK_MS 500        /* while such news are not cleared up */
#define LATE_BACKOFF_MS 30000 /* when requests have failed already */
#define LATE_EXTRA_S 10

static int64_t now_ms(void)
{
    return deadline_in_ms(0);
}

int64_t monitor_backoff_ms(unsigned attempts)
{
    int64_t most = (int64_t)100 << MIN(attempts, 6u);

    most = MIN(most, 5000);
    return MAX(100, most / 2 + g_random_int_range(0, (gint32)(most / 2 + 1)));
}

/* ---- Telling ---- */

void monitor_tell(struct monitor *monitor, const char *event, const struct watched *device,
                  const char *format, ...)
{
    g_autofree char *text = NULL, *name = NULL;
    struct cli *cli = monitor->cli;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    clean_text(text);
    if (device != NULL)
        name = g_strdup_printf("/dev/nbd%d", device->device.index);
    if (monitor->to_syslog)
        syslog(LOG_INFO, "%s%s%s", name != NULL ? name : "", name != NULL ? ": " : "", text);
    if (cli->json) {
        json_object *line = json_object_new_object();

        json_put_time(line, "time", g_get_real_time());
        json_put_text(line, "event", event);
        json_put_optional(line, "device", name);
        json_put_optional(line, "cookie", device != NULL ? device->device.cookie : NULL);
        json_put_optional(line, "export", device != NULL ? device->facts.export_name : NULL);
        json_put_text(line, "message", text);
        fprintf(cli->out, "%s\n",
                json_object_to_json_string_ext(line, JSON_C_TO_STRING_PLAIN));
        json_object_put(line);
    } else {
        fprintf(cli->out, "%s%s%s\n", name != NULL ? name : "", name != NULL ? ": " : "",
                text);
    }
    fflush(cli->out);
}

/* A failure is told once, until it is another one. */
static bool is_news(char *told, size_t size, const char *message)
{
    if (strncmp(told, message, size - 1) == 0)
        return false;
    g_strlcpy(told, message, size);
    return true;
}

/* ---- The table ---- */

void monitor_init(struct monitor *monitor, struct cli *cli, int64_t interval_ms)
{
    *monitor = (struct monitor){.cli = cli, .interval_ms = interval_ms};
    monitor->devices = g_ptr_array_new_with_free_func(g_free);
    monitor->sources = g_ptr_array_new_with_free_func(g_free);
}

void monitor_clear(struct monitor *monitor)
{
    g_ptr_array_free(monitor->devices, TRUE);
    g_ptr_array_free(monitor->sources, TRUE);
}

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

static struct source *source_of(struct monitor *monitor, const char *address)
{
    struct source *added;

    for (EACH_SOURCE(monitor, s))
        if (strcmp(s->address, address) == 0)
            return s;
    added = g_new0(struct source, 1);
    g_strlcpy(added->address, address, sizeof(added->address));
    g_ptr_array_add(monitor->sources, added);
    return added;
}

static void ask_soon(struct monitor *monitor, const struct watched *w, int64_t at_ms)
{
    struct source *source = source_of(monitor, w->device.address);

    if (source->attempts == 0) /* else it does not answer, and has its own times */
        source->next_ms = MIN(source->next_ms, at_ms);
}

static void take_device(struct monitor *monitor, const struct local_device *device)
{
    struct watched *added;

    for (EACH_DEVICE(monitor, w)) {
        if (w->device.index != device->index || strcmp(w->device.cookie, device->cookie) != 0)
            continue;
        w->device = *device;
        w->is_there = true;
        return;
    }
    added = g_new0(struct watched, 1);
    added->device = *device;
    added->is_there = true;
    g_ptr_array_add(monitor->devices, added);
    ask_soon(monitor, added, now_ms());
}

static void drop_gone(struct monitor *monitor)
{
    for (guint i = monitor->devices->len; i-- > 0;) {
        struct watched *w = g_ptr_array_index(monitor->devices, i);

        if (!w->is_there && w->task.pid == 0)
            g_ptr_array_remove_index_fast(monitor->devices, i);
    }
    for (guint i = monitor->sources->len; i-- > 0;) {
        struct source *s = g_ptr_array_index(monitor->sources, i);
        bool is_used = s->task.pid != 0;

        for (EACH_DEVICE(monitor, w))
            is_used |= strcmp(w->device.address, s->address) == 0;
        if (!is_used)
            g_ptr_array_remove_index_fast(monitor->sources, i);
    }
}

static void scan(struct monitor *monitor)
{
    g_autofree struct local_device *devices = NULL;
    size_t n = sysfs_list(&monitor->cli->sysfs, &devices);

    for (EACH_DEVICE(monitor, w))
        w->is_there = false;
    for (size_t i = 0; i < n; i++)
        if (devices[i].in_use && devices[i].cookie[0] != '\0')
            take_device(monitor, &devices[i]);
    drop_gone(monitor);
    rundir_tidy(&monitor->cli->sysfs);
    monitor->scan_ms = now_ms() + monitor->interval_ms;
}

void monitor_look(struct monitor *monitor)
{
    monitor->scan_ms = 0;
    for (EACH_SOURCE(monitor, s))
        s->next_ms = 0;
}

void monitor_suspect(struct monitor *monitor, int index)
{
    for (EACH_DEVICE(monitor, w)) {
        if (w->device.index != index)
            continue;
        if (w->suspected_ms == 0) {
            w->suspected_ms = now_ms();
            sysfs_load(&monitor->cli->sysfs, index, &w->load);
        }
        ask_soon(monitor, w, now_ms() + g_random_int_range(10, 100));
        return;
    }
    monitor->scan_ms = 0; /* a device that we have not seen yet */
}

/* ---- Judging ---- */

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
        ask_soon(monitor, w, now + RECHECK_MS);
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

/* ---- Asking daemons ---- */

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

static void on_heard(struct monitor *monitor, const struct source *source,
                     const struct mapping_facts *facts)
{
    for (EACH_DEVICE(monitor, w)) {
        if (strcmp(w->device.cookie, facts->cookie) != 0 ||
            strcmp(w->device.address, source->address) != 0)
            continue;
        w->is_heard = true;
        monitor_judge(monitor, w, facts, now_ms());
    }
}

static void on_asked(struct monitor *monitor, struct source *source,
                     const struct task_record *end)
{
    if (end->status != 0) {
        source->next_ms = now_ms() + monitor_backoff_ms(source->attempts++);
        if (is_news(source->told, sizeof(source->told), end->message))
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
            monitor_judge(monitor, w, NULL, now_ms());
}

static void start_asking(struct monitor *monitor, struct source *source)
{
    struct question question = {.monitor = monitor, .source = source};
    struct failure why;

    source->next_ms = now_ms() + monitor->interval_ms;
    for (EACH_DEVICE(monitor, w))
        if (strcmp(w->device.address, source->address) == 0)
            w->is_heard = false;
    if (task_start(&source->task, monitor->cli, ask, &question, monitor->close_fds,
                   ASK_LIMIT_MS, &why) != 0)
        on_asked(monitor, source,
                 &(struct task_record){.is_end = true, .status = why.status});
}

/* ---- Reconnecting ---- */

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
    else if (is_news(w->told, sizeof(w->told), end->message))
        monitor_tell(monitor, "failed", w, "not resized: %s", end->message);
    w->next_ms = now_ms() + monitor->interval_ms;
}

static void on_reattached(struct monitor *monitor, struct watched *w,
                          const struct task_record *end)
{
    int64_t now = now_ms();

    if (end->status == 0) {
        monitor_tell(monitor, "restored", w, "is connected again, after %.1f s",
                     (double)(now - w->dead_ms) / 1000);
        w->link = LINK_UNKNOWN;
        w->suspected_ms = 0;
        w->cut = false;
        ask_soon(monitor, w, now + RECHECK_MS);
        return;
    }
    if (strcmp(end->code, "GONE") == 0) {
        w->link = LINK_BUSY;
        monitor->scan_ms = 0;
        return;
    }
    /* The daemon ends its side of the connections, or somebody maps or unmaps: no failure. */
    if (strcmp(end->code, "ESTATE") != 0 && is_news(w->told, sizeof(w->told), end->message))
        monitor_tell(monitor, "failed", w, "not connected: %s; trying on", end->message);
    w->next_ms = now + (w->is_late ? LATE_BACKOFF_MS : monitor_backoff_ms(w->attempts++));
    ask_soon(monitor, w, w->next_ms);
}

static void on_repaired(struct monitor *monitor, struct watched *w,
                        const struct task_record *end)
{
    if (w->is_resizing)
        on_resized(monitor, w, end);
    else
        on_reattached(monitor, w, end);
}

static void start_repair(struct monitor *monitor, struct watched *w)
{
    struct failure why;

    w->is_fresh = false;
    if (task_start(&w->task, monitor->cli, repair, w, monitor->close_fds, REATTACH_LIMIT_MS,
                   &why) != 0)
        on_repaired(monitor, w, &(struct task_record){.is_end = true, .status = why.status});
}

static bool needs_repair(const struct watched *w)
{
    return w->link == LINK_DEAD ||
           (w->link == LINK_LIVE && w->suspected_ms == 0 &&
            device_size_for(&w->device, w->facts.size_bytes) > w->device.size_bytes);
}

/* ---- The turns of the loop ---- */

unsigned monitor_tasks(const struct monitor *monitor)
{
    unsigned n = 0;

    for (EACH_DEVICE(monitor, w))
        n += w->task.pid != 0;
    for (EACH_SOURCE(monitor, s))
        n += s->task.pid != 0;
    return n;
}

/* When a task has to be looked at, or what waits for one is due; what is due but finds all
 * tasks at work is started when one of these ends. */
static int64_t next_time(const struct task *task, int64_t due_ms, int64_t now)
{
    if (task->pid != 0)
        return task->is_killed ? NET_FOREVER : task->deadline;
    return due_ms > now ? due_ms : NET_FOREVER;
}

static int64_t step_sources(struct monitor *monitor, int64_t now)
{
    int64_t next = NET_FOREVER;

    for (EACH_SOURCE(monitor, s)) {
        task_check(&s->task);
        if (s->task.pid == 0 && s->next_ms <= now &&
            monitor_tasks(monitor) < MONITOR_TASKS_MAX)
            start_asking(monitor, s);
        next = MIN(next, next_time(&s->task, s->next_ms, now));
    }
    return next;
}

static int64_t step_devices(struct monitor *monitor, int64_t now)
{
    int64_t next = NET_FOREVER;

    for (EACH_DEVICE(monitor, w)) {
        task_check(&w->task);
        if (w->task.pid == 0 && (!needs_repair(w) || !w->is_fresh))
            continue;
        if (w->task.pid == 0 && w->next_ms <= now &&
            monitor_tasks(monitor) < MONITOR_TASKS_MAX) {
            w->is_resizing = w->link == LINK_LIVE;
            start_repair(monitor, w);
        }
        next = MIN(next, next_time(&w->task, w->next_ms, now));
    }
    return next;
}

int64_t monitor_step(struct monitor *monitor)
{
    int64_t now = now_ms(), next;

    if (monitor->scan_ms <= now)
        scan(monitor);
    next = MIN(step_sources(monitor, now), step_devices(monitor, now));
    return MAX(MIN(next, monitor->scan_ms) - now_ms(), 0);
}

size_t monitor_poll_fds(struct monitor *monitor, struct pollfd *fds, size_t max)
{
    size_t n = 0;

    for (EACH_SOURCE(monitor, s))
        if (s->task.pid != 0 && n < max)
            fds[n++] = (struct pollfd){.fd = s->task.fd, .events = POLLIN};
    for (EACH_DEVICE(monitor, w))
        if (w->task.pid != 0 && n < max)
            fds[n++] = (struct pollfd){.fd = w->task.fd, .events = POLLIN};
    return n;
}

void monitor_receive(struct monitor *monitor)
{
    struct task_record record;

    for (EACH_SOURCE(monitor, s))
        while (s->task.pid != 0 && task_receive(&s->task, &record)) {
            if (record.is_end)
                on_asked(monitor, s, &record);
            else
                on_heard(monitor, s, &record.facts);
        }
    for (EACH_DEVICE(monitor, w))
        while (w->task.pid != 0 && task_receive(&w->task, &record))
            if (record.is_end)
                on_repaired(monitor, w, &record);
}

void monitor_kill_tasks(struct monitor *monitor)
{
    for (EACH_SOURCE(monitor, s))
        task_kill(&s->task);
    for (EACH_DEVICE(monitor, w))
        task_kill(&w->task);
}
