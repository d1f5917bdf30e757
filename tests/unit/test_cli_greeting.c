/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Where the daemon's NBD addresses are from here, and the look at one: against servers of a few
 * bytes on a Unix socket. The way through a real daemon is integration/test-status.sh's.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <endian.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "greeting.h"

#include "nbd_protocol.h"

/* ---- Places ---- */

/* One line of text for each: "HOST:PORT HOST:PORT". */
static char *places_of(const char *addr, const char *remote_host, bool by_unix)
{
    nr_endpoint endpoint = {.addr = (char *)addr, .port = 24111};
    struct address places[2];
    size_t n = greeting_places(&endpoint, remote_host, by_unix, places);
    GString *line = g_string_new(NULL);
    char text[ADDRESS_MAX];

    for (size_t i = 0; i < n; i++)
        g_string_append_printf(line, "%s%s", i > 0 ? " " : "",
                               address_format(&places[i], text));
    return g_string_free(line, FALSE);
}

static void each_endpoint_is_looked_for_where_it_can_be(void **state)
{
    static const struct {
        const char *addr, *remote_host;
        bool by_unix;
        const char *places;
    } cases[] = {
        {"", NULL, true, "127.0.0.1:24111 [::1]:24111"},
        {"::", NULL, false, "127.0.0.1:24111 [::1]:24111"},
        {"127.0.0.1", NULL, true, "127.0.0.1:24111"},
        {"10.0.0.5", NULL, false, "10.0.0.5:24111"},
        {"unix:/run/nbd.sock", NULL, true, "unix:/run/nbd.sock"},
        {"unix:/run/nbd.sock", NULL, false, ""}, /* a container's, perhaps */
        {"unix:/run/nbd.sock", "10.0.0.5", false, ""},
        {"", "10.0.0.5", false, "10.0.0.5:24111"},
        {"0.0.0.0", "fe80::1%eth0", false, "[fe80::1%eth0]:24111"},
        {"10.1.0.5", "10.0.0.5", false, "10.1.0.5:24111"},
        {"127.0.0.1", "10.0.0.5", false, ""},
        {"::1", "10.0.0.5", false, ""},
    };

    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *found = places_of(cases[i].addr, cases[i].remote_host,
                                           cases[i].by_unix);

        assert_string_equal(found, cases[i].places);
    }
}

/* ---- The greeting ---- */

struct server {
    char *dir;
    struct address address;
    int listener;
    const void *says;
    size_t length;
};

static int make_server(void **state)
{
    struct server *server = g_new0(struct server, 1);
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    server->dir = g_dir_make_tmp("nbd-greeting-XXXXXX", NULL);
    assert_non_null(server->dir);
    g_snprintf(server->address.unix_path, sizeof(server->address.unix_path), "%s/s",
               server->dir);
    g_strlcpy(address.sun_path, server->address.unix_path, sizeof(address.sun_path));
    server->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_return_code(bind(server->listener, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_return_code(listen(server->listener, 4), 0);
    *state = server;
    return 0;
}

static int free_server(void **state)
{
    struct server *server = *state;

    close(server->listener);
    g_unlink(server->address.unix_path);
    g_rmdir(server->dir);
    g_free(server->dir);
    g_free(server);
    return 0;
}

static void *serve(void *arg)
{
    const struct server *server = arg;
    int fd = accept(server->listener, NULL, NULL);

    if (fd >= 0 && send(fd, server->says, server->length, MSG_NOSIGNAL) < 0)
        perror("send");
    if (fd >= 0)
        close(fd);
    return NULL;
}

static int look(struct server *server, const void *says, size_t length, struct failure *why)
{
    pthread_t thread;
    int r;

    server->says = says;
    server->length = length;
    assert_int_equal(pthread_create(&thread, NULL, serve, server), 0);
    r = greeting_read(&server->address, deadline_in_ms(10000), why);
    pthread_join(thread, NULL);
    return r;
}

static void a_server_that_greets_answers(void **state)
{
    struct nbd_greeting greeting = {htobe64(NBD_MAGIC), htobe64(NBD_IHAVEOPT), 0};
    struct failure why;

    assert_int_equal(look(*state, &greeting, sizeof(greeting), &why), 0);
}

static void another_protocol_is_no_answer(void **state)
{
    struct failure why;

    assert_int_equal(look(*state, "HTTP/1.1 400 Bad Request\r\n", 26, &why), STATUS_FAILED);
    assert_non_null(strstr(why.message, "is no NBD server"));
}

static void a_connection_that_is_closed_at_once_is_no_answer(void **state)
{
    struct failure why;

    assert_int_equal(look(*state, "NBDMAGIC", 8, &why), STATUS_UNREACHABLE);
    assert_non_null(strstr(why.message, "closed the connection"));
}

/* The kernel takes the connection, and nobody ever accepts it: a loop that hangs. */
static void a_server_that_hangs_is_not_waited_for_for_ever(void **state)
{
    struct server *server = *state;
    struct failure why;

    assert_int_equal(greeting_read(&server->address, deadline_in_ms(50), &why),
                     STATUS_NO_ANSWER);
    assert_non_null(strstr(why.message, "did not answer in time"));
}

int main(void)
{
#define WITH_SERVER(test) cmocka_unit_test_setup_teardown(test, make_server, free_server)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_endpoint_is_looked_for_where_it_can_be),
        WITH_SERVER(a_server_that_greets_answers),
        WITH_SERVER(another_protocol_is_no_answer),
        WITH_SERVER(a_connection_that_is_closed_at_once_is_no_answer),
        WITH_SERVER(a_server_that_hangs_is_not_waited_for_for_ever),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
