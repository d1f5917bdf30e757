/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The saved state: what is written comes back, and whatever happens to the file or to the
 * daemon, nothing that was answered is lost. No handler is loaded: exports are FAULTED, which
 * is all the same to the store.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "acl.h"
#include "job.h"
#include "log.h"
#include "mapping.h"
#include "registry.h"
#include "server.h"
#include "store.h"
#include "store_text.h"

#define KILLS 50
#define MANY 10000
#define ID "6d0f5c1e-3f6b-4f3e-9a55-0d8b7d0d6a10"
#define COOKIE "0b2e8c60-7d2f-4b55-8c66-3b1c6f1f2a77"

struct fixture {
    char *dir, *path, *bak, *log;
    struct server server;
};

/* ---- A daemon's worth of state ---- */

static void start(struct fixture *fixture)
{
    struct server *server = &fixture->server;

    *server = (struct server){ 0 };
    server->loop = loop_new();
    server->workers = worker_pool_new(server->loop, 1);
    server->handlers = handler_set_load(fixture->dir, NULL, &server->handler_config,
                                        server->loop, server->workers);
    server->config = config_new();
    server->registry = registry_new(server);
    server->mappings = mapping_table_new(server);
    server->jobs = job_table_new(server);
    server->store = store_new(server, fixture->path);
}

static void stop(struct fixture *fixture)
{
    struct server *server = &fixture->server;

    store_free(server->store);
    job_table_free(server->jobs);
    mapping_table_free(server->mappings);
    registry_free(server->registry);
    handler_set_free(server->handlers);
    worker_pool_free(server->workers);
    loop_free(server->loop);
    config_free(server->config);
}

static void restart(struct fixture *fixture)
{
    stop(fixture);
    start(fixture);
    assert_int_equal(store_load(fixture->server.store, NULL), 0);
}

static int set_up(void **state)
{
    struct fixture *fixture = g_new0(struct fixture, 1);

    fixture->dir = g_dir_make_tmp("nr-store-XXXXXX", NULL);
    fixture->path = g_build_filename(fixture->dir, "saveconfig.json", NULL);
    fixture->bak = g_strconcat(fixture->path, ".bak", NULL);
    fixture->log = g_strconcat("file:", fixture->dir, "/log", NULL);
    assert_int_equal(log_set_target(fixture->log), 0);
    start(fixture);
    *state = fixture;
    return 0;
}

static void remove_all(const char *path)
{
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        char *file = g_build_filename(path, name, NULL);

        remove_all(file);
        g_free(file);
    }
    if (dir != NULL)
        g_dir_close(dir);
    g_remove(path);
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;

    stop(fixture);
    log_set_target("stderr");
    remove_all(fixture->dir);
    g_free(fixture->dir);
    g_free(fixture->path);
    g_free(fixture->bak);
    g_free(fixture->log);
    g_free(fixture);
    return 0;
}

/* ---- Short names ---- */

static struct export *add_export(struct fixture *fixture, const char *name)
{
    char *id = g_uuid_string_random();
    char *target = g_strconcat("/images/", name, NULL);
    struct export_spec spec = {
        .id = id, .name = name, .handler = "file", .target = target, .size = 1 << 20,
        .origin = EXPORT_BY_RPC,
    };
    struct export *export;
    struct nbd_failure why;

    if (registry_add(fixture->server.registry, &spec, false, &export, &why) < 0)
        fail_msg("%s", why.message);
    store_changed(fixture->server.store, export);
    g_free(id);
    g_free(target);
    return export;
}

static struct export *find(struct fixture *fixture, const char *name)
{
    return registry_find(fixture->server.registry, name);
}

struct outcome {
    struct loop *loop;
    unsigned left;
    int result;
    struct nbd_failure why;
};

static void on_saved(void *arg, int result, const struct nbd_failure *why)
{
    struct outcome *outcome = arg;

    outcome->result = result;
    outcome->why = *why;
    if (--outcome->left == 0)
        loop_stop(outcome->loop);
}

static int save_with(struct fixture *fixture, struct nbd_failure *ret_why)
{
    struct outcome outcome = { .loop = fixture->server.loop, .left = 1 };

    store_save(fixture->server.store, on_saved, &outcome);
    assert_int_equal(outcome.left, 1); /* never from inside */
    loop_run(fixture->server.loop);
    if (ret_why != NULL)
        *ret_why = outcome.why;
    return outcome.result;
}

static int save(struct fixture *fixture)
{
    return save_with(fixture, NULL);
}

static char *content_of(const char *path)
{
    char *text = NULL;

    if (!g_file_get_contents(path, &text, NULL, NULL))
        fail_msg("cannot read %s", path);
    return text;
}

static void put(const char *path, const char *text)
{
    assert_true(g_file_set_contents(path, text, -1, NULL));
}

static void edit(const char *path, const char *from, const char *to)
{
    char *text = content_of(path);
    char **parts = g_strsplit(text, from, 2);
    char *edited;

    assert_int_equal(g_strv_length(parts), 2);
    edited = g_strconcat(parts[0], to, parts[1], NULL);
    put(path, edited);
    g_free(edited);
    g_strfreev(parts);
    g_free(text);
}

static void assert_file_has(const char *path, const char *part)
{
    char *text = content_of(path);

    if (strstr(text, part) == NULL)
        fail_msg("%s does not have %s:\n%s", path, part, text);
    g_free(text);
}

static void assert_logged(const struct fixture *fixture, const char *part)
{
    assert_file_has(fixture->log + strlen("file:"), part);
}

/* How many files of the directory have a name with this part. */
static unsigned count_files(const struct fixture *fixture, const char *part)
{
    GDir *dir = g_dir_open(fixture->dir, 0, NULL);
    const char *name;
    unsigned count = 0;

    while ((name = g_dir_read_name(dir)) != NULL)
        count += strstr(name, part) != NULL;
    g_dir_close(dir);
    return count;
}

static enum store_state state_of(struct fixture *fixture)
{
    return store_state(fixture->server.store, NULL);
}

/* ---- What is written comes back ---- */

static void no_file_is_an_empty_state(void **state)
{
    struct fixture *fixture = *state;

    assert_int_equal(store_load(fixture->server.store, NULL), 0);

    assert_int_equal(state_of(fixture), STORE_SAVED);
    assert_int_equal(store_generation(fixture->server.store), 0);
    assert_int_equal(registry_size(fixture->server.registry), 0);
    assert_int_equal(count_files(fixture, "saveconfig"), 0); /* loading never writes */
    assert_int_equal(save(fixture), 0);
    assert_int_equal(count_files(fixture, "saveconfig"), 0); /* nothing has changed */
}

static void an_export_comes_back_whole(void **state)
{
    struct fixture *fixture = *state;
    GHashTable *opts = g_hash_table_new(g_str_hash, g_str_equal);
    const char *acl[] = { "10.0.0.0/8", "2001:db8::1", NULL };
    struct export_spec spec = {
        .id = ID, .name = "größe \"x\"\\", .description = "a / b\n",
        .handler = "gluster", .target = "vol1/disk7", .opts = opts, .origin = EXPORT_BY_RPC,
        .size = INT64_MAX, .prealloc = true, .readonly = true, .created_us = 1795228211482913,
        .acl = acl, .default_deny = true, .hidden = true, .max_connections = 7,
        .request_timeout_s = 30, .drain_timeout_s = 40,
    };
    struct export *export;
    struct stat status;

    g_hash_table_insert(opts, (char *)"host", (char *)"localhost");
    g_hash_table_insert(opts, (char *)"direct", (char *)"true");
    assert_int_equal(registry_add(fixture->server.registry, &spec, false, &export, NULL), 0);
    export->logical_block = 4096;
    store_changed(fixture->server.store, export);
    assert_int_equal(save(fixture), 0);
    assert_int_equal(store_generation(fixture->server.store), 1);
    restart(fixture);

    export = find(fixture, spec.name);
    assert_non_null(export);
    assert_string_equal(export->id, ID);
    assert_string_equal(export->description, "a / b\n");
    assert_string_equal(export->handler_name, "gluster");
    assert_string_equal(export->target, "vol1/disk7");
    assert_string_equal(g_hash_table_lookup(export->opts, "host"), "localhost");
    assert_int_equal(g_hash_table_size(export->opts), 2);
    assert_true(export->size == INT64_MAX);
    assert_true(export->prealloc);
    assert_true(export->readonly);
    assert_true(export->created_us == 1795228211482913);
    assert_int_equal(export->max_connections, 7);
    assert_int_equal(export->request_timeout_s, 30);
    assert_int_equal(export->drain_timeout_s, 40);
    assert_true(export->hidden);
    assert_true(acl_default_deny(export->acl));
    assert_string_equal(acl_entries(export->acl)[0], "10.0.0.0/8");
    assert_string_equal(acl_entries(export->acl)[1], "2001:db8::1");
    assert_null(acl_entries(export->acl)[2]);
    assert_int_equal(export->logical_block, 4096);
    assert_int_equal(export->state, EXPORT_FAULTED); /* its handler is missing here */
    assert_int_equal(store_generation(fixture->server.store), 1);
    assert_int_equal(stat(fixture->path, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
    g_hash_table_unref(opts);
}

/* Whoever wrote it wanted to keep somebody out. */
static void an_export_with_an_access_list_that_makes_no_sense_is_not_served(void **state)
{
    static const char *const lists[] = {
        "[]", "{\"entries\":{}}", "{\"entries\":[\"10.0.0.0/33\"]}", "{\"entries\":[1]}",
        "{\"default_deny\":\"yes\"}",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(lists); i++) {
        struct fixture *fixture = *state;
        g_autofree char *text = g_strdup_printf(
            "{\"format\":\"nbd-runner-state\",\"version\":2,\"exports\":{\"" ID "\":"
            "{\"name\":\"e\",\"handler\":\"gluster\",\"target\":\"v/x\",\"size\":1,"
            "\"acl\":%s}}}", lists[i]);

        assert_true(g_file_set_contents(fixture->path, text, -1, NULL));
        restart(fixture);
        assert_null(find(fixture, "e"));
    }
}

static void a_mapping_comes_back_dead(void **state)
{
    struct fixture *fixture = *state;
    struct mapping_spec spec = {
        .cookie = COOKIE, .client = "host-a", .client_boot = "boot", .device = "/dev/nbd3",
        .since_us = 1795228262000000, .timeout_s = 5, .dead_timeout_s = 30, .connections = 2,
        .readonly = true,
    };
    struct export *export = add_export(fixture, "e");
    struct mapping *mapping = mapping_restore(fixture->server.mappings, export, &spec, NULL);

    spec.cookie = NULL;
    assert_non_null(mapping_new(fixture->server.mappings, export, &spec)); /* a lease */
    store_changed(fixture->server.store, export);
    assert_int_equal(save(fixture), 0);
    restart(fixture);

    mapping = mapping_find(fixture->server.mappings, COOKIE);
    assert_non_null(mapping);
    assert_ptr_equal(mapping->export, find(fixture, "e"));
    assert_int_equal(mapping_count(fixture->server.mappings), 1);
    assert_int_equal(mapping_state(mapping), MAPPING_STATE_DEAD);
    assert_string_equal(mapping->client, "host-a");
    assert_string_equal(mapping->client_boot, "boot");
    assert_string_equal(mapping->device, "/dev/nbd3");
    assert_true(mapping->since_us == 1795228262000000);
    assert_int_equal(mapping->timeout_s, 5);
    assert_int_equal(mapping->dead_timeout_s, 30);
    assert_int_equal(mapping->connections, 2);
    assert_true(mapping->readonly);
}

static void finished_jobs_come_back_for_a_day(void **state)
{
    struct fixture *fixture = *state;
    struct job_table *jobs = fixture->server.jobs;
    struct job *failed, *job;
    struct nbd_failure why;

    job_start(jobs, JOB_CREATE, "running", "token-1");
    failed = job_start(jobs, JOB_DELETE, "failed", "token-2");
    nbd_fail(&why, ENOSPC, "volume vol1: 812 MiB free");
    job_end(failed, -ENOSPC, &why);
    store_jobs_changed(fixture->server.store);
    assert_int_equal(save(fixture), 0);
    restart(fixture);

    jobs = fixture->server.jobs;
    assert_null(job_find_token(jobs, "token-1"));
    job = job_find_token(jobs, "token-2");
    assert_non_null(job);
    assert_int_equal(job->kind, JOB_DELETE);
    assert_int_equal(job->state, JOB_FAILED);
    assert_string_equal(job->export_name, "failed");
    assert_int_equal(job->failure.code, ENOSPC);
    assert_string_equal(job->failure.message, "volume vol1: 812 MiB free");

    edit(fixture->path, "\"ended\": \"20", "\"ended\": \"19");
    restart(fixture);
    assert_null(job_find_token(fixture->server.jobs, "token-2"));
}

static void a_removed_export_is_gone(void **state)
{
    struct fixture *fixture = *state;
    struct export *export = add_export(fixture, "b");

    add_export(fixture, "a");
    add_export(fixture, "c");
    assert_int_equal(save(fixture), 0);
    store_removed(fixture->server.store, export->id);
    assert_int_equal(save(fixture), 0);
    restart(fixture);

    assert_null(find(fixture, "b"));
    assert_int_equal(registry_size(fixture->server.registry), 2);
    assert_int_equal(store_generation(fixture->server.store), 2);
    assert_int_equal(count_files(fixture, "saveconfig"), 2); /* it and .bak */
    assert_file_has(fixture->bak, "\"name\": \"b\"");
}

static void without_state_backup_there_is_one_file(void **state)
{
    struct fixture *fixture = *state;

    fixture->server.config->state_backup = false;
    add_export(fixture, "a");
    assert_int_equal(save(fixture), 0);
    add_export(fixture, "b");
    assert_int_equal(save(fixture), 0);
    assert_int_equal(count_files(fixture, "saveconfig"), 1);
    restart(fixture);

    assert_int_equal(registry_size(fixture->server.registry), 2);
}

static void exports_of_the_configuration_are_not_kept(void **state)
{
    struct fixture *fixture = *state;
    struct export_spec spec = {
        .name = "conf", .handler = "file", .target = "/x", .origin = EXPORT_BY_CONFIG,
        .origin_file = "x.conf",
    };
    struct export *export;

    assert_int_equal(registry_add(fixture->server.registry, &spec, false, &export, NULL), 0);
    store_changed(fixture->server.store, export);
    add_export(fixture, "rpc");
    assert_int_equal(save(fixture), 0);

    restart(fixture);
    assert_null(find(fixture, "conf"));
    assert_non_null(find(fixture, "rpc"));
}

/* ---- Texts by hand ---- */

#define HEAD "{ \"format\": \"nbd-runner-state\", \"version\": 2, \"generation\": 41, "

static void unknown_members_are_written_back(void **state)
{
    struct fixture *fixture = *state;
    struct export *export;

    put(fixture->path, HEAD "\"tombstones\": { \"x\": 1 }, \"zeta\": [1.50, null], "
        "\"exports\": { \"" ID "\": { \"name\": \"e\", \"handler\": \"file\", \"target\": \"/e\","
        "\"size\": 4096, \"killswitch_s\": 3, \"handler_data\": { \"gfid\": \"g\" },"
        "\"mappings\": [ { \"cookie\": \"" COOKIE "\", \"colour\": \"red\" }, { \"odd\": true }"
        " ] } } }");
    restart(fixture);
    assert_int_equal(mapping_count(fixture->server.mappings), 1);
    assert_logged(fixture, "mapping 2 of the state file is kept there but not used");
    export = find(fixture, "e");
    store_changed(fixture->server.store, export);
    assert_int_equal(save(fixture), 0);
    store_changed(fixture->server.store, export);
    assert_int_equal(save(fixture), 0);

    assert_int_equal(store_generation(fixture->server.store), 43);
    assert_file_has(fixture->path, "\"tombstones\": { \"x\": 1 }");
    assert_file_has(fixture->path, "\"zeta\": [ 1.50, null ]");
    assert_file_has(fixture->path, "\"killswitch_s\": 3");
    assert_file_has(fixture->path, "\"handler_data\": { \"gfid\": \"g\" }");
    assert_file_has(fixture->path, "\"colour\": \"red\"");
    assert_file_has(fixture->path, "{ \"odd\": true } ]");
}

static void bad_entries_are_kept_and_not_served(void **state)
{
    static const char *const bad[] = {
        "{ \"handler\": \"file\", \"target\": \"/1\", \"size\": 1 }",
        "{ \"name\": \"\", \"handler\": \"file\", \"target\": \"/1\", \"size\": 1 }",
        "{ \"name\": \"x\\u0000y\", \"handler\": \"file\", \"target\": \"/1\", \"size\": 1 }",
        "{ \"name\": \"x\", \"handler\": \"file\", \"target\": \"/1\", \"size\": -1 }",
        "{ \"name\": \"x\", \"handler\": \"file\", \"target\": \"/1\", \"size\": \"1\" }",
        "{ \"name\": \"x\", \"handler\": \"file\", \"target\": \"/1\", \"size\": 1.5 }",
        "{ \"name\": \"x\", \"handler\": \"file\", \"target\": \"/1\", "
        "\"size\": 9223372036854775808 }",
        "{ \"name\": \"x\", \"handler\": 1, \"target\": \"/1\", \"size\": 1 }",
        "{ \"name\": \"x\", \"handler\": \"file\", \"target\": \"/1\", \"size\": 1, "
        "\"opts\": [ ] }",
        "{ \"name\": \"good\", \"handler\": \"file\", \"target\": \"/2\", \"size\": 1 }",
        "[ 1, 2 ]",
        "null",
    };
    struct fixture *fixture = *state;
    GString *text = g_string_new(HEAD "\"exports\": {\n");

    g_string_append(text, "\"" ID "\": { \"name\": \"good\", \"handler\": \"file\", "
                    "\"target\": \"/good\", \"size\": 9223372036854775807 },\n");
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++)
        g_string_append_printf(text, "\"00000000-0000-4000-8000-%012zu\": %s,\n", i, bad[i]);
    g_string_append(text, "\"no-uuid\": { \"name\": \"z\", \"handler\": \"file\", "
                    "\"target\": \"/z\", \"size\": 1 } } }");
    put(fixture->path, text->str);
    restart(fixture);
    assert_int_equal(registry_size(fixture->server.registry), 1);
    assert_true(find(fixture, "good")->size == INT64_MAX);
    assert_logged(fixture, "is kept there but not served");
    add_export(fixture, "new");
    assert_int_equal(save(fixture), 0);

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++)
        assert_file_has(fixture->path, bad[i]);
    assert_file_has(fixture->path, "\"no-uuid\": {");
    restart(fixture);
    assert_int_equal(registry_size(fixture->server.registry), 2);
    g_string_free(text, TRUE);
}

static void a_checksum_tells_of_edits(void **state)
{
    struct fixture *fixture = *state;
    char *text;

    add_export(fixture, "a");
    add_export(fixture, "b");
    assert_int_equal(save(fixture), 0);
    text = content_of(fixture->path);
    assert_int_equal(document_check(text, strlen(text)), CHECKSUM_RIGHT);
    restart(fixture);
    edit(fixture->path, "\"size\": 1048576", "\"size\": 2097152");
    restart(fixture);

    assert_logged(fixture, "edited by hand");
    assert_true(find(fixture, "a")->size == 2 << 20);
    assert_int_equal(state_of(fixture), STORE_SAVED);
    g_free(text);
}

static void version_1_is_converted(void **state)
{
    static const char v1[] =
        "{ \"vol1/disk7\": { \"type\": 0, \"nbd\": \"/dev/nbd2\", \"maptime\": "
        "\"2019-06-01 10:20:30\", \"size\": 8589934592, \"blksize\": 4096, \"timeout\": 30, "
        "\"readonly\": true, \"prealloc\": false, \"status\": \"mapped\" },"
        "  \"pool/img\": { \"type\": 1, \"nbd\": \"\", \"size\": 1048576, \"blksize\": 512, "
        "\"readonly\": 0, \"prealloc\": 1, \"status\": 0 },"
        "  \"odd/one\": { \"type\": 9, \"size\": 1 } }";
    struct fixture *fixture = *state;
    char *kept = g_strconcat(fixture->path, ".v1", NULL);
    struct export *export;
    struct mapping *mapping;

    put(fixture->path, v1);
    restart(fixture);
    assert_int_equal(access(kept, F_OK), -1); /* loading never writes */
    export = find(fixture, "gluster/vol1/disk7");
    assert_non_null(export);
    assert_true(export->size == UINT64_C(8589934592));
    assert_int_equal(export->logical_block, 4096);
    assert_true(export->readonly);
    assert_int_equal(export->mappings->len, 1);
    mapping = g_ptr_array_index(export->mappings, 0);
    assert_int_equal(mapping_state(mapping), MAPPING_STATE_DEAD);
    assert_string_equal(mapping->device, "/dev/nbd2");
    assert_int_equal(mapping->timeout_s, 30);
    export = find(fixture, "ceph/pool/img");
    assert_non_null(export);
    assert_true(export->prealloc);
    assert_int_equal(export->mappings->len, 0);
    assert_logged(fixture, "\"odd/one\"");

    add_export(fixture, "new");
    assert_int_equal(save(fixture), 0);
    assert_file_has(kept, v1);
    assert_file_has(fixture->path, "\"version\": 2");
    restart(fixture);
    assert_int_equal(registry_size(fixture->server.registry), 3);
    assert_int_equal(mapping_count(fixture->server.mappings), 1);
    assert_file_has(fixture->path, "\"odd/one\": { \"type\": 9, \"size\": 1 }");
    g_free(kept);
}

static void a_newer_version_is_served_and_not_touched(void **state)
{
    static const char text[] =
        "{ \"format\": \"nbd-runner-state\", \"version\": 3, \"exports\": { \"" ID "\": "
        "{ \"name\": \"e\", \"handler\": \"file\", \"target\": \"/e\", \"size\": 1 } } }";
    struct fixture *fixture = *state;
    struct nbd_failure why;

    put(fixture->path, text);
    restart(fixture);
    assert_true(store_is_readonly(fixture->server.store));
    assert_non_null(find(fixture, "e"));
    add_export(fixture, "new");

    assert_int_equal(save_with(fixture, &why), -EROFS);
    assert_non_null(strstr(why.message, "newer version"));
    assert_file_has(fixture->path, text);
    assert_int_equal(count_files(fixture, "saveconfig"), 1);
}

/* ---- Damage ---- */

static const char *const damages[] = {
    "", "{", "{ \"format\": \"nbd-runner-state\", \"version\": 2, \"exports\": {",
    "[]", "42", "null", "garbage", "{ \"format\": \"other\", \"version\": 2, \"exports\": {} }",
    "{ \"format\": \"nbd-runner-state\", \"version\": 2, \"exports\": [] }",
    "{ \"format\": \"nbd-runner-state\", \"version\": 2 }",
    "{ \"format\": \"nbd-runner-state\", \"version\": 2, \"exports\": {} } more",
};

static void a_damaged_file_is_replaced_by_its_backup(void **state)
{
    struct fixture *fixture = *state;

    add_export(fixture, "a");
    assert_int_equal(save(fixture), 0);
    add_export(fixture, "b");
    assert_int_equal(save(fixture), 0);
    for (size_t i = 0; i < G_N_ELEMENTS(damages); i++) {
        char *backup = content_of(fixture->bak);

        put(fixture->path, damages[i]);
        restart(fixture);
        assert_non_null(find(fixture, "a"));
        assert_null(find(fixture, "b"));
        assert_int_equal(state_of(fixture), STORE_SAVED);
        assert_int_equal(count_files(fixture, "corrupt"), i);

        /* The good backup outlives the next write; the damaged file is kept. */
        store_changed(fixture->server.store, find(fixture, "a"));
        assert_int_equal(save(fixture), 0);
        assert_file_has(fixture->bak, backup);
        assert_int_equal(count_files(fixture, "corrupt"), i + 1);
        g_free(backup);
    }
}

static void a_missing_file_is_replaced_by_its_backup(void **state)
{
    struct fixture *fixture = *state;

    add_export(fixture, "a");
    assert_int_equal(save(fixture), 0);
    assert_int_equal(g_rename(fixture->path, fixture->bak), 0);
    restart(fixture);

    assert_non_null(find(fixture, "a"));
    assert_logged(fixture, "is missing");
    add_export(fixture, "b");
    assert_int_equal(save(fixture), 0);
    restart(fixture);
    assert_int_equal(registry_size(fixture->server.registry), 2);
}

static void two_damaged_files_are_set_aside(void **state)
{
    struct fixture *fixture = *state;
    const char *error;

    put(fixture->path, "{ \"format\": ");
    put(fixture->bak, "rubbish");
    restart(fixture);

    assert_int_equal(store_state(fixture->server.store, &error), STORE_DEGRADED);
    assert_non_null(strstr(error, "is damaged at byte"));
    assert_int_equal(count_files(fixture, "saveconfig.json.corrupt"), 1);
    assert_int_equal(count_files(fixture, "saveconfig.json.bak.corrupt"), 1);
    assert_int_equal(access(fixture->path, F_OK), -1);
    add_export(fixture, "a");
    assert_int_equal(save(fixture), 0);
    assert_int_equal(state_of(fixture), STORE_DEGRADED);
    restart(fixture);
    assert_int_equal(state_of(fixture), STORE_SAVED);
    assert_non_null(find(fixture, "a"));
}

static void a_file_that_cannot_be_read_is_an_error(void **state)
{
    struct fixture *fixture = *state;
    struct nbd_failure why;

    assert_int_equal(g_mkdir(fixture->path, 0700), 0);
    assert_int_equal(store_load(fixture->server.store, &why), -EISDIR);
    assert_non_null(strstr(why.message, fixture->path));
    assert_non_null(strstr(why.message, "--state"));
    assert_int_equal(g_rmdir(fixture->path), 0);

    if (geteuid() == 0)
        return; /* nothing is unreadable for root */
    put(fixture->path, "{}");
    assert_int_equal(g_chmod(fixture->path, 0), 0);
    assert_int_equal(store_load(fixture->server.store, &why), -EACCES);
}

/* An export of a configuration file, as a reload adds it. */
static struct export *add_configured(struct fixture *fixture, const char *name,
                                     const char *target)
{
    struct export_spec spec = {
        .name = name, .handler = "file", .target = target, .origin = EXPORT_BY_CONFIG,
        .origin_file = "/etc/x/conf.d/a.conf",
    };
    struct export *export;
    struct nbd_failure why;

    if (registry_add(fixture->server.registry, &spec, false, &export, &why) < 0)
        fail_msg("%s", why.message);
    store_adopt_mappings(fixture->server.store, export);
    return export;
}

static void map_configured(struct fixture *fixture)
{
    struct mapping_spec spec = { .cookie = COOKIE, .client = "h", .device = "/dev/nbd7" };
    struct export *export = add_configured(fixture, "vol", "/images/vol");

    assert_non_null(mapping_restore(fixture->server.mappings, export, &spec, NULL));
    store_changed(fixture->server.store, export);
    assert_int_equal(save(fixture), 0);
}

static void of_configured_exports_only_mappings_are_kept(void **state)
{
    struct fixture *fixture = *state;
    struct export *export;

    add_configured(fixture, "unmapped", "/images/unmapped");
    map_configured(fixture);
    assert_file_has(fixture->path, "\"exports\": {\n  }");
    assert_file_has(fixture->path, "\"origin_file\": \"/etc/x/conf.d/a.conf\"");
    restart(fixture);
    assert_int_equal(registry_size(fixture->server.registry), 0);

    /* Its file has a mistake at this start: nothing of it is lost. */
    add_export(fixture, "other");
    assert_int_equal(save(fixture), 0);
    restart(fixture);

    export = add_configured(fixture, "vol", "/images/vol");
    assert_int_equal(export->mappings->len, 1);
    assert_ptr_equal(mapping_find(fixture->server.mappings, COOKIE)->export, export);
    mapping_remove(export->mappings->pdata[0]);
    store_changed(fixture->server.store, export);
    assert_int_equal(save(fixture), 0);
    restart(fixture);
    export = add_configured(fixture, "vol", "/images/vol");
    assert_int_equal(export->mappings->len, 0);
}

/* A client resumes by the cookie: it must not find other bytes. */
static void mappings_stay_with_their_backstore(void **state)
{
    struct fixture *fixture = *state;
    struct export *export;

    map_configured(fixture);
    restart(fixture);
    export = add_configured(fixture, "vol", "/images/another");

    assert_int_equal(export->mappings->len, 0);
    assert_null(mapping_find(fixture->server.mappings, COOKIE));
    assert_logged(fixture, "its saved mappings are forgotten: they are of the file backstore "
                           "/images/vol");
}

static void mappings_of_exports_that_are_gone_are_dropped(void **state)
{
    struct fixture *fixture = *state;
    char *text;

    map_configured(fixture);
    restart(fixture);
    store_forget_unclaimed(fixture->server.store);
    assert_int_equal(save(fixture), 0);

    text = content_of(fixture->path);
    assert_null(strstr(text, COOKIE));
    g_free(text);
}

static void a_symbolic_link_stays(void **state)
{
    struct fixture *fixture = *state;
    char *real = g_build_filename(fixture->dir, "real.json", NULL);

    put(real, "{}");
    assert_int_equal(symlink(real, fixture->path), 0);
    restart(fixture);
    add_export(fixture, "a");
    assert_int_equal(save(fixture), 0);

    assert_true(g_file_test(fixture->path, G_FILE_TEST_IS_SYMLINK));
    assert_file_has(real, "\"name\": \"a\"");
    g_free(real);
}

/* ---- Writing ---- */

static void saves_are_joined(void **state)
{
    struct fixture *fixture = *state;
    struct outcome outcome = { .loop = fixture->server.loop, .left = 100 };

    for (int i = 0; i < 100; i++) {
        char *name = g_strdup_printf("e%d", i);

        add_export(fixture, name);
        store_save(fixture->server.store, on_saved, &outcome);
        g_free(name);
    }
    loop_run(fixture->server.loop);

    assert_int_equal(outcome.left, 0);
    assert_int_equal(outcome.result, 0);
    assert_int_equal(store_generation(fixture->server.store), 2); /* the first, and the rest */
    restart(fixture);
    assert_int_equal(registry_size(fixture->server.registry), 100);
}

static void stop_when_saved(evutil_socket_t fd, short what, void *arg)
{
    struct fixture *fixture = arg;

    (void)fd;
    (void)what;
    if (state_of(fixture) != STORE_UNSAVED)
        loop_stop(fixture->server.loop);
}

/* Runs the loop until the state is saved in the background. */
static void await_retry(struct fixture *fixture)
{
    struct timeval often = { .tv_usec = 20000 };
    struct event *timer = event_new(loop_base(fixture->server.loop), -1, EV_PERSIST,
                                    stop_when_saved, fixture);

    event_add(timer, &often);
    loop_run(fixture->server.loop);
    event_free(timer);
}

static void a_failed_write_is_told_and_tried_again(void **state)
{
    struct fixture *fixture = *state;
    char *away = g_strconcat(fixture->dir, ".away", NULL);
    struct nbd_failure why;
    const char *error;

    add_export(fixture, "a");
    assert_int_equal(save(fixture), 0);
    add_export(fixture, "b");
    assert_int_equal(g_rename(fixture->dir, away), 0);

    assert_int_equal(save_with(fixture, &why), -ENOENT);
    assert_non_null(strstr(why.message, fixture->path));
    assert_non_null(strstr(why.message, "No such file or directory"));
    assert_int_equal(store_state(fixture->server.store, &error), STORE_UNSAVED);
    assert_string_equal(error, why.message);
    store_removed(fixture->server.store, find(fixture, "b")->id);

    assert_int_equal(g_rename(away, fixture->dir), 0);
    await_retry(fixture);
    assert_int_equal(store_state(fixture->server.store, &error), STORE_SAVED);
    assert_string_equal(error, "");
    restart(fixture);
    assert_non_null(find(fixture, "a"));
    assert_null(find(fixture, "b"));
    g_free(away);
}

/* Takes all the space that is left. */
static void fill_disk(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    char piece[512] = "";

    assert_true(fd >= 0);
    while (write(fd, piece, sizeof(piece)) > 0)
        continue;
    assert_int_equal(errno, ENOSPC);
    close(fd);
}

static void a_full_disk_fails_the_change_and_leaves_the_file(void **state)
{
    struct fixture *fixture = *state;
    char *before, *after, *filler = g_build_filename(fixture->dir, "filler", NULL);
    struct nbd_failure why;
    struct export *export;

    if (mount("tmpfs", fixture->dir, "tmpfs", 0, "size=64k") < 0) {
        g_free(filler);
        skip();
    }
    add_export(fixture, "a");
    assert_int_equal(save(fixture), 0);
    before = content_of(fixture->path);
    fill_disk(filler);
    export = add_export(fixture, "b");

    assert_int_equal(save_with(fixture, &why), -ENOSPC);
    assert_non_null(strstr(why.message, "No space left on device"));
    store_removed(fixture->server.store, export->id);
    after = content_of(fixture->path);
    assert_string_equal(before, after);
    assert_int_equal(count_files(fixture, ".new"), 0);

    assert_int_equal(unlink(filler), 0);
    add_export(fixture, "c");
    assert_int_equal(save(fixture), 0);
    assert_int_equal(state_of(fixture), STORE_SAVED);
    stop(fixture);
    start(fixture);
    assert_int_equal(store_load(fixture->server.store, NULL), 0);
    assert_non_null(find(fixture, "c"));
    assert_null(find(fixture, "b"));
    umount2(fixture->dir, MNT_DETACH);
    g_free(before);
    g_free(after);
    g_free(filler);
}

static void a_write_that_runs_at_the_end_is_awaited(void **state)
{
    struct fixture *fixture = *state;
    struct outcome outcome = { .loop = fixture->server.loop, .left = 3 };

    add_export(fixture, "a");
    store_save(fixture->server.store, on_saved, &outcome);
    add_export(fixture, "b");
    store_save(fixture->server.store, on_saved, &outcome);
    restart(fixture);

    assert_int_equal(outcome.left, 3);
    assert_non_null(find(fixture, "a"));
}

/* ---- kill -9 ---- */

struct writer {
    struct fixture fixture;
    struct export *counter;
    unsigned step;
};

/* Each answer is told on stdout, then comes the next change. */
static void on_step_saved(void *arg, int result, const struct nbd_failure *why)
{
    struct writer *writer = arg;

    if (result < 0) {
        fprintf(stderr, "%s\n", why->message);
        exit(1);
    }
    if (write(STDOUT_FILENO, &writer->step, sizeof(writer->step)) != sizeof(writer->step))
        exit(1);
    g_free(writer->counter->description);
    writer->counter->description = g_strdup_printf("%u", ++writer->step);
    store_changed(writer->fixture.server.store, writer->counter);
    store_save(writer->fixture.server.store, on_step_saved, writer);
}

/* A process of its own: `test_store --writer DIRECTORY`. */
static int run_writer(char *directory)
{
    struct writer writer = { .fixture = { .dir = directory } };

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    log_set_level(NBD_LOG_ERROR);
    writer.fixture.path = g_build_filename(directory, "saveconfig.json", NULL);
    start(&writer.fixture);
    if (store_load(writer.fixture.server.store, NULL) < 0)
        return 1;
    writer.counter = find(&writer.fixture, "counter");
    if (writer.counter == NULL) {
        for (int i = 0; i < 50; i++) {
            char *name = g_strdup_printf("e%d", i);

            add_export(&writer.fixture, name);
            g_free(name);
        }
        writer.counter = add_export(&writer.fixture, "counter");
        g_free(writer.counter->description);
        writer.counter->description = g_strdup("0");
    }
    writer.step = (unsigned)strtoul(writer.counter->description, NULL, 10);
    store_changed(writer.fixture.server.store, writer.counter);
    store_save(writer.fixture.server.store, on_step_saved, &writer);
    loop_run(writer.fixture.server.loop);
    return 0;
}

static pid_t start_writer(const struct fixture *fixture, int *ret_fd)
{
    /* By its path: under valgrind the link itself leads to valgrind. */
    char *self = g_file_read_link("/proc/self/exe", NULL);
    int pipes[2];
    pid_t pid;

    assert_int_equal(pipe(pipes), 0);
    pid = fork();
    if (pid == 0) {
        dup2(pipes[1], STDOUT_FILENO);
        close(pipes[0]);
        close(pipes[1]);
        execl(self, "test_store", "--writer", fixture->dir, (char *)NULL);
        _exit(1);
    }
    g_free(self);
    close(pipes[1]);
    *ret_fd = pipes[0];
    return pid;
}

static void kill_9_loses_nothing_that_was_answered(void **state)
{
    struct fixture *fixture = *state;
    unsigned answered = 0, steps = 0;

    for (int i = 0; i < KILLS; i++) {
        unsigned step, saved;
        char *text;
        int fd;
        pid_t pid = start_writer(fixture, &fd);

        /* The first answer, so that it surely runs; then some more by chance. */
        assert_int_equal(read(fd, &step, sizeof(step)), sizeof(step));
        answered = MAX(answered, step);
        g_usleep((gulong)g_random_int_range(0, 20000));
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        while (read(fd, &step, sizeof(step)) == sizeof(step)) {
            answered = MAX(answered, step);
            steps++;
        }
        close(fd);

        text = content_of(fixture->path);
        assert_int_equal(document_check(text, strlen(text)), CHECKSUM_RIGHT);
        g_free(text);
        restart(fixture);
        assert_int_equal(count_files(fixture, "corrupt"), 0);
        assert_int_equal(registry_size(fixture->server.registry), 51);
        saved = (unsigned)strtoul(find(fixture, "counter")->description, NULL, 10);
        if (saved < answered)
            fail_msg("after kill %d: %u was answered, %u is saved", i, answered, saved);
    }
    print_message("%d kills among %u answered changes\n", KILLS, steps);
}

/* ---- Many ---- */

static void ten_thousand_exports(void **state)
{
    struct fixture *fixture = *state;
    char *text;
    int64_t begin, loop_us = 0;

    for (int i = 0; i < MANY; i++) {
        char *name = g_strdup_printf("export-%05d", i);

        add_export(fixture, name);
        g_free(name);
    }
    begin = g_get_monotonic_time();
    assert_int_equal(save(fixture), 0);
    print_message("first save of %d: %.1f ms\n", MANY,
                  (double)(g_get_monotonic_time() - begin) / 1000);
    begin = g_get_monotonic_time();
    for (int i = 0; i < 20; i++) {
        struct outcome outcome = { .loop = fixture->server.loop, .left = 1 };
        int64_t now = g_get_monotonic_time();

        store_changed(fixture->server.store, find(fixture, "export-05000"));
        store_save(fixture->server.store, on_saved, &outcome);
        loop_us = MAX(loop_us, g_get_monotonic_time() - now);
        loop_run(fixture->server.loop);
        assert_int_equal(outcome.result, 0);
    }
    print_message("change and save, mean of 20: %.1f ms, longest on the loop %.2f ms\n",
                  (double)(g_get_monotonic_time() - begin) / 20000, (double)loop_us / 1000);
    text = content_of(fixture->path);
    print_message("%.1f MB\n", (double)strlen(text) / 1e6);
    g_free(text);
    begin = g_get_monotonic_time();
    restart(fixture);
    print_message("load: %.1f ms\n", (double)(g_get_monotonic_time() - begin) / 1000);
    assert_int_equal(registry_size(fixture->server.registry), MANY);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        TEST(no_file_is_an_empty_state),
        TEST(an_export_comes_back_whole),
        TEST(an_export_with_an_access_list_that_makes_no_sense_is_not_served),
        TEST(a_mapping_comes_back_dead),
        TEST(finished_jobs_come_back_for_a_day),
        TEST(a_removed_export_is_gone),
        TEST(without_state_backup_there_is_one_file),
        TEST(exports_of_the_configuration_are_not_kept),
        TEST(unknown_members_are_written_back),
        TEST(bad_entries_are_kept_and_not_served),
        TEST(a_checksum_tells_of_edits),
        TEST(version_1_is_converted),
        TEST(a_newer_version_is_served_and_not_touched),
        TEST(a_damaged_file_is_replaced_by_its_backup),
        TEST(a_missing_file_is_replaced_by_its_backup),
        TEST(two_damaged_files_are_set_aside),
        TEST(a_file_that_cannot_be_read_is_an_error),
        TEST(of_configured_exports_only_mappings_are_kept),
        TEST(mappings_stay_with_their_backstore),
        TEST(mappings_of_exports_that_are_gone_are_dropped),
        TEST(a_symbolic_link_stays),
        TEST(saves_are_joined),
        TEST(a_failed_write_is_told_and_tried_again),
        TEST(a_full_disk_fails_the_change_and_leaves_the_file),
        TEST(a_write_that_runs_at_the_end_is_awaited),
        TEST(kill_9_loses_nothing_that_was_answered),
        TEST(ten_thousand_exports),
    };

    if (argc == 3 && strcmp(argv[1], "--writer") == 0)
        return run_writer(argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
