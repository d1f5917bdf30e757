/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The lock file and the pid file.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <glib/gstdio.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "instance.h"

struct fixture {
    char *dir, *lock, *pid;
};

static int set_up(void **state)
{
    struct fixture *fixture = g_new0(struct fixture, 1);

    fixture->dir = g_dir_make_tmp("nr-instance-XXXXXX", NULL);
    fixture->lock = g_build_filename(fixture->dir, "lock", NULL);
    fixture->pid = g_build_filename(fixture->dir, "pid", NULL);
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;

    g_unlink(fixture->lock);
    g_unlink(fixture->pid);
    assert_int_equal(g_rmdir(fixture->dir), 0); /* no temporary file is left */
    g_free(fixture->dir);
    g_free(fixture->lock);
    g_free(fixture->pid);
    g_free(fixture);
    return 0;
}

/* A process that holds the lock until its end of the pipe, *ret_fd, is closed. */
static pid_t start_holder(const struct fixture *fixture, int *ret_fd)
{
    int ready[2], quit[2];
    char byte;
    pid_t pid;

    assert_int_equal(pipe(ready) + pipe(quit), 0);
    pid = fork();
    if (pid == 0) {
        close(quit[1]);
        if (instance_lock(fixture->lock, NULL) < 0 || write(ready[1], "", 1) != 1)
            _exit(1);
        _exit(read(quit[0], &byte, 1) == 0 ? 0 : 1);
    }
    close(ready[1]);
    close(quit[0]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    *ret_fd = quit[1];
    return pid;
}

static void a_second_instance_is_refused_and_told_the_pid(void **state)
{
    struct fixture *fixture = *state;
    struct nbd_failure why;
    char *expected;
    int fd, status;
    pid_t pid = start_holder(fixture, &fd);

    expected = g_strdup_printf("already running (pid %ld, lock file %s)", (long)pid,
                               fixture->lock);
    assert_int_equal(instance_lock(fixture->lock, &why), -EALREADY);
    assert_string_equal(why.message, expected);
    assert_int_equal(instance_lock(fixture->lock, &why), -EALREADY);

    close(fd);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(instance_lock(fixture->lock, &why), 0);
    g_free(expected);
}

static void a_killed_holder_leaves_no_lock(void **state)
{
    struct fixture *fixture = *state;
    int fd;
    pid_t pid = start_holder(fixture, &fd);

    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    close(fd);

    assert_int_equal(instance_lock(fixture->lock, NULL), 0);
    /* The lock is the description's: reading the file through another does not drop it. */
    fd = open(fixture->lock, O_RDONLY | O_CLOEXEC);
    close(fd);
    assert_int_equal(instance_lock(fixture->lock, NULL), -EALREADY);
}

static void a_lock_that_cannot_be_made_is_an_error(void **state)
{
    struct fixture *fixture = *state;
    struct nbd_failure why;

    assert_int_equal(instance_lock("/nonexistent/lock", &why), -ENOENT);
    assert_non_null(strstr(why.message, "cannot open /nonexistent/lock"));
    assert_int_equal(symlink("/nonexistent", fixture->lock), 0);
    assert_int_equal(instance_lock(fixture->lock, &why), -ELOOP);
    assert_int_equal(instance_lock("", &why), 0);
}

static void the_pid_file_has_one_line(void **state)
{
    struct fixture *fixture = *state;
    char *text, *expected = g_strdup_printf("%ld\n", (long)getpid());
    struct stat status;

    assert_true(g_file_set_contents(fixture->pid, "a very long line of old\n", -1, NULL));
    assert_int_equal(instance_write_pid(fixture->pid, NULL), 0);

    assert_true(g_file_get_contents(fixture->pid, &text, NULL, NULL));
    assert_string_equal(text, expected);
    assert_int_equal(stat(fixture->pid, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0644);
    instance_end(fixture->pid);
    assert_int_equal(access(fixture->pid, F_OK), -1);
    instance_end(fixture->pid);
    g_free(text);
    g_free(expected);
}

static void the_pid_file_of_another_is_left_alone(void **state)
{
    struct fixture *fixture = *state;

    assert_true(g_file_set_contents(fixture->pid, "1\n", -1, NULL));
    instance_end(fixture->pid);
    assert_int_equal(access(fixture->pid, F_OK), 0);
    instance_end("");
}

static void a_pid_file_that_cannot_be_written_is_an_error(void **state)
{
    struct nbd_failure why;

    (void)state;
    assert_int_equal(instance_write_pid("/nonexistent/pid", &why), -ENOENT);
    assert_non_null(strstr(why.message, "cannot write /nonexistent/pid"));
    assert_int_equal(instance_write_pid("", &why), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(a_second_instance_is_refused_and_told_the_pid),
        TEST(a_killed_holder_leaves_no_lock),
        TEST(a_lock_that_cannot_be_made_is_an_error),
        TEST(the_pid_file_has_one_line),
        TEST(the_pid_file_of_another_is_left_alone),
        TEST(a_pid_file_that_cannot_be_written_is_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
