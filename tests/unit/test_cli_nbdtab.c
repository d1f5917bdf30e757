/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Reading and editing nbdtab(5).
 */
#include "nbdtab.h"

#include <glib/gstdio.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

struct fixture {
    char *dir, *path;
};

static int begin(void **state)
{
    struct fixture *f = g_new0(struct fixture, 1);

    f->dir = g_dir_make_tmp("nbd-cli-test-XXXXXX", NULL);
    f->path = g_build_filename(f->dir, "nbdtab", NULL);
    *state = f;
    return 0;
}

static int end(void **state)
{
    struct fixture *f = *state;

    g_remove(f->path);
    g_rmdir(f->dir);
    g_free(f->path);
    g_free(f->dir);
    g_free(f);
    return 0;
}

static void has(const struct fixture *f, const char *text)
{
    assert_true(g_file_set_contents(f->path, text, -1, NULL));
}

static void assert_text(const struct fixture *f, const char *text)
{
    g_autofree char *found = NULL;

    assert_true(g_file_get_contents(f->path, &found, NULL, NULL));
    assert_string_equal(found, text);
}

static void refuses(const struct fixture *f, const char *text, const char *sentence)
{
    GPtrArray *lines = NULL;
    struct failure why;

    has(f, text);
    assert_int_equal(nbdtab_read(f->path, &lines, &why), STATUS_FAILED);
    assert_null(lines);
    assert_non_null(strstr(why.message, sentence));
}

static void lines_are_read_with_quotes_and_comments(void **state)
{
    struct fixture *f = *state;
    GPtrArray *lines;
    struct failure why;
    struct nbdtab_line *line;

    has(f, "# DEVICE BACKSTORE TARGET\n\n  \nnbd0 file disk1 # the first\n"
           "-\tgluster 'vol/my disk'  host 10.0.0.1:24110 timeout 30");
    assert_int_equal(nbdtab_read(f->path, &lines, &why), 0);

    assert_int_equal(lines->len, 2);
    line = g_ptr_array_index(lines, 0);
    assert_int_equal(line->number, 4);
    assert_int_equal(line->n_fields, 3);
    line = g_ptr_array_index(lines, 1);
    assert_int_equal(line->n_fields, 7);
    assert_string_equal(line->fields[2], "vol/my disk");
    assert_string_equal(line->fields[6], "30");
    g_ptr_array_unref(lines);
}

static void a_file_that_is_not_there_has_no_lines(void **state)
{
    struct fixture *f = *state;
    GPtrArray *lines;
    struct failure why;

    assert_int_equal(nbdtab_read(f->path, &lines, &why), 0);
    assert_int_equal(lines->len, 0);
    g_ptr_array_unref(lines);
}

static void a_bad_line_is_named(void **state)
{
    struct fixture *f = *state;

    refuses(f, "nbd0 file disk\nnbd1 file\n", ":2: a line is DEVICE");
    refuses(f, "nbd0 file 'disk\n", ":1: ");
    refuses(f, "\xff\xfe", "no text");
}

static void a_line_is_added_once(void **state)
{
    struct fixture *f = *state;
    const char *first[] = {"-", "file", "disk 1", "timeout", "30", NULL};
    const char *again[] = {"nbd3", "file", "/disk 1", NULL};
    struct failure why;

    has(f, "# mine\nnbd0 ceph pool/image");
    assert_int_equal(nbdtab_add(f->path, (char **)first, &why), 0);
    assert_text(f, "# mine\nnbd0 ceph pool/image\n- file 'disk 1' timeout 30\n");
    assert_int_equal(nbdtab_add(f->path, (char **)again, &why), 0);
    assert_text(f, "# mine\nnbd0 ceph pool/image\nnbd3 file '/disk 1'\n");
}

static void what_is_removed_leaves_the_others_as_they_are(void **state)
{
    struct fixture *f = *state;
    struct failure why;

    has(f, "# keep\nnbd0  file  disk\nnbd1 ceph disk # too\n");
    assert_int_equal(nbdtab_remove(f->path, "file", "disk", &why), 0);
    assert_text(f, "# keep\nnbd1 ceph disk # too\n");
    assert_int_equal(nbdtab_remove(f->path, "file", "other", &why), 0);
    assert_text(f, "# keep\nnbd1 ceph disk # too\n");
}

static void a_file_that_cannot_be_read_is_not_overwritten(void **state)
{
    struct fixture *f = *state;
    const char *fields[] = {"-", "file", "disk", NULL};
    struct failure why;

    has(f, "nonsense\n");
    assert_int_equal(nbdtab_add(f->path, (char **)fields, &why), STATUS_FAILED);
    assert_text(f, "nonsense\n");
}

static void a_file_that_others_may_write_is_refused(void **state)
{
    struct fixture *f = *state;
    GPtrArray *lines = NULL;
    struct failure why;

    has(f, "nbd0 file disk\n");
    assert_int_equal(g_chmod(f->path, 0664), 0);
    assert_int_equal(nbdtab_read(f->path, &lines, &why), STATUS_PERMISSION);
    assert_null(lines);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(lines_are_read_with_quotes_and_comments),
        TEST(a_file_that_is_not_there_has_no_lines),
        TEST(a_bad_line_is_named),
        TEST(a_line_is_added_once),
        TEST(what_is_removed_leaves_the_others_as_they_are),
        TEST(a_file_that_cannot_be_read_is_not_overwritten),
        TEST(a_file_that_others_may_write_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
