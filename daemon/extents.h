/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Where an export has data and where holes: asked of its handler on a worker, and cached
 * until a write, trim or zeroing changes it. Loop thread only.
 */
#ifndef NR_EXTENTS_H
#define NR_EXTENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "export.h"

struct extent {
    uint64_t end;   /* where it ends; it begins where the one before ends */
    uint32_t flags; /* enum nbd_extent_flag */
};

/* A run of extents; the first one contains the offset that was asked for. Valid until
 * control returns to the loop. */
struct extent_view {
    const struct extent *first;
    size_t n; /* at least 1 */
};

/* What the cache knows from `offset` on; false: nothing. */
bool extents_cached(const struct export *export, uint64_t offset, struct extent_view *ret_view);

/* Ask the handler about [offset, offset + length), length > 0; it may say less, and it may
 * say more. Always answers: what cannot be told is data. The export must stay open. */
typedef void extents_done(void *arg, const struct extent_view *view);
void extents_scan(struct export *export, uint64_t offset, uint64_t length, extents_done *done,
                  void *arg);

/* A change begins, or has ended: what was known, or is being asked, no longer holds. */
static inline void extents_changed(struct export *export)
{
    export->changes++;
}

/* Is it likely that a scan finds holes, and that its answer will hold for a while? */
bool extents_worth_asking(const struct export *export);

/* Give the memory back. */
void extents_drop(struct export *export);

#endif
