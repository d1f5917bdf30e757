/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The mem handler: a disk in the daemon's memory, for tests and for scratch data. The target
 * is any word. Memory is taken when it is first written and given back by trim and zeroes.
 * The contents outlive unmap() but not the daemon: after a restart the disk is there again,
 * full of zeroes. Requests are served on the loop, large ones on worker threads.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "nbd-runner/handler.h"
#include "size_option.h"

/* Copying more than this is left to a worker. */
#define INLINE_MAX_BYTES (UINT64_C(4) << 20)

struct mem {
    uint64_t size;
    char *bytes;           /* NULL until the first map() */
    uint64_t bytes_mapped; /* length of it */
};

static uint64_t page_bytes; /* a power of two */

static void forget(struct mem *mem)
{
    if (mem->bytes != NULL)
        munmap(mem->bytes, mem->bytes_mapped);
    mem->bytes = NULL;
}

static void destroy(struct nbd_device *dev)
{
    struct mem *mem = dev->priv;

    if (mem == NULL)
        return;
    forget(mem);
    free(mem);
    dev->priv = NULL;
}

static int cfg_parse(struct nbd_device *dev, const char *cfgstring, struct nbd_failure *why)
{
    struct mem *mem = calloc(1, sizeof(*mem));
    int r;

    (void)cfgstring;
    if (mem == NULL)
        return nbd_fail(why, ENOMEM, "out of memory");
    dev->priv = mem;
    r = size_from_opts(dev, "mem", &mem->size, why);
    if (r < 0)
        destroy(dev);
    return r;
}

static int create(struct nbd_device *dev, struct nbd_failure *why)
{
    struct mem *mem = dev->priv;

    if (mem->bytes != NULL)
        return nbd_fail(why, EEXIST, "'%s' exists already", dev->target);
    return size_from_create(dev, &mem->size, why);
}

static int delete(struct nbd_device *dev, struct nbd_failure *why)
{
    (void)why;
    forget(dev->priv);
    return 0;
}

static int map(struct nbd_device *dev, struct nbd_failure *why)
{
    struct mem *mem = dev->priv;
    int r = size_settle(dev, &mem->size, why);

    if (r < 0)
        return r;
    if (mem->bytes == NULL) {
        void *bytes = mmap(NULL, mem->size, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        if (bytes == MAP_FAILED)
            return nbd_fail(why, errno, "no memory for the %" PRIu64 " bytes of '%s'",
                            mem->size, dev->target);
        mem->bytes = bytes;
        mem->bytes_mapped = mem->size;
    }
    dev->caps = NBD_CAP_FLUSH | NBD_CAP_FUA | NBD_CAP_TRIM | NBD_CAP_WRITE_ZEROES |
                NBD_CAP_FAST_ZERO | NBD_CAP_CACHE | NBD_CAP_MULTI_CONN;
    dev->min_block = 1;
    dev->pref_block = 4096;
    return 0;
}

static void unmap(struct nbd_device *dev)
{
    (void)dev; /* destroy() and delete() free the memory */
}

static int64_t get_size(struct nbd_device *dev)
{
    const struct mem *mem = dev->priv;

    return (int64_t)mem->size;
}

static int64_t get_blksize(struct nbd_device *dev)
{
    (void)dev;
    return 0;
}

/* Whole pages go back to the system and come again as zeroes; the edges are written. */
static int clear(struct mem *mem, uint64_t offset, uint64_t length)
{
    uint64_t end = offset + length;
    uint64_t first_page = (offset + page_bytes - 1) & ~(page_bytes - 1);
    uint64_t last_page = end & ~(page_bytes - 1);

    if (first_page >= last_page) {
        memset(mem->bytes + offset, 0, length);
        return 0;
    }
    memset(mem->bytes + offset, 0, first_page - offset);
    memset(mem->bytes + last_page, 0, end - last_page);
    return madvise(mem->bytes + first_page, last_page - first_page, MADV_DONTNEED) < 0 ? -errno
                                                                                       : 0;
}

static int serve(struct nbd_request *rq)
{
    struct mem *mem = rq->dev->priv;

    switch (rq->op) {
    case NBD_OP_READ:
        memcpy(rq->data, mem->bytes + rq->offset, rq->length);
        return 0;
    case NBD_OP_WRITE:
        memcpy(mem->bytes + rq->offset, rq->data, rq->length);
        return 0;
    case NBD_OP_TRIM:
    case NBD_OP_WRITE_ZEROES:
        return clear(mem, rq->offset, rq->length);
    default:
        return 0;
    }
}

static int try_now(struct nbd_request *rq)
{
    return rq->length > INLINE_MAX_BYTES ? -EAGAIN : serve(rq);
}

static void handle_request(struct nbd_request *rq)
{
    rq->done(rq, serve(rq));
}

static int extents(struct nbd_device *dev, uint64_t offset, uint64_t length,
                   nbd_add_extent *add, void *arg)
{
    (void)dev;
    (void)offset;
    add(arg, length, NBD_EXTENT_DATA);
    return 0;
}

static bool load_json(struct nbd_device *dev, struct json_object *data)
{
    struct mem *mem = dev->priv;

    return size_load(data, &mem->size);
}

static bool update_json(struct nbd_device *dev, struct json_object *data)
{
    const struct mem *mem = dev->priv;

    return size_save(data, mem->size);
}

static struct nbd_handler handler = {
    .name = "mem",
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
    .destroy = destroy,
};

struct nbd_handler *handler_init(const struct nbd_config *config)
{
    (void)config;
    page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
    return &handler;
}
