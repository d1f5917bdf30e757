/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * restore: local devices whose connection is dead (the daemon was restarted, the network was
 * away too long) get new sockets, so that what waits on them goes on.
 */
#include "command.h"
#include "device.h"
#include "listing.h"
#include "output.h"
#include "reattach.h"

#include <glib.h>
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

/* Where the devices are looked up: the daemon that was asked last, and what it said. */
struct source {
    char address[BACKEND_MAX];
    bool is_known;
    struct listing listing;
};

/* The device's own daemon, unless the words name one. */
static int ask_daemon(struct cli *cli, struct source *source, const char *address,
                      struct failure *why)
{
    int r;

    if (source->is_known && strcmp(source->address, address) == 0)
        return 0;
    listing_clear(&source->listing);
    source->is_known = false;
    r = cli_client_of(cli, address, why);
    if (r == 0)
        r = listing_fetch(cli, "", NR_L_MAPPED, &source->listing, why);
    if (r != 0)
        return r;
    g_strlcpy(source->address, address, sizeof(source->address));
    source->is_known = true;
    return 0;
}

static int bring_back(struct cli *cli, const struct local_device *device,
                      const struct mapping_facts *facts, json_object *restored,
                      struct failure *why)
{
    char name[32];
    int r;

    if (!mapping_facts_are_short(facts)) {
        if (facts->state != NR_M_LIVE ||
            device_size_for(device, facts->size_bytes) <= device->size_bytes)
            return 0;
        return reattach_size(cli, device, facts, why);
    }
    r = reattach(cli, device, facts, false, why);
    if (r != 0)
        return r;
    snprintf(name, sizeof(name), "/dev/nbd%d", device->index);
    cli_say(cli, "Connected %s", name);
    json_object_array_add(restored, json_object_new_string(name));
    return 0;
}

/* Restore it if its connection is dead. A device that cannot be restored is told at once;
 * the others still get their turn. */
static int restore_one(struct cli *cli, const struct local_device *device,
                       struct source *source, json_object *restored, struct failure *why)
{
    const nr_export *x = NULL;
    const nr_mapping *mapping;
    struct mapping_facts facts;
    int r = ask_daemon(cli, source, device->address, why);

    if (r == 0) {
        mapping = listing_find(&source->listing, device->cookie, &x);
        if (mapping == NULL) {
            cli_note(cli, "the daemon does not know the mapping of /dev/nbd%d", device->index);
            return 0;
        }
        mapping_facts_take(&facts, x, mapping);
        r = bring_back(cli, device, &facts, restored, why);
    }
    if (r != 0)
        cli_note(cli, "/dev/nbd%d: %s", device->index, why->message);
    return r;
}

int cmd_restore(struct cli *cli, struct failure *why)
{
    const char *wanted = words_text(&cli->words, "DEVICE", NULL);
    int index = wanted != NULL ? device_index_parse(wanted) : DEVICE_ANY, r = 0, first = 0;
    g_autofree struct local_device *devices = NULL;
    size_t n = sysfs_list(&cli->sysfs, &devices), failed = 0, seen = 0;
    struct source source = {0};
    json_object *restored;

    if (wanted != NULL && index < 0)
        return fail_with(why, STATUS_USAGE, "'%s' is no nbd device; these are /dev/nbdN",
                         wanted);
    restored = json_object_new_array();
    json_object_object_add(cli_answer(cli), "restored", restored);
    for (size_t i = 0; i < n; i++) {
        if (devices[i].cookie[0] == '\0' || (wanted != NULL && devices[i].index != index))
            continue;
        seen++;
        r = restore_one(cli, &devices[i], &source, restored, why);
        failed += r != 0;
        first = first != 0 ? first : r;
    }
    if (seen == 0 && wanted == NULL) /* whether there is a daemon is told all the same */
        r = ask_daemon(cli, &source, "", why);
    listing_clear(&source.listing);
    if (seen == 0 && wanted == NULL)
        return r;
    if (wanted != NULL && seen == 0)
        return fail_code(why, STATUS_FAILED, "ENOENT",
                         "/dev/nbd%d is not mapped by nbd-runner", index);
    if (failed > 0)
        return fail_with(why, (enum status)first,
                         "%zu of %zu devices could not be reconnected", failed, seen);
    return 0;
}
