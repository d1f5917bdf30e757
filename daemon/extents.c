/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The map of an export's allocation. A scan that sees no change from its start to its end may
 * be kept: every change counts `changes` up when it begins and when it ends, so a scan that
 * overlaps one is used for its own answer only.
 */
#include "extents.h"

#include <time.h>

#include "request.h"
#include "server.h"

#define SCAN_EXTENTS_MAX (64u << 10)
#define SCAN_NS INT64_C(20000000)         /* one scan works no longer than this */
#define CACHE_EXTENTS_MAX (1u << 20)      /* of one export: 16 MiB */
#define QUIET_NS INT64_C(200000000)       /* without changes: an answer will hold for a while */

struct extent_cache {
    GArray *extents; /* struct extent */
    uint64_t start;  /* where the first one begins */
    uint64_t changes;/* export->changes that they belong to */
    bool has_holes;  /* some scan since the export was opened has seen one */
    uint64_t last_changes;
    int64_t changed_ns; /* when a change was last noticed */
};

struct scan {
    struct export *export;
    const struct nbd_handler *handler;
    uint64_t offset, length;
    uint64_t reached; /* bytes from offset */
    uint64_t changes;
    int64_t deadline_ns;
    GArray *extents;
    extents_done *done;
    void *arg;
};

/* ---- On a worker ---- */

static int64_t precise_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int add_extent(void *arg, uint64_t length, uint32_t flags)
{
    struct scan *scan = arg;
    struct extent extent, *last;

    if (length == 0)
        return 0;
    if (length > scan->length - scan->reached)
        length = scan->length - scan->reached;
    scan->reached += length;
    extent = (struct extent){ scan->offset + scan->reached, flags };
    last = scan->extents->len > 0
               ? &g_array_index(scan->extents, struct extent, scan->extents->len - 1) : NULL;
    if (last != NULL && last->flags == flags)
        last->end = extent.end;
    else
        g_array_append_val(scan->extents, extent);
    if (scan->reached == scan->length || scan->extents->len >= SCAN_EXTENTS_MAX)
        return 1;
    return scan->extents->len % 64 == 0 && precise_now_ns() > scan->deadline_ns;
}

static void on_worker(void *arg)
{
    struct scan *scan = arg;
    struct export *export = scan->export;

    scan->deadline_ns = precise_now_ns() + SCAN_NS;
    if (scan->handler->extents != NULL)
        scan->handler->extents(&export->dev, scan->offset, scan->length, add_extent, scan);
    if (scan->extents->len == 0) /* it cannot tell: data is never wrong */
        add_extent(scan, scan->length, NBD_EXTENT_DATA);
}

/* ---- On the loop ---- */

static struct extent_cache *cache_of(struct export *export)
{
    if (export->extents == NULL) {
        export->extents = g_new0(struct extent_cache, 1);
        export->extents->extents = g_array_new(FALSE, FALSE, sizeof(struct extent));
        export->extents->has_holes = true; /* until a scan says otherwise */
    }
    return export->extents;
}

static uint64_t cache_end(const struct extent_cache *cache)
{
    return cache->extents->len > 0
               ? g_array_index(cache->extents, struct extent, cache->extents->len - 1).end
               : cache->start;
}

static bool has_hole(const GArray *extents)
{
    for (guint i = 0; i < extents->len; i++)
        if (g_array_index(extents, struct extent, i).flags != NBD_EXTENT_DATA)
            return true;
    return false;
}

/* Keep what a scan has found: behind what is known, or instead of it. */
static void remember(struct extent_cache *cache, const struct scan *scan)
{
    bool appends = cache->changes == scan->changes && cache_end(cache) == scan->offset &&
                   cache->extents->len > 0 && cache->extents->len < CACHE_EXTENTS_MAX;

    if (!appends) {
        g_array_set_size(cache->extents, 0);
        cache->start = scan->offset;
        cache->changes = scan->changes;
    }
    g_array_append_vals(cache->extents, scan->extents->data, scan->extents->len);
}

static void on_scanned(void *arg)
{
    struct scan *scan = arg;
    struct extent_cache *cache = cache_of(scan->export);
    struct extent_view view = { (const struct extent *)(void *)scan->extents->data,
                                scan->extents->len };

    if (scan->changes == scan->export->changes) {
        bool whole = scan->offset == 0 && scan->reached == scan->export->size;

        cache->has_holes = (!whole && cache->has_holes) || has_hole(scan->extents);
        remember(cache, scan);
    }
    request_left(scan->export);
    scan->done(scan->arg, &view);
    g_array_free(scan->extents, TRUE);
    g_free(scan);
}

void extents_scan(struct export *export, uint64_t offset, uint64_t length, extents_done *done,
                  void *arg)
{
    struct scan *scan = g_new0(struct scan, 1);

    scan->export = export;
    scan->handler = export->io;
    export->submitted++;
    scan->offset = offset;
    scan->length = length;
    scan->changes = export->changes;
    scan->extents = g_array_new(FALSE, FALSE, sizeof(struct extent));
    scan->done = done;
    scan->arg = arg;
    worker_run(export->server->workers, on_worker, on_scanned, scan);
}

bool extents_cached(const struct export *export, uint64_t offset, struct extent_view *ret_view)
{
    const struct extent_cache *cache = export->extents;
    const struct extent *all;
    size_t low = 0, high;

    if (cache == NULL || cache->changes != export->changes || offset < cache->start ||
        offset >= cache_end(cache))
        return false;
    all = (const struct extent *)(void *)cache->extents->data;
    high = cache->extents->len - 1;
    while (low < high) { /* the first that ends behind the offset */
        size_t middle = low + (high - low) / 2;

        if (all[middle].end > offset)
            high = middle;
        else
            low = middle + 1;
    }
    *ret_view = (struct extent_view){ all + low, cache->extents->len - low };
    return true;
}

bool extents_worth_asking(const struct export *export)
{
    struct extent_cache *cache = cache_of((struct export *)export);
    int64_t now = loop_now_ns();

    if (export->io->extents == NULL || !cache->has_holes)
        return false;
    if (cache->last_changes != export->changes) {
        cache->last_changes = export->changes;
        cache->changed_ns = now;
    }
    return now - cache->changed_ns >= QUIET_NS || export->changes == 0;
}

void extents_drop(struct export *export)
{
    if (export->extents == NULL)
        return;
    g_array_free(export->extents->extents, TRUE);
    g_clear_pointer(&export->extents, g_free);
}
