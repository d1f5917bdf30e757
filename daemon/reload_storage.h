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

/* Who makes backing stores, and can be told to stop. */
struct storage_maker;
struct storage_maker *storage_maker_new(void);
void storage_maker_free(struct storage_maker *maker);

/* Loop thread. What is being made is canceled, and nothing more is made. */
void storage_maker_stop(struct storage_maker *maker);

/* Sets the size of steps, and rejects the units of those that ADD or REPLACE and cannot be
 * served. Backing stores that do not exist (create = true) are made by `maker`; NULL: they are
 * not made. */
void reload_storage_check(const struct handler_set *handlers, GArray *steps,
                          struct storage_maker *maker);

#endif
