/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Listening sockets, on loopback and in a temporary directory only.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "listener.h"
#include "log.h"

struct fixture {
    struct loop *loop;
    struct listener_set *set;
    char *directory, *path;
    GArray *accepted; /* int */
    char *peer;       /* name of the last one */
};

static void on_accept(void *arg, int fd, const struct sockaddr *peer)
{
    struct fixture *f = arg;

    g_array_append_val(f->accepted, fd);
    g_free(f->peer);
    f->peer = listener_peer_name(fd, peer);
}

static int set_up(void **state)
{
    struct fixture *f = g_new0(struct fixture, 1);

    log_set_level(NBD_LOG_ERROR);
    f->loop = loop_new();
    assert_non_null(f->loop);
    f->directory = g_dir_make_tmp("nbd-runner-test-XXXXXX", NULL);
    assert_non_null(f->directory);
    f->path = g_build_filename(f->directory, "socket", NULL);
    f->accepted = g_array_new(FALSE, FALSE, sizeof(int));
    f->set = listener_set_new(f->loop, on_accept, f);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    listener_set_free(f->set);
    loop_free(f->loop);
    for (guint i = 0; i < f->accepted->len; i++)
        close(g_array_index(f->accepted, int, i));
    g_array_free(f->accepted, TRUE);
    unlink(f->path);
    rmdir(f->directory);
    g_free(f->path);
    g_free(f->directory);
    g_free(f->peer);
    g_free(f);
    return 0;
}

static const struct endpoint *endpoint(struct fixture *f, guint i)
{
    assert_true(listener_endpoints(f->set)->len > i);
    return listener_endpoints(f->set)->pdata[i];
}

static int try_tcp(int port)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                                   .sin_addr = { htonl(INADDR_LOOPBACK) } };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    close(fd);
    return -1;
}

static int try_unix(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(address.sun_path, path, sizeof(address.sun_path));
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    close(fd);
    return -1;
}

static void turn(struct fixture *f)
{
    for (int i = 0; i < 20; i++) {
        event_base_loop(loop_base(f->loop), EVLOOP_NONBLOCK);
        g_usleep(500);
    }
}

static void a_port_that_the_kernel_chooses_is_told_and_answers(void **state)
{
    struct fixture *f = *state;
    struct nbd_failure why;
    int fd, on = 0;
    socklen_t length = sizeof(on);

    assert_int_equal(listener_add_tcp(f->set, "127.0.0.1", 0, &why), 0);
    assert_string_equal(endpoint(f, 0)->host, "127.0.0.1");
    assert_true(endpoint(f, 0)->port > 0);
    fd = try_tcp(endpoint(f, 0)->port);
    turn(f);

    assert_int_equal(f->accepted->len, 1);
    assert_true(g_str_has_prefix(f->peer, "127.0.0.1:"));
    fd = (close(fd), g_array_index(f->accepted, int, 0));
    assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, &length), 0);
    assert_int_equal(on, 1);
}

static void without_a_host_it_listens_everywhere(void **state)
{
    struct fixture *f = *state;
    struct nbd_failure why;

    assert_int_equal(listener_add_tcp(f->set, NULL, 0, &why), 0);
    assert_string_equal(endpoint(f, 0)->host, "");
    close(try_tcp(endpoint(f, 0)->port));
    turn(f);

    assert_int_equal(f->accepted->len, 1);
    assert_true(g_str_has_prefix(f->peer, "127.0.0.1:")); /* not "::ffff:127.0.0.1" */
}

static void a_port_that_is_taken_is_named(void **state)
{
    struct fixture *f = *state;
    struct listener_set *other = listener_set_new(f->loop, on_accept, f);
    struct nbd_failure why;

    assert_int_equal(listener_add_tcp(f->set, "127.0.0.1", 0, &why), 0);
    assert_int_equal(listener_add_tcp(other, "127.0.0.1", endpoint(f, 0)->port, &why),
                     -EADDRINUSE);

    assert_non_null(strstr(why.message, "127.0.0.1"));
    assert_non_null(strstr(why.message, "another program has it"));
    assert_int_equal(listener_endpoints(other)->len, 0);
    listener_set_free(other);
}

static void an_address_that_is_not_ours_is_named(void **state)
{
    struct fixture *f = *state;
    struct nbd_failure why;

    assert_true(listener_add_tcp(f->set, "192.0.2.1", 0, &why) < 0);
    assert_non_null(strstr(why.message, "192.0.2.1"));
    assert_true(listener_add_tcp(f->set, "300.1.2.3.4.5", 0, &why) < 0);

    assert_non_null(strstr(why.message, "300.1.2.3.4.5"));
}

static void a_unix_socket_has_its_mode_and_goes_with_the_set(void **state)
{
    struct fixture *f = *state;
    struct nbd_failure why;
    struct stat st;
    int fd;

    assert_int_equal(listener_add_unix(f->set, f->path, 0640, &why), 0);
    assert_int_equal(stat(f->path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0640);
    fd = try_unix(f->path);
    turn(f);
    assert_int_equal(f->accepted->len, 1);
    assert_true(g_str_has_prefix(f->peer, "unix:"));
    assert_int_equal(atoi(f->peer + 5), getpid());
    close(fd);
    listener_set_free(f->set);
    f->set = NULL;

    assert_int_equal(access(f->path, F_OK), -1);
}

static void a_stale_unix_socket_is_taken_over(void **state)
{
    struct fixture *f = *state;
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int stale = socket(AF_UNIX, SOCK_STREAM, 0);
    struct nbd_failure why;

    g_strlcpy(address.sun_path, f->path, sizeof(address.sun_path));
    assert_int_equal(bind(stale, (struct sockaddr *)&address, sizeof(address)), 0);
    close(stale); /* as after a crash: the file is still there */
    assert_int_equal(listener_add_unix(f->set, f->path, 0666, &why), 0);
    close(try_unix(f->path));
    turn(f);

    assert_int_equal(f->accepted->len, 1);
}

static void a_unix_socket_that_answers_is_left_alone(void **state)
{
    struct fixture *f = *state;
    struct listener_set *other = listener_set_new(f->loop, on_accept, f);
    struct nbd_failure why;

    assert_int_equal(listener_add_unix(f->set, f->path, 0666, &why), 0);
    assert_int_equal(listener_add_unix(other, f->path, 0666, &why), -EADDRINUSE);
    assert_non_null(strstr(why.message, "another server answers there"));
    listener_set_free(other);
    close(try_unix(f->path));
    turn(f);

    assert_int_equal(f->accepted->len, 2); /* the other's question, and ours */
}

static void a_file_that_is_no_socket_is_left_alone(void **state)
{
    struct fixture *f = *state;
    struct nbd_failure why;

    assert_true(g_file_set_contents(f->path, "precious", -1, NULL));
    assert_true(listener_add_unix(f->set, f->path, 0666, &why) < 0);

    g_autofree char *text = NULL;
    assert_true(g_file_get_contents(f->path, &text, NULL, NULL));
    assert_string_equal(text, "precious");
}

static void a_socket_path_that_is_too_long_is_refused(void **state)
{
    struct fixture *f = *state;
    g_autofree char *path = g_strnfill(108, 'p');
    struct nbd_failure why;

    assert_int_equal(listener_add_unix(f->set, path, 0666, &why), -ENAMETOOLONG);
    assert_non_null(strstr(why.message, "107"));
}

static void many_connections_at_once_are_all_accepted(void **state)
{
    enum { MANY = 200 };
    struct fixture *f = *state;
    struct nbd_failure why;
    int fds[MANY];

    assert_int_equal(listener_add_unix(f->set, f->path, 0666, &why), 0);
    for (int i = 0; i < MANY; i++)
        assert_true((fds[i] = try_unix(f->path)) >= 0);
    turn(f);

    assert_int_equal(f->accepted->len, MANY);
    for (int i = 0; i < MANY; i++)
        close(fds[i]);
}

/* Is the other end closed? */
static bool is_closed(int fd)
{
    char byte;

    return recv(fd, &byte, 1, MSG_DONTWAIT) == 0;
}

static void when_descriptors_run_out_a_peer_is_turned_away_at_once(void **state)
{
    struct fixture *f = *state;
    struct rlimit before, tight;
    struct nbd_failure why;
    int peer;

    assert_int_equal(listener_add_unix(f->set, f->path, 0666, &why), 0);
    peer = try_unix(f->path);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    tight = before;
    tight.rlim_cur = (rlim_t)peer + 1; /* all below are in use, but perhaps a few gaps */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    GArray *filler = g_array_new(FALSE, FALSE, sizeof(int));
    for (int fd; (fd = dup(peer)) >= 0;)
        g_array_append_val(filler, fd);
    turn(f);
    for (guint i = 0; i < filler->len; i++)
        close(g_array_index(filler, int, i));
    g_array_free(filler, TRUE);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);

    assert_int_equal(f->accepted->len, 0);
    assert_true(is_closed(peer));
    close(peer);
    peer = try_unix(f->path);
    turn(f);
    assert_int_equal(f->accepted->len, 1);
    close(peer);
}

int main(void)
{
#define A_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        A_TEST(a_port_that_the_kernel_chooses_is_told_and_answers),
        A_TEST(without_a_host_it_listens_everywhere),
        A_TEST(a_port_that_is_taken_is_named),
        A_TEST(an_address_that_is_not_ours_is_named),
        A_TEST(a_unix_socket_has_its_mode_and_goes_with_the_set),
        A_TEST(a_stale_unix_socket_is_taken_over),
        A_TEST(a_unix_socket_that_answers_is_left_alone),
        A_TEST(a_file_that_is_no_socket_is_left_alone),
        A_TEST(a_socket_path_that_is_too_long_is_refused),
        A_TEST(many_connections_at_once_are_all_accepted),
        A_TEST(when_descriptors_run_out_a_peer_is_turned_away_at_once),
    };

    return cmocka_run_group_tests_name("listener", tests, NULL, NULL);
}
