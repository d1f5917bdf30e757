/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The output of a connection: replies that are built in a buffer or queued with memory of
 * their own, sent in batches, data of files straight from the page cache. Loop thread. What
 * the replies say is reply.c's.
 */
#include "connection_private.h"

#include <errno.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>

#include "loop.h"
#include "server.h"
#include "transmission.h"

#define IOV_MAX_USED 64

/* ---- What is to be sent ---- */

/* Borrow the shared buffer, or one of our own while the shared one is lent. */
static bool take_out(struct connection *conn)
{
    conn->out = conn->taking ? conn->table->out : NULL;
    if (conn->out == NULL) {
        conn->out = buffer_alloc_kept(conn->server->buffers, SCRATCH_BYTES);
        conn->out_owned = conn->out != NULL;
    }
    conn->out_length = conn->out_sent = 0;
    return conn->out != NULL;
}

void *connection_reserve(struct connection *conn, size_t size)
{
    if (conn->out == NULL && !take_out(conn)) {
        connection_close(conn, "there is no memory for its replies");
        return NULL;
    }
    if (size > SCRATCH_BYTES - conn->out_length) {
        conn->out_full = true;
        return NULL;
    }
    return conn->out + conn->out_length;
}

void connection_commit(struct connection *conn, size_t size)
{
    conn->out_length += size;
    connection_touch(conn);
}

static size_t reply_size(const struct request *request)
{
    return request->head_length + request->data_length + request->tail_length;
}

void connection_queue_reply(struct connection *conn, struct request *request)
{
    if (conn->phase == PHASE_CLOSING || reply_size(request) == 0) {
        connection_request_free(conn, request);
    } else {
        request->next = NULL;
        *conn->replies_tail = request;
        conn->replies_tail = &request->next;
        conn->n_replies++;
    }
    connection_touch(conn);
}

static void pop_reply(struct connection *conn)
{
    struct request *request = conn->replies;

    conn->replies = request->next;
    if (conn->replies == NULL)
        conn->replies_tail = &conn->replies;
    conn->n_replies--;
    connection_request_free(conn, request);
}

static void free_replies(struct connection *conn)
{
    while (conn->replies != NULL) {
        struct request *request = conn->replies;

        conn->replies = request->next;
        connection_request_free(conn, request);
    }
    conn->replies_tail = &conn->replies;
    conn->n_replies = 0;
}

static void release_out(struct connection *conn)
{
    if (conn->out_owned)
        buffer_free_kept(conn->server->buffers, conn->out, SCRATCH_BYTES);
    conn->out = NULL;
    conn->out_owned = false;
    conn->out_length = conn->out_sent = 0;
}

void connection_drop_output(struct connection *conn)
{
    free_replies(conn);
    release_out(conn);
}

/* ---- Batches ---- */

/* What one sendmsg() is to send. */
struct batch {
    struct iovec iov[IOV_MAX_USED];
    unsigned n;
    size_t bytes;
    bool from_memory; /* in: data of files may be sent from where it is mapped */
    bool mapped;      /* some is */
    bool file_next;   /* then data from a file */
};

/* False: nothing may follow in this batch. */
static bool batch_add(struct batch *batch, const void *data, size_t length)
{
    size_t part = MIN(length, TURN_BYTES); /* the rest is for another turn */

    if (length == 0)
        return true;
    if (batch->n == IOV_MAX_USED)
        return false;
    batch->iov[batch->n++] = (struct iovec){ (void *)data, part };
    batch->bytes += part;
    return part == length;
}

/* One piece of a reply, `skip` bytes of which are sent already (updated). */
static bool batch_add_piece(struct batch *batch, const void *data, size_t length, size_t *skip)
{
    size_t n = MIN(*skip, length);

    *skip -= n;
    return n == length || batch_add(batch, (const uint8_t *)data + n, length - n);
}

/* The data of a file's reply, from `*skip` on, as far as it is mapped into memory. */
static bool batch_add_mapped(struct batch *batch, struct export *export,
                             const struct request *request, size_t *skip)
{
    while (*skip < request->data_length) {
        uint64_t length = request->data_length - *skip;
        const void *data = NULL;

        if (batch->from_memory && export->io->mapped != NULL)
            data = export->io->mapped(&export->dev, (uint64_t)request->file_offset + *skip,
                                      &length);
        batch->file_next = data == NULL;
        batch->mapped |= data != NULL;
        if (data == NULL || !batch_add(batch, data, length))
            return false;
        *skip += length;
    }
    *skip -= request->data_length;
    return true;
}

/* All of a reply that is not sent yet; false: no further reply may follow in this batch. */
static bool batch_add_reply(struct batch *batch, struct export *export,
                            const struct request *request)
{
    size_t skip = request->sent;

    return batch_add_piece(batch, request->head, request->head_length, &skip) &&
           (request->file >= 0
                ? batch_add_mapped(batch, export, request, &skip)
                : batch_add_piece(batch, request->data, request->data_length, &skip)) &&
           batch_add_piece(batch, request->tail, request->tail_length, &skip);
}

static void make_batch(const struct connection *conn, struct batch *batch)
{
    const struct request *request = conn->replies;

    batch->n = 0;
    batch->bytes = 0;
    batch->mapped = batch->file_next = false;
    /* A reply that has begun goes on before anything else. */
    if (request != NULL && request->sent > 0) {
        if (!batch_add_reply(batch, conn->export, request))
            return;
        request = request->next;
    }
    if (conn->out != NULL)
        batch_add(batch, conn->out + conn->out_sent, conn->out_length - conn->out_sent);
    while (request != NULL && batch->n < IOV_MAX_USED && batch->bytes < TURN_BYTES) {
        if (!batch_add_reply(batch, conn->export, request))
            return;
        request = request->next;
    }
}

/* ---- Sending ---- */

/* Account for bytes that have left, in the order of make_batch(). */
static void sent_reply_bytes(struct connection *conn, size_t *n)
{
    struct request *request = conn->replies;
    size_t part = MIN(*n, reply_size(request) - request->sent);

    request->sent += part;
    *n -= part;
    if (request->sent == reply_size(request))
        pop_reply(conn);
}

static void sent(struct connection *conn, size_t n)
{
    size_t part;

    if (conn->replies != NULL && conn->replies->sent > 0)
        sent_reply_bytes(conn, &n);
    part = MIN(n, conn->out_length - conn->out_sent);
    conn->out_sent += part;
    n -= part;
    if (conn->out_sent == conn->out_length)
        conn->out_sent = conn->out_length = 0;
    while (n > 0)
        sent_reply_bytes(conn, &n);
    conn->active_ns = loop_now_ns();
}

/* The data of the first reply, from its file; bytes, 0: it cannot now, or negative errno. */
static ssize_t send_file(struct connection *conn)
{
    struct request *request = conn->replies;
    size_t done = request->sent - request->head_length, rest = request->data_length - done;
    off_t offset = request->file_offset + (off_t)done;
    ssize_t n = sendfile(conn->fd, request->file, &offset, rest);

    if (n > 0)
        sent(conn, (size_t)n);
    else if (n == 0 || errno == EIO)
        transmission_file_failed(conn, request, -EIO); /* 0: it has become shorter */
    else
        return -errno;
    return n > 0 ? n : 0;
}

static ssize_t send_batch(struct connection *conn, const struct batch *batch)
{
    struct msghdr message = { .msg_iov = (struct iovec *)batch->iov, .msg_iovlen = batch->n };
    int more = batch->file_next ? MSG_MORE : 0;
    ssize_t n = sendmsg(conn->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT | more);

    if (n < 0)
        return -errno;
    sent(conn, (size_t)n);
    return n;
}

void connection_settle_out(struct connection *conn)
{
    size_t length = conn->out_length - conn->out_sent;
    uint8_t *own;

    if (length == 0) {
        release_out(conn);
    } else if (!conn->out_owned) {
        own = buffer_alloc_kept(conn->server->buffers, SCRATCH_BYTES);
        if (own == NULL) {
            release_out(conn);
            connection_close(conn, "there is no memory for its replies");
            return;
        }
        memcpy(own, conn->out + conn->out_sent, length);
        conn->out = own;
        conn->out_owned = true;
        conn->out_length = length;
        conn->out_sent = 0;
    }
}

/* Go on when the socket takes more. By then what the next reply refers to may have left the
 * page cache: it is looked at again. */
static void wait_writable(struct connection *conn)
{
    conn->recheck = true;
    event_add(conn->writable, NULL);
}

/* Must the next reply wait until its data has been read from storage? */
static bool is_loading(struct connection *conn)
{
    struct request *request = conn->replies;

    if (request == NULL || request->loading)
        return request != NULL;
    if (conn->recheck && request->file >= 0 && !transmission_is_cached(conn, request))
        transmission_load(conn, request);
    return request->loading;
}

/* Send a batch, or what it may not contain. Bytes, or negative errno. */
static ssize_t send_some(struct connection *conn, bool from_memory)
{
    struct batch batch = { .from_memory = from_memory };
    ssize_t n;

    make_batch(conn, &batch);
    n = batch.n > 0 ? send_batch(conn, &batch) : send_file(conn);
    /* A file has become shorter, and sendfile() will tell which. */
    return n == -EFAULT && batch.mapped ? send_some(conn, false) : n;
}

/* Send as much as the socket takes and fairness allows. Returns the bytes. */
static size_t send_all(struct connection *conn, bool from_memory)
{
    size_t total = 0;

    while (connection_has_output(conn) && conn->phase != PHASE_CLOSING && !is_loading(conn)) {
        ssize_t n = total < TURN_BYTES ? send_some(conn, from_memory) : -EAGAIN;

        if (n == -EAGAIN) {
            wait_writable(conn); /* for room, or to let the others go first */
            return total;
        }
        if (n < 0 && n != -EINTR)
            connection_close(conn, n == -EPIPE || n == -ECONNRESET ? "the client went away"
                                                                   : strerror((int)-n));
        total += (size_t)MAX(n, 0);
    }
    if (!connection_has_output(conn))
        conn->recheck = false;
    return total;
}

void connection_flush(struct connection *conn)
{
    if (conn->replies != NULL && conn->replies->file >= 0) {
        enum send_way way = send_way_begin(&conn->send_costs);

        send_way_end(&conn->send_costs, send_all(conn, way == SEND_FROM_MEMORY));
    } else {
        send_all(conn, true);
    }
}
