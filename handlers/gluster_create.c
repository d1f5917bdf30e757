/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Making and removing the file behind an export. Runs on worker threads; cancel() and
 * progress() look in from the loop through atomics.
 */
#include <fcntl.h>
#include <glib.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "gluster.h"

/* Allocated at a time: a cancellation waits for so much. */
#define ALLOCATE_BYTES (UINT64_C(256) << 20)
#define WRITE_BYTES (UINT64_C(1) << 20)

/* A connection that the volume has proved to answer on. One that was kept since long ago may
 * be to a volume that has been made anew since. */
static int get_volume(const struct disk *disk, struct volume **ret_volume, struct statvfs *fs,
                      struct nbd_failure *why)
{
    for (int attempt = 0;; attempt++) {
        struct volume *volume;
        int r = volume_get(disk, &volume, why);

        if (r < 0)
            return r;
        errno = 0;
        if (glfs_statvfs(volume_fs(volume), "/", fs) == 0) {
            *ret_volume = volume;
            return 0;
        }
        r = nbd_fail(why, gluster_errno(), "volume '%s' does not answer: %s",
                     disk->volume_name, g_strerror(gluster_errno()));
        volume_distrust(volume);
        volume_put(volume);
        if (attempt > 0)
            return r;
    }
}

/* ---- Filling ---- */

static int fill_failed(const struct disk *disk, int err, struct nbd_failure *why)
{
    uint64_t size = disk->dev->size;

    switch (err) {
    case ECANCELED:
        return nbd_fail(why, ECANCELED, "making '%s' was canceled", disk->shown);
    case ENOSPC:
    case EDQUOT:
        return nbd_fail(why, err, "no space left in volume '%s' for '%s', which needs %" PRIu64
                        " bytes", disk->volume_name, disk->shown, size);
    case EFBIG:
        return nbd_fail(why, EFBIG, "'%s' cannot have %" PRIu64 " bytes: more than a file may "
                        "have on the volume's bricks", disk->shown, size);
    case EACCES:
        return nbd_fail(why, EACCES, "user %u may not make '%s': let root run 'gluster volume "
                        "set %s storage.owner-uid %u' and the same with owner-gid %u",
                        geteuid(), disk->shown, disk->volume_name, geteuid(), getegid());
    default:
        return nbd_fail(why, err, "'%s' cannot be made: %s", disk->shown, g_strerror(err));
    }
}

/* What volumes of different kinds can do to allocate, the best first. */
enum way { BY_ZEROFILL, BY_FALLOCATE, BY_WRITING };

/* One slice; returns its length. */
static int64_t allocate_slice(glfs_fd_t *fd, uint64_t offset, uint64_t left, enum way *way)
{
    static char zeroes[WRITE_BYTES]; /* const, they would be in the library's file */
    uint64_t length = MIN(left, ALLOCATE_BYTES);
    ssize_t n;

    while (*way != BY_WRITING) {
        int r;

        errno = 0;
        r = *way == BY_ZEROFILL ? glfs_zerofill(fd, (off_t)offset, (off_t)length)
                                : glfs_fallocate(fd, 0, (off_t)offset, length);
        if (r >= 0)
            return (int64_t)length;
        if (!is_unsupported(gluster_errno()))
            return -gluster_errno();
        (*way)++;
    }
    n = glfs_pwrite(fd, zeroes, MIN(left, WRITE_BYTES), (off_t)offset, 0, NULL, NULL);
    if (n == 0)
        return -EIO;
    return n < 0 ? -gluster_errno() : n;
}

static int allocate(struct disk *disk, glfs_fd_t *fd)
{
    uint64_t size = disk->dev->size;
    enum way way = BY_ZEROFILL;

    for (uint64_t offset = 0; offset < size;) {
        int64_t n;

        if (atomic_load(&disk->canceled))
            return -ECANCELED;
        n = allocate_slice(fd, offset, size - offset, &way);
        if (n < 0)
            return (int)n;
        offset += (uint64_t)n;
        atomic_store(&disk->bytes_done, offset);
    }
    return 0;
}

static int fill(struct disk *disk, glfs_fd_t *fd)
{
    int r = 0;

    errno = 0;
    if (glfs_ftruncate(fd, (off_t)disk->dev->size, NULL, NULL) < 0)
        return -gluster_errno();
    if (disk->dev->prealloc)
        r = allocate(disk, fd);
    if (r == 0 && glfs_fsync(fd, NULL, NULL) < 0)
        r = -gluster_errno();
    if (r == 0 && atomic_load(&disk->canceled))
        r = -ECANCELED;
    return r;
}

/* ---- Making ---- */

/* Hopeless requests must not fill the volume for others before they fail. */
static int check_space(const struct disk *disk, const struct statvfs *fs,
                       struct nbd_failure *why)
{
    uint64_t unit = fs->f_frsize != 0 ? fs->f_frsize : fs->f_bsize;
    uint64_t available = (uint64_t)fs->f_bavail * unit;

    if (!disk->dev->prealloc || fs->f_blocks == 0 || disk->dev->size <= available)
        return 0;
    return nbd_fail(why, ENOSPC, "no space in volume '%s' for '%s': it needs %" PRIu64
                    " bytes, %" PRIu64 " are available", disk->volume_name, disk->shown,
                    disk->dev->size, available);
}

static int creat_failed(const struct disk *disk, int err, struct nbd_failure *why)
{
    g_autofree char *parent = g_path_get_dirname(disk->path);

    if (err == EEXIST)
        return nbd_fail(why, EEXIST, "'%s' exists already", disk->shown);
    if (err == ENOENT || err == ENOTDIR)
        return nbd_fail(why, err, "there is no directory '%s' in volume '%s'; make it first",
                        parent + 1, disk->volume_name);
    return fill_failed(disk, err, why);
}

static int create_in(struct disk *disk, glfs_t *fs, struct nbd_failure *why)
{
    glfs_fd_t *fd;
    int r;

    errno = 0;
    fd = glfs_creat(fs, disk->path, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd == NULL)
        return creat_failed(disk, gluster_errno(), why);
    r = fill(disk, fd);
    glfs_close(fd);
    if (r == 0) {
        atomic_store(&disk->bytes_done, disk->dev->size);
        return 0;
    }
    fill_failed(disk, -r, why);
    if (glfs_unlink(fs, disk->path) < 0 && why != NULL) {
        size_t used = strlen(why->message);

        snprintf(why->message + used, sizeof(why->message) - used,
                 "; a part of it is left in the volume: remove it");
    }
    return r;
}

int gluster_create(struct nbd_device *dev, struct nbd_failure *why)
{
    struct disk *disk = dev->priv;
    struct volume *volume;
    struct statvfs fs;
    int r;

    if (dev->size == 0)
        return nbd_fail(why, EINVAL, "'%s' needs a size above 0", disk->shown);
    if (dev->size > INT64_MAX)
        return nbd_fail(why, EFBIG, "'%s' cannot have %" PRIu64 " bytes: the most is %" PRId64,
                        disk->shown, dev->size, INT64_MAX);
    atomic_store(&disk->bytes_total, dev->size);
    atomic_store(&disk->bytes_done, 0);
    r = get_volume(disk, &volume, &fs, why);
    if (r < 0)
        return r;
    r = check_space(disk, &fs, why);
    if (r == 0)
        r = create_in(disk, volume_fs(volume), why);
    volume_put(volume);
    return r;
}

/* ---- Removing ---- */

static int delete_in(const struct disk *disk, glfs_t *fs, struct nbd_failure *why)
{
    struct stat st;

    errno = 0;
    if (glfs_lstat(fs, disk->path, &st) == 0 && !S_ISREG(st.st_mode))
        return nbd_fail(why, ENOTSUP, "'%s' is no regular file and stays; only the export can "
                        "be forgotten", disk->shown);
    if (glfs_unlink(fs, disk->path) == 0)
        return 0;
    if (gluster_errno() == ENOENT || gluster_errno() == ENOTDIR)
        return nbd_fail(why, ENOENT, "there is no file '%s'", disk->shown);
    return nbd_fail(why, gluster_errno(), "'%s' cannot be removed: %s", disk->shown,
                    g_strerror(gluster_errno()));
}

int gluster_delete(struct nbd_device *dev, struct nbd_failure *why)
{
    struct disk *disk = dev->priv;
    struct volume *volume;
    struct statvfs fs;
    int r = get_volume(disk, &volume, &fs, why);

    if (r < 0)
        return r;
    r = delete_in(disk, volume_fs(volume), why);
    volume_put(volume);
    return r;
}
