/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * restore: local devices whose connection is dead (the daemon was restarted, the network was
 * away too long) get new sockets, so that what waits on them goes on.
 */
#include "attach.h"
#include "command.h"
#include "device.h"
#include "listing.h"
#include "output.h"

#include <inttypes.h>
#include <string.h>

const struct word words_restore[] = {
    {.name = "DEVICE",
     .kind = WORD_DEVICE,
     .value = "nbd-device",
     .min = 1,
     .max = NR_DEV_MAX,
     .help = "only this one (all)"},
    {.name = NULL},
};

/* The export must still be what the kernel knows; it does not look itself. */
static int check_same(const struct local_device *device, const struct device_setup *setup,
                      struct failure *why)
{
    uint64_t size = setup->size_bytes - setup->size_bytes % 512;

    if (size == device->size_bytes)
        return 0;
    return fail_with(why, STATUS_FAILED,
                     "/dev/nbd%d has %" PRIu64 " bytes, its export now %" PRIu64
                     "; unmap it and map it again",
                     device->index, device->size_bytes, setup->size_bytes);
}

static int reconnect(struct cli *cli, const struct local_device *device,
                     const nr_mapping *mapping, const nr_ticket *ticket, struct failure *why)
{
    struct device_setup setup = {
        .index = device->index,
        .timeout_s = mapping->timeout_s,
        .dead_timeout_s = mapping->dead_timeout_s,
        .backend = device->backend,
    };
    size_t count = mapping->connections;
    struct terms terms;
    int r;

    if (count < 1 || count > DEVICE_SOCKETS_MAX)
        count = 1;
    r = attach_sockets(cli, ticket, count, &setup, &terms, why);
    if (r == 0)
        r = check_same(device, &setup, why);
    if (r == 0)
        r = device_reconfigure(&setup, why);
    if (r == 0)
        r = attach_done(cli, ticket->cookie, device->index, why);
    attach_close(&setup);
    return r;
}

static int restore(struct cli *cli, const struct local_device *device, const nr_export *x,
                   const nr_mapping *mapping, struct failure *why)
{
    nr_map_args args = {
        .store = {.handler = (char *)"", .target = (char *)""},
        .name = x->name,
        .readonly = mapping->readonly,
        .timeout_s = mapping->timeout_s,
        .dead_timeout_s = mapping->dead_timeout_s,
        .connections = mapping->connections,
        .resume = mapping->cookie,
    };
    nr_ticket_res res;
    const nr_ticket *ticket = &res.nr_ticket_res_u.ticket;
    int r = attach_premap(cli, &args, &res, why);

    if (r != 0)
        return r;
    if (strcmp(ticket->cookie, device->cookie) != 0)
        r = fail_with(why, STATUS_FAILED,
                      "the daemon does not take up the mapping of /dev/nbd%d again",
                      device->index);
    else
        r = reconnect(cli, device, mapping, ticket, why);
    if (r != 0)
        attach_failed(cli, ticket->cookie, why);
    client_free(NR_PREMAP, &res);
    return r;
}

/* Restore it if its connection is dead. A device that cannot be restored is told at once;
 * the others still get their turn. */
static int restore_one(struct cli *cli, const struct local_device *device,
                       const struct listing *listing, json_object *restored,
                       struct failure *why)
{
    const nr_export *x = NULL;
    const nr_mapping *mapping = listing_find(listing, device->cookie, &x);
    char name[32];
    int r;

    if (mapping == NULL) {
        cli_note(cli, "the daemon does not know the mapping of /dev/nbd%d", device->index);
        return 0;
    }
    if (mapping->state != NR_M_DEAD)
        return 0;
    r = restore(cli, device, x, mapping, why);
    if (r != 0) {
        cli_note(cli, "/dev/nbd%d: %s", device->index, why->message);
        return r;
    }
    snprintf(name, sizeof(name), "/dev/nbd%d", device->index);
    cli_say(cli, "Connected %s", name);
    json_object_array_add(restored, json_object_new_string(name));
    return 0;
}

int cmd_restore(struct cli *cli, struct failure *why)
{
    const char *wanted = words_text(&cli->words, "DEVICE", NULL);
    int index = wanted != NULL ? device_index_parse(wanted) : DEVICE_ANY, r, first = 0;
    g_autofree struct local_device *devices = NULL;
    size_t n = sysfs_list(&cli->sysfs, &devices), failed = 0, seen = 0;
    struct listing listing = {0};
    json_object *restored;

    if (wanted != NULL && index < 0)
        return fail_with(why, STATUS_USAGE, "'%s' is no nbd device; these are /dev/nbdN",
                         wanted);
    r = listing_fetch(cli, "", NR_L_ALL, &listing, why);
    if (r != 0)
        return r;
    restored = json_object_new_array();
    json_object_object_add(cli_answer(cli), "restored", restored);
    for (size_t i = 0; i < n; i++) {
        if (devices[i].cookie[0] == '\0' || (wanted != NULL && devices[i].index != index))
            continue;
        seen++;
        r = restore_one(cli, &devices[i], &listing, restored, why);
        failed += r != 0;
        first = first != 0 ? first : r;
    }
    listing_clear(&listing);
    if (wanted != NULL && seen == 0)
        return fail_code(why, STATUS_FAILED, "ENOENT",
                         "/dev/nbd%d is not mapped by nbd-runner", index);
    if (failed > 0)
        return fail_with(why, (enum status)first,
                         "%zu of %zu devices could not be reconnected", failed, seen);
    return 0;
}
