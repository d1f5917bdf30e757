/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Memory for payloads: page-aligned buffers in classes of powers of two, kept for the next
 * user, within a budget for the whole daemon. Loop thread only.
 *
 * Each export has a share of the budget: at most twice what is free. So one whose storage is
 * stuck ends at two thirds, two of them leave a fifth to the others, and so on.
 */
#ifndef NR_BUFFER_H
#define NR_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "loop.h"

struct buffer_pool;

/* What an export has of the budget, and who waits for more. Embedded; all zero at first. */
struct buffer_share {
    uint64_t used; /* bytes that are lent out */
    /* buffer.c's own: */
    struct buffer_waiter *first, *last;
    struct buffer_share *next, *previous; /* of those for whom somebody waits */
};

/* Somebody whose next buffer did not fit. Embedded; woken once, in order of waiting for one
 * share; the shares take turns. */
struct buffer_waiter {
    struct buffer_waiter *next, *previous; /* buffer.c's own */
    struct buffer_share *share;            /* its own, too */
    size_t size;                           /* of the buffer */
    bool waiting;
    void (*wake)(void *arg);
    void *arg;
};

/* budget_bytes: of buffers that are lent out. */
struct buffer_pool *buffer_pool_new(struct loop *loop, uint64_t budget_bytes);
void buffer_pool_free(struct buffer_pool *pool); /* all buffers have come back */

/* A buffer of at least `size` bytes (1 .. 64 MiB), or NULL when it exceeds budget or share or
 * there is no memory. One buffer always fits, however small the budget. `urgent`: beyond both
 * too, for those who could never wait. */
void *buffer_alloc(struct buffer_pool *pool, struct buffer_share *share, size_t size,
                   bool urgent);
void buffer_free(struct buffer_pool *pool, struct buffer_share *share, void *buffer,
                 size_t size);

/* The same for what is on its way in or out and has to be kept somewhere. Outside the budget:
 * if it counted, those who wait for memory could use it up with what they keep meanwhile. */
void *buffer_alloc_kept(struct buffer_pool *pool, size_t size);
void buffer_free_kept(struct buffer_pool *pool, void *buffer, size_t size);

/* A buffer that is not to be expected back soon leaves the budget, so that others can go on,
 * and is freed with buffer_free_aside(). False: that much as the budget has left it already,
 * and it still counts. */
bool buffer_set_aside(struct buffer_pool *pool, struct buffer_share *share, size_t size);
void buffer_free_aside(struct buffer_pool *pool, void *buffer, size_t size);

/* Wake the waiter when buffers have come back and the share allows one of `size` bytes. The
 * share outlives the wait. */
void buffer_wait(struct buffer_pool *pool, struct buffer_share *share, size_t size,
                 struct buffer_waiter *waiter);
void buffer_wait_cancel(struct buffer_pool *pool, struct buffer_waiter *waiter);

/* Who was woken, or waits, and no longer wants anything lets the next one try. */
void buffer_wait_give_up(struct buffer_pool *pool, struct buffer_waiter *waiter);

bool buffer_is_awaited(const struct buffer_pool *pool); /* somebody waits */

/* Would buffers of this share help somebody who waits: one who waits for the same share, or
 * one whose own share would allow it? */
bool buffer_is_wanted(const struct buffer_pool *pool, const struct buffer_share *share);

uint64_t buffer_pool_used(const struct buffer_pool *pool); /* bytes lent out, of all kinds */

#endif
