/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * A file that is replaced whole: a new file beside it, fsync, rename, fsync of the directory.
 * Whenever the machine stops, either the former or the new file is there. Any thread; blocks.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "store_file.h"

static int fail_to(const char *verb, const char *path, int error, struct nbd_failure *why)
{
    return nbd_fail(why, error, "cannot %s %s: %s", verb, path, g_strerror(error));
}

/* ---- Reading ---- */

static int read_all(int fd, GString *text)
{
    char piece[65536];
    ssize_t got;

    while ((got = TEMP_FAILURE_RETRY(read(fd, piece, sizeof(piece)))) > 0) {
        g_string_append_len(text, piece, got);
        if (text->len > STORE_FILE_MAX)
            return -EFBIG;
    }
    return got < 0 ? -errno : 0;
}

static int check_kind(int fd)
{
    struct stat status;

    if (fstat(fd, &status) < 0)
        return -errno;
    if (S_ISDIR(status.st_mode))
        return -EISDIR;
    return S_ISREG(status.st_mode) ? 0 : -EINVAL;
}

int store_file_read(const char *path, GString **ret_text, struct nbd_failure *why)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    GString *text;
    int r;

    if (fd < 0)
        return fail_to("read", path, errno, why);
    text = g_string_new(NULL);
    r = check_kind(fd);
    if (r == 0)
        r = read_all(fd, text);
    close(fd);
    if (r < 0) {
        g_string_free(text, TRUE);
        return fail_to("read", path, -r, why);
    }
    *ret_text = text;
    return 0;
}

/* ---- Keeping what is there ---- */

/* PATH.SUFFIX-20261121T043512.482913Z */
static char *dated_name(const char *path, const char *suffix)
{
    int64_t now_us = g_get_real_time();
    time_t now = (time_t)(now_us / G_USEC_PER_SEC);
    struct tm tm;
    char date[32];

    gmtime_r(&now, &tm);
    strftime(date, sizeof(date), "%Y%m%dT%H%M%S", &tm);
    return g_strdup_printf("%s.%s-%s.%06dZ", path, suffix, date,
                           (int)(now_us % G_USEC_PER_SEC));
}

int store_file_set_aside(const char *path, struct nbd_failure *why)
{
    char *aside = dated_name(path, "corrupt");
    int r = 0;

    if (rename(path, aside) < 0 && errno != ENOENT)
        r = fail_to("set aside", path, errno, why);
    g_free(aside);
    return r;
}

/* For file systems without hard links. */
static int copy_file(const char *from, const char *to, struct nbd_failure *why)
{
    GString *text;
    int r = store_file_read(from, &text, why);

    if (r == 0) {
        r = store_file_replace(to, text->str, text->len, PREDECESSOR_DROP, why);
        g_string_free(text, TRUE);
    }
    return r;
}

static bool lacks_links(int error)
{
    return error == EPERM || error == EOPNOTSUPP || error == EMLINK;
}

static int keep_v1(const char *path, struct nbd_failure *why)
{
    char *copy = g_strconcat(path, ".v1", NULL);
    int error = link(path, copy) == 0 ? 0 : errno;
    int r = 0;

    if (error == EEXIST) { /* of an earlier upgrade: never replaced */
        g_free(copy);
        copy = dated_name(path, "v1");
        error = link(path, copy) == 0 ? 0 : errno;
    }
    if (lacks_links(error))
        r = copy_file(path, copy, why);
    else if (error != 0 && error != ENOENT)
        r = fail_to("keep", path, error, why);
    g_free(copy);
    return r;
}

/* Links PATH to PATH.bak. PATH stays all the time. */
static int keep_backup(const char *path, struct nbd_failure *why)
{
    char *backup = g_strconcat(path, ".bak", NULL);
    char *fresh = g_strconcat(path, ".bak.new", NULL);
    int r = 0;

    unlink(fresh);
    if (link(path, fresh) == 0) {
        if (rename(fresh, backup) < 0)
            r = fail_to("write", backup, errno, why);
        unlink(fresh); /* rename() leaves it when both are the same file */
    } else if (lacks_links(errno)) {
        r = copy_file(path, backup, why);
    } else if (errno != ENOENT) {
        r = fail_to("write", backup, errno, why);
    }
    g_free(fresh);
    g_free(backup);
    return r;
}

static int keep_predecessor(const char *path, enum predecessor predecessor,
                            struct nbd_failure *why)
{
    switch (predecessor) {
    case PREDECESSOR_SET_ASIDE: return store_file_set_aside(path, why);
    case PREDECESSOR_KEEP_V1: return keep_v1(path, why);
    case PREDECESSOR_DROP: return 0;
    default: return keep_backup(path, why);
    }
}

/* ---- Writing ---- */

static int write_all(int fd, const char *text, size_t length)
{
    while (length > 0) {
        ssize_t written = TEMP_FAILURE_RETRY(write(fd, text, length));

        if (written < 0)
            return -errno;
        text += written;
        length -= (size_t)written;
    }
    return fsync(fd) < 0 ? -errno : 0;
}

static int write_new(const char *path, const char *text, size_t length, struct nbd_failure *why)
{
    int fd, r;

    unlink(path); /* of a daemon that was killed; there is one writer at a time */
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return fail_to("write", path, errno, why);
    r = write_all(fd, text, length);
    if (close(fd) < 0 && r == 0)
        r = -errno;
    return r < 0 ? fail_to("write", path, -r, why) : 0;
}

static int sync_directory(const char *path, struct nbd_failure *why)
{
    char *directory = g_path_get_dirname(path);
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = fd >= 0 && fsync(fd) == 0 ? 0 : errno;

    if (fd >= 0)
        close(fd);
    if (r != 0)
        r = fail_to("sync the directory", directory, r, why);
    g_free(directory);
    return r;
}

int store_file_replace(const char *path, const char *text, size_t length,
                       enum predecessor predecessor, struct nbd_failure *why)
{
    char *fresh = g_strconcat(path, ".new", NULL);
    int r = write_new(fresh, text, length, why);

    if (r == 0)
        r = keep_predecessor(path, predecessor, why);
    if (r == 0 && rename(fresh, path) < 0)
        r = fail_to("write", path, errno, why);
    if (r < 0)
        unlink(fresh);
    else
        r = sync_directory(path, why);
    g_free(fresh);
    return r;
}
