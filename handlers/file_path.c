/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The file handler's paths. A target that came through the control port must lie below one
 * of the directories in file_roots, and is opened so that neither `..` nor a symbolic link
 * leads out of it; one that the administrator wrote may lie anywhere. Runs on worker threads.
 */
#include <fcntl.h>
#include <glib.h>
#include <limits.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "file.h"

/* A rename elsewhere can make RESOLVE_BENEATH give up: ask again so many times. */
#define RESOLVE_ATTEMPTS 16

/* ---- Which targets are allowed ---- */

static int check_components(const char *target, struct nbd_failure *why)
{
    for (const char *p = target; *p != '\0';) {
        size_t length = strcspn(p, "/");

        if (length == 2 && p[0] == '.' && p[1] == '.')
            return nbd_fail(why, EINVAL, "the target '%s' holds '..'; name the file without "
                            "it", target);
        if (length > NAME_MAX)
            return nbd_fail(why, ENAMETOOLONG, "a part of the target is longer than %d "
                            "bytes: '%.40s...'", NAME_MAX, p);
        p += length;
        p += *p == '/';
    }
    for (const char *p = target; *p != '\0'; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            return nbd_fail(why, EINVAL, "the target holds a control character");
    return 0;
}

static int check_target(const char *target, bool trusted, struct nbd_failure *why)
{
    size_t length = target == NULL ? 0 : strlen(target);

    if (length == 0)
        return nbd_fail(why, EINVAL, "the target is empty; name a file");
    if (length >= PATH_MAX)
        return nbd_fail(why, ENAMETOOLONG, "the target is longer than %d bytes: '%.40s...'",
                        PATH_MAX - 1, target);
    if (target[length - 1] == '/')
        return nbd_fail(why, EISDIR, "the target '%s' ends with '/'; name a file", target);
    return trusted ? 0 : check_components(target, why);
}

/* The part of path below root, or NULL. Both are canonical. */
static const char *path_below(const char *path, const char *root)
{
    size_t length = strlen(root);

    if (length == 1)
        return path + 1; /* the root is "/" */
    if (strncmp(path, root, length) != 0 || path[length] != '/')
        return NULL;
    return path + length + 1;
}

/* Sets root, path and shown when one of the roots holds the target. */
static bool find_root(struct file *file, const char *const *roots, const char *target)
{
    g_autofree char *first = g_canonicalize_filename(roots[0], NULL);
    g_autofree char *full = g_canonicalize_filename(target, first);

    for (size_t i = 0; roots[i] != NULL; i++) {
        g_autofree char *root = g_canonicalize_filename(roots[i], NULL);
        const char *below = path_below(full, root);

        if (below == NULL || *below == '\0')
            continue;
        file->path = g_strdup(below);
        file->root = g_steal_pointer(&root);
        file->shown = g_steal_pointer(&full);
        return true;
    }
    return false;
}

int file_parse_target(struct file *file, const char *const *roots, const char *target,
                      struct nbd_failure *why)
{
    int r = check_target(target, file->dev->trusted, why);

    if (r < 0)
        return r;
    if (file->dev->trusted) {
        file->path = g_strdup(target);
        file->shown = g_strdup(target);
        return 0;
    }
    if (roots == NULL || roots[0] == NULL)
        return nbd_fail(why, EPERM, "'%s' cannot be used: file_roots is empty", target);
    if (!find_root(file, roots, target)) {
        g_autofree char *list = g_strjoinv("', '", (char **)roots);

        return nbd_fail(why, EPERM, "'%s' does not lie below '%s'; add its directory to "
                        "file_roots", target, list);
    }
    return 0;
}

/* ---- Opening ---- */

/* One step of walk_below(). O_NOFOLLOW is what keeps links out: with O_PATH a link would be
 * opened itself, and leads nowhere. The look before is for the right error. */
static int open_unless_link(int dir, const char *name, int flags)
{
    struct stat st;

    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode)) {
        errno = ELOOP;
        return -1;
    }
    return openat(dir, name, flags | O_NOFOLLOW);
}

/* For kernels before 5.6: no symbolic link at all may be on the way. */
static int walk_below(int root, const char *path, int flags)
{
    g_auto(GStrv) parts = g_strsplit(path, "/", -1);
    int dir = fcntl(root, F_DUPFD_CLOEXEC, 0);

    for (size_t i = 0; dir >= 0 && parts[i] != NULL; i++) {
        int next = open_unless_link(dir, parts[i],
                                    parts[i + 1] != NULL ? O_PATH | O_CLOEXEC : flags);
        int err = errno;

        close(dir);
        errno = err;
        dir = next;
    }
    return dir;
}

static int open_below(int root, const char *path, int flags)
{
    struct open_how how = {
        .flags = (unsigned)flags,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
    };
    long fd = -1;

    for (int i = 0; i < RESOLVE_ATTEMPTS; i++) {
        fd = syscall(SYS_openat2, root, path, &how, sizeof(how));
        if (fd >= 0 || (errno != EAGAIN && errno != EINTR))
            break;
    }
    if (fd < 0 && errno == ENOSYS)
        return walk_below(root, path, flags);
    return (int)fd;
}

static int open_root(const struct file *file, struct nbd_failure *why)
{
    int fd = open(file->root, O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (fd >= 0)
        return fd;
    if (errno == ENOENT)
        return nbd_fail(why, ENOENT, "the directory '%s' of file_roots does not exist",
                        file->root);
    return nbd_fail(why, errno, "the directory '%s' of file_roots cannot be opened: %s",
                    file->root, g_strerror(errno));
}

static int open_failed(const struct file *file, const char *shown, int flags, int err,
                       struct nbd_failure *why)
{
    bool for_writing = (flags & O_ACCMODE) == O_RDWR;

    if (file->root != NULL && (err == ELOOP || err == EXDEV))
        return nbd_fail(why, EPERM, "'%s' leads out of '%s'", shown, file->root);
    if (err == ENOENT)
        return nbd_fail(why, ENOENT, "there is no %s '%s'",
                        flags & O_DIRECTORY ? "directory" : "file", shown);
    if (for_writing && (err == EROFS || err == EACCES || err == EPERM))
        return nbd_fail(why, err, "'%s' cannot be opened for writing: %s; export it read-only",
                        shown, g_strerror(err));
    if (for_writing && err == EBUSY)
        return nbd_fail(why, EBUSY, "'%s' is busy: it is mounted, or in use by another device "
                        "or program", shown);
    return nbd_fail(why, err, "'%s' cannot be opened: %s", shown, g_strerror(err));
}

/* path is below file->root, if there is one. */
static int open_path(const struct file *file, const char *path, const char *shown, int flags,
                     struct nbd_failure *why)
{
    int root, fd, err;

    if (file->root == NULL) {
        fd = open(path, flags);
        return fd >= 0 ? fd : open_failed(file, shown, flags, errno, why);
    }
    root = open_root(file, why);
    if (root < 0)
        return root;
    fd = open_below(root, path, flags);
    err = errno;
    close(root);
    return fd >= 0 ? fd : open_failed(file, shown, flags, err, why);
}

int file_open_target(struct file *file, int flags, struct nbd_failure *why)
{
    return open_path(file, file->path, file->shown, flags | O_CLOEXEC, why);
}

int file_open_parent(struct file *file, const char **ret_name, struct nbd_failure *why)
{
    const char *slash = strrchr(file->path, '/');
    g_autofree char *parent = g_path_get_dirname(file->path);
    g_autofree char *shown = g_path_get_dirname(file->shown);
    int fd = open_path(file, parent, shown, O_RDONLY | O_DIRECTORY | O_CLOEXEC, why);

    if (fd >= 0)
        *ret_name = slash != NULL ? slash + 1 : file->path;
    return fd;
}
