/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Looks at the storage behind new definitions. Any thread; blocks.
 */
#include "reload_storage.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* The lock is held for moments only: the loop takes it too. */
struct storage_maker {
    GMutex lock;
    bool stopped;
    struct look *making; /* NULL: nothing right now */
};

/* A device for the time of the questions. */
struct look {
    const struct nbd_handler *handler;
    const struct export_def *def;
    struct nbd_device dev;
    struct nbd_opt *opts;
    uint64_t size; /* what find() has found, bytes; 0: not known */
    struct storage_maker *maker;
};

/* ---- Making ---- */

struct storage_maker *storage_maker_new(void)
{
    struct storage_maker *maker = g_new0(struct storage_maker, 1);

    g_mutex_init(&maker->lock);
    return maker;
}

void storage_maker_free(struct storage_maker *maker)
{
    g_mutex_clear(&maker->lock);
    g_free(maker);
}

void storage_maker_stop(struct storage_maker *maker)
{
    g_mutex_lock(&maker->lock);
    maker->stopped = true;
    if (maker->making != NULL && maker->making->handler->cancel != NULL)
        maker->making->handler->cancel(&maker->making->dev);
    g_mutex_unlock(&maker->lock);
}

/* False: stopped. */
static bool set_making(struct storage_maker *maker, struct look *look)
{
    bool stopped;

    g_mutex_lock(&maker->lock);
    stopped = maker->stopped;
    maker->making = look;
    g_mutex_unlock(&maker->lock);
    return !stopped;
}

/* ---- Questions ---- */

static void set_opts(struct look *look)
{
    GHashTableIter iter;
    void *key, *value;

    look->opts = g_new0(struct nbd_opt, g_hash_table_size(look->def->opts) + 1);
    g_hash_table_iter_init(&iter, look->def->opts);
    while (g_hash_table_iter_next(&iter, &key, &value))
        if (!export_opt_is_ours(key))
            look->opts[look->dev.n_opts++] = (struct nbd_opt){ key, value };
    look->dev.opts = look->opts;
}

/* A handler that fails without a word. */
static int with_sentence(const struct look *look, int r, const char *what,
                         struct nbd_failure *why)
{
    if (r < 0 && why->message[0] == '\0')
        nbd_fail(why, -r, "cannot %s the %s backstore %s: %s", what, look->def->handler,
                 look->def->target, g_strerror(-r));
    return r;
}

/* One that is there already is taken as it is. */
static int make(struct look *look, struct nbd_failure *why)
{
    int r;

    if (look->handler->create == NULL)
        return nbd_fail(why, ENOTSUP, "create = true: the %s backstore cannot be created from "
                        "here", look->def->handler);
    if (set_making(look->maker, look))
        r = look->handler->create(&look->dev, why);
    else
        r = nbd_fail(why, ECANCELED, "the daemon is stopping");
    set_making(look->maker, NULL);
    return r == -EEXIST ? 0 : with_sentence(look, r, "create", why);
}

static int check_size(const struct look *look, int64_t size, struct nbd_failure *why)
{
    if (size == 0 || look->def->size <= (uint64_t)size)
        return 0;
    return nbd_fail(why, EINVAL, "the %s backstore %s has %" PRId64 " bytes, less than the "
                    "size %" PRIu64 " of the export; nothing is ever enlarged silently",
                    look->def->handler, look->def->target, size, look->def->size);
}

/* -ENOENT is no failure when it is to be made. */
static int find(struct look *look, struct nbd_failure *why)
{
    int64_t size;

    if (look->handler->probe == NULL)
        return 0;
    size = look->handler->probe(&look->dev, why);
    if (size >= 0) {
        look->size = (uint64_t)size;
        return check_size(look, size, why);
    }
    if (size == -ENOENT && look->def->create)
        return 0;
    return with_sentence(look, (int)size, "find", why);
}

static int ask(const struct handler_set *handlers, const struct export_def *def,
               int (*question)(struct look *look, struct nbd_failure *why),
               struct storage_maker *maker, uint64_t *ret_size, struct nbd_failure *why)
{
    struct look look = { .handler = handler_find(handlers, def->handler), .def = def,
                         .maker = maker };
    int r;

    if (look.handler == NULL)
        return nbd_fail(why, ENOENT, "there is no handler \"%s\" here; \"nbd-cli status\" "
                        "lists those that are loaded", def->handler);
    look.dev = (struct nbd_device){ .name = def->name, .target = def->target,
                                    .readonly = def->readonly, .prealloc = def->prealloc,
                                    .trusted = true, .size = def->size };
    set_opts(&look);
    r = with_sentence(&look, look.handler->cfg_parse(&look.dev, def->target, why),
                      "understand", why);
    if (r == 0) {
        r = question(&look, why);
        if (look.handler->destroy != NULL)
            look.handler->destroy(&look.dev);
    }
    g_free(look.opts);
    if (r == 0 && ret_size != NULL)
        *ret_size = look.size;
    return r;
}

static void reject(const struct plan_step *step, const struct nbd_failure *why)
{
    config_unit_reject(step->unit, g_strdup_printf("%s line %u: export \"%s\": %s",
                                                   step->def->file, step->def->line,
                                                   step->def->name, why->message));
}

static bool is_new(const struct plan_step *step)
{
    return step->action == PLAN_ADD || step->action == PLAN_REPLACE;
}

void reload_storage_check(const struct handler_set *handlers, GArray *steps,
                          struct storage_maker *maker)
{
    for (guint i = 0; i < steps->len; i++) {
        struct plan_step *step = &g_array_index(steps, struct plan_step, i);
        struct nbd_failure why = { 0 };

        if (is_new(step) && ask(handlers, step->def, find, NULL, &step->size, &why) < 0)
            reject(step, &why);
    }
    /* Nothing is made for a file that is rejected for another reason. */
    for (guint i = 0; maker != NULL && i < steps->len; i++) {
        const struct plan_step *step = &g_array_index(steps, struct plan_step, i);
        struct nbd_failure why = { 0 };

        if (is_new(step) && step->def->create && !step->unit->rejected &&
            ask(handlers, step->def, make, maker, NULL, &why) < 0)
            reject(step, &why);
    }
}
