/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Where a file of a volume has data and where holes. Sharded volumes do not tell; there all
 * is data. On a worker thread.
 */
#include <glib.h>
#include <unistd.h>

#include "gluster.h"

#define HOLE (NBD_EXTENT_HOLE | NBD_EXTENT_ZERO)

/* The next change of kind at or behind `at`: 0, or a negative errno. At the end of the data
 * that is `end`. */
static int seek(struct disk *disk, uint64_t at, uint64_t end, int whence, uint64_t *ret_at)
{
    off_t found;
    int err;

    errno = 0;
    found = glfs_lseek(session_fd(disk->session), (off_t)at, whence);
    if (found >= (off_t)at) {
        *ret_at = MIN((uint64_t)found, end);
        return 0;
    }
    err = found < 0 ? gluster_errno() : EOPNOTSUPP; /* backwards: nothing to rely on */
    if (err != ENXIO)
        return -err;
    *ret_at = end;
    return 0;
}

int gluster_extents(struct nbd_device *dev, uint64_t offset, uint64_t length,
                    nbd_add_extent *add, void *arg)
{
    struct disk *disk = dev->priv;
    uint64_t at = offset, end = offset + length;

    while (disk->can_seek && at < end) {
        uint64_t data, hole = at;
        int r = seek(disk, at, end, SEEK_DATA, &data);

        if (r == 0 && data == at)
            r = seek(disk, at, end, SEEK_HOLE, &hole);
        if (r < 0 && !is_unsupported(-r))
            return r;
        if (r < 0 || (data == at && hole == at)) {
            disk->can_seek = false;
            break;
        }
        hole = data == at ? hole : data;
        if (add(arg, hole - at, data == at ? NBD_EXTENT_DATA : HOLE) != 0)
            return 0;
        at = hole;
    }
    if (at < end)
        add(arg, end - at, NBD_EXTENT_DATA);
    return 0;
}
