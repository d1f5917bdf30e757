/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * From an argument vector to an exit status, without a daemon.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"

struct result {
    int status;
    char *out;
    size_t out_length;
};

/* The sentences on stderr are not for the log of the tests. */
static struct result run(int argc, char **argv)
{
    struct result result = {0};
    FILE *out = open_memstream(&result.out, &result.out_length);
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC), stderr_fd = dup(STDERR_FILENO);

    dup2(null, STDERR_FILENO);
    result.status = command_main(argc, argv, out);
    dup2(stderr_fd, STDERR_FILENO);
    close(stderr_fd);
    close(null);
    fclose(out);
    return result;
}

/* A line of words that are separated by single blanks. */
static struct result run_line(const char *line)
{
    char copy[512], *argv[64] = {(char *)"nbd-cli"};
    int argc = 1;

    snprintf(copy, sizeof(copy), "%s", line);
    for (char *word = strtok(copy, " "); word != NULL; word = strtok(NULL, " "))
        argv[argc++] = word;
    return run(argc, argv);
}

static void help_needs_nothing_and_succeeds(void **state)
{
    static const char *const lines[] = {
        "",          "help",        "--help",           "-h",              "help file",
        "file",      "file help",   "help file create", "file create help", "file --help",
        "read help", "job",         "help job wait",    "gluster help",    "global help",
        "ceph help", "null",        "mem help",         "nbd help",        "help help",
    };
    (void)state;

    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        struct result result = run_line(lines[i]);

        if (result.status != 0 || strstr(result.out, "usage:") == NULL)
            fail_msg("'%s': %d", lines[i], result.status);
        free(result.out);
    }
}

static void every_command_has_help(void **state)
{
    (void)state;

    for (size_t i = 0; i < n_commands; i++) {
        const char *group = commands[i].group;
        char line[128];
        struct result result;

        if (group != NULL && strcmp(group, GROUP_BACKSTORE) == 0)
            group = "file";
        snprintf(line, sizeof(line), "%s %s help", group != NULL ? group : "", commands[i].verb);
        result = run_line(line);
        assert_int_equal(result.status, 0);
        assert_non_null(strstr(result.out, commands[i].summary));
        free(result.out);
    }
}

static void a_usage_error_is_2(void **state)
{
    static const char *const lines[] = {
        "flie",
        "file creat",
        "file create",
        "file create x",
        "file create x size 1X",
        "file create x size 1K opt novalue",
        "file map x blocksize 777",
        "file map x blocksize 8192",
        "file map x connections 0",
        "file map x connections 17",
        "file list map unmap",
        "global map x",
        "global create x",
        "export",
        "help nothing",
        "help file nothing",
        "status --host",
        "kick",
        "kick x",
        "log-level loud",
        "restore sda",
        "read x from 0",
        "read from 0 size 1",
        "write x from 0 size 0",
        "--bogus",
        "-",
    };
    (void)state;

    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        struct result result = run_line(lines[i]);
        bool is_help = strcmp(lines[i], "export") == 0;

        if (result.status != (is_help ? 0 : STATUS_USAGE))
            fail_msg("'%s': %d", lines[i], result.status);
        free(result.out);
    }
}

static void an_unreachable_daemon_is_3(void **state)
{
    static const char *const lines[] = {
        "file create x size 1G", "file delete x",  "file map x",       "file list",
        "file unmap x",          "export list",    "export show x",    "export remove x",
        "status",                "status x",       "clients",          "kick 1",
        "job list",              "job show x",     "job wait x",       "job cancel x",
        "export set x hidden on", "export sync x",  "acl x",          "acl x add ::1",
        "log-level debug",       "restore",        "read x from 0 size 1",
        "write x from 0 size 1", "info x",         "export add file x name y",
    };
    (void)state;

    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        struct result result = run_line(lines[i]);

        if (result.status != STATUS_UNREACHABLE || result.out_length != 0)
            fail_msg("'%s': %d %s", lines[i], result.status, result.out);
        free(result.out);
    }
}

static void with_json_an_error_is_json(void **state)
{
    static const struct {
        const char *line, *code;
    } cases[] = {
        {"file create x size 1X --json", "USAGE"},
        {"--json file create x size 1G", "UNREACHABLE"},
        {"job list --json", "UNREACHABLE"},
        {"bogus --json", "USAGE"},
    };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct result result = run_line(cases[i].line);
        json_object *answer = json_tokener_parse(result.out), *error, *code, *message;

        assert_non_null(answer);
        assert_true(json_object_object_get_ex(answer, "error", &error));
        assert_true(json_object_object_get_ex(error, "code", &code));
        assert_true(json_object_object_get_ex(error, "message", &message));
        assert_string_equal(json_object_get_string(code), cases[i].code);
        assert_true(json_object_get_string_len(message) > 10);
        json_object_put(answer);
        free(result.out);
    }
}

static void the_version_is_told(void **state)
{
    struct result result = run_line("version");
    (void)state;

    assert_int_equal(result.status, 0);
    assert_non_null(strstr(result.out, "nbd-cli " PACKAGE_VERSION));
    free(result.out);
    result = run_line("--version");
    assert_int_equal(result.status, 0);
    free(result.out);
}

static void no_arguments_at_all_do_no_harm(void **state)
{
    struct result result = run(0, (char *[]){NULL});
    (void)state;

    assert_int_equal(result.status, STATUS_USAGE);
    free(result.out);
}

/* Neither a host name (it would be looked up) nor a device that may exist. */
static void any_arguments_end_in_an_exit_status(void **state)
{
    static const char *const vocabulary[] = {
        "file",   "gluster", "global",  "create", "delete", "map",    "unmap",   "list",
        "export", "show",    "add",     "remove", "job",    "wait",   "cancel",  "status",
        "info",   "read",    "write",   "from",   "size",   "1G",     "0",       "name",
        "help",   "--help",  "version", "--json", "force",  "all",    "dead",    "readonly",
        "--size", "--size=1", "--dir=/nonexistent", "--host=[", "opt", "a=b", "", "-", "--",
        "=",      "\xff",    "kick",    "clients", "log-level", "restore", "timeout", "10",
        "--call-timeout=1", "nbd1048575", "nowait", "prealloc", "-F", "-S", "--map", "%s%n",
    };
    (void)state;

    srand(20240301);
    for (int i = 0; i < 5000; i++) {
        char *argv[10] = {(char *)"nbd-cli"};
        int argc = 1 + rand() % 8;
        struct result result;

        for (int j = 1; j < argc; j++)
            argv[j] = (char *)vocabulary[(size_t)rand() % (sizeof(vocabulary) /
                                                            sizeof(vocabulary[0]))];
        result = run(argc, argv);
        assert_in_range(result.status, STATUS_DONE, STATUS_UNREACHABLE);
        free(result.out);
    }
}

static int hide_daemons(void **state)
{
    (void)state;

    setenv("NBD_RUNNER_DIR", "/nonexistent", 1);
    unsetenv("NBD_RUNNER_HOST");
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(help_needs_nothing_and_succeeds),
        cmocka_unit_test(every_command_has_help),
        cmocka_unit_test(a_usage_error_is_2),
        cmocka_unit_test(an_unreachable_daemon_is_3),
        cmocka_unit_test(with_json_an_error_is_json),
        cmocka_unit_test(the_version_is_told),
        cmocka_unit_test(no_arguments_at_all_do_no_harm),
        cmocka_unit_test(any_arguments_end_in_an_exit_status),
    };

    return cmocka_run_group_tests(tests, hide_daemons, NULL);
}
