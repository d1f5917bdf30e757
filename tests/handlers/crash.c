/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * A handler that crashes in handler_init().
 */
#include <signal.h>

#include "nbd-runner/handler.h"

struct nbd_handler *handler_init(const struct nbd_config *config)
{
    (void)config;
    raise(SIGSEGV); /* as a wild pointer would, but a sanitizer leaves it alone */
    return 0;
}
