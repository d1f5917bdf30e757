/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What the target POOL[/NAMESPACE]/IMAGE[@SNAP] and the options of a backstore say. Nothing
 * here asks the cluster. Runs on worker threads.
 */
#include <string.h>

#include "ceph.h"
#include "size_option.h"

#define PART_MAX_BYTES 255
#define SYSTEM_DIR "/etc/ceph"
#define OPTIONS "conf, keyring, object_size, request_timeout and user"

/* Objects of 4 KiB to 32 MiB: what librbd makes. */
#define OBJECT_MIN_BYTES (UINT64_C(1) << 12)
#define OBJECT_MAX_BYTES (UINT64_C(1) << 25)
#define REQUEST_TIMEOUT_MAX_S 3600

/* ---- The target ---- */

static int check_part(const char *target, const char *what, const char *part,
                      struct nbd_failure *why)
{
    if (*part == '\0')
        return nbd_fail(why, EINVAL, "the target '%s' has an empty %s; it is "
                        "POOL[/NAMESPACE]/IMAGE[@SNAP]", target, what);
    if (strlen(part) > PART_MAX_BYTES)
        return nbd_fail(why, ENAMETOOLONG, "the %s of the target is longer than %d bytes: "
                        "'%.40s...'", what, PART_MAX_BYTES, part);
    if (strchr(part, '@') != NULL)
        return nbd_fail(why, EINVAL, "the %s '%s' of the target holds a '@', which belongs "
                        "between image and snapshot only", what, part);
    return 0;
}

static int check_characters(const char *target, struct nbd_failure *why)
{
    if (target == NULL || *target == '\0')
        return nbd_fail(why, EINVAL, "the target is empty; it is "
                        "POOL[/NAMESPACE]/IMAGE[@SNAP]");
    for (const char *p = target; *p != '\0'; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            return nbd_fail(why, EINVAL, "the target holds a control character");
    return 0;
}

static int check_target(const struct image *image, struct nbd_failure *why)
{
    const char *target = image->shown;
    int r = check_part(target, "pool", image->pool, why);

    if (r == 0 && image->space != NULL)
        r = check_part(target, "namespace", image->space, why);
    if (r == 0)
        r = check_part(target, "image name", image->name, why);
    if (r == 0 && image->snap != NULL)
        r = check_part(target, "snapshot name", image->snap, why);
    return r;
}

static int parse_target(struct image *image, const char *target, struct nbd_failure *why)
{
    g_auto(GStrv) parts = NULL;
    unsigned n;
    char *at;
    int r = check_characters(target, why);

    if (r < 0)
        return r;
    parts = g_strsplit(target, "/", -1);
    n = g_strv_length(parts);
    if (n < 2 || n > 3)
        return nbd_fail(why, EINVAL, "the target '%.300s' is no POOL[/NAMESPACE]/IMAGE[@SNAP]",
                        target);
    at = strchr(parts[n - 1], '@');
    if (at != NULL) {
        *at = '\0';
        image->snap = g_strdup(at + 1);
    }
    image->shown = g_strdup(target);
    image->pool = g_strdup(parts[0]);
    image->space = n == 3 ? g_strdup(parts[1]) : NULL;
    image->name = g_strdup(parts[n - 1]);
    return check_target(image, why);
}

/* ---- The options ---- */

static bool is_below(const char *path, const char *dir)
{
    size_t length = strlen(dir);

    return strncmp(path, dir, length) == 0 && path[length] == '/';
}

/* A ceph.conf can name files to write, and a keyring is a secret: who comes through the
 * control port uses those that the administrator has put where they belong. */
static bool is_allowed(const char *path)
{
    const char *conf = g_getenv("CEPH_CONF");
    g_autofree char *dir = conf != NULL && g_path_is_absolute(conf)
                               ? g_path_get_dirname(conf) : NULL;

    return is_below(path, SYSTEM_DIR) || (dir != NULL && is_below(path, dir));
}

static int parse_path(const struct nbd_device *dev, const struct nbd_opt *opt, char **ret,
                      struct nbd_failure *why)
{
    g_autofree char *path = NULL;

    if (!g_path_is_absolute(opt->value))
        return nbd_fail(why, EINVAL, "option %s is an absolute path, not '%s'", opt->key,
                        opt->value);
    path = g_canonicalize_filename(opt->value, NULL);
    if (!dev->trusted && !is_allowed(path))
        return nbd_fail(why, EPERM, "%s=%s does not lie below " SYSTEM_DIR " (or beside the "
                        "file in the daemon's CEPH_CONF); move it there, or define the "
                        "export in the daemon's conf.d", opt->key, path);
    g_free(*ret);
    *ret = g_steal_pointer(&path);
    return 0;
}

static int parse_user(const struct nbd_opt *opt, char **ret, struct nbd_failure *why)
{
    const char *name = opt->value;

    if (g_str_has_prefix(name, "client."))
        name += strlen("client.");
    if (*name == '\0' ||
        name[strspn(name, G_CSET_a_2_z G_CSET_A_2_Z G_CSET_DIGITS "._-")] != '\0')
        return nbd_fail(why, EINVAL, "user=%s is no client's name such as nbd, which stands "
                        "for client.nbd", opt->value);
    g_free(*ret);
    *ret = g_strdup(name);
    return 0;
}

static int parse_timeout(const struct nbd_opt *opt, unsigned *ret, struct nbd_failure *why)
{
    guint64 seconds;

    if (!g_ascii_string_to_unsigned(opt->value, 10, 0, REQUEST_TIMEOUT_MAX_S, &seconds, NULL))
        return nbd_fail(why, EINVAL, "request_timeout=%s is no number of seconds from 0 "
                        "(none) to %d", opt->value, REQUEST_TIMEOUT_MAX_S);
    *ret = (unsigned)seconds;
    return 0;
}

static int parse_object_size(const struct nbd_opt *opt, uint64_t *ret, struct nbd_failure *why)
{
    uint64_t bytes = size_parse(opt->value);

    if (bytes < OBJECT_MIN_BYTES || bytes > OBJECT_MAX_BYTES || (bytes & (bytes - 1)) != 0)
        return nbd_fail(why, EINVAL, "object_size=%s is no power of two from 4K to 32M",
                        opt->value);
    *ret = bytes;
    return 0;
}

static int parse_opt(struct image *image, const struct nbd_device *dev,
                     const struct nbd_opt *opt, struct nbd_failure *why)
{
    if (strcmp(opt->key, "conf") == 0)
        return parse_path(dev, opt, &image->conf, why);
    if (strcmp(opt->key, "keyring") == 0)
        return parse_path(dev, opt, &image->keyring, why);
    if (strcmp(opt->key, "user") == 0)
        return parse_user(opt, &image->user, why);
    if (strcmp(opt->key, "request_timeout") == 0)
        return parse_timeout(opt, &image->request_timeout_s, why);
    if (strcmp(opt->key, "object_size") == 0)
        return parse_object_size(opt, &image->object_bytes, why);
    return nbd_fail(why, EINVAL, "the ceph handler has no option '%s'; it has " OPTIONS,
                    opt->key);
}

/* ---- Images ---- */

static void clear_image(void *data)
{
    struct image *image = data;

    cluster_unref(image->cluster);
    g_free(image->pool);
    g_free(image->space);
    g_free(image->name);
    g_free(image->snap);
    g_free(image->shown);
    g_free(image->conf);
    g_free(image->user);
    g_free(image->keyring);
    g_free(image->lock_owner);
}

struct image *image_new(const struct nbd_device *dev, const char *target,
                        struct nbd_failure *why)
{
    struct image *image = g_atomic_rc_box_new0(struct image);
    int r = parse_target(image, target, why);

    for (size_t i = 0; r == 0 && i < dev->n_opts; i++)
        r = parse_opt(image, dev, &dev->opts[i], why);
    if (r < 0) {
        image_unref(image);
        return NULL;
    }
    return image;
}

struct image *image_ref(struct image *image)
{
    return g_atomic_rc_box_acquire(image);
}

void image_unref(struct image *image)
{
    g_atomic_rc_box_release_full(image, clear_image);
}
