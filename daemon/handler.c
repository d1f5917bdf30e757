/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Finds, checks and loads handlers, and gives them the daemon's services. The services have
 * no argument that names the daemon, so what they work on is kept here, once per process.
 */
#include "handler.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "handler_probe.h"
#include "log.h"

struct loaded {
    struct nbd_handler handler; /* copied, so that members that an old library lacks are NULL */
    void *library;
    char *file;
};

struct handler_set {
    GHashTable *by_name; /* name in .handler -> struct loaded */
    GPtrArray *names;
    GPtrArray *skipped; /* struct skipped_handler * */
    bool only_one;      /* was asked for */
};

struct nbd_watch {
    struct event *event;
    void (*ready)(void *arg);
    void *arg;
};

struct posted {
    struct loop_task task;
    void (*fn)(void *arg);
    void *arg;
};

static struct loop *the_loop;
static struct worker_pool *the_workers;

/* ---- Services ---- */

static void on_watched(evutil_socket_t fd, short what, void *arg)
{
    struct nbd_watch *watch = arg;

    (void)fd;
    (void)what;
    watch->ready(watch->arg);
}

static void host_unwatch(struct nbd_watch *watch)
{
    if (watch == NULL)
        return;
    if (watch->event != NULL)
        event_free(watch->event);
    g_free(watch);
}

static struct nbd_watch *host_watch(int fd, void (*ready)(void *arg), void *arg)
{
    struct nbd_watch *watch;

    if (fcntl(fd, F_GETFD) < 0) /* event_add() would not notice before the next turn */
        return NULL;
    watch = g_new0(struct nbd_watch, 1);
    watch->ready = ready;
    watch->arg = arg;
    watch->event = event_new(loop_base(the_loop), fd, EV_READ | EV_PERSIST, on_watched, watch);
    if (watch->event == NULL || event_add(watch->event, NULL) < 0) {
        host_unwatch(watch);
        return NULL;
    }
    return watch;
}

static void host_run(void (*work)(void *arg), void (*done)(void *arg), void *arg)
{
    worker_run(the_workers, work, done, arg);
}

static void on_posted(void *arg)
{
    struct posted *posted = arg;

    posted->fn(posted->arg);
    g_free(posted);
}

static void host_post(void (*fn)(void *arg), void *arg)
{
    struct posted *posted = g_new0(struct posted, 1);

    posted->task.run = on_posted;
    posted->task.arg = posted;
    posted->fn = fn;
    posted->arg = arg;
    loop_post(the_loop, &posted->task);
}

/* What a handler has to say about a device. */
struct report {
    struct loop_task task;
    handler_report *tell;
    struct nbd_device *dev;
    char *reason;
};

static handler_report *tell_lost, *tell_fenced, *tell_troubled;

void handler_on_reports(handler_report *lost, handler_report *fenced, handler_report *troubled)
{
    tell_lost = lost;
    tell_fenced = fenced;
    tell_troubled = troubled;
}

static void on_report(void *arg)
{
    struct report *report = arg;

    report->tell(report->dev, report->reason);
    g_free(report->reason);
    g_free(report);
}

/* The device is still there when a report from another thread arrives: it was posted before
 * unmap() ended, and so is taken before that end is. */
static void report(handler_report *tell, struct nbd_device *dev, const char *reason)
{
    struct report *report;

    if (loop_is_mine(the_loop)) {
        tell(dev, reason);
        return;
    }
    report = g_new0(struct report, 1);
    report->task.run = on_report;
    report->task.arg = report;
    report->tell = tell;
    report->dev = dev;
    report->reason = g_strdup(reason);
    loop_post(the_loop, &report->task);
}

static void host_lost(struct nbd_device *dev, const char *reason)
{
    report(tell_lost, dev, reason);
}

static void host_fenced(struct nbd_device *dev, const char *reason)
{
    report(tell_fenced, dev, reason);
}

static void host_troubled(struct nbd_device *dev, const char *reason)
{
    report(tell_troubled, dev, reason);
}

static const struct nbd_host host = {
    .size = sizeof(struct nbd_host),
    .log = log_write,
    .watch = host_watch,
    .unwatch = host_unwatch,
    .run = host_run,
    .post = host_post,
    .lost = host_lost,
    .fenced = host_fenced,
    .troubled = host_troubled,
};

/* ---- Loading ---- */

static bool is_word(const char *name)
{
    return name != NULL && name[0] != '\0' && strlen(name) < 32 &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789") == strlen(name);
}

/* What is wrong with a handler, or NULL. */
static const char *complaint(const struct nbd_handler *handler)
{
    if (!is_word(handler->name))
        return "its name is not a word of a-z and 0-9";
    if (handler->cfg_parse == NULL || handler->map == NULL || handler->unmap == NULL ||
        handler->get_size == NULL)
        return "it lacks cfg_parse, map, unmap or get_size";
    if (handler->handle_request == NULL && handler->submit == NULL)
        return "it has neither handle_request nor submit";
    return NULL;
}

static void loaded_free(void *data)
{
    struct loaded *loaded = data;

    if (loaded->handler.fini != NULL)
        loaded->handler.fini();
    if (loaded->library != NULL)
        dlclose(loaded->library);
    g_free(loaded->file);
    g_free(loaded);
}

__attribute__((format(printf, 3, 4)))
static void skip(struct handler_set *set, const char *file, const char *format, ...)
{
    struct skipped_handler *skipped = g_new0(struct skipped_handler, 1);
    va_list args;

    va_start(args, format);
    skipped->reason = g_strdup_vprintf(format, args);
    va_end(args);
    skipped->file = g_strdup(file);
    g_ptr_array_add(set->skipped, skipped);
    log_error("handler %s skipped: %s", file, skipped->reason);
}

static void skipped_free(void *data)
{
    struct skipped_handler *skipped = data;

    g_free(skipped->file);
    g_free(skipped->reason);
    g_free(skipped);
}

/* Calls handler_init() and copies what it returns; NULL when the library is not right. */
static struct loaded *init_library(struct handler_set *set, void *library, const char *file,
                                   const struct nbd_config *config)
{
    struct nbd_handler *(*init)(const struct nbd_config *) =
        (struct nbd_handler * (*)(const struct nbd_config *)) dlsym(library, "handler_init");
    const struct nbd_handler_abi *abi = dlsym(library, "nbd_handler_abi");
    struct nbd_handler *handler;
    struct loaded *loaded;

    if (init == NULL || abi == NULL) {
        skip(set, file, "it has no %s",
             init == NULL ? "handler_init()" : "ABI number; build it with our handler.h");
        return NULL;
    }
    if (!handler_abi_fits(abi)) {
        skip(set, file, "it was built for ABI %u (%u bytes), this daemon has %u (%zu bytes); "
             "rebuild it", abi->version, abi->handler_size, NBD_HANDLER_ABI,
             sizeof(struct nbd_handler));
        return NULL;
    }
    handler = init(config);
    if (handler == NULL) {
        skip(set, file, "its handler_init() failed");
        return NULL;
    }
    loaded = g_new0(struct loaded, 1);
    memcpy(&loaded->handler, handler, abi->handler_size);
    return loaded;
}

static struct loaded *load_library(struct handler_set *set, const char *path, const char *file,
                                   const struct nbd_config *config)
{
    g_autofree char *crash = NULL;
    struct loaded *loaded;
    void *library;

    /* Who asked for this one alone has nothing else to lose, and waits for it. */
    if (!set->only_one && !handler_probe(path, config, &crash)) {
        skip(set, file, "%s", crash);
        return NULL;
    }
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        skip(set, file, "%s", dlerror());
        return NULL;
    }
    loaded = init_library(set, library, file, config);
    if (loaded == NULL) {
        dlclose(library);
        return NULL;
    }
    loaded->library = library;
    loaded->file = g_strdup(file);
    return loaded;
}

static void load_file(struct handler_set *set, const char *directory, const char *file,
                      const struct nbd_config *config)
{
    g_autofree char *path = g_build_filename(directory, file, NULL);
    struct loaded *loaded = load_library(set, path, file, config), *other;
    const char *wrong;

    if (loaded == NULL)
        return;
    wrong = complaint(&loaded->handler);
    other = wrong == NULL ? g_hash_table_lookup(set->by_name, loaded->handler.name) : NULL;
    if (wrong != NULL || other != NULL) {
        skip(set, file, "%s%s", wrong != NULL ? wrong : "its name is taken by ",
             wrong != NULL ? "" : other->file);
        loaded_free(loaded);
        return;
    }
    g_hash_table_insert(set->by_name, (char *)loaded->handler.name, loaded);
    log_debug("handler \"%s\" loaded from %s", loaded->handler.name, path);
}

static int is_handler_file(const struct dirent *entry)
{
    return g_str_has_prefix(entry->d_name, "lib") &&
           g_str_has_suffix(entry->d_name, "_handler.so");
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

struct handler_set *handler_set_load(const char *directory, const char *only,
                                     struct nbd_config *config, struct loop *loop,
                                     struct worker_pool *workers)
{
    g_autofree char *only_file = only != NULL ? g_strdup_printf("lib%s_handler.so", only) : NULL;
    struct handler_set *set = g_new0(struct handler_set, 1);
    struct dirent **files = NULL;
    int n = scandir(directory, &files, is_handler_file, by_bytes);
    GHashTableIter iter;
    void *name;

    the_loop = loop;
    the_workers = workers;
    config->abi = NBD_HANDLER_ABI;
    config->size = sizeof(*config);
    config->host = &host;
    set->only_one = only != NULL;
    set->by_name = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, loaded_free);
    set->names = g_ptr_array_new();
    set->skipped = g_ptr_array_new_with_free_func(skipped_free);
    if (n < 0)
        log_error("cannot read the handler directory %s: %s", directory, strerror(errno));
    for (int i = 0; i < n; i++) {
        if (only == NULL || strcmp(files[i]->d_name, only_file) == 0)
            load_file(set, directory, files[i]->d_name, config);
        free(files[i]);
    }
    free(files);
    g_hash_table_iter_init(&iter, set->by_name);
    while (g_hash_table_iter_next(&iter, &name, NULL))
        g_ptr_array_add(set->names, name);
    g_ptr_array_sort(set->names, by_text);
    return set;
}

void handler_set_free(struct handler_set *set)
{
    if (set == NULL)
        return;
    g_ptr_array_free(set->names, TRUE);
    g_ptr_array_free(set->skipped, TRUE);
    g_hash_table_destroy(set->by_name);
    g_free(set);
}

const struct nbd_handler *handler_find(const struct handler_set *set, const char *name)
{
    struct loaded *loaded = g_hash_table_lookup(set->by_name, name);

    return loaded != NULL ? &loaded->handler : NULL;
}

const GPtrArray *handler_names(const struct handler_set *set)
{
    return set->names;
}

const char *handler_file(const struct handler_set *set, const char *name)
{
    struct loaded *loaded = g_hash_table_lookup(set->by_name, name);

    return loaded != NULL ? loaded->file : NULL;
}

const GPtrArray *handler_skipped(const struct handler_set *set)
{
    return set->skipped;
}
