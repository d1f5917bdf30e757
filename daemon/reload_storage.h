/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Is there what the new definitions of a reload want to serve? Asks the handlers, without
 * opening anything, and has made what is to be made. Any thread but the loop's once it runs;
 * blocks.
 */
#ifndef NR_RELOAD_STORAGE_H
#define NR_RELOAD_STORAGE_H

#include "handler.h"
#include "reload_plan.h"

/* Sets the size of steps, and rejects the units of steps that ADD or REPLACE and cannot be served. `make`: also make
 * backing stores that do not exist (create = true). */
void reload_storage_check(const struct handler_set *handlers, GArray *steps, bool make);

#endif
