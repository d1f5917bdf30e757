/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Locks by flock(2), which end with their process, and empty files as marks.
 */
#include "rundir.h"
#include "net.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define POLL_MS 20
#define GIVEN_UP "given-up."

static int open_file(const struct sysfs *sysfs, const char *name, bool create)
{
    g_autofree char *path = g_build_filename(sysfs->run, name, NULL);
    int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | (create ? O_CREAT : 0), fd;

    if (create && mkdir(sysfs->run, 0755) < 0 && errno != EEXIST)
        return -errno;
    fd = open(path, flags, 0644);
    return fd >= 0 ? fd : -errno;
}

int rundir_lock_device(const struct sysfs *sysfs, int index, int64_t deadline)
{
    g_autofree char *name = g_strdup_printf("nbd%d.lock", index);
    int fd = open_file(sysfs, name, true);

    while (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0) {
        if (errno == EWOULDBLOCK && deadline_left_ms(deadline) > 0) {
            usleep(POLL_MS * 1000);
            continue;
        }
        int r = errno == EWOULDBLOCK ? -ETIMEDOUT : -errno;

        close(fd);
        return r;
    }
    return fd;
}

/* ---- The monitor ---- */

#define MONITOR_LOCK "monitor.lock"

int rundir_lock_monitor(const struct sysfs *sysfs, pid_t *ret_pid)
{
    int fd = open_file(sysfs, MONITOR_LOCK, true), r;
    char text[32] = "";

    if (fd < 0)
        return fd;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        r = errno == EWOULDBLOCK ? -EBUSY : -errno;
        if (r == -EBUSY && pread(fd, text, sizeof(text) - 1, 0) >= 0)
            *ret_pid = (pid_t)g_ascii_strtoll(text, NULL, 10);
        close(fd);
        return r;
    }
    snprintf(text, sizeof(text), "%d\n", (int)getpid());
    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, strlen(text), 0) < 0) {
        r = -errno;
        close(fd);
        return r;
    }
    return fd;
}

bool rundir_monitor_runs(const struct sysfs *sysfs)
{
    int fd = open_file(sysfs, MONITOR_LOCK, false);
    bool runs;

    if (fd < 0)
        return false;
    runs = flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
    close(fd);
    return runs;
}

/* ---- Mappings that were given up ---- */

static char *mark_path(const struct sysfs *sysfs, const char *cookie)
{
    g_autofree char *name = g_strconcat(GIVEN_UP, cookie, NULL);

    return g_build_filename(sysfs->run, name, NULL);
}

/* A cookie is what the kernel tells: it must not lead out of the directory. */
static bool is_name(const char *cookie)
{
    return *cookie != '\0' && strchr(cookie, '/') == NULL;
}

void rundir_give_up(const struct sysfs *sysfs, const char *cookie)
{
    g_autofree char *name = g_strconcat(GIVEN_UP, cookie, NULL);
    int fd = is_name(cookie) ? open_file(sysfs, name, true) : -1;

    if (fd >= 0)
        close(fd);
}

bool rundir_is_given_up(const struct sysfs *sysfs, const char *cookie)
{
    g_autofree char *path = mark_path(sysfs, cookie);

    return is_name(cookie) && access(path, F_OK) == 0;
}

void rundir_take_back(const struct sysfs *sysfs, const char *cookie)
{
    g_autofree char *path = mark_path(sysfs, cookie);

    if (is_name(cookie))
        unlink(path);
}

void rundir_tidy(const struct sysfs *sysfs)
{
    GDir *dir = g_dir_open(sysfs->run, 0, NULL);
    g_autofree struct local_device *devices = NULL;
    size_t n = dir != NULL ? sysfs_list(sysfs, &devices) : 0;
    const char *name;

    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        bool in_use = false;

        if (!g_str_has_prefix(name, GIVEN_UP))
            continue;
        for (size_t i = 0; i < n; i++)
            in_use |= strcmp(devices[i].cookie, name + strlen(GIVEN_UP)) == 0;
        if (!in_use)
            rundir_take_back(sysfs, name + strlen(GIVEN_UP));
    }
    if (dir != NULL)
        g_dir_close(dir);
}
