/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The daemon in a test's own thread, and its clients.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "connection.h"
#include "log.h"
#include "registry.h"
#include "nbd_client_harness.h"

#define SLICE_BYTES (256u << 10)
#define DEADLINE_S 60 /* generous: the machine may be busy, and valgrind is slow */

/* ---- The daemon ---- */

static void link_handler(const char *directory, const char *built, const char *name)
{
    g_autofree char *file = g_strdup_printf("lib%s_handler.so", name);
    g_autofree char *from = g_build_filename(built, file, NULL);
    g_autofree char *to = g_build_filename(directory, file, NULL);

    assert_int_equal(symlink(from, to), 0);
}

static char *link_handlers(const char *directory)
{
    char *handlers = g_build_filename(directory, "handlers", NULL);

    assert_int_equal(mkdir(handlers, 0700), 0);
    link_handler(handlers, HANDLER_DIR_BUILT, "file");
    link_handler(handlers, HANDLER_DIR_BUILT, "null");
    link_handler(handlers, HANDLER_DIR_BUILT, "mem");
    link_handler(handlers, TEST_HANDLER_DIR_BUILT, "fault");
    link_handler(handlers, TEST_HANDLER_DIR_BUILT, "plain");
    return handlers;
}

static void on_guard(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    (void)arg;
}

static struct config *make_config(const struct harness *harness,
                                  const struct harness_settings *settings)
{
    struct config *config = config_new();

    g_free(config->handler_dir);
    config->handler_dir = settings->handler_dir != NULL ? g_strdup(settings->handler_dir)
                                                        : link_handlers(harness->directory);
    g_strfreev(config->file_roots);
    config->file_roots = g_new0(char *, 2);
    config->file_roots[0] = g_strdup(harness->directory);
    if (settings->max_inflight_bytes > 0)
        config->max_inflight_bytes = settings->max_inflight_bytes;
    if (settings->max_connections > 0)
        config->max_connections = config->max_export_connections = settings->max_connections;
    if (settings->negotiation_timeout_s > 0)
        config->negotiation_timeout_s = settings->negotiation_timeout_s;
    config->request_timeout_s = settings->request_timeout_s;
    if (settings->threads > 0)
        config->threads = settings->threads;
    return config;
}

struct harness *harness_new(const struct harness_settings *settings)
{
    static const struct harness_settings defaults;
    struct harness *harness = g_new0(struct harness, 1);
    g_autofree char *target = NULL;
    struct nbd_failure why;

    harness->directory = g_dir_make_tmp("nbd-runner-test-XXXXXX", NULL);
    assert_non_null(harness->directory);
    harness->log_file = g_build_filename(harness->directory, "log", NULL);
    target = g_strconcat("file:", harness->log_file, NULL);
    log_set_level(NBD_LOG_INFO);
    assert_int_equal(log_set_target(target), 0);
    harness->clients = g_ptr_array_new();
    harness->server = server_new(make_config(harness, settings != NULL ? settings : &defaults),
                                 &why);
    assert_non_null(harness->server);
    harness->guard = evtimer_new(loop_base(harness->server->loop), on_guard, NULL);
    return harness;
}

static void remove_tree(const char *path)
{
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        g_autofree char *inner = g_build_filename(path, name, NULL);
        GStatBuf st;

        if (g_lstat(inner, &st) == 0 && S_ISDIR(st.st_mode))
            remove_tree(inner);
        else
            g_unlink(inner);
    }
    if (dir != NULL)
        g_dir_close(dir);
    g_rmdir(path);
}

static bool has_no_request(void *arg)
{
    return connection_in_flight(((struct harness *)arg)->server->connections) == 0;
}

void harness_free_now(struct harness *harness)
{
    while (harness->clients->len > 0)
        client_leave(harness->clients->pdata[0]);
    event_free(harness->guard);
    server_free(harness->server);
    log_set_target("stderr");
    remove_tree(harness->directory);
    g_ptr_array_free(harness->clients, TRUE);
    g_free(harness->log_file);
    g_free(harness->directory);
    g_free(harness);
}

void harness_free(struct harness *harness)
{
    while (harness->clients->len > 0)
        client_leave(harness->clients->pdata[0]);
    harness_wait(harness, harness_has_no_connection, harness);
    harness_wait(harness, has_no_request, harness);
    harness_free_now(harness);
}

char *harness_path(const struct harness *harness, const char *name)
{
    return g_build_filename(harness->directory, name, NULL);
}

static GHashTable *parse_opts(const char *text)
{
    GHashTable *opts = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_auto(GStrv) words = g_strsplit(text != NULL ? text : "", " ", -1);

    for (char **word = words; *word != NULL; word++) {
        char *equals = strchr(*word, '=');

        if (equals != NULL)
            g_hash_table_insert(opts, g_strndup(*word, (gsize)(equals - *word)),
                                g_strdup(equals + 1));
    }
    return opts;
}

struct export *harness_add_export(struct harness *harness, const char *name,
                                  const char *handler, const char *target, const char *opts,
                                  bool readonly)
{
    struct export_spec spec = {
        .name = name, .handler = handler, .target = target, .opts = parse_opts(opts),
        .origin = EXPORT_BY_CONFIG, .origin_file = "test.conf", .readonly = readonly,
    };
    struct nbd_failure why = { 0 };
    struct export *export = NULL;
    int r = registry_add(harness->server->registry, &spec, false, &export, &why);

    g_hash_table_destroy(spec.opts);
    assert_string_equal(why.message, "");
    assert_int_equal(r, 0);
    return export;
}

struct export *harness_add_file(struct harness *harness, const char *name, size_t size)
{
    g_autofree char *path = harness_path(harness, name);
    g_autofree char *bytes = g_malloc(size);

    fill_pattern(bytes, 0, size);
    assert_true(g_file_set_contents(path, bytes, (gssize)size, NULL));
    return harness_add_export(harness, name, "file", path, NULL, false);
}

char *harness_log(const struct harness *harness)
{
    char *text = NULL;

    assert_true(g_file_get_contents(harness->log_file, &text, NULL, NULL));
    return text;
}

unsigned harness_count_in_log(const struct harness *harness, const char *text)
{
    g_autofree char *log = harness_log(harness);
    unsigned n = 0;

    for (const char *p = log; (p = strstr(p, text)) != NULL; p += strlen(text))
        n++;
    return n;
}

/* ---- The loop ---- */

void harness_turn(struct harness *harness)
{
    evtimer_add(harness->guard, &(struct timeval){ .tv_usec = 1000 });
    event_base_loop(loop_base(harness->server->loop), EVLOOP_ONCE);
}

void harness_settle(struct harness *harness)
{
    for (int i = 0; i < 10; i++)
        harness_turn(harness);
}

static int64_t deadline(void)
{
    return g_get_monotonic_time() + DEADLINE_S * G_USEC_PER_SEC;
}

static void turn_in_time(struct harness *harness, int64_t end, const char *what)
{
    if (g_get_monotonic_time() > end)
        fail_msg("in %d seconds there was no %s", DEADLINE_S, what);
    harness_turn(harness);
}

void harness_wait(struct harness *harness, harness_condition *condition, void *arg)
{
    int64_t end = deadline();

    while (!condition(arg))
        turn_in_time(harness, end, "event that the test waits for");
}

bool harness_has_no_connection(void *arg)
{
    struct harness *harness = arg;

    return connection_count(harness->server->connections) == 0;
}

/* ---- Clients: bytes ---- */

static struct client *connect_as(struct harness *harness, const struct sockaddr *peer)
{
    struct client *client = g_new0(struct client, 1);
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds),
                     0);
    client->harness = harness;
    client->fd = fds[0];
    client->reads = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
    g_ptr_array_add(harness->clients, client);
    connection_accept(harness->server->connections, fds[1], peer);
    return client;
}

struct client *client_connect(struct harness *harness)
{
    return connect_as(harness, &(struct sockaddr){ .sa_family = AF_UNIX });
}

struct client *client_connect_from(struct harness *harness, const char *address)
{
    struct sockaddr_in peer = { .sin_family = AF_INET, .sin_port = htons(40312) };

    assert_int_equal(inet_pton(AF_INET, address, &peer.sin_addr), 1);
    return connect_as(harness, (const struct sockaddr *)&peer);
}

void client_leave(struct client *client)
{
    g_ptr_array_remove(client->harness->clients, client);
    close(client->fd);
    g_hash_table_destroy(client->reads);
    g_free(client);
}

void client_sends(struct client *client, const void *data, size_t length)
{
    int64_t end = deadline();

    for (size_t done = 0; done < length;) {
        /* In slices: valgrind looks at all bytes that it could send, again in each call. */
        size_t slice = MIN(length - done, SLICE_BYTES);
        ssize_t n = send(client->fd, (const char *)data + done, slice, MSG_NOSIGNAL);

        if (n > 0)
            done += (size_t)n;
        else if (errno == EPIPE)
            return; /* the daemon has closed; the test will see that */
        else
            turn_in_time(client->harness, end, "room to send");
    }
}

void client_sends_bytewise(struct client *client, const void *data, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        client_sends(client, (const char *)data + i, 1);
        event_base_loop(loop_base(client->harness->server->loop), EVLOOP_NONBLOCK);
    }
}

void client_receives(struct client *client, void *to, size_t length)
{
    int64_t end = deadline();

    for (size_t done = 0; done < length;) {
        size_t slice = MIN(length - done, SLICE_BYTES); /* as above */
        ssize_t n = recv(client->fd, (char *)to + done, slice, 0);

        if (n > 0)
            done += (size_t)n;
        else if (n == 0 || errno != EAGAIN)
            fail_msg("the daemon closed the connection after %zu of %zu bytes", done, length);
        else
            turn_in_time(client->harness, end, "byte to receive");
    }
}

size_t client_has_received(struct client *client, void *to, size_t size)
{
    size_t done = 0;

    for (int i = 0; i < 20; i++) {
        ssize_t n = recv(client->fd, (char *)to + done, size - done, 0);

        if (n > 0)
            done += (size_t)n;
        harness_turn(client->harness);
    }
    return done;
}

static size_t receives_until_closed(struct client *client)
{
    int64_t end = deadline();
    size_t total = 0;

    for (;;) {
        static char bytes[65536];
        ssize_t n = recv(client->fd, bytes, sizeof(bytes), 0);

        if (n == 0 || (n < 0 && errno != EAGAIN))
            return total;
        if (n > 0)
            total += (size_t)n;
        else
            turn_in_time(client->harness, end, "end of the connection");
    }
}

void client_is_closed(struct client *client)
{
    assert_int_equal(receives_until_closed(client), 0);
}

void client_is_closed_at_last(struct client *client)
{
    receives_until_closed(client);
}

void client_has_nothing(struct client *client)
{
    char byte;

    harness_settle(client->harness);
    assert_int_equal(recv(client->fd, &byte, 1, 0), -1);
    assert_int_equal(errno, EAGAIN);
}

/* ---- Handshake ---- */

void client_greets(struct client *client, uint32_t flags)
{
    struct nbd_greeting greeting;
    uint32_t wire = htobe32(flags);

    client_receives(client, &greeting, sizeof(greeting));
    client_sends(client, &wire, sizeof(wire));
}

void client_sends_option(struct client *client, uint32_t option, const void *data,
                         size_t length)
{
    struct nbd_option header = {
        .ihaveopt = htobe64(NBD_IHAVEOPT), .option = htobe32(option),
        .length = htobe32((uint32_t)length),
    };

    client_sends(client, &header, sizeof(header));
    client_sends(client, data, length);
}

void client_takes_option_reply(struct client *client, struct option_reply *ret_reply)
{
    struct nbd_option_reply header;

    client_receives(client, &header, sizeof(header));
    assert_true(be64toh(header.magic) == NBD_REPLY_MAGIC);
    ret_reply->option = be32toh(header.option);
    ret_reply->type = be32toh(header.type);
    ret_reply->length = be32toh(header.length);
    assert_true(ret_reply->length <= 1u << 20);
    ret_reply->data = g_malloc0(ret_reply->length + 1);
    client_receives(client, ret_reply->data, ret_reply->length);
}

void client_is_told(struct client *client, uint32_t option, uint32_t type, const char *text)
{
    struct option_reply reply;

    client_takes_option_reply(client, &reply);
    assert_int_equal(reply.option, option);
    assert_int_equal(reply.type, type);
    if (text != NULL && memmem(reply.data, reply.length, text, strlen(text)) == NULL)
        fail_msg("\"%s\" is not in the answer \"%s\"", text, reply.data);
    g_free(reply.data);
}

GByteArray *name_with_infos(const void *name, size_t length, unsigned n, const uint16_t *infos)
{
    GByteArray *data = g_byte_array_new();
    uint32_t wire_length = htobe32((uint32_t)length);
    uint16_t wire_n = htobe16((uint16_t)n);

    g_byte_array_append(data, (uint8_t *)&wire_length, 4);
    g_byte_array_append(data, name, (guint)length);
    g_byte_array_append(data, (uint8_t *)&wire_n, 2);
    for (unsigned i = 0; i < n; i++) {
        uint16_t info = htobe16(infos[i]);

        g_byte_array_append(data, (uint8_t *)&info, 2);
    }
    return data;
}

void client_asks(struct client *client, uint32_t option, const char *name)
{
    GByteArray *data = name_with_infos(name, strlen(name), 0, NULL);

    client_sends_option(client, option, data->data, data->len);
    g_byte_array_free(data, TRUE);
}

static uint64_t take(const char **p, size_t size)
{
    uint64_t value = 0;

    for (size_t i = 0; i < size; i++)
        value = value << 8 | (uint8_t)*(*p)++;
    return value;
}

static void take_info(const struct option_reply *reply, struct negotiated *ret)
{
    const char *p = reply->data;

    assert_true(reply->length >= 2);
    switch (take(&p, 2)) {
    case NBD_INFO_EXPORT:
        assert_int_equal(reply->length, sizeof(struct nbd_info_export));
        ret->size = take(&p, 8);
        ret->flags = (uint16_t)take(&p, 2);
        break;
    case NBD_INFO_BLOCK_SIZE:
        assert_int_equal(reply->length, sizeof(struct nbd_info_block_size));
        ret->minimum = (uint32_t)take(&p, 4);
        ret->preferred = (uint32_t)take(&p, 4);
        ret->maximum = (uint32_t)take(&p, 4);
        break;
    case NBD_INFO_NAME:
        g_strlcpy(ret->name, p, sizeof(ret->name));
        break;
    case NBD_INFO_DESCRIPTION:
        g_strlcpy(ret->description, p, sizeof(ret->description));
        break;
    default:
        fail_msg("an information of an unknown type");
    }
}

void client_takes_infos(struct client *client, uint32_t option, struct negotiated *ret)
{
    struct option_reply reply;

    *ret = (struct negotiated){ 0 };
    for (;;) {
        client_takes_option_reply(client, &reply);
        assert_int_equal(reply.option, option);
        if (reply.type != NBD_REP_INFO)
            break;
        take_info(&reply, ret);
        g_free(reply.data);
    }
    if (reply.type != NBD_REP_ACK)
        fail_msg("option %u got 0x%x: %s", option, reply.type, reply.data);
    g_free(reply.data);
}

void client_goes(struct client *client, const char *name)
{
    struct negotiated negotiated;

    client_asks(client, NBD_OPT_GO, name);
    client_takes_infos(client, NBD_OPT_GO, &negotiated);
}

struct client *client_on(struct harness *harness, const char *name)
{
    struct client *client = client_connect(harness);

    client_greets(client, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
    client_goes(client, name);
    return client;
}

/* ---- Requests ---- */

/* A READ that waits for its reply. */
struct read {
    uint64_t offset, length;
};

size_t client_puts_header(struct client *client, uint8_t *to, uint16_t type, uint16_t flags,
                          uint64_t offset, uint64_t length)
{
    uint64_t cookie = ++client->last_cookie;
    struct read read = { offset, length };

    if (type == NBD_CMD_READ)
        g_hash_table_insert(client->reads, g_memdup2(&cookie, sizeof(cookie)),
                            g_memdup2(&read, sizeof(read)));
    if (client->extended) {
        struct nbd_extended_request request = {
            .magic = htobe32(NBD_EXTENDED_REQUEST_MAGIC), .flags = htobe16(flags),
            .type = htobe16(type), .cookie = htobe64(cookie), .offset = htobe64(offset),
            .length = htobe64(length),
        };

        memcpy(to, &request, sizeof(request));
        return sizeof(request);
    }
    struct nbd_compact_request request = {
        .magic = htobe32(NBD_REQUEST_MAGIC), .flags = htobe16(flags), .type = htobe16(type),
        .cookie = htobe64(cookie), .offset = htobe64(offset),
        .length = htobe32((uint32_t)length),
    };

    memcpy(to, &request, sizeof(request));
    return sizeof(request);
}

uint64_t client_requests(struct client *client, uint16_t type, uint16_t flags, uint64_t offset,
                         uint64_t length)
{
    uint8_t header[sizeof(struct nbd_extended_request)];

    client_sends(client, header,
                 client_puts_header(client, header, type, flags, offset, length));
    return client->last_cookie;
}

uint64_t client_writes(struct client *client, uint16_t flags, uint64_t offset,
                       const void *data, size_t length)
{
    uint64_t cookie;

    if (client->extended)
        flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
    cookie = client_requests(client, NBD_CMD_WRITE, flags, offset, length);
    client_sends(client, data, length);
    return cookie;
}

/* ---- Replies ---- */

static void take_simple(struct client *client, struct reply *reply)
{
    struct nbd_simple_reply simple = { 0 };
    const struct read *read;

    client_receives(client, &simple.error, sizeof(simple) - sizeof(simple.magic));
    reply->error = be32toh(simple.error);
    reply->cookie = be64toh(simple.cookie);
    read = g_hash_table_lookup(client->reads, &reply->cookie);
    if (read == NULL || reply->error != 0)
        return;
    reply->length = read->length;
    reply->data = g_malloc(reply->length);
    client_receives(client, reply->data, reply->length);
}

/* Chunks of data and holes may come in any order; none may come twice. */
static void take_read_chunk(struct client *client, struct reply *reply, uint16_t type,
                            uint64_t length)
{
    const struct read *read = g_hash_table_lookup(client->reads, &reply->cookie);
    uint64_t offset;
    uint32_t hole;

    assert_non_null(read);
    if (reply->data == NULL)
        reply->data = g_malloc(read->length);
    client_receives(client, &offset, sizeof(offset));
    offset = be64toh(offset);
    length -= sizeof(offset);
    if (type == NBD_REPLY_TYPE_OFFSET_HOLE) {
        assert_int_equal(length, sizeof(hole));
        client_receives(client, &hole, sizeof(hole));
        length = be32toh(hole);
    }
    assert_true(length > 0 && offset >= read->offset &&
                length <= read->length - (offset - read->offset));
    if (type == NBD_REPLY_TYPE_OFFSET_HOLE)
        memset(reply->data + offset - read->offset, 0, length);
    else
        client_receives(client, reply->data + offset - read->offset, length);
    reply->length += length;
}

static void take_error_chunk(struct client *client, struct reply *reply, uint64_t length)
{
    uint32_t error;
    uint16_t text;

    client_receives(client, &error, sizeof(error));
    client_receives(client, &text, sizeof(text));
    reply->error = be32toh(error);
    assert_int_not_equal(reply->error, 0);
    assert_int_equal(length, sizeof(error) + sizeof(text) + be16toh(text));
    assert_true(be16toh(text) < sizeof(reply->text));
    client_receives(client, reply->text, be16toh(text));
    reply->text[be16toh(text)] = '\0';
}

static void take_other_chunk(struct client *client, struct reply *reply, uint64_t length)
{
    reply->data = g_realloc(reply->data, reply->length + length);
    client_receives(client, reply->data + reply->length, length);
    reply->length += length;
}

/* True: it was the last. */
static bool take_chunk(struct client *client, struct reply *reply)
{
    struct nbd_structured_reply structured = { 0 };
    struct nbd_extended_reply extended = { 0 };
    uint64_t length;

    if (client->extended) {
        client_receives(client, &extended.flags, sizeof(extended) - sizeof(extended.magic));
        structured.flags = extended.flags;
        structured.type = extended.type;
        structured.cookie = extended.cookie;
        length = be64toh(extended.length);
    } else {
        client_receives(client, &structured.flags,
                        sizeof(structured) - sizeof(structured.magic));
        length = be32toh(structured.length);
    }
    reply->chunks++;
    reply->cookie = be64toh(structured.cookie);
    switch (be16toh(structured.type)) {
    case NBD_REPLY_TYPE_NONE:
        assert_int_equal(length, 0);
        break;
    case NBD_REPLY_TYPE_OFFSET_DATA:
    case NBD_REPLY_TYPE_OFFSET_HOLE:
        take_read_chunk(client, reply, be16toh(structured.type), length);
        break;
    case NBD_REPLY_TYPE_ERROR:
        take_error_chunk(client, reply, length);
        break;
    default:
        take_other_chunk(client, reply, length);
    }
    return be16toh(structured.flags) & NBD_REPLY_FLAG_DONE;
}

void client_takes_reply(struct client *client, struct reply *ret_reply)
{
    uint32_t magic;
    bool done = true;

    *ret_reply = (struct reply){ 0 };
    do {
        client_receives(client, &magic, sizeof(magic));
        switch (be32toh(magic)) {
        case NBD_SIMPLE_REPLY_MAGIC:
            take_simple(client, ret_reply);
            break;
        case NBD_STRUCTURED_REPLY_MAGIC:
            assert_true(client->structured && !client->extended);
            done = take_chunk(client, ret_reply);
            break;
        case NBD_EXTENDED_REPLY_MAGIC:
            assert_true(client->extended);
            done = take_chunk(client, ret_reply);
            break;
        default:
            fail_msg("a reply with the magic number 0x%x", be32toh(magic));
        }
    } while (!done);
    g_hash_table_remove(client->reads, &ret_reply->cookie);
}

uint32_t client_awaits(struct client *client, uint64_t cookie)
{
    struct reply reply;

    client_takes_reply(client, &reply);
    g_free(reply.data);
    assert_true(reply.cookie == cookie);
    return reply.error;
}

void client_reads_back(struct client *client, uint64_t offset, const void *expected,
                       size_t length)
{
    uint64_t cookie = client_requests(client, NBD_CMD_READ, 0, offset, length);
    struct reply reply;

    client_takes_reply(client, &reply);
    assert_true(reply.cookie == cookie);
    assert_int_equal(reply.error, 0);
    assert_int_equal(reply.length, length);
    assert_true(memcmp(reply.data, expected, length) == 0);
    g_free(reply.data);
}

void client_is_served(struct client *client)
{
    assert_int_equal(client_awaits(client, client_requests(client, NBD_CMD_READ, 0, 0, 1)), 0);
}

/* ---- Patterns ---- */

uint8_t pattern_byte(uint64_t offset)
{
    uint64_t x = (offset + 1) * UINT64_C(0x9e3779b97f4a7c15);

    return (uint8_t)(x >> 56);
}

void fill_pattern(void *to, uint64_t offset, size_t length)
{
    for (size_t i = 0; i < length; i++)
        ((uint8_t *)to)[i] = pattern_byte(offset + i);
}

void is_pattern(const void *data, uint64_t offset, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (((const uint8_t *)data)[i] != pattern_byte(offset + i))
            fail_msg("the byte at %" PRIu64 " is not the right one", offset + i);
}
