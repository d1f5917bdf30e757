/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What the kernel says about its devices, read from a tree of our own.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "net.h"
#include "sysfs.h"

struct tree {
    char *root, *block, *proc, *dev;
    struct sysfs sysfs;
};

__attribute__((format(printf, 3, 4)))
static void write_file(const struct tree *tree, const char *path, const char *format, ...)
{
    g_autofree char *full = g_build_filename(tree->root, path, NULL);
    g_autofree char *dir = g_path_get_dirname(full);
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    assert_int_equal(g_mkdir_with_parents(dir, 0700), 0);
    assert_true(g_file_set_contents(full, text, -1, NULL));
}

static int make_tree(void **state)
{
    struct tree *tree = g_new0(struct tree, 1);

    tree->root = g_dir_make_tmp("nbd-cli-test-XXXXXX", NULL);
    tree->block = g_build_filename(tree->root, "block", NULL);
    tree->proc = g_build_filename(tree->root, "proc", NULL);
    tree->dev = g_build_filename(tree->root, "dev", NULL);
    tree->sysfs = (struct sysfs){.block = tree->block, .proc = tree->proc, .dev = tree->dev};
    write_file(tree, "block/sda/size", "100\n");
    write_file(tree, "block/nbd10/size", "2048\n");
    write_file(tree, "block/nbd10/pid", "77\n");
    write_file(tree, "block/nbd10/backend", "nbd-runner:1234-5678\n");
    write_file(tree, "block/nbd10/ro", "1\n");
    write_file(tree, "block/nbd10/dev", "43:320\n");
    write_file(tree, "block/nbd10/nbd10p1/dev", "43:321\n");
    write_file(tree, "block/nbd2/size", "0\n");
    write_file(tree, "block/nbd2/ro", "0\n");
    write_file(tree, "block/nbd2/dev", "43:64\n");
    write_file(tree, "block/nbd3/size", "8\n");
    write_file(tree, "block/nbd3/pid", "78\n");
    write_file(tree, "block/nbd3/backend", "\n");
    write_file(tree, "block/nbdfoo/size", "8\n");
    *state = tree;
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

static int remove_tree(void **state)
{
    struct tree *tree = *state;

    remove_all(tree->root);
    g_free(tree->root);
    g_free(tree->block);
    g_free(tree->proc);
    g_free(tree->dev);
    g_free(tree);
    return 0;
}

static void devices_are_listed_by_number(void **state)
{
    struct tree *tree = *state;
    struct local_device *devices;
    size_t n = sysfs_list(&tree->sysfs, &devices);

    assert_int_equal(n, 3);
    assert_int_equal(devices[0].index, 2);
    assert_int_equal(devices[1].index, 3);
    assert_int_equal(devices[2].index, 10);
    g_free(devices);
}

static void a_device_of_ours_has_its_cookie(void **state)
{
    struct tree *tree = *state;
    struct local_device device;

    assert_true(sysfs_read(&tree->sysfs, 10, &device));

    assert_true(device.in_use && device.readonly);
    assert_int_equal(device.size_bytes, 1 << 20);
    assert_string_equal(device.backend, "nbd-runner:1234-5678");
    assert_string_equal(device.cookie, "1234-5678");
}

static void the_address_of_the_daemon_stands_behind_the_cookie(void **state)
{
    struct tree *tree = *state;
    struct local_device device;

    write_file(tree, "block/nbd10/backend", "nbd-runner:1234-5678@[fe80::1]:24110\n");

    assert_true(sysfs_read(&tree->sysfs, 10, &device));
    assert_string_equal(device.cookie, "1234-5678");
    assert_string_equal(device.address, "[fe80::1]:24110");
}

static void requests_are_counted(void **state)
{
    struct tree *tree = *state;
    struct device_load load;

    write_file(tree, "block/nbd10/stat",
               "     10  0  80  5   200 0 1600 7  3  9 12  4000 0 8 1  50000 2\n");
    write_file(tree, "block/nbd2/stat", "1 2 3\n");

    assert_true(sysfs_load(&tree->sysfs, 10, &load));
    assert_int_equal(load.in_flight, 3);
    assert_int_equal(load.completed, 54210);
    assert_false(sysfs_load(&tree->sysfs, 2, &load));
    assert_false(sysfs_load(&tree->sysfs, 5, &load));
}

static void a_foreign_or_free_device_has_none(void **state)
{
    struct tree *tree = *state;
    struct local_device device;

    assert_true(sysfs_read(&tree->sysfs, 3, &device));
    assert_true(device.in_use);
    assert_string_equal(device.cookie, "");
    assert_true(sysfs_read(&tree->sysfs, 2, &device));
    assert_false(device.in_use);
    assert_false(sysfs_read(&tree->sysfs, 5, &device));
}

static void without_the_module_there_are_no_devices(void **state)
{
    const struct sysfs none = {.block = "/nonexistent", .proc = "/nonexistent", .dev = "/dev"};
    struct local_device *devices;
    (void)state;

    assert_int_equal(sysfs_list(&none, &devices), 0);
    g_free(devices);
}

static void strange_contents_do_no_harm(void **state)
{
    struct tree *tree = *state;
    struct local_device device;
    g_autofree char *longer = g_strnfill(5000, 'x');

    write_file(tree, "block/nbd7/size", "99999999999999999999\n");
    write_file(tree, "block/nbd7/pid", "%s", "");
    write_file(tree, "block/nbd7/backend", "nbd-runner:%s", longer);

    assert_true(sysfs_read(&tree->sysfs, 7, &device));
    assert_int_equal(device.size_bytes, 0);
    assert_true(device.in_use);
    assert_int_equal(strlen(device.cookie), sizeof(device.cookie) - 1);
}

/* What sysfs_user() says, or "nobody". */
static void expect_user(struct tree *tree, int index, const char *sentence)
{
    g_autofree char *user = sysfs_user(&tree->sysfs, index);

    assert_string_equal(user != NULL ? user : "nobody", sentence);
}

static void a_mount_is_found_by_device_number(void **state)
{
    struct tree *tree = *state;

    write_file(tree, "proc/self/mountinfo",
               "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
               "36 22 43:320 / /mnt/my\\040disk rw shared:7 master:2 - ext4 /dev/root rw\n");

    expect_user(tree, 10, "is mounted on /mnt/my disk");
    expect_user(tree, 2, "nobody");
}

static void a_mounted_partition_counts(void **state)
{
    struct tree *tree = *state;

    write_file(tree, "proc/self/mountinfo", "36 22 43:321 / /mnt rw - xfs /dev/x rw\n");

    expect_user(tree, 10, "is mounted on /mnt");
}

static void a_mount_is_found_by_its_source_too(void **state)
{
    struct tree *tree = *state;

    write_file(tree, "proc/self/mountinfo", "36 22 0:55 / /data rw - btrfs %s/nbd10p1 rw\n",
               tree->dev);

    expect_user(tree, 10, "is mounted on /data");
}

static void broken_mountinfo_lines_are_skipped(void **state)
{
    struct tree *tree = *state;

    write_file(tree, "proc/self/mountinfo",
               "\n \n - \n36\n36 22 43:320\nx - y\n36 22 43:320 / /mnt\n");

    expect_user(tree, 10, "nobody");
}

static void swap_space_is_found(void **state)
{
    struct tree *tree = *state;

    write_file(tree, "proc/swaps",
               "Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n"
               "%s/nbd10                               partition\t1048572\t0\t-2\n",
               tree->dev);

    expect_user(tree, 10, "is used for swapping");
    expect_user(tree, 2, "nobody");
}

static void holders_are_found(void **state)
{
    struct tree *tree = *state;

    write_file(tree, "block/nbd10/nbd10p1/holders/dm-3", "%s", "");
    expect_user(tree, 10, "is held by the block device dm-3");
    write_file(tree, "block/nbd2/holders/md0", "%s", "");
    expect_user(tree, 2, "is held by the block device md0");
}

static void waiting_ends_at_the_deadline(void **state)
{
    struct tree *tree = *state;
    int64_t start = deadline_in_ms(0);

    assert_true(sysfs_wait_free(&tree->sysfs, 2, deadline_in_ms(5000)));
    assert_true(sysfs_wait_free(&tree->sysfs, 5, deadline_in_ms(5000)));
    assert_false(sysfs_wait_free(&tree->sysfs, 10, deadline_in_ms(60)));
    assert_false(sysfs_wait_ready(&tree->sysfs, 10, 1 << 20, deadline_in_ms(60)));
    assert_in_range(deadline_in_ms(0) - start, 120, 3000);
}

int main(void)
{
#define WITH_TREE(test) cmocka_unit_test_setup_teardown(test, make_tree, remove_tree)
    const struct CMUnitTest tests[] = {
        WITH_TREE(devices_are_listed_by_number),
        WITH_TREE(a_device_of_ours_has_its_cookie),
        WITH_TREE(the_address_of_the_daemon_stands_behind_the_cookie),
        WITH_TREE(requests_are_counted),
        WITH_TREE(a_foreign_or_free_device_has_none),
        cmocka_unit_test(without_the_module_there_are_no_devices),
        WITH_TREE(strange_contents_do_no_harm),
        WITH_TREE(a_mount_is_found_by_device_number),
        WITH_TREE(a_mounted_partition_counts),
        WITH_TREE(a_mount_is_found_by_its_source_too),
        WITH_TREE(broken_mountinfo_lines_are_skipped),
        WITH_TREE(swap_space_is_found),
        WITH_TREE(holders_are_found),
        WITH_TREE(waiting_ends_at_the_deadline),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
