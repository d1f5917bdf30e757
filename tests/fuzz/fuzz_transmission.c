/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Fuzz target: requests. The first byte of the input chooses replies (simple, structured,
 * extended), export and metadata contexts, the second one the pieces; the rest is what the
 * client sends after a good handshake.
 */
#include <endian.h>
#include <string.h>
#include <unistd.h>

#include "connection.h"
#include "fuzz.h"
#include "nbd_protocol.h"

static struct server *server;
static const char *const exports[] = { "mem", "null", "iso" };

static void set_up(void)
{
    server = fuzz_server_new();
    fuzz_add_export(server, "mem", "mem", false);
    fuzz_add_export(server, "null", "null", false);
    fuzz_add_export(server, "iso", "mem", true);
}

static void put32(GByteArray *to, uint32_t value)
{
    uint32_t wire = htobe32(value);

    g_byte_array_append(to, (uint8_t *)&wire, sizeof(wire));
}

static void put_option(GByteArray *to, uint32_t option, const GByteArray *data)
{
    uint64_t magic = htobe64(NBD_IHAVEOPT);

    g_byte_array_append(to, (uint8_t *)&magic, sizeof(magic));
    put32(to, option);
    put32(to, data != NULL ? data->len : 0);
    if (data != NULL)
        g_byte_array_append(to, data->data, data->len);
}

static void put_string(GByteArray *to, const char *text)
{
    put32(to, (uint32_t)strlen(text));
    g_byte_array_append(to, (const uint8_t *)text, (guint)strlen(text));
}

static void put_contexts(GByteArray *to, const char *export)
{
    GByteArray *data = g_byte_array_new();

    put_string(data, export);
    put32(data, 2);
    put_string(data, "base:allocation");
    put_string(data, "qemu:allocation-depth");
    put_option(to, NBD_OPT_SET_META_CONTEXT, data);
    g_byte_array_free(data, TRUE);
}

static void put_go(GByteArray *to, const char *export)
{
    GByteArray *data = g_byte_array_new();

    put_string(data, export);
    g_byte_array_append(data, (const uint8_t *)"\0", 2);
    put_option(to, NBD_OPT_GO, data);
    g_byte_array_free(data, TRUE);
}

static GByteArray *handshake(uint8_t choice)
{
    GByteArray *bytes = g_byte_array_new();
    const char *export = exports[choice / 4 % G_N_ELEMENTS(exports)];

    put32(bytes, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
    if (choice % 4 == 1)
        put_option(bytes, NBD_OPT_STRUCTURED_REPLY, NULL);
    if (choice % 4 >= 2)
        put_option(bytes, NBD_OPT_EXTENDED_HEADERS, NULL);
    if (choice % 4 != 0 && choice & 0x80)
        put_contexts(bytes, export);
    put_go(bytes, export);
    return bytes;
}

static bool is_ready(void)
{
    const struct connection *conn = connection_next(server->connections, 0);

    return conn != NULL && conn->phase == PHASE_TRANSMISSION;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sockaddr peer = { .sa_family = AF_UNIX };
    GByteArray *hello;
    int fds[2];

    if (size < 2)
        return 0;
    if (server == NULL)
        set_up();
    hello = handshake(data[0]);
    fuzz_pair(fds);
    connection_accept(server->connections, fds[1], &peer);
    fuzz_send(server, fds[0], hello->data, hello->len, 0);
    g_byte_array_free(hello, TRUE);
    while (!is_ready())
        event_base_loop(loop_base(server->loop), EVLOOP_ONCE);
    fuzz_send(server, fds[0], data + 2, size - 2, data[1] % 64);
    fuzz_settle(server, fds[0]);
    close(fds[0]);
    while (connection_count(server->connections) > 0)
        event_base_loop(loop_base(server->loop), EVLOOP_ONCE);
    return 0;
}
