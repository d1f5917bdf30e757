/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The null handler: a device of zeroes that forgets what is written to it. It measures and
 * tests what stands above a handler. The target is any word. Requests are served on the loop;
 * everything else on worker threads.
 */
#include <stdlib.h>
#include <string.h>

#include "nbd-runner/handler.h"
#include "size_option.h"

/* Zeroing more memory than this is left to a worker. */
#define INLINE_MAX_BYTES (UINT64_C(4) << 20)

struct null {
    uint64_t size;
};

static void destroy(struct nbd_device *dev)
{
    free(dev->priv);
    dev->priv = NULL;
}

static int cfg_parse(struct nbd_device *dev, const char *cfgstring, struct nbd_failure *why)
{
    struct null *null = calloc(1, sizeof(*null));
    int r;

    (void)cfgstring;
    if (null == NULL)
        return nbd_fail(why, ENOMEM, "out of memory");
    dev->priv = null;
    r = size_from_opts(dev, "null", &null->size, why);
    if (r < 0)
        destroy(dev);
    return r;
}

static int create(struct nbd_device *dev, struct nbd_failure *why)
{
    struct null *null = dev->priv;

    return size_from_create(dev, &null->size, why);
}

static int delete(struct nbd_device *dev, struct nbd_failure *why)
{
    (void)dev;
    (void)why;
    return 0;
}

static int map(struct nbd_device *dev, struct nbd_failure *why)
{
    struct null *null = dev->priv;
    int r = size_settle(dev, &null->size, why);

    if (r < 0)
        return r;
    dev->caps = NBD_CAP_FLUSH | NBD_CAP_FUA | NBD_CAP_TRIM | NBD_CAP_WRITE_ZEROES |
                NBD_CAP_FAST_ZERO | NBD_CAP_CACHE | NBD_CAP_MULTI_CONN;
    dev->min_block = 1;
    dev->pref_block = 4096;
    return 0;
}

static void unmap(struct nbd_device *dev)
{
    (void)dev;
}

static int64_t get_size(struct nbd_device *dev)
{
    const struct null *null = dev->priv;

    return (int64_t)null->size;
}

static int64_t get_blksize(struct nbd_device *dev)
{
    (void)dev;
    return 0;
}

static int try_now(struct nbd_request *rq)
{
    if (rq->op != NBD_OP_READ)
        return 0;
    if (rq->length > INLINE_MAX_BYTES)
        return -EAGAIN;
    memset(rq->data, 0, rq->length);
    return 0;
}

static void handle_request(struct nbd_request *rq)
{
    if (rq->op == NBD_OP_READ)
        memset(rq->data, 0, rq->length);
    rq->done(rq, 0);
}

static int extents(struct nbd_device *dev, uint64_t offset, uint64_t length,
                   nbd_add_extent *add, void *arg)
{
    (void)dev;
    (void)offset;
    add(arg, length, NBD_EXTENT_HOLE | NBD_EXTENT_ZERO);
    return 0;
}

static int resize(struct nbd_device *dev, struct nbd_failure *why)
{
    return create(dev, why);
}

static bool load_json(struct nbd_device *dev, struct json_object *data)
{
    struct null *null = dev->priv;

    return size_load(data, &null->size);
}

static bool update_json(struct nbd_device *dev, struct json_object *data)
{
    const struct null *null = dev->priv;

    return size_save(data, null->size);
}

static struct nbd_handler handler = {
    .name = "null",
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
    .try_now = try_now,
    .extents = extents,
    .resize = resize,
    .destroy = destroy,
};

struct nbd_handler *handler_init(const struct nbd_config *config)
{
    (void)config;
    return &handler;
}
