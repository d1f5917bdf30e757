/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * A library that ends the process that loads it.
 */
#include <unistd.h>

#include "nbd-runner/handler.h"

__attribute__((constructor)) static void quit(void)
{
    _exit(7);
}

struct nbd_handler *handler_init(const struct nbd_config *config)
{
    (void)config;
    return 0;
}
