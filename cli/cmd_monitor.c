/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * monitor: the loop around monitor.c. Waits for signals, the kernel's news and the tasks.
 */
#include "command.h"
#include "device_watch.h"
#include "monitor.h"
#include "net.h"
#include "output.h"
#include "rundir.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <syslog.h>
#include <unistd.h>
#ifdef HAVE_LIBSYSTEMD
#include <systemd/sd-daemon.h>
#endif

#define INTERVAL_S 10
#define LINGER_MS 5000 /* for tasks in the middle of a repair, at the end */

const struct word words_monitor[] = {
    {.name = "interval",
     .kind = WORD_VALUE,
     .type = TYPE_SECONDS,
     .value = "TIME",
     .min = 1,
     .max = 3600,
     .help = "look at everything so often, besides the kernel's news (10)"},
    {.name = "until-unmapped", .kind = WORD_FLAG, .help = "end when nothing is mapped"},
    {.name = "syslog", .kind = WORD_FLAG, .help = "tell the system's log too"},
    {.name = NULL},
};

/* What the loop holds. Of the descriptors, those that a child must not have; -1 at the end. */
struct watching {
    struct monitor monitor;
    struct device_watch *watch;
    int signals, lock;
    int close_fds[4];
    bool stopping, until_unmapped;
    int64_t stop_at_ms;
};

static void say_to_systemd(const char *state)
{
#ifdef HAVE_LIBSYSTEMD
    sd_notify(0, state);
#else
    (void)state;
#endif
}

static int take_lock(struct cli *cli, struct failure *why)
{
    pid_t pid = 0;
    int fd = rundir_lock_monitor(&cli->sysfs, &pid);

    if (fd == -EBUSY)
        fail_code(why, STATUS_FAILED, "EBUSY",
                  "a monitor runs on this host already (process %d); one is enough", (int)pid);
    else if (fd < 0)
        fail_with(why, fd == -EACCES ? STATUS_PERMISSION : STATUS_FAILED,
                  "the lock of the monitor in %s cannot be taken: %s", cli->sysfs.run,
                  strerror(-fd));
    return fd;
}

static void set_close_fds(struct watching *w)
{
    size_t n = 0;

    w->close_fds[n++] = w->lock;
    w->close_fds[n++] = w->signals;
    if (w->watch != NULL)
        w->close_fds[n++] = device_watch_fd(w->watch);
    w->close_fds[n] = -1;
    w->monitor.close_fds = w->close_fds;
}

/* The driver may be loaded after us, or loaded anew. */
static void open_watch(struct watching *w)
{
    if (w->watch != NULL || w->monitor.devices->len == 0)
        return;
    w->watch = device_watch_open();
    if (w->watch != NULL)
        monitor_look(&w->monitor); /* what died before we listened */
    set_close_fds(w);
}

static void on_dead(int index, void *arg)
{
    monitor_suspect(arg, index);
}

static void read_watch(struct watching *w)
{
    if (!device_watch_read(w->watch, on_dead, &w->monitor))
        monitor_look(&w->monitor);
}

static void read_signals(struct watching *w)
{
    struct signalfd_siginfo info;

    while (read(w->signals, &info, sizeof(info)) == sizeof(info)) {
        if (info.ssi_signo == SIGHUP) {
            monitor_look(&w->monitor);
            continue;
        }
        if (!w->stopping)
            monitor_tell(&w->monitor, "stopping", NULL, "stopping: %s",
                         strsignal((int)info.ssi_signo));
        w->stop_at_ms = deadline_in_ms(w->stopping ? 0 : LINGER_MS);
        w->stopping = true;
        say_to_systemd("STOPPING=1");
    }
}

/* Of those that `map` started: nothing is mapped any more. A map that found our lock taken
 * relies on us, and has its device already. */
static bool may_end(struct watching *w, struct failure *why)
{
    if (!w->until_unmapped || w->monitor.devices->len > 0 || monitor_tasks(&w->monitor) > 0)
        return false;
    close(w->lock);
    w->monitor.scan_ms = 0;
    monitor_step(&w->monitor);
    if (w->monitor.devices->len == 0) {
        w->lock = -1;
        return true;
    }
    w->lock = take_lock(w->monitor.cli, why);
    set_close_fds(w);
    return w->lock < 0; /* then another one watches */
}

static void wait_for_news(struct watching *w, int64_t wait_ms)
{
    struct pollfd fds[2 + MONITOR_TASKS_MAX] = {{.fd = w->signals, .events = POLLIN},
                                                {.fd = -1, .events = POLLIN}};
    size_t n = 2;

    if (w->watch != NULL)
        fds[1].fd = device_watch_fd(w->watch);
    n += monitor_poll_fds(&w->monitor, fds + n, MONITOR_TASKS_MAX);
    if (w->stopping)
        wait_ms = deadline_left_ms(w->stop_at_ms);
    if (poll(fds, (nfds_t)n, (int)MIN(wait_ms, 3600000)) <= 0)
        return;
    if (fds[0].revents != 0)
        read_signals(w);
    if (fds[1].revents != 0)
        read_watch(w);
    monitor_receive(&w->monitor);
}

static void watch_devices(struct watching *w, struct failure *why)
{
    while (!w->stopping) {
        int64_t wait_ms = monitor_step(&w->monitor);

        if (may_end(w, why))
            return;
        open_watch(w);
        wait_for_news(w, wait_ms);
    }
    while (monitor_tasks(&w->monitor) > 0 && deadline_left_ms(w->stop_at_ms) > 0)
        wait_for_news(w, 0);
    monitor_kill_tasks(&w->monitor);
}

static int catch_signals(void)
{
    sigset_t signals;

    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    return signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
}

int cmd_monitor(struct cli *cli, struct failure *why)
{
    int64_t interval_ms = (int64_t)words_number(&cli->words, "interval", INTERVAL_S) * 1000;
    struct watching w = {.until_unmapped = words_has(&cli->words, "until-unmapped")};

    w.lock = take_lock(cli, why);
    if (w.lock < 0)
        return why->status;
    w.signals = catch_signals();
    if (w.signals < 0) {
        close(w.lock);
        return fail_with(why, STATUS_FAILED, "catching signals failed: %s", strerror(errno));
    }
    monitor_init(&w.monitor, cli, interval_ms);
    w.monitor.to_syslog = words_has(&cli->words, "syslog");
    if (w.monitor.to_syslog)
        openlog("nbd-cli monitor", LOG_PID, LOG_DAEMON);
    set_close_fds(&w);
    monitor_tell(&w.monitor, "started", NULL, "watching the devices of this host");
    say_to_systemd("READY=1\nSTATUS=Watching the nbd devices of this host");
    watch_devices(&w, why);
    monitor_tell(&w.monitor, "ended", NULL, "ended");
    monitor_clear(&w.monitor);
    device_watch_close(w.watch);
    close(w.signals);
    if (w.lock >= 0)
        close(w.lock);
    return 0;
}
