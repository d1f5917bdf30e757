/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The size of a backstore that has no storage to ask for it (null, mem): it comes from
 * create(), from the option size=64M, or from the saved state.
 */
#ifndef NBD_HANDLER_SIZE_OPTION_H
#define NBD_HANDLER_SIZE_OPTION_H

#include <ctype.h>
#include <inttypes.h>
#include <json.h>
#include <stdlib.h>
#include <string.h>

#include "nbd-runner/handler.h"

/* Digits, and K, M, G or T of 1024; 0 when it is anything else, or too large. */
static inline uint64_t size_parse(const char *text)
{
    static const char units[] = "KMGT";
    const char *unit;
    char *end;
    uint64_t size;
    unsigned shift = 0;

    if (!isdigit((unsigned char)text[0]))
        return 0;
    errno = 0;
    size = strtoull(text, &end, 10);
    if (errno != 0)
        return 0;
    if (*end != '\0') {
        unit = strchr(units, toupper((unsigned char)*end));
        if (unit == NULL || end[1] != '\0')
            return 0;
        shift = 10 * (unsigned)(unit - units + 1);
    }
    return size > (uint64_t)INT64_MAX >> shift ? 0 : size << shift;
}

/* The option is the only one there is. *size stays as it is when it is not given. */
static inline int size_from_opts(const struct nbd_device *dev, const char *handler,
                                 uint64_t *size, struct nbd_failure *why)
{
    for (size_t i = 0; i < dev->n_opts; i++) {
        const struct nbd_opt *opt = &dev->opts[i];

        if (strcmp(opt->key, "size") != 0)
            return nbd_fail(why, EINVAL, "the %s handler has no option '%s'; it has size",
                            handler, opt->key);
        *size = size_parse(opt->value);
        if (*size == 0)
            return nbd_fail(why, EINVAL, "size=%s is not a size such as 64M", opt->value);
    }
    return 0;
}

/* create(): dev->size, if it can be one. */
static inline int size_from_create(const struct nbd_device *dev, uint64_t *size,
                                   struct nbd_failure *why)
{
    if (dev->size == 0 || dev->size > INT64_MAX)
        return nbd_fail(why, EINVAL, "'%s' cannot have %" PRIu64 " bytes", dev->target,
                        dev->size);
    *size = dev->size;
    return 0;
}

/* map(): what is known by now. */
static inline int size_settle(const struct nbd_device *dev, uint64_t *size,
                              struct nbd_failure *why)
{
    if (*size == 0 && dev->size <= INT64_MAX)
        *size = dev->size;
    if (*size == 0)
        return nbd_fail(why, EINVAL, "the size of '%s' is not known; give size=64M or the "
                        "like", dev->target);
    return 0;
}

static inline bool size_load(struct json_object *data, uint64_t *size)
{
    struct json_object *value;
    int64_t n;

    if (!json_object_object_get_ex(data, "size", &value))
        return true;
    n = json_object_is_type(value, json_type_int) ? json_object_get_int64(value) : 0;
    if (n <= 0)
        return false;
    *size = (uint64_t)n;
    return true;
}

static inline bool size_save(struct json_object *data, uint64_t size)
{
    return json_object_object_add(data, "size", json_object_new_int64((int64_t)size)) == 0;
}

#endif
