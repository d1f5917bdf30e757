/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Starts the monitor for `map`. Whether it comes up is not waited for: a second one ends by
 * itself, and the device needs none as long as its connection lives.
 */
#include "monitor_start.h"
#include "rundir.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define UNIT "nbd-monitor.service"

/* 0 when systemd manages this host, has the unit and took the order. */
static bool start_by_systemd(void)
{
    const char *argv[] = {"systemctl", "--quiet", "--no-block", "start", UNIT, NULL};
    int status;

    if (!g_file_test("/run/systemd/system", G_FILE_TEST_IS_DIR))
        return false;
    return g_spawn_sync(NULL, (char **)argv, NULL,
                        G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL |
                            G_SPAWN_STDERR_TO_DEV_NULL,
                        NULL, NULL, NULL, NULL, &status, NULL) &&
           WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* In the child of a child: in a session of its own, with nothing of the caller's. */
static void become_monitor(void)
{
    int null = open("/dev/null", O_RDWR);

    setsid();
    for (int fd = 0; null >= 0 && fd <= 2; fd++)
        dup2(null, fd);
    for (int fd = 3; fd < 256; fd++)
        close(fd);
    if (chdir("/") == 0)
        execl("/proc/self/exe", "nbd-cli", "monitor", "until-unmapped", "syslog", NULL);
    _exit(127);
}

static int start_process(void)
{
    pid_t child = fork();

    if (child < 0)
        return -errno;
    if (child == 0) {
        pid_t monitor = fork();

        if (monitor == 0)
            become_monitor();
        _exit(monitor < 0 ? errno : 0);
    }
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        continue;
    return 0;
}

void monitor_start(struct cli *cli)
{
    int r;

    if (rundir_monitor_runs(&cli->sysfs) || start_by_systemd())
        return;
    r = start_process();
    if (r < 0)
        cli_note(cli, "no monitor could be started (%s): 'nbd-cli monitor' reconnects the "
                      "device when its connection dies", strerror(-r));
}
