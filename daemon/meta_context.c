/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The metadata contexts that every export has.
 */
#include "meta_context.h"

#include <string.h>

#include "nbd-runner/handler.h"

static const struct {
    const char *name;
    size_t namespace_length; /* with the colon */
} contexts[N_META_CONTEXTS] = {
    [CONTEXT_BASE_ALLOCATION] = { "base:allocation", 5 },
    [CONTEXT_ALLOCATION_DEPTH] = { "qemu:allocation-depth", 5 },
};

const char *meta_context_name(enum meta_context context)
{
    return contexts[context].name;
}

uint32_t meta_context_id(enum meta_context context)
{
    return (uint32_t)context + 1;
}

unsigned meta_context_match(const char *query, size_t length, bool wildcards)
{
    unsigned set = 0;

    for (unsigned i = 0; i < N_META_CONTEXTS; i++) {
        bool whole = length == strlen(contexts[i].name);
        bool wildcard = wildcards && length == contexts[i].namespace_length;

        if ((whole || wildcard) && memcmp(query, contexts[i].name, length) == 0)
            set |= 1u << i;
    }
    return set;
}

uint32_t meta_context_status(enum meta_context context, uint32_t flags)
{
    if (context == CONTEXT_BASE_ALLOCATION)
        return flags & (NBD_EXTENT_HOLE | NBD_EXTENT_ZERO);
    return flags & NBD_EXTENT_HOLE ? 0 : 1;
}
