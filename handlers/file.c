/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The file handler: a regular file or a block device as a backstore. Here are the handler's
 * table and what concerns the open file as a whole; file.h says where the rest is. The control
 * callbacks run on worker threads.
 */
#include <fcntl.h>
#include <glib.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "file.h"

#define CAPS_READONLY (NBD_CAP_CACHE | NBD_CAP_MULTI_CONN)
#define CAPS_WRITABLE \
    (CAPS_READONLY | NBD_CAP_FLUSH | NBD_CAP_FUA | NBD_CAP_TRIM | NBD_CAP_WRITE_ZEROES | \
     NBD_CAP_FAST_ZERO)

static const struct nbd_config *config;

/* ---- Parsing ---- */

static int parse_bool(const struct nbd_opt *opt, bool *ret, struct nbd_failure *why)
{
    if (strcmp(opt->value, "true") == 0)
        *ret = true;
    else if (strcmp(opt->value, "false") == 0)
        *ret = false;
    else
        return nbd_fail(why, EINVAL, "option %s is true or false, not '%s'", opt->key,
                        opt->value);
    return 0;
}

static int parse_opts(struct file *file, struct nbd_failure *why)
{
    const struct nbd_device *dev = file->dev;

    for (size_t i = 0; i < dev->n_opts; i++) {
        int r;

        if (strcmp(dev->opts[i].key, "direct") != 0)
            return nbd_fail(why, EINVAL, "the file handler has no option '%s'; it has direct",
                            dev->opts[i].key);
        r = parse_bool(&dev->opts[i], &file->direct, why);
        if (r < 0)
            return r;
    }
    return 0;
}

static void destroy(struct nbd_device *dev)
{
    struct file *file = dev->priv;

    if (file == NULL)
        return;
    g_free(file->root);
    g_free(file->path);
    g_free(file->shown);
    g_free(file);
    dev->priv = NULL;
}

static int cfg_parse(struct nbd_device *dev, const char *cfgstring, struct nbd_failure *why)
{
    struct file *file = g_new0(struct file, 1);
    int r;

    file->dev = dev;
    file->fd = -1;
    file->direct_fd = -1;
    dev->priv = file;
    r = parse_opts(file, why);
    if (r == 0)
        r = file_parse_target(file, config->file_roots, cfgstring, why);
    if (r < 0)
        destroy(dev);
    return r;
}

/* ---- Opening ---- */

static const char *kind_of(mode_t mode)
{
    if (S_ISDIR(mode))
        return "a directory";
    if (S_ISCHR(mode))
        return "a character device";
    if (S_ISFIFO(mode))
        return "a pipe";
    return S_ISSOCK(mode) ? "a socket" : "a special file";
}

static int check_kind(const struct file *file, const struct stat *st, struct nbd_failure *why)
{
    if (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode))
        return 0;
    return nbd_fail(why, EINVAL, "'%s' is %s; a regular file or a block device is needed",
                    file->shown, kind_of(st->st_mode));
}

/* Looks before it opens: opening a device or a pipe may have effects of its own. */
static int open_backstore(struct file *file, struct stat *st, struct nbd_failure *why)
{
    int flags = file->dev->readonly ? O_RDONLY : O_RDWR;
    int fd = file_open_target(file, O_PATH, why);
    int r;

    if (fd < 0)
        return fd;
    r = fstat(fd, st) < 0 ? nbd_fail(why, errno, "'%s': %s", file->shown, g_strerror(errno))
                          : check_kind(file, st, why);
    close(fd);
    if (r < 0)
        return r;
    if (S_ISBLK(st->st_mode) && !file->dev->readonly)
        flags |= O_EXCL;
    fd = file_open_target(file, flags | O_NONBLOCK | O_NOCTTY, why);
    if (fd < 0)
        return fd;
    /* It may be another one by now. */
    r = fstat(fd, st) < 0 ? -errno : check_kind(file, st, why);
    if (r == 0 && fcntl(fd, F_SETFL, 0) < 0)
        r = nbd_fail(why, errno, "'%s': %s", file->shown, g_strerror(errno));
    if (r < 0) {
        close(fd);
        return r;
    }
    return fd;
}

/* Two servers that write one file would each believe to know what is in it. */
static int lock_backstore(const struct file *file, struct nbd_failure *why)
{
    struct flock lock = {
        .l_type = file->dev->readonly ? F_RDLCK : F_WRLCK,
        .l_whence = SEEK_SET,
    };

    if (fcntl(file->fd, F_OFD_SETLK, &lock) == 0 || (errno != EAGAIN && errno != EACCES))
        return 0; /* a file system without locks is no reason to refuse */
    return nbd_fail(why, EBUSY, "'%s' is locked: another export, server or virtual machine "
                    "has it open%s", file->shown, file->dev->readonly ? " for writing" : "");
}

static uint32_t direct_alignment(const struct file *file)
{
#ifdef STATX_DIOALIGN
    struct statx st;

    if (statx(file->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &st) == 0 &&
        (st.stx_mask & STATX_DIOALIGN) && st.stx_dio_offset_align != 0)
        return MAX(MAX(st.stx_dio_offset_align, st.stx_dio_mem_align), 512);
#endif
    return MAX(file->sector, 4096);
}

static int open_direct(struct file *file, struct nbd_failure *why)
{
    char self[32];

    if (!file->direct)
        return 0;
    snprintf(self, sizeof(self), "/proc/self/fd/%d", file->fd);
    file->direct_fd =
        open(self, (file->dev->readonly ? O_RDONLY : O_RDWR) | O_DIRECT | O_CLOEXEC);
    if (file->direct_fd < 0)
        return nbd_fail(why, errno, "'%s' cannot be opened with direct=true: %s", file->shown,
                        errno == EINVAL ? "its file system has no direct I/O"
                                        : g_strerror(errno));
    file->direct_align = direct_alignment(file);
    return 0;
}

/* Is a buffered write here only slow when a local disk is? The others can hang for as long as
 * a server is away, and are never written on the loop. */
static bool is_local(long type)
{
    static const long local[] = {
        EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, F2FS_SUPER_MAGIC, TMPFS_MAGIC,
        RAMFS_MAGIC,      0x2fc12fc1 /* zfs */, 0x794c7630 /* overlayfs */,
    };

    for (size_t i = 0; i < G_N_ELEMENTS(local); i++)
        if ((type & 0xffffffffL) == local[i])
            return true;
    return false;
}

static void learn_storage(struct file *file, const struct stat *st)
{
    struct statfs fs;
    long type = 0;
    int sector = 1;

    file->is_block = S_ISBLK(st->st_mode);
    if (file->is_block && (ioctl(file->fd, BLKSSZGET, &sector) < 0 || sector < 512))
        sector = 512;
    file->sector = (uint32_t)sector;
    if (!file->is_block && fstatfs(file->fd, &fs) == 0)
        type = (long)fs.f_type;
    file->in_memory = type == TMPFS_MAGIC || type == RAMFS_MAGIC;
    file->can_write_inline = file->is_block || is_local(type);
    file->can_read_nowait = file->can_write_nowait = true;
    file->can_punch = file->can_zero_range = file->can_discard = true;
    file->can_cachestat = true;
    file->can_map = file_may_be_mapped(file, st);
    file->inline_again_at = file->calm_down = 0;
}

static void reset_sync(struct file *file)
{
    /* Somebody may have written before us: the first flush is a real one. */
    file->changes = 1;
    file->changes_synced = 0;
    file->sync_error = 0;
}

static void describe(struct nbd_device *dev, const struct stat *st)
{
    const struct file *file = dev->priv;
    unsigned short rotational = 0;
    blksize_t block = st->st_blksize;

    dev->caps = dev->readonly ? CAPS_READONLY : CAPS_WRITABLE;
    if (file->is_block && ioctl(file->fd, BLKROTATIONAL, &rotational) == 0 && rotational != 0)
        dev->caps |= NBD_CAP_ROTATIONAL;
    dev->min_block = 1;
    dev->pref_block = 4096;
    if (block > 4096 && block <= 1 << 20 && (block & (block - 1)) == 0)
        dev->pref_block = (uint32_t)block;
}

static void unmap(struct nbd_device *dev)
{
    struct file *file = dev->priv;

    file_mapped_close(file);
    if (file->direct_fd >= 0)
        close(file->direct_fd);
    if (file->fd >= 0)
        close(file->fd);
    file->fd = file->direct_fd = -1;
}

static int map(struct nbd_device *dev, struct nbd_failure *why)
{
    struct file *file = dev->priv;
    struct stat st;
    int r = open_backstore(file, &st, why);

    if (r < 0)
        return r;
    file->fd = r;
    learn_storage(file, &st);
    reset_sync(file);
    r = lock_backstore(file, why);
    if (r == 0)
        r = open_direct(file, why);
    if (r < 0)
        unmap(dev);
    else
        describe(dev, &st);
    return r;
}

/* ---- Looking ---- */

/* Device numbers are given out anew, and files are replaced by renaming: who is attached goes
 * on with what was opened, and nobody else may find other bytes under the same name. */
static int check_identity(const struct file *file, const struct stat *now,
                          struct nbd_failure *why)
{
    struct stat opened;

    if (file->fd < 0 || fstat(file->fd, &opened) < 0)
        return 0;
    if (S_ISBLK(opened.st_mode) && S_ISBLK(now->st_mode) && opened.st_rdev == now->st_rdev)
        return 0; /* the node was made anew */
    if (opened.st_dev == now->st_dev && opened.st_ino == now->st_ino &&
        opened.st_rdev == now->st_rdev)
        return 0;
    return nbd_fail(why, ESTALE, "'%s' is another %s now than the one that clients are "
                    "attached to; nobody else can connect until they have left", file->shown,
                    S_ISBLK(now->st_mode) ? "device" : "file");
}

static int64_t probe_fd(const struct file *file, int fd, struct nbd_failure *why)
{
    int mode = file->dev->readonly ? R_OK : R_OK | W_OK;
    struct stat st;
    char self[32];
    int r;

    if (fstat(fd, &st) < 0)
        return nbd_fail(why, errno, "'%s': %s", file->shown, g_strerror(errno));
    r = check_kind(file, &st, why);
    if (r == 0)
        r = check_identity(file, &st, why);
    if (r < 0)
        return r;
    snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
    if (faccessat(AT_FDCWD, self, mode, AT_EACCESS) < 0)
        return nbd_fail(why, errno, "'%s' cannot be opened%s: %s", file->shown,
                        file->dev->readonly ? "" : " for writing", g_strerror(errno));
    return S_ISREG(st.st_mode) ? st.st_size : 0;
}

static int64_t probe(struct nbd_device *dev, struct nbd_failure *why)
{
    struct file *file = dev->priv;
    int fd = file_open_target(file, O_PATH, why);
    int64_t r;

    if (fd < 0)
        return fd;
    r = probe_fd(file, fd, why);
    close(fd);
    return r;
}

/* ---- The open file ---- */

static int64_t get_size(struct nbd_device *dev)
{
    const struct file *file = dev->priv;
    struct stat st;
    uint64_t bytes;

    if (file->is_block)
        return ioctl(file->fd, BLKGETSIZE64, &bytes) < 0 ? -errno : (int64_t)bytes;
    return fstat(file->fd, &st) < 0 ? -errno : (int64_t)st.st_size;
}

static int64_t get_blksize(struct nbd_device *dev)
{
    const struct file *file = dev->priv;

    return file->is_block ? (int64_t)file->sector : 0;
}

static int resize_block(struct nbd_device *dev, struct nbd_failure *why)
{
    const struct file *file = dev->priv;
    int64_t size = get_size(dev);

    if (size < 0)
        return nbd_fail(why, (int)-size, "the size of '%s' cannot be read: %s", file->shown,
                        g_strerror((int)-size));
    if ((uint64_t)size == dev->size)
        return 0;
    return nbd_fail(why, ENOTSUP, "'%s' is a block device of %" PRId64 " bytes; change it "
                    "with its own tools, then resize the export to that", file->shown, size);
}

static int resize(struct nbd_device *dev, struct nbd_failure *why)
{
    const struct file *file = dev->priv;

    if (file->is_block)
        return resize_block(dev, why);
    if (dev->readonly)
        return nbd_fail(why, EROFS, "'%s' is open read-only", file->shown);
    if (dev->size == 0 || dev->size > INT64_MAX)
        return nbd_fail(why, EINVAL, "'%s' cannot have %" PRIu64 " bytes", file->shown,
                        dev->size);
    if (ftruncate(file->fd, (off_t)dev->size) < 0 || fsync(file->fd) < 0)
        return nbd_fail(why, errno, "the size of '%s' cannot be changed to %" PRIu64 ": %s",
                        file->shown, dev->size, g_strerror(errno));
    return 0;
}

/* ---- The handler ---- */

/* Loop thread, as progress(). */
static void cancel(struct nbd_device *dev)
{
    struct file *file = dev->priv;

    atomic_store(&file->canceled, true);
}

static void progress(struct nbd_device *dev, uint64_t *done, uint64_t *total)
{
    struct file *file = dev->priv;

    *done = atomic_load(&file->bytes_done);
    *total = atomic_load(&file->bytes_total);
}

static void fini(void)
{
    file_io_fini();
    file_mapped_fini();
}

static struct nbd_handler handler = {
    .name = "file",
    .subtype = 16,
    .cfg_parse = cfg_parse,
    .create = file_create,
    .delete = file_delete,
    .map = map,
    .unmap = unmap,
    .get_size = get_size,
    .get_blksize = get_blksize,
    .submit = file_submit,
    .submit_batch = file_submit_batch,
    .try_now = file_try_now,
    .sendfile_fd = file_sendfile_fd,
    .extents = file_extents,
    .resize = resize,
    .cancel = cancel,
    .progress = progress,
    .destroy = destroy,
    .fini = fini,
    .probe = probe,
    .mapped = file_mapped,
};

__attribute__((visibility("default")))
struct nbd_handler *handler_init(const struct nbd_config *cfg)
{
    config = cfg;
    file_io_init(cfg);
    return &handler;
}
