/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Making and removing the file behind an export. A new file has no name until it is whole
 * and on stable storage, so that neither a failure nor the end of the process leaves a part
 * of one behind. Runs on worker threads; cancel() and progress() look in from the loop
 * through atomics.
 */
#include <fcntl.h>
#include <glib.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "file.h"

/* Allocated at a time: a cancellation waits for so much. */
#define ALLOCATE_BYTES (UINT64_C(256) << 20)
#define WRITE_BYTES (UINT64_C(1) << 20)

/* ---- Space ---- */

static int no_space(const struct file *file, int dir, struct nbd_failure *why)
{
    struct statvfs fs;
    uint64_t available = 0;

    if (fstatvfs(dir, &fs) == 0)
        available = (uint64_t)fs.f_bavail * fs.f_frsize;
    return nbd_fail(why, ENOSPC, "no space left for '%s': it needs %" PRIu64 " bytes, %" PRIu64
                    " are available", file->shown, file->dev->size, available);
}

/* Hopeless requests must not fill the file system for others before they fail. */
static bool can_fit(const struct file *file, int dir)
{
    struct statvfs fs;

    if (fstatvfs(dir, &fs) < 0 || fs.f_blocks == 0)
        return true;
    return file->dev->size <= (uint64_t)fs.f_bfree * fs.f_frsize;
}

static int fill_failed(const struct file *file, int dir, int err, struct nbd_failure *why)
{
    if (err == ECANCELED)
        return nbd_fail(why, ECANCELED, "making '%s' was canceled", file->shown);
    if (err == ENOSPC || err == EDQUOT)
        return no_space(file, dir, why);
    if (err == EFBIG)
        return nbd_fail(why, EFBIG, "'%s' cannot have %" PRIu64 " bytes: more than its file "
                        "system, or the limit of the process, allows for a file", file->shown,
                        file->dev->size);
    return nbd_fail(why, err, "'%s' cannot be made: %s", file->shown, g_strerror(err));
}

/* One slice, by writing where the file system cannot allocate; returns its length. */
static int64_t allocate_slice(int fd, uint64_t offset, uint64_t left, bool *can_allocate)
{
    static char zeroes[WRITE_BYTES]; /* const, they would be in the library's file */
    uint64_t length = MIN(left, ALLOCATE_BYTES);
    ssize_t n;

    if (*can_allocate) {
        if (fallocate(fd, 0, (off_t)offset, (off_t)length) == 0)
            return (int64_t)length;
        if (errno != EOPNOTSUPP && errno != ENOSYS)
            return -errno;
        *can_allocate = false;
    }
    n = pwrite(fd, zeroes, MIN(left, WRITE_BYTES), (off_t)offset);
    return n < 0 ? -errno : n;
}

static int allocate(struct file *file, int fd)
{
    uint64_t size = file->dev->size;
    bool can_allocate = true;

    for (uint64_t offset = 0; offset < size;) {
        int64_t n;

        if (atomic_load(&file->canceled))
            return -ECANCELED;
        n = allocate_slice(fd, offset, size - offset, &can_allocate);
        if (n < 0 && n != -EINTR)
            return (int)n;
        if (n > 0)
            offset += (uint64_t)n;
        atomic_store(&file->bytes_done, offset);
    }
    return 0;
}

static int fill(struct file *file, int dir, int fd, struct nbd_failure *why)
{
    int r = 0;

    atomic_store(&file->bytes_total, file->dev->size);
    atomic_store(&file->bytes_done, 0);
    if (ftruncate(fd, (off_t)file->dev->size) < 0)
        return fill_failed(file, dir, errno, why);
    if (file->dev->prealloc)
        r = can_fit(file, dir) ? allocate(file, fd) : -ENOSPC;
    if (r == 0 && fsync(fd) < 0)
        r = -errno;
    if (r == 0 && atomic_load(&file->canceled))
        r = -ECANCELED;
    if (r < 0)
        return fill_failed(file, dir, -r, why);
    atomic_store(&file->bytes_done, file->dev->size);
    return 0;
}

/* ---- Names ---- */

/* A file without a name, or with a hidden one in `temporary` where the file system has no
 * such thing. */
static int open_new(int dir, const char *name, char temporary[NAME_MAX + 1])
{
    int fd = openat(dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    temporary[0] = '\0';
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
        return fd;
    for (int i = 0; i < 100; i++) {
        snprintf(temporary, NAME_MAX + 1, ".%.200s.nbd-runner-%08x", name, g_random_int());
        fd = openat(dir, temporary, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd >= 0 || errno != EEXIST)
            break;
    }
    if (fd < 0)
        temporary[0] = '\0';
    return fd;
}

static int name_unnamed(int fd, int dir, const char *name)
{
    char self[32];

    snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
    if (linkat(AT_FDCWD, self, dir, name, AT_SYMLINK_FOLLOW) == 0)
        return 0;
    /* Without /proc; needs a privilege. */
    if (errno == ENOENT && linkat(fd, "", dir, name, AT_EMPTY_PATH) == 0)
        return 0;
    return -errno;
}

static int name_temporary(int dir, char *temporary, const char *name)
{
    if (renameat2(dir, temporary, dir, name, RENAME_NOREPLACE) == 0) {
        temporary[0] = '\0';
        return 0;
    }
    if (errno == EEXIST)
        return -EEXIST;
    return linkat(dir, temporary, dir, name, 0) == 0 ? 0 : -errno;
}

static int sync_directory(int dir)
{
    /* EINVAL: a file system that has nothing to do for it. */
    return fsync(dir) == 0 || errno == EINVAL ? 0 : -errno;
}

static int exists(const struct file *file, struct nbd_failure *why)
{
    return nbd_fail(why, EEXIST, "'%s' exists already", file->shown);
}

static int publish(struct file *file, int dir, int fd, const char *name, char *temporary,
                   struct nbd_failure *why)
{
    int r = temporary[0] == '\0' ? name_unnamed(fd, dir, name)
                                 : name_temporary(dir, temporary, name);

    if (r == -EEXIST)
        return exists(file, why);
    if (r == 0) {
        r = sync_directory(dir);
        if (r < 0)
            unlinkat(dir, name, 0);
    }
    return r == 0 ? 0 : fill_failed(file, dir, -r, why);
}

static int create_in(struct file *file, int dir, const char *name, struct nbd_failure *why)
{
    char temporary[NAME_MAX + 1];
    struct stat st;
    int fd, r;

    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return exists(file, why);
    fd = open_new(dir, name, temporary);
    if (fd < 0)
        return fill_failed(file, dir, errno, why);
    r = fill(file, dir, fd, why);
    if (r == 0)
        r = publish(file, dir, fd, name, temporary, why);
    if (temporary[0] != '\0')
        unlinkat(dir, temporary, 0);
    close(fd);
    return r;
}

int file_create(struct nbd_device *dev, struct nbd_failure *why)
{
    struct file *file = dev->priv;
    const char *name;
    int dir, r;

    if (dev->size == 0)
        return nbd_fail(why, EINVAL, "'%s' needs a size above 0", file->shown);
    if (dev->size > INT64_MAX)
        return nbd_fail(why, EFBIG, "'%s' cannot have %" PRIu64 " bytes: the most is %" PRId64,
                        file->shown, dev->size, INT64_MAX);
    dir = file_open_parent(file, &name, why);
    if (dir < 0)
        return dir;
    r = create_in(file, dir, name, why);
    close(dir);
    return r;
}

/* ---- Removing ---- */

static const char *kind_of(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFDIR:
        return "directory";
    case S_IFLNK:
        return "symbolic link";
    case S_IFBLK:
        return "block device";
    default:
        return "special file";
    }
}

static int delete_in(struct file *file, int dir, const char *name, struct nbd_failure *why)
{
    struct stat st;
    int r;

    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT
                   ? nbd_fail(why, ENOENT, "there is no file '%s'", file->shown)
                   : nbd_fail(why, errno, "'%s': %s", file->shown, g_strerror(errno));
    if (!S_ISREG(st.st_mode))
        return nbd_fail(why, ENOTSUP, "'%s' is a %s and stays; only the export can be "
                        "forgotten", file->shown, kind_of(st.st_mode));
    r = unlinkat(dir, name, 0) < 0 ? -errno : sync_directory(dir);
    if (r < 0)
        return nbd_fail(why, -r, "'%s' cannot be removed: %s", file->shown, g_strerror(-r));
    return 0;
}

int file_delete(struct nbd_device *dev, struct nbd_failure *why)
{
    struct file *file = dev->priv;
    const char *name;
    int dir = file_open_parent(file, &name, why);
    int r;

    if (dir < 0)
        return dir;
    r = delete_in(file, dir, name, why);
    close(dir);
    return r;
}
