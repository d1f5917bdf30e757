/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The saved state: what is read at start, and when what has changed is written. The text of
 * each export is kept ready (store_text.h), objects are store_json.c's, files store_file.c's.
 * Loop thread; a write runs on a worker of its own, one at a time, and whoever asks for one
 * meanwhile is served by the next.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "server.h"
#include "store.h"
#include "store_file.h"
#include "store_json.h"
#include "store_text.h"

#define STATE_FORMAT "nbd-runner-state"
#define STATE_VERSION 2
#define RETRY_MOST_S 30

static const char *const top_members[] = {
    "format", "version", "generation", "saved_at", "saved_by", "exports", "jobs", "checksum",
    NULL
};

/* Somebody who waits for a write. */
struct waiter {
    struct loop_task task; /* of an answer that needs no write */
    struct store *store;   /* NULL: it is gone */
    export_done *done;
    void *arg;
    bool refused;          /* the store is read-only */
};

/* A finished job and what was true when its text was made. */
struct saved_job {
    struct fragment *fragment;
    enum job_state state;
    int code;
    int64_t ended_us;
};

/* One write, from the snapshot on the loop to its end there; in between the worker's. */
struct write {
    struct store *store; /* NULL: it is gone */
    char *path;
    uint64_t generation;
    GPtrArray *exports, *jobs, *extras; /* struct fragment *, referenced */
    enum predecessor predecessor;
    GQueue waiters; /* struct waiter * */
    int result;
    struct nbd_failure why;
};

struct store {
    struct server *server;
    char *path;               /* as configured */
    char *real_path;          /* without symbolic links */
    struct worker_pool *writer;
    GQueue exports;           /* struct fragment *, in the order of the file */
    GHashTable *export_links; /* id -> its GList link */
    GPtrArray *jobs;          /* struct saved_job *, oldest first */
    GPtrArray *extras;        /* struct fragment *: unknown members */
    uint64_t generation;      /* of the newest snapshot */
    uint64_t saved_generation;
    bool changed;             /* since the newest snapshot, or that was not saved */
    bool answering;           /* waiters are being called: no write starts */
    struct write *running;
    GQueue waiting;           /* struct waiter *, for the next write */
    GQueue posted;            /* struct waiter *, to be answered without one */
    struct event *retry;
    unsigned retry_s;         /* 0: the last write was good */
    enum predecessor predecessor; /* of the next write */
    bool degraded, readonly;
    char *load_error;         /* while degraded */
    char *write_error;        /* while retry_s > 0 */
};

/* ---- The texts ---- */

static void set_fragment(struct store *store, struct fragment *fragment)
{
    GList *link = g_hash_table_lookup(store->export_links, fragment->key);

    if (link != NULL) {
        /* The table's key lives in the fragment. */
        g_hash_table_remove(store->export_links, fragment->key);
        fragment_unref(link->data);
        link->data = fragment;
    } else {
        g_queue_push_tail(&store->exports, fragment);
        link = store->exports.tail;
    }
    g_hash_table_insert(store->export_links, fragment->key, link);
}

static void set_object(struct store *store, const char *id, struct json_object *object)
{
    set_fragment(store, fragment_new(2, id, object));
}

static void set_export(struct store *store, const struct export *export)
{
    struct json_object *object = store_json_from_export(export);

    set_object(store, export->id, object);
    json_object_put(object);
}

void store_changed(struct store *store, struct export *export)
{
    if (store->readonly || export->origin != EXPORT_BY_RPC)
        return;
    set_export(store, export);
    store->changed = true;
}

void store_removed(struct store *store, const char *export_id)
{
    GList *link = g_hash_table_lookup(store->export_links, export_id);

    if (store->readonly || link == NULL)
        return;
    g_hash_table_remove(store->export_links, export_id);
    fragment_unref(link->data);
    g_queue_delete_link(&store->exports, link);
    store->changed = true;
}

/* ---- Jobs ---- */

static void saved_job_free(void *arg)
{
    struct saved_job *saved = arg;

    fragment_unref(saved->fragment);
    g_free(saved);
}

static struct saved_job *saved_job_new(const struct job *job, const struct saved_job *before)
{
    struct saved_job *saved = g_new0(struct saved_job, 1);
    struct json_object *object;

    saved->state = job->state;
    saved->code = job->failure.code;
    saved->ended_us = job->ended_us;
    if (before != NULL && before->state == saved->state && before->code == saved->code &&
        before->ended_us == saved->ended_us) {
        saved->fragment = fragment_ref(before->fragment);
        return saved;
    }
    object = store_json_from_job(job);
    saved->fragment = fragment_new(2, job->id, object);
    json_object_put(object);
    return saved;
}

static bool is_finished(const struct job *job)
{
    return job->state == JOB_DONE || job->state == JOB_FAILED || job->state == JOB_CANCELED;
}

/* Converts only those that are new: up to a thousand are kept. */
static void collect_jobs(struct store *store)
{
    GPtrArray *jobs = g_ptr_array_new_with_free_func(saved_job_free);
    GHashTable *before = g_hash_table_new(g_str_hash, g_str_equal);

    for (unsigned i = 0; i < store->jobs->len; i++) {
        struct saved_job *saved = g_ptr_array_index(store->jobs, i);

        g_hash_table_insert(before, saved->fragment->key, saved);
    }
    for (struct job *job = job_next(store->server->jobs, NULL); job != NULL;
         job = job_next(store->server->jobs, job->id))
        if (is_finished(job))
            g_ptr_array_add(jobs, saved_job_new(job, g_hash_table_lookup(before, job->id)));
    g_hash_table_unref(before);
    g_ptr_array_unref(store->jobs);
    store->jobs = jobs;
}

void store_jobs_changed(struct store *store)
{
    if (store->readonly)
        return;
    collect_jobs(store);
    store->changed = true;
}

/* ---- Writing: on the worker ---- */

static void add_header(struct document *document, const char *key, struct json_object *value)
{
    struct fragment *fragment = fragment_new(1, key, value);

    document_member(document, fragment);
    fragment_unref(fragment);
    json_object_put(value);
}

static GString *document_of(const struct write *write)
{
    struct document *document = document_new();

    add_header(document, "format", json_object_new_string(STATE_FORMAT));
    add_header(document, "version", json_object_new_int(STATE_VERSION));
    add_header(document, "generation", json_object_new_int64((int64_t)write->generation));
    add_header(document, "saved_at", store_json_from_time(g_get_real_time()));
    add_header(document, "saved_by", json_object_new_string(PACKAGE_STRING));
    document_section(document, "exports", write->exports);
    document_section(document, "jobs", write->jobs);
    for (unsigned i = 0; i < write->extras->len; i++)
        document_member(document, g_ptr_array_index(write->extras, i));
    return document_end(document);
}

static void write_document(void *arg)
{
    struct write *write = arg;
    GString *text = document_of(write);

    write->result = store_file_replace(write->path, text->str, text->len, write->predecessor,
                                       &write->why);
    g_string_free(text, TRUE);
    /* Here and not on the loop: there may be many. */
    g_clear_pointer(&write->exports, g_ptr_array_unref);
    g_clear_pointer(&write->jobs, g_ptr_array_unref);
    g_clear_pointer(&write->extras, g_ptr_array_unref);
}

/* ---- Writing: on the loop ---- */

static void on_written(void *arg);

static struct write *write_new(struct store *store)
{
    struct write *write = g_new0(struct write, 1);

    write->store = store;
    write->path = g_strdup(store->real_path);
    write->generation = ++store->generation;
    write->predecessor = store->predecessor;
    write->exports = g_ptr_array_new_full(store->exports.length, fragment_unref);
    write->jobs = g_ptr_array_new_full(store->jobs->len, fragment_unref);
    write->extras = g_ptr_array_new_full(store->extras->len, fragment_unref);
    for (GList *link = store->exports.head; link != NULL; link = link->next)
        g_ptr_array_add(write->exports, fragment_ref(link->data));
    for (unsigned i = 0; i < store->jobs->len; i++) {
        struct saved_job *saved = g_ptr_array_index(store->jobs, i);

        g_ptr_array_add(write->jobs, fragment_ref(saved->fragment));
    }
    for (unsigned i = 0; i < store->extras->len; i++)
        g_ptr_array_add(write->extras, fragment_ref(g_ptr_array_index(store->extras, i)));
    return write;
}

static void write_free(struct write *write)
{
    g_queue_clear_full(&write->waiters, g_free);
    g_free(write->path);
    g_free(write);
}

static void start_write(struct store *store)
{
    struct write *write = write_new(store);

    write->waiters = store->waiting;
    g_queue_init(&store->waiting);
    store->changed = false;
    store->running = write;
    event_del(store->retry);
    worker_run(store->writer, write_document, on_written, write);
}

static void note_success(struct store *store, const struct write *write)
{
    if (store->retry_s > 0)
        log_info("the state is saved again in %s", store->path);
    store->retry_s = 0;
    store->saved_generation = write->generation;
    store->predecessor = PREDECESSOR_BACKUP;
    g_clear_pointer(&store->write_error, g_free);
}

static void note_failure(struct store *store, const struct write *write)
{
    struct timeval pause = { 0 };

    if (store->retry_s == 0)
        log_error("the state is not saved: %s; this is tried again until it works",
                  write->why.message);
    store->retry_s = store->retry_s == 0 ? 1 : MIN(store->retry_s * 2, RETRY_MOST_S);
    store->changed = true;
    g_free(store->write_error);
    store->write_error = g_strdup(write->why.message);
    pause.tv_sec = store->retry_s;
    event_add(store->retry, &pause);
}

static void answer_all(struct store *store, struct write *write)
{
    struct waiter *waiter;

    /* All of them take back what they changed before another write begins. */
    store->answering = true;
    while ((waiter = g_queue_pop_head(&write->waiters)) != NULL) {
        waiter->done(waiter->arg, write->result, &write->why);
        g_free(waiter);
    }
    store->answering = false;
}

static void on_written(void *arg)
{
    struct write *write = arg;
    struct store *store = write->store;

    if (store != NULL) {
        store->running = NULL;
        if (write->result == 0)
            note_success(store, write);
        else
            note_failure(store, write);
        answer_all(store, write);
        if (store->waiting.length > 0)
            start_write(store);
    }
    write_free(write);
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
    struct store *store = arg;

    (void)fd;
    (void)what;
    if (store->running == NULL)
        start_write(store);
}

static void on_answer(void *arg)
{
    struct waiter *waiter = arg;
    struct nbd_failure why = { 0 };

    if (waiter->store != NULL) {
        g_queue_remove(&waiter->store->posted, waiter);
        if (waiter->refused)
            nbd_fail(&why, EROFS, "the state file %s was written by a newer version of "
                     "nbd-runner: nothing can be changed; upgrade, or name another --state",
                     waiter->store->path);
        waiter->done(waiter->arg, -why.code, &why);
    }
    g_free(waiter);
}

/* Never from inside store_save(): the caller may not be ready for its answer. */
static void answer_soon(struct store *store, struct waiter *waiter)
{
    waiter->store = store;
    waiter->refused = store->readonly;
    waiter->task.run = on_answer;
    waiter->task.arg = waiter;
    g_queue_push_tail(&store->posted, waiter);
    loop_post(store->server->loop, &waiter->task);
}

void store_save(struct store *store, export_done *done, void *arg)
{
    struct waiter *waiter = g_new0(struct waiter, 1);

    waiter->done = done;
    waiter->arg = arg;
    if (store->readonly || (!store->changed && store->running == NULL)) {
        answer_soon(store, waiter);
    } else if (!store->changed) {
        g_queue_push_tail(&store->running->waiters, waiter); /* all is in its snapshot */
    } else {
        g_queue_push_tail(&store->waiting, waiter);
        if (store->running == NULL && !store->answering)
            start_write(store);
    }
}

/* ---- Loading ---- */

/* 0: not a state file of ours. */
static int version_of(struct json_object *top)
{
    struct json_object *format, *version, *exports;

    if (store_json_is_v1(top))
        return 1;
    if (!json_object_is_type(top, json_type_object) ||
        !json_object_object_get_ex(top, "format", &format) ||
        !json_object_is_type(format, json_type_string) ||
        strcmp(json_object_get_string(format), STATE_FORMAT) != 0)
        return 0;
    if (!json_object_object_get_ex(top, "version", &version) ||
        !json_object_is_type(version, json_type_int) || json_object_get_int(version) < STATE_VERSION)
        return 0;
    if (!json_object_object_get_ex(top, "exports", &exports) ||
        !json_object_is_type(exports, json_type_object))
        return 0;
    return json_object_get_int(version);
}

/* 0, -ENOENT, -EBADMSG when it is damaged or not ours, or why it cannot be read. */
static int read_top(const char *path, struct json_object **ret_top, struct nbd_failure *why)
{
    struct nbd_failure problem;
    struct json_object *top;
    GString *text;
    int r = store_file_read(path, &text, why);

    if (r < 0)
        return r;
    top = store_json_parse(text->str, text->len, &problem);
    if (top == NULL)
        r = nbd_fail(why, EBADMSG, "the state file %s %s", path, problem.message);
    else if (version_of(top) == 0)
        r = nbd_fail(why, EBADMSG, "the state file %s is not one of nbd-runner's", path);
    else if (version_of(top) >= STATE_VERSION &&
             document_check(text->str, text->len) == CHECKSUM_WRONG)
        log_warning("the checksum of the state file %s is not that of its content: it was "
                    "edited by hand, and is used as it is", path);
    g_string_free(text, TRUE);
    if (r < 0)
        json_object_put(top);
    else
        *ret_top = top;
    return r;
}

static void load_export(struct store *store, const char *key, struct json_object *object,
                        bool v1)
{
    struct export *export;
    struct nbd_failure why;
    int r = v1 ? store_json_v1_to_export(store->server, key, object, &export, &why)
               : store_json_to_export(store->server, key, object, &export, &why);

    if (r < 0) {
        char *quoted = log_quote(key, strlen(key));

        log_error("export %s of the state file is kept there but not served: %s", quoted,
                  why.message);
        g_free(quoted);
        set_object(store, key, object);
        return;
    }
    if (export->state == EXPORT_FAULTED)
        log_warning("export %s: %s", export->name, export->fault.message);
    if (v1)
        set_export(store, export);
    else
        set_object(store, key, object);
}

static struct json_object *section(struct json_object *top, const char *name)
{
    struct json_object *object;

    if (json_object_object_get_ex(top, name, &object) &&
        json_object_is_type(object, json_type_object))
        return object;
    return NULL;
}

static void load_exports(struct store *store, struct json_object *exports, bool v1)
{
    if (exports == NULL)
        return;
    json_object_object_foreach(exports, key, object)
        load_export(store, key, object, v1);
}

static void load_jobs(struct store *store, struct json_object *jobs)
{
    if (jobs == NULL)
        return;
    json_object_object_foreach(jobs, key, object) {
        struct nbd_failure why;

        if (store_json_to_job(store->server, key, object, &why) < 0)
            log_debug("job %.64s of the state file is forgotten: %s", key, why.message);
    }
    collect_jobs(store);
}

static void keep_extras(struct store *store, struct json_object *top)
{
    json_object_object_foreach(top, key, value) {
        if (!g_strv_contains(top_members, key))
            g_ptr_array_add(store->extras, fragment_new(1, key, value));
    }
}

static void load_top(struct store *store, struct json_object *top)
{
    int version = version_of(top);
    struct json_object *generation;

    if (version == 1) {
        load_exports(store, top, true);
        if (store->predecessor == PREDECESSOR_BACKUP)
            store->predecessor = PREDECESSOR_KEEP_V1;
        log_info("the state file %s is of version 1; it is kept as %s.v1 when the first "
                 "change is saved", store->path, store->path);
        return;
    }
    if (version > STATE_VERSION) {
        store->readonly = true;
        log_warning("the state file %s is of version %d, this is nbd-runner for version %d: "
                    "what it understands is served, nothing can be changed", store->path,
                    version, STATE_VERSION);
    }
    if (json_object_object_get_ex(top, "generation", &generation) &&
        json_object_get_int64(generation) > 0 && json_object_get_int64(generation) < INT64_MAX)
        store->generation = (uint64_t)json_object_get_int64(generation);
    load_exports(store, section(top, "exports"), false);
    load_jobs(store, section(top, "jobs"));
    keep_extras(store, top);
}

/* Neither can be used: both stay for whoever wants to repair them. */
static void set_aside(struct store *store, const char *backup, const char *error)
{
    struct nbd_failure why;

    log_error("no state can be loaded: %s; the daemon starts without saved exports, and "
              "%s.corrupt-* keep the files", error, store->path);
    store->degraded = true;
    store->load_error = g_strdup(error);
    if (store_file_set_aside(store->real_path, &why) < 0) {
        log_error("%s", why.message);
        store->predecessor = PREDECESSOR_SET_ASIDE;
    }
    if (store_file_set_aside(backup, &why) < 0)
        log_error("%s", why.message);
}

/* The main file is missing (-ENOENT) or damaged (-EBADMSG, *problem says how). */
static struct json_object *read_backup(struct store *store, int main_result,
                                       const struct nbd_failure *problem)
{
    char *backup = g_strconcat(store->real_path, ".bak", NULL);
    struct nbd_failure why;
    struct json_object *top = NULL;
    int r = read_top(backup, &top, &why);

    if (r == 0 && main_result == -ENOENT) {
        log_warning("the state file %s is missing, %s is used; remove both to start anew",
                    store->path, backup);
    } else if (r == 0) {
        log_error("%s; %s is used, the last changes may be missing", problem->message, backup);
        store->predecessor = PREDECESSOR_SET_ASIDE;
    } else if (main_result != -ENOENT || r != -ENOENT) {
        set_aside(store, backup, main_result == -ENOENT ? why.message : problem->message);
    }
    g_free(backup);
    return top;
}

int store_load(struct store *store, struct nbd_failure *why)
{
    char *real = realpath(store->path, NULL);
    struct json_object *top = NULL;
    struct nbd_failure problem;
    int r;

    if (real != NULL) {
        g_free(store->real_path);
        store->real_path = g_strdup(real);
        free(real);
    }
    r = read_top(store->real_path, &top, &problem);
    if (r == -ENOENT || r == -EBADMSG)
        top = read_backup(store, r, &problem);
    else if (r < 0)
        return nbd_fail(why, -r, "%s; make the state file readable for this user, or name "
                        "another one with --state", problem.message);
    if (top != NULL) {
        load_top(store, top);
        json_object_put(top);
    }
    store->saved_generation = store->generation;
    return 0;
}

/* ---- Public ---- */

struct store *store_new(struct server *server, const char *path)
{
    struct store *store = g_new0(struct store, 1);

    store->server = server;
    store->path = g_strdup(path);
    store->real_path = g_strdup(path);
    store->writer = worker_pool_new(server->loop, 1);
    store->export_links = g_hash_table_new(g_str_hash, g_str_equal);
    store->jobs = g_ptr_array_new_with_free_func(saved_job_free);
    store->extras = g_ptr_array_new_with_free_func(fragment_unref);
    store->predecessor = PREDECESSOR_BACKUP;
    store->retry = evtimer_new(loop_base(server->loop), on_retry, store);
    return store;
}

static void forget_store(void *data, void *user_data)
{
    struct waiter *waiter = data;

    (void)user_data;
    waiter->store = NULL;
}

void store_free(struct store *store)
{
    if (store == NULL)
        return;
    worker_pool_free(store->writer);
    if (store->running != NULL)
        store->running->store = NULL; /* on_written() is queued and frees it */
    g_queue_foreach(&store->posted, forget_store, NULL);
    g_queue_clear(&store->posted);
    g_queue_clear_full(&store->waiting, g_free);
    event_free(store->retry);
    g_hash_table_unref(store->export_links);
    g_queue_clear_full(&store->exports, fragment_unref);
    g_ptr_array_unref(store->jobs);
    g_ptr_array_unref(store->extras);
    g_free(store->path);
    g_free(store->real_path);
    g_free(store->load_error);
    g_free(store->write_error);
    g_free(store);
}

enum store_state store_state(const struct store *store, const char **ret_error)
{
    const char *error = store->retry_s > 0 ? store->write_error : store->load_error;

    if (ret_error != NULL)
        *ret_error = error != NULL ? error : "";
    if (store->retry_s > 0)
        return STORE_UNSAVED;
    return store->degraded ? STORE_DEGRADED : STORE_SAVED;
}

uint64_t store_generation(const struct store *store)
{
    return store->saved_generation;
}

const char *store_path(const struct store *store)
{
    return store->path;
}

bool store_is_readonly(const struct store *store)
{
    return store->readonly;
}
