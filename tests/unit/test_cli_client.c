/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The client's side of the control protocol, against a daemon of a few lines on a Unix socket
 * that answers with prepared bytes; and addresses.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <pthread.h>
#include <rpc/rpc.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "client.h"

/* A daemon that takes one call and sends `answer`, in which the xid is filled in at `xid_at`
 * (behind the record mark). */
struct daemon {
    char *dir, *host;
    int listener;
    pthread_t thread;
    GByteArray *answer;
    size_t xid_at;
    bool is_silent;
};

static void *serve(void *arg)
{
    struct daemon *daemon = arg;
    int fd = accept(daemon->listener, NULL, NULL);
    char call[4096], rest;

    if (fd >= 0 && recv(fd, call, sizeof(call), 0) >= 8 && !daemon->is_silent) {
        if (daemon->answer->len >= daemon->xid_at + 4)
            memcpy(daemon->answer->data + daemon->xid_at, call + 4, 4);
        if (send(fd, daemon->answer->data, daemon->answer->len, MSG_NOSIGNAL) < 0)
            perror("send");
        shutdown(fd, SHUT_WR);
    }
    while (fd >= 0 && recv(fd, &rest, 1, 0) > 0)
        ;
    if (fd >= 0)
        close(fd);
    return NULL;
}

static int make_daemon(void **state)
{
    struct daemon *daemon = g_new0(struct daemon, 1);
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    daemon->dir = g_dir_make_tmp("nbd-cli-test-XXXXXX", NULL);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/control.sock", daemon->dir);
    daemon->host = g_strdup_printf("unix:%s", address.sun_path);
    daemon->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    daemon->answer = g_byte_array_new();
    daemon->xid_at = 4;
    assert_int_equal(bind(daemon->listener, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(daemon->listener, 4), 0);
    *state = daemon;
    return 0;
}

static int free_daemon(void **state)
{
    struct daemon *daemon = *state;

    close(daemon->listener);
    g_unlink(daemon->host + 5);
    g_rmdir(daemon->dir);
    g_byte_array_free(daemon->answer, TRUE);
    g_free(daemon->host);
    g_free(daemon->dir);
    g_free(daemon);
    return 0;
}

static void say_word(struct daemon *daemon, uint32_t word)
{
    word = htonl(word);
    g_byte_array_append(daemon->answer, (guint8 *)&word, sizeof(word));
}

static void say_mark(struct daemon *daemon, bool is_last, uint32_t length)
{
    say_word(daemon, (is_last ? 0x80000000u : 0) | length);
}

/* The header of an accepted, successful reply: 24 bytes. */
static void say_success(struct daemon *daemon)
{
    say_word(daemon, 0); /* xid */
    say_word(daemon, REPLY);
    say_word(daemon, MSG_ACCEPTED);
    say_word(daemon, AUTH_NONE);
    say_word(daemon, 0);
    say_word(daemon, SUCCESS);
}

static void say_text(struct daemon *daemon, const char *text)
{
    say_word(daemon, (uint32_t)strlen(text));
    g_byte_array_append(daemon->answer, (const guint8 *)text, (guint)strlen(text));
    while (daemon->answer->len % 4 != 0)
        g_byte_array_append(daemon->answer, (const guint8 *)"", 1);
}

/* Call LOG_LEVEL, whose answer is the smallest. */
static int call(struct daemon *daemon, int64_t timeout_ms, struct failure *why)
{
    nr_level_args args = {.level = 7};
    struct client *client = NULL;
    nr_void_res res;
    int r;

    assert_int_equal(pthread_create(&daemon->thread, NULL, serve, daemon), 0);
    r = client_open(daemon->host, timeout_ms, &client, why);
    assert_int_equal(r, 0);
    r = client_call(client, NR_LOG_LEVEL, &args, &res, why);
    if (r == 0)
        client_free(NR_LOG_LEVEL, &res);
    client_close(client);
    pthread_join(daemon->thread, NULL);
    return r;
}

static void expect_failure(struct daemon *daemon, enum status status, const char *code,
                           const char *sentence)
{
    struct failure why = {0};
    int r = call(daemon, 2000, &why);

    if (r != (int)status || strcmp(why.code, code) != 0 || strstr(why.message, sentence) == NULL)
        fail_msg("%d %s: %s", r, why.code, why.message);
}

static void success_is_success(void **state)
{
    struct daemon *daemon = *state;
    struct failure why;

    say_mark(daemon, true, 28);
    say_success(daemon);
    say_word(daemon, NR_OK);

    assert_int_equal(call(daemon, 2000, &why), 0);
}

static void fragments_are_joined(void **state)
{
    struct daemon *daemon = *state;
    struct failure why;

    say_mark(daemon, false, 24);
    say_success(daemon);
    say_mark(daemon, false, 4);
    say_word(daemon, NR_OK);
    say_mark(daemon, true, 0);

    assert_int_equal(call(daemon, 2000, &why), 0);
}

static void the_daemons_sentence_is_passed_on(void **state)
{
    struct daemon *daemon = *state;

    say_mark(daemon, true, 24 + 4 + 4 + 4 + 24);
    say_success(daemon);
    say_word(daemon, NR_ENOENT);
    say_word(daemon, 2);
    say_text(daemon, "there is no such export.");

    expect_failure(daemon, STATUS_FAILED, "ENOENT", "there is no such export.");
}

static void a_forbidden_call_is_a_matter_of_permission(void **state)
{
    struct daemon *daemon = *state;

    say_mark(daemon, true, 24 + 4 + 4 + 4 + 4);
    say_success(daemon);
    say_word(daemon, NR_EPERM);
    say_word(daemon, 1);
    say_text(daemon, "no\x1b!");

    expect_failure(daemon, STATUS_PERMISSION, "EPERM", "no !");
}

static void a_stale_answer_is_skipped(void **state)
{
    struct daemon *daemon = *state;
    struct failure why;

    say_mark(daemon, true, 28);
    say_success(daemon);
    say_word(daemon, NR_EPERM);
    say_mark(daemon, true, 28);
    daemon->xid_at = daemon->answer->len;
    say_success(daemon);
    say_word(daemon, NR_OK);

    assert_int_equal(call(daemon, 2000, &why), 0);
}

static void another_version_is_named(void **state)
{
    struct daemon *daemon = *state;

    say_mark(daemon, true, 32);
    say_word(daemon, 0);
    say_word(daemon, REPLY);
    say_word(daemon, MSG_ACCEPTED);
    say_word(daemon, AUTH_NONE);
    say_word(daemon, 0);
    say_word(daemon, PROG_MISMATCH);
    say_word(daemon, 3);
    say_word(daemon, 4);

    expect_failure(daemon, STATUS_UNREACHABLE, "UNREACHABLE", "versions 3 to 4");
}

static void a_huge_record_is_refused_before_it_is_read(void **state)
{
    struct daemon *daemon = *state;

    daemon->xid_at = 1000;
    say_mark(daemon, true, 0x7fffffff);

    expect_failure(daemon, STATUS_UNREACHABLE, "UNREACHABLE", "no record of ONC-RPC");
}

static void endless_empty_fragments_are_refused(void **state)
{
    struct daemon *daemon = *state;

    daemon->xid_at = 1000;
    say_mark(daemon, false, 0);

    expect_failure(daemon, STATUS_UNREACHABLE, "UNREACHABLE", "no record of ONC-RPC");
}

static void an_array_longer_than_its_record_is_refused(void **state)
{
    struct daemon *daemon = *state;

    say_mark(daemon, true, 24 + 12);
    say_success(daemon);
    say_word(daemon, NR_EPERM);
    say_word(daemon, 1);
    say_word(daemon, 0x7ffffff0);

    expect_failure(daemon, STATUS_UNREACHABLE, "UNREACHABLE", "cannot be read");
}

static void another_protocol_is_recognised(void **state)
{
    struct daemon *daemon = *state;

    daemon->xid_at = 1000;
    say_mark(daemon, true, 8);
    g_byte_array_append(daemon->answer, (const guint8 *)"HTTP/1.1", 8);

    expect_failure(daemon, STATUS_UNREACHABLE, "UNREACHABLE", "not in ONC-RPC");
}

static void half_an_answer_is_told(void **state)
{
    struct daemon *daemon = *state;

    say_mark(daemon, true, 28);
    say_word(daemon, 0);

    expect_failure(daemon, STATUS_UNREACHABLE, "UNREACHABLE", "closed the connection");
}

static void a_silent_daemon_is_not_waited_for_for_ever(void **state)
{
    struct daemon *daemon = *state;
    struct failure why;

    daemon->is_silent = true;

    assert_int_equal(call(daemon, 100, &why), STATUS_NO_ANSWER);
    assert_non_null(strstr(why.message, "did not answer in time"));
}

static void an_argument_over_its_limit_is_not_sent(void **state)
{
    g_autofree char *name = g_strnfill(NR_NAME_MAX + 1, 'x');
    nr_name_args args = {.name = name};
    char buffer[4096];
    (void)state;

    assert_int_equal(call_encode(1, NR_EXPORT_GET, &args, buffer, sizeof(buffer)), 0);
    name[NR_NAME_MAX] = '\0';
    assert_int_not_equal(call_encode(1, NR_EXPORT_GET, &args, buffer, sizeof(buffer)), 0);
}

/* Whatever bytes come as an answer to LIST, the richest one. */
static void random_answers_do_no_harm(void **state)
{
    GRand *random = g_rand_new_with_seed(42);
    (void)state;

    for (int i = 0; i < 20000; i++) {
        uint32_t words[128] = {htonl(9), htonl(REPLY), htonl(MSG_ACCEPTED), 0, 0, 0, 0};
        size_t length = 28 + 4 * (size_t)g_rand_int_range(random, 0, 121);
        struct failure why;
        nr_list_res res;
        bool is_other;

        for (size_t j = 7; j < length / 4; j++)
            words[j] = htonl((uint32_t)(g_rand_int_range(random, 0, 4) == 0 ?
                                        g_rand_int(random) :
                                        (uint32_t)g_rand_int_range(random, 0, 5)));
        if (reply_decode((char *)words, length, 9, NR_LIST, &res, &is_other, "x", &why) == 0)
            client_free(NR_LIST, &res);
    }
    g_rand_free(random);
}

static void addresses_are_read_as_people_write_them(void **state)
{
    static const struct {
        const char *text, *again; /* NULL: refused */
    } cases[] = {
        {"host", "host:7"},
        {"host:80", "host:80"},
        {"10.0.0.1", "10.0.0.1:7"},
        {"10.0.0.1:65535", "10.0.0.1:65535"},
        {"[::1]", "[::1]:7"},
        {"[::1]:80", "[::1]:80"},
        {"fe80::1", "[fe80::1]:7"},
        {"unix:/run/x", "unix:/run/x"},
        {"", NULL},
        {":80", NULL},
        {"[]", NULL},
        {"[::1", NULL},
        {"[::1]80", NULL},
        {"host:", NULL},
        {"host:0", NULL},
        {"host:65536", NULL},
        {"host:x", NULL},
        {"unix:", NULL},
    };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct address address;
        struct failure why = {0};
        char text[ADDRESS_MAX];
        int r = address_parse(cases[i].text, 7, &address, &why);

        if ((r == 0) != (cases[i].again != NULL))
            fail_msg("'%s': %d %s", cases[i].text, r, why.message);
        if (r == 0)
            assert_string_equal(address_format(&address, text), cases[i].again);
        else
            assert_int_equal(r, STATUS_USAGE);
    }
}

static void a_path_that_is_too_long_is_refused(void **state)
{
    g_autofree char *path = g_strnfill(300, 'x');
    g_autofree char *host = g_strconcat("unix:", path, NULL);
    struct address address;
    struct failure why;
    (void)state;

    assert_int_equal(address_parse(host, 7, &address, &why), STATUS_USAGE);
    assert_int_equal(address_parse(path, 7, &address, &why), STATUS_USAGE);
}

int main(void)
{
#define WITH_DAEMON(test) cmocka_unit_test_setup_teardown(test, make_daemon, free_daemon)
    const struct CMUnitTest tests[] = {
        WITH_DAEMON(success_is_success),
        WITH_DAEMON(fragments_are_joined),
        WITH_DAEMON(the_daemons_sentence_is_passed_on),
        WITH_DAEMON(a_forbidden_call_is_a_matter_of_permission),
        WITH_DAEMON(a_stale_answer_is_skipped),
        WITH_DAEMON(another_version_is_named),
        WITH_DAEMON(a_huge_record_is_refused_before_it_is_read),
        WITH_DAEMON(endless_empty_fragments_are_refused),
        WITH_DAEMON(an_array_longer_than_its_record_is_refused),
        WITH_DAEMON(another_protocol_is_recognised),
        WITH_DAEMON(half_an_answer_is_told),
        WITH_DAEMON(a_silent_daemon_is_not_waited_for_for_ever),
        cmocka_unit_test(an_argument_over_its_limit_is_not_sent),
        cmocka_unit_test(random_answers_do_no_harm),
        cmocka_unit_test(addresses_are_read_as_people_write_them),
        cmocka_unit_test(a_path_that_is_too_long_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
