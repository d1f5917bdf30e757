/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * A library that was built for another ABI: it must be refused before anything is called.
 */
#include <stdlib.h>

/* The header's own definition must not be the one that counts here. */
#define nbd_handler_abi nbd_handler_abi_of_header
#include "nbd-runner/handler.h"
#undef nbd_handler_abi

struct other_abi {
    uint32_t version, handler_size;
};

extern const struct other_abi nbd_handler_abi;
const struct other_abi nbd_handler_abi = {999, sizeof(struct nbd_handler)};

struct nbd_handler *handler_init(const struct nbd_config *config)
{
    (void)config;
    abort();
}
