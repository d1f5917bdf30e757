/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The command line and the configuration file.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config.h"
#include "log.h"

struct fixture {
    char *dir;
    char *file; /* for -C; written by write_file() */
    struct config *config;
    enum config_verdict verdict;
    struct nbd_failure why;
};

static GString *printed;

static void on_print(const char *text)
{
    g_string_append(printed, text);
}

static int set_up(void **state)
{
    struct fixture *fixture = g_new0(struct fixture, 1);

    fixture->dir = g_dir_make_tmp("nr-config-XXXXXX", NULL);
    fixture->file = g_build_filename(fixture->dir, "test.conf", NULL);
    log_set_target("file:/dev/null");
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;

    config_free(fixture->config);
    g_unlink(fixture->file);
    g_rmdir(fixture->dir);
    g_free(fixture->file);
    g_free(fixture->dir);
    g_free(fixture);
    return 0;
}

/* Words are separated by one space; an empty one is an empty word. */
static int load(struct fixture *fixture, const char *line)
{
    char **words = g_strsplit(line, " ", -1);
    int r;

    config_free(fixture->config);
    fixture->config = config_new();
    fixture->why = (struct nbd_failure){ 0 };
    r = config_load(fixture->config, (int)g_strv_length(words), words, &fixture->verdict,
                    &fixture->why);
    g_strfreev(words);
    return r;
}

static int load_in(struct fixture *fixture, const char *format, const char *argument)
{
    char *line = g_strdup_printf(format, argument);
    int r = load(fixture, line);

    g_free(line);
    return r;
}

static int load_text(struct fixture *fixture, const char *text)
{
    assert_true(g_file_set_contents(fixture->file, text, -1, NULL));
    return load_in(fixture, "nbd-runner -C %s", fixture->file);
}

static void assert_says(const struct fixture *fixture, const char *part)
{
    if (strstr(fixture->why.message, part) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", fixture->why.message, part);
}

static void without_arguments_the_defaults_hold(void **state)
{
    struct fixture *fixture = *state;

    assert_int_equal(load_text(fixture, ""), 0);

    assert_int_equal(fixture->verdict, CONFIG_RUN);
    assert_int_equal(fixture->config->threads, 1);
    assert_int_equal(fixture->config->rpc_port, 24110);
    assert_int_equal(fixture->config->nbd_port, 24111);
    assert_int_equal(g_strv_length(fixture->config->rpc_hosts), 0);
    assert_string_equal(fixture->config->gluster_host, "localhost");
    assert_int_equal(fixture->config->max_inflight_bytes, 256 << 20);
    assert_string_equal(fixture->config->log_target, "auto");
}

static void the_documented_words_come_in_any_order(void **state)
{
    static const char *const lines[] = {
        "nbd-runner -C /dev/null threads 4 rpchost 192.0.2.1 iohost 192.0.2.2 ghost g1",
        "nbd-runner ghost g1 iohost 192.0.2.2 -C /dev/null rpchost 192.0.2.1 threads 4",
        "nbd-runner ihost 192.0.2.2 rhost 192.0.2.1 threads 4 ghost g1 --config=/dev/null",
        "nbd-runner -C /dev/null -t 4 -r 192.0.2.1 -i 192.0.2.2 -G g1",
        "nbd-runner -C/dev/null -t4 -r192.0.2.1 -i192.0.2.2 -Gg1",
        "nbd-runner -C /dev/null --threads=4 --rpchost=192.0.2.1 --ihost 192.0.2.2 --ghost g1",
    };
    struct fixture *fixture = *state;

    for (size_t i = 0; i < G_N_ELEMENTS(lines); i++) {
        assert_int_equal(load(fixture, lines[i]), 0);

        assert_int_equal(fixture->config->threads, 4);
        assert_string_equal(fixture->config->rpc_hosts[0], "192.0.2.1");
        assert_null(fixture->config->rpc_hosts[1]);
        assert_string_equal(fixture->config->nbd_hosts[0], "192.0.2.2");
        assert_string_equal(fixture->config->gluster_host, "g1");
    }
}

static const struct { const char *spelling, *value; } options[] = {
    { "threads", "2" }, { "-t", "2" }, { "--threads", "2" },
    { "rpchost", "h" }, { "rhost", "h" }, { "-r", "h" }, { "--rpchost", "h" },
    { "--rhost", "h" }, { "iohost", "h" }, { "ihost", "h" }, { "-i", "h" },
    { "--iohost", "h" }, { "--ihost", "h" }, { "ghost", "h" }, { "-G", "h" },
    { "--ghost", "h" }, { "--rpcport", "1" }, { "--ioport", "1" }, { "-C", "/dev/null" },
    { "--config", "/dev/null" }, { "--conf-dir", "/x" }, { "--state", "/x" },
    { "--pidfile", "/x" }, { "--lockfile", "/x" }, { "--handler-dir", "/x" },
    { "--rpc-socket", "/x" }, { "--nbd-socket", "/x" }, { "--file-root", "/x" },
    { "--rpc-allow", "::1" }, { "--log-level", "info" }, { "--log-target", "stderr" },
    { "--log-target", "journal" }, { "--metrics", "localhost:0" }, { "--metrics", "[::1]:9" },
    { "--metrics", ":9111" }, { "-u", "u" }, { "--user", "u" }, { "-g", "g" }, { "--group", "g" },
    { "--foreground", NULL }, { "--check-config", NULL },
};

static void each_option_takes_as_many_values_as_documented(void **state)
{
    struct fixture *fixture = *state;

    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        const char *value = options[i].value != NULL ? options[i].value : "";
        const char *gap = options[i].value != NULL ? " " : "";
        char *line = g_strdup_printf("nbd-runner --config /dev/null %s%s%s",
                                     options[i].spelling, gap, value);

        assert_int_equal(load(fixture, line), 0);
        assert_int_equal(load_in(fixture, "%s surplus", line), -EINVAL);
        assert_says(fixture, "unknown word \"surplus\"");
        g_free(line);
    }
}

static void a_forgotten_value_is_named(void **state)
{
    struct fixture *fixture = *state;

    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        if (options[i].value == NULL)
            continue;
        assert_int_equal(load_in(fixture, "nbd-runner %s", options[i].spelling), -EINVAL);
        assert_says(fixture, "needs a value");
        assert_says(fixture, options[i].spelling);
        assert_int_equal(load_in(fixture, "nbd-runner %s --foreground", options[i].spelling),
                         -EINVAL);
        assert_says(fixture, "but '--foreground' follows");
    }
    assert_int_equal(load(fixture, "nbd-runner rpchost ghost g1"), -EINVAL);
    assert_says(fixture, "rpchost needs a value: rpchost HOST, but 'ghost' follows");
    assert_int_equal(load(fixture, "nbd-runner --check-config=yes"), -EINVAL);
    assert_says(fixture, "--check-config takes no value");
}

static void an_unknown_word_is_named_with_the_nearest(void **state)
{
    static const struct { const char *line, *says; } cases[] = {
        { "nbd-runner thread 4", "unknown word \"thread\": did you mean 'threads'" },
        { "nbd-runner rpchots h", "did you mean 'rpchost'" },
        { "nbd-runner --stat=/x", "unknown option \"--stat\": did you mean '--state'" },
        { "nbd-runner --pid-file /x", "did you mean '--pidfile'" },
        { "nbd-runner -x", "unknown option \"-x\"" },
        { "nbd-runner -", "unknown option \"-\"" },
        { "nbd-runner ", "unknown word \"\"" },
    };
    struct fixture *fixture = *state;

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        assert_int_equal(load(fixture, cases[i].line), -EINVAL);
        assert_says(fixture, cases[i].says);
    }
}

static void values_are_checked(void **state)
{
    static const struct { const char *line, *says; } cases[] = {
        { "nbd-runner threads many", "threads: \"many\" is not a whole number" },
        { "nbd-runner threads 4x", "is not a whole number" },
        { "nbd-runner threads ", "is not a whole number" },
        { "nbd-runner --rpcport 65536", "--rpcport: 65536 is out of range, give 0 to 65535" },
        { "nbd-runner --ioport=-1", "--ioport: -1 is out of range" },
        { "nbd-runner --ioport 99999999999999999999", "is out of range" },
        { "nbd-runner rpchost ", "is not a host name" },
        { "nbd-runner rpchost a,b", "is not a host name" },
        { "nbd-runner ghost [::1", "is not a host name" },
        { "nbd-runner --rpc-allow 10.0.0.0/33", "10.0.0.0/33" },
        { "nbd-runner --log-level loud", "is no log level" },
        { "nbd-runner --log-target printer", "is no log target" },
        { "nbd-runner --log-target file:", "is no log target" },
        { "nbd-runner --log-target stderr:x", "is no log target" },
        { "nbd-runner --metrics localhost", "is not HOST:PORT" },
        { "nbd-runner --metrics localhost:65536", "is not HOST:PORT" },
        { "nbd-runner --metrics ::1:9111", "is not HOST:PORT" },
        { "nbd-runner --metrics a,b:9111", "is not HOST:PORT" },
        { "nbd-runner --state=", "a path is needed" },
        { "nbd-runner --user=", "a name or number is needed" },
    };
    struct fixture *fixture = *state;

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        char *line = g_strconcat("nbd-runner -C /dev/null", strchr(cases[i].line, ' '), NULL);

        assert_int_equal(load(fixture, line), -EINVAL);
        assert_int_equal(fixture->why.code, EINVAL);
        assert_says(fixture, cases[i].says);
        g_free(line);
    }
}

static void threads_out_of_range_are_clamped(void **state)
{
    static const struct { const char *given; unsigned used; } cases[] = {
        { "0", 1 }, { "-3", 1 }, { "1", 1 }, { "16", 16 }, { "17", 16 },
        { "99999999999999999999", 16 }, { "-99999999999999999999", 1 },
    };
    struct fixture *fixture = *state;

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        assert_int_equal(load_in(fixture, "nbd-runner -C /dev/null threads %s", cases[i].given),
                         0);
        assert_int_equal(fixture->config->threads, cases[i].used);
    }
}

static void hosts_and_roots_are_lists(void **state)
{
    struct fixture *fixture = *state;

    assert_int_equal(load(fixture, "nbd-runner -C /dev/null rpchost ::1 rhost 127.0.0.1 -r "
                          "[fe80::1%eth0] --file-root /a --file-root b/../c"), 0);

    assert_int_equal(g_strv_length(fixture->config->rpc_hosts), 3);
    assert_string_equal(fixture->config->rpc_hosts[2], "fe80::1%eth0");
    assert_int_equal(g_strv_length(fixture->config->file_roots), 2);
    assert_string_equal(fixture->config->file_roots[0], "/a");
    assert_true(g_path_is_absolute(fixture->config->file_roots[1]));
    assert_true(g_str_has_suffix(fixture->config->file_roots[1], "/c"));
}

static void an_empty_path_switches_sockets_and_files_off(void **state)
{
    struct fixture *fixture = *state;

    assert_int_equal(load(fixture, "nbd-runner -C /dev/null --rpc-socket= --nbd-socket  "
                          "--pidfile= --lockfile="), 0);

    assert_string_equal(fixture->config->rpc_socket, "");
    assert_string_equal(fixture->config->nbd_socket, "");
    assert_string_equal(fixture->config->pid_file, "");
    assert_string_equal(fixture->config->lock_file, "");
}

static void help_and_version_are_printed(void **state)
{
    static const char *const help[] = { "nbd-runner help", "nbd-runner -h",
                                        "nbd-runner threads 3 --help" };
    static const char *const version[] = { "nbd-runner version", "nbd-runner -v",
                                           "nbd-runner --version" };
    struct fixture *fixture = *state;
    GPrintFunc before = g_set_print_handler(on_print);

    for (size_t i = 0; i < G_N_ELEMENTS(help); i++) {
        printed = g_string_new(NULL);
        assert_int_equal(load(fixture, help[i]), 0);
        assert_int_equal(fixture->verdict, CONFIG_EXIT_OK);
        for (size_t j = 0; j < G_N_ELEMENTS(options); j++)
            assert_non_null(strstr(printed->str, options[j].spelling));
        g_string_free(printed, TRUE);

        printed = g_string_new(NULL);
        assert_int_equal(load(fixture, version[i]), 0);
        assert_int_equal(fixture->verdict, CONFIG_EXIT_OK);
        assert_non_null(strstr(printed->str, "nbd-runner 1."));
        g_string_free(printed, TRUE);
    }
    g_set_print_handler(before);
}

/* ---- The file ---- */

static void the_file_sets_what_the_command_line_leaves(void **state)
{
    struct fixture *fixture = *state;

    assert_int_equal(load_text(fixture,
                               "# comment\r\n"
                               "[generic]\r\n"
                               "threads = 3\r\n"
                               "rhost = 192.0.2.1, ::1;h3\r\n"
                               "ghost = g\n"
                               "  rpc_allow = 10.0.0.0/8 ::1,192.0.2.7\n"
                               "max_inflight_bytes = 128MiB\n"
                               "file_roots = /a;/b c\n"
                               "state_file = state/save.json\n"
                               "log_dir = /var/log/x\n"
                               "log_level = debug\n"
                               "negotiation_timeout = 7\n"
                               "drain_timeout = 0\n"
                               "rpc_max_clients = 9\n"
                               "max_connections = 10\n"
                               "max_export_connections = 5\n"
                               "nbd_allow = 10.0.0.0/8, ::1\n"
                               "rpc_socket =\n"), 0);

    assert_int_equal(fixture->config->threads, 3);
    assert_int_equal(g_strv_length(fixture->config->rpc_hosts), 3);
    assert_string_equal(fixture->config->rpc_hosts[2], "h3");
    assert_int_equal(g_strv_length(fixture->config->rpc_allow), 3);
    assert_int_equal(fixture->config->max_inflight_bytes, 128 << 20);
    assert_int_equal(g_strv_length(fixture->config->nbd_allow), 2);
    assert_int_equal(fixture->config->max_export_connections, 5);
    assert_string_equal(fixture->config->file_roots[1], "/b c");
    assert_true(g_str_has_prefix(fixture->config->state_file, fixture->dir));
    assert_true(g_str_has_suffix(fixture->config->state_file, "/state/save.json"));
    assert_string_equal(fixture->config->log_target, "file:/var/log/x/nbd-runner.log");
    assert_int_equal(fixture->config->log_level, NBD_LOG_DEBUG);
    assert_int_equal(fixture->config->negotiation_timeout_s, 7);
    assert_int_equal(fixture->config->drain_timeout_s, 0);
    assert_string_equal(fixture->config->rpc_socket, "");
}

static void the_command_line_wins_over_the_file(void **state)
{
    struct fixture *fixture = *state;

    assert_true(g_file_set_contents(fixture->file, "[generic]\nthreads=3\nrpchost=a b\n"
                                    "iohost=c\n", -1, NULL));
    assert_int_equal(load_in(fixture, "nbd-runner rpchost x threads 5 -C %s", fixture->file), 0);

    assert_int_equal(fixture->config->threads, 5);
    assert_int_equal(g_strv_length(fixture->config->rpc_hosts), 1);
    assert_string_equal(fixture->config->rpc_hosts[0], "x");
    assert_string_equal(fixture->config->nbd_hosts[0], "c");
}

static void a_bad_file_is_refused_with_line_and_key(void **state)
{
    static const struct { const char *text, *says; } cases[] = {
        { "[generic]\n\nthread = 1\n", "line 3: unknown key 'thread': did you mean 'threads'" },
        { "[generic]\nthreads=1\n#\nthreads=2\n",
          "line 4: 'threads' sets again what 'threads' in line 2 has set" },
        { "[generic]\nrhost=a\nrpchost=b\n", "'rpchost' sets again what 'rhost' in line 2" },
        { "[generic]\nlog_dir=/x\nlog_target=stderr\n", "'log_target' sets again" },
        { "[generic]\nghost=a\n[generic]\n", "line 3: section [generic] is there already, in line 1" },
        { "[generic]\ncertfile=/x\n", "line 2: certfile: TLS is not supported" },
        { "[generic]\nforce_tls=true\n", "line 2: force_tls: TLS is not supported" },
        { "[generic]\noldstyle=1\n", "line 2: oldstyle: oldstyle negotiation is not" },
        { "[generic]\nallowlist=maybe\n", "line 2: allowlist: \"maybe\" is neither" },
        { "threads=1\n[generic]\n", "line 1: a key stands before the first section" },
        { "[generic]\nthreads\n", "line 2: 'threads' is neither" },
        { "[generic]\n=1\n", "line 2: '=1' is neither" },
        { "[generic\n", "line 1: '[generic' is not a section header" },
        { "[gen[eric]\n", "is not a section header" },
        { "[generic]\nthreads=x\n", "line 2: threads: \"x\" is not a whole number" },
        { "[generic]\nrpcport=70000\n", "line 2: rpcport: 70000 is out of range" },
        { "[generic]\nrpc_allow=10.0.0.0/8,zebra\n", "zebra" },
        { "[generic]\nmax_inflight_bytes=1K\n", "out of range" },
        { "[generic]\nmax_inflight_bytes=12Q\n", "is not a size" },
        { "[generic]\nmax_inflight_bytes=M\n", "is not a size" },
        { "[generic]\nnegotiation_timeout=0\n", "out of range, give 1 to 3600" },
        { "[generic]\nrpc_max_clients=0\n", "out of range" },
        { "\xef\xbb\xbf[generic]\n", "byte-order mark" },
        { "[generic]\nghost=\xff\n", "is not UTF-8" },
        { "[generic]\nghost=a\\q\n", "line 2: ghost" },
    };
    struct fixture *fixture = *state;

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        assert_int_equal(load_text(fixture, cases[i].text), -EBADMSG);
        assert_int_equal(fixture->why.code, EBADMSG);
        assert_says(fixture, cases[i].says);
        assert_says(fixture, fixture->file);
    }
}

static void sizes_have_units(void **state)
{
    static const struct { const char *text; uint64_t bytes; } cases[] = {
        { "67108864", 64 << 20 }, { "65536K", 64 << 20 }, { "64m", 64 << 20 },
        { "1G", 1 << 30 }, { "2GiB", UINT64_C(2) << 30 }, { "1t", UINT64_C(1) << 40 },
        { "99999999T", INT64_MAX },
    };
    struct fixture *fixture = *state;

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        char *text = g_strconcat("[generic]\nmax_inflight_bytes=", cases[i].text, "\n", NULL);

        assert_int_equal(load_text(fixture, text), 0);
        assert_true(fixture->config->max_inflight_bytes == cases[i].bytes);
        g_free(text);
    }
}

static void a_named_file_must_be_readable(void **state)
{
    struct fixture *fixture = *state;

    assert_int_equal(load(fixture, "nbd-runner -C /nonexistent/x.conf"), -ENOENT);
    assert_says(fixture, "cannot read /nonexistent/x.conf");
    assert_int_equal(load(fixture, "nbd-runner -C /"), -EISDIR);
    assert_int_equal(load(fixture, "nbd-runner -C /dev/zero"), -EFBIG);
}

/* ---- --dir ---- */

static void a_directory_holds_a_whole_instance(void **state)
{
    struct fixture *fixture = *state;
    char *dir = g_build_filename(fixture->dir, "inst", NULL);
    char *expected = g_build_filename(dir, "control.sock", NULL);
    struct stat status;

    assert_int_equal(load_in(fixture, "nbd-runner --dir %s", dir), 0);

    assert_string_equal(fixture->config->dir, dir);
    assert_string_equal(fixture->config->rpc_socket, expected);
    assert_true(g_str_has_suffix(fixture->config->state_file, "/inst/saveconfig.json"));
    assert_true(g_str_has_suffix(fixture->config->file_roots[0], "/inst/images"));
    assert_true(g_str_has_suffix(fixture->config->pid_file, "/inst/nbd-runner.pid"));
    assert_int_equal(fixture->config->rpc_port, 0);
    assert_int_equal(fixture->config->nbd_port, 0);
    assert_string_equal(fixture->config->rpc_hosts[0], "127.0.0.1");
    assert_int_equal(stat(dir, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0700);
    assert_int_equal(rmdir(dir), 0); /* nothing is made in it */
    g_free(expected);
    g_free(dir);
}

static void a_directory_is_above_defaults_and_below_the_file(void **state)
{
    struct fixture *fixture = *state;
    char *conf = g_build_filename(fixture->dir, "nbd-runner.conf", NULL);

    assert_true(g_file_set_contents(conf, "[generic]\nrpchost=::1\nioport=4000\nthreads=2\n",
                                    -1, NULL));
    assert_int_equal(load_in(fixture, "nbd-runner threads 3 --dir %s --rpcport 5000",
                             fixture->dir), 0);

    assert_int_equal(g_strv_length(fixture->config->rpc_hosts), 1);
    assert_string_equal(fixture->config->rpc_hosts[0], "::1");
    assert_string_equal(fixture->config->nbd_hosts[0], "127.0.0.1");
    assert_int_equal(fixture->config->nbd_port, 4000);
    assert_int_equal(fixture->config->rpc_port, 5000);
    assert_int_equal(fixture->config->threads, 3);
    g_unlink(conf);
    g_free(conf);
}

static void check_config_makes_no_directory(void **state)
{
    struct fixture *fixture = *state;
    char *dir = g_build_filename(fixture->dir, "inst", NULL);

    assert_int_equal(load_in(fixture, "nbd-runner --dir %s --check-config", dir), 0);
    assert_int_equal(access(dir, F_OK), -1);
    g_free(dir);
}

static void a_directory_that_cannot_be_is_refused(void **state)
{
    struct fixture *fixture = *state;
    char *deep = g_strnfill(100, 'x');
    char *dir = g_build_filename(fixture->dir, deep, NULL);

    assert_int_equal(load(fixture, "nbd-runner --dir /dev/null"), -ENOTDIR);
    assert_says(fixture, "/dev/null is not a directory");
    assert_int_equal(load_in(fixture, "nbd-runner --dir %s/a/b", fixture->dir), -ENOENT);
    assert_says(fixture, "cannot make the directory");
    assert_int_equal(load_in(fixture, "nbd-runner --dir %s", dir), -EINVAL);
    assert_says(fixture, "is too long for a socket, 107 bytes is the most");
    assert_int_equal(access(dir, F_OK), -1);
    g_free(dir);
    g_free(deep);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(without_arguments_the_defaults_hold),
        TEST(the_documented_words_come_in_any_order),
        TEST(each_option_takes_as_many_values_as_documented),
        TEST(a_forgotten_value_is_named),
        TEST(an_unknown_word_is_named_with_the_nearest),
        TEST(values_are_checked),
        TEST(threads_out_of_range_are_clamped),
        TEST(hosts_and_roots_are_lists),
        TEST(an_empty_path_switches_sockets_and_files_off),
        TEST(help_and_version_are_printed),
        TEST(the_file_sets_what_the_command_line_leaves),
        TEST(the_command_line_wins_over_the_file),
        TEST(a_bad_file_is_refused_with_line_and_key),
        TEST(sizes_have_units),
        TEST(a_named_file_must_be_readable),
        TEST(a_directory_holds_a_whole_instance),
        TEST(a_directory_is_above_defaults_and_below_the_file),
        TEST(check_config_makes_no_directory),
        TEST(a_directory_that_cannot_be_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
