/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The saved state: when what has changed is written. The text of each export is kept ready
 * (store_text.h), objects are store_json.c's, files store_file.c's, reading store_load.c's.
 * Loop thread; a write runs on a worker of its own, one at a time, and whoever asks for one
 * meanwhile is served by the next.
 */
#include <string.h>

#include "log.h"
#include "server.h"
#include "store.h"
#include "store_file.h"
#include "store_json.h"
#include "store_private.h"
#include "store_text.h"

#define RETRY_MOST_S 30
#define HEAD_BYTES 1024 /* about what is in the file besides exports and jobs */

/* Somebody who waits for a write. */
struct waiter {
    struct loop_task task; /* of an answer that needs no write */
    struct store *store;   /* NULL: it is gone */
    export_done *done;
    void *arg;
    bool refused;          /* the store is read-only */
};

/* One write, from the snapshot on the loop to its end there; in between the worker's. */
struct write {
    struct store *store; /* NULL: it is gone */
    char *path;
    uint64_t generation;
    GPtrArray *exports; /* struct fragment *, see retire() */
    GPtrArray *config_exports, *jobs, *extras; /* struct fragment *, referenced */
    enum predecessor predecessor;
    GQueue waiters; /* struct waiter * */
    int result;
    struct nbd_failure why;
};

/* ---- The texts ---- */

/* A write that runs sees the texts of its snapshot without having counted itself in: to touch
 * ten thousand of them on the loop would cost more than all the rest of a save there. */
static void retire(struct store *store, struct fragment *fragment)
{
    if (store->running != NULL)
        g_queue_push_tail(&store->retired, fragment);
    else
        fragment_unref(fragment);
}

static void set_fragment(struct store *store, struct fragment *fragment)
{
    GList *link = g_hash_table_lookup(store->export_links, fragment->key);

    if (link != NULL) {
        /* The table's key lives in the fragment. */
        g_hash_table_remove(store->export_links, fragment->key);
        retire(store, link->data);
        link->data = fragment;
    } else {
        g_queue_push_tail(&store->exports, fragment);
        link = store->exports.tail;
    }
    g_hash_table_insert(store->export_links, fragment->key, link);
}

void store_set_object(struct store *store, const char *id, struct json_object *object)
{
    set_fragment(store, fragment_new(2, id, object));
}

void store_set_export(struct store *store, const struct export *export)
{
    struct json_object *object = store_json_from_export(export);

    store_set_object(store, export->id, object);
    json_object_put(object);
}

/* ---- Exports that configuration files define ---- */

static void unref_object(void *object)
{
    json_object_put(object);
}

void store_removed_config(struct store *store, const char *name)
{
    g_hash_table_remove(store->unclaimed, name);
    if (!store->readonly && g_tree_remove(store->config_exports, name))
        store->changed = true;
}

static void set_config_export(struct store *store, const struct export *export)
{
    struct json_object *object = store_json_from_config_export(export);
    struct fragment *fragment;

    if (object == NULL) {
        store_removed_config(store, export->name);
        return;
    }
    fragment = fragment_new(2, export->name, object);
    g_tree_replace(store->config_exports, fragment->key, fragment);
    json_object_put(object);
    store->changed = true;
}

void store_set_unclaimed(struct store *store, const char *name, struct json_object *object)
{
    struct fragment *fragment = fragment_new(2, name, object);

    g_tree_replace(store->config_exports, fragment->key, fragment);
    g_hash_table_replace(store->unclaimed, g_strdup(name), json_object_get(object));
}

void store_adopt_mappings(struct store *store, struct export *export)
{
    struct json_object *object = g_hash_table_lookup(store->unclaimed, export->name);
    struct nbd_failure why;

    if (object == NULL)
        return;
    if (store_json_to_config_export(store->server, export, object, &why) < 0) {
        log_warning("export \"%s\" of %s: its saved mappings are forgotten: %s", export->name,
                    export->origin_file, why.message);
        store_removed_config(store, export->name);
        return;
    }
    g_hash_table_remove(store->unclaimed, export->name);
}

void store_forget_unclaimed(struct store *store)
{
    GHashTableIter iter;
    void *name;

    g_hash_table_iter_init(&iter, store->unclaimed);
    while (g_hash_table_iter_next(&iter, &name, NULL)) {
        if (!store->readonly && g_tree_remove(store->config_exports, name))
            store->changed = true;
        g_hash_table_iter_remove(&iter);
    }
}

static int by_bytes(const void *a, const void *b, void *data)
{
    (void)data;
    return strcmp(a, b);
}

/* ---- What has changed ---- */

void store_changed(struct store *store, struct export *export)
{
    if (store->readonly)
        return;
    if (export->origin == EXPORT_BY_RPC) {
        store_set_export(store, export);
        store->changed = true;
    } else if (export->origin == EXPORT_BY_CONFIG && export->state != EXPORT_DRAINING) {
        set_config_export(store, export);
    }
}

void store_removed(struct store *store, const char *export_id)
{
    GList *link = g_hash_table_lookup(store->export_links, export_id);

    if (store->readonly || link == NULL)
        return;
    g_hash_table_remove(store->export_links, export_id);
    retire(store, link->data);
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

void store_collect_jobs(struct store *store)
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
    store_collect_jobs(store);
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

static size_t size_of(const GPtrArray *fragments)
{
    size_t size = 0;

    for (unsigned i = 0; i < fragments->len; i++)
        size += ((const struct fragment *)fragments->pdata[i])->length + strlen(",\n");
    return size;
}

static GString *document_of(const struct write *write)
{
    struct document *document =
        document_new(HEAD_BYTES + size_of(write->exports) + size_of(write->config_exports) +
                     size_of(write->jobs) + size_of(write->extras));

    add_header(document, "format", json_object_new_string(STATE_FORMAT));
    add_header(document, "version", json_object_new_int(STATE_VERSION));
    add_header(document, "generation", json_object_new_int64((int64_t)write->generation));
    add_header(document, "saved_at", store_json_from_time(g_get_real_time()));
    add_header(document, "saved_by", json_object_new_string(PACKAGE_STRING));
    document_section(document, "exports", write->exports);
    document_section(document, "config_exports", write->config_exports);
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
    g_clear_pointer(&write->config_exports, g_ptr_array_unref);
    g_clear_pointer(&write->jobs, g_ptr_array_unref);
    g_clear_pointer(&write->extras, g_ptr_array_unref);
}

/* ---- Writing: on the loop ---- */

static void on_written(void *arg);

static gboolean reference(void *name, void *fragment, void *array)
{
    (void)name;
    g_ptr_array_add(array, fragment_ref(fragment));
    return FALSE;
}

static enum predecessor next_predecessor(const struct store *store)
{
    bool is_usual = store->predecessor == PREDECESSOR_BACKUP;

    return is_usual && !store->server->config->state_backup ? PREDECESSOR_DROP
                                                            : store->predecessor;
}

static struct write *write_new(struct store *store)
{
    struct write *write = g_new0(struct write, 1);

    write->store = store;
    write->path = g_strdup(store->real_path);
    write->generation = ++store->generation;
    write->predecessor = next_predecessor(store);
    write->exports = g_ptr_array_sized_new(store->exports.length);
    write->jobs = g_ptr_array_new_full(store->jobs->len, fragment_unref);
    write->extras = g_ptr_array_new_full(store->extras->len, fragment_unref);
    for (GList *link = store->exports.head; link != NULL; link = link->next)
        g_ptr_array_add(write->exports, link->data);
    write->config_exports = g_ptr_array_new_with_free_func(fragment_unref);
    g_tree_foreach(store->config_exports, reference, write->config_exports);
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
        g_queue_clear_full(&store->retired, fragment_unref);
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

/* ---- Public ---- */

struct store *store_new(struct server *server, const char *path)
{
    struct store *store = g_new0(struct store, 1);

    store->server = server;
    store->path = g_strdup(path);
    store->real_path = g_strdup(path);
    store->writer = worker_pool_new(server->loop, 1);
    store->export_links = g_hash_table_new(g_str_hash, g_str_equal);
    store->config_exports = g_tree_new_full(by_bytes, NULL, NULL, fragment_unref);
    store->unclaimed = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, unref_object);
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

bool store_is_busy(const struct store *store)
{
    return store->running != NULL || store->posted.length > 0 || store->waiting.length > 0;
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
    g_queue_clear_full(&store->retired, fragment_unref);
    g_tree_destroy(store->config_exports);
    g_hash_table_unref(store->unclaimed);
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
