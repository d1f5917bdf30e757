/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Memory for payloads. Each class keeps a stack of free buffers, so that the one that was
 * used last, and is still in the CPU's cache, is taken first. What a class did not need for
 * some seconds goes back to the system.
 */
#include "buffer.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <glib.h>

#define SMALLEST_SHIFT 12 /* 4 KiB */
#define LARGEST_SHIFT 26  /* 64 MiB */
#define N_CLASSES (LARGEST_SHIFT - SMALLEST_SHIFT + 1)
#define CACHE_BYTES (64u << 20) /* free memory that is kept at most */
#define TRIM_SECONDS 2

struct free_buffer {
    struct free_buffer *next;
};

struct buffer_class {
    struct free_buffer *free;
    unsigned n_free;
    unsigned least_free; /* since the last trim: that many were not needed */
};

struct buffer_pool {
    struct buffer_class classes[N_CLASSES];
    /* Bytes. Kept and aside: lent out beside the budget. */
    uint64_t used, kept, aside, cached, budget;
    struct buffer_share *first, *last; /* for whom somebody waits */
    struct event *trim;
};

static unsigned class_of(size_t size)
{
    unsigned shift = SMALLEST_SHIFT;

    assert(size > 0 && size <= (size_t)1 << LARGEST_SHIFT);
    if (size > (size_t)1 << SMALLEST_SHIFT)
        shift = 64 - (unsigned)__builtin_clzl(size - 1);
    return shift - SMALLEST_SHIFT;
}

static size_t class_size(unsigned class)
{
    return (size_t)1 << (class + SMALLEST_SHIFT);
}

/* Large buffers are mapped by themselves: they go back to the system when they are freed. */
static void *system_alloc(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

static void drop_free(struct buffer_pool *pool, unsigned class)
{
    struct free_buffer *buffer = pool->classes[class].free;

    pool->classes[class].free = buffer->next;
    pool->classes[class].n_free--;
    pool->cached -= class_size(class);
    munmap(buffer, class_size(class));
}

static void on_trim(evutil_socket_t fd, short what, void *arg)
{
    struct buffer_pool *pool = arg;

    (void)fd;
    (void)what;
    for (unsigned class = 0; class < N_CLASSES; class++) {
        struct buffer_class *c = &pool->classes[class];

        for (unsigned idle = MIN(c->least_free, c->n_free); idle > 0; idle--)
            drop_free(pool, class);
        c->least_free = c->n_free;
    }
    if (pool->cached > 0)
        event_add(pool->trim, &(struct timeval){ .tv_sec = TRIM_SECONDS });
}

struct buffer_pool *buffer_pool_new(struct loop *loop, uint64_t budget_bytes)
{
    struct buffer_pool *pool = g_new0(struct buffer_pool, 1);

    pool->budget = budget_bytes;
    pool->trim = evtimer_new(loop_base(loop), on_trim, pool);
    return pool;
}

void buffer_pool_free(struct buffer_pool *pool)
{
    if (pool == NULL)
        return;
    for (unsigned class = 0; class < N_CLASSES; class++)
        while (pool->classes[class].free != NULL)
            drop_free(pool, class);
    event_free(pool->trim);
    g_free(pool);
}

/* From the free ones, or a new one; its size is added to *count. */
static void *lend(struct buffer_pool *pool, unsigned class, uint64_t *count)
{
    struct buffer_class *c = &pool->classes[class];
    void *buffer = c->free;

    if (buffer != NULL) {
        c->free = c->free->next;
        c->n_free--;
        c->least_free = MIN(c->least_free, c->n_free);
        pool->cached -= class_size(class);
    } else {
        buffer = system_alloc(class_size(class));
    }
    if (buffer != NULL)
        *count += class_size(class);
    return buffer;
}

static void take_back(struct buffer_pool *pool, void *buffer, unsigned class, uint64_t *count)
{
    struct buffer_class *c = &pool->classes[class];
    struct free_buffer *item = buffer;

    *count -= class_size(class);
    if (pool->cached + class_size(class) > MIN(CACHE_BYTES, pool->budget)) {
        munmap(buffer, class_size(class));
        return;
    }
    if (pool->cached == 0 && !evtimer_pending(pool->trim, NULL))
        event_add(pool->trim, &(struct timeval){ .tv_sec = TRIM_SECONDS });
    item->next = c->free;
    c->free = item;
    c->n_free++;
    pool->cached += class_size(class);
}

static bool share_allows(const struct buffer_pool *pool, const struct buffer_share *share,
                         size_t bytes)
{
    uint64_t unused = pool->budget - MIN(pool->used, pool->budget);

    return share->used == 0 || share->used + bytes <= 2 * unused;
}

void *buffer_alloc(struct buffer_pool *pool, struct buffer_share *share, size_t size,
                   bool urgent)
{
    unsigned class = class_of(size);
    size_t whole = class_size(class);
    void *buffer;

    if (pool->used > 0 && !urgent &&
        (pool->used + whole > pool->budget || !share_allows(pool, share, whole)))
        return NULL;
    buffer = lend(pool, class, &pool->used);
    if (buffer != NULL)
        share->used += whole;
    return buffer;
}

void *buffer_alloc_kept(struct buffer_pool *pool, size_t size)
{
    return lend(pool, class_of(size), &pool->kept);
}

void buffer_free_kept(struct buffer_pool *pool, void *buffer, size_t size)
{
    take_back(pool, buffer, class_of(size), &pool->kept);
}

/* ---- Waiting ---- */

static void append_share(struct buffer_pool *pool, struct buffer_share *share)
{
    share->next = NULL;
    share->previous = pool->last;
    *(pool->last != NULL ? &pool->last->next : &pool->first) = share;
    pool->last = share;
}

static void remove_share(struct buffer_pool *pool, struct buffer_share *share)
{
    *(share->previous != NULL ? &share->previous->next : &pool->first) = share->next;
    *(share->next != NULL ? &share->next->previous : &pool->last) = share->previous;
}

void buffer_wait(struct buffer_pool *pool, struct buffer_share *share, size_t size,
                 struct buffer_waiter *waiter)
{
    if (waiter->waiting)
        return;
    if (share->first == NULL)
        append_share(pool, share);
    waiter->waiting = true;
    waiter->share = share;
    waiter->size = class_size(class_of(size));
    waiter->next = NULL;
    waiter->previous = share->last;
    *(share->last != NULL ? &share->last->next : &share->first) = waiter;
    share->last = waiter;
}

void buffer_wait_cancel(struct buffer_pool *pool, struct buffer_waiter *waiter)
{
    struct buffer_share *share = waiter->share;

    if (!waiter->waiting)
        return;
    waiter->waiting = false;
    *(waiter->previous != NULL ? &waiter->previous->next : &share->first) = waiter->next;
    *(waiter->next != NULL ? &waiter->next->previous : &share->last) = waiter->previous;
    if (share->first == NULL)
        remove_share(pool, share);
}

/* The first whose share allows what it waits for. Where none does, those shares have buffers
 * that will come back. */
static struct buffer_share *find_first(const struct buffer_pool *pool)
{
    struct buffer_share *share = pool->first;

    while (share != NULL && !share_allows(pool, share, share->first->size))
        share = share->next;
    return share;
}

static void wake_first(struct buffer_pool *pool)
{
    struct buffer_share *share = find_first(pool);
    struct buffer_waiter *waiter;

    if (share == NULL)
        return;
    remove_share(pool, share);
    append_share(pool, share); /* the others go first next time */
    waiter = share->first;
    buffer_wait_cancel(pool, waiter);
    waiter->wake(waiter->arg);
}

void buffer_wait_give_up(struct buffer_pool *pool, struct buffer_waiter *waiter)
{
    buffer_wait_cancel(pool, waiter);
    wake_first(pool);
}

/* ---- Giving back ---- */

void buffer_free(struct buffer_pool *pool, struct buffer_share *share, void *buffer,
                 size_t size)
{
    unsigned class = class_of(size);

    take_back(pool, buffer, class, &pool->used);
    share->used -= class_size(class);
    wake_first(pool);
}

bool buffer_set_aside(struct buffer_pool *pool, struct buffer_share *share, size_t size)
{
    size_t whole = class_size(class_of(size));

    if (pool->aside + whole > pool->budget)
        return false;
    pool->used -= whole;
    share->used -= whole;
    pool->aside += whole;
    wake_first(pool);
    return true;
}

void buffer_free_aside(struct buffer_pool *pool, void *buffer, size_t size)
{
    take_back(pool, buffer, class_of(size), &pool->aside);
}

uint64_t buffer_pool_used(const struct buffer_pool *pool)
{
    return pool->used + pool->kept + pool->aside;
}

bool buffer_is_awaited(const struct buffer_pool *pool)
{
    return pool->first != NULL;
}

bool buffer_is_wanted(const struct buffer_pool *pool, const struct buffer_share *share)
{
    return share->first != NULL || find_first(pool) != NULL;
}
