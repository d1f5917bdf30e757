/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The nbd handler: an export of another NBD server as a backstore, through libnbd. Here are
 * the handler's table, its options, opening and closing, and the wait for extents; nbd.h says
 * where the rest is. The control callbacks run on worker threads.
 */
#include <inttypes.h>
#include <string.h>

#include "nbd.h"

#define TIMEOUT_S 30 /* of a request, when the option does not say */

/* A backstore: dev->priv. */
struct remote {
    struct address *address;
    unsigned timeout_s;
    struct session *session; /* while mapped */
    uint64_t size;           /* of the mapped device */
};

static const struct nbd_host *host;

/* ---- Options ---- */

static int parse_number(const struct nbd_opt *opt, unsigned most, unsigned *ret,
                        struct nbd_failure *why)
{
    guint64 number;

    if (!g_ascii_string_to_unsigned(opt->value, 10, 1, most, &number, NULL))
        return nbd_fail(why, EINVAL, "option %s is a number from 1 to %u, not '%s'", opt->key,
                        most, opt->value);
    *ret = (unsigned)number;
    return 0;
}

static int parse_opt(struct remote *remote, const struct nbd_opt *opt, struct nbd_failure *why)
{
    struct address *address = remote->address;

    if (strcmp(opt->key, "connections") == 0)
        return parse_number(opt, CONNECTIONS_MAX, &address->connections, why);
    if (strcmp(opt->key, "request_timeout") == 0)
        return parse_number(opt, 86400, &remote->timeout_s, why);
    if (strcmp(opt->key, "tls_certificates") != 0)
        return nbd_fail(why, EINVAL, "the nbd handler has no option '%s'; it has connections, "
                        "request_timeout and tls_certificates", opt->key);
    if (!g_path_is_absolute(opt->value))
        return nbd_fail(why, EINVAL, "option tls_certificates is the absolute path of a "
                        "directory, not '%s'", opt->value);
    g_free(address->certificates);
    address->certificates = g_strdup(opt->value);
    return 0;
}

static void destroy(struct nbd_device *dev)
{
    struct remote *remote = dev->priv;

    if (remote == NULL)
        return;
    address_unref(remote->address);
    g_free(remote);
    dev->priv = NULL;
}

static int cfg_parse(struct nbd_device *dev, const char *cfgstring, struct nbd_failure *why)
{
    struct remote *remote = g_new0(struct remote, 1);
    int r = 0;

    remote->address = g_atomic_rc_box_new0(struct address);
    remote->address->shown = g_strdup(cfgstring);
    remote->address->writable = !dev->readonly;
    remote->address->may_name_files = dev->trusted;
    remote->timeout_s = TIMEOUT_S;
    dev->priv = remote;
    for (size_t i = 0; i < dev->n_opts && r == 0; i++)
        r = parse_opt(remote, &dev->opts[i], why);
    if (r == 0)
        r = target_parse(remote->address, cfgstring, why);
    if (r < 0)
        destroy(dev);
    return r;
}

/* ---- What the daemon cannot do from here ---- */

static int create(struct nbd_device *dev, struct nbd_failure *why)
{
    return nbd_fail(why, ENOTSUP, "not supported by this backstore: make the export on the "
                    "server of '%s', then add it here", dev->target);
}

static int delete(struct nbd_device *dev, struct nbd_failure *why)
{
    return nbd_fail(why, ENOTSUP, "not supported by this backstore: '%s' can be removed on "
                    "its server only; \"keep-data\" forgets the export here", dev->target);
}

/* ---- Opening and closing ---- */

/* Our clients share the connections: a flush covers what any of them has written. */
static void describe(struct nbd_device *dev, const struct traits *traits)
{
    dev->caps = traits->caps | NBD_CAP_MULTI_CONN;
    dev->min_block = traits->min_block;
    dev->pref_block = traits->pref_block;
}

static int map(struct nbd_device *dev, struct nbd_failure *why)
{
    struct remote *remote = dev->priv;
    struct connected connected;
    struct traits traits;
    int r = connect_all(remote->address, -1, &connected, why);

    if (r < 0)
        return r;
    if (dev->readonly) /* what is not used may be gone when the server comes back */
        connected.traits.caps &= NBD_CAP_CACHE | NBD_CAP_ROTATIONAL;
    traits = connected.traits;
    if (remote->address->connections > connected.n)
        host->log(NBD_LOG_WARNING, "nbd '%s': the server takes %u of %u connections",
                  dev->target, connected.n, remote->address->connections);
    remote->size = traits.size;
    remote->session = session_open(host, dev, remote->address, remote->timeout_s, &connected,
                                   why);
    if (remote->session == NULL)
        return -why->code;
    describe(dev, &traits);
    return 0;
}

static void unmap(struct nbd_device *dev)
{
    struct remote *remote = dev->priv;

    session_close(remote->session);
    remote->session = NULL;
}

static int64_t get_size(struct nbd_device *dev)
{
    const struct remote *remote = dev->priv;

    return (int64_t)remote->size;
}

static int64_t get_blksize(struct nbd_device *dev)
{
    return dev->min_block <= 512 ? 0 : MIN(dev->min_block, 4096);
}

/* ---- Requests ---- */

static void on_request_ended(struct task *task, int result)
{
    struct nbd_request *rq = task->subject;

    g_free(task);
    rq->done(rq, result);
}

static void submit(struct nbd_request *rq)
{
    struct remote *remote = rq->dev->priv;
    struct task *task = g_new0(struct task, 1);

    task->op = rq->op;
    task->flags = rq->flags;
    task->offset = rq->offset;
    task->length = rq->length;
    task->data = rq->data;
    task->end = on_request_ended;
    task->subject = rq;
    task_start(remote->session, task);
}

/* ---- Extents ---- */

/* A question that a worker asks on the loop, whose connections they are. Counted: the worker
 * does not wait for ever. */
struct inquiry {
    GMutex mutex;
    GCond answered;
    bool is_answered;
    int result;
    struct session *session;
    struct task task;
};

static void inquiry_clear(void *arg)
{
    struct inquiry *inquiry = arg;

    g_array_free(inquiry->task.extents, TRUE);
    g_mutex_clear(&inquiry->mutex);
    g_cond_clear(&inquiry->answered);
}

static void inquiry_unref(struct inquiry *inquiry)
{
    g_atomic_rc_box_release_full(inquiry, inquiry_clear);
}

static void on_inquiry_ended(struct task *task, int result)
{
    struct inquiry *inquiry = task->subject;

    g_mutex_lock(&inquiry->mutex);
    inquiry->is_answered = true;
    inquiry->result = result;
    g_cond_signal(&inquiry->answered);
    g_mutex_unlock(&inquiry->mutex);
    inquiry_unref(inquiry);
}

/* While the server is away nobody waits for it: -ENOTSUP stands for "all data". */
static void start_inquiry(void *arg)
{
    struct inquiry *inquiry = arg;

    if (inquiry->session->has_allocation && inquiry->session->state == SESSION_UP)
        task_start(inquiry->session, &inquiry->task);
    else
        on_inquiry_ended(&inquiry->task, -ENOTSUP);
}

static struct inquiry *inquiry_new(struct session *session, uint64_t offset, uint64_t length)
{
    struct inquiry *inquiry = g_atomic_rc_box_new0(struct inquiry);

    g_mutex_init(&inquiry->mutex);
    g_cond_init(&inquiry->answered);
    inquiry->session = session;
    inquiry->task.op = OP_STATUS;
    inquiry->task.offset = offset;
    inquiry->task.length = length;
    inquiry->task.extents = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    inquiry->task.end = on_inquiry_ended;
    inquiry->task.subject = inquiry;
    return inquiry;
}

/* The loop answers in the time of a request; the rest is for a loop that has ended. */
static int await(struct inquiry *inquiry, unsigned timeout_s)
{
    int64_t limit = g_get_monotonic_time() + (timeout_s + 5) * G_TIME_SPAN_SECOND;
    int result = -ETIMEDOUT;

    g_mutex_lock(&inquiry->mutex);
    while (!inquiry->is_answered)
        if (!g_cond_wait_until(&inquiry->answered, &inquiry->mutex, limit))
            break;
    if (inquiry->is_answered)
        result = inquiry->result;
    g_mutex_unlock(&inquiry->mutex);
    return result;
}

/* Passes on one answer. Returns the bytes that it tells about, or a negative errno; *enough
 * when nobody wants to know more. */
static int64_t pass_on(const GArray *extents, uint64_t length, nbd_add_extent *add, void *arg,
                       bool *enough)
{
    uint64_t told = 0;

    for (guint i = 0; i + 1 < extents->len && told < length && !*enough; i += 2) {
        uint64_t bytes = MIN(g_array_index(extents, uint32_t, i), length - told);
        uint32_t flags = g_array_index(extents, uint32_t, i + 1);

        if (bytes == 0)
            return -EPROTO;
        *enough = add(arg, bytes, flags & (NBD_EXTENT_HOLE | NBD_EXTENT_ZERO)) != 0;
        told += bytes;
    }
    return told > 0 ? (int64_t)told : -EPROTO;
}

static int extents(struct nbd_device *dev, uint64_t offset, uint64_t length,
                   nbd_add_extent *add, void *arg)
{
    struct remote *remote = dev->priv;
    bool enough = false;

    while (length > 0 && !enough) {
        struct inquiry *inquiry = inquiry_new(remote->session, offset, length);
        int64_t r;

        g_atomic_rc_box_acquire(inquiry); /* for the loop */
        host->post(start_inquiry, inquiry);
        r = await(inquiry, remote->timeout_s);
        if (r == 0)
            r = pass_on(inquiry->task.extents, length, add, arg, &enough);
        inquiry_unref(inquiry);
        if (r == -ENOTSUP) { /* it cannot tell: data is never wrong */
            add(arg, length, NBD_EXTENT_DATA);
            return 0;
        }
        if (r < 0)
            return (int)r;
        offset += (uint64_t)r;
        length -= (uint64_t)r;
    }
    return 0;
}

/* ---- The handler ---- */

static struct nbd_handler handler = {
    .name = "nbd",
    .subtype = 17,
    .cfg_parse = cfg_parse,
    .create = create,
    .delete = delete,
    .map = map,
    .unmap = unmap,
    .get_size = get_size,
    .get_blksize = get_blksize,
    .submit = submit,
    .extents = extents,
    .destroy = destroy,
};

__attribute__((visibility("default")))
struct nbd_handler *handler_init(const struct nbd_config *config)
{
    host = config->host;
    return &handler;
}
