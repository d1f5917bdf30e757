/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * BACKSTORE map: a lease from the daemon, negotiated sockets, a device of the kernel, and the
 * word to the daemon that it works. A failure undoes what was done before it.
 */
#include "attach.h"
#include "cmd_nbdtab.h"
#include "command.h"
#include "listing.h"
#include "monitor_start.h"
#include "net.h"
#include "output.h"
#include "rundir.h"
#include "size.h"

#include "nbd_protocol.h"

#include <glib.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#define READY_MS 5000
#define DEAD_TIMEOUT_S 600 /* for a restart, an upgrade, a reboot of the server */
#define KERNEL_BLOCK_MAX 4096u

const struct word words_map[] = {
    {.name = "TARGET",
     .kind = WORD_POSITION,
     .min = 1,
     .max = NR_TARGET_MAX,
     .help = "what the backstore opens"},
    {.name = "DEVICE",
     .kind = WORD_DEVICE,
     .value = "nbd-device",
     .min = 1,
     .max = NR_DEV_MAX,
     .help = "/dev/nbdN or nbdN (any free one)"},
    {.name = "timeout",
     .kind = WORD_VALUE,
     .type = TYPE_SECONDS,
     .value = "TIME",
     .max = 86400,
     .help = "give up a connection that does not answer a request so long (0: never)"},
    {.name = "readonly", .kind = WORD_FLAG, .help = "a device that cannot be written to"},
    {.name = "connections",
     .kind = WORD_VALUE,
     .type = TYPE_NUMBER,
     .value = "N",
     .min = 1,
     .max = DEVICE_SOCKETS_MAX,
     .help = "parallel connections (1)"},
    {.name = "dead-timeout",
     .kind = WORD_VALUE,
     .type = TYPE_SECONDS,
     .value = "TIME",
     .max = 31536000,
     .help = "without a connection requests wait so long (600)"},
    {.name = "blocksize",
     .kind = WORD_VALUE,
     .type = TYPE_SIZE,
     .value = "N",
     .help = "logical block size of the device, 512 to 4096 (512)"},
    {.name = "multi", .kind = WORD_FLAG, .help = "although it is mapped elsewhere"},
    {.name = "nomonitor",
     .kind = WORD_FLAG,
     .help = "start no monitor that reconnects the device"},
    {.name = "persist",
     .kind = WORD_FLAG,
     .help = "keep it in nbdtab(5), so that it is mapped when this host boots"},
    {.name = "tab",
     .kind = WORD_VALUE,
     .value = "FILE",
     .min = 1,
     .max = 4096,
     .help = "for persist, instead of " SYSCONF_DIR "/nbdtab"},
    {.name = "no-modprobe", .kind = WORD_FLAG, .help = "do not load the kernel module"},
    {.name = "opt", .kind = WORD_LIST, .value = "KEY=VALUE", .help = "option of the handler"},
    {.name = NULL},
};

/* A named device that somebody has is refused. Before there is a ticket (cookie NULL) one of
 * our own is let pass: it may be that of the mapping, left by a dead connection. */
static int check_device(struct cli *cli, int index, const char *cookie, struct failure *why)
{
    struct local_device device;

    if (index == DEVICE_ANY || !sysfs_read(&cli->sysfs, index, &device) || !device.in_use)
        return 0;
    if (device.cookie[0] != '\0' && (cookie == NULL || strcmp(device.cookie, cookie) == 0))
        return 0;
    return fail_code(
        why, STATUS_FAILED, "EBUSY",
        "/dev/nbd%d is in use by %s; name another "
        "device or none",
        index, device.backend[0] != '\0' ? device.backend : "a program that left no name");
}

static bool is_kernel_block(uint64_t bytes)
{
    return bytes >= SECTOR_BYTES && bytes <= KERNEL_BLOCK_MAX && (bytes & (bytes - 1)) == 0;
}

/* Choose the device's block size and cut its size to it. */
static int fit_blocks(struct cli *cli, const struct terms *terms, struct device_setup *setup,
                      struct failure *why)
{
    uint64_t least = MAX(terms->block_min, SECTOR_BYTES);
    uint64_t block = words_number(&cli->words, "blocksize", least);
    uint64_t rest;

    if (!is_kernel_block(least))
        return fail_with(why, STATUS_FAILED,
                         "the server's minimum block size is %u; the kernel's "
                         "driver takes up to %u",
                         terms->block_min, KERNEL_BLOCK_MAX);
    if (block < least)
        return fail_with(why, STATUS_FAILED,
                         "blocksize %" PRIu64 " is below the server's minimum, "
                         "%u",
                         block, terms->block_min);
    rest = setup->size_bytes % block;
    if (setup->size_bytes < block)
        return fail_with(why, STATUS_FAILED,
                         "the export has %" PRIu64 " bytes, less than one block",
                         setup->size_bytes);
    if (rest != 0 && block != SECTOR_BYTES)
        return fail_with(why, STATUS_FAILED,
                         "the export's size of %" PRIu64 " bytes is no multiple "
                         "of the block size %" PRIu64,
                         setup->size_bytes, block);
    if (rest != 0)
        cli_note(cli,
                 "the export's last %" PRIu64 " bytes are no whole sector and are missing "
                 "on the device",
                 rest);
    setup->size_bytes -= rest;
    setup->block_bytes = (uint32_t)block;
    return 0;
}

/* The mapping was dead and its device is still there: it gets the new sockets. */
static bool takes_up_device(struct cli *cli, const nr_ticket *ticket, int *ret_index)
{
    struct local_device device;
    int index = device_index_parse(ticket->device);

    if (!ticket->resumed || index < 0 || !sysfs_read(&cli->sysfs, index, &device) ||
        !device.in_use || strcmp(device.cookie, ticket->cookie) != 0)
        return false;
    *ret_index = index;
    return true;
}

static int connect_new(struct cli *cli, const struct device_setup *setup, int *ret_index,
                       struct failure *why)
{
    int64_t deadline;
    int r = device_connect(setup, ret_index, why);
    struct failure ignored;

    if (r != 0 && strcmp(why->code, "EBUSY") == 0)
        check_device(cli, setup->index, "", why);
    if (r != 0)
        return r;
    deadline = deadline_in_ms(READY_MS);
    if (sysfs_wait_ready(&cli->sysfs, *ret_index, setup->size_bytes, deadline))
        return 0;
    device_disconnect(*ret_index, &ignored);
    return fail_with(why, STATUS_FAILED,
                     "/dev/nbd%d did not appear with %" PRIu64 " bytes within "
                     "%d s",
                     *ret_index, setup->size_bytes, READY_MS / 1000);
}

static int take_up(struct cli *cli, struct device_setup *setup, int wanted, int index,
                   struct failure *why)
{
    struct local_device device;
    int lock, r;

    if (wanted != DEVICE_ANY && wanted != index)
        return fail_code(why, STATUS_FAILED, "EBUSY",
                         "it is attached to /dev/nbd%d already, with "
                         "a dead connection; unmap that first, or name it",
                         index);
    if (!sysfs_read(&cli->sysfs, index, &device) || device.size_bytes != setup->size_bytes)
        return fail_with(why, STATUS_FAILED,
                         "/dev/nbd%d has another size than the export now; unmap "
                         "it first",
                         index);
    setup->index = index;
    setup->backend = device.backend; /* the kernel compares it */
    lock = rundir_lock_device(&cli->sysfs, index, deadline_in_ms(READY_MS));
    r = device_reconfigure(setup, why);
    if (lock >= 0)
        close(lock);
    return r;
}

/* The last step cannot be left half done by a Ctrl-C. */
static int attach(struct cli *cli, const nr_ticket *ticket, struct device_setup *setup,
                  int *ret_index, struct failure *why)
{
    int resumed = DEVICE_ANY, wanted = setup->index, r;
    bool is_new = !takes_up_device(cli, ticket, &resumed);
    sigset_t signals, before;
    struct failure ignored;

    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGHUP);
    sigprocmask(SIG_BLOCK, &signals, &before);
    *ret_index = resumed;
    if (is_new)
        r = connect_new(cli, setup, ret_index, why);
    else
        r = take_up(cli, setup, wanted, resumed, why);
    if (r == 0) {
        r = attach_done(cli, ticket->cookie, *ret_index, why);
        if (r != 0 && is_new)
            device_disconnect(*ret_index, &ignored);
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    return r;
}

static int map_ticket(struct cli *cli, const nr_ticket *ticket, struct device_setup *setup,
                      int *ret_index, struct failure *why)
{
    g_autofree char *backend = attach_backend(cli, ticket->cookie);
    size_t count = (size_t)words_number(&cli->words, "connections", 1);
    struct terms terms;
    int r = device_driver(!words_has(&cli->words, "no-modprobe"), why);

    setup->backend = backend;
    if (r == 0)
        r = check_device(cli, setup->index, ticket->cookie, why);
    if (r == 0)
        r = attach_sockets(cli, ticket, count, setup, &terms, why);
    if (r == 0)
        r = fit_blocks(cli, &terms, setup, why);
    if (words_has(&cli->words, "readonly"))
        setup->flags |= NBD_FLAG_READ_ONLY;
    if (r == 0)
        r = attach(cli, ticket, setup, ret_index, why);
    attach_close(setup);
    setup->backend = NULL;
    return r;
}

static void answer_mapped(struct cli *cli, const nr_ticket *ticket, int index)
{
    g_autofree char *device = g_strdup_printf("/dev/nbd%d", index);

    cli_say(cli, "Connected %s", device);
    cli_say(cli, "Map succeeded!");
    json_put_text(cli_answer(cli), "device", device);
    json_put_text(cli_answer(cli), "cookie", ticket->cookie);
    json_put_text(cli_answer(cli), "export", ticket->export_name);
    json_put_bool(cli_answer(cli), "resumed", ticket->resumed);
}

static const char *without_slashes(const char *target)
{
    return target + strspn(target, "/");
}

/* The cookie (g_free) of this host's dead mapping of the target, NULL when there is none that
 * could be taken up with what was asked for. */
static char *find_dead(struct cli *cli, const nr_map_args *args)
{
    struct listing listing;
    struct failure ignored;
    char *found = NULL;

    if (listing_fetch(cli, args->store.handler, NR_L_DEAD, &listing, &ignored) != 0)
        return NULL;
    for (guint i = 0; i < listing.exports->len && found == NULL; i++) {
        const nr_export *x = g_ptr_array_index(listing.exports, i);

        if (strcmp(without_slashes(x->store.target), without_slashes(args->store.target)) != 0)
            continue;
        for (u_int j = 0; j < x->mappings.mappings_len && found == NULL; j++) {
            const nr_mapping *mapping = &x->mappings.mappings_val[j];

            if (mapping->state == NR_M_DEAD && mapping->readonly == args->readonly &&
                strcmp(mapping->client, cli_host_name()) == 0)
                found = g_strdup(mapping->cookie);
        }
    }
    listing_clear(&listing);
    return found;
}

/* A refusal because of our own dead mapping is no reason to give up. */
static int premap(struct cli *cli, nr_map_args *args, nr_ticket_res *res, struct failure *why)
{
    g_autofree char *cookie = NULL;
    int r = attach_premap(cli, args, res, why);

    if (r == 0 || strcmp(why->code, "EBUSY") != 0)
        return r;
    cookie = find_dead(cli, args);
    if (cookie == NULL)
        return r;
    args->resume = cookie;
    r = attach_premap(cli, args, res, why);
    args->resume = (char *)"";
    return r;
}

static int map(struct cli *cli, nr_map_args *args, int index, struct failure *why)
{
    struct device_setup setup = {
        .index = index,
        .timeout_s = args->timeout_s,
        .dead_timeout_s = args->dead_timeout_s,
    };
    nr_ticket_res res;
    nr_ticket *ticket = &res.nr_ticket_res_u.ticket;
    int r = premap(cli, args, &res, why);

    if (r != 0)
        return r;
    r = map_ticket(cli, ticket, &setup, &index, why);
    if (r == 0) {
        answer_mapped(cli, ticket, index);
        r = words_has(&cli->words, "persist") ? nbdtab_persist(cli, why) : 0;
        if (!words_has(&cli->words, "nomonitor"))
            monitor_start(cli);
    } else {
        attach_failed(cli, ticket->cookie, why);
    }
    client_free(NR_PREMAP, &res);
    return r;
}

int cmd_map(struct cli *cli, struct failure *why)
{
    const struct words *words = &cli->words;
    const char *device = words_text(words, "DEVICE", NULL);
    int index = device != NULL ? device_index_parse(device) : DEVICE_ANY;
    nr_map_args args = {
        .name = (char *)"",
        .resume = (char *)"",
        .readonly = words_has(words, "readonly"),
        .multi = words_has(words, "multi"),
        .timeout_s = (u_int)words_number(words, "timeout", 0),
        .dead_timeout_s = (u_int)words_number(words, "dead-timeout", DEAD_TIMEOUT_S),
        .connections = (u_int)words_number(words, "connections", 1),
    };
    int r;

    if (device != NULL && index < 0)
        return fail_with(why, STATUS_USAGE, "'%s' is no nbd device; these are /dev/nbdN",
                         device);
    if (words_has(words, "blocksize") &&
        (words_cut_bytes(words, "blocksize") != 0 ||
         !is_kernel_block(words_number(words, "blocksize", 0))))
        return fail_with(why, STATUS_USAGE, "blocksize '%s' is not 512, 1024, 2048 or 4096",
                         words_text(words, "blocksize", ""));
    r = check_device(cli, index, NULL, why);
    if (r == 0)
        r = cli_backstore(cli, cli->backstore, &args.store, why);
    if (r != 0)
        return r;
    r = map(cli, &args, index, why);
    cli_backstore_clear(&args.store);
    return r;
}
