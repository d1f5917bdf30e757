/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The file handler as the daemon sees it: the library is loaded, given a fake host, and asked.
 * All runs four times: with io_uring and without it, on a disk and in memory. What needs root
 * (a small file system, a block device) is skipped for others.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <glib.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fake_host.h"

#define MIB (UINT64_C(1) << 20)
#define TIMEOUT_MS 20000

/* ---- The surroundings of a test ---- */

static struct {
    const char *base; /* where the directories of the tests are made */
    bool no_ring;
} mode;

struct fixture {
    void *library;
    struct nbd_handler *handler;
    struct nbd_config config;
    char *dir;   /* of this test alone */
    char *root;  /* the first of file_roots, dir/root */
    char *other; /* the second, dir/other */
    const char *roots[3];
    struct nbd_device dev;
    struct nbd_opt opt;
    struct nbd_failure why;
    bool mapped;
    char *loop; /* /dev/loopN */
    bool mounted;
};

static char *path_in(const struct fixture *fixture, const char *name)
{
    return g_build_filename(fixture->root, name, NULL);
}

static int run(const char *format, ...) G_GNUC_PRINTF(1, 2);
static int run(const char *format, ...)
{
    va_list args;
    g_autofree char *command = NULL;

    va_start(args, format);
    command = g_strdup_vprintf(format, args);
    va_end(args);
    return system(command);
}

static int set_up(void **state)
{
    struct fixture *fixture = g_new0(struct fixture, 1);
    struct nbd_handler *(*init)(const struct nbd_config *);

    fixture->dir = g_strdup_printf("%s/nbd-runner-test-XXXXXX", mode.base);
    if (mkdtemp(fixture->dir) == NULL)
        return -1;
    fixture->root = g_build_filename(fixture->dir, "root", NULL);
    fixture->other = g_build_filename(fixture->dir, "other", NULL);
    if (mkdir(fixture->root, 0700) < 0 || mkdir(fixture->other, 0700) < 0)
        return -1;
    fixture->roots[0] = fixture->root;
    fixture->roots[1] = fixture->other;
    if (mode.no_ring)
        setenv("NBD_RUNNER_NO_IO_URING", "1", 1);
    else
        unsetenv("NBD_RUNNER_NO_IO_URING");
    fixture->config = (struct nbd_config){
        .abi = NBD_HANDLER_ABI,
        .size = sizeof(fixture->config),
        .host = fake_host_start(),
        .threads = 3,
        .file_roots = fixture->roots,
    };
    fixture->library = dlopen(HANDLER_DIR_BUILT "/libfile_handler.so", RTLD_NOW | RTLD_LOCAL);
    if (fixture->library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return -1;
    }
    init = (struct nbd_handler * (*)(const struct nbd_config *))
        dlsym(fixture->library, "handler_init");
    fixture->handler = init(&fixture->config);
    *state = fixture;
    return 0;
}

static void close_device(struct fixture *fixture)
{
    if (fixture->mapped)
        fixture->handler->unmap(&fixture->dev);
    fixture->mapped = false;
    if (fixture->dev.priv != NULL)
        fixture->handler->destroy(&fixture->dev);
    fixture->dev.priv = NULL;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    int r = 0;

    close_device(fixture);
    fixture->handler->fini();
    fake_host_stop();
    if (fixture->loop != NULL)
        r |= run("losetup -d %s", fixture->loop);
    if (fixture->mounted)
        r |= umount2(fixture->root, MNT_DETACH);
    r |= run("rm -rf %s", fixture->dir);
    dlclose(fixture->library);
    g_free(fixture->dir);
    g_free(fixture->root);
    g_free(fixture->other);
    g_free(fixture->loop);
    g_free(fixture);
    return r;
}

/* ---- Steps of a test ---- */

static int parse(struct fixture *fixture, const char *target)
{
    fixture->dev.name = "test";
    fixture->dev.target = target;
    fixture->why.message[0] = '\0';
    return fixture->handler->cfg_parse(&fixture->dev, target, &fixture->why);
}

static int create(struct fixture *fixture, const char *target, uint64_t size)
{
    int r = parse(fixture, target);

    fixture->dev.size = size;
    return r < 0 ? r : fixture->handler->create(&fixture->dev, &fixture->why);
}

static int map(struct fixture *fixture)
{
    int r = fixture->handler->map(&fixture->dev, &fixture->why);

    fixture->mapped = r == 0;
    return r;
}

/* Makes `target` below the root and opens it. */
static void open_new(struct fixture *fixture, const char *target, uint64_t size)
{
    int r = create(fixture, target, size);

    if (r == 0)
        r = map(fixture);
    if (r < 0)
        print_error("%s\n", fixture->why.message);
    assert_int_equal(r, 0);
}

static int open_existing(struct fixture *fixture, const char *target)
{
    int r = parse(fixture, target);

    return r < 0 ? r : map(fixture);
}

static void assert_says(const struct fixture *fixture, const char *part)
{
    if (strstr(fixture->why.message, part) == NULL)
        fail_msg("'%s' does not say '%s'", fixture->why.message, part);
}

static void assert_empty(const char *directory)
{
    g_autoptr(GDir) dir = g_dir_open(directory, 0, NULL);
    const char *name = g_dir_read_name(dir);

    if (name != NULL)
        fail_msg("%s was left in %s", name, directory);
}

static struct stat stat_of(const struct fixture *fixture, const char *name)
{
    g_autofree char *path = path_in(fixture, name);
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    return st;
}

struct io {
    struct nbd_request rq;
    bool ended;
    int result;
    unsigned *count; /* of ended ones, or NULL */
};

static void on_done(struct nbd_request *rq, int result)
{
    struct io *io = (struct io *)rq;

    assert_false(io->ended);
    io->ended = true;
    io->result = result;
    if (io->count != NULL)
        ++*io->count;
}

static void submit(struct fixture *fixture, struct io *io, uint16_t op, uint16_t flags,
                   uint64_t offset, uint64_t length, void *data)
{
    *io = (struct io){.rq = {&fixture->dev, offset, length, op, flags, data, on_done, {0}}};
    fixture->handler->submit(&io->rq);
}

static int finish(struct fixture *fixture, struct io *io)
{
    fixture->handler->submit_batch(&fixture->dev);
    assert_true(fake_host_run_until(&io->ended, TIMEOUT_MS));
    return io->result;
}

/* Past the fast path. */
static int slowly(struct fixture *fixture, uint16_t op, uint16_t flags, uint64_t offset,
                  uint64_t length, void *data)
{
    struct io io;

    submit(fixture, &io, op, flags, offset, length, data);
    return finish(fixture, &io);
}

/* As the daemon does it. */
static int perform(struct fixture *fixture, uint16_t op, uint16_t flags, uint64_t offset,
                   uint64_t length, void *data)
{
    struct nbd_request rq = {&fixture->dev, offset, length, op, flags, data, NULL, {0}};
    int r = fixture->handler->try_now(&rq);

    return r != -EAGAIN ? r : slowly(fixture, op, flags, offset, length, data);
}

static void fill(void *data, size_t length, unsigned seed)
{
    for (size_t i = 0; i < length; i++)
        ((uint8_t *)data)[i] = (uint8_t)((i * 7 + i / 251 + seed * 31) | 1);
}

/* The whole device holds `seed`'s bytes. */
static uint8_t *write_all(struct fixture *fixture, size_t length, unsigned seed)
{
    uint8_t *data = g_malloc0(length);

    fill(data, length, seed);
    assert_int_equal(perform(fixture, NBD_OP_WRITE, 0, 0, length, data), 0);
    return data;
}

static void assert_device_holds(struct fixture *fixture, const uint8_t *data, size_t length)
{
    g_autofree uint8_t *now = g_malloc0(length);
    g_autofree uint8_t *later = g_malloc0(length);

    assert_int_equal(perform(fixture, NBD_OP_READ, 0, 0, length, now), 0);
    assert_int_equal(slowly(fixture, NBD_OP_READ, 0, 0, length, later), 0);
    assert_memory_equal(now, data, length);
    assert_memory_equal(later, data, length);
}

/* ---- Which targets are allowed ---- */

static void a_target_with_dot_dot_is_refused(void **state)
{
    struct fixture *fixture = *state;

    assert_int_equal(parse(fixture, "a/../../etc/passwd"), -EINVAL);
    assert_says(fixture, "a/../../etc/passwd");
    assert_null(fixture->dev.priv);
}

static void an_absolute_target_outside_the_roots_is_refused(void **state)
{
    struct fixture *fixture = *state;
    g_autofree char *similar = g_strconcat(fixture->root, "2/disk", NULL);

    assert_int_equal(parse(fixture, "/etc/passwd"), -EPERM);
    assert_says(fixture, "/etc/passwd");
    assert_says(fixture, fixture->root);
    assert_says(fixture, "add its directory to file_roots");
    assert_int_equal(parse(fixture, similar), -EPERM);
    assert_int_equal(parse(fixture, fixture->root), -EPERM);
}

static void a_target_that_names_no_file_is_refused(void **state)
{
    struct fixture *fixture = *state;
    g_autofree char *long_part = g_strnfill(256, 'x');

    assert_int_equal(parse(fixture, ""), -EINVAL);
    assert_int_equal(parse(fixture, "disk/"), -EISDIR);
    assert_int_equal(parse(fixture, long_part), -ENAMETOOLONG);
    assert_int_equal(parse(fixture, "a\nb"), -EINVAL);
    assert_int_equal(parse(fixture, "."), -EPERM);
}

static void a_target_in_any_of_the_roots_is_taken(void **state)
{
    struct fixture *fixture = *state;
    g_autofree char *target = g_build_filename(fixture->other, ".", "disk", NULL);
    g_autofree char *made = g_build_filename(fixture->other, "disk", NULL);

    assert_int_equal(create(fixture, target, MIB), 0);
    assert_int_equal(access(made, F_OK), 0);
}

static void a_relative_root_lies_below_the_working_directory(void **state)
{
    struct fixture *fixture = *state;
    g_autofree char *before = g_get_current_dir();
    int r;

    fixture->roots[0] = "root";
    assert_int_equal(chdir(fixture->dir), 0);
    r = create(fixture, "disk", MIB);
    assert_int_equal(chdir(before), 0);
    assert_int_equal(r, 0);
    assert_int_equal(stat_of(fixture, "disk").st_size, MIB);
}

static void a_trusted_target_may_lie_anywhere(void **state)
{
    struct fixture *fixture = *state;
    g_autofree char *target = g_build_filename(fixture->dir, "root", "..", "disk", NULL);

    fixture->dev.trusted = true;
    open_new(fixture, target, MIB);
    assert_int_equal(fixture->handler->get_size(&fixture->dev), MIB);
}

static void a_symbolic_link_out_of_the_root_is_refused(void **state)
{
    struct fixture *fixture = *state;
    g_autofree char *outside = g_build_filename(fixture->other, "secret", NULL);
    g_autofree char *file = path_in(fixture, "file");
    g_autofree char *directory = path_in(fixture, "directory");

    assert_true(g_file_set_contents(outside, "x", 1, NULL));
    assert_int_equal(symlink("../other/secret", file), 0);
    assert_int_equal(symlink(fixture->other, directory), 0);

    assert_int_equal(open_existing(fixture, "file"), -EPERM);
    assert_says(fixture, "leads out of");
    close_device(fixture);
    assert_int_equal(open_existing(fixture, "directory/secret"), -EPERM);
    close_device(fixture);
    assert_int_equal(create(fixture, "directory/new", MIB), -EPERM);
    assert_int_equal(fixture->handler->delete(&fixture->dev, &fixture->why), -EPERM);
    close_device(fixture);
    assert_int_equal(parse(fixture, "file"), 0);
    assert_int_equal(fixture->handler->delete(&fixture->dev, &fixture->why), -ENOTSUP);
    assert_int_equal(access(outside, F_OK), 0);
}

static void a_symbolic_link_inside_the_root_is_followed(void **state)
{
    struct fixture *fixture = *state;
    g_autofree char *link = NULL;

    if (syscall(SYS_openat2, AT_FDCWD, ".", NULL, 0) < 0 && errno == ENOSYS)
        skip(); /* an old kernel, or valgrind */
    link = path_in(fixture, "link");
    assert_int_equal(create(fixture, "disk", MIB), 0);
    close_device(fixture);
    assert_int_equal(symlink("disk", link), 0);

    assert_int_equal(open_existing(fixture, "link"), 0);
    assert_int_equal(fixture->handler->get_size(&fixture->dev), MIB);
}

/* From now on this thread gets `err` from a system call; with `flag` set, only where its third
 * argument has one of these bits. */
static bool deny(unsigned number, unsigned flag, unsigned err)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, flag, 0, flag != 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | err),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {G_N_ELEMENTS(code), code};

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

/* Runs `use` in a thread of its own, which may deny itself what it likes. It returns what is
 * wrong, or NULL. */
static void assert_good_in_thread(struct fixture *fixture, const char *(*use)(struct fixture *))
{
    const char *wrong = g_thread_join(g_thread_new("denied", (GThreadFunc)use, fixture));

    if (g_strcmp0(wrong, "no seccomp") != 0 && wrong != NULL)
        fail_msg("%s", wrong);
}

static const char *use_kernel_without_openat2(struct fixture *fixture)
{
    if (!deny(SYS_openat2, 0, ENOSYS))
        return "no seccomp";
    if (open_existing(fixture, "below/disk") != 0)
        return "an existing file was not opened";
    close_device(fixture);
    if (create(fixture, "link/disk", MIB) != -EPERM)
        return "a link was followed";
    close_device(fixture);
    return create(fixture, "below/second", MIB) == 0 ? NULL : fixture->why.message;
}

static void an_old_kernel_opens_files_but_follows_no_link(void **state)
{
    struct fixture *fixture = *state;
    g_autofree char *below = path_in(fixture, "below");
    g_autofree char *link = path_in(fixture, "link");

    assert_int_equal(mkdir(below, 0700), 0);
    assert_int_equal(create(fixture, "below/disk", MIB), 0);
    close_device(fixture);
    assert_int_equal(symlink(fixture->other, link), 0);

    assert_good_in_thread(fixture, use_kernel_without_openat2);
}

static void an_unknown_option_is_named(void **state)
{
    struct fixture *fixture = *state;

    fixture->opt = (struct nbd_opt){"cash", "true"};
    fixture->dev.opts = &fixture->opt;
    fixture->dev.n_opts = 1;
    assert_int_equal(parse(fixture, "disk"), -EINVAL);
    assert_says(fixture, "'cash'");

    fixture->opt = (struct nbd_opt){"direct", "perhaps"};
    assert_int_equal(parse(fixture, "disk"), -EINVAL);
    assert_says(fixture, "perhaps");
}

/* ---- Making and removing ---- */

static void create_makes_a_sparse_file(void **state)
{
    struct fixture *fixture = *state;
    struct stat st;

    assert_int_equal(create(fixture, "disk", 3 * MIB + 1), 0);

    st = stat_of(fixture, "disk");
    assert_int_equal(st.st_size, 3 * MIB + 1);
    assert_int_equal(st.st_blocks, 0);
    assert_int_equal(st.st_mode & 07777, 0600);
}

static void create_with_prealloc_allocates_all_blocks(void **state)
{
    struct fixture *fixture = *state;
    uint64_t done, total;
    struct stat st;

    fixture->dev.prealloc = true;
    assert_int_equal(create(fixture, "disk", 3 * MIB), 0);

    st = stat_of(fixture, "disk");
    assert_int_equal(st.st_size, 3 * MIB);
    assert_true((uint64_t)st.st_blocks * 512 >= 3 * MIB);
    fixture->handler->progress(&fixture->dev, &done, &total);
    assert_int_equal(done, 3 * MIB);
    assert_int_equal(total, 3 * MIB);
}

static void create_never_replaces_a_file(void **state)
{
    struct fixture *fixture = *state;
    g_autofree char *path = path_in(fixture, "disk");

    assert_true(g_file_set_contents(path, "precious", 8, NULL));

    assert_int_equal(create(fixture, "disk", MIB), -EEXIST);
    assert_says(fixture, path);
    assert_int_equal(stat_of(fixture, "disk").st_size, 8);
}

static void create_refuses_an_impossible_size(void **state)
{
    struct fixture *fixture = *state;

    assert_int_equal(create(fixture, "disk", 0), -EINVAL);
    close_device(fixture);
    assert_int_equal(create(fixture, "disk", UINT64_C(1) << 63), -EFBIG);
    assert_empty(fixture->root);
}

static void create_names_a_missing_directory(void **state)
{
    struct fixture *fixture = *state;
    g_autofree char *missing = path_in(fixture, "no/such");

    assert_int_equal(create(fixture, "no/such/disk", MIB), -ENOENT);
    assert_says(fixture, missing);
    close_device(fixture);
    assert_int_equal(rmdir(fixture->root), 0);
    assert_int_equal(create(fixture, "disk", MIB), -ENOENT);
    assert_says(fixture, "of file_roots does not exist");
}

static void a_canceled_create_leaves_nothing(void **state)
{
    struct fixture *fixture = *state;

    fixture->dev.prealloc = true;
    fixture->dev.size = MIB;
    assert_int_equal(parse(fixture, "disk"), 0);
    fixture->handler->cancel(&fixture->dev);

    assert_int_equal(fixture->handler->create(&fixture->dev, &fixture->why), -ECANCELED);
    assert_empty(fixture->root);
}

static void a_create_over_a_limit_leaves_nothing(void **state)
{
    struct fixture *fixture = *state;
    struct rlimit before, small;

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = (struct rlimit){MIB, before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_int_equal(create(fixture, "disk", 2 * MIB), -EFBIG);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);

    assert_says(fixture, "limit");
    assert_empty(fixture->root);
}

static const char *use_plain_file_system(struct fixture *fixture)
{
    if (!deny(SYS_openat, O_TMPFILE & ~O_DIRECTORY, EOPNOTSUPP) ||
        !deny(SYS_fallocate, 0, EOPNOTSUPP))
        return "no seccomp";
    fixture->dev.prealloc = true;
    if (create(fixture, "disk", 3 * MIB + 1) != 0)
        return fixture->why.message;
    close_device(fixture);
    if (create(fixture, "disk", MIB) != -EEXIST)
        return "a file was replaced";
    close_device(fixture);
    if (parse(fixture, "second") != 0)
        return fixture->why.message;
    fixture->handler->cancel(&fixture->dev);
    if (fixture->handler->create(&fixture->dev, &fixture->why) != -ECANCELED)
        return "it was not canceled";
    return NULL;
}

static void create_needs_nothing_special_of_a_file_system(void **state)
{
    struct fixture *fixture = *state;
    g_autofree char *path = path_in(fixture, "disk");
    struct stat st;

    assert_good_in_thread(fixture, use_plain_file_system);

    if (access(path, F_OK) == 0) {
        st = stat_of(fixture, "disk");
        assert_int_equal(st.st_size, 3 * MIB + 1);
        assert_true((uint64_t)st.st_blocks * 512 >= 3 * MIB + 1);
        assert_int_equal(unlink(path), 0);
    }
    assert_empty(fixture->root);
}

static void mount_small(struct fixture *fixture)
{
    if (geteuid() != 0)
        skip();
    assert_int_equal(mount("test", fixture->root, "tmpfs", 0, "size=2m,mode=700"), 0);
    fixture->mounted = true;
}

static void a_create_on_a_full_disk_leaves_nothing(void **state)
{
    struct fixture *fixture = *state;

    mount_small(fixture);
    fixture->dev.prealloc = true;

    assert_int_equal(create(fixture, "disk", 4 * MIB), -ENOSPC);
    assert_says(fixture, "no space left");
    assert_says(fixture, "4194304");
    assert_empty(fixture->root);
}

static void a_write_on_a_full_disk_fails_with_enospc(void **state)
{
    struct fixture *fixture = *state;
    g_autofree uint8_t *data = NULL;

    mount_small(fixture);
    data = g_malloc0(4 * MIB);
    open_new(fixture, "disk", 8 * MIB);

    assert_int_equal(perform(fixture, NBD_OP_WRITE, 0, 0, 4 * MIB, data), -ENOSPC);
    assert_int_equal(slowly(fixture, NBD_OP_WRITE, 0, 4 * MIB, 4 * MIB, data), -ENOSPC);
}

static void delete_removes_the_file_and_nothing_else(void **state)
{
    struct fixture *fixture = *state;
    g_autofree char *directory = path_in(fixture, "directory");

    assert_int_equal(mkdir(directory, 0700), 0);
    assert_int_equal(create(fixture, "disk", MIB), 0);
    assert_int_equal(fixture->handler->delete(&fixture->dev, &fixture->why), 0);
    assert_int_equal(fixture->handler->delete(&fixture->dev, &fixture->why), -ENOENT);
    close_device(fixture);
    assert_int_equal(parse(fixture, "directory"), 0);
    assert_int_equal(fixture->handler->delete(&fixture->dev, &fixture->why), -ENOTSUP);
    assert_says(fixture, "is a directory");
    assert_int_equal(rmdir(directory), 0);
    assert_empty(fixture->root);
}

/* ---- Opening ---- */

static void only_files_and_block_devices_are_opened(void **state)
{
    struct fixture *fixture = *state;
    g_autofree char *pipe_path = path_in(fixture, "pipe");

    assert_int_equal(mkfifo(pipe_path, 0600), 0);
    assert_int_equal(open_existing(fixture, "pipe"), -EINVAL);
    assert_says(fixture, "is a pipe");
    close_device(fixture);
    assert_int_equal(open_existing(fixture, "missing"), -ENOENT);
    assert_says(fixture, "missing");
    close_device(fixture);
    fixture->dev.trusted = true;
    assert_int_equal(open_existing(fixture, "/dev/null"), -EINVAL);
    assert_says(fixture, "a character device");
}

static void a_second_writer_is_refused(void **state)
{
    struct fixture *fixture = *state;
    struct nbd_device second = {.name = "second", .target = "disk"};

    open_new(fixture, "disk", MIB);
    assert_int_equal(fixture->handler->cfg_parse(&second, "disk", &fixture->why), 0);
    assert_int_equal(fixture->handler->map(&second, &fixture->why), -EBUSY);
    assert_says(fixture, "is locked");
    close_device(fixture);
    assert_int_equal(fixture->handler->map(&second, &fixture->why), 0);
    fixture->handler->unmap(&second);
    fixture->handler->destroy(&second);
}

static void two_readers_share_a_file(void **state)
{
    struct fixture *fixture = *state;
    struct nbd_device second = {.name = "second", .target = "disk", .readonly = true};

    assert_int_equal(create(fixture, "disk", MIB), 0);
    fixture->dev.readonly = true;
    assert_int_equal(map(fixture), 0);
    assert_int_equal(fixture->dev.caps, NBD_CAP_CACHE | NBD_CAP_MULTI_CONN);
    assert_int_equal(fixture->handler->cfg_parse(&second, "disk", &fixture->why), 0);
    assert_int_equal(fixture->handler->map(&second, &fixture->why), 0);
    fixture->handler->unmap(&second);
    fixture->handler->destroy(&second);
}

static void an_open_file_describes_itself(void **state)
{
    struct fixture *fixture = *state;

    open_new(fixture, "disk", 5 * MIB + 3);

    assert_int_equal(fixture->dev.min_block, 1);
    assert_true(fixture->dev.pref_block >= 4096);
    assert_int_equal(fixture->dev.pref_block & (fixture->dev.pref_block - 1), 0);
    assert_true(fixture->dev.caps & NBD_CAP_MULTI_CONN);
    assert_true(fixture->dev.caps & NBD_CAP_FAST_ZERO);
    assert_int_equal(fixture->handler->get_size(&fixture->dev), 5 * MIB + 3);
    assert_int_equal(fixture->handler->get_blksize(&fixture->dev), 0);
}

static void resize_grows_and_shrinks(void **state)
{
    struct fixture *fixture = *state;
    g_autofree uint8_t *data = NULL;
    uint8_t byte = 1;

    open_new(fixture, "disk", MIB);
    data = write_all(fixture, MIB, 1);
    fixture->dev.size = 2 * MIB;
    assert_int_equal(fixture->handler->resize(&fixture->dev, &fixture->why), 0);
    assert_int_equal(fixture->handler->get_size(&fixture->dev), 2 * MIB);
    assert_int_equal(perform(fixture, NBD_OP_READ, 0, 2 * MIB - 1, 1, &byte), 0);
    assert_int_equal(byte, 0);
    assert_device_holds(fixture, data, MIB);

    fixture->dev.size = MIB / 2;
    assert_int_equal(fixture->handler->resize(&fixture->dev, &fixture->why), 0);
    assert_int_equal(stat_of(fixture, "disk").st_size, MIB / 2);
}

/* ---- Data ---- */

static void what_is_written_is_read_back_at_odd_offsets(void **state)
{
    static const struct { uint64_t offset, length; } ranges[] = {
        {0, 1}, {511, 2}, {4095, 4097}, {65537, 131071}, {MIB - 1, MIB + 2}, {5 * MIB - 7, 7},
    };
    struct fixture *fixture = *state;
    g_autofree uint8_t *model = g_malloc0(5 * MIB);

    open_new(fixture, "disk", 5 * MIB);
    for (unsigned i = 0; i < 2 * G_N_ELEMENTS(ranges); i++) {
        uint64_t offset = ranges[i / 2].offset, length = ranges[i / 2].length;

        fill(model + offset, length, i);
        assert_int_equal((i % 2 ? slowly : perform)(fixture, NBD_OP_WRITE, 0, offset, length,
                                                    model + offset), 0);
        assert_device_holds(fixture, model, 5 * MIB);
    }
}

static void a_large_transfer_is_whole(void **state)
{
    struct fixture *fixture = *state;
    g_autofree uint8_t *data = g_malloc0(64 * MIB);
    g_autofree uint8_t *back = g_malloc0(64 * MIB);

    open_new(fixture, "disk", 64 * MIB);
    fill(data, 64 * MIB, 3);
    assert_int_equal(perform(fixture, NBD_OP_WRITE, NBD_RQ_FUA, 0, 64 * MIB, data), 0);
    assert_int_equal(perform(fixture, NBD_OP_READ, 0, 0, 64 * MIB, back), 0);
    assert_memory_equal(data, back, 64 * MIB);
}

static void a_cached_read_is_served_at_once(void **state)
{
    struct fixture *fixture = *state;
    g_autofree uint8_t *data = NULL;
    uint8_t back[4096];
    struct nbd_request rq = {.dev = &fixture->dev, .offset = 8192, .length = sizeof(back),
                             .op = NBD_OP_READ, .data = back};

    open_new(fixture, "disk", MIB);
    data = write_all(fixture, MIB, 5);

    assert_int_equal(fixture->handler->try_now(&rq), 0);
    assert_memory_equal(back, data + 8192, sizeof(back));
}

static void a_cached_range_can_be_sent_from_the_file(void **state)
{
    struct fixture *fixture = *state;
    g_autofree uint8_t *data = NULL;
    int fd;

    open_new(fixture, "disk", 2 * MIB);
    data = write_all(fixture, MIB, 5);

    fd = fixture->handler->sendfile_fd(&fixture->dev, 12345, 65536);
    if (fd >= 0) { /* a kernel with cachestat(2), or memory */
        uint8_t back[16];

        assert_int_equal(pread(fd, back, sizeof(back), 12345), sizeof(back));
        assert_memory_equal(back, data + 12345, sizeof(back));
    }
    assert_int_equal(fixture->handler->sendfile_fd(&fixture->dev, 2 * MIB - 1, 2), -1);
    assert_int_equal(fixture->handler->sendfile_fd(&fixture->dev, 0, 0), -1);
}

static void a_read_past_a_truncated_file_is_an_error(void **state)
{
    struct fixture *fixture = *state;
    g_autofree char *path = path_in(fixture, "disk");
    g_autofree uint8_t *data = NULL;
    uint8_t back[8192];

    open_new(fixture, "disk", MIB);
    data = write_all(fixture, MIB, 1);
    assert_int_equal(truncate(path, 4096), 0);

    assert_int_equal(perform(fixture, NBD_OP_READ, 0, 0, sizeof(back), back), -EIO);
    assert_int_equal(perform(fixture, NBD_OP_READ, 0, MIB - 4096, 4096, back), -EIO);
    assert_int_equal(perform(fixture, NBD_OP_READ, 0, 0, 4096, back), 0);
    assert_int_equal(fixture->handler->sendfile_fd(&fixture->dev, 0, sizeof(back)), -1);
}

/* ---- What is hot is mapped ---- */

static unsigned count_mappings(struct fixture *fixture, const char *name)
{
    g_autofree char *path = path_in(fixture, name);
    g_autofree char *maps = NULL;
    unsigned n = 0;

    assert_true(g_file_get_contents("/proc/self/maps", &maps, NULL, NULL));
    for (const char *at = maps; (at = strstr(at, path)) != NULL; at++)
        n++;
    return n;
}

/* Reads that are served at once, until the file gets mapped and some more. */
static void heat(struct fixture *fixture, const uint8_t *data, size_t length)
{
    uint8_t back[4096];

    for (size_t i = 0; i < 1000; i++) {
        size_t offset = i * 12347 % (length - sizeof(back));
        struct nbd_request rq = {.dev = &fixture->dev, .offset = offset, .op = NBD_OP_READ,
                                 .length = sizeof(back), .data = back};

        assert_int_equal(fixture->handler->try_now(&rq), 0);
        assert_memory_equal(back, data + offset, sizeof(back));
    }
}

static void what_is_hot_is_mapped_and_always_current(void **state)
{
    struct fixture *fixture = *state;
    g_autofree char *path = path_in(fixture, "disk");
    g_autofree uint8_t *data = NULL;
    g_autofree char *stored = NULL;
    uint8_t back[8192];

    open_new(fixture, "disk", 5 * MIB);
    data = write_all(fixture, 5 * MIB, 3);
    assert_int_equal(count_mappings(fixture, "disk"), 0);
    heat(fixture, data, 5 * MIB);
    assert_true(count_mappings(fixture, "disk") > 0);

    for (unsigned i = 0; i < 50; i++) {
        size_t offset = i * 99991;

        fill(data + offset, 5000, i);
        assert_int_equal(perform(fixture, NBD_OP_WRITE, 0, offset, 5000, data + offset), 0);
        assert_int_equal(perform(fixture, NBD_OP_READ, 0, offset, 5000, back), 0);
        assert_memory_equal(back, data + offset, 5000);
    }
    memset(data + 65536, 0, 131072);
    assert_int_equal(perform(fixture, NBD_OP_WRITE_ZEROES, 0, 65536, 131072, NULL), 0);
    assert_device_holds(fixture, data, 5 * MIB);
    assert_int_equal(perform(fixture, NBD_OP_READ, 0, 2 * MIB - 4096, 8192, back), 0);
    assert_memory_equal(back, data + 2 * MIB - 4096, 8192); /* in two chunks */

    fixture->handler->unmap(&fixture->dev);
    fixture->mapped = false;
    assert_int_equal(count_mappings(fixture, "disk"), 0);
    assert_true(g_file_get_contents(path, &stored, NULL, NULL));
    assert_memory_equal(stored, data, 5 * MIB);
}

static void mapped_ranges_can_be_sent_from_memory(void **state)
{
    struct fixture *fixture = *state;
    g_autofree uint8_t *data = NULL;
    uint64_t length = 4 * MIB;
    const void *at = NULL;

    open_new(fixture, "disk", 4 * MIB);
    data = write_all(fixture, 4 * MIB, 4);
    assert_null(fixture->handler->mapped(&fixture->dev, 1000, &length));
    heat(fixture, data, 4 * MIB);

    /* A machine that is busy may be slow to ask, and then the answer is too old. */
    for (unsigned i = 0; i < 1000 && at == NULL; i++) {
        length = 4 * MIB - 1000;
        at = fixture->handler->mapped(&fixture->dev, 1000, &length);
    }
    assert_non_null(at);
    assert_int_equal(length, 2 * MIB - 1000);
    assert_memory_equal(at, data + 1000, length);
    assert_true(fixture->handler->sendfile_fd(&fixture->dev, 100000, 3 * MIB) >= 0);
}

static void a_hot_file_that_is_truncated_fails_and_nothing_else(void **state)
{
    struct fixture *fixture = *state;
    g_autofree char *path = path_in(fixture, "disk");
    g_autofree uint8_t *data = NULL;
    uint8_t back[8192];

    open_new(fixture, "disk", 2 * MIB);
    data = write_all(fixture, 2 * MIB, 1);
    for (unsigned i = 0; i < 10; i++) {
        heat(fixture, data, 2 * MIB);
        assert_int_equal(truncate(path, 4096), 0);
        assert_int_equal(perform(fixture, NBD_OP_READ, 0, 0, sizeof(back), back), -EIO);
        assert_int_equal(perform(fixture, NBD_OP_READ, 0, MIB, 4096, back), -EIO);
        assert_int_equal(perform(fixture, NBD_OP_READ, 0, 0, 4096, back), 0);
        assert_int_equal(truncate(path, 2 * MIB), 0);
        assert_int_equal(perform(fixture, NBD_OP_WRITE, 0, 0, 2 * MIB, data), 0);
    }
}

/* mincore() tells others that everything is in memory. */
static void a_file_of_others_is_not_mapped(void **state)
{
    struct fixture *fixture = *state;
    g_autofree char *path = NULL;
    g_autofree uint8_t *data = NULL;
    unsigned mappings;
    int r;

    if (geteuid() != 0)
        skip(); /* which frees nothing: nothing is allocated yet */
    path = path_in(fixture, "disk");
    open_new(fixture, "disk", 2 * MIB);
    data = write_all(fixture, 2 * MIB, 6);
    close_device(fixture);
    assert_int_equal(chmod(path, 0444), 0);
    assert_int_equal(chmod(fixture->dir, 0755) | chmod(fixture->root, 0755), 0);
    fixture->dev.readonly = true;
    assert_int_equal(seteuid(65534), 0);
    r = open_existing(fixture, "disk");
    if (r == 0)
        heat(fixture, data, 2 * MIB);
    mappings = count_mappings(fixture, "disk");
    assert_int_equal(seteuid(0), 0);
    assert_int_equal(r, 0);
    assert_int_equal(mappings, 0);
}

static void a_transfer_that_memory_refuses_ends(void **state)
{
    struct fixture *fixture = *state;
    g_autofree uint8_t *data = NULL;
    const char *preloaded = getenv("LD_PRELOAD");
    uint8_t back[4096];
    void *wall;

    if (preloaded != NULL && strstr(preloaded, "vgpreload") != NULL)
        skip(); /* valgrind takes it for a mistake of the test */
    wall = mmap(NULL, 65536, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(wall, MAP_FAILED);
    open_new(fixture, "disk", MIB);
    data = write_all(fixture, MIB, 1);

    assert_int_equal(perform(fixture, NBD_OP_READ, 0, 0, 65536, wall), -EFAULT);
    assert_int_equal(perform(fixture, NBD_OP_WRITE, 0, 0, 65536, wall), -EFAULT);
    assert_int_equal(perform(fixture, NBD_OP_READ, 0, 0, sizeof(back), back), 0);
    assert_memory_equal(back, data, sizeof(back));
    munmap(wall, 65536);
}

static void trim_gives_blocks_back(void **state)
{
    struct fixture *fixture = *state;
    g_autofree uint8_t *data = NULL;
    blkcnt_t before;

    open_new(fixture, "disk", 4 * MIB);
    data = write_all(fixture, 4 * MIB, 1);
    assert_int_equal(perform(fixture, NBD_OP_FLUSH, 0, 0, 0, NULL), 0);
    before = stat_of(fixture, "disk").st_blocks;

    assert_int_equal(perform(fixture, NBD_OP_TRIM, NBD_RQ_FUA, MIB, 2 * MIB, NULL), 0);

    assert_true(stat_of(fixture, "disk").st_blocks <= before - (blkcnt_t)(2 * MIB / 512));
    memset(data + MIB, 0, 2 * MIB);
    assert_device_holds(fixture, data, 4 * MIB);
}

static void zeroes_with_and_without_holes_read_as_zero(void **state)
{
    static const uint16_t flags[] = {
        0, NBD_RQ_NO_HOLE, NBD_RQ_FUA, NBD_RQ_NO_HOLE | NBD_RQ_FUA,
    };
    struct fixture *fixture = *state;

    open_new(fixture, "disk", 4 * MIB);
    for (unsigned i = 0; i < G_N_ELEMENTS(flags); i++) {
        g_autofree uint8_t *data = write_all(fixture, 4 * MIB, i);

        assert_int_equal(perform(fixture, NBD_OP_WRITE_ZEROES, flags[i], 4097, 3 * MIB, NULL),
                         0);
        memset(data + 4097, 0, 3 * MIB);
        assert_device_holds(fixture, data, 4 * MIB);
        if (flags[i] & NBD_RQ_NO_HOLE)
            assert_true((uint64_t)stat_of(fixture, "disk").st_blocks * 512 >= 4 * MIB);
    }
    assert_int_equal(stat_of(fixture, "disk").st_size, 4 * MIB);
}

static void fast_zeroes_are_fast_or_refused(void **state)
{
    struct fixture *fixture = *state;
    g_autofree uint8_t *data = NULL;
    int r;

    open_new(fixture, "disk", 4 * MIB);
    data = write_all(fixture, 4 * MIB, 1);
    assert_int_equal(perform(fixture, NBD_OP_WRITE_ZEROES, NBD_RQ_FAST_ZERO, 0, MIB, NULL), 0);
    memset(data, 0, MIB);
    r = perform(fixture, NBD_OP_WRITE_ZEROES, NBD_RQ_FAST_ZERO | NBD_RQ_NO_HOLE, MIB, MIB,
                NULL);
    assert_true(r == 0 || r == -ENOTSUP);
    if (r == 0)
        memset(data + MIB, 0, MIB);
    assert_device_holds(fixture, data, 4 * MIB);
}

static void huge_ranges_are_trimmed_and_zeroed_at_once(void **state)
{
    struct fixture *fixture = *state;
    uint64_t size = UINT64_C(8) << 40;

    if (create(fixture, "disk", size) == -EFBIG)
        skip();
    assert_int_equal(map(fixture), 0);
    assert_int_equal(perform(fixture, NBD_OP_TRIM, 0, 0, size, NULL), 0);
    assert_int_equal(perform(fixture, NBD_OP_WRITE_ZEROES, 0, 1, size - 1, NULL), 0);
}

static void cache_always_succeeds(void **state)
{
    struct fixture *fixture = *state;

    open_new(fixture, "disk", 4 * MIB);
    assert_int_equal(perform(fixture, NBD_OP_CACHE, 0, 0, 4 * MIB, NULL), 0);
}

/* Holds the file's lock for as long as it takes to copy this much, again and again. */
struct busy_writer {
    int fd;
    char *data;
    gint stop;
};

static void *write_much(void *arg)
{
    struct busy_writer *writer = arg;

    while (!g_atomic_int_get(&writer->stop))
        if (pwrite(writer->fd, writer->data, 64 * MIB, (off_t)MIB) < 0)
            break;
    return NULL;
}

static int write_one_byte_now(struct fixture *fixture)
{
    char byte = 'x';
    struct nbd_request rq = {.dev = &fixture->dev, .length = 1, .op = NBD_OP_WRITE,
                             .data = &byte};

    return fixture->handler->try_now(&rq);
}

static void writes_leave_the_loop_while_storage_is_slow(void **state)
{
    struct fixture *fixture = *state;
    g_autofree char *path = path_in(fixture, "disk");
    struct busy_writer writer = {.data = g_malloc0(64 * MIB)};
    GThread *thread;
    int tries, r;

    open_new(fixture, "disk", 65 * MIB);
    assert_int_equal(write_one_byte_now(fixture), 0);
    writer.fd = open(path, O_WRONLY | O_CLOEXEC);
    thread = g_thread_new("busy", write_much, &writer);
    for (tries = 0; write_one_byte_now(fixture) == 0 && tries < 5000; tries++)
        g_usleep(1000);
    r = write_one_byte_now(fixture);
    g_atomic_int_set(&writer.stop, 1);
    g_thread_join(thread);
    close(writer.fd);
    g_free(writer.data);
    assert_int_equal(r, -EAGAIN);
    assert_int_equal(perform(fixture, NBD_OP_WRITE, 0, 0, 1, &(char){'y'}), 0);

    /* The first one at once may be slow again, and then the next is not. */
    for (tries = 0; (r = write_one_byte_now(fixture)) != 0 && tries < 1500; tries++)
        g_usleep(10000);
    assert_int_equal(r, 0);
}

/* ---- Flushes ---- */

static void flushes_that_wait_share_one_sync(void **state)
{
    struct fixture *fixture = *state;
    g_autofree uint8_t *data = NULL;
    struct io io[16];
    unsigned runs;

    open_new(fixture, "disk", MIB);
    data = write_all(fixture, MIB, 1);
    runs = fake_host_runs();
    for (int i = 0; i < 16; i++)
        submit(fixture, &io[i], NBD_OP_FLUSH, 0, 0, 0, NULL);
    for (int i = 0; i < 16; i++)
        assert_int_equal(finish(fixture, &io[i]), 0);

    if (mode.no_ring)
        assert_int_equal(fake_host_runs(), runs + 1);
}

static void a_flush_with_nothing_to_do_ends_at_once(void **state)
{
    struct fixture *fixture = *state;
    struct nbd_request flush = {.dev = &fixture->dev, .op = NBD_OP_FLUSH};
    uint8_t byte = 1;

    open_new(fixture, "disk", MIB);
    assert_int_equal(fixture->handler->try_now(&flush), -EAGAIN);
    assert_int_equal(slowly(fixture, NBD_OP_FLUSH, 0, 0, 0, NULL), 0);
    assert_int_equal(fixture->handler->try_now(&flush), 0);

    assert_int_equal(perform(fixture, NBD_OP_WRITE, 0, 0, 1, &byte), 0);
    assert_int_equal(fixture->handler->try_now(&flush), -EAGAIN);
    assert_int_equal(perform(fixture, NBD_OP_FLUSH, 0, 0, 0, NULL), 0);
    assert_int_equal(perform(fixture, NBD_OP_TRIM, 0, 0, 4096, NULL), 0);
    assert_int_equal(fixture->handler->try_now(&flush), -EAGAIN);
    assert_int_equal(perform(fixture, NBD_OP_WRITE, NBD_RQ_FUA, 0, 1, &byte), 0);
    assert_int_equal(fixture->handler->try_now(&flush), 0);
}

/* ---- Many at once ---- */

static void many_requests_in_flight_keep_their_data(void **state)
{
    enum { COUNT = 3000, BYTES = 4096 };
    struct fixture *fixture = *state;
    g_autofree struct io *io = g_new0(struct io, COUNT);
    g_autofree uint8_t *data = g_malloc0((size_t)COUNT * BYTES);
    g_autofree uint8_t *back = g_malloc0((size_t)COUNT * BYTES);

    open_new(fixture, "disk", (uint64_t)COUNT * BYTES);
    for (unsigned i = 0; i < COUNT; i++) {
        unsigned slot = i * 1009 % COUNT;

        fill(data + (size_t)slot * BYTES, BYTES, slot);
        submit(fixture, &io[i], NBD_OP_WRITE, i % 64 == 0 ? NBD_RQ_FUA : 0,
               (uint64_t)slot * BYTES, BYTES, data + (size_t)slot * BYTES);
    }
    for (unsigned i = 0; i < COUNT; i++)
        assert_int_equal(finish(fixture, &io[i]), 0);
    for (unsigned i = 0; i < COUNT; i++)
        submit(fixture, &io[i], NBD_OP_READ, 0, (uint64_t)i * BYTES, BYTES,
               back + (size_t)i * BYTES);
    for (unsigned i = 0; i < COUNT; i++)
        assert_int_equal(finish(fixture, &io[i]), 0);
    assert_memory_equal(data, back, (size_t)COUNT * BYTES);
}

/* ---- O_DIRECT ---- */

static void direct_mode_takes_every_alignment(void **state)
{
    struct fixture *fixture = *state;
    g_autofree uint8_t *model = NULL;
    uint8_t *aligned;

    fixture->opt = (struct nbd_opt){"direct", "true"};
    fixture->dev.opts = &fixture->opt;
    fixture->dev.n_opts = 1;
    assert_int_equal(create(fixture, "disk", MIB + 100), 0);
    if (map(fixture) < 0) {
        assert_says(fixture, "direct");
        skip();
    }
    model = g_malloc0(MIB + 100);
    aligned = aligned_alloc(4096, 65536);
    assert_non_null(aligned);
    fill(aligned, 65536, 1);
    memcpy(model + 65536, aligned, 65536);
    assert_int_equal(perform(fixture, NBD_OP_WRITE, 0, 65536, 65536, aligned), 0);
    fill(aligned, 65536, 2);
    memcpy(model + 65536 + 17, aligned, 999);
    assert_int_equal(perform(fixture, NBD_OP_WRITE, 0, 65536 + 17, 999, aligned), 0);
    memcpy(model + 70000, aligned + 1, 4096);
    assert_int_equal(perform(fixture, NBD_OP_WRITE, 0, 70000, 4096, aligned + 1), 0);
    memcpy(model + MIB + 99, aligned, 1);
    assert_int_equal(perform(fixture, NBD_OP_WRITE, NBD_RQ_FUA, MIB + 99, 1, aligned), 0);
    assert_int_equal(perform(fixture, NBD_OP_READ, 0, 65536, 65536, aligned), 0);
    assert_memory_equal(aligned, model + 65536, 65536);
    free(aligned);
    assert_device_holds(fixture, model, MIB + 100);
}

/* ---- Extents ---- */

struct map_of_extents {
    struct { uint64_t length; uint32_t flags; } row[16];
    unsigned count, limit;
};

static int add_extent(void *arg, uint64_t length, uint32_t flags)
{
    struct map_of_extents *map_of = arg;

    assert_true(map_of->count < G_N_ELEMENTS(map_of->row));
    map_of->row[map_of->count].length = length;
    map_of->row[map_of->count].flags = flags;
    return ++map_of->count == map_of->limit;
}

static void extents_show_data_and_holes(void **state)
{
    struct fixture *fixture = *state;
    struct map_of_extents map_of = {.count = 0};
    g_autofree uint8_t *data = g_malloc0(MIB);
    uint32_t hole = NBD_EXTENT_HOLE | NBD_EXTENT_ZERO;

    open_new(fixture, "disk", 8 * MIB);
    fill(data, MIB, 1);
    assert_int_equal(perform(fixture, NBD_OP_WRITE, 0, 2 * MIB, MIB, data), 0);
    assert_int_equal(fixture->handler->extents(&fixture->dev, MIB, 6 * MIB, add_extent,
                                               &map_of), 0);
    assert_int_equal(map_of.count, 3);
    assert_int_equal(map_of.row[0].length, MIB);
    assert_int_equal(map_of.row[0].flags, hole);
    assert_int_equal(map_of.row[1].length, MIB);
    assert_int_equal(map_of.row[1].flags, NBD_EXTENT_DATA);
    assert_int_equal(map_of.row[2].length, 4 * MIB);
    assert_int_equal(map_of.row[2].flags, hole);
}

static void extents_stop_when_told(void **state)
{
    struct fixture *fixture = *state;
    struct map_of_extents map_of = {.limit = 1};
    g_autofree char *path = path_in(fixture, "disk");
    g_autofree uint8_t *data = NULL;

    open_new(fixture, "disk", 2 * MIB);
    data = write_all(fixture, MIB, 1);
    assert_int_equal(fixture->handler->extents(&fixture->dev, 0, 2 * MIB, add_extent, &map_of),
                     0);
    assert_int_equal(map_of.count, 1);

    /* What was cut off does not read as zeroes. */
    map_of = (struct map_of_extents){.count = 0};
    assert_int_equal(truncate(path, (off_t)MIB), 0);
    assert_int_equal(fixture->handler->extents(&fixture->dev, MIB, MIB, add_extent, &map_of),
                     0);
    assert_int_equal(map_of.count, 1);
    assert_int_equal(map_of.row[0].flags, NBD_EXTENT_DATA);
}

/* ---- Block devices ---- */

/* The name of a loop device over `path`, or NULL. */
static char *attach_loop_device(const char *path)
{
    g_autofree char *command = g_strdup_printf("losetup -f --show %s", path);
    g_autofree char *errors = NULL;
    g_autofree char *line = NULL;

    if (!g_spawn_command_line_sync(command, &line, &errors, NULL, NULL) ||
        !g_str_has_prefix(line, "/dev/loop"))
        return NULL;
    return g_strchomp(g_steal_pointer(&line));
}

static void make_loop_device(struct fixture *fixture, uint64_t size)
{
    char *path;
    int fd;

    if (geteuid() != 0)
        skip();
    path = path_in(fixture, "backing");
    fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    close(fd);
    fixture->loop = attach_loop_device(path);
    g_free(path);
    if (fixture->loop == NULL)
        skip();
    fixture->dev.trusted = true;
}

static void a_block_device_is_served(void **state)
{
    struct fixture *fixture = *state;
    struct map_of_extents map_of = {.count = 0};
    struct nbd_device second = {.name = "second", .trusted = true};
    g_autofree uint8_t *data = NULL;

    make_loop_device(fixture, 4 * MIB);
    assert_int_equal(open_existing(fixture, fixture->loop), 0);
    assert_int_equal(fixture->handler->get_size(&fixture->dev), 4 * MIB);
    assert_int_equal(fixture->handler->get_blksize(&fixture->dev), 512);
    second.target = fixture->loop;
    assert_int_equal(fixture->handler->cfg_parse(&second, fixture->loop, &fixture->why), 0);
    assert_int_equal(fixture->handler->map(&second, &fixture->why), -EBUSY);
    fixture->handler->destroy(&second);

    data = write_all(fixture, 4 * MIB, 1);
    assert_int_equal(perform(fixture, NBD_OP_WRITE_ZEROES, 0, 100, MIB, NULL), 0);
    memset(data + 100, 0, MIB);
    assert_int_equal(perform(fixture, NBD_OP_WRITE_ZEROES, NBD_RQ_NO_HOLE | NBD_RQ_FUA,
                             2 * MIB, 1000, NULL), 0);
    memset(data + 2 * MIB, 0, 1000);
    assert_int_equal(perform(fixture, NBD_OP_WRITE_ZEROES, 0, 2 * MIB + 2000, 7, NULL), 0);
    memset(data + 2 * MIB + 2000, 0, 7);
    assert_device_holds(fixture, data, 4 * MIB);
    assert_int_equal(perform(fixture, NBD_OP_TRIM, NBD_RQ_FUA, 3 * MIB, MIB, NULL), 0);
    assert_int_equal(perform(fixture, NBD_OP_TRIM, 0, 1, 13, NULL), 0);
    assert_device_holds(fixture, data, 3 * MIB);

    assert_int_equal(fixture->handler->extents(&fixture->dev, 0, MIB, add_extent, &map_of), 0);
    assert_int_equal(map_of.row[0].flags, NBD_EXTENT_DATA);
    fixture->dev.size = 8 * MIB;
    assert_int_equal(fixture->handler->resize(&fixture->dev, &fixture->why), -ENOTSUP);
    assert_says(fixture, "4194304");
    assert_int_equal(fixture->handler->delete(&fixture->dev, &fixture->why), -ENOTSUP);
}

static void after_a_failed_flush_every_flush_fails(void **state)
{
    struct fixture *fixture = *state;
    g_autofree uint8_t *data = NULL;
    struct nbd_request flush = {.dev = &fixture->dev, .op = NBD_OP_FLUSH};

    mount_small(fixture);
    make_loop_device(fixture, 16 * MIB);
    data = g_malloc0(MIB);
    assert_int_equal(open_existing(fixture, fixture->loop), 0);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(perform(fixture, NBD_OP_WRITE, 0, i * MIB, MIB, data), 0);

    assert_true(slowly(fixture, NBD_OP_FLUSH, 0, 0, 0, NULL) < 0);
    assert_true(slowly(fixture, NBD_OP_FLUSH, 0, 0, 0, NULL) < 0);
    assert_int_equal(fixture->handler->try_now(&flush), -EAGAIN);
    assert_true(perform(fixture, NBD_OP_WRITE, NBD_RQ_FUA, 0, 512, data) < 0);
}

/* ---- */

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

static int run_all(const char *name, const char *base, bool no_ring)
{
    const struct CMUnitTest tests[] = {
        TEST(a_target_with_dot_dot_is_refused),
        TEST(an_absolute_target_outside_the_roots_is_refused),
        TEST(a_target_that_names_no_file_is_refused),
        TEST(a_target_in_any_of_the_roots_is_taken),
        TEST(a_relative_root_lies_below_the_working_directory),
        TEST(a_trusted_target_may_lie_anywhere),
        TEST(a_symbolic_link_out_of_the_root_is_refused),
        TEST(a_symbolic_link_inside_the_root_is_followed),
        TEST(an_old_kernel_opens_files_but_follows_no_link),
        TEST(an_unknown_option_is_named),
        TEST(create_makes_a_sparse_file),
        TEST(create_with_prealloc_allocates_all_blocks),
        TEST(create_never_replaces_a_file),
        TEST(create_refuses_an_impossible_size),
        TEST(create_names_a_missing_directory),
        TEST(a_canceled_create_leaves_nothing),
        TEST(a_create_over_a_limit_leaves_nothing),
        TEST(create_needs_nothing_special_of_a_file_system),
        TEST(a_create_on_a_full_disk_leaves_nothing),
        TEST(a_write_on_a_full_disk_fails_with_enospc),
        TEST(delete_removes_the_file_and_nothing_else),
        TEST(only_files_and_block_devices_are_opened),
        TEST(a_second_writer_is_refused),
        TEST(two_readers_share_a_file),
        TEST(an_open_file_describes_itself),
        TEST(resize_grows_and_shrinks),
        TEST(what_is_written_is_read_back_at_odd_offsets),
        TEST(a_large_transfer_is_whole),
        TEST(a_cached_read_is_served_at_once),
        TEST(a_cached_range_can_be_sent_from_the_file),
        TEST(a_read_past_a_truncated_file_is_an_error),
        TEST(what_is_hot_is_mapped_and_always_current),
        TEST(mapped_ranges_can_be_sent_from_memory),
        TEST(a_hot_file_that_is_truncated_fails_and_nothing_else),
        TEST(a_file_of_others_is_not_mapped),
        TEST(a_transfer_that_memory_refuses_ends),
        TEST(trim_gives_blocks_back),
        TEST(zeroes_with_and_without_holes_read_as_zero),
        TEST(fast_zeroes_are_fast_or_refused),
        TEST(huge_ranges_are_trimmed_and_zeroed_at_once),
        TEST(cache_always_succeeds),
        TEST(writes_leave_the_loop_while_storage_is_slow),
        TEST(flushes_that_wait_share_one_sync),
        TEST(a_flush_with_nothing_to_do_ends_at_once),
        TEST(many_requests_in_flight_keep_their_data),
        TEST(direct_mode_takes_every_alignment),
        TEST(extents_show_data_and_holes),
        TEST(extents_stop_when_told),
        TEST(a_block_device_is_served),
        TEST(after_a_failed_flush_every_flush_fails),
    };

    mode.base = base;
    mode.no_ring = no_ring;
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void)
{
    int failed = 0;

    signal(SIGXFSZ, SIG_IGN);
    failed += run_all("disk, io_uring", g_get_tmp_dir(), false);
    failed += run_all("disk, threads", g_get_tmp_dir(), true);
    if (access("/dev/shm", W_OK) == 0) {
        failed += run_all("memory, io_uring", "/dev/shm", false);
        failed += run_all("memory, threads", "/dev/shm", true);
    }
    return failed;
}
