/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * One instance at a time: a lock that the kernel drops when the process ends, however it
 * ends, and the pid file for those who look for one. Before the loop runs, and after it.
 */
#include <fcntl.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "instance.h"

/* How often a lock file may vanish between opening and locking. */
#define LOCK_ATTEMPTS 10

static int fail_errno(struct nbd_failure *why, int error, const char *what, const char *path)
{
    return nbd_fail(why, error, "cannot %s %s: %s", what, path, g_strerror(error));
}

static int write_own_pid(int fd)
{
    char *text = g_strdup_printf("%ld\n", (long)getpid());
    size_t length = strlen(text);
    ssize_t written = ftruncate(fd, 0) == 0 ? pwrite(fd, text, length, 0) : -1;
    int error = written < 0 ? errno : 0;

    g_free(text);
    if (error == 0 && (size_t)written != length)
        error = ENOSPC;
    return -error;
}

static int fail_held(int fd, const char *lock_file, struct nbd_failure *why)
{
    char text[32] = "";
    ssize_t length = pread(fd, text, sizeof(text) - 1, 0);
    long pid = length > 0 ? strtol(text, NULL, 10) : 0;

    /* The holder writes its pid only after it has locked. */
    if (pid <= 0)
        return nbd_fail(why, EALREADY, "already running (lock file %s)", lock_file);
    return nbd_fail(why, EALREADY, "already running (pid %ld, lock file %s)", pid, lock_file);
}

/* Is the file that we locked still the one at this path? */
static bool is_file_at(int fd, const char *path)
{
    struct stat ours, theirs;

    return fstat(fd, &ours) == 0 && stat(path, &theirs) == 0 && ours.st_dev == theirs.st_dev &&
           ours.st_ino == theirs.st_ino;
}

/* 0 or a descriptor's failure; -ESTALE: somebody has replaced the file, try again. */
static int lock_fd(int fd, const char *lock_file, struct nbd_failure *why)
{
    /* Of the open file description: closing another descriptor of the file does not drop it. */
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    int r;

    if (fcntl(fd, F_OFD_SETLK, &lock) < 0) {
        if (errno == EAGAIN || errno == EACCES)
            return fail_held(fd, lock_file, why);
        return fail_errno(why, errno, "lock", lock_file);
    }
    if (!is_file_at(fd, lock_file))
        return -ESTALE;
    r = write_own_pid(fd);
    return r < 0 ? fail_errno(why, -r, "write", lock_file) : 0;
}

int instance_lock(const char *lock_file, struct nbd_failure *why)
{
    if (lock_file[0] == '\0')
        return 0;
    for (int i = 0; i < LOCK_ATTEMPTS; i++) {
        int fd = open(lock_file, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
        int r;

        if (fd < 0)
            return fail_errno(why, errno, "open", lock_file);
        r = lock_fd(fd, lock_file, why);
        if (r == 0)
            return 0; /* fd stays open until the process ends: it is the lock */
        close(fd);
        if (r != -ESTALE)
            return r;
    }
    return nbd_fail(why, EBUSY, "cannot lock %s: it is replaced all the time", lock_file);
}

/* The temporary file at `path`, whole. */
static int write_pid_at(char *path)
{
    int fd = g_mkstemp_full(path, O_WRONLY | O_CLOEXEC, 0644);
    int r;

    if (fd < 0)
        return -errno;
    r = fchmod(fd, 0644) == 0 ? write_own_pid(fd) : -errno;
    close(fd);
    if (r < 0)
        unlink(path);
    return r;
}

int instance_write_pid(const char *pid_file, struct nbd_failure *why)
{
    char *temporary;
    int r;

    if (pid_file[0] == '\0')
        return 0;
    temporary = g_strconcat(pid_file, ".XXXXXX", NULL);
    r = write_pid_at(temporary);
    if (r == 0 && rename(temporary, pid_file) < 0) {
        r = -errno;
        unlink(temporary);
    }
    g_free(temporary);
    return r < 0 ? fail_errno(why, -r, "write", pid_file) : 0;
}

/* Only our own: another instance may have written it meanwhile. */
void instance_end(const char *pid_file)
{
    char *text = NULL;

    if (pid_file[0] == '\0')
        return;
    if (g_file_get_contents(pid_file, &text, NULL, NULL) &&
        strtol(text, NULL, 10) == (long)getpid())
        unlink(pid_file);
    g_free(text);
}
