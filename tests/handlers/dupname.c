/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * A handler with the name of another one, "file". Only one of the two can be served; this one
 * opens nothing.
 */
#include "nbd-runner/handler.h"

static int cfg_parse(struct nbd_device *dev, const char *cfgstring, struct nbd_failure *why)
{
    (void)dev;
    (void)cfgstring;
    return nbd_fail(why, ENOTSUP, "this is the wrong file handler");
}

static int map(struct nbd_device *dev, struct nbd_failure *why)
{
    (void)dev;
    return nbd_fail(why, ENOTSUP, "this is the wrong file handler");
}

static void unmap(struct nbd_device *dev)
{
    (void)dev;
}

static int64_t get_size(struct nbd_device *dev)
{
    (void)dev;
    return 0;
}

static void handle_request(struct nbd_request *rq)
{
    rq->done(rq, -EIO);
}

static struct nbd_handler handler = {
    .name = "file",
    .cfg_parse = cfg_parse,
    .map = map,
    .unmap = unmap,
    .get_size = get_size,
    .handle_request = handle_request,
};

struct nbd_handler *handler_init(const struct nbd_config *config)
{
    (void)config;
    return &handler;
}
