/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The metadata contexts of BLOCK_STATUS (protocol document, "Metadata querying"): their
 * names, ids and queries. Pure functions.
 */
#ifndef NR_META_CONTEXT_H
#define NR_META_CONTEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum meta_context {
    CONTEXT_BASE_ALLOCATION,
    CONTEXT_ALLOCATION_DEPTH,
    N_META_CONTEXTS,
};

const char *meta_context_name(enum meta_context context);

/* On the wire; unique in a session. */
uint32_t meta_context_id(enum meta_context context);

/* A set with all contexts that a query means, a bit each. With `wildcards` ("LIST") a name
 * that ends at its colon means all of that namespace. Unknown ones mean none. */
unsigned meta_context_match(const char *query, size_t length, bool wildcards);

/* The status of an extent in a context; flags are enum nbd_extent_flag. */
uint32_t meta_context_status(enum meta_context context, uint32_t flags);

#endif
