/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * How much memory clients cost: an idle one next to nothing, a request none at all. This
 * program has its own malloc(), which counts; it also serves the libraries and handlers.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <malloc.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "connection.h"
#include "nbd_client_harness.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HAVE_COUNTER 0 /* the sanitizer has its own malloc() */
#else
#define HAVE_COUNTER 1
#endif

static atomic_ulong allocations;

#if HAVE_COUNTER
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *old, size_t size);

void *malloc(size_t size)
{
    atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
    return __libc_calloc(n, size);
}

void *realloc(void *old, size_t size)
{
    atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
    return __libc_realloc(old, size);
}
#endif

static int set_up(void **state)
{
    struct harness_settings settings = { .max_connections = 4000 };
    struct harness *harness = harness_new(&settings);

    harness_add_export(harness, "mem", "mem", "one", "size=64M", false);
    harness_add_export(harness, "direct", "fault", "d", "size=1M", false);
    harness_add_export(harness, "thread", "fault", "t", "size=1M thread=true", false);
    harness_add_file(harness, "file", 1 << 20);
    *state = harness;
    return 0;
}

static int tear_down(void **state)
{
    harness_free(*state);
    return 0;
}

static size_t bytes_in_use(void)
{
    struct mallinfo2 info = mallinfo2();

    return info.uordblks + info.hblkhd;
}

/* What the client itself has, as it is in this process, too. */
static size_t bytes_of_clients(struct harness *harness, unsigned n)
{
    size_t before = bytes_in_use();
    struct client **clients = g_new(struct client *, n);

    for (unsigned i = 0; i < n; i++) {
        clients[i] = g_new0(struct client, 1);
        clients[i]->reads = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
    }
    size_t bytes = bytes_in_use() - before - n * sizeof(*clients);
    for (unsigned i = 0; i < n; i++) {
        g_hash_table_destroy(clients[i]->reads);
        g_free(clients[i]);
    }
    g_free(clients);
    (void)harness;
    return bytes;
}

static void an_idle_client_costs_less_than_a_kibibyte(void **state)
{
    enum { CLIENTS = 1000 };
    struct harness *harness = *state;
    struct rlimit limit;
    size_t own, before, after;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur < 2 * CLIENTS + 100)
        skip();
    own = bytes_of_clients(harness, CLIENTS);
    for (int i = 0; i < 10; i++)
        client_is_served(client_on(harness, "mem")); /* what comes once comes now */
    before = bytes_in_use();
    for (int i = 0; i < CLIENTS; i++)
        client_is_served(client_on(harness, "mem"));
    after = bytes_in_use();

    assert_int_equal(buffer_pool_used(harness->server->buffers), 0);
    if (HAVE_COUNTER)
        assert_in_range((after - before - own) / CLIENTS, 1, 1024);
}

/* ---- Requests ---- */

struct exchange {
    uint16_t type;
    size_t length;
};

/* One request and its reply, without help that allocates. */
static void exchanges(struct client *client, const struct exchange *exchange, uint64_t offset)
{
    static uint8_t bytes[sizeof(struct nbd_compact_request) + 200000];
    struct nbd_compact_request request = {
        .magic = __builtin_bswap32(NBD_REQUEST_MAGIC),
        .type = __builtin_bswap16(exchange->type), .cookie = offset,
        .offset = __builtin_bswap64(offset),
        .length = __builtin_bswap32((uint32_t)exchange->length),
    };
    size_t payload = exchange->type == NBD_CMD_WRITE ? exchange->length : 0;
    size_t answer = 16 + (exchange->type == NBD_CMD_READ ? exchange->length : 0);

    memcpy(bytes, &request, sizeof(request));
    client_sends(client, bytes, sizeof(request) + payload);
    client_receives(client, bytes, answer);
    assert_int_equal(bytes[7], 0);
}

static void exchanges_many(struct client *client, unsigned n)
{
    static const struct exchange kinds[] = {
        { NBD_CMD_READ, 4096 }, { NBD_CMD_WRITE, 4096 }, { NBD_CMD_READ, 512 },
        { NBD_CMD_WRITE, 60000 }, { NBD_CMD_READ, 60000 }, { NBD_CMD_FLUSH, 0 },
        { NBD_CMD_WRITE_ZEROES, 8192 }, { NBD_CMD_READ, 150000 }, { NBD_CMD_WRITE, 150000 },
    };

    for (unsigned i = 0; i < n; i++)
        exchanges(client, &kinds[i % G_N_ELEMENTS(kinds)], i % 1000 * 512);
}

static void allocates_nothing(struct harness *harness, const char *export, unsigned n)
{
    struct client *client = client_on(harness, export);
    unsigned long before;
    size_t bytes;

    exchanges_many(client, 200);
    before = atomic_load(&allocations);
    bytes = bytes_in_use();
    exchanges_many(client, n);

    if (HAVE_COUNTER) {
        assert_int_equal(atomic_load(&allocations) - before, 0);
        assert_int_equal(bytes_in_use(), bytes);
    }
    client_leave(client);
}

static void requests_that_are_served_at_once_allocate_nothing(void **state)
{
    allocates_nothing(*state, "mem", 10000);
}

static void requests_that_complete_inside_submit_allocate_nothing(void **state)
{
    allocates_nothing(*state, "direct", 1000);
}

static void requests_that_complete_on_a_thread_allocate_nothing(void **state)
{
    allocates_nothing(*state, "thread", 1000);
}

static void requests_to_a_file_allocate_nothing(void **state)
{
    allocates_nothing(*state, "file", 2000);
}

int main(void)
{
#define A_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        A_TEST(an_idle_client_costs_less_than_a_kibibyte),
        A_TEST(requests_that_are_served_at_once_allocate_nothing),
        A_TEST(requests_that_complete_inside_submit_allocate_nothing),
        A_TEST(requests_that_complete_on_a_thread_allocate_nothing),
        A_TEST(requests_to_a_file_allocate_nothing),
    };

    return cmocka_run_group_tests_name("memory", tests, NULL, NULL);
}
