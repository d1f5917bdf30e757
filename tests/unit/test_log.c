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
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <glib.h>
#include <glib/gstdio.h>

#include "log.h"

struct fixture {
    char *directory, *file, *target, *socket;
};

static int set_up(void **state)
{
    struct fixture *f = g_new0(struct fixture, 1);

    g_unsetenv("JOURNAL_STREAM");
    f->directory = g_dir_make_tmp("nbd-runner-test-XXXXXX", NULL);
    assert_non_null(f->directory);
    f->file = g_build_filename(f->directory, "log", NULL);
    f->target = g_strconcat("file:", f->file, NULL);
    f->socket = g_build_filename(f->directory, "socket", NULL);
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
    g_unlink(f->socket);
    g_rmdir(f->directory);
    g_free(f->directory);
    g_free(f->file);
    g_free(f->target);
    g_free(f->socket);
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

/* stderr is `fd` while `run` does its work. */
static void with_stderr(int fd, void (*run)(void *arg), void *arg)
{
    int saved = dup(STDERR_FILENO);

    dup2(fd, STDERR_FILENO);
    run(arg);
    dup2(saved, STDERR_FILENO);
    close(saved);
}

static void warn_on(void *target)
{
    assert_int_equal(log_set_target(target), 0);
    log_warning("beware");
}

static void under_systemd_lines_on_stderr_carry_their_priority(void **state)
{
    struct fixture *f = *state;
    int fd = g_creat(f->file, 0600);
    g_autofree char *stream = NULL, *text = NULL;
    struct stat st;

    fstat(fd, &st);
    stream = g_strdup_printf("%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
    g_setenv("JOURNAL_STREAM", stream, TRUE);
    with_stderr(fd, warn_on, (void *)"stderr");
    close(fd);
    g_unsetenv("JOURNAL_STREAM");
    text = content(f->file);

    assert_string_equal(text, "<4>beware\n");
}

static void a_stderr_that_is_not_systemds_gets_plain_lines(void **state)
{
    struct fixture *f = *state;
    int fd = g_creat(f->file, 0600);
    g_autofree char *text = NULL;

    g_setenv("JOURNAL_STREAM", "8:12345", TRUE);
    with_stderr(fd, warn_on, (void *)"auto");
    close(fd);
    g_unsetenv("JOURNAL_STREAM");
    text = content(f->file);

    assert_non_null(strstr(text, " warning: beware\n"));
}

/* ---- Readers that are datagram sockets ---- */

static int bind_reader(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);

    strcpy(address.sun_path, path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

/* "" when there is none. */
static const char *take_datagram(int fd)
{
    static char text[8192];
    ssize_t n = recv(fd, text, sizeof(text) - 1, 0);

    text[MAX(n, 0)] = '\0';
    return text;
}

static void the_journal_gets_a_line_and_what_it_is_about(void **state)
{
    struct fixture *f = *state;
    g_autofree char *target = g_strconcat("journal:", f->socket, NULL);
    int reader = bind_reader(f->socket);

    assert_int_equal(log_set_target(target), 0);
    log_event(NBD_LOG_WARNING, "disk1", "192.0.2.1:40000", "it is %s", "slow");
    assert_string_equal(take_datagram(reader),
                        "MESSAGE=it is slow\nPRIORITY=4\nSYSLOG_IDENTIFIER=nbd-runner\n"
                        "EXPORT=disk1\nCLIENT=192.0.2.1:40000\n");
    log_info("about nothing");
    assert_string_equal(take_datagram(reader),
                        "MESSAGE=about nothing\nPRIORITY=6\nSYSLOG_IDENTIFIER=nbd-runner\n");
    close(reader);
}

static void nothing_in_a_name_or_a_text_becomes_a_field_of_its_own(void **state)
{
    struct fixture *f = *state;
    g_autofree char *target = g_strconcat("journal:", f->socket, NULL);
    int reader = bind_reader(f->socket);

    assert_int_equal(log_set_target(target), 0);
    log_event(NBD_LOG_INFO, "a\nPRIORITY=0", "b\n_UID=0", "text\nMESSAGE=other\xff\x1b[2J");
    assert_string_equal(take_datagram(reader),
                        "MESSAGE=text\\x0aMESSAGE=other\\xff\\x1b[2J\nPRIORITY=6\n"
                        "SYSLOG_IDENTIFIER=nbd-runner\n"
                        "EXPORT=a\\x0aPRIORITY=0\nCLIENT=b\\x0a_UID=0\n");
    close(reader);
}

static void a_journal_that_starts_anew_gets_the_next_line(void **state)
{
    struct fixture *f = *state;
    g_autofree char *target = g_strconcat("journal:", f->socket, NULL);
    int reader = bind_reader(f->socket);

    assert_int_equal(log_set_target(target), 0);
    close(reader);
    log_info("nobody is there");
    g_unlink(f->socket);
    reader = bind_reader(f->socket);
    log_info("welcome");

    assert_non_null(strstr(take_datagram(reader), "1 lines of this log are missing here"));
    assert_non_null(strstr(take_datagram(reader), "MESSAGE=welcome\n"));
    close(reader);
}

static void a_journal_that_reads_nothing_costs_lines_and_no_time(void **state)
{
    struct fixture *f = *state;
    g_autofree char *target = g_strconcat("journal:", f->socket, NULL);
    uint64_t lost = log_lost(), missing = 0, seen = 0;
    int reader = bind_reader(f->socket);
    const char *text;

    assert_int_equal(log_set_target(target), 0);
    for (int i = 0; i < 5000; i++)
        log_info("line %d", i);
    lost = log_lost() - lost;
    assert_in_range(lost, 1, 4999);
    while (*take_datagram(reader) != '\0')
        seen++;
    assert_int_equal(seen + lost, 5000);
    log_info("at last");
    text = take_datagram(reader);
    assert_int_equal(sscanf(text, "MESSAGE=%" SCNu64 " lines of this log are missing", &missing),
                     1);
    assert_int_equal(missing, lost);
    assert_non_null(strstr(take_datagram(reader), "MESSAGE=at last\n"));
    close(reader);
}

static void syslog_gets_its_usual_lines(void **state)
{
    struct fixture *f = *state;
    g_autofree char *target = g_strconcat("syslog:", f->socket, NULL);
    g_autofree char *pattern = g_strdup_printf("^<28>[A-Z][a-z]{2} [ 0-9]\\d \\d\\d:\\d\\d:\\d\\d "
                                               "nbd-runner\\[%d\\]: beware$", (int)getpid());
    int reader = bind_reader(f->socket);

    warn_on(target);
    assert_true(g_regex_match_simple(pattern, take_datagram(reader), 0, 0));
    close(reader);
}

/* ---- A pipe that nobody empties ---- */

static void fill_stderr(void *arg)
{
    uint64_t *lost = arg;

    assert_int_equal(log_set_target("stderr"), 0);
    *lost = log_lost();
    for (int i = 0; i < 5000; i++)
        log_info("line %d of many that nobody reads, so that at last the pipe is full", i);
    *lost = log_lost() - *lost;
}

static void a_pipe_that_is_full_costs_lines_and_no_time(void **state)
{
    uint64_t lost = 0;
    int ends[2], flags;

    (void)state;
    assert_int_equal(pipe(ends), 0);
    with_stderr(ends[1], fill_stderr, &lost);
    assert_in_range(lost, 1, 4999);
    flags = fcntl(ends[1], F_GETFL);
    assert_int_equal(flags & O_NONBLOCK, 0); /* others who have the pipe notice nothing */
    close(ends[0]);
    close(ends[1]);
    log_set_target("stderr");
}

static void lines_are_counted_by_level(void **state)
{
    uint64_t warnings = log_written(NBD_LOG_WARNING), infos = log_written(NBD_LOG_INFO);

    (void)state;
    log_warning("one");
    log_debug("none");

    assert_int_equal(log_written(NBD_LOG_WARNING), warnings + 1);
    assert_int_equal(log_written(NBD_LOG_INFO), infos);
}

static void a_line_stays_one_line_whatever_is_in_it(void **state)
{
    struct fixture *f = *state;

    log_info("%s", "a\r\nb\x7f \xc2\x85 \xe2\x80\xa8 \xe2\x80\xae gr\xc3\xbcn \xc3");
    g_autofree char *text = content(f->file);

    assert_true(g_str_has_suffix(text, "info: a\\x0d\\x0ab\\x7f \\xc2\\x85 \\xe2\\x80\\xa8 "
                                       "\\xe2\\x80\\xae gr\xc3\xbcn \\xc3\n"));
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
        A_TEST(a_stderr_that_is_not_systemds_gets_plain_lines),
        A_TEST(the_journal_gets_a_line_and_what_it_is_about),
        A_TEST(nothing_in_a_name_or_a_text_becomes_a_field_of_its_own),
        A_TEST(a_journal_that_starts_anew_gets_the_next_line),
        A_TEST(a_journal_that_reads_nothing_costs_lines_and_no_time),
        A_TEST(syslog_gets_its_usual_lines),
        A_TEST(a_pipe_that_is_full_costs_lines_and_no_time),
        A_TEST(lines_are_counted_by_level),
        A_TEST(a_line_stays_one_line_whatever_is_in_it),
        cmocka_unit_test(levels_are_words_or_the_numbers_of_syslog),
        cmocka_unit_test(a_peers_string_cannot_break_a_line),
        cmocka_unit_test(a_peers_long_string_is_cut),
    };

    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
