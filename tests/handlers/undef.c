/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * A library that needs a symbol which nobody has: it cannot be loaded.
 */
#include "nbd-runner/handler.h"

struct nbd_handler *a_function_that_nobody_has(void);

struct nbd_handler *handler_init(const struct nbd_config *config)
{
    (void)config;
    return a_function_that_nobody_has();
}
