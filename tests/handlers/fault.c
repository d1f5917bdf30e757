/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * A handler that misbehaves to order, over memory. Options:
 *
 *   size=64M           of the device; without it what create() got
 *   delay_ms=N         requests end after N milliseconds, from a thread of the handler
 *   thread=true        requests end from a thread of the handler, at once
 *   hold=PATH          requests wait as long as this file exists
 *   error=EIO          requests end with this errno (a name below, or a number) ...
 *   op=read            ... if they are of this kind: read write flush trim cache zeroes any
 *   every=N            ... and then each Nth of them
 *   parse_hold=PATH    cfg_parse() waits as long as this file exists
 *   open_delay_ms=N, open_hold=PATH, open_error=EIO    the same for map()
 *   open_error_if=PATH                                 ... as long as this file exists
 *   create_error=EIO, create_hold=PATH                  the same for create()
 *   lost_if=PATH       when this file exists, a request removes it, reports the backstore as
 *                      lost and fails, as all do until it is opened again
 *   fenced=true        reports it as fenced instead
 *   troubled_if=PATH   the same, but it is back when this file is gone and a request comes
 *   holes=true         says that each second piece of 64 KiB is a hole
 *   extents_hold=PATH  says nothing about holes as long as this file exists
 *
 * Without a delay, a hold or a thread, requests end inside submit().
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "nbd-runner/handler.h"
#include "../../handlers/size_option.h"

#define OP_ANY UINT64_MAX
#define PIECE (UINT64_C(64) << 10)

static const struct nbd_host *host;

struct fault {
    uint64_t size;
    char *bytes;

    uint64_t delay_ms, open_delay_ms, every, op;
    uint64_t error, open_error, create_error;
    bool on_thread, holes, fenced, is_lost, is_troubled;
    atomic_bool canceled;
    const char *hold, *open_hold, *create_hold, *open_error_if, *extents_hold, *lost_if,
        *troubled_if, *parse_hold; /* the daemon's, as dev->opts */

    uint64_t seen; /* requests that `op` means; loop thread */

    pthread_t thread;
    pthread_mutex_t lock; /* of the rest */
    pthread_cond_t changed;
    bool stop;
    struct nbd_request *head, *tail;
};

/* In nbd_request.scratch. */
struct __attribute__((may_alias)) wait {
    struct nbd_request *next;
    uint64_t due_ms;
    int result;
};

static struct wait *wait_of(struct nbd_request *rq)
{
    return (struct wait *)rq->scratch;
}

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void sleep_ms(uint64_t ms)
{
    struct timespec time = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};

    nanosleep(&time, NULL);
}

static void sleep_while_exists(const char *path)
{
    while (path != NULL && access(path, F_OK) == 0)
        sleep_ms(2);
}

/* ---- Options ---- */

static bool parse_number(const char *value, uint64_t *ret)
{
    char *end;

    *ret = strtoull(value, &end, 10);
    return end != value && *end == '\0';
}

static bool parse_word(const char *value, const char *const *names, const uint64_t *values,
                       uint64_t *ret)
{
    for (size_t i = 0; names[i] != NULL; i++)
        if (strcmp(names[i], value) == 0) {
            *ret = values[i];
            return true;
        }
    return false;
}

static bool parse_errno(const char *value, uint64_t *ret)
{
    static const char *const names[] = {"EPERM",  "EIO",       "ENOMEM",    "EINVAL", "ENOSPC",
                                        "ENOENT", "EOVERFLOW", "ESHUTDOWN", "ENOTSUP", NULL};
    static const uint64_t values[] = {EPERM,  EIO,       ENOMEM,    EINVAL, ENOSPC,
                                      ENOENT, EOVERFLOW, ESHUTDOWN, ENOTSUP};

    return parse_word(value, names, values, ret) || parse_number(value, ret);
}

static bool parse_op(const char *value, uint64_t *ret)
{
    static const char *const names[] = {"read",  "write",  "flush", "trim",
                                        "cache", "zeroes", "any",   NULL};
    static const uint64_t values[] = {NBD_OP_READ,  NBD_OP_WRITE, NBD_OP_FLUSH,
                                      NBD_OP_TRIM,  NBD_OP_CACHE, NBD_OP_WRITE_ZEROES,
                                      OP_ANY};

    return parse_word(value, names, values, ret);
}

static bool parse_size(const char *value, uint64_t *ret)
{
    *ret = size_parse(value);
    return *ret != 0;
}

static bool parse_opt(struct fault *fault, const struct nbd_opt *opt)
{
    const struct {
        const char *key;
        bool (*parse)(const char *value, uint64_t *ret);
        uint64_t *target;
    } table[] = {
        {"size", parse_size, &fault->size},
        {"delay_ms", parse_number, &fault->delay_ms},
        {"error", parse_errno, &fault->error},
        {"op", parse_op, &fault->op},
        {"every", parse_number, &fault->every},
        {"open_delay_ms", parse_number, &fault->open_delay_ms},
        {"open_error", parse_errno, &fault->open_error},
        {"create_error", parse_errno, &fault->create_error},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (strcmp(opt->key, table[i].key) == 0)
            return table[i].parse(opt->value, table[i].target);
    if (strcmp(opt->key, "hold") == 0)
        fault->hold = opt->value;
    else if (strcmp(opt->key, "open_hold") == 0)
        fault->open_hold = opt->value;
    else if (strcmp(opt->key, "create_hold") == 0)
        fault->create_hold = opt->value;
    else if (strcmp(opt->key, "parse_hold") == 0)
        fault->parse_hold = opt->value;
    else if (strcmp(opt->key, "lost_if") == 0)
        fault->lost_if = opt->value;
    else if (strcmp(opt->key, "troubled_if") == 0)
        fault->troubled_if = opt->value;
    else if (strcmp(opt->key, "open_error_if") == 0)
        fault->open_error_if = opt->value;
    else if (strcmp(opt->key, "extents_hold") == 0)
        fault->extents_hold = opt->value;
    else if (strcmp(opt->key, "holes") == 0 && strcmp(opt->value, "true") == 0)
        fault->holes = true;
    else if (strcmp(opt->key, "fenced") == 0 && strcmp(opt->value, "true") == 0)
        fault->fenced = true;
    else if (strcmp(opt->key, "thread") == 0 && strcmp(opt->value, "true") == 0)
        fault->on_thread = true;
    else
        return false;
    return true;
}

static int cfg_parse(struct nbd_device *dev, const char *cfgstring, struct nbd_failure *why)
{
    struct fault *fault = calloc(1, sizeof(*fault));

    (void)cfgstring;
    if (fault == NULL)
        return nbd_fail(why, ENOMEM, "out of memory");
    fault->op = OP_ANY;
    fault->every = 1;
    for (size_t i = 0; i < dev->n_opts; i++)
        if (!parse_opt(fault, &dev->opts[i]) || fault->every == 0) {
            free(fault);
            return nbd_fail(why, EINVAL, "the fault handler does not understand %s=%s",
                            dev->opts[i].key, dev->opts[i].value);
        }
    sleep_while_exists(fault->parse_hold);
    pthread_mutex_init(&fault->lock, NULL);
    pthread_cond_init(&fault->changed, NULL);
    dev->priv = fault;
    return 0;
}

static void destroy(struct nbd_device *dev)
{
    struct fault *fault = dev->priv;

    pthread_cond_destroy(&fault->changed);
    pthread_mutex_destroy(&fault->lock);
    free(fault->bytes);
    free(fault);
}

/* ---- The handler's own thread ---- */

static struct nbd_request *next_request(struct fault *fault)
{
    struct nbd_request *rq;

    pthread_mutex_lock(&fault->lock);
    while (fault->head == NULL && !fault->stop)
        pthread_cond_wait(&fault->changed, &fault->lock);
    rq = fault->head;
    if (rq != NULL) {
        fault->head = wait_of(rq)->next;
        if (fault->head == NULL)
            fault->tail = NULL;
    }
    pthread_mutex_unlock(&fault->lock);
    return rq;
}

static void *serve_later(void *arg)
{
    struct fault *fault = arg;
    struct nbd_request *rq;

    while ((rq = next_request(fault)) != NULL) {
        uint64_t now = now_ms();

        if (wait_of(rq)->due_ms > now)
            sleep_ms(wait_of(rq)->due_ms - now);
        sleep_while_exists(fault->hold);
        rq->done(rq, wait_of(rq)->result);
    }
    return NULL;
}

static void pass_on(struct fault *fault, struct nbd_request *rq)
{
    wait_of(rq)->next = NULL;
    wait_of(rq)->due_ms = now_ms() + fault->delay_ms;
    pthread_mutex_lock(&fault->lock);
    if (fault->tail != NULL)
        wait_of(fault->tail)->next = rq;
    else
        fault->head = rq;
    fault->tail = rq;
    pthread_cond_signal(&fault->changed);
    pthread_mutex_unlock(&fault->lock);
}

/* ---- The device ---- */

static int create(struct nbd_device *dev, struct nbd_failure *why)
{
    struct fault *fault = dev->priv;

    if (fault->create_error != 0)
        return nbd_fail(why, (int)fault->create_error, "create_error=%s",
                        strerror((int)fault->create_error));
    while (fault->create_hold != NULL && access(fault->create_hold, F_OK) == 0) {
        if (atomic_load(&fault->canceled))
            return nbd_fail(why, ECANCELED, "canceled");
        sleep_ms(2);
    }
    return size_from_create(dev, &fault->size, why);
}

/* Loop thread, while create() runs. */
static void cancel(struct nbd_device *dev)
{
    struct fault *fault = dev->priv;

    atomic_store(&fault->canceled, true);
}

static int delete(struct nbd_device *dev, struct nbd_failure *why)
{
    (void)dev;
    (void)why;
    return 0;
}

static int map(struct nbd_device *dev, struct nbd_failure *why)
{
    struct fault *fault = dev->priv;
    int r;

    sleep_ms(fault->open_delay_ms);
    sleep_while_exists(fault->open_hold);
    if (fault->open_error != 0 &&
        (fault->open_error_if == NULL || access(fault->open_error_if, F_OK) == 0))
        return nbd_fail(why, (int)fault->open_error, "open_error=%s",
                        strerror((int)fault->open_error));
    r = size_settle(dev, &fault->size, why);
    if (r < 0)
        return r;
    if (fault->bytes == NULL)
        fault->bytes = calloc(1, fault->size);
    if (fault->bytes == NULL)
        return nbd_fail(why, ENOMEM, "no memory for %" PRIu64 " bytes", fault->size);
    fault->stop = false;
    fault->is_lost = fault->is_troubled = false;
    if (pthread_create(&fault->thread, NULL, serve_later, fault) != 0)
        return nbd_fail(why, EAGAIN, "no thread");
    dev->caps = NBD_CAP_FLUSH | NBD_CAP_FUA | NBD_CAP_TRIM | NBD_CAP_WRITE_ZEROES |
                NBD_CAP_CACHE | NBD_CAP_MULTI_CONN;
    return 0;
}

static void unmap(struct nbd_device *dev)
{
    struct fault *fault = dev->priv;

    pthread_mutex_lock(&fault->lock);
    fault->stop = true;
    pthread_cond_signal(&fault->changed);
    pthread_mutex_unlock(&fault->lock);
    pthread_join(fault->thread, NULL);
}

static int64_t get_size(struct nbd_device *dev)
{
    const struct fault *fault = dev->priv;

    return (int64_t)fault->size;
}

static bool is_to_fail(struct fault *fault, const struct nbd_request *rq)
{
    if (fault->error == 0 || (fault->op != OP_ANY && fault->op != rq->op))
        return false;
    return ++fault->seen % fault->every == 0;
}

static bool exists(const char *path)
{
    return path != NULL && access(path, F_OK) == 0;
}

static bool is_away(struct fault *fault, struct nbd_device *dev)
{
    if (exists(fault->lost_if) && unlink(fault->lost_if) == 0) {
        fault->is_lost = true;
        (fault->fenced ? host->fenced : host->lost)(dev, "the test says that it is lost");
    }
    if (exists(fault->troubled_if) != fault->is_troubled) {
        fault->is_troubled = !fault->is_troubled;
        host->troubled(dev, fault->is_troubled ? "the test says that it is away" : NULL);
    }
    return fault->is_lost || fault->is_troubled;
}

static int serve(struct fault *fault, struct nbd_request *rq)
{
    if (is_away(fault, rq->dev))
        return -ESHUTDOWN;
    if (is_to_fail(fault, rq))
        return -(int)fault->error;
    if (rq->op == NBD_OP_READ)
        memcpy(rq->data, fault->bytes + rq->offset, rq->length);
    else if (rq->op == NBD_OP_WRITE)
        memcpy(fault->bytes + rq->offset, rq->data, rq->length);
    else if (rq->op == NBD_OP_TRIM || rq->op == NBD_OP_WRITE_ZEROES)
        memset(fault->bytes + rq->offset, 0, rq->length);
    return 0;
}

static void submit(struct nbd_request *rq)
{
    struct fault *fault = rq->dev->priv;
    int result = serve(fault, rq);

    if (!fault->on_thread && fault->delay_ms == 0 && fault->hold == NULL) {
        rq->done(rq, result);
        return;
    }
    wait_of(rq)->result = result;
    pass_on(fault, rq);
}

static int extents(struct nbd_device *dev, uint64_t offset, uint64_t length,
                   nbd_add_extent *add, void *arg)
{
    const struct fault *fault = dev->priv;
    uint64_t end = offset + length;

    sleep_while_exists(fault->extents_hold);
    if (!fault->holes)
        return -ENOTSUP;
    while (offset < end) {
        uint64_t next = (offset / PIECE + 1) * PIECE;
        bool hole = offset / PIECE % 2 != 0;

        if (add(arg, next - offset, hole ? NBD_EXTENT_HOLE | NBD_EXTENT_ZERO : 0) != 0)
            return 0;
        offset = next;
    }
    return 0;
}

static struct nbd_handler handler = {
    .name = "fault",
    .cfg_parse = cfg_parse,
    .create = create,
    .delete = delete,
    .map = map,
    .unmap = unmap,
    .get_size = get_size,
    .submit = submit,
    .extents = extents,
    .cancel = cancel,
    .destroy = destroy,
};

struct nbd_handler *handler_init(const struct nbd_config *config)
{
    host = config->host;
    return &handler;
}
