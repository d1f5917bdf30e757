/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The monitor's table and the turns of its loop. A look at sysfs finds the devices; a task asks
 * each of their daemons (monitor_ask.c); a task each reconnects what is dead
 * (monitor_repair.c). The kernel's news only make a daemon be asked at once.
 */
#include "monitor.h"
#include "monitor_private.h"
#include "net.h"
#include "output.h"
#include "rundir.h"

#include <string.h>
#include <syslog.h>

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

bool monitor_is_news(char *told, size_t size, const char *message)
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

int64_t monitor_now_ms(void)
{
    return deadline_in_ms(0);
}

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

void monitor_ask_soon(struct monitor *monitor, const struct watched *w, int64_t at_ms)
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
    monitor_ask_soon(monitor, added, monitor_now_ms());
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
    monitor->scan_ms = monitor_now_ms() + monitor->interval_ms;
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
            w->suspected_ms = monitor_now_ms();
            sysfs_load(&monitor->cli->sysfs, index, &w->load);
        }
        monitor_ask_soon(monitor, w, monitor_now_ms() + g_random_int_range(10, 100));
        return;
    }
    monitor->scan_ms = 0; /* a device that we have not seen yet */
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

int64_t monitor_backoff_ms(unsigned attempts)
{
    int64_t most = (int64_t)100 << MIN(attempts, 6u);

    most = MIN(most, 5000);
    return MAX(100, most / 2 + g_random_int_range(0, (gint32)(most / 2 + 1)));
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
            monitor_start_asking(monitor, s);
        next = MIN(next, next_time(&s->task, s->next_ms, now));
    }
    return next;
}

static int64_t step_devices(struct monitor *monitor, int64_t now)
{
    int64_t next = NET_FOREVER;

    for (EACH_DEVICE(monitor, w)) {
        task_check(&w->task);
        if (w->task.pid == 0 && (!monitor_needs_repair(w) || !w->is_fresh))
            continue;
        if (w->task.pid == 0 && w->next_ms <= now &&
            monitor_tasks(monitor) < MONITOR_TASKS_MAX) {
            w->is_resizing = w->link == LINK_LIVE;
            monitor_start_repair(monitor, w);
        }
        next = MIN(next, next_time(&w->task, w->next_ms, now));
    }
    return next;
}

int64_t monitor_step(struct monitor *monitor)
{
    int64_t now = monitor_now_ms(), next;

    if (monitor->scan_ms <= now)
        scan(monitor);
    next = MIN(step_sources(monitor, now), step_devices(monitor, now));
    return MAX(MIN(next, monitor->scan_ms) - monitor_now_ms(), 0);
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
                monitor_on_asked(monitor, s, &record);
            else
                monitor_on_heard(monitor, s, &record.facts);
        }
    for (EACH_DEVICE(monitor, w))
        while (w->task.pid != 0 && task_receive(&w->task, &record))
            if (record.is_end)
                monitor_on_repaired(monitor, w, &record);
}

void monitor_kill_tasks(struct monitor *monitor)
{
    for (EACH_SOURCE(monitor, s))
        task_kill(&s->task);
    for (EACH_DEVICE(monitor, w))
        task_kill(&w->task);
}
