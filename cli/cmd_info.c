/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * info: what an NBD server says about an export, and with --map which parts of it are data.
 */
#include "command.h"
#include "output.h"
#include "remote.h"
#include "size.h"

#include <glib.h>
#include <inttypes.h>
#include <string.h>

#define MAP_STEP_BYTES UINT64_C(0xffff0000) /* of one BLOCK_STATUS: below 32 bits */

const struct word words_info[] = {
    {.name = "EXPORT",
     .kind = WORD_OPTIONAL,
     .value = "EXPORT|URI",
     .max = NR_TARGET_MAX,
     .help = "name at the daemon, or nbd://HOST/NAME, nbd+unix:///NAME?socket=PATH"},
    {.name = "map",
     .kind = WORD_FLAG,
     .option_only = true,
     .help = "list the extents: offset, length, type"},
    {.name = "addr",
     .kind = WORD_VALUE,
     .value = "ADDR",
     .letter = 'l',
     .min = 1,
     .max = 255,
     .option_only = true,
     .help = "NBD server, instead of asking the daemon"},
    {.name = "port",
     .kind = WORD_VALUE,
     .type = TYPE_NUMBER,
     .value = "PORT",
     .letter = 'p',
     .min = 1,
     .max = 65535,
     .option_only = true,
     .help = "its port (10809)"},
    {.name = "bind",
     .kind = WORD_VALUE,
     .value = "ADDR",
     .letter = 'b',
     .min = 1,
     .max = 255,
     .option_only = true,
     .help = "connect from this address"},
    {.name = NULL},
};

/* ---- What the server tells while negotiating ---- */

struct contexts {
    json_object *names;
    bool is_over;
};

static int on_context(void *arg, const char *name)
{
    struct contexts *contexts = arg;
    g_autofree char *valid = g_utf8_make_valid(name, -1);

    json_object_array_add(contexts->names, json_object_new_string(valid));
    return 0;
}

/* A server without meta contexts answers with an error: no reason to stop. */
static int on_contexts_end(void *arg, int *error)
{
    struct contexts *contexts = arg;

    *error = 0;
    contexts->is_over = true;
    return 1;
}

/* All contexts, not only those asked for: the list of queries must be empty. */
static int list_contexts(struct remote *remote, json_object *names, struct failure *why)
{
    struct contexts contexts = {.names = names};
    nbd_context_callback context = {.callback = on_context, .user_data = &contexts};
    nbd_completion_callback end = {.callback = on_contexts_end, .user_data = &contexts};
    int r = 0;

    if (!nbd_aio_is_negotiating(remote->nbd))
        return 0;
    nbd_clear_meta_contexts(remote->nbd);
    if (nbd_aio_opt_list_meta_context(remote->nbd, context, end) < 0)
        contexts.is_over = true;
    while (r == 0 && !contexts.is_over)
        r = remote_poll(remote, why);
    nbd_add_meta_context(remote->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION);
    return r;
}

static uint32_t transmission_flags(struct nbd_handle *nbd)
{
    static const struct {
        int (*ask)(struct nbd_handle *);
        uint32_t flag;
    } questions[] = {
        {nbd_is_read_only, 1u << 1}, {nbd_can_flush, 1u << 2},
        {nbd_can_fua, 1u << 3},      {nbd_is_rotational, 1u << 4},
        {nbd_can_trim, 1u << 5},     {nbd_can_zero, 1u << 6},
        {nbd_can_df, 1u << 7},       {nbd_can_multi_conn, 1u << 8},
        {nbd_can_cache, 1u << 10},   {nbd_can_fast_zero, 1u << 11},
    };
    uint32_t flags = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(questions); i++)
        if (questions[i].ask(nbd) == 1)
            flags |= questions[i].flag;
    return flags;
}

static uint64_t block_size(struct nbd_handle *nbd, int which)
{
    int64_t size = nbd_get_block_size(nbd, which);

    return size > 0 ? (uint64_t)size : 0;
}

static void answer_info(struct cli *cli, struct remote *remote, json_object *contexts)
{
    struct nbd_handle *nbd = remote->nbd;
    json_object *answer = cli_answer(cli);
    g_autofree char *name = nbd_get_export_name(nbd);
    g_autofree char *description = nbd_get_export_description(nbd);
    uint32_t flags = transmission_flags(nbd);
    g_autofree char *words = flags_text(flags);
    uint64_t size = (uint64_t)nbd_get_size(nbd);
    char text[SIZE_TEXT_MAX];

    cli_say(cli, "export         %s", name != NULL ? name : "");
    if (description != NULL && *description != '\0')
        cli_say(cli, "description    %s", description);
    cli_say(cli, "size           %s (%" PRIu64 " bytes)", size_format(size, text), size);
    cli_say(cli, "flags          %s", words);
    cli_say(cli,
            "block sizes    %" PRIu64 " minimum, %" PRIu64 " preferred, %" PRIu64
            " maximum (0: not said)",
            block_size(nbd, LIBNBD_SIZE_MINIMUM), block_size(nbd, LIBNBD_SIZE_PREFERRED),
            block_size(nbd, LIBNBD_SIZE_MAXIMUM));
    for (size_t i = 0; i < json_object_array_length(contexts); i++)
        cli_say(cli, "context        %s",
                json_object_get_string(json_object_array_get_idx(contexts, i)));
    json_put_text(answer, "export", name);
    json_put_optional(answer, "description", description);
    json_put_number(answer, "size_bytes", size);
    json_object_object_add(answer, "flag_names", flags_json(flags));
    json_put_number(answer, "block_min", block_size(nbd, LIBNBD_SIZE_MINIMUM));
    json_put_number(answer, "block_preferred", block_size(nbd, LIBNBD_SIZE_PREFERRED));
    json_put_number(answer, "block_max", block_size(nbd, LIBNBD_SIZE_MAXIMUM));
    json_object_object_add(answer, "contexts", contexts);
}

/* ---- The map ---- */

struct map {
    struct cli *cli;
    json_object *extents;
    uint64_t offset; /* up to here the server has answered */
    uint64_t size;
    uint64_t start; /* of the extent that is being joined together */
    uint32_t type;
};

static const char *type_text(uint32_t type)
{
    static const char *const names[] = {"data", "hole", "zero", "hole,zero"};

    return type < G_N_ELEMENTS(names) ? names[type] : "unknown";
}

static void end_extent(struct map *map)
{
    uint64_t length = map->offset - map->start;
    json_object *extent;

    if (length == 0)
        return;
    cli_say(map->cli, "%16" PRIu64 " %16" PRIu64 " %s", map->start, length,
            type_text(map->type));
    extent = json_object_new_object();
    json_put_number(extent, "offset", map->start);
    json_put_number(extent, "length", length);
    json_put_text(extent, "type", type_text(map->type));
    json_object_array_add(map->extents, extent);
    map->start = map->offset;
}

/* entries: length and flags in turn. */
static int on_extents(void *arg, const char *context, uint64_t offset, uint32_t *entries,
                      size_t n, int *error)
{
    struct map *map = arg;

    (void)error;
    if (strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0 || offset != map->offset)
        return 0;
    for (size_t i = 0; i + 1 < n && map->offset < map->size; i += 2) {
        if (entries[i + 1] != map->type)
            end_extent(map);
        map->type = entries[i + 1];
        map->offset += MIN(entries[i], map->size - map->offset);
    }
    return 0;
}

static int print_map(struct cli *cli, struct remote *remote, struct failure *why)
{
    struct map map = {.cli = cli, .size = (uint64_t)nbd_get_size(remote->nbd)};
    nbd_extent_callback extents = {.callback = on_extents, .user_data = &map};
    int r = 0;

    if (nbd_can_meta_context(remote->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) != 1)
        return fail_code(why, STATUS_FAILED, "ENOTSUP",
                         "the server does not tell what is "
                         "allocated (no base:allocation)");
    map.extents = json_object_new_array();
    json_object_object_add(cli_answer(cli), "extents", map.extents);
    while (r == 0 && map.offset < map.size) {
        uint64_t before = map.offset;
        int64_t cookie =
            nbd_aio_block_status(remote->nbd, MIN(map.size - before, MAP_STEP_BYTES), before,
                                 extents, NBD_NULL_COMPLETION, 0);

        r = cookie < 0 ? remote_fail(why) : remote_finish(remote, cookie, why);
        if (r == 0 && map.offset == before)
            r = fail_with(why, STATUS_FAILED, "the server does not say what is at %" PRIu64,
                          before);
    }
    end_extent(&map);
    return r;
}

int cmd_info(struct cli *cli, struct failure *why)
{
    json_object *contexts;
    struct remote remote;
    int r = remote_connect(cli, &remote, why);

    if (r != 0)
        return r;
    contexts = json_object_new_array();
    r = list_contexts(&remote, contexts, why);
    if (r == 0)
        r = remote_go(&remote, why);
    if (r == 0)
        answer_info(cli, &remote, contexts);
    else
        json_object_put(contexts);
    if (r == 0 && words_has(&cli->words, "map"))
        r = print_map(cli, &remote, why);
    nbd_aio_disconnect(remote.nbd, 0);
    remote_close(&remote);
    return r;
}
