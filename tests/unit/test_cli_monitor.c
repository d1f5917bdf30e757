/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What the monitor makes of what daemons and the kernel say, and the marks and locks that keep
 * runs of nbd-cli apart. The kernel's part is in tests/kernel/test-monitor.sh.
 */
#include "monitor.h"
#include "net.h"
#include "rundir.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define STUCK_MS 6000 /* longer than the monitor waits for a sign of life */

/* A monitor with one device in a tree of its own; what it tells goes into `text`. */
struct fixture {
    char *root, *block, *run, *text;
    size_t text_size;
    struct cli cli;
    struct monitor monitor;
    struct watched *w;
    struct mapping_facts facts;
};

static void write_attribute(const struct fixture *f, const char *name, const char *text)
{
    g_autofree char *dir = g_build_filename(f->block, "nbd4", NULL);
    g_autofree char *path = g_build_filename(dir, name, NULL);

    assert_int_equal(g_mkdir_with_parents(dir, 0700), 0);
    assert_true(g_file_set_contents(path, text, -1, NULL));
}

static int begin(void **state)
{
    struct fixture *f = g_new0(struct fixture, 1);

    f->root = g_dir_make_tmp("nbd-cli-test-XXXXXX", NULL);
    f->block = g_build_filename(f->root, "block", NULL);
    f->run = g_build_filename(f->root, "run", NULL);
    f->cli.sysfs = (struct sysfs){.block = f->block, .proc = f->root, .dev = f->root,
                                  .run = f->run};
    f->cli.out = open_memstream(&f->text, &f->text_size);
    write_attribute(f, "size", "2048\n");
    write_attribute(f, "pid", "1\n");
    write_attribute(f, "backend", "nbd-runner:cookie@10.0.0.1:24110\n");
    write_attribute(f, "stat", "5 0 0 0 0 0 0 0 1 0 0\n");
    monitor_init(&f->monitor, &f->cli, 10000);
    f->w = g_new0(struct watched, 1);
    assert_true(sysfs_read(&f->cli.sysfs, 4, &f->w->device));
    g_ptr_array_add(f->monitor.devices, f->w);
    f->facts = (struct mapping_facts){.cookie = "cookie",
                                      .export_name = "disk",
                                      .size_bytes = 1 << 20,
                                      .state = NR_M_LIVE,
                                      .connections = 2,
                                      .connected = 2,
                                      .dead_timeout_s = 600};
    *state = f;
    return 0;
}

static void remove_all(const char *path)
{
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        g_autofree char *child = g_build_filename(path, name, NULL);

        remove_all(child);
    }
    if (dir != NULL)
        g_dir_close(dir);
    g_remove(path);
}

static int end(void **state)
{
    struct fixture *f = *state;

    monitor_clear(&f->monitor);
    fclose(f->cli.out);
    remove_all(f->root);
    g_free(f->text);
    g_free(f->root);
    g_free(f->block);
    g_free(f->run);
    g_free(f);
    return 0;
}

static bool has_told(struct fixture *f, const char *text)
{
    fflush(f->cli.out);
    return strstr(f->text, text) != NULL;
}

static void a_mapping_that_its_daemon_calls_dead_is_dead(void **state)
{
    struct fixture *f = *state;

    f->facts.state = NR_M_DEAD;
    f->facts.connected = 0;
    monitor_judge(&f->monitor, f->w, &f->facts, 1000);

    assert_int_equal(f->w->link, LINK_DEAD);
    assert_true(f->w->next_ms >= 1000 && f->w->next_ms <= 1100);
    assert_true(has_told(f, "/dev/nbd4: 2 of 2 connections"));
}

static void one_missing_connection_is_enough(void **state)
{
    struct fixture *f = *state;

    f->facts.connected = 1;
    monitor_judge(&f->monitor, f->w, &f->facts, 1000);

    assert_int_equal(f->w->link, LINK_DEAD);
    assert_true(has_told(f, "1 of 2 connections"));
}

static void a_mapping_that_is_being_unmapped_is_left_alone(void **state)
{
    struct fixture *f = *state;

    f->facts.state = NR_M_UNMAPPING;
    f->facts.connected = 0;
    monitor_judge(&f->monitor, f->w, &f->facts, 1000);

    assert_int_equal(f->w->link, LINK_BUSY);
}

static void a_mapping_that_was_given_up_is_left_alone(void **state)
{
    struct fixture *f = *state;

    rundir_give_up(&f->cli.sysfs, "cookie");
    f->facts.state = NR_M_DEAD;
    monitor_judge(&f->monitor, f->w, &f->facts, 1000);

    assert_int_equal(f->w->link, LINK_FOREIGN);
}

static void a_mapping_that_its_daemon_does_not_know_is_told_once(void **state)
{
    struct fixture *f = *state;
    size_t told;

    monitor_judge(&f->monitor, f->w, NULL, 1000);
    assert_true(has_told(f, "does not know"));
    told = f->text_size;
    monitor_judge(&f->monitor, f->w, NULL, 2000);

    assert_int_equal(f->w->link, LINK_FOREIGN);
    fflush(f->cli.out);
    assert_int_equal(f->text_size, told);
}

static void old_news_of_a_dead_connection_are_forgotten_when_requests_are_answered(void **state)
{
    struct fixture *f = *state;
    int64_t now;

    monitor_suspect(&f->monitor, 4);
    now = f->w->suspected_ms;
    write_attribute(f, "stat", "6 0 0 0 0 0 0 0 1 0 0\n");
    monitor_judge(&f->monitor, f->w, &f->facts, now + STUCK_MS);

    assert_int_equal(f->w->link, LINK_LIVE);
    assert_int_equal(f->w->suspected_ms, 0);
}

static void a_connection_that_only_the_kernel_knows_dead_is_cut(void **state)
{
    struct fixture *f = *state;
    int64_t now;

    monitor_suspect(&f->monitor, 4);
    now = f->w->suspected_ms;
    monitor_judge(&f->monitor, f->w, &f->facts, now + 1000);
    assert_int_equal(f->w->link, LINK_LIVE);
    monitor_judge(&f->monitor, f->w, &f->facts, now + STUCK_MS);

    assert_int_equal(f->w->link, LINK_DEAD);
    assert_true(f->w->cut);
}

static void an_idle_device_is_not_cut(void **state)
{
    struct fixture *f = *state;

    write_attribute(f, "stat", "5 0 0 0 0 0 0 0 0 0 0\n");
    monitor_suspect(&f->monitor, 4);
    monitor_judge(&f->monitor, f->w, &f->facts, f->w->suspected_ms + STUCK_MS);

    assert_int_equal(f->w->link, LINK_LIVE);
    assert_false(f->w->cut);
}

static void it_says_when_requests_fail(void **state)
{
    struct fixture *f = *state;

    f->facts.state = NR_M_DEAD;
    monitor_judge(&f->monitor, f->w, &f->facts, 1000);
    monitor_judge(&f->monitor, f->w, &f->facts, 600000);
    assert_false(has_told(f, "requests fail"));
    monitor_judge(&f->monitor, f->w, &f->facts, 1000 + 611 * 1000);

    assert_true(has_told(f, "requests fail"));
    assert_int_equal(f->w->link, LINK_DEAD);
}

static void an_export_that_shrank_is_told(void **state)
{
    struct fixture *f = *state;

    f->facts.size_bytes = 4096;
    monitor_judge(&f->monitor, f->w, &f->facts, 1000);

    assert_true(has_told(f, "has only 4096 bytes"));
}

static void attempts_come_more_and_more_seldom(void **state)
{
    (void)state;

    for (unsigned attempts = 0; attempts < 100; attempts++) {
        int64_t ms = monitor_backoff_ms(attempts);

        assert_true(ms >= 100 && ms <= 5000);
        if (attempts == 0)
            assert_int_equal(ms, 100);
        if (attempts > 6)
            assert_true(ms >= 2500);
    }
}

static void there_is_one_monitor(void **state)
{
    struct fixture *f = *state;
    pid_t pid = 0;
    int fd;

    assert_false(rundir_monitor_runs(&f->cli.sysfs));
    fd = rundir_lock_monitor(&f->cli.sysfs, &pid);
    assert_true(fd >= 0);
    assert_true(rundir_monitor_runs(&f->cli.sysfs));
    assert_int_equal(rundir_lock_monitor(&f->cli.sysfs, &pid), -EBUSY);
    assert_int_equal(pid, getpid());
    close(fd);
    assert_false(rundir_monitor_runs(&f->cli.sysfs));
}

static void one_changes_a_device_at_a_time(void **state)
{
    struct fixture *f = *state;
    int fd = rundir_lock_device(&f->cli.sysfs, 4, deadline_in_ms(0)), other;

    assert_true(fd >= 0);
    assert_int_equal(rundir_lock_device(&f->cli.sysfs, 4, deadline_in_ms(0)), -ETIMEDOUT);
    other = rundir_lock_device(&f->cli.sysfs, 5, deadline_in_ms(0));
    assert_true(other >= 0);
    close(fd);
    close(other);
}

static void what_was_given_up_is_forgotten_when_its_device_is_free(void **state)
{
    struct fixture *f = *state;

    rundir_give_up(&f->cli.sysfs, "cookie");
    rundir_give_up(&f->cli.sysfs, "another");
    rundir_give_up(&f->cli.sysfs, "../../escape");
    rundir_tidy(&f->cli.sysfs);

    assert_true(rundir_is_given_up(&f->cli.sysfs, "cookie"));
    assert_false(rundir_is_given_up(&f->cli.sysfs, "another"));
    assert_false(rundir_is_given_up(&f->cli.sysfs, "../../escape"));
    rundir_take_back(&f->cli.sysfs, "cookie");
    assert_false(rundir_is_given_up(&f->cli.sysfs, "cookie"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_mapping_that_its_daemon_calls_dead_is_dead),
        TEST(one_missing_connection_is_enough),
        TEST(a_mapping_that_is_being_unmapped_is_left_alone),
        TEST(a_mapping_that_was_given_up_is_left_alone),
        TEST(a_mapping_that_its_daemon_does_not_know_is_told_once),
        TEST(old_news_of_a_dead_connection_are_forgotten_when_requests_are_answered),
        TEST(a_connection_that_only_the_kernel_knows_dead_is_cut),
        TEST(an_idle_device_is_not_cut),
        TEST(it_says_when_requests_fail),
        TEST(an_export_that_shrank_is_told),
        TEST(attempts_come_more_and_more_seldom),
        TEST(there_is_one_monitor),
        TEST(one_changes_a_device_at_a_time),
        TEST(what_was_given_up_is_forgotten_when_its_device_is_free),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
