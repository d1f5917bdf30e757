/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Argument vectors from empty to long, made of the words that the commands have and of what
 * no command has: nbd-cli ends with a status, and with one line on stderr when that is not 0.
 * Always the same ones.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "command.h"

#define RUNS 20000
#define ARGS_MAX 300
#define LONG_BYTES 100000

/* These look up names, wait for ever, or act on devices that may be there. */
static const char *const left_out[] = {"host", "bind",    "addr", "dir",  "monitor",
                                       "top",  "restore", "map",  "unmap"};

static GPtrArray *vocabulary;
static char *long_word;

static bool is_left_out(const char *word)
{
    for (size_t i = 0; i < G_N_ELEMENTS(left_out); i++)
        if (strcmp(left_out[i], word) == 0)
            return true;
    return false;
}

static void learn(const char *word)
{
    if (!is_left_out(word))
        g_ptr_array_add(vocabulary, g_strdup(word));
}

static void learn_command(const struct command *command)
{
    if (command->group != NULL)
        learn(strcmp(command->group, GROUP_BACKSTORE) == 0 ? "file" : command->group);
    learn(command->verb);
    for (const struct word *word = command->words; word != NULL && word->name != NULL;
         word++) {
        g_autofree char *option = g_strdup_printf("--%s", word->name);
        g_autofree char *value = g_strdup_printf("--%s=1", word->name);

        if (is_left_out(word->name))
            continue;
        learn(word->name);
        learn(option);
        learn(value);
    }
}

static int set_up(void **state)
{
    static const char *const others[] = {
        "",
        "-",
        "--",
        "---",
        "=",
        "--=",
        "-x",
        "0",
        "1",
        "-1",
        "1G",
        "1X",
        "1e9",
        "99999999999999",
        "%s%n",
        "\xff",
        "\xc3\xa4",
        "a=b",
        "a b",
        "\n",
        "\x1b[31m",
        "/",
        "..",
        "toy",
        "complete",
        "help",
        "--help",
        "-h",
        "--json",
        "--version",
        "nbd1048575",
        "/dev/nbd",
        "yes",
        "on",
        "--call-timeout=1",
        "--timeout",
        "@map",
        "::1",
        "10.0.0.0/8",
        "--dir=/nonexistent",
    };
    (void)state;

    vocabulary = g_ptr_array_new_with_free_func(g_free);
    for (size_t i = 0; i < n_commands; i++)
        learn_command(&commands[i]);
    for (size_t i = 0; i < G_N_ELEMENTS(others); i++)
        learn(others[i]);
    long_word = g_strnfill(LONG_BYTES, 'x');
    g_ptr_array_add(vocabulary, long_word);
    setenv("NBD_RUNNER_DIR", "/nonexistent", 1);
    unsetenv("NBD_RUNNER_HOST");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    g_ptr_array_free(vocabulary, TRUE);
    return 0;
}

/* Runs it; what it wrote to stderr, g_free. */
static char *run(int argc, char **argv, int *ret_status)
{
    int file = memfd_create("stderr", MFD_CLOEXEC), before = dup(STDERR_FILENO);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC), input = dup(STDIN_FILENO);
    FILE *out = fdopen(dup(null), "w");
    off_t length;
    char *text;

    dup2(file, STDERR_FILENO);
    dup2(null, STDIN_FILENO);
    *ret_status = command_main(argc, argv, out);
    dup2(before, STDERR_FILENO);
    dup2(input, STDIN_FILENO);
    fclose(out);
    length = lseek(file, 0, SEEK_END);
    text = g_malloc0((gsize)length + 1);
    assert_int_equal(pread(file, text, (size_t)length, 0), length);
    close(file);
    close(before);
    close(null);
    close(input);
    return text;
}

static void check(int argc, char **argv)
{
    int status;
    g_autofree char *text = run(argc, argv, &status);
    const char *line = text;

    assert_in_range(status, STATUS_DONE, STATUS_PERMISSION);
    /* A note of a size that was rounded may come before. */
    while (strstr(line, ": note: ") != NULL && strchr(line, '\n') != NULL)
        line = strchr(line, '\n') + 1;
    if (status == STATUS_DONE || (status == STATUS_FAILED && *line == '\0'))
        return; /* doctor's findings are its answer */
    if (!g_str_has_prefix(line, "nbd-cli") || strchr(line, '\n') != line + strlen(line) - 1 ||
        strlen(line) > 2048)
        fail_msg("status %d with %zu bytes on stderr: %.300s", status, strlen(line), line);
}

static char *any_word(void)
{
    return g_ptr_array_index(vocabulary, (guint)rand() % vocabulary->len);
}

static void any_words_end_in_a_status_and_a_sentence(void **state)
{
    char *argv[12] = {(char *)"nbd-cli"};
    (void)state;

    srand(20261121);
    for (int i = 0; i < RUNS; i++) {
        int argc = 1 + rand() % 11;

        for (int j = 1; j < argc; j++)
            argv[j] = any_word();
        check(argc, argv);
    }
}

/* Most of the random ones above fail at the first word; these get further. */
static void any_words_behind_a_command_end_so(void **state)
{
    char *argv[12] = {(char *)"nbd-cli"};
    (void)state;

    srand(20261122);
    for (int i = 0; i < RUNS; i++) {
        const struct command *command = &commands[(size_t)rand() % n_commands];
        int argc = 1, words = rand() % 8;

        if (is_left_out(command->verb))
            continue;
        if (command->group != NULL)
            argv[argc++] =
                (char *)(strcmp(command->group, GROUP_BACKSTORE) == 0 ? "file"
                                                                      : command->group);
        argv[argc++] = (char *)command->verb;
        while (words-- > 0)
            argv[argc++] = any_word();
        check(argc, argv);
    }
}

static void a_long_vector_ends_so(void **state)
{
    char *argv[ARGS_MAX] = {(char *)"nbd-cli"};
    (void)state;

    srand(20261123);
    for (int i = 0; i < 60; i++) {
        int argc = ARGS_MAX - rand() % 100;

        for (int j = 1; j < argc; j++)
            argv[j] = any_word();
        argv[1] = (char *)(i % 3 == 0 ? "complete" : i % 3 == 1 ? "acl" : "file");
        check(argc, argv);
    }
}

static void an_unfinished_line_is_completed_without_a_word_on_stderr(void **state)
{
    char *argv[12] = {(char *)"nbd-cli", (char *)"complete"};
    (void)state;

    srand(20261124);
    for (int i = 0; i < RUNS; i++) {
        int argc = 2 + rand() % 9, status;
        g_autofree char *text = NULL;

        for (int j = 2; j < argc; j++)
            argv[j] = any_word();
        text = run(argc, argv, &status);
        assert_int_equal(status, STATUS_DONE);
        assert_string_equal(text, "");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_words_end_in_a_status_and_a_sentence),
        cmocka_unit_test(any_words_behind_a_command_end_so),
        cmocka_unit_test(a_long_vector_ends_so),
        cmocka_unit_test(an_unfinished_line_is_completed_without_a_word_on_stderr),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
