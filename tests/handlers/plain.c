/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The smallest handler that works: the ten documented callbacks over a file, nothing else. It
 * shows that a handler needs no more, and that the daemon serves one that blocks. Each
 * callback runs on a worker thread, except the two for the saved state.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "nbd-runner/handler.h"

static int cfg_parse(struct nbd_device *dev, const char *cfgstring, struct nbd_failure *why)
{
    if (cfgstring[0] == '\0')
        return nbd_fail(why, EINVAL, "the target is empty; name a file");
    dev->priv = (void *)(intptr_t)-1; /* the descriptor */
    return 0;
}

static int create(struct nbd_device *dev, struct nbd_failure *why)
{
    int fd = open(dev->target, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);

    if (fd < 0)
        return nbd_fail(why, errno, "'%s': %s", dev->target, strerror(errno));
    if (ftruncate(fd, (off_t)dev->size) < 0) {
        int err = errno;

        unlink(dev->target);
        close(fd);
        return nbd_fail(why, err, "'%s': %s", dev->target, strerror(err));
    }
    close(fd);
    return 0;
}

static int delete(struct nbd_device *dev, struct nbd_failure *why)
{
    if (unlink(dev->target) < 0)
        return nbd_fail(why, errno, "'%s': %s", dev->target, strerror(errno));
    return 0;
}

static int map(struct nbd_device *dev, struct nbd_failure *why)
{
    int fd = open(dev->target, (dev->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC);

    if (fd < 0)
        return nbd_fail(why, errno, "'%s': %s", dev->target, strerror(errno));
    dev->priv = (void *)(intptr_t)fd;
    dev->caps = NBD_CAP_FLUSH;
    return 0;
}

static void unmap(struct nbd_device *dev)
{
    close((int)(intptr_t)dev->priv);
}

static int64_t get_size(struct nbd_device *dev)
{
    struct stat st;

    return fstat((int)(intptr_t)dev->priv, &st) < 0 ? -errno : (int64_t)st.st_size;
}

static int64_t get_blksize(struct nbd_device *dev)
{
    (void)dev;
    return 512;
}

static int transfer(int fd, struct nbd_request *rq)
{
    for (uint64_t done = 0; done < rq->length;) {
        char *data = (char *)rq->data + done;
        off_t at = (off_t)(rq->offset + done);
        ssize_t n = rq->op == NBD_OP_READ ? pread(fd, data, rq->length - done, at)
                                          : pwrite(fd, data, rq->length - done, at);

        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        done += (uint64_t)n;
    }
    return 0;
}

static void handle_request(struct nbd_request *rq)
{
    int fd = (int)(intptr_t)rq->dev->priv;
    int result;

    if (rq->op == NBD_OP_FLUSH)
        result = fdatasync(fd) < 0 ? -errno : 0;
    else
        result = transfer(fd, rq);
    rq->done(rq, result);
}

static bool load_json(struct nbd_device *dev, struct json_object *data)
{
    (void)dev;
    (void)data;
    return true;
}

static bool update_json(struct nbd_device *dev, struct json_object *data)
{
    (void)dev;
    (void)data;
    return true;
}

static struct nbd_handler handler = {
    .name = "plain",
    .subtype = 0,
    .cfg_parse = cfg_parse,
    .create = create,
    .delete = delete,
    .map = map,
    .unmap = unmap,
    .get_size = get_size,
    .get_blksize = get_blksize,
    .handle_request = handle_request,
    .load_json = load_json,
    .update_json = update_json,
};

struct nbd_handler *handler_init(const struct nbd_config *cfg)
{
    (void)cfg;
    return &handler;
}
