/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The HTTP server: what it answers, and what keeps peers within bounds.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <glib.h>

#include "http.h"
#include "listener.h"

#define PARTS 40

struct fixture {
    struct loop *loop;
    struct http_server *server;
    int port;
    unsigned parts; /* left of the stream */
    unsigned gone;
    bool empty;
    char *accept;
};

static void get_text(struct http_reply *reply, void *arg)
{
    struct fixture *f = arg;

    g_free(f->accept);
    f->accept = g_strdup(http_reply_accept(reply));
    http_reply_text(reply, 200, "ok");
}

static bool more(void *arg, struct evbuffer *to)
{
    struct fixture *f = arg;
    g_autofree char *part = g_strnfill(HTTP_CHUNK_BYTES, 'x');

    f->empty = !f->empty; /* each second part has nothing in it */
    if (f->empty)
        return true;
    evbuffer_add(to, part, HTTP_CHUNK_BYTES);
    return --f->parts > 0;
}

static void gone(void *arg)
{
    ((struct fixture *)arg)->gone++;
}

static void get_stream(struct http_reply *reply, void *arg)
{
    ((struct fixture *)arg)->parts = PARTS;
    http_reply_stream(reply, "text/plain", more, gone, arg);
}

static const struct http_page pages[] = {
    { "/text", get_text }, { "/stream", get_stream }, { NULL, NULL },
};

static int set_up(void **state)
{
    struct fixture *f = g_new0(struct fixture, 1);
    struct nbd_failure why;

    f->loop = loop_new();
    f->server = http_server_new(f->loop, pages, f);
    assert_int_equal(http_server_listen(f->server, "127.0.0.1", 0, &why), 0);
    f->port = ((struct endpoint *)http_server_endpoints(f->server)->pdata[0])->port;
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    http_server_free(f->server);
    loop_free(f->loop);
    g_free(f->accept);
    g_free(f);
    return 0;
}

static int join(struct fixture *f)
{
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)f->port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    return fd;
}

static void turn(struct fixture *f)
{
    event_base_loop(loop_base(f->loop), EVLOOP_NONBLOCK);
}

/* All that comes until the server closes. */
static GString *take(struct fixture *f, int fd)
{
    GString *text = g_string_new(NULL);
    char bytes[65536];
    ssize_t n;

    while ((n = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT)) != 0) {
        if (n < 0 && errno != EAGAIN)
            break;
        if (n > 0)
            g_string_append_len(text, bytes, n);
        else
            turn(f);
    }
    close(fd);
    turn(f);
    return text;
}

static char *ask(struct fixture *f, const char *request)
{
    int fd = join(f);

    assert_int_equal(send(fd, request, strlen(request), 0), (ssize_t)strlen(request));
    return g_string_free(take(f, fd), FALSE);
}

static void a_page_is_answered_and_the_connection_ends(void **state)
{
    g_autofree char *text = ask(*state, "GET /text?x=1 HTTP/1.1\r\nHost: a\r\n\r\n");

    assert_string_equal(text, "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n"
                              "Connection: close\r\nContent-Length: 3\r\n\r\nok\n");
}

static void head_is_answered_without_content(void **state)
{
    g_autofree char *text = ask(*state, "HEAD /text HTTP/1.1\r\n\r\n");
    g_autofree char *stream = ask(*state, "HEAD /stream HTTP/1.1\r\n\r\n");

    assert_true(g_str_has_suffix(text, "Content-Length: 3\r\n\r\n"));
    assert_true(g_str_has_suffix(stream, "chunked\r\n\r\n"));
    assert_int_equal(((struct fixture *)*state)->gone, 1);
}

static void what_is_no_request_for_a_page_is_refused(void **state)
{
    static const struct { const char *request, *status; } tests[] = {
        { "POST /text HTTP/1.1\r\n\r\n", "405" },
        { "GET /other HTTP/1.1\r\n\r\n", "404" },
        { "GET /text/ HTTP/1.1\r\n\r\n", "404" },
        { "GET /tex HTTP/1.1\r\n\r\n", "404" },
        { "GET /text\r\n\r\n", "400" },
        { "GET  HTTP/1.1\r\n\r\n", "404" },
        { "\r\n\r\n", "400" },
        { "GET /text SPDY/9\r\n\r\n", "400" },
        { "\x16\x03\x01\n\n", "400" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(tests); i++) {
        g_autofree char *text = ask(*state, tests[i].request);

        assert_true(g_str_has_prefix(text, "HTTP/1.1 "));
        assert_memory_equal(text + strlen("HTTP/1.1 "), tests[i].status, 3);
    }
}

static void the_field_accept_reaches_the_page(void **state)
{
    struct fixture *f = *state;

    g_free(ask(f, "GET /text HTTP/1.1\r\nHost: a\r\naccept:  text/plain \r\n\r\n"));
    assert_string_equal(f->accept, "text/plain");
    g_free(ask(f, "GET /text HTTP/1.0\n\n"));
    assert_string_equal(f->accept, "");
}

static void a_header_that_is_too_long_is_refused(void **state)
{
    g_autofree char *much = g_strnfill(HTTP_REQUEST_MAX, 'x');
    g_autofree char *request = g_strconcat("GET /text HTTP/1.1\r\nX: ", much, NULL);
    g_autofree char *text = ask(*state, request);

    assert_true(g_str_has_prefix(text, "HTTP/1.1 431 "));
}

/* The length of a chunked content; -1: it does not end as it must. */
static ssize_t chunked_length(const char *text)
{
    const char *p = strstr(text, "\r\n\r\n");
    ssize_t sum = 0;

    for (p = p != NULL ? p + 4 : ""; *p != '\0';) {
        char *end;
        guint64 n = g_ascii_strtoull(p, &end, 16);

        if (n == 0)
            return strcmp(end, "\r\n\r\n") == 0 ? sum : -1;
        sum += (ssize_t)n;
        p = end + 2 + n + 2;
    }
    return -1;
}

static void a_stream_comes_in_chunks_and_says_when_it_is_over(void **state)
{
    struct fixture *f = *state;
    g_autofree char *text = ask(f, "GET /stream HTTP/1.1\r\n\r\n");

    assert_int_equal(chunked_length(text), PARTS * HTTP_CHUNK_BYTES);
    assert_int_equal(f->gone, 1);
}

static void for_http_1_0_a_stream_ends_with_the_connection(void **state)
{
    g_autofree char *text = ask(*state, "GET /stream HTTP/1.0\r\n\r\n");
    const char *content = strstr(text, "\r\n\r\n") + 4;

    assert_null(strstr(text, "chunked"));
    assert_int_equal(strlen(content), PARTS * HTTP_CHUNK_BYTES);
}

static void a_peer_that_takes_nothing_gets_no_more_made_for_it(void **state)
{
    struct fixture *f = *state;
    static const char request[] = "GET /stream HTTP/1.1\r\n\r\n";
    int fd = socket(AF_INET, SOCK_STREAM, 0), small = 4096;
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)f->port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    assert_int_equal(send(fd, request, strlen(request), 0), (ssize_t)strlen(request));
    f->parts = PARTS;
    for (int i = 0; i < 200; i++)
        turn(f);
    assert_int_not_equal(f->parts, 0);
    assert_int_equal(f->gone, 0);
    close(fd); /* leaves in the middle */
    for (int i = 0; i < 200 && f->gone == 0; i++)
        turn(f);
    assert_int_equal(f->gone, 1);
}

static void surplus_peers_are_closed_and_the_others_are_served(void **state)
{
    struct fixture *f = *state;
    int fds[HTTP_CLIENTS_MAX];
    g_autofree char *text = NULL;
    GString *nothing;

    for (unsigned i = 0; i < G_N_ELEMENTS(fds); i++)
        fds[i] = join(f);
    turn(f);
    nothing = take(f, join(f));
    assert_int_equal(nothing->len, 0);
    g_string_free(nothing, TRUE);
    close(fds[0]);
    turn(f);
    text = ask(f, "GET /text HTTP/1.1\r\n\r\n");
    assert_true(g_str_has_prefix(text, "HTTP/1.1 200 "));
    for (unsigned i = 1; i < G_N_ELEMENTS(fds); i++)
        close(fds[i]);
    turn(f);
}

static void a_peer_that_never_asks_is_closed_in_time(void **state)
{
    struct fixture *f = *state;
    int fd = join(f);
    char byte;

    assert_int_equal(send(fd, "GET /te", 7, 0), 7);
    /* One turn waits for the next event, which is the deadline. */
    for (int i = 0; i < 10 && recv(fd, &byte, 1, MSG_DONTWAIT) < 0; i++)
        event_base_loop(loop_base(f->loop), EVLOOP_ONCE);
    assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), 0);
    close(fd);
}

int main(void)
{
#define A_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        A_TEST(a_page_is_answered_and_the_connection_ends),
        A_TEST(head_is_answered_without_content),
        A_TEST(what_is_no_request_for_a_page_is_refused),
        A_TEST(the_field_accept_reaches_the_page),
        A_TEST(a_header_that_is_too_long_is_refused),
        A_TEST(a_stream_comes_in_chunks_and_says_when_it_is_over),
        A_TEST(for_http_1_0_a_stream_ends_with_the_connection),
        A_TEST(a_peer_that_takes_nothing_gets_no_more_made_for_it),
        A_TEST(surplus_peers_are_closed_and_the_others_are_served),
        A_TEST(a_peer_that_never_asks_is_closed_in_time),
    };

    return cmocka_run_group_tests_name("http", tests, NULL, NULL);
}
