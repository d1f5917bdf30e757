/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The gluster handler: a file in a GlusterFS volume as a backstore, through libgfapi. Here are
 * the handler's table, targets and options, and what concerns the open file as a whole;
 * gluster.h says where the rest is. The control callbacks run on worker threads.
 */
#include "gluster.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#define PATIENCE_DEFAULT_S 30
#define PATIENCE_MAX_S 86400
#define LOG_WARNING 5 /* gluster's numbers, which are not syslog's */

#define CAPS_READONLY NBD_CAP_MULTI_CONN
#define CAPS_WRITABLE \
    (CAPS_READONLY | NBD_CAP_FLUSH | NBD_CAP_FUA | NBD_CAP_TRIM | NBD_CAP_WRITE_ZEROES | \
     NBD_CAP_FAST_ZERO)

static const struct nbd_config *config;

/* ---- Options ---- */

static int set_host(struct disk *disk, const struct nbd_opt *opt, struct nbd_failure *why)
{
    size_t length = strlen(opt->value);

    if (length == 0 || length > 255 ||
        strspn(opt->value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
               ".:-_%") != length)
        return nbd_fail(why, EINVAL, "option host is the name or address of a gluster host, "
                        "not '%.255s'", opt->value);
    g_free(disk->host);
    disk->host = g_strdup(opt->value);
    return 0;
}

/* Gluster writes the volume's passwords into its log, whatever the level: it is off unless
 * the administrator gives it a place. */
static int set_log_file(struct disk *disk, const struct nbd_opt *opt, struct nbd_failure *why)
{
    if (!disk->dev->trusted)
        return nbd_fail(why, EPERM, "option log_file is for exports in the configuration "
                        "only; put this export into a file in conf.d");
    if (opt->value[0] != '/')
        return nbd_fail(why, EINVAL, "option log_file is an absolute path, not '%s'",
                        opt->value);
    g_free(disk->log_file);
    disk->log_file = g_strdup(opt->value);
    return 0;
}

static int set_log_level(struct disk *disk, const struct nbd_opt *opt, struct nbd_failure *why)
{
    static const struct {
        const char *word;
        int level;
    } levels[] = {
        {"none", 0}, {"critical", 3}, {"error", 4}, {"warning", LOG_WARNING},
        {"info", 7}, {"debug", 8},    {"trace", 9},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(levels); i++) {
        if (strcmp(opt->value, levels[i].word) == 0) {
            disk->log_level = levels[i].level;
            return 0;
        }
    }
    return nbd_fail(why, EINVAL, "option log_level is none, critical, error, warning, info, "
                    "debug or trace, not '%s'", opt->value);
}

static int set_request_timeout(struct disk *disk, const struct nbd_opt *opt,
                               struct nbd_failure *why)
{
    guint64 seconds;

    if (!g_ascii_string_to_unsigned(opt->value, 10, 0, PATIENCE_MAX_S, &seconds, NULL))
        return nbd_fail(why, EINVAL, "option request_timeout is a number of seconds from 0 to "
                        "%d, not '%s'", PATIENCE_MAX_S, opt->value);
    disk->patience_s = (unsigned)seconds;
    return 0;
}

static int set_durable(struct disk *disk, const struct nbd_opt *opt, struct nbd_failure *why)
{
    disk->durable = strcmp(opt->value, "true") == 0;
    if (disk->durable || strcmp(opt->value, "false") == 0)
        return 0;
    return nbd_fail(why, EINVAL, "option durable is true or false, not '%s'", opt->value);
}

static int parse_opts(struct disk *disk, struct nbd_failure *why)
{
    static const struct {
        const char *key;
        int (*set)(struct disk *disk, const struct nbd_opt *opt, struct nbd_failure *why);
    } known[] = {
        {"host", set_host},
        {"log_file", set_log_file},
        {"log_level", set_log_level},
        {"request_timeout", set_request_timeout},
        {"durable", set_durable},
    };
    const struct nbd_device *dev = disk->dev;

    for (size_t i = 0; i < dev->n_opts; i++) {
        size_t k = 0;
        int r;

        while (k < G_N_ELEMENTS(known) && strcmp(known[k].key, dev->opts[i].key) != 0)
            k++;
        if (k == G_N_ELEMENTS(known))
            return nbd_fail(why, EINVAL, "the gluster handler has no option '%s'; it has "
                            "host, request_timeout, durable, log_file and log_level",
                            dev->opts[i].key);
        r = known[k].set(disk, &dev->opts[i], why);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- Targets ---- */

static int check_volume(const char *name, size_t length, struct nbd_failure *why)
{
    if (length == 0)
        return nbd_fail(why, EINVAL, "the target starts with '/'; name the volume first: "
                        "VOLUME/FILEPATH");
    if (length > NAME_MAX || name[0] == '-' ||
        strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") <
            length)
        return nbd_fail(why, EINVAL, "'%.*s' is no name of a gluster volume: letters, digits, "
                        "'_' and '-' are", (int)MIN(length, NAME_MAX), name);
    return 0;
}

static int check_part(const char *part, size_t length, const char *target,
                      struct nbd_failure *why)
{
    if (length == 0)
        return nbd_fail(why, EINVAL, "the target '%s' has an empty part: '//' or a '/' at its "
                        "end; leave it out", target);
    if ((length == 1 && part[0] == '.') || (length == 2 && part[0] == '.' && part[1] == '.'))
        return nbd_fail(why, EINVAL, "the target '%s' has the part '%.*s'; name the file "
                        "without it", target, (int)length, part);
    if (length > NAME_MAX)
        return nbd_fail(why, ENAMETOOLONG, "a part of the target is longer than %d bytes: "
                        "'%.40s...'", NAME_MAX, part);
    return 0;
}

static int check_path(const char *path, const char *target, struct nbd_failure *why)
{
    if (*path == '\0')
        return nbd_fail(why, EINVAL, "the target '%s' names no file; it is VOLUME/FILEPATH",
                        target);
    if (strlen(path) >= PATH_MAX - 1)
        return nbd_fail(why, ENAMETOOLONG, "the target is longer than %d bytes: '%.40s...'",
                        PATH_MAX - 1, target);
    for (const char *p = path; *p != '\0'; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            return nbd_fail(why, EINVAL, "the target holds a control character");
    for (const char *part = path;; part++) {
        size_t length = strcspn(part, "/");
        int r = check_part(part, length, target, why);

        if (r < 0)
            return r;
        part += length;
        if (*part == '\0')
            return 0;
    }
}

static int parse_target(struct disk *disk, const char *target, struct nbd_failure *why)
{
    const char *path;
    size_t length;
    int r;

    if (target == NULL || *target == '\0')
        return nbd_fail(why, EINVAL, "the target is empty; it is VOLUME/FILEPATH");
    length = strcspn(target, "/");
    r = check_volume(target, length, why);
    if (r < 0)
        return r;
    path = target + length;
    path += strspn(path, "/");
    r = check_path(path, target, why);
    if (r < 0)
        return r;
    disk->volume_name = g_strndup(target, length);
    disk->path = g_strconcat("/", path, NULL);
    disk->shown = g_strconcat(disk->volume_name, disk->path, NULL);
    return 0;
}

static void destroy(struct nbd_device *dev)
{
    struct disk *disk = dev->priv;

    if (disk == NULL)
        return;
    g_free(disk->host);
    g_free(disk->volume_name);
    g_free(disk->path);
    g_free(disk->shown);
    g_free(disk->log_file);
    g_free(disk);
    dev->priv = NULL;
}

static int cfg_parse(struct nbd_device *dev, const char *cfgstring, struct nbd_failure *why)
{
    struct disk *disk = g_new0(struct disk, 1);
    const char *host = config->gluster_host;
    int r;

    disk->dev = dev;
    disk->host = g_strdup(host != NULL && *host != '\0' ? host : "localhost");
    disk->log_file = g_strdup("/dev/null");
    disk->log_level = LOG_WARNING;
    disk->patience_s = PATIENCE_DEFAULT_S;
    dev->priv = disk;
    r = parse_opts(disk, why);
    if (r == 0)
        r = parse_target(disk, cfgstring, why);
    if (r < 0)
        destroy(dev);
    return r;
}

/* ---- Opening ---- */

static int open_once(struct disk *disk, struct stat *st, struct nbd_failure *why)
{
    struct volume *volume;
    int r = volume_get(disk, &volume, why);

    if (r < 0)
        return r;
    return session_open(volume, disk->path, disk->dev->readonly ? O_RDONLY : O_RDWR,
                        &disk->session, st, why);
}

static void reset(struct disk *disk)
{
    disk->can_seek = disk->can_discard = disk->can_zerofill = true;
    disk->sync_error = 0;
    disk->is_away = disk->settling = false;
}

static void unmap(struct nbd_device *dev)
{
    struct disk *disk = dev->priv;

    recover_forget(disk);
    session_unref(disk->session);
    disk->session = NULL;
}

static int map(struct nbd_device *dev, struct nbd_failure *why)
{
    struct disk *disk = dev->priv;
    struct stat st;
    int r = open_once(disk, &st, why);

    /* The connection may have been to a volume that has been made anew since: session_open()
     * distrusts it then. */
    if (r < 0 && is_connection_error(-r) && r != -ETIMEDOUT)
        r = open_once(disk, &st, why);
    if (r < 0)
        return r;
    if (!S_ISREG(st.st_mode)) {
        unmap(dev);
        return nbd_fail(why, EINVAL, "'%s' is no regular file; name one", disk->shown);
    }
    reset(disk);
    dev->caps = dev->readonly ? CAPS_READONLY : CAPS_WRITABLE;
    dev->min_block = 1;
    dev->pref_block = 4096; /* st_blksize is not to be relied on with gluster */
    return 0;
}

/* ---- The open file ---- */

static int64_t get_size(struct nbd_device *dev)
{
    struct disk *disk = dev->priv;
    struct stat st;

    errno = 0;
    return glfs_fstat(session_fd(disk->session), &st) < 0 ? -gluster_errno()
                                                          : (int64_t)st.st_size;
}

static int64_t get_blksize(struct nbd_device *dev)
{
    (void)dev;
    return 0;
}

static int resize(struct nbd_device *dev, struct nbd_failure *why)
{
    struct disk *disk = dev->priv;
    glfs_fd_t *fd = session_fd(disk->session);

    if (dev->readonly)
        return nbd_fail(why, EROFS, "'%s' is open read-only", disk->shown);
    if (dev->size == 0 || dev->size > INT64_MAX)
        return nbd_fail(why, EINVAL, "'%s' cannot have %" PRIu64 " bytes", disk->shown,
                        dev->size);
    errno = 0;
    if (glfs_ftruncate(fd, (off_t)dev->size, NULL, NULL) < 0 || glfs_fsync(fd, NULL, NULL) < 0)
        return nbd_fail(why, gluster_errno(), "the size of '%s' cannot be changed to %" PRIu64
                        ": %s", disk->shown, dev->size, g_strerror(gluster_errno()));
    return 0;
}

/* ---- The handler ---- */

/* Loop thread, as progress(). */
static void cancel(struct nbd_device *dev)
{
    struct disk *disk = dev->priv;

    atomic_store(&disk->canceled, true);
}

static void progress(struct nbd_device *dev, uint64_t *done, uint64_t *total)
{
    struct disk *disk = dev->priv;

    *done = atomic_load(&disk->bytes_done);
    *total = atomic_load(&disk->bytes_total);
}

static void fini(void)
{
    gather_fini();
    recover_fini();
    volumes_fini();
}

static struct nbd_handler handler = {
    .name = "gluster",
    .subtype = 0,
    .cfg_parse = cfg_parse,
    .create = gluster_create,
    .delete = gluster_delete,
    .map = map,
    .unmap = unmap,
    .get_size = get_size,
    .get_blksize = get_blksize,
    .submit = gluster_submit,
    .extents = gluster_extents,
    .resize = resize,
    .cancel = cancel,
    .progress = progress,
    .destroy = destroy,
    .fini = fini,
};

__attribute__((visibility("default")))
struct nbd_handler *handler_init(const struct nbd_config *cfg)
{
    config = cfg;
    volumes_init();
    gluster_io_init(cfg);
    gather_init(cfg);
    recover_init(cfg);
    return &handler;
}
