/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The log: levels, lines, targets, and what is quoted in it.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <glib.h>
#include <glib/gstdio.h>

#include "log.h"

struct fixture {
    char *directory, *file, *target;
};

static int set_up(void **state)
{
    struct fixture *f = g_new0(struct fixture, 1);

    g_unsetenv("JOURNAL_STREAM");
    f->directory = g_dir_make_tmp("nbd-runner-test-XXXXXX", NULL);
    assert_non_null(f->directory);
    f->file = g_build_filename(f->directory, "log", NULL);
    f->target = g_strconcat("file:", f->file, NULL);
    assert_int_equal(log_set_target(f->target), 0);
    log_set_level(NBD_LOG_INFO);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    log_set_target("stderr");
    g_unlink(f->file);
    g_rmdir(f->directory);
    g_free(f->directory);
    g_free(f->file);
    g_free(f->target);
    g_free(f);
    return 0;
}

static char *content(const char *file)
{
    char *text = NULL;

    assert_true(g_file_get_contents(file, &text, NULL, NULL));
    return text;
}

static void a_line_has_a_time_a_level_and_its_text(void **state)
{
    struct fixture *f = *state;

    log_warning("disk %d is slow", 7);
    g_autofree char *text = content(f->file);

    assert_true(g_regex_match_simple(
        "^\\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d\\.\\d{3} warning: disk 7 is slow\n$", text,
        0, 0));
}

static void what_is_below_the_level_is_not_written(void **state)
{
    struct fixture *f = *state;

    log_set_level(NBD_LOG_WARNING);
    log_info("nobody wants this");
    log_debug("nor that");
    log_error("but this");
    g_autofree char *text = content(f->file);

    assert_null(strstr(text, "nobody"));
    assert_null(strstr(text, "that"));
    assert_non_null(strstr(text, "error: but this\n"));
}

static void a_line_that_is_too_long_is_cut_and_still_ends(void **state)
{
    struct fixture *f = *state;
    g_autofree char *much = g_strnfill(10000, 'x');

    log_info("%s", much);
    log_info("next");
    g_autofree char *text = content(f->file);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    assert_int_equal(g_strv_length(lines), 3);
    assert_in_range(strlen(lines[0]), 2000, 2048);
    assert_non_null(strstr(lines[1], "info: next"));
}

static void *log_many(void *arg)
{
    for (int i = 0; i < 500; i++)
        log_info("%s", (const char *)arg);
    return NULL;
}

static void lines_of_different_threads_do_not_mix(void **state)
{
    struct fixture *f = *state;
    g_autofree char *a = g_strnfill(300, 'a'), *b = g_strnfill(500, 'b');
    GThread *threads[] = { g_thread_new("a", log_many, a), g_thread_new("b", log_many, b) };

    g_thread_join(threads[0]);
    g_thread_join(threads[1]);
    g_autofree char *text = content(f->file);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    assert_int_equal(g_strv_length(lines), 1001);
    for (unsigned i = 0; i < 1000; i++)
        assert_true(g_str_has_suffix(lines[i], a) != g_str_has_suffix(lines[i], b));
}

static void after_a_rotation_the_file_is_opened_again(void **state)
{
    struct fixture *f = *state;
    g_autofree char *old = g_strconcat(f->file, ".1", NULL);

    log_info("before");
    assert_int_equal(g_rename(f->file, old), 0);
    log_info("between");
    log_reopen();
    log_info("after");
    g_autofree char *text = content(f->file);
    g_autofree char *old_text = content(old);

    assert_null(strstr(text, "between"));
    assert_non_null(strstr(text, "after"));
    assert_non_null(strstr(old_text, "between"));
    g_unlink(old);
}

static void a_rotation_that_fails_leaves_the_old_file_in_use(void **state)
{
    struct fixture *f = *state;
    g_autofree char *old = g_strconcat(f->file, ".1", NULL);

    log_info("before");
    assert_int_equal(g_rename(f->file, old), 0);
    assert_int_equal(g_mkdir(f->file, 0700), 0);
    log_reopen();
    log_info("after");
    g_autofree char *text = content(old);

    assert_non_null(strstr(text, "cannot open the log file"));
    assert_non_null(strstr(text, "after"));
    g_rmdir(f->file);
    g_unlink(old);
}

static void a_target_that_is_wrong_is_refused_and_changes_nothing(void **state)
{
    struct fixture *f = *state;

    assert_true(log_set_target("printer") < 0);
    assert_int_equal(log_set_target("file:/nonexistent/dir/log"), -ENOENT);
    log_info("still here");
    g_autofree char *text = content(f->file);

    assert_non_null(strstr(text, "still here"));
}

static void a_file_that_is_no_longer_the_target_is_not_opened_again(void **state)
{
    struct fixture *f = *state;

    log_info("here");
    assert_int_equal(log_set_target("stderr"), 0);
    g_unlink(f->file);
    log_reopen();

    assert_false(g_file_test(f->file, G_FILE_TEST_EXISTS));
}

static void under_systemd_lines_on_stderr_carry_their_priority(void **state)
{
    struct fixture *f = *state;
    int saved = dup(STDERR_FILENO), fd = g_creat(f->file, 0600);

    g_setenv("JOURNAL_STREAM", "8:12345", TRUE);
    assert_int_equal(log_set_target("stderr"), 0);
    dup2(fd, STDERR_FILENO);
    log_warning("beware");
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(fd);
    g_unsetenv("JOURNAL_STREAM");
    g_autofree char *text = content(f->file);

    assert_string_equal(text, "<4>beware\n");
}

static void levels_are_words_or_the_numbers_of_syslog(void **state)
{
    static const struct { const char *text; enum nbd_log_level level; } good[] = {
        { "error", NBD_LOG_ERROR }, { "Warning", NBD_LOG_WARNING }, { "INFO", NBD_LOG_INFO },
        { "debug", NBD_LOG_DEBUG }, { "0", NBD_LOG_ERROR }, { "3", NBD_LOG_ERROR },
        { "4", NBD_LOG_WARNING }, { "5", NBD_LOG_INFO }, { "6", NBD_LOG_INFO },
        { "7", NBD_LOG_DEBUG },
    };
    static const char *const bad[] = { "", "8", "-1", "66", "loud", "err" };
    enum nbd_log_level level;

    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
        assert_true(log_parse_level(good[i].text, &level));
        assert_int_equal(level, good[i].level);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++)
        assert_false(log_parse_level(bad[i], &level));
    assert_string_equal(log_level_name(NBD_LOG_WARNING), "warning");
}

static void is_quoted(const char *text, size_t length, const char *expected)
{
    g_autofree char *quoted = log_quote(text, length);

    assert_string_equal(quoted, expected);
}

static void a_peers_string_cannot_break_a_line(void **state)
{
    (void)state;
    is_quoted("", 0, "\"\"");
    is_quoted("disk1", 5, "\"disk1\"");
    is_quoted("a\nb\x7f\"\\", 6, "\"a\\x0ab\\x7f\\x22\\x5c\"");
    is_quoted("a\0b", 3, "\"a\\x00b\"");
    is_quoted("\xff\xc3", 2, "\"\\xff\\xc3\"");
    is_quoted("gr\xc3\xbcn", 5, "\"gr\xc3\xbcn\"");
}

static void a_peers_long_string_is_cut(void **state)
{
    g_autofree char *much = g_strnfill(5000, 'y');
    g_autofree char *quoted = log_quote(much, 5000);

    (void)state;
    assert_true(g_str_has_suffix(quoted, "y...\""));
    assert_int_equal(strlen(quoted), 128 + 5);
}

int main(void)
{
#define A_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        A_TEST(a_line_has_a_time_a_level_and_its_text),
        A_TEST(what_is_below_the_level_is_not_written),
        A_TEST(a_line_that_is_too_long_is_cut_and_still_ends),
        A_TEST(lines_of_different_threads_do_not_mix),
        A_TEST(after_a_rotation_the_file_is_opened_again),
        A_TEST(a_rotation_that_fails_leaves_the_old_file_in_use),
        A_TEST(a_target_that_is_wrong_is_refused_and_changes_nothing),
        A_TEST(a_file_that_is_no_longer_the_target_is_not_opened_again),
        A_TEST(under_systemd_lines_on_stderr_carry_their_priority),
        cmocka_unit_test(levels_are_words_or_the_numbers_of_syslog),
        cmocka_unit_test(a_peers_string_cannot_break_a_line),
        cmocka_unit_test(a_peers_long_string_is_cut),
    };

    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
