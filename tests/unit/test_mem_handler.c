/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The mem and null handlers, and the handlers of tests/handlers, as the daemon loads them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dlfcn.h>
#include <glib.h>
#include <json.h>
#include <string.h>

#include "fake_host.h"

#define MIB (UINT64_C(1) << 20)

struct fixture {
    void *library;
    struct nbd_handler *handler;
    struct nbd_config config;
    struct nbd_device dev;
    struct nbd_opt opts[4];
    struct nbd_failure why;
    bool ended;
    int result;
};

static struct fixture fixture;

static void load(const char *path)
{
    struct nbd_handler *(*init)(const struct nbd_config *);

    fixture = (struct fixture){.result = 0};
    fixture.config.abi = NBD_HANDLER_ABI;
    fixture.config.size = sizeof(fixture.config);
    fixture.config.host = fake_host_start();
    fixture.library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    assert_non_null(fixture.library);
    init = (struct nbd_handler * (*)(const struct nbd_config *))
        dlsym(fixture.library, "handler_init");
    fixture.handler = init(&fixture.config);
    fixture.dev = (struct nbd_device){.name = "test", .target = "word", .opts = fixture.opts};
}

static void unload(void)
{
    if (fixture.dev.priv != NULL && fixture.handler->destroy != NULL)
        fixture.handler->destroy(&fixture.dev);
    dlclose(fixture.library);
    fake_host_stop();
}

static int load_mem(void **state)
{
    (void)state;
    load(HANDLER_DIR_BUILT "/libmem_handler.so");
    return 0;
}

static int load_null(void **state)
{
    (void)state;
    load(HANDLER_DIR_BUILT "/libnull_handler.so");
    return 0;
}

static int load_fault(void **state)
{
    (void)state;
    load(TEST_HANDLER_DIR_BUILT "/libfault_handler.so");
    return 0;
}

static int unload_it(void **state)
{
    (void)state;
    unload();
    return 0;
}

static void opt(const char *key, const char *value)
{
    fixture.opts[fixture.dev.n_opts++] = (struct nbd_opt){key, value};
}

static int parse(void)
{
    return fixture.handler->cfg_parse(&fixture.dev, "word", &fixture.why);
}

static void map_with_size(uint64_t size)
{
    assert_int_equal(parse(), 0);
    fixture.dev.size = size;
    assert_int_equal(fixture.handler->create(&fixture.dev, &fixture.why), 0);
    assert_int_equal(fixture.handler->map(&fixture.dev, &fixture.why), 0);
}

static void on_done(struct nbd_request *rq, int result)
{
    (void)rq;
    fixture.result = result;
    __atomic_store_n(&fixture.ended, true, __ATOMIC_RELEASE);
}

static int perform(uint16_t op, uint64_t offset, uint64_t length, void *data)
{
    struct nbd_request rq = {.dev = &fixture.dev, .offset = offset, .length = length, .op = op,
                             .data = data, .done = on_done};
    int r = fixture.handler->try_now != NULL ? fixture.handler->try_now(&rq) : -EAGAIN;

    if (r != -EAGAIN)
        return r;
    fixture.ended = false;
    if (fixture.handler->submit != NULL)
        fixture.handler->submit(&rq);
    else
        fixture.handler->handle_request(&rq);
    for (int i = 0; i < 5000 && !__atomic_load_n(&fixture.ended, __ATOMIC_ACQUIRE); i++)
        g_usleep(1000);
    assert_true(fixture.ended);
    return fixture.result;
}

static void mem_reads_what_was_written(void **state)
{
    g_autofree char *data = g_malloc(8 * MIB);
    g_autofree char *back = g_malloc(8 * MIB);

    (void)state;
    map_with_size(8 * MIB + 3);
    memset(data, 'x', 8 * MIB);
    assert_int_equal(perform(NBD_OP_WRITE, 3, 8 * MIB, data), 0);
    assert_int_equal(perform(NBD_OP_READ, 3, 8 * MIB, back), 0);
    assert_memory_equal(data, back, 8 * MIB);
    assert_int_equal(perform(NBD_OP_WRITE_ZEROES, 5, 5 * MIB, NULL), 0);
    assert_int_equal(perform(NBD_OP_TRIM, 7 * MIB, 10, NULL), 0);
    memset(data + 2, 0, 5 * MIB);
    memset(data + 7 * MIB - 3, 0, 10);
    assert_int_equal(perform(NBD_OP_READ, 3, 8 * MIB, back), 0);
    assert_memory_equal(data, back, 8 * MIB);
    fixture.handler->unmap(&fixture.dev);
}

static void mem_keeps_its_contents_while_unmapped(void **state)
{
    char byte = 'x';

    (void)state;
    map_with_size(MIB);
    assert_int_equal(perform(NBD_OP_WRITE, MIB - 1, 1, &byte), 0);
    fixture.handler->unmap(&fixture.dev);
    assert_int_equal(fixture.handler->map(&fixture.dev, &fixture.why), 0);
    byte = 0;
    assert_int_equal(perform(NBD_OP_READ, MIB - 1, 1, &byte), 0);
    assert_int_equal(byte, 'x');
    fixture.handler->unmap(&fixture.dev);
}

static void the_size_survives_a_restart(void **state)
{
    struct json_object *data = json_object_new_object();

    (void)state;
    map_with_size(3 * MIB);
    assert_true(fixture.handler->update_json(&fixture.dev, data));
    fixture.handler->unmap(&fixture.dev);
    fixture.handler->destroy(&fixture.dev);
    fixture.dev.size = 0;
    assert_int_equal(parse(), 0);
    assert_true(fixture.handler->load_json(&fixture.dev, data));
    assert_int_equal(fixture.handler->map(&fixture.dev, &fixture.why), 0);
    assert_int_equal(fixture.handler->get_size(&fixture.dev), 3 * MIB);
    json_object_object_add(data, "size", json_object_new_string("much"));
    assert_false(fixture.handler->load_json(&fixture.dev, data));
    fixture.handler->unmap(&fixture.dev);
    json_object_put(data);
}

static void a_size_can_be_an_option(void **state)
{
    static const struct { const char *text; uint64_t size; } good[] = {
        {"512", 512}, {"64k", 65536}, {"3M", 3 * MIB}, {"1G", 1024 * MIB},
    };

    (void)state;
    for (unsigned i = 0; i < G_N_ELEMENTS(good); i++) {
        fixture.dev.n_opts = 0;
        opt("size", good[i].text);
        assert_int_equal(parse(), 0);
        assert_int_equal(fixture.handler->map(&fixture.dev, &fixture.why), 0);
        assert_int_equal(fixture.handler->get_size(&fixture.dev), good[i].size);
        fixture.handler->unmap(&fixture.dev);
        fixture.handler->destroy(&fixture.dev);
    }
}

static void a_senseless_size_is_refused(void **state)
{
    static const char *const bad[] = {
        "", "0", "-1", "1X", "9999999999999999999999", "8388608T", "1MiB", " 1",
    };

    (void)state;
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        fixture.dev.n_opts = 0;
        opt("size", bad[i]);
        assert_int_equal(parse(), -EINVAL);
        assert_null(fixture.dev.priv);
    }
    fixture.dev.n_opts = 0;
    opt("colour", "red");
    assert_int_equal(parse(), -EINVAL);
    assert_non_null(strstr(fixture.why.message, "colour"));
    fixture.dev.n_opts = 0;
    assert_int_equal(parse(), 0);
    assert_int_equal(fixture.handler->map(&fixture.dev, &fixture.why), -EINVAL);
}

static void null_forgets_what_is_written(void **state)
{
    char data[4096];

    (void)state;
    map_with_size(INT64_MAX);
    memset(data, 'x', sizeof(data));
    assert_int_equal(perform(NBD_OP_WRITE, 0, sizeof(data), data), 0);
    assert_int_equal(perform(NBD_OP_READ, 0, sizeof(data), data), 0);
    for (unsigned i = 0; i < sizeof(data); i++)
        assert_int_equal(data[i], 0);
    assert_int_equal(perform(NBD_OP_FLUSH, 0, 0, NULL), 0);
    assert_int_equal(perform(NBD_OP_WRITE_ZEROES, 0, INT64_MAX, NULL), 0);
    fixture.handler->unmap(&fixture.dev);
}

static void fault_fails_each_nth_request_of_a_kind(void **state)
{
    char byte = 0;

    (void)state;
    opt("error", "ENOSPC");
    opt("op", "write");
    opt("every", "2");
    map_with_size(MIB);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(perform(NBD_OP_WRITE, 0, 1, &byte), i % 2 ? -ENOSPC : 0);
        assert_int_equal(perform(NBD_OP_READ, 0, 1, &byte), 0);
    }
    fixture.handler->unmap(&fixture.dev);
}

static void fault_ends_requests_late_from_its_thread(void **state)
{
    gint64 start;
    char byte = 7;

    (void)state;
    opt("delay_ms", "30");
    opt("error", "5");
    opt("op", "read");
    map_with_size(MIB);
    start = g_get_monotonic_time();
    assert_int_equal(perform(NBD_OP_WRITE, 0, 1, &byte), 0);
    assert_true(g_get_monotonic_time() - start >= 29000);
    assert_int_equal(perform(NBD_OP_READ, 0, 1, &byte), -EIO);
    fixture.handler->unmap(&fixture.dev);
}

static void fault_does_not_take_what_it_does_not_know(void **state)
{
    (void)state;
    opt("delay_ms", "soon");
    assert_int_equal(parse(), -EINVAL);
    assert_non_null(strstr(fixture.why.message, "delay_ms=soon"));
}

static void a_library_with_a_missing_symbol_cannot_be_loaded(void **state)
{
    (void)state;
    assert_null(dlopen(TEST_HANDLER_DIR_BUILT "/libundef_handler.so", RTLD_NOW | RTLD_LOCAL));
}

int main(void)
{
#define TEST(load, function) cmocka_unit_test_setup_teardown(function, load, unload_it)
    const struct CMUnitTest tests[] = {
        TEST(load_mem, mem_reads_what_was_written),
        TEST(load_mem, mem_keeps_its_contents_while_unmapped),
        TEST(load_mem, the_size_survives_a_restart),
        TEST(load_mem, a_size_can_be_an_option),
        TEST(load_mem, a_senseless_size_is_refused),
        TEST(load_null, the_size_survives_a_restart),
        TEST(load_null, a_size_can_be_an_option),
        TEST(load_null, null_forgets_what_is_written),
        TEST(load_fault, fault_fails_each_nth_request_of_a_kind),
        TEST(load_fault, fault_ends_requests_late_from_its_thread),
        TEST(load_fault, fault_does_not_take_what_it_does_not_know),
        cmocka_unit_test(a_library_with_a_missing_symbol_cannot_be_loaded),
    };

    return cmocka_run_group_tests_name("mem, null and test handlers", tests, NULL, NULL);
}
