/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The control procedures, called over a socket pair, against a real registry, real handlers
 * from the build folder and a real state file in a directory of its own.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "connection.h"
#include "control.h"
#include "control_private.h"
#include "log.h"
#include "registry.h"

#define PATIENCE_MS 5000
#define MAX_CLIENTS 8
#define REQUEST_BYTES 65536
#define MIB (UINT64_C(1) << 20)

struct fixture {
    char *dir;
    struct server *server;
    int fd;
    GByteArray *in;
    uint32_t xid;
};

/* ---- The fixture ---- */

static void set_string(char **member, char *value)
{
    g_free(*member);
    *member = value;
}

static struct config *make_config(const char *dir)
{
    struct config *config = config_new();

    set_string(&config->state_file, g_strconcat(dir, "/saveconfig.json", NULL));
    set_string(&config->config_file, g_strconcat(dir, "/nbd-runner.conf", NULL));
    set_string(&config->handler_dir, g_strconcat(dir, "/handlers", NULL));
    set_string(&config->pid_file, g_strdup(""));
    g_strfreev(config->file_roots);
    config->file_roots = g_new0(char *, 2);
    config->file_roots[0] = g_strconcat(dir, "/images", NULL);
    return config;
}

static void start(struct fixture *f)
{
    const struct rpc_limits limits = { .max_clients = MAX_CLIENTS, .record_bytes = 1 << 20,
                                       .record_timeout_s = 10, .idle_timeout_s = 300 };
    struct rpc_program program;
    struct nbd_failure why;
    int pair[2];

    f->server = server_new(make_config(f->dir), &why);
    assert_non_null(f->server);
    f->server->jobs = job_table_new(f->server);
    f->server->store = store_new(f->server, f->server->config->state_file);
    assert_int_equal(store_load(f->server->store, &why), 0);
    program = control_program(f->server);
    f->server->rpc = rpc_server_new(f->server->loop, &program, &limits);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair),
                     0);
    rpc_server_accept(f->server->rpc, pair[1], "unix:1", true);
    f->fd = pair[0];
    f->in = g_byte_array_new();
}

static void stop(struct fixture *f)
{
    server_free(f->server);
    close(f->fd);
    g_byte_array_unref(f->in);
}

/* Links to some of what was built. */
static void make_handler_dir(const char *dir)
{
    static const char *const libraries[] = {
        HANDLER_DIR_BUILT "/libfile_handler.so", HANDLER_DIR_BUILT "/libmem_handler.so",
        HANDLER_DIR_BUILT "/libnull_handler.so",
        TEST_HANDLER_DIR_BUILT "/libfault_handler.so",
    };
    g_autofree char *handlers = g_strconcat(dir, "/handlers", NULL);

    assert_int_equal(mkdir(handlers, 0700), 0);
    for (size_t i = 0; i < G_N_ELEMENTS(libraries); i++) {
        g_autofree char *name = g_path_get_basename(libraries[i]);
        g_autofree char *link = g_build_filename(handlers, name, NULL);

        assert_int_equal(symlink(libraries[i], link), 0);
    }
}

static int set_up(void **state)
{
    struct fixture *f = *state = g_new0(struct fixture, 1);
    g_autofree char *images = NULL;

    log_set_level(NBD_LOG_ERROR);
    f->dir = g_dir_make_tmp("test_control-XXXXXX", NULL);
    assert_non_null(f->dir);
    images = g_strconcat(f->dir, "/images", NULL);
    assert_int_equal(mkdir(images, 0700), 0);
    make_handler_dir(f->dir);
    start(f);
    return 0;
}

static void remove_below(const char *path)
{
    GDir *dir = g_file_test(path, G_FILE_TEST_IS_SYMLINK) ? NULL : g_dir_open(path, 0, NULL);
    const char *name;

    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        g_autofree char *child = g_build_filename(path, name, NULL);

        remove_below(child);
    }
    if (dir != NULL)
        g_dir_close(dir);
    g_remove(path);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    stop(f);
    g_chmod(f->dir, 0700);
    remove_below(f->dir);
    g_free(f->dir);
    g_free(f);
    return 0;
}

/* ---- Calling ---- */

static void turn(struct fixture *f)
{
    event_base_loop(loop_base(f->server->loop), EVLOOP_NONBLOCK);
}

static uint32_t send_call(struct fixture *f, uint32_t procedure, xdrproc_t encode, void *args)
{
    static char record[REQUEST_BYTES];
    uint32_t words[] = { 0, ++f->xid, 0, 2, RPC_NBD, RPC_NBD_V2, procedure, 0, 0, 0, 0 };
    u_int length;
    XDR xdrs;

    xdrmem_create(&xdrs, record + sizeof(words), sizeof(record) - sizeof(words), XDR_ENCODE);
    assert_true(encode == NULL || encode(&xdrs, args));
    length = (u_int)sizeof(words) + xdr_getpos(&xdrs);
    words[0] = 0x80000000u | (length - 4);
    for (size_t i = 0; i < G_N_ELEMENTS(words); i++)
        words[i] = htonl(words[i]);
    memcpy(record, words, sizeof(words));
    assert_int_equal(write(f->fd, record, length), length);
    return f->xid;
}

/* Length of the whole reply that has come, or 0. */
static guint reply_length(const struct fixture *f)
{
    uint32_t header;

    if (f->in->len < 4)
        return 0;
    memcpy(&header, f->in->data, 4);
    header = ntohl(header) & 0x7fffffff;
    return f->in->len - 4 >= header ? header : 0;
}

/* The result of the next reply; free it with xdr_free(). */
static void await_result(struct fixture *f, uint32_t xid, xdrproc_t decode, void *result)
{
    guint8 bytes[65536];
    guint length = 0;
    uint32_t words[6];
    XDR xdrs;

    for (int i = 0; i < PATIENCE_MS && (length = reply_length(f)) == 0; i++) {
        ssize_t n;

        turn(f);
        n = read(f->fd, bytes, sizeof(bytes));
        if (n > 0)
            g_byte_array_append(f->in, bytes, (guint)n);
        else
            g_usleep(1000);
    }
    assert_true(length >= sizeof(words));
    memcpy(words, f->in->data + 4, sizeof(words));
    assert_int_equal(ntohl(words[0]), xid);
    assert_int_equal(ntohl(words[2]), MSG_ACCEPTED);
    assert_int_equal(ntohl(words[5]), SUCCESS);
    xdrmem_create(&xdrs, (char *)f->in->data + 4 + sizeof(words),
                  length - (u_int)sizeof(words), XDR_DECODE);
    assert_true(decode(&xdrs, result));
    assert_int_equal(xdr_getpos(&xdrs), length - sizeof(words));
    g_byte_array_remove_range(f->in, 0, length + 4);
}

#define CALL(f, procedure, args_type, args, result_type, result) \
    await_result(f, send_call(f, procedure, (xdrproc_t)xdr_##args_type, args), \
                 (xdrproc_t)xdr_##result_type, memset(result, 0, sizeof(*(result))))
#define FREE(type, value) xdr_free((xdrproc_t)xdr_##type, value)

/* What a refusal must be: this code, and a sentence that has this part. */
static void expect_refusal(nr_code code, const nr_error *error, nr_code wanted,
                           const char *part)
{
    assert_int_equal(code, wanted);
    if (strstr(error->message, part) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", error->message, part);
}

static nr_backstore store_of(const char *handler, const char *target)
{
    return (nr_backstore){ .handler = (char *)handler, .target = (char *)target };
}

static nr_create_args create_args(const char *handler, const char *target, uint64_t size)
{
    return (nr_create_args){ .token = (char *)"", .name = (char *)"",
                             .description = (char *)"", .store = store_of(handler, target),
                             .size = size };
}

/* Waits for the job's end. */
static nr_job_res await_job(struct fixture *f, nr_job_res job)
{
    nr_job_res result;

    assert_int_equal(job.code, NR_OK);
    CALL(f, NR_JOB_GET, nr_job_args,
         (&(nr_job_args){.id = job.nr_job_res_u.job.id, .wait_ms = 4000}), nr_job_res,
         &result);
    FREE(nr_job_res, &job);
    assert_int_equal(result.code, NR_OK);
    return result;
}

static nr_job_res create(struct fixture *f, nr_create_args args)
{
    nr_job_res result;

    CALL(f, NR_CREATE, nr_create_args, &args, nr_job_res, &result);
    return result;
}

static void expect_job(nr_job_res result, nr_job_state state, nr_code code, const char *part)
{
    const nr_job *job = &result.nr_job_res_u.job;

    assert_int_equal(result.code, NR_OK);
    if (job->state != state)
        fail_msg("state %d: %s", (int)job->state, job->last_error.message);
    assert_int_equal(job->code, code);
    assert_non_null(strstr(job->last_error.message, part));
    FREE(nr_job_res, &result);
}

/* An export of 1 MiB of memory. */
static void have_export(struct fixture *f, const char *target)
{
    expect_job(await_job(f, create(f, create_args("mem", target, MIB))), NR_J_DONE, NR_OK, "");
}

static nr_job_res delete_export(struct fixture *f, nr_backstore store, const char *name,
                                bool keep_data, bool force)
{
    nr_delete_args args = { .store = store, .name = (char *)name, .keep_data = keep_data,
                            .force = force };
    nr_job_res result;

    CALL(f, NR_DELETE, nr_delete_args, &args, nr_job_res, &result);
    return result;
}

static nr_job_res delete_name(struct fixture *f, const char *name, bool force)
{
    return delete_export(f, store_of("", ""), name, false, force);
}

static nr_ticket_res premap(struct fixture *f, const char *name, const char *resume,
                            bool multi)
{
    nr_map_args args = { .store = store_of("", ""), .name = (char *)name, .multi = multi,
                         .client = (char *)"host-a", .client_boot = (char *)"",
                         .resume = (char *)resume };
    nr_ticket_res result;

    CALL(f, NR_PREMAP, nr_map_args, &args, nr_ticket_res, &result);
    return result;
}

static nr_mapping_res postmap(struct fixture *f, const char *cookie, bool ok,
                              const char *device)
{
    nr_postmap_args args = { .cookie = (char *)cookie, .ok = ok, .device = (char *)device,
                             .reason = (char *)"the device is busy" };
    nr_mapping_res result;

    CALL(f, NR_POSTMAP, nr_postmap_args, &args, nr_mapping_res, &result);
    return result;
}

static nr_mapping_res unmap(struct fixture *f, nr_unmap_step step, const char *name,
                            const char *device, bool force)
{
    nr_unmap_args args = {.step = step,
                          .cookie = (char *)"",
                          .store = store_of("", ""),
                          .name = (char *)name,
                          .device = (char *)device,
                          .client = (char *)"",
                          .force = force};
    nr_mapping_res result;

    CALL(f, NR_UNMAP, nr_unmap_args, &args, nr_mapping_res, &result);
    return result;
}

/* A mapping of the export that is recorded; nobody is connected. The caller frees it. */
static char *have_mapping(struct fixture *f, const char *name, const char *device)
{
    nr_ticket_res ticket = premap(f, name, "", false);
    nr_mapping_res mapping;
    char *cookie;

    assert_int_equal(ticket.code, NR_OK);
    cookie = g_strdup(ticket.nr_ticket_res_u.ticket.cookie);
    FREE(nr_ticket_res, &ticket);
    mapping = postmap(f, cookie, true, device);
    assert_int_equal(mapping.code, NR_OK);
    FREE(nr_mapping_res, &mapping);
    return cookie;
}

static nr_export_res export_get(struct fixture *f, const char *name)
{
    nr_export_res result;

    CALL(f, NR_EXPORT_GET, nr_name_args, (&(nr_name_args){ .name = (char *)name }),
         nr_export_res, &result);
    return result;
}

static bool exists(struct fixture *f, const char *name)
{
    return registry_find(f->server->registry, name) != NULL;
}

static bool is_saved(struct fixture *f, const char *text)
{
    g_autofree char *content = NULL;

    return g_file_get_contents(f->server->config->state_file, &content, NULL, NULL) &&
           strstr(content, text) != NULL;
}

/* From now on nothing can be saved: a directory in the place of the file cannot be replaced,
 * not even by root. */
static void break_state_file(struct fixture *f)
{
    const char *path = f->server->config->state_file;
    g_autofree char *inside = g_strconcat(path, "/x", NULL);

    assert_int_equal(g_remove(path), 0);
    assert_int_equal(g_mkdir(path, 0700), 0);
    assert_int_equal(g_mkdir(inside, 0700), 0);
}

static u_int list(struct fixture *f, const char *handler, nr_list_what what, const char *after,
                  u_int limit, bool *ret_more)
{
    nr_list_args args = { .handler = (char *)handler, .what = what, .after = (char *)after,
                          .limit = limit };
    nr_list_res result;
    u_int rows;

    CALL(f, NR_LIST, nr_list_args, &args, nr_list_res, &result);
    assert_int_equal(result.code, NR_OK);
    rows = result.nr_list_res_u.list.rows.rows_len;
    *ret_more = result.nr_list_res_u.list.more;
    FREE(nr_list_res, &result);
    return rows;
}

/* ---- Create ---- */

static void a_created_export_is_listed_and_saved(void **state)
{
    struct fixture *f = *state;
    nr_export_res result;
    bool more;

    have_export(f, "disk1");
    assert_true(is_saved(f, "mem/disk1"));
    result = export_get(f, "mem/disk1");
    assert_int_equal(result.code, NR_OK);
    assert_int_equal(result.nr_export_res_u.x.size, MIB);
    assert_int_equal(result.nr_export_res_u.x.state, NR_X_READY);
    assert_string_equal(result.nr_export_res_u.x.job, "");
    FREE(nr_export_res, &result);
    assert_int_equal(list(f, "", NR_L_ALL, "", 0, &more), 1);
    assert_false(more);
}

static void the_same_token_gives_the_same_job(void **state)
{
    struct fixture *f = *state;
    nr_create_args args = create_args("mem", "disk1", MIB);
    nr_job_res first, second, third;

    args.token = (char *)"token-1";
    first = create(f, args);
    second = create(f, args);
    assert_string_equal(first.nr_job_res_u.job.id, second.nr_job_res_u.job.id);
    FREE(nr_job_res, &first);
    expect_job(await_job(f, second), NR_J_DONE, NR_OK, "");
    assert_true(is_saved(f, "token-1"));

    stop(f);
    start(f);
    third = create(f, args);
    assert_int_equal(third.nr_job_res_u.job.state, NR_J_DONE);
    FREE(nr_job_res, &third);
}

static void a_name_or_backstore_is_given_once(void **state)
{
    struct fixture *f = *state;
    nr_create_args args = create_args("mem", "disk2", MIB);
    nr_job_res result;

    have_export(f, "disk1");
    args.name = (char *)"mem/disk1";
    result = create(f, args);
    expect_refusal(result.code, &result.nr_job_res_u.err, NR_EEXIST, "mem/disk1");
    FREE(nr_job_res, &result);

    args = create_args("mem", "disk1", MIB);
    args.name = (char *)"other";
    result = create(f, args);
    expect_refusal(result.code, &result.nr_job_res_u.err, NR_EEXIST, "mem/disk1");
    FREE(nr_job_res, &result);
}

static void bad_arguments_are_refused_with_a_sentence(void **state)
{
    static const struct {
        const char *name, *handler, *target, *part;
        uint64_t size;
        nr_code code;
    } cases[] = {
        { "", "mem", "disk1", "size", 0, NR_EINVAL },
        { "", "mem", "disk1", "size", UINT64_MAX, NR_EINVAL },
        { "", "nothing", "disk1", "nothing", 4096, NR_ENOENT },
        { "", "", "disk1", "handler", 4096, NR_EINVAL },
        { "", "mem", "", "target", 4096, NR_EINVAL },
        { "@map/x", "mem", "disk1", "@map/x", 4096, NR_EINVAL },
        { "/x", "mem", "disk1", "/x", 4096, NR_EINVAL },
        { "a/../b", "mem", "disk1", "..", 4096, NR_EINVAL },
        { " x", "mem", "disk1", "space", 4096, NR_EINVAL },
        { "x\n", "mem", "disk1", "control", 4096, NR_EINVAL },
        { "\xff", "mem", "disk1", "UTF-8", 4096, NR_EINVAL },
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        nr_create_args args = create_args(cases[i].handler, cases[i].target, cases[i].size);
        nr_job_res result;

        args.name = (char *)cases[i].name;
        result = create(f, args);
        expect_refusal(result.code, &result.nr_job_res_u.err, cases[i].code, cases[i].part);
        FREE(nr_job_res, &result);
    }
    assert_int_equal(registry_size(f->server->registry), 0);
}

static void a_create_that_fails_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    g_autofree char *path = g_strconcat(f->dir, "/images/disk1", NULL);

    assert_true(g_file_set_contents(path, "mine", 4, NULL));
    expect_job(await_job(f, create(f, create_args("file", "disk1", MIB))), NR_J_FAILED,
               NR_EEXIST, "disk1");
    assert_false(exists(f, "file/disk1"));
    assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
}

static void an_existing_backing_store_is_adopted(void **state)
{
    struct fixture *f = *state;
    g_autofree char *path = g_strconcat(f->dir, "/images/disk1", NULL);
    nr_create_args args = create_args("file", "disk1", 0);
    nr_job_res result;

    args.adopt = true;
    result = await_job(f, create(f, args));
    assert_int_equal(result.nr_job_res_u.job.state, NR_J_FAILED);
    FREE(nr_job_res, &result);
    assert_false(exists(f, "file/disk1"));

    assert_true(g_file_set_contents(path, "content", -1, NULL));
    assert_int_equal(truncate(path, 8192), 0);
    expect_job(await_job(f, create(f, args)), NR_J_DONE, NR_OK, "");
    assert_int_equal(registry_find(f->server->registry, "file/disk1")->size, 8192);
}

static void an_export_that_cannot_be_saved_is_undone(void **state)
{
    struct fixture *f = *state;
    g_autofree char *path = g_strconcat(f->dir, "/images/disk1", NULL);

    have_export(f, "disk0");
    break_state_file(f);
    expect_job(await_job(f, create(f, create_args("file", "disk1", MIB))), NR_J_FAILED,
               NR_EBACKEND, "cannot be saved");
    assert_false(exists(f, "file/disk1"));
    assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    assert_true(exists(f, "mem/disk0"));
}

/* ---- Delete ---- */

static void a_deleted_export_is_gone_from_memory_store_and_disk(void **state)
{
    struct fixture *f = *state;
    g_autofree char *path = g_strconcat(f->dir, "/images/disk1", NULL);
    nr_job_res result;

    expect_job(await_job(f, create(f, create_args("file", "disk1", MIB))), NR_J_DONE, NR_OK,
               "");
    assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
    expect_job(await_job(f, delete_export(f, store_of("file", "disk1"), "", false, false)),
               NR_J_DONE, NR_OK, "");
    assert_false(exists(f, "file/disk1"));
    assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    assert_false(is_saved(f, "\"target\": \"disk1\""));

    result = delete_name(f, "file/disk1", false);
    expect_refusal(result.code, &result.nr_job_res_u.err, NR_ENOENT, "file/disk1");
    FREE(nr_job_res, &result);
}

static void a_forgotten_export_keeps_its_data(void **state)
{
    struct fixture *f = *state;
    g_autofree char *path = g_strconcat(f->dir, "/images/disk1", NULL);

    expect_job(await_job(f, create(f, create_args("file", "disk1", MIB))), NR_J_DONE, NR_OK,
               "");
    expect_job(await_job(f, delete_export(f, store_of("", ""), "file/disk1", true, false)),
               NR_J_DONE, NR_OK, "");
    assert_false(exists(f, "file/disk1"));
    assert_true(g_file_test(path, G_FILE_TEST_EXISTS));

    /* Unknown to us now, but there: deleted in the backend. */
    expect_job(await_job(f, delete_export(f, store_of("file", "disk1"), "", false, false)),
               NR_J_DONE, NR_OK, "");
    assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    assert_int_equal(registry_size(f->server->registry), 0);
}

static void a_mapped_export_is_deleted_by_force_only(void **state)
{
    struct fixture *f = *state;
    g_autofree char *cookie = NULL;
    nr_job_res result;

    have_export(f, "disk1");
    cookie = have_mapping(f, "mem/disk1", "/dev/nbd3");
    result = delete_name(f, "mem/disk1", false);
    expect_refusal(result.code, &result.nr_job_res_u.err, NR_EBUSY, "/dev/nbd3");
    assert_non_null(strstr(result.nr_job_res_u.err.message, "host-a"));
    FREE(nr_job_res, &result);

    expect_job(await_job(f, delete_name(f, "mem/disk1", true)), NR_J_DONE, NR_OK, "");
    assert_int_equal(mapping_count(f->server->mappings), 0);
    assert_false(is_saved(f, cookie));
}

/* ---- Map ---- */

static void a_mapping_is_recorded_and_survives_a_restart(void **state)
{
    struct fixture *f = *state;
    g_autofree char *cookie = NULL;
    struct mapping *mapping;
    nr_ticket_res ticket;

    have_export(f, "disk1");
    cookie = have_mapping(f, "mem/disk1", "/dev/nbd3");
    assert_true(is_saved(f, cookie));

    stop(f);
    start(f);
    mapping = mapping_find(f->server->mappings, cookie);
    assert_non_null(mapping);
    assert_int_equal(mapping_state(mapping), MAPPING_STATE_DEAD);
    assert_string_equal(mapping->device, "/dev/nbd3");

    ticket = premap(f, "", cookie, false);
    if (ticket.code == NR_OK) { /* memory does not survive, so its opening may be refused */
        assert_true(ticket.nr_ticket_res_u.ticket.resumed);
        assert_string_equal(ticket.nr_ticket_res_u.ticket.cookie, cookie);
        assert_string_equal(ticket.nr_ticket_res_u.ticket.device, "/dev/nbd3");
    }
    FREE(nr_ticket_res, &ticket);
}

static nr_code resume_as(struct fixture *f, const char *cookie, const char *host,
                         const char *boot, bool multi)
{
    nr_map_args args = { .store = store_of("", ""), .name = (char *)"", .multi = multi,
                         .client = (char *)host, .client_boot = (char *)boot,
                         .resume = (char *)cookie };
    nr_ticket_res ticket;
    nr_code code;

    CALL(f, NR_PREMAP, nr_map_args, &args, nr_ticket_res, &ticket);
    code = ticket.code;
    FREE(nr_ticket_res, &ticket);
    return code;
}

static void a_live_mapping_gets_new_connections_for_its_own_client_only(void **state)
{
    struct fixture *f = *state;
    g_autofree char *cookie = NULL;
    struct mapping *mapping;

    have_export(f, "disk1");
    cookie = have_mapping(f, "mem/disk1", "/dev/nbd3");
    mapping = mapping_find(f->server->mappings, cookie);
    mapping->client_boot = (g_free(mapping->client_boot), g_strdup("boot-1"));
    mapping->connections = 2;
    mapping_connected(mapping);

    assert_int_equal(resume_as(f, cookie, "host-b", "boot-1", false), NR_ESTATE);
    assert_int_equal(resume_as(f, cookie, "host-a", "boot-2", false), NR_ESTATE);
    assert_int_equal(resume_as(f, cookie, "host-a", "", false), NR_ESTATE);
    assert_int_equal(resume_as(f, cookie, "host-a", "boot-1", false), NR_OK);

    mapping_connected(mapping);
    assert_int_equal(resume_as(f, cookie, "host-a", "boot-1", false), NR_ESTATE);
    assert_int_equal(resume_as(f, cookie, "host-a", "boot-1", true), NR_ESTATE);
    mapping_disconnected(mapping);
    mapping_disconnected(mapping);
    assert_int_equal(resume_as(f, cookie, "host-b", "boot-2", false), NR_OK);
}

static void a_ticket_names_the_export_for_the_nbd_port(void **state)
{
    struct fixture *f = *state;
    nr_ticket_res ticket;
    nr_mapping_res mapping;

    have_export(f, "disk1");
    ticket = premap(f, "mem/disk1", "", false);
    assert_int_equal(ticket.code, NR_OK);
    assert_true(g_str_has_prefix(ticket.nr_ticket_res_u.ticket.io_name, "@map/"));
    assert_int_equal(ticket.nr_ticket_res_u.ticket.lease_s, 60);
    assert_non_null(mapping_for_io_name(f->server->mappings,
                                        ticket.nr_ticket_res_u.ticket.io_name));
    assert_false(is_saved(f, ticket.nr_ticket_res_u.ticket.cookie));

    mapping = postmap(f, ticket.nr_ticket_res_u.ticket.cookie, false, "");
    assert_int_equal(mapping.code, NR_OK);
    assert_int_equal(mapping.nr_mapping_res_u.mapping.state, NR_M_NONE);
    assert_int_equal(mapping_count(f->server->mappings), 0);
    FREE(nr_mapping_res, &mapping);
    FREE(nr_ticket_res, &ticket);
}

static void a_second_mapping_needs_multi(void **state)
{
    struct fixture *f = *state;
    g_autofree char *cookie = NULL;
    nr_ticket_res ticket;

    have_export(f, "disk1");
    cookie = have_mapping(f, "mem/disk1", "/dev/nbd3");
    ticket = premap(f, "mem/disk1", "", false);
    expect_refusal(ticket.code, &ticket.nr_ticket_res_u.err, NR_EBUSY, "/dev/nbd3");
    assert_non_null(strstr(ticket.nr_ticket_res_u.err.message, "host-a"));
    FREE(nr_ticket_res, &ticket);

    ticket = premap(f, "mem/disk1", "", true);
    assert_int_equal(ticket.code, NR_OK);
    FREE(nr_ticket_res, &ticket);
}

static void a_backstore_of_other_tools_is_mapped_directly(void **state)
{
    struct fixture *f = *state;
    g_autofree char *path = g_strconcat(f->dir, "/images/disk1", NULL);
    nr_map_args args = { .store = store_of("file", "disk1"), .name = (char *)"",
                         .client = (char *)"host-a", .client_boot = (char *)"",
                         .resume = (char *)"" };
    nr_ticket_res ticket;

    CALL(f, NR_PREMAP, nr_map_args, &args, nr_ticket_res, &ticket);
    assert_int_not_equal(ticket.code, NR_OK);
    FREE(nr_ticket_res, &ticket);
    assert_false(exists(f, "file/disk1"));
    assert_int_equal(mapping_count(f->server->mappings), 0);

    assert_true(g_file_set_contents(path, "x", 1, NULL));
    assert_int_equal(truncate(path, 8192), 0);
    CALL(f, NR_PREMAP, nr_map_args, &args, nr_ticket_res, &ticket);
    assert_int_equal(ticket.code, NR_OK);
    assert_string_equal(ticket.nr_ticket_res_u.ticket.export_name, "file/disk1");
    FREE(nr_ticket_res, &ticket);
    assert_true(is_saved(f, "file/disk1"));
}

static void postmap_needs_a_ticket_and_a_device(void **state)
{
    struct fixture *f = *state;
    g_autofree char *cookie = NULL;
    nr_mapping_res result;

    result = postmap(f, "0b2e8c60-7d2f-4b55-8c66-3b1c6f1f2a77", true, "/dev/nbd0");
    expect_refusal(result.code, &result.nr_mapping_res_u.err, NR_ENOENT, "lease");
    FREE(nr_mapping_res, &result);

    have_export(f, "disk1");
    cookie = have_mapping(f, "mem/disk1", "/dev/nbd3");
    result = postmap(f, cookie, true, "nbd0");
    expect_refusal(result.code, &result.nr_mapping_res_u.err, NR_EINVAL, "/dev/nbd0");
    FREE(nr_mapping_res, &result);
    result = postmap(f, cookie, true, "/dev/nbd3"); /* its answer was lost */
    assert_int_equal(result.code, NR_OK);
    FREE(nr_mapping_res, &result);
    result = postmap(f, cookie, true, "/dev/nbd4");
    expect_refusal(result.code, &result.nr_mapping_res_u.err, NR_ESTATE, "/dev/nbd3");
    FREE(nr_mapping_res, &result);
}

static void an_unmapped_export_is_free_again(void **state)
{
    struct fixture *f = *state;
    g_autofree char *cookie = NULL;
    nr_mapping_res result;

    have_export(f, "disk1");
    cookie = have_mapping(f, "mem/disk1", "/dev/nbd3");
    result = unmap(f, NR_U_BEGIN, "mem/disk1", "", false);
    assert_int_equal(result.code, NR_OK);
    assert_int_equal(result.nr_mapping_res_u.mapping.state, NR_M_UNMAPPING);
    FREE(nr_mapping_res, &result);
    result = unmap(f, NR_U_ABORT, "", "/dev/nbd3", false);
    assert_int_equal(result.nr_mapping_res_u.mapping.state, NR_M_DEAD);
    FREE(nr_mapping_res, &result);
    result = unmap(f, NR_U_DONE, "", "/dev/nbd3", false);
    assert_int_equal(result.code, NR_OK);
    assert_int_equal(result.nr_mapping_res_u.mapping.state, NR_M_NONE);
    assert_string_equal(result.nr_mapping_res_u.mapping.cookie, cookie);
    FREE(nr_mapping_res, &result);
    assert_false(is_saved(f, cookie));

    result = unmap(f, NR_U_DONE, "mem/disk1", "", false);
    expect_refusal(result.code, &result.nr_mapping_res_u.err, NR_ENOENT, "not mapped");
    FREE(nr_mapping_res, &result);
    result = unmap(f, (nr_unmap_step)7, "mem/disk1", "", false);
    expect_refusal(result.code, &result.nr_mapping_res_u.err, NR_EINVAL, "step");
    FREE(nr_mapping_res, &result);
}

static void changes_of_mappings_that_cannot_be_saved_are_undone(void **state)
{
    struct fixture *f = *state;
    g_autofree char *cookie = NULL;
    nr_ticket_res ticket;
    nr_mapping_res result;
    struct mapping *mapping;

    have_export(f, "disk1");
    have_export(f, "disk2");
    cookie = have_mapping(f, "mem/disk1", "/dev/nbd3");
    ticket = premap(f, "mem/disk2", "", false);
    assert_int_equal(ticket.code, NR_OK);
    break_state_file(f);

    result = postmap(f, ticket.nr_ticket_res_u.ticket.cookie, true, "/dev/nbd4");
    expect_refusal(result.code, &result.nr_mapping_res_u.err, NR_EBACKEND, "mem/disk2");
    FREE(nr_mapping_res, &result);
    mapping = mapping_find(f->server->mappings, ticket.nr_ticket_res_u.ticket.cookie);
    assert_int_equal(mapping_state(mapping), MAPPING_STATE_MAPPING);
    FREE(nr_ticket_res, &ticket);

    result = unmap(f, NR_U_DONE, "mem/disk1", "", false);
    expect_refusal(result.code, &result.nr_mapping_res_u.err, NR_EBACKEND, "mem/disk1");
    FREE(nr_mapping_res, &result);
    mapping = mapping_find(f->server->mappings, cookie);
    assert_int_equal(mapping_state(mapping), MAPPING_STATE_DEAD);
    assert_string_equal(mapping->device, "/dev/nbd3");

    expect_job(await_job(f, delete_name(f, "mem/disk2", true)), NR_J_FAILED, NR_EBACKEND,
               "cannot be saved");
    assert_true(exists(f, "mem/disk2"));
}

/* Begins to map a backstore that does not open as long as the file `hold` is there. */
static uint32_t begin_slow_premap(struct fixture *f, char *hold)
{
    nr_opt opts[] = { { (char *)"size", (char *)"1M" }, { (char *)"open_hold", hold } };
    nr_map_args args = { .store = store_of("fault", "slow"), .name = (char *)"",
                         .client = (char *)"host-a", .client_boot = (char *)"",
                         .resume = (char *)"" };

    assert_true(g_file_set_contents(hold, "", 0, NULL));
    args.store.opts.opts_len = G_N_ELEMENTS(opts);
    args.store.opts.opts_val = opts;
    return send_call(f, NR_PREMAP, (xdrproc_t)xdr_nr_map_args, &args);
}

static void a_slow_open_holds_nobody_else_up(void **state)
{
    struct fixture *f = *state;
    g_autofree char *hold = g_strconcat(f->dir, "/hold", NULL);
    uint32_t xid = begin_slow_premap(f, hold);
    nr_job_res job;
    nr_ticket_res ticket;

    have_export(f, "disk1");
    job = delete_export(f, store_of("fault", "slow"), "", false, false);
    expect_refusal(job.code, &job.nr_job_res_u.err, NR_EBUSY, "being mapped");
    FREE(nr_job_res, &job);

    assert_int_equal(g_remove(hold), 0);
    memset(&ticket, 0, sizeof(ticket));
    await_result(f, xid, (xdrproc_t)xdr_nr_ticket_res, &ticket);
    assert_int_equal(ticket.code, NR_OK);
    FREE(nr_ticket_res, &ticket);
}

static void a_caller_that_leaves_during_premap_leaves_no_mapping(void **state)
{
    struct fixture *f = *state;
    g_autofree char *hold = g_strconcat(f->dir, "/hold", NULL);

    begin_slow_premap(f, hold);
    for (int i = 0; i < PATIENCE_MS && mapping_count(f->server->mappings) == 0; i++) {
        turn(f);
        g_usleep(1000);
    }
    assert_int_equal(mapping_count(f->server->mappings), 1);

    shutdown(f->fd, SHUT_RDWR);
    for (int i = 0; i < 20; i++)
        turn(f);
    assert_int_equal(g_remove(hold), 0);
    for (int i = 0; i < PATIENCE_MS && mapping_count(f->server->mappings) > 0; i++) {
        turn(f);
        g_usleep(1000);
    }
    assert_int_equal(mapping_count(f->server->mappings), 0);
}

static void the_daemon_may_end_during_premap(void **state)
{
    struct fixture *f = *state;
    g_autofree char *hold = g_strconcat(f->dir, "/hold", NULL);

    begin_slow_premap(f, hold);
    for (int i = 0; i < PATIENCE_MS && mapping_count(f->server->mappings) == 0; i++) {
        turn(f);
        g_usleep(1000);
    }
    assert_int_equal(g_remove(hold), 0);
    /* tear_down() ends it, while the export is being opened */
}

static void the_daemon_may_end_while_jobs_run(void **state)
{
    struct fixture *f = *state;
    nr_job_res job;

    for (int i = 0; i < 8; i++) {
        g_autofree char *target = g_strdup_printf("disk%d", i);

        job = create(f, create_args("file", target, MIB));
        assert_int_equal(job.code, NR_OK);
        FREE(nr_job_res, &job);
    }
    job = delete_export(f, store_of("file", "disk9"), "", false, false);
    assert_int_equal(job.code, NR_OK);
    FREE(nr_job_res, &job);
}

static void a_mapping_that_is_removed_by_force_during_premap_is_refused(void **state)
{
    struct fixture *f = *state;
    g_autofree char *hold = g_strconcat(f->dir, "/hold", NULL);
    uint32_t xid = begin_slow_premap(f, hold);
    nr_mapping_res mapping = unmap(f, NR_U_DONE, "fault/slow", "", true);
    nr_ticket_res ticket;

    assert_int_equal(mapping.code, NR_OK);
    FREE(nr_mapping_res, &mapping);
    assert_int_equal(g_remove(hold), 0);
    memset(&ticket, 0, sizeof(ticket));
    await_result(f, xid, (xdrproc_t)xdr_nr_ticket_res, &ticket);
    expect_refusal(ticket.code, &ticket.nr_ticket_res_u.err, NR_EBUSY, "while it was being");
    FREE(nr_ticket_res, &ticket);
}

/* ---- Lists ---- */

static void lists_are_sorted_filtered_and_paged(void **state)
{
    struct fixture *f = *state;
    g_autofree char *cookie = NULL;
    nr_list_args bad = { .handler = (char *)"", .what = (nr_list_what)9, .after = (char *)"" };
    nr_list_res result;
    bool more;

    have_export(f, "c");
    have_export(f, "a");
    have_export(f, "b");
    cookie = have_mapping(f, "mem/b", "/dev/nbd3");

    assert_int_equal(list(f, "", NR_L_ALL, "", 2, &more), 2);
    assert_true(more);
    assert_int_equal(list(f, "", NR_L_ALL, "mem/b", 2, &more), 1);
    assert_false(more);
    assert_int_equal(list(f, "mem", NR_L_CREATE, "", 0, &more), 2);
    assert_int_equal(list(f, "mem", NR_L_DEAD, "", 0, &more), 1);
    assert_int_equal(list(f, "mem", NR_L_LIVE, "", 0, &more), 0);
    assert_int_equal(list(f, "mem", NR_L_MAPPED, "", 0, &more), 1);
    assert_int_equal(list(f, "file", NR_L_ALL, "", 0, &more), 0);

    CALL(f, NR_LIST, nr_list_args, &bad, nr_list_res, &result);
    expect_refusal(result.code, &result.nr_list_res_u.err, NR_EINVAL, "what");
    FREE(nr_list_res, &result);
}

/* ---- The daemon ---- */

static void hello_and_status_tell_what_runs(void **state)
{
    struct fixture *f = *state;
    nr_hello_args args = { .client = (char *)"host-a", .agent = (char *)"test" };
    nr_hello_res hello;
    nr_status_res status;

    CALL(f, NR_HELLO, nr_hello_args, &args, nr_hello_res, &hello);
    assert_int_equal(hello.code, NR_OK);
    assert_string_equal(hello.nr_hello_res_u.hello.boot_id, f->server->boot_id);
    assert_true(hello.nr_hello_res_u.hello.handlers.handlers_len >= 3);
    FREE(nr_hello_res, &hello);

    have_export(f, "disk1");
    memset(&status, 0, sizeof(status));
    await_result(f, send_call(f, NR_STATUS, NULL, NULL), (xdrproc_t)xdr_nr_status_res,
                 &status);
    assert_int_equal(status.code, NR_OK);
    assert_int_equal(status.nr_status_res_u.status.exports, 1);
    assert_int_equal(status.nr_status_res_u.status.jobs, 0);
    assert_string_equal(status.nr_status_res_u.status.state, "saved");
    assert_string_equal(status.nr_status_res_u.status.state_file,
                        f->server->config->state_file);
    FREE(nr_status_res, &status);
}

static nr_admission_res admission(struct fixture *f, const char *address)
{
    nr_admission_args args = { .address = (char *)address };
    nr_admission_res result;

    CALL(f, NR_ADMISSION, nr_admission_args, &args, nr_admission_res, &result);
    return result;
}

static void expect_admission(struct fixture *f, const char *address, nr_code code,
                             const char *part)
{
    nr_admission_res result = admission(f, address);

    assert_int_equal(result.code, NR_OK);
    assert_int_equal(result.nr_admission_res_u.admission.code, code);
    assert_non_null(strstr(result.nr_admission_res_u.admission.why, part));
    FREE(nr_admission_res, &result);
}

static void who_would_be_turned_away_is_told_why_without_trying(void **state)
{
    static const char *const allowed[] = { "10.0.0.0/8", NULL };
    struct fixture *f = *state;
    struct connection_table *table = f->server->connections;
    struct nbd_failure why;
    nr_admission_res result;

    expect_admission(f, "192.0.2.7", NR_OK, "");
    assert_int_equal(connection_table_allow(table, allowed, &why), 0);
    expect_admission(f, "10.1.2.3", NR_OK, "");
    expect_admission(f, "::ffff:10.1.2.3", NR_OK, "");
    expect_admission(f, "192.0.2.7", NR_EPERM, "nbd_allow");
    expect_admission(f, "::1", NR_EPERM, "nbd_allow");

    result = admission(f, "localhost");
    expect_refusal(result.code, &result.nr_admission_res_u.err, NR_EINVAL, "\"localhost\"");
    FREE(nr_admission_res, &result);

    connection_table_drain(table);
    expect_admission(f, "10.1.2.3", NR_EBUSY, "shutting down");
    assert_int_equal(connection_turned_away(table), 0);
}

static nr_counters_res counters(struct fixture *f, const char *name, const char *after,
                                unsigned limit)
{
    nr_counters_args args = { .name = (char *)name, .after = (char *)after, .limit = limit };
    nr_counters_res result;

    CALL(f, NR_COUNTERS, nr_counters_args, &args, nr_counters_res, &result);
    return result;
}

static void counters_come_in_pages_and_their_total_with_the_first(void **state)
{
    struct fixture *f = *state;
    nr_counters_res page;
    const nr_counters_ok *ok = &page.nr_counters_res_u.counters;
    struct export *export;

    have_export(f, "disk1");
    have_export(f, "disk2");
    export = registry_find(f->server->registry, "mem/disk2");
    export->tally.now.requests[0] = 7;
    export->tally.now.bytes[BYTES_WRITTEN] = 4096;

    page = counters(f, "", "", 1);
    assert_int_equal(ok->rows.rows_len, 1);
    assert_string_equal(ok->rows.rows_val[0].name, "mem/disk1");
    assert_true(ok->more);
    assert_int_equal(ok->total.requests.requests_val[0], 7);
    FREE(nr_counters_res, &page);
    page = counters(f, "", "mem/disk1", 1000);
    assert_int_equal(ok->rows.rows_len, 1);
    assert_int_equal(ok->rows.rows_val[0].counters.requests.requests_val[0], 7);
    assert_int_equal(ok->rows.rows_val[0].counters.bytes.bytes_val[BYTES_WRITTEN], 4096);
    assert_int_equal(ok->rows.rows_val[0].counters.latencies.latencies_len, N_LATENCY_CLASSES);
    assert_false(ok->more);
    FREE(nr_counters_res, &page);
    page = counters(f, "", "", 0);
    assert_int_equal(ok->rows.rows_len, 0);
    assert_false(ok->more);
    FREE(nr_counters_res, &page);
    page = counters(f, "mem/disk2", "", 5);
    assert_int_equal(ok->rows.rows_len, 1);
    assert_false(ok->more);
    FREE(nr_counters_res, &page);
    page = counters(f, "mem/disk3", "", 5);
    expect_refusal(page.code, &page.nr_counters_res_u.err, NR_ENOENT, "\"mem/disk3\"");
    FREE(nr_counters_res, &page);
}

static void a_stopping_daemon_refuses_changes(void **state)
{
    struct fixture *f = *state;
    nr_job_res result;

    f->server->stopping = true;
    result = create(f, create_args("mem", "disk1", MIB));
    expect_refusal(result.code, &result.nr_job_res_u.err, NR_ESTATE, "stopping");
    FREE(nr_job_res, &result);
    result = delete_name(f, "mem/disk1", false);
    expect_refusal(result.code, &result.nr_job_res_u.err, NR_ESTATE, "stopping");
    FREE(nr_job_res, &result);
}

static void the_log_level_is_set_by_number(void **state)
{
    struct fixture *f = *state;
    nr_void_res result;

    CALL(f, NR_LOG_LEVEL, nr_level_args, (&(nr_level_args){.level = 4}), nr_void_res, &result);
    assert_int_equal(result.code, NR_OK);
    assert_int_equal(log_level(), NBD_LOG_WARNING);
    CALL(f, NR_LOG_LEVEL, nr_level_args, (&(nr_level_args){ .level = 99 }), nr_void_res,
         &result);
    expect_refusal(result.code, &result.nr_void_res_u.err, NR_EINVAL, "99");
    FREE(nr_void_res, &result);
}

static void jobs_are_listed_and_unknown_ones_refused(void **state)
{
    struct fixture *f = *state;
    nr_jobs_res jobs;
    nr_job_res job;
    nr_void_res kick;

    have_export(f, "a");
    have_export(f, "b");
    CALL(f, NR_JOBS, nr_jobs_args, (&(nr_jobs_args){ .after = (char *)"", .limit = 1 }),
         nr_jobs_res, &jobs);
    assert_int_equal(jobs.nr_jobs_res_u.jobs.rows.rows_len, 1);
    assert_string_equal(jobs.nr_jobs_res_u.jobs.rows.rows_val[0].export_name, "mem/a");
    assert_true(jobs.nr_jobs_res_u.jobs.more);

    CALL(f, NR_JOB_CANCEL, nr_id_args,
         (&(nr_id_args){.id = jobs.nr_jobs_res_u.jobs.rows.rows_val[0].id}), nr_job_res, &job);
    expect_refusal(job.code, &job.nr_job_res_u.err, NR_ESTATE, "ended");
    FREE(nr_job_res, &job);
    FREE(nr_jobs_res, &jobs);

    CALL(f, NR_JOB_GET, nr_job_args, (&(nr_job_args){ .id = (char *)"x" }), nr_job_res, &job);
    expect_refusal(job.code, &job.nr_job_res_u.err, NR_ENOENT, "day");
    FREE(nr_job_res, &job);
    CALL(f, NR_CLIENT_KICK, nr_kick_args, (&(nr_kick_args){ .id = 9, .reason = (char *)"" }),
         nr_void_res, &kick);
    expect_refusal(kick.code, &kick.nr_void_res_u.err, NR_ENOENT, "9");
    FREE(nr_void_res, &kick);
}

/* From now on the fixture's connection is another one. */
static void reconnect(struct fixture *f, const char *peer, bool allowed)
{
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair),
                     0);
    rpc_server_accept(f->server->rpc, pair[1], peer, allowed);
    close(f->fd);
    f->fd = pair[0];
}

static void expect_status_refused(struct fixture *f, nr_code code, const char *part)
{
    nr_status_res status;

    memset(&status, 0, sizeof(status));
    await_result(f, send_call(f, NR_STATUS, NULL, NULL), (xdrproc_t)xdr_nr_status_res,
                 &status);
    expect_refusal(status.code, &status.nr_status_res_u.err, code, part);
    FREE(nr_status_res, &status);
}

static void a_peer_that_may_not_call_is_told_what_to_set(void **state)
{
    struct fixture *f = *state;

    reconnect(f, "192.0.2.9:4000", false);
    expect_status_refused(f, NR_EPERM, "192.0.2.9:4000");
    expect_status_refused(f, NR_EPERM, "rpc_allow");
    expect_status_refused(f, NR_EPERM, f->server->config->config_file);
    reconnect(f, "unix:77", false);
    expect_status_refused(f, NR_EPERM, "root");
}

static void one_client_too_many_is_told_the_limit(void **state)
{
    struct fixture *f = *state;
    int kept[MAX_CLIENTS];

    for (int i = 0; i < MAX_CLIENTS; i++) {
        kept[i] = dup(f->fd); /* what is closed below stays connected */
        reconnect(f, "127.0.0.1:4000", true);
    }
    expect_status_refused(f, NR_ELIMIT, "rpc_max_clients");
    for (int i = 0; i < MAX_CLIENTS; i++)
        close(kept[i]);
}

static void an_export_of_a_file_is_deleted_there(void **state)
{
    struct fixture *f = *state;
    struct export_spec spec = { .name = "fixed", .handler = "mem", .target = "fixed",
                                .origin = EXPORT_BY_CONFIG,
                                .origin_file = "conf.d/fixed.conf" };
    struct export *export;
    struct nbd_failure why;
    nr_job_res result;

    assert_int_equal(registry_add(f->server->registry, &spec, false, &export, &why), 0);
    result = delete_name(f, "fixed", true);
    expect_refusal(result.code, &result.nr_job_res_u.err, NR_EPERM, "conf.d/fixed.conf");
    FREE(nr_job_res, &result);
}

/* ---- Settings and access lists ---- */

static nr_settings_res set_setting(struct fixture *f, const char *name, const char *key,
                                   const char *value)
{
    nr_opt row = { .key = (char *)key, .value = (char *)value };
    nr_export_set_args args = { .name = (char *)name,
                                .settings.rows = { .rows_len = 1, .rows_val = &row } };
    nr_settings_res result;

    CALL(f, NR_EXPORT_SET, nr_export_set_args, &args, nr_settings_res, &result);
    return result;
}

static nr_acl_set_args acl_args(const char *name, nr_acl_op op, char **entry)
{
    return (nr_acl_set_args){ .name = (char *)name, .op = op,
                              .acl.entries = { .entries_len = 1, .entries_val = entry } };
}

static nr_acl_res set_acl(struct fixture *f, const char *name, nr_acl_op op, char *entry)
{
    nr_acl_set_args args = acl_args(name, op, &entry);
    nr_acl_res result;

    CALL(f, NR_ACL_SET, nr_acl_set_args, &args, nr_acl_res, &result);
    return result;
}

static void a_setting_is_changed_saved_and_told(void **state)
{
    static const struct { const char *key, *value; } cases[] = {
        { "description", "new words" }, { "hidden", "yes" }, { "readonly", "yes" },
        { "max_connections", "7" }, { "request_timeout", "8" }, { "drain_timeout", "9" },
    };
    struct fixture *f = *state;

    have_export(f, "disk1");
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        nr_settings_res result = set_setting(f, "mem/disk1", cases[i].key, cases[i].value);

        assert_int_equal(result.code, NR_OK);
        assert_string_equal(result.nr_settings_res_u.settings.rows.rows_val[i].key,
                            cases[i].key);
        assert_string_equal(result.nr_settings_res_u.settings.rows.rows_val[i].value,
                            cases[i].value);
        FREE(nr_settings_res, &result);
    }
    assert_true(is_saved(f, "\"max_connections\": 7"));
    assert_true(is_saved(f, "new words"));
}

static void a_setting_that_makes_no_sense_is_refused(void **state)
{
    static const struct { const char *key, *value, *part; } cases[] = {
        { "colour", "red", "\"colour\"" },       { "hidden", "maybe", "yes or no" },
        { "readonly", "", "yes or no" },         { "max_connections", "-1", "0 to 1000000" },
        { "request_timeout", "1e9", "number" },  { "drain_timeout", "86401", "86400" },
    };
    struct fixture *f = *state;
    nr_settings_res result;

    have_export(f, "disk1");
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        result = set_setting(f, "mem/disk1", cases[i].key, cases[i].value);
        expect_refusal(result.code, &result.nr_settings_res_u.err, NR_EINVAL, cases[i].part);
        FREE(nr_settings_res, &result);
    }
    result = set_setting(f, "mem/none", "hidden", "yes");
    expect_refusal(result.code, &result.nr_settings_res_u.err, NR_ENOENT, "mem/none");
    FREE(nr_settings_res, &result);
}

static void settings_that_cannot_be_saved_are_undone(void **state)
{
    struct fixture *f = *state;
    nr_settings_res result;
    const struct export *export;

    have_export(f, "disk1");
    export = registry_find(f->server->registry, "mem/disk1");
    break_state_file(f);
    result = set_setting(f, "mem/disk1", "description", "new");
    expect_refusal(result.code, &result.nr_settings_res_u.err, NR_EBACKEND, "cannot be saved");
    FREE(nr_settings_res, &result);
    result = set_setting(f, "mem/disk1", "readonly", "yes");
    expect_refusal(result.code, &result.nr_settings_res_u.err, NR_EBACKEND, "cannot be saved");
    FREE(nr_settings_res, &result);
    assert_string_equal(export->description, "");
    assert_false(export->readonly);
}

static void a_mapped_export_stays_writable(void **state)
{
    struct fixture *f = *state;
    nr_settings_res result;
    g_autofree char *cookie = NULL;

    have_export(f, "disk1");
    cookie = have_mapping(f, "mem/disk1", "/dev/nbd0");
    result = set_setting(f, "mem/disk1", "readonly", "yes");
    expect_refusal(result.code, &result.nr_settings_res_u.err, NR_EBUSY, "mapped");
    FREE(nr_settings_res, &result);
}

static void an_access_list_is_replaced_extended_and_shortened(void **state)
{
    static const struct { nr_acl_op op; const char *entry; u_int n; } cases[] = {
        { NR_A_REPLACE, "10.0.0.0/8", 1 }, { NR_A_ADD, "::1", 2 }, { NR_A_ADD, "::1", 2 },
        { NR_A_DEL, "10.0.0.0/8", 1 },     { NR_A_REPLACE, "192.0.2.7", 1 },
    };
    struct fixture *f = *state;
    nr_acl_res result;

    have_export(f, "disk1");
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        result = set_acl(f, "mem/disk1", cases[i].op, (char *)cases[i].entry);
        assert_int_equal(result.code, NR_OK);
        assert_int_equal(result.nr_acl_res_u.acl.entries.entries_len, cases[i].n);
        FREE(nr_acl_res, &result);
    }
    result = set_acl(f, "mem/disk1", NR_A_DEL, (char *)"10.9.9.9");
    expect_refusal(result.code, &result.nr_acl_res_u.err, NR_ENOENT, "10.9.9.9");
    FREE(nr_acl_res, &result);
    result = set_acl(f, "mem/disk1", NR_A_ADD, (char *)"10.9.9.9/99");
    expect_refusal(result.code, &result.nr_acl_res_u.err, NR_EINVAL, "10.9.9.9/99");
    FREE(nr_acl_res, &result);
    result = set_acl(f, "mem/disk1", (nr_acl_op)77, (char *)"10.9.9.9");
    expect_refusal(result.code, &result.nr_acl_res_u.err, NR_EINVAL, "77");
    FREE(nr_acl_res, &result);
}

/* The second and third caller come while the first change is being saved; one leaves. */
static void changes_of_one_export_go_one_after_the_other(void **state)
{
    struct fixture *f = *state;
    char *entries[] = { (char *)"10.0.0.1", (char *)"10.0.0.2", (char *)"10.0.0.3" };
    nr_acl_res result;
    uint32_t xid = 0;

    have_export(f, "disk1");
    for (size_t i = 0; i < G_N_ELEMENTS(entries); i++) {
        nr_acl_set_args args = acl_args("mem/disk1", NR_A_ADD, &entries[i]);

        xid = send_call(f, NR_ACL_SET, (xdrproc_t)xdr_nr_acl_set_args, &args);
    }
    for (u_int i = 0; i < G_N_ELEMENTS(entries); i++) {
        memset(&result, 0, sizeof(result));
        await_result(f, xid - 2 + i, (xdrproc_t)xdr_nr_acl_res, &result);
        assert_int_equal(result.code, NR_OK);
        assert_int_equal(result.nr_acl_res_u.acl.entries.entries_len, i + 1);
        FREE(nr_acl_res, &result);
    }
}

static void an_export_of_a_file_is_changed_there(void **state)
{
    struct fixture *f = *state;
    struct export_spec spec = { .name = "fixed", .handler = "mem", .target = "fixed",
                                .origin = EXPORT_BY_CONFIG,
                                .origin_file = "conf.d/fixed.conf" };
    struct export *export;
    struct nbd_failure why;
    nr_settings_res result;
    nr_acl_res acl;

    assert_int_equal(registry_add(f->server->registry, &spec, false, &export, &why), 0);
    result = set_setting(f, "fixed", "hidden", "yes");
    expect_refusal(result.code, &result.nr_settings_res_u.err, NR_EPERM, "conf.d/fixed.conf");
    FREE(nr_settings_res, &result);
    acl = set_acl(f, "fixed", NR_A_ADD, (char *)"::1");
    expect_refusal(acl.code, &acl.nr_acl_res_u.err, NR_EPERM, "conf.d/fixed.conf");
    FREE(nr_acl_res, &acl);
}

static nr_job_res sync_export(struct fixture *f, const char *name)
{
    nr_job_res result;

    CALL(f, NR_SYNC, nr_name_args, (&(nr_name_args){ .name = (char *)name }), nr_job_res,
         &result);
    return result;
}

static void an_export_that_is_being_made_is_not_changed(void **state)
{
    struct fixture *f = *state;
    g_autofree char *hold = g_strconcat(f->dir, "/hold", NULL);
    nr_opt opts[] = { { (char *)"size", (char *)"1M" }, { (char *)"open_hold", hold } };
    nr_create_args args = create_args("fault", "slow", 0);
    nr_settings_res result;
    nr_job_res job;

    args.adopt = true;
    args.store.opts.opts_len = G_N_ELEMENTS(opts);
    args.store.opts.opts_val = opts;
    assert_true(g_file_set_contents(hold, "", 0, NULL));
    job = create(f, args);
    result = set_setting(f, "fault/slow", "hidden", "yes");
    expect_refusal(result.code, &result.nr_settings_res_u.err, NR_EBUSY, "create job");
    FREE(nr_settings_res, &result);

    assert_int_equal(g_remove(hold), 0);
    expect_job(await_job(f, job), NR_J_DONE, NR_OK, "");
    result = set_setting(f, "fault/slow", "hidden", "yes");
    assert_int_equal(result.code, NR_OK);
    FREE(nr_settings_res, &result);
}

static void an_export_is_flushed_by_a_job(void **state)
{
    struct fixture *f = *state;
    nr_job_res result;

    expect_job(await_job(f, create(f, create_args("file", "disk1", MIB))), NR_J_DONE, NR_OK,
               "");
    expect_job(await_job(f, sync_export(f, "file/disk1")), NR_J_DONE, NR_OK, "");
    result = sync_export(f, "none");
    expect_refusal(result.code, &result.nr_job_res_u.err, NR_ENOENT, "none");
    FREE(nr_job_res, &result);
}

static void a_flush_that_fails_is_told(void **state)
{
    struct fixture *f = *state;
    nr_create_args args = create_args("fault", "disk1", MIB);
    nr_opt opts[] = { { (char *)"error", (char *)"EIO" }, { (char *)"op", (char *)"flush" } };

    args.store.opts.opts_len = G_N_ELEMENTS(opts);
    args.store.opts.opts_val = opts;
    expect_job(await_job(f, create(f, args)), NR_J_DONE, NR_OK, "");
    expect_job(await_job(f, sync_export(f, "fault/disk1")), NR_J_FAILED, NR_EBACKEND,
               "flushing export");
}

static void refusals_carry_no_control_characters(void **state)
{
    struct fixture *f = *state;
    nr_job_res result = delete_export(f, store_of("x\nerror: y", "z"), "", true, false);

    expect_refusal(result.code, &result.nr_job_res_u.err, NR_ENOENT, "x?error: y");
    FREE(nr_job_res, &result);
    result = delete_export(f, store_of("file", "a\nb"), "", false, false);
    expect_refusal(result.code, &result.nr_job_res_u.err, NR_EINVAL, "target");
    FREE(nr_job_res, &result);
}

static void the_gate_knows_its_own(void **state)
{
    static const char *const allow[] = { "192.0.2.0/24", NULL };
    static const char *const junk[] = { "192.0.2.0/99", NULL };
    struct sockaddr_in address = { .sin_family = AF_INET };
    struct nbd_failure why;
    struct control_gate *gate = control_gate_new(allow, &why);

    (void)state;
    assert_non_null(gate);
    address.sin_addr.s_addr = htonl(0xc0000207);
    assert_true(control_gate_allows(gate, -1, (struct sockaddr *)&address));
    address.sin_addr.s_addr = htonl(0xc0000307);
    assert_false(control_gate_allows(gate, -1, (struct sockaddr *)&address));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(control_gate_allows(gate, -1, (struct sockaddr *)&address));
    control_gate_free(gate);
    assert_null(control_gate_new(junk, &why));
    assert_non_null(strstr(why.message, "192.0.2.0/99"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_created_export_is_listed_and_saved),
        TEST(the_same_token_gives_the_same_job),
        TEST(a_name_or_backstore_is_given_once),
        TEST(bad_arguments_are_refused_with_a_sentence),
        TEST(a_create_that_fails_leaves_nothing),
        TEST(an_existing_backing_store_is_adopted),
        TEST(an_export_that_cannot_be_saved_is_undone),
        TEST(a_deleted_export_is_gone_from_memory_store_and_disk),
        TEST(a_forgotten_export_keeps_its_data),
        TEST(a_mapped_export_is_deleted_by_force_only),
        TEST(a_mapping_is_recorded_and_survives_a_restart),
        TEST(a_live_mapping_gets_new_connections_for_its_own_client_only),
        TEST(a_ticket_names_the_export_for_the_nbd_port),
        TEST(a_second_mapping_needs_multi),
        TEST(a_backstore_of_other_tools_is_mapped_directly),
        TEST(postmap_needs_a_ticket_and_a_device),
        TEST(an_unmapped_export_is_free_again),
        TEST(changes_of_mappings_that_cannot_be_saved_are_undone),
        TEST(a_slow_open_holds_nobody_else_up),
        TEST(a_caller_that_leaves_during_premap_leaves_no_mapping),
        TEST(the_daemon_may_end_during_premap),
        TEST(the_daemon_may_end_while_jobs_run),
        TEST(a_mapping_that_is_removed_by_force_during_premap_is_refused),
        TEST(lists_are_sorted_filtered_and_paged),
        TEST(hello_and_status_tell_what_runs),
        TEST(who_would_be_turned_away_is_told_why_without_trying),
        TEST(counters_come_in_pages_and_their_total_with_the_first),
        TEST(a_stopping_daemon_refuses_changes),
        TEST(the_log_level_is_set_by_number),
        TEST(jobs_are_listed_and_unknown_ones_refused),
        TEST(a_peer_that_may_not_call_is_told_what_to_set),
        TEST(one_client_too_many_is_told_the_limit),
        TEST(an_export_of_a_file_is_deleted_there),
        TEST(a_setting_is_changed_saved_and_told),
        TEST(a_setting_that_makes_no_sense_is_refused),
        TEST(settings_that_cannot_be_saved_are_undone),
        TEST(a_mapped_export_stays_writable),
        TEST(an_access_list_is_replaced_extended_and_shortened),
        TEST(changes_of_one_export_go_one_after_the_other),
        TEST(an_export_of_a_file_is_changed_there),
        TEST(an_export_that_is_being_made_is_not_changed),
        TEST(an_export_is_flushed_by_a_job),
        TEST(a_flush_that_fails_is_told),
        TEST(refusals_carry_no_control_characters),
        cmocka_unit_test(the_gate_knows_its_own),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
