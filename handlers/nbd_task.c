/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What the server is asked to do: a task is sent piece by piece, one piece at a time, to the
 * least busy connection, and again when the connection is lost before the answer. Knows
 * nothing of how connections come and go. Loop thread.
 *
 * A flush covers the changes that were acknowledged before it. Acknowledged changes that no
 * flush has covered may have died with the server: then the flushes that wait fail, or the
 * next one does, so that nobody believes that these changes are safe.
 */
#include "nbd.h"

#define IN_FLIGHT_MAX 64 /* on one connection: servers stop reading at some number */

/* Ranges without payload; a multiple of each block size. */
#define RANGE_MAX (UINT64_C(1) << 31)

static bool is_transfer(const struct task *task)
{
    return task->op == NBD_OP_READ || task->op == NBD_OP_WRITE;
}

static bool is_change(const struct task *task)
{
    return task->op == NBD_OP_WRITE || task->op == NBD_OP_TRIM ||
           task->op == NBD_OP_WRITE_ZEROES;
}

static void queue_task(GQueue *queue, struct task *task)
{
    task->in_queue.data = task;
    g_queue_push_tail_link(queue, &task->in_queue);
}

static struct task *take_task(GQueue *queue)
{
    GList *link = g_queue_pop_head_link(queue);

    return link != NULL ? link->data : NULL;
}

static void set_deadline(struct session *session, struct task *task)
{
    task->deadline = g_get_monotonic_time() + session->timeout_us;
    g_queue_push_tail_link(&session->by_deadline, &task->by_deadline);
    session_arm(session, task->deadline);
}

static void end_task(struct session *session, struct task *task, int result)
{
    g_queue_unlink(&session->by_deadline, &task->by_deadline);
    task->end(task, result);
}

/* Let task_settle_one() end it. */
static void fail_task(struct session *session, struct task *task)
{
    task->error = EIO;
    queue_task(&session->completed, task);
}

/* ---- Answers ---- */

/* Called by libnbd in the middle of a call, with the connection locked. */
static int on_completed(void *user_data, int *error)
{
    struct task *task = user_data;
    struct session *session = task->connection->session;

    task->error = *error;
    if (*error != ENOTCONN)
        session->answers++;
    if (task->op == NBD_OP_READ)
        session->bytes_read += task->piece;
    queue_task(&session->completed, task);
    return 1; /* libnbd may forget it */
}

static int on_extents(void *user_data, const char *context, uint64_t offset, uint32_t *entries,
                      size_t n_entries, int *error)
{
    struct task *task = user_data;

    (void)offset;
    (void)error;
    if (g_strcmp0(context, LIBNBD_CONTEXT_BASE_ALLOCATION) == 0)
        g_array_append_vals(task->extents, entries, (guint)n_entries);
    return 0;
}

/* Start over: a change may be lost in all its parts. */
static void rewind_task(struct task *task)
{
    if (is_change(task))
        task->done = 0;
    if (task->extents != NULL)
        g_array_set_size(task->extents, 0);
    task->error = 0;
}

static void settle_success(struct session *session, struct task *task)
{
    task->done += task->piece;
    if (task->done < task->length && task->op != OP_STATUS) {
        g_queue_unlink(&session->by_deadline, &task->by_deadline);
        set_deadline(session, task); /* it makes progress */
        queue_task(&session->waiting, task);
        return;
    }
    if (is_change(task) && !(task->flags & NBD_RQ_FUA))
        session->changes++;
    else if (task->op == NBD_OP_FLUSH)
        session->changes_synced = MAX(session->changes_synced, task->changes_before);
    end_task(session, task, 0);
}

bool task_settle_one(struct session *session)
{
    struct task *task = take_task(&session->completed);
    bool was_sent;

    if (task == NULL)
        return false;
    was_sent = task->connection != NULL;
    if (was_sent)
        task->connection->in_flight--;
    task->connection = NULL;
    if (task->error == 0) {
        settle_success(session, task);
    } else if (was_sent && (task->error == ENOTCONN || task->error == ESHUTDOWN)) {
        session_spoil(session, "%s", task->error == ENOTCONN ? "the server closed it"
                                                             : "the server shuts down");
        rewind_task(task);
        queue_task(&session->waiting, task);
    } else {
        end_task(session, task, -task->error);
    }
    return true;
}

/* ---- Sending ---- */

static uint32_t flags_for(const struct task *task)
{
    _Static_assert(NBD_RQ_FUA == LIBNBD_CMD_FLAG_FUA &&
                   NBD_RQ_NO_HOLE == LIBNBD_CMD_FLAG_NO_HOLE &&
                   NBD_RQ_FAST_ZERO == LIBNBD_CMD_FLAG_FAST_ZERO, "both are the protocol's");
    return is_change(task) ? task->flags : 0;
}

static int64_t send_piece(struct nbd_handle *handle, struct task *task)
{
    nbd_completion_callback completion = {.callback = on_completed, .user_data = task};
    nbd_extent_callback extent = {.callback = on_extents, .user_data = task};
    uint64_t at = task->offset + task->done;
    uint32_t flags = flags_for(task);

    switch (task->op) {
    case NBD_OP_READ:
        return nbd_aio_pread(handle, task->data + task->done, task->piece, at, completion, 0);
    case NBD_OP_WRITE:
        return nbd_aio_pwrite(handle, task->data + task->done, task->piece, at, completion,
                              flags);
    case NBD_OP_FLUSH:
        return nbd_aio_flush(handle, completion, 0);
    case NBD_OP_TRIM:
        return nbd_aio_trim(handle, task->piece, at, completion, flags);
    case NBD_OP_CACHE:
        return nbd_aio_cache(handle, task->piece, at, completion, 0);
    case NBD_OP_WRITE_ZEROES:
        return nbd_aio_zero(handle, task->piece, at, completion, flags);
    default:
        return nbd_aio_block_status(handle, task->piece, at, extent, completion, 0);
    }
}

static struct connection *least_busy(struct session *session)
{
    struct connection *best = &session->connections[0];

    for (unsigned i = 1; i < session->n_connections; i++)
        if (session->connections[i].in_flight < best->in_flight)
            best = &session->connections[i];
    return best->in_flight < IN_FLIGHT_MAX ? best : NULL;
}

bool task_issue_one(struct session *session)
{
    struct connection *connection = least_busy(session);
    struct task *task = connection != NULL ? take_task(&session->waiting) : NULL;
    uint64_t most;

    if (task == NULL)
        return false;
    most = is_transfer(task) ? session->piece_max : RANGE_MAX;
    task->piece = MIN(task->length - task->done, most);
    task->changes_before = session->changes;
    task->connection = connection;
    connection->in_flight++;
    connection->touched = true;
    if (send_piece(connection->handle, task) < 0) {
        /* It was not even queued: libnbd finds fault with it, or the connection is dead. */
        int code = nbd_get_errno();

        task->error = nbd_aio_is_ready(connection->handle) > 0 ||
                              nbd_aio_is_processing(connection->handle) > 0
                          ? (code > 0 ? code : EIO) : ENOTCONN;
        queue_task(&session->completed, task);
    }
    return true;
}

void task_start(struct session *session, struct task *task)
{
    task->by_deadline.data = task;
    set_deadline(session, task);
    if (session->fault != NULL) {
        fail_task(session, task);
    } else if (task->op == NBD_OP_FLUSH && session->owes_error) {
        session->owes_error = false;
        fail_task(session, task);
    } else {
        queue_task(&session->waiting, task);
    }
    session_settle(session);
}

/* ---- When things go wrong ---- */

void task_requeue_all(struct session *session)
{
    for (GList *link = session->by_deadline.head; link != NULL; link = link->next) {
        struct task *task = link->data;

        rewind_task(task);
        if (task->connection != NULL)
            queue_task(&session->waiting, task);
        task->connection = NULL;
    }
}

static bool is_any(const struct task *task)
{
    (void)task;
    return true;
}

static bool is_flush(const struct task *task)
{
    return task->op == NBD_OP_FLUSH;
}

/* All of them wait: there is no connection. */
static unsigned fail_waiting(struct session *session,
                             bool (*is_meant)(const struct task *task))
{
    unsigned n = 0;

    for (GList *link = session->waiting.head, *next; link != NULL; link = next) {
        struct task *task = link->data;

        next = link->next;
        if (!is_meant(task))
            continue;
        g_queue_unlink(&session->waiting, link);
        fail_task(session, task);
        n++;
    }
    return n;
}

unsigned task_fail_all(struct session *session)
{
    return fail_waiting(session, is_any);
}

unsigned task_fail_flushes(struct session *session)
{
    return fail_waiting(session, is_flush);
}

void task_expire(struct session *session, int64_t now)
{
    GList *next;

    for (GList *link = session->by_deadline.head; link != NULL; link = next) {
        struct task *task = link->data;

        next = link->next;
        if (task->deadline > now)
            return;
        if (task->error != 0)
            continue; /* it fails already */
        g_queue_unlink(&session->waiting, &task->in_queue);
        fail_task(session, task);
    }
}
