/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Where an image has data. With the feature fast-diff the object map tells, object by object;
 * without it every object is asked. librbd names what is there, the rest reads as zeroes. It
 * is asked in jobs, for worker threads; who gets no answer takes all for data.
 */
#include "ceph.h"

/* Clients wait for it with requests of theirs, and can do without. */
#define EXTENTS_LIMIT_SECONDS 5

/* Jobs that hang must not become ever more. */
#define EXTENTS_JOBS_MAX 4

/* Objects at a time; the object map costs no time for each. */
#define OBJECTS_BY_MAP 16384
#define OBJECTS_BY_ASKING 1024

struct extent {
    uint64_t start, end;
};

static uint64_t round_down(uint64_t offset, uint64_t unit)
{
    return offset - offset % unit;
}

/* ---- In the job ---- */

static int on_extent(uint64_t offset, size_t length, int exists, void *arg)
{
    struct job *job = arg;
    struct extent extent = {MAX(offset, job->offset),
                            MIN(offset + length, job->offset + job->length)};

    if (exists && extent.start < extent.end)
        g_array_append_val(job->extents, extent);
    return 0;
}

static int by_start(const void *a, const void *b)
{
    const struct extent *left = a, *right = b;

    return left->start < right->start ? -1 : left->start > right->start;
}

static int extents_work(struct job *job)
{
    struct session *session = job->session;
    bool by_map = (session->features & RBD_FEATURE_FAST_DIFF) != 0;
    /* librbd before 1.17 reports wrong places unless it starts at an object. */
    uint64_t start = round_down(job->offset, session->object_bytes);
    int r = -EBUSY;

    if (atomic_fetch_add(&session->extents_running, 1) < EXTENTS_JOBS_MAX)
        r = rbd_diff_iterate2(session->rbd, NULL, start, job->offset + job->length - start, 1,
                              by_map, on_extent, job);
    atomic_fetch_sub(&session->extents_running, 1);
    if (r < 0)
        return nbd_fail(&job->why, -r, "the extents cannot be read");
    g_array_sort(job->extents, by_start); /* stripes come in the order of objects */
    return 0;
}

/* ---- On the worker ---- */

/* Extents for [at, end) from those with data; what add() answers ends it. */
static int report(const GArray *extents, uint64_t at, uint64_t end, nbd_add_extent *add,
                  void *arg)
{
    for (unsigned i = 0; i < extents->len; i++) {
        const struct extent *data = &g_array_index(extents, struct extent, i);

        if (data->start > at && add(arg, data->start - at, NBD_EXTENT_HOLE | NBD_EXTENT_ZERO))
            return 1;
        at = MAX(at, data->start);
        if (data->end > at && add(arg, data->end - at, NBD_EXTENT_DATA))
            return 1;
        at = MAX(at, data->end);
    }
    return at < end && add(arg, end - at, NBD_EXTENT_HOLE | NBD_EXTENT_ZERO);
}

/* 1: enough. */
static int some_extents(struct image *image, uint64_t offset, uint64_t length,
                        nbd_add_extent *add, void *arg)
{
    struct job *job = job_new(image, extents_work, "read the extents of");
    int r;

    job->limit_s = EXTENTS_LIMIT_SECONDS;
    job->session = session_ref(image->session);
    job->extents = g_array_new(FALSE, FALSE, sizeof(struct extent));
    job->offset = offset;
    job->length = length;
    if (!job_run(job, &r, NULL))
        return r;
    if (r == 0)
        r = report(job->extents, offset, offset + length, add, arg);
    job_free(job);
    return r;
}

static bool can_tell(const struct session *session)
{
    static const int fixed = LIBRBD_VERSION(1, 17, 0);
    int major, minor, extra;

    rbd_version(&major, &minor, &extra);
    if (LIBRBD_VERSION(major, minor, extra) >= fixed)
        return true;
    /* Where it is wrong, starting at an object is no remedy for these. */
    return !(session->features & RBD_FEATURE_FAST_DIFF) ||
           (!session->is_striped && !session->is_clone);
}

int ceph_extents(struct nbd_device *dev, uint64_t offset, uint64_t length,
                 nbd_add_extent *add, void *arg)
{
    struct image *image = dev->priv;
    struct session *session = image->session;
    uint64_t objects = session->features & RBD_FEATURE_FAST_DIFF ? OBJECTS_BY_MAP
                                                                 : OBJECTS_BY_ASKING;
    uint64_t step = objects * session->object_bytes, end = offset + length;
    int r = 0;

    if (!can_tell(session) || atomic_load(&session->lost))
        return -ENOTSUP;
    while (r == 0 && offset < end) {
        uint64_t next = MIN(end, round_down(offset, session->object_bytes) + step);

        r = some_extents(image, offset, next - offset, add, arg);
        offset = next;
    }
    return MIN(r, 0);
}
