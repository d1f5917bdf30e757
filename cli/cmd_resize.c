/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * BACKSTORE resize, and the size of `export set`: the daemon changes the backing store, then
 * the devices of this host that the export is mapped as are told. Those of other hosts are
 * told by the monitors there.
 */
#include "answer.h"
#include "command.h"
#include "follow.h"
#include "output.h"
#include "reattach.h"
#include "size.h"

#include <glib.h>
#include <inttypes.h>
#include <string.h>

const struct word words_resize[] = {
    {.name = "TARGET",
     .kind = WORD_POSITION,
     .min = 1,
     .max = NR_TARGET_MAX,
     .help = "what the backstore opens"},
    {.name = "size",
     .kind = WORD_VALUE,
     .type = TYPE_SIZE,
     .value = "SIZE",
     .required = true,
     .help = "the new size"},
    {.name = "shrink",
     .kind = WORD_FLAG,
     .help = "although what is behind the new end is lost"},
    {.name = NULL},
};

/* A device that cannot be told is no failure of the resize: the monitor, or 'restore', does it
 * later. */
static void resize_device(struct cli *cli, const nr_export *x, const nr_mapping *mapping,
                          json_object *resized)
{
    g_autofree struct local_device *devices = NULL;
    size_t n = sysfs_list(&cli->sysfs, &devices);

    for (size_t i = 0; i < n; i++) {
        g_autofree char *name = g_strdup_printf("/dev/nbd%d", devices[i].index);
        struct mapping_facts facts;
        struct failure why;

        if (mapping->state != NR_M_LIVE || strcmp(devices[i].cookie, mapping->cookie) != 0)
            continue;
        mapping_facts_take(&facts, x, mapping);
        if (device_size_for(&devices[i], facts.size_bytes) == devices[i].size_bytes)
            continue;
        if (reattach_size(cli, &devices[i], &facts, &why) != 0) {
            cli_note(cli, "%s keeps its size for now: %s", name, why.message);
            continue;
        }
        cli_say(cli, "Resized %s", name);
        json_object_array_add(resized, json_object_new_string(name));
    }
}

static void resize_devices(struct cli *cli, const char *name)
{
    nr_name_args args = {.name = (char *)name};
    nr_export_res res;
    const nr_export *x = &res.nr_export_res_u.x;
    json_object *resized = json_object_new_array();
    struct failure why;

    json_object_object_add(cli_answer(cli), "devices", resized);
    if (client_call(cli->client, NR_EXPORT_GET, &args, &res, &why) != 0) {
        cli_note(cli, "%s; devices of this host keep their size for now", why.message);
        return;
    }
    for (u_int i = 0; i < x->mappings.mappings_len; i++)
        resize_device(cli, x, &x->mappings.mappings_val[i], resized);
    client_free(NR_EXPORT_GET, &res);
}

int resize_export(struct cli *cli, const char *name, const nr_backstore *store,
                  struct failure *why)
{
    nr_resize_args args = {
        .store = *store,
        .name = (char *)name,
        .size = words_number(&cli->words, "size", 0),
        .shrink = words_has(&cli->words, "shrink"),
    };
    g_autofree char *export_name = NULL;
    nr_job_res res;
    int r = cli_client(cli, why);

    if (words_cut_bytes(&cli->words, "size") != 0)
        cli_note(cli, "size %s is no multiple of 512; rounded down to %" PRIu64,
                 words_text(&cli->words, "size", ""), args.size);
    if (r == 0)
        r = client_call(cli->client, NR_RESIZE, &args, &res, why);
    if (r != 0)
        return r;
    export_name = g_strdup(res.nr_job_res_u.job.export_name);
    r = follow_job(cli, res.nr_job_res_u.job.id, why);
    client_free(NR_RESIZE, &res);
    if (r != 0)
        return r;
    cli_say(cli, "Resize succeeded!");
    resize_devices(cli, export_name);
    return 0;
}

int cmd_resize(struct cli *cli, struct failure *why)
{
    nr_backstore store;
    int r = cli_backstore(cli, cli->backstore, &store, why);

    if (r != 0)
        return r;
    r = resize_export(cli, "", &store, why);
    cli_backstore_clear(&store);
    return r;
}
