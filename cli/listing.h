/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * All pages of the daemon's list of exports.
 */
#ifndef CLI_LISTING_H
#define CLI_LISTING_H

#include "command.h"

#include <glib.h>

struct listing {
    GPtrArray *exports; /* of nr_export, in the daemon's order */
    GPtrArray *pages;   /* owns what exports points to */
};

/* handler may be empty. */
int listing_fetch(struct cli *cli, const char *handler, nr_list_what what,
                  struct listing *ret_listing, struct failure *why);
void listing_clear(struct listing *listing);

/* The mapping with that cookie, and its export; NULL when there is none. */
const nr_mapping *listing_find(const struct listing *listing, const char *cookie,
                               const nr_export **ret_export);

#endif
