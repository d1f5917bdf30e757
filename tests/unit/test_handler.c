/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Loading handlers: the good ones, and one line in the log for each bad one. And the services
 * that they get.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dlfcn.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "handler.h"
#include "nbd_client_harness.h"

static void assert_handlers(const struct harness *harness, const char *const *names)
{
    const GPtrArray *loaded = handler_names(harness->server->handlers);
    guint n = 0;

    for (; names[n] != NULL; n++) {
        assert_true(n < loaded->len);
        assert_string_equal(loaded->pdata[n], names[n]);
        assert_non_null(handler_find(harness->server->handlers, names[n]));
    }
    assert_int_equal(loaded->len, n);
}

static void all_good_handlers_are_loaded_and_listed_in_order(void **state)
{
    static const char *const names[] = { "fault", "file", "mem", "null", "plain", NULL };
    struct harness *harness = harness_new(NULL);

    (void)state;
    assert_handlers(harness, names);
    assert_null(handler_find(harness->server->handlers, "gluster9"));
    assert_null(handler_find(harness->server->handlers, ""));
    assert_int_equal(harness_count_in_log(harness, "skipped"), 0);
    harness_free(harness);
}

static void a_bad_handler_is_skipped_with_one_line_that_says_why(void **state)
{
    static const struct { const char *file, *reason; } bad[] = {
        { "libbadabi_handler.so", "built for ABI 999" },
        { "libnoinit_handler.so", "it has no handler_init()" },
        { "libnullinit_handler.so", "handler_init() failed" },
        { "libundef_handler.so", "a_function_that_nobody_has" },
        { "libtext_handler.so", "libtext_handler.so" },
        { "libcrash_handler.so", "it crashed while it was loaded, or in its handler_init()" },
        { "libquits_handler.so", "ended the process with status 7" },
    };
    static const char *const names[] = { "fault", "plain", NULL };
    g_autofree char *directory = g_dir_make_tmp("nbd-runner-test-XXXXXX", NULL);
    struct harness_settings settings = { .handler_dir = directory };
    static const char *const files[] = {
        "libbadabi_handler.so", "libnoinit_handler.so", "libnullinit_handler.so",
        "libundef_handler.so", "libfault_handler.so", "libplain_handler.so",
        "libcrash_handler.so", "libquits_handler.so",
    };
    g_autofree char *text = g_build_filename(directory, "libtext_handler.so", NULL);
    g_autofree char *other = g_build_filename(directory, "README", NULL);
    struct harness *harness;

    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *from = g_build_filename(TEST_HANDLER_DIR_BUILT, files[i], NULL);
        g_autofree char *to = g_build_filename(directory, files[i], NULL);

        assert_int_equal(symlink(from, to), 0);
    }
    assert_true(g_file_set_contents(text, "not a library\n", -1, NULL));
    assert_true(g_file_set_contents(other, "neither\n", -1, NULL));
    harness = harness_new(&settings);

    assert_handlers(harness, names);
    assert_int_equal(harness_count_in_log(harness, "skipped"), G_N_ELEMENTS(bad));
    assert_int_equal(handler_skipped(harness->server->handlers)->len, G_N_ELEMENTS(bad));
    assert_string_equal(handler_file(harness->server->handlers, "plain"),
                        "libplain_handler.so");
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *line = g_strdup_printf("handler %s skipped: ", bad[i].file);

        assert_int_equal(harness_count_in_log(harness, line), 1);
        assert_true(harness_count_in_log(harness, bad[i].reason) >= 1);
    }
    harness_free(harness);
    for (size_t i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *to = g_build_filename(directory, files[i], NULL);

        unlink(to);
    }
    unlink(text);
    unlink(other);
    rmdir(directory);
}

static void of_two_handlers_with_one_name_the_first_file_counts(void **state)
{
    g_autofree char *directory = g_dir_make_tmp("nbd-runner-test-XXXXXX", NULL);
    g_autofree char *first = g_build_filename(directory, "libfile_handler.so", NULL);
    g_autofree char *second = g_build_filename(directory, "libzzz_handler.so", NULL);
    struct harness_settings settings = { .handler_dir = directory };
    struct harness *harness;

    (void)state;
    assert_int_equal(symlink(HANDLER_DIR_BUILT "/libfile_handler.so", first), 0);
    assert_int_equal(symlink(TEST_HANDLER_DIR_BUILT "/libdupname_handler.so", second), 0);
    harness = harness_new(&settings);

    assert_int_equal(handler_names(harness->server->handlers)->len, 1);
    assert_non_null(handler_find(harness->server->handlers, "file")->sendfile_fd);
    assert_int_equal(harness_count_in_log(harness, "libzzz_handler.so skipped: its name is "
                                                   "taken by libfile_handler.so"), 1);
    harness_free(harness);
    unlink(first);
    unlink(second);
    rmdir(directory);
}

static void without_a_directory_there_are_no_handlers_and_one_line(void **state)
{
    struct harness_settings settings = { .handler_dir = "/nonexistent/handlers" };
    struct harness *harness = harness_new(&settings);

    (void)state;
    assert_int_equal(handler_names(harness->server->handlers)->len, 0);
    assert_int_equal(harness_count_in_log(harness, "/nonexistent/handlers: No such file"), 1);
    harness_free(harness);
}

/* ---- Services ---- */

struct seen {
    struct loop *loop;
    unsigned ready, posted, worked, done;
    bool on_loop;
};

static void on_ready(void *arg)
{
    struct seen *seen = arg;

    seen->ready++;
    seen->on_loop &= loop_is_mine(seen->loop);
}

static void on_posted(void *arg)
{
    struct seen *seen = arg;

    seen->posted++;
    seen->on_loop &= loop_is_mine(seen->loop);
}

static void on_work(void *arg)
{
    struct seen *seen = arg;

    seen->worked += !loop_is_mine(seen->loop);
}

static void on_done(void *arg)
{
    struct seen *seen = arg;

    seen->done++;
    seen->on_loop &= loop_is_mine(seen->loop);
}

static bool is_done(void *arg)
{
    return ((struct seen *)arg)->done > 0;
}

static bool is_ready_twice(void *arg)
{
    return ((struct seen *)arg)->ready >= 2;
}

static void a_handler_may_watch_post_and_run(void **state)
{
    struct harness *harness = harness_new(NULL);
    const struct nbd_host *host = harness->server->handler_config.host;
    struct seen seen = { .loop = harness->server->loop, .on_loop = true };
    struct nbd_watch *watch;
    int fds[2];

    (void)state;
    assert_int_equal(host->size, sizeof(*host));
    assert_int_equal(pipe(fds), 0);
    watch = host->watch(fds[0], on_ready, &seen);
    assert_non_null(watch);
    assert_int_equal(write(fds[1], "x", 1), 1);
    host->post(on_posted, &seen);
    host->run(on_work, on_done, &seen);
    assert_int_equal(seen.posted, 0);
    harness_wait(harness, is_done, &seen);
    harness_wait(harness, is_ready_twice, &seen); /* as long as there is something to read */
    host->unwatch(watch);
    host->unwatch(NULL);
    seen.ready = 0;
    harness_settle(harness);

    assert_int_equal(seen.ready, 0);
    assert_int_equal(seen.posted, 1);
    assert_int_equal(seen.worked, 1);
    assert_true(seen.on_loop);
    close(fds[0]);
    close(fds[1]);
    harness_free(harness);
}

static void a_descriptor_that_is_none_cannot_be_watched(void **state)
{
    struct harness *harness = harness_new(NULL);
    const struct nbd_host *host = harness->server->handler_config.host;

    (void)state;
    assert_null(host->watch(987, on_ready, NULL));
    harness_free(harness);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_good_handlers_are_loaded_and_listed_in_order),
        cmocka_unit_test(a_bad_handler_is_skipped_with_one_line_that_says_why),
        cmocka_unit_test(of_two_handlers_with_one_name_the_first_file_counts),
        cmocka_unit_test(without_a_directory_there_are_no_handlers_and_one_line),
        cmocka_unit_test(a_handler_may_watch_post_and_run),
        cmocka_unit_test(a_descriptor_that_is_none_cannot_be_watched),
    };

    return cmocka_run_group_tests_name("handler", tests, NULL, NULL);
}
