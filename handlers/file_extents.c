/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Where a file has data and where holes. FIEMAP tells hundreds of extents in one call; it is
 * used where it also tells of data that has no place on the disk yet (ext4, XFS). SEEK_DATA
 * and SEEK_HOLE do for all others, and for extents that are allocated but not written, which
 * may have data in the page cache. On a worker thread.
 */
#include <fcntl.h>
#include <glib.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "file.h"

#define FIEMAP_EXTENTS 1024 /* in one call: 56 KiB */
#define HOLE (NBD_EXTENT_HOLE | NBD_EXTENT_ZERO)

/* A walk over [at, end); what add() answers ends it. */
struct walk {
    const struct file *file;
    uint64_t at, end;
    nbd_add_extent *add;
    void *arg;
    bool enough;
};

/* The next extent reaches to `stop`. */
static void reach(struct walk *walk, uint64_t stop, uint32_t flags)
{
    stop = MIN(stop, walk->end);
    if (walk->enough || stop <= walk->at)
        return;
    walk->enough = walk->add(walk->arg, stop - walk->at, flags) != 0;
    walk->at = stop;
}

/* ---- By SEEK_DATA and SEEK_HOLE ---- */

/* Up to `stop`; what is no data gets the flags `empty`. */
static void seek(struct walk *walk, uint64_t stop, uint32_t empty)
{
    stop = MIN(stop, walk->end);
    while (!walk->enough && walk->at < stop) {
        off_t data = lseek(walk->file->fd, (off_t)walk->at, SEEK_DATA), hole;

        if (data < 0 && errno == ENXIO) { /* none from here to the end of the file */
            reach(walk, stop, empty);
        } else if (data > (off_t)walk->at) {
            reach(walk, MIN((uint64_t)data, stop), empty);
        } else {
            hole = data < 0 ? -1 : lseek(walk->file->fd, (off_t)walk->at, SEEK_HOLE);
            reach(walk, hole <= (off_t)walk->at ? stop : MIN((uint64_t)hole, stop),
                  NBD_EXTENT_DATA);
        }
    }
}

/* ---- By FIEMAP ---- */

static void add_mapped(struct walk *walk, const struct fiemap_extent *extent)
{
    uint64_t stop = extent->fe_logical + extent->fe_length;

    reach(walk, extent->fe_logical, HOLE);
    if (extent->fe_flags & FIEMAP_EXTENT_UNWRITTEN)
        seek(walk, stop, NBD_EXTENT_ZERO);
    else
        reach(walk, stop, NBD_EXTENT_DATA);
}

/* One call. False: it cannot, or there is nothing more. */
static bool map_some(struct walk *walk, struct fiemap *fiemap)
{
    fiemap->fm_start = walk->at;
    fiemap->fm_length = walk->end - walk->at;
    fiemap->fm_flags = 0;
    fiemap->fm_extent_count = FIEMAP_EXTENTS;
    if (ioctl(walk->file->fd, FS_IOC_FIEMAP, fiemap) < 0)
        return false;
    for (uint32_t i = 0; i < fiemap->fm_mapped_extents; i++)
        add_mapped(walk, &fiemap->fm_extents[i]);
    if (fiemap->fm_mapped_extents > 0 &&
        !(fiemap->fm_extents[fiemap->fm_mapped_extents - 1].fe_flags & FIEMAP_EXTENT_LAST))
        return true;
    reach(walk, walk->end, HOLE);
    return false;
}

static void map_all(struct walk *walk)
{
    g_autofree struct fiemap *fiemap =
        g_malloc0(sizeof(*fiemap) + FIEMAP_EXTENTS * sizeof(struct fiemap_extent));

    while (!walk->enough && walk->at < walk->end)
        if (!map_some(walk, fiemap))
            return;
}

static bool tells_all_by_fiemap(const struct file *file)
{
    struct statfs fs;

    return fstatfs(file->fd, &fs) == 0 &&
           ((unsigned long)fs.f_type == EXT4_SUPER_MAGIC ||
            (unsigned long)fs.f_type == XFS_SUPER_MAGIC);
}

int file_extents(struct nbd_device *dev, uint64_t offset, uint64_t length, nbd_add_extent *add,
                 void *arg)
{
    const struct file *file = dev->priv;
    struct walk walk = {.file = file, .at = offset, .add = add, .arg = arg};
    struct stat st;

    if (fstat(file->fd, &st) < 0)
        return -errno;
    walk.end = file->is_block ? 0 : MIN(offset + length, (uint64_t)st.st_size);
    if (tells_all_by_fiemap(file))
        map_all(&walk);
    seek(&walk, walk.end, HOLE);
    /* Block devices do not tell; past the end of a truncated file nothing reads as zeroes. */
    walk.end = offset + length;
    reach(&walk, walk.end, NBD_EXTENT_DATA);
    return 0;
}
