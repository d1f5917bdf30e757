/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What the service manager is told, and what it hands over: with a socket of our own in its
 * place, so that no systemd is needed.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "activation.h"
#include "log.h"
#include "notify.h"

/* Where the manager puts the sockets. */
#define FIRST_FD 3
#define MOST_FDS 4

struct fixture {
    struct loop *loop;
    struct listener_set *set;
    char *directory, *manager_path;
    int manager;
    unsigned accepted;
    char message[512];
};

static int unix_socket(const char *path, int type)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    g_strlcpy(address.sun_path, path, sizeof(address.sun_path));
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void on_accept(void *arg, int fd, const struct sockaddr *peer)
{
    struct fixture *f = arg;

    (void)peer;
    f->accepted++;
    close(fd);
}

/* Nothing that a test opens may get one of the numbers that hand_over() uses. */
static void occupy_numbers(void)
{
    int fd;

    do
        fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, FIRST_FD);
    while (fd >= 0 && fd < FIRST_FD + MOST_FDS);
    close(fd);
}

static int set_up(void **state)
{
    struct fixture *f = g_new0(struct fixture, 1);

    occupy_numbers();
    f->loop = loop_new();
    f->set = listener_set_new(f->loop, on_accept, f);
    f->directory = g_dir_make_tmp("nbd-runner-test-XXXXXX", NULL);
    f->manager_path = g_build_filename(f->directory, "notify", NULL);
    f->manager = unix_socket(f->manager_path, SOCK_DGRAM);
    g_setenv("NOTIFY_SOCKET", f->manager_path, TRUE);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    static const char *const variables[] = { "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID",
                                             "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES" };

    for (size_t i = 0; i < G_N_ELEMENTS(variables); i++)
        g_unsetenv(variables[i]);
    listener_set_free(f->set);
    loop_free(f->loop);
    close(f->manager);
    unlink(f->manager_path);
    rmdir(f->directory);
    g_free(f->manager_path);
    g_free(f->directory);
    g_free(f);
    return 0;
}

/* The next message, "" when there is none. */
static const char *next_message(struct fixture *f)
{
    ssize_t n = recv(f->manager, f->message, sizeof(f->message) - 1, 0);

    f->message[n > 0 ? n : 0] = '\0';
    return f->message;
}

static void ready_comes_with_a_status_in_one_line(void **state)
{
    struct fixture *f = *state;

    notify_ready("serving %d exports\nMAINPID=1", 3);

    assert_string_equal(next_message(f), "READY=1\nSTATUS=serving 3 exports MAINPID=1");
    assert_string_equal(next_message(f), "");
}

static void a_reload_says_when_it_began(void **state)
{
    struct fixture *f = *state;
    struct timespec now;
    const char *at;

    notify_reloading();

    assert_true(g_str_has_prefix(next_message(f), "RELOADING=1\n"));
    at = strstr(f->message, "\nMONOTONIC_USEC=");
    assert_non_null(at);
    clock_gettime(CLOCK_MONOTONIC, &now);
    assert_in_range(strtoll(strchr(at, '=') + 1, NULL, 10), (int64_t)now.tv_sec * 1000000 - 60000000,
                    (int64_t)now.tv_sec * 1000000 + 1000000);
}

static void the_end_is_told_and_asks_for_more_time(void **state)
{
    struct fixture *f = *state;

    notify_stopping("stopping");
    notify_extend(15, "%u connections", 2u);

    assert_string_equal(next_message(f), "STOPPING=1\nSTATUS=stopping");
    assert_string_equal(next_message(f), "EXTEND_TIMEOUT_USEC=15000000\nSTATUS=2 connections");
}

static void without_a_manager_nothing_happens(void **state)
{
    struct fixture *f = *state;

    g_unsetenv("NOTIFY_SOCKET");
    notify_ready("nobody reads this");
    g_setenv("NOTIFY_SOCKET", "/nonexistent/socket", TRUE);
    notify_ready("nor this");

    assert_string_equal(next_message(f), "");
    assert_null(watchdog_start(f->loop));
}

static void on_time_over(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    loop_stop(arg);
}

static void run_for_ms(struct fixture *f, int ms)
{
    struct event *over = evtimer_new(loop_base(f->loop), on_time_over, f->loop);
    struct timeval time = { .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 };

    evtimer_add(over, &time);
    loop_run(f->loop);
    event_free(over);
}

static unsigned count_watchdog_messages(struct fixture *f)
{
    unsigned n = 0;

    while (next_message(f)[0] != '\0') {
        assert_string_equal(f->message, "WATCHDOG=1");
        n++;
    }
    return n;
}

static void the_watchdog_is_fed_by_the_loop_and_by_nothing_else(void **state)
{
    struct fixture *f = *state;
    struct watchdog *watchdog;

    g_setenv("WATCHDOG_USEC", "100000", TRUE);
    watchdog = watchdog_start(f->loop);
    assert_non_null(watchdog);
    assert_int_equal(count_watchdog_messages(f), 1);
    run_for_ms(f, 500);
    assert_in_range(count_watchdog_messages(f), 2, 12); /* 10 on an idle machine */
    g_usleep(300000); /* a loop that is stuck */

    assert_int_equal(count_watchdog_messages(f), 0);
    watchdog_stop(watchdog);
    run_for_ms(f, 200);
    assert_int_equal(count_watchdog_messages(f), 0);
}

static void a_watchdog_that_is_meant_for_another_process_is_not_fed(void **state)
{
    struct fixture *f = *state;

    g_setenv("WATCHDOG_USEC", "100000", TRUE);
    g_setenv("WATCHDOG_PID", "1", TRUE);

    assert_null(watchdog_start(f->loop));
}

/* ---- What is handed over ---- */

static void hand_over(int fd, int index)
{
    if (fd == FIRST_FD + index)
        return;
    dup2(fd, FIRST_FD + index);
    close(fd);
}

static void announce(int n, const char *names)
{
    g_autofree char *count = g_strdup_printf("%d", n);
    g_autofree char *pid = g_strdup_printf("%d", (int)getpid());

    g_setenv("LISTEN_FDS", count, TRUE);
    g_setenv("LISTEN_PID", pid, TRUE);
    g_setenv("LISTEN_FDNAMES", names, TRUE);
}

static int tcp_socket(bool listening)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_addr = { htonl(INADDR_LOOPBACK) } };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    if (listening)
        assert_int_equal(listen(fd, 5), 0);
    return fd;
}

static void connect_to(const struct sockaddr *address, socklen_t length)
{
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_int_equal(connect(fd, address, length), 0);
    close(fd);
}

static void a_tcp_socket_that_is_handed_over_accepts(void **state)
{
    struct fixture *f = *state;
    struct sockaddr_storage address;
    socklen_t length = sizeof(address);
    struct activation *activation;
    struct nbd_failure why;
    unsigned n = 0;

    hand_over(tcp_socket(true), 0);
    announce(1, "nbd");
    getsockname(FIRST_FD, (struct sockaddr *)&address, &length);
    assert_int_equal(activation_take(&activation, &why), 0);
    assert_int_equal(activation_adopt(activation, "control", f->set, &n, &why), 0);
    assert_int_equal(n, 0);
    assert_int_equal(activation_adopt(activation, "nbd", f->set, &n, &why), 0);
    assert_int_equal(n, 1);
    activation_free(activation);
    connect_to((struct sockaddr *)&address, length);
    run_for_ms(f, 50);

    assert_int_equal(f->accepted, 1);
    const struct endpoint *endpoint = listener_endpoints(f->set)->pdata[0];
    assert_string_equal(endpoint->host, "127.0.0.1");
    assert_int_equal(endpoint->port, ntohs(((struct sockaddr_in *)&address)->sin_port));
    assert_true(fcntl(FIRST_FD, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(FIRST_FD, F_GETFD) & FD_CLOEXEC);
}

static void the_file_of_a_unix_socket_is_left_to_its_maker(void **state)
{
    struct fixture *f = *state;
    g_autofree char *path = g_build_filename(f->directory, "unix", NULL);
    g_autofree char *shown = g_strconcat("unix:", path, NULL);
    int fd = unix_socket(path, SOCK_STREAM);
    struct activation *activation;
    struct nbd_failure why;
    unsigned n = 0;

    assert_int_equal(listen(fd, 5), 0);
    hand_over(fd, 0);
    announce(1, "control-unix");
    assert_int_equal(activation_take(&activation, &why), 0);
    assert_int_equal(activation_adopt(activation, "control-unix", f->set, &n, &why), 0);
    activation_free(activation);
    assert_string_equal(((struct endpoint *)listener_endpoints(f->set)->pdata[0])->host, shown);
    listener_set_free(f->set);
    f->set = NULL;

    assert_int_equal(access(path, F_OK), 0);
    unlink(path);
}

static void all_sockets_of_one_name_are_adopted_once(void **state)
{
    struct fixture *f = *state;
    struct activation *activation;
    struct nbd_failure why;
    unsigned n = 0;

    for (int i = 0; i < 3; i++)
        hand_over(tcp_socket(true), i);
    announce(3, "nbd:control:nbd");
    assert_int_equal(activation_take(&activation, &why), 0);
    assert_int_equal(activation_adopt(activation, "nbd", f->set, &n, &why), 0);
    assert_int_equal(n, 2);
    assert_int_equal(activation_adopt(activation, "nbd", f->set, &n, &why), 0);
    assert_int_equal(n, 0);
    activation_free(activation);

    assert_int_equal(fcntl(FIRST_FD + 1, F_GETFD), -1); /* nobody wanted it: closed */
    assert_int_equal(listener_endpoints(f->set)->len, 2);
}

static void nothing_handed_over_is_no_error(void **state)
{
    struct fixture *f = *state;
    struct activation *activation;
    struct nbd_failure why;
    unsigned n = 7;

    assert_int_equal(activation_take(&activation, &why), 0);
    assert_int_equal(activation_adopt(activation, "nbd", f->set, &n, &why), 0);
    activation_free(activation);

    assert_int_equal(n, 0);
}

static void refuses(const char *names, const char *text)
{
    struct activation *activation;
    struct nbd_failure why;

    announce(1, names);
    assert_int_equal(activation_take(&activation, &why), -EINVAL);
    assert_non_null(strstr(why.message, text));
    assert_int_equal(fcntl(FIRST_FD, F_GETFD), -1); /* closed */
}

static void a_name_that_nobody_knows_is_refused(void **state)
{
    (void)state;
    hand_over(tcp_socket(true), 0);

    refuses("metrics", "\"metrics\"");
}

static void a_socket_of_another_kind_than_its_name_is_refused(void **state)
{
    (void)state;
    hand_over(tcp_socket(true), 0);
    refuses("nbd-unix", "nbd-unix is no listening Unix socket");
    hand_over(tcp_socket(false), 0);
    refuses("nbd", "nbd is no listening TCP socket");
    hand_over(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), 0);
    refuses("control", "control is no listening TCP socket");
}

static void a_file_is_no_socket(void **state)
{
    (void)state;
    hand_over(open("/dev/null", O_RDONLY | O_CLOEXEC), 0);

    refuses("nbd", "nbd is no listening TCP socket");
}

int main(void)
{
#define A_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        A_TEST(ready_comes_with_a_status_in_one_line),
        A_TEST(a_reload_says_when_it_began),
        A_TEST(the_end_is_told_and_asks_for_more_time),
        A_TEST(without_a_manager_nothing_happens),
        A_TEST(the_watchdog_is_fed_by_the_loop_and_by_nothing_else),
        A_TEST(a_watchdog_that_is_meant_for_another_process_is_not_fed),
        A_TEST(a_tcp_socket_that_is_handed_over_accepts),
        A_TEST(the_file_of_a_unix_socket_is_left_to_its_maker),
        A_TEST(all_sockets_of_one_name_are_adopted_once),
        A_TEST(nothing_handed_over_is_no_error),
        A_TEST(a_name_that_nobody_knows_is_refused),
        A_TEST(a_socket_of_another_kind_than_its_name_is_refused),
        A_TEST(a_file_is_no_socket),
    };

    log_set_level(NBD_LOG_ERROR);
    return cmocka_run_group_tests_name("notify", tests, NULL, NULL);
}
