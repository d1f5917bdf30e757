/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The daemon that the fuzz targets feed.
 */
#include "fuzz.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "connection.h"
#include "log.h"
#include "registry.h"

static char *directory;

const char *fuzz_directory(void)
{
    return directory;
}

void fuzz_empty_directory(void)
{
    GDir *dir = g_dir_open(directory, 0, NULL);
    const char *name;

    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        g_autofree char *path = g_build_filename(directory, name, NULL);

        g_unlink(path);
    }
    if (dir != NULL)
        g_dir_close(dir);
}

static void remove_directory(void)
{
    fuzz_empty_directory();
    g_rmdir(directory);
}

/* The handlers stay loaded when a server unloads them: reports of leaks need their names. */
static void keep_loaded(const char *name)
{
    g_autofree char *path = g_build_filename(g_getenv("FUZZ_HANDLERS"), name, NULL);

    if (dlopen(path, RTLD_NOW | RTLD_NODELETE) == NULL)
        g_error("%s", dlerror());
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    if (g_getenv("FUZZ_HANDLERS") == NULL)
        g_error("set FUZZ_HANDLERS to the directory of the handlers; tests/fuzz/run does");
    keep_loaded("libnull_handler.so");
    keep_loaded("libmem_handler.so");
    directory = g_mkdtemp(g_strdup(g_file_test("/dev/shm", G_FILE_TEST_IS_DIR)
                                       ? "/dev/shm/nbd-runner-fuzz-XXXXXX"
                                       : "/tmp/nbd-runner-fuzz-XXXXXX"));
    if (directory == NULL)
        g_error("no temporary directory: %s", g_strerror(errno));
    atexit(remove_directory);
    /* What glib keeps for a thread looks like a leak while the thread ends: none shall end. */
    g_thread_pool_set_max_unused_threads(-1);
    g_thread_pool_set_max_idle_time(0);
    log_set_target("file:/dev/null");
    log_set_level(NBD_LOG_DEBUG); /* formatting is to be tried, too */
    return 0;
}

static void set_string(char **string, const char *value)
{
    g_free(*string);
    *string = g_strdup(value);
}

struct server *fuzz_server_new(void)
{
    struct config *config = config_new();
    struct nbd_failure why;
    struct server *server;

    set_string(&config->handler_dir, g_getenv("FUZZ_HANDLERS"));
    set_string(&config->pid_file, "");
    set_string(&config->lock_file, "");
    config->max_inflight_bytes = 8 << 20;
    server = server_new(config, &why);
    if (server == NULL)
        g_error("%s", why.message);
    return server;
}

struct export *fuzz_add_export(struct server *server, const char *name, const char *handler,
                               bool readonly)
{
    g_autoptr(GHashTable) opts = g_hash_table_new(g_str_hash, g_str_equal);
    struct export_spec spec = { .name = name, .handler = handler, .target = name, .opts = opts,
                                .origin = EXPORT_BY_COMMAND_LINE, .readonly = readonly };
    struct export *export;
    struct nbd_failure why;

    g_hash_table_insert(opts, (char *)"size", (char *)"1M");
    if (registry_add(server->registry, &spec, false, &export, &why) < 0)
        g_error("%s", why.message);
    return export;
}

static void on_guard(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    (void)arg;
}

/* One turn, of a millisecond at most. */
static void wait_a_little(struct server *server)
{
    struct event *guard = evtimer_new(loop_base(server->loop), on_guard, NULL);

    evtimer_add(guard, &(struct timeval){ .tv_usec = 1000 });
    event_base_loop(loop_base(server->loop), EVLOOP_ONCE);
    event_free(guard);
}

void fuzz_server_free(struct server *server)
{
    while (connection_count(server->connections) > 0 ||
           connection_in_flight(server->connections) > 0)
        wait_a_little(server);
    server_free(server);
}

void fuzz_pair(int fds[2])
{
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
        g_error("no sockets: %s", g_strerror(errno));
}

static bool throw_away(int fd)
{
    static char bytes[1 << 18];
    bool some = false;

    while (recv(fd, bytes, sizeof(bytes), 0) > 0)
        some = true;
    return some;
}

void fuzz_settle(struct server *server, int fd)
{
    for (int quiet = 0; quiet < 3; quiet = throw_away(fd) ? 0 : quiet + 1) {
        event_base_loop(loop_base(server->loop), EVLOOP_NONBLOCK);
        if (connection_in_flight(server->connections) > 0)
            wait_a_little(server);
    }
}

void fuzz_send(struct server *server, int fd, const uint8_t *data, size_t size, size_t piece)
{
    int refused = 0;

    while (size > 0 && refused < 10) {
        ssize_t n = send(fd, data, piece > 0 && piece < size ? piece : size, MSG_NOSIGNAL);

        if (n < 0 && errno == EPIPE)
            return;
        refused = n > 0 ? 0 : refused + 1;
        data += n > 0 ? n : 0;
        size -= n > 0 ? (size_t)n : 0;
        event_base_loop(loop_base(server->loop), EVLOOP_NONBLOCK);
        throw_away(fd);
    }
}
