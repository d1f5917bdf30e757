/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * A handler that says it cannot work here.
 */
#include "nbd-runner/handler.h"

struct nbd_handler *handler_init(const struct nbd_config *config)
{
    config->host->log(NBD_LOG_ERROR, "nullinit: cannot work here");
    return NULL;
}
