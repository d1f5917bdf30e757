/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The fake host of the handlers' tests. The lists of calls are under a lock; the watches
 * belong to the loop's thread.
 */
#include "fake_host.h"

#include <fcntl.h>
#include <glib.h>
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#define WATCHES 8
#define WORKERS 4

struct nbd_watch {
    int fd; /* -1: free */
    void (*ready)(void *arg);
    void *arg;
};

struct call {
    void (*work)(void *arg); /* NULL: a post */
    void (*done)(void *arg);
    void *arg;
};

static struct nbd_watch watches[WATCHES];
static GAsyncQueue *posted; /* struct call */
static GThreadPool *workers;
static int wake[2];
static unsigned runs;

/* Each call passes through it once on either side: ThreadSanitizer does not see the locks
 * inside GLib. */
static pthread_mutex_t passage = PTHREAD_MUTEX_INITIALIZER;

static void pass(void)
{
    pthread_mutex_lock(&passage);
    pthread_mutex_unlock(&passage);
}

__attribute__((format(printf, 2, 3)))
static void fake_log(enum nbd_log_level level, const char *format, ...)
{
    va_list args;

    if (level > NBD_LOG_WARNING)
        return;
    va_start(args, format);
    fputs("# log: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

static struct nbd_watch *fake_watch(int fd, void (*ready)(void *arg), void *arg)
{
    for (int i = 0; i < WATCHES; i++)
        if (watches[i].fd < 0) {
            watches[i] = (struct nbd_watch){fd, ready, arg};
            return &watches[i];
        }
    return NULL;
}

static void fake_unwatch(struct nbd_watch *watch)
{
    watch->fd = -1;
}

static void push(struct call *call)
{
    pass();
    g_async_queue_push(posted, call);
    while (write(wake[1], "", 1) < 0 && errno == EINTR)
        ;
}

static void on_worker(void *data, void *user_data)
{
    struct call *call = data;

    (void)user_data;
    pass();
    call->work(call->arg);
    push(call);
}

static struct call *new_call(void (*work)(void *arg), void (*done)(void *arg), void *arg)
{
    struct call *call = g_new(struct call, 1);

    *call = (struct call){work, done, arg};
    return call;
}

static void fake_run(void (*work)(void *arg), void (*done)(void *arg), void *arg)
{
    struct call *call = new_call(work, done, arg);

    runs++;
    pass();
    g_thread_pool_push(workers, call, NULL);
}

static void fake_report(struct nbd_device *dev, const char *reason)
{
    (void)dev;
    fake_log(NBD_LOG_DEBUG, "reported: %s", reason != NULL ? reason : "all is well");
}

static void fake_post(void (*fn)(void *arg), void *arg)
{
    push(new_call(NULL, fn, arg));
}

const struct nbd_host *fake_host_start(void)
{
    static const struct nbd_host host = {
        .size = sizeof(host),
        .log = fake_log,
        .watch = fake_watch,
        .unwatch = fake_unwatch,
        .run = fake_run,
        .post = fake_post,
        .lost = fake_report,
        .fenced = fake_report,
        .troubled = fake_report,
    };

    for (int i = 0; i < WATCHES; i++)
        watches[i].fd = -1;
    if (pipe2(wake, O_CLOEXEC | O_NONBLOCK) < 0)
        return NULL;
    posted = g_async_queue_new();
    workers = g_thread_pool_new(on_worker, NULL, WORKERS, FALSE, NULL);
    runs = 0;
    return &host;
}

static void run_posted(void)
{
    struct call *call;
    char bytes[64];

    while (read(wake[0], bytes, sizeof(bytes)) > 0)
        ;
    while ((call = g_async_queue_try_pop(posted)) != NULL) {
        pass();
        call->done(call->arg);
        g_free(call);
    }
}

void fake_host_stop(void)
{
    g_thread_pool_free(workers, FALSE, TRUE);
    run_posted();
    g_async_queue_unref(posted);
    close(wake[0]);
    close(wake[1]);
}

static void turn(int timeout_ms)
{
    struct pollfd fds[WATCHES + 1];

    for (int i = 0; i < WATCHES; i++)
        fds[i] = (struct pollfd){.fd = watches[i].fd, .events = POLLIN};
    fds[WATCHES] = (struct pollfd){.fd = wake[0], .events = POLLIN};
    if (poll(fds, WATCHES + 1, timeout_ms) <= 0)
        return;
    for (int i = 0; i < WATCHES; i++)
        if (fds[i].revents != 0 && watches[i].fd == fds[i].fd && fds[i].fd >= 0)
            watches[i].ready(watches[i].arg);
    run_posted();
}

bool fake_host_run_until(const bool *flag, int timeout_ms)
{
    int64_t end = g_get_monotonic_time() + (int64_t)timeout_ms * 1000;

    while (!*flag && g_get_monotonic_time() < end)
        turn(MAX((int)((end - g_get_monotonic_time()) / 1000), 1));
    return *flag;
}

unsigned fake_host_runs(void)
{
    return runs;
}
