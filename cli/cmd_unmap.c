/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * BACKSTORE unmap: says to the daemon that the end of the connection is wanted, looks who
 * uses the device, disconnects it, and reports. By device it works from what the kernel
 * knows, even when the daemon has forgotten the mapping.
 */
#include "attach.h"
#include "cmd_nbdtab.h"
#include "command.h"
#include "device.h"
#include "net.h"
#include "nbdtab.h"
#include "output.h"
#include "rundir.h"

#include <glib.h>
#include <string.h>
#include <unistd.h>

#define FREE_MS 5000
#define LOCK_MS 10000

const struct word words_unmap[] = {
    {.name = "TARGET",
     .kind = WORD_POSITION,
     .value = "nbd-device|TARGET",
     .min = 1,
     .max = NR_TARGET_MAX,
     .help = "/dev/nbdN, nbdN, or what the backstore opens"},
    {.name = "force",
     .kind = WORD_FLAG,
     .help = "although it is used, foreign, or the daemon is not reached"},
    {.name = "forget", .kind = WORD_FLAG, .help = "take it out of nbdtab(5) too; by TARGET"},
    {.name = "tab",
     .kind = WORD_VALUE,
     .value = "FILE",
     .min = 1,
     .max = 4096,
     .help = "for forget, instead of " SYSCONF_DIR "/nbdtab"},
    {.name = NULL},
};

static int call_unmap(struct cli *cli, nr_unmap_args *args, nr_mapping *ret_mapping,
                      nr_mapping_res *res, struct failure *why)
{
    int r = cli_client(cli, why);

    args->client = (char *)cli_host_name();
    args->force = words_has(&cli->words, "force");
    if (r == 0)
        r = client_call(cli->client, NR_UNMAP, args, res, why);
    if (r == 0)
        *ret_mapping = res->nr_mapping_res_u.mapping;
    return r;
}

/* BEGIN, DONE or ABORT for a cookie. */
static int report(struct cli *cli, nr_unmap_step step, const char *cookie, struct failure *why)
{
    nr_unmap_args args = {
        .step = step,
        .cookie = (char *)cookie,
        .store = {.handler = (char *)"", .target = (char *)""},
        .name = (char *)"",
        .device = (char *)"",
    };
    nr_mapping mapping;
    nr_mapping_res res;
    int r = call_unmap(cli, &args, &mapping, &res, why);

    if (r == 0)
        client_free(NR_UNMAP, &res);
    return r;
}

/* When its export was removed the daemon forgets the mapping with the last connection, which
 * may be before this report. */
static int report_done(struct cli *cli, const char *cookie, struct failure *why)
{
    int r = report(cli, NR_U_DONE, cookie, why);

    return r != 0 && strcmp(why->code, "ENOENT") == 0 ? 0 : r;
}

static int check_users(struct cli *cli, int index, struct failure *why)
{
    g_autofree char *user = sysfs_user(&cli->sysfs, index);

    if (user == NULL)
        return 0;
    if (words_has(&cli->words, "force")) {
        cli_note(cli, "/dev/nbd%d %s; 'force' detaches it all the same", index, user);
        return 0;
    }
    return fail_code(why, STATUS_FAILED, "EBUSY",
                     "/dev/nbd%d %s; end that first, or use 'force'", index, user);
}

static void answer_unmapped(struct cli *cli, int index, const char *cookie)
{
    g_autofree char *device = index >= 0 ? g_strdup_printf("/dev/nbd%d", index) : NULL;

    cli_say(cli, "Unmap succeeded!");
    json_put_optional(cli_answer(cli), "device", device);
    json_put_optional(cli_answer(cli), "cookie", cookie);
}

/* Somebody may still have it open: then the kernel keeps it occupied until the last close. */
static int wait_free(struct cli *cli, int index, struct failure *why)
{
    if (sysfs_wait_free(&cli->sysfs, index, deadline_in_ms(FREE_MS)))
        return 0;
    return fail_code(why, STATUS_FAILED, "EBUSY",
                     "/dev/nbd%d is disconnected, but some program "
                     "has it open; it stays occupied until that closes it",
                     index);
}

/* From here on nobody reconnects it: who was about to is waited for, and who comes later finds
 * the mapping given up. A lock that cannot be had is no reason to keep the device. */
static int disconnect(struct cli *cli, int index, const char *cookie, struct failure *why)
{
    int lock, r;

    rundir_give_up(&cli->sysfs, cookie);
    lock = rundir_lock_device(&cli->sysfs, index, deadline_in_ms(LOCK_MS));
    r = device_disconnect(index, why);
    if (r != 0)
        rundir_take_back(&cli->sysfs, cookie);
    if (lock >= 0)
        close(lock);
    return r;
}

/* The daemon has agreed (BEGIN), or does not know the mapping. */
static int detach(struct cli *cli, int index, const char *cookie, bool daemon_knows,
                  struct failure *why)
{
    struct failure ignored;
    int r = check_users(cli, index, why);

    if (r == 0)
        r = disconnect(cli, index, cookie, why);
    if (r != 0) {
        if (daemon_knows)
            report(cli, NR_U_ABORT, cookie, &ignored);
        return r;
    }
    r = wait_free(cli, index, why);
    rundir_tidy(&cli->sysfs);
    if (daemon_knows && r == 0)
        r = report_done(cli, cookie, why);
    else if (daemon_knows)
        report(cli, NR_U_DONE, cookie, &ignored);
    return r;
}

/* Of the device's own daemon, unless the words name one. */
static int begin_by_cookie(struct cli *cli, const struct local_device *device, bool *ret_knows,
                           struct failure *why)
{
    int index = device->index;
    struct failure first;
    int r = cli_client_of(cli, device->address, &first);

    if (r == 0)
        r = report(cli, NR_U_BEGIN, device->cookie, &first);

    *why = first;
    *ret_knows = r == 0;
    if (r == 0)
        return 0;
    if (strcmp(why->code, "ENOENT") == 0) {
        cli_note(cli, "the daemon does not know the mapping of /dev/nbd%d any more", index);
        return 0;
    }
    if (r != STATUS_UNREACHABLE && r != STATUS_NO_ANSWER)
        return r;
    if (!words_has(&cli->words, "force"))
        return fail_with(why, (enum status)r,
                         "%s; 'force' detaches /dev/nbd%d without the daemon", first.message,
                         index);
    cli_note(cli, "%s; detached without the daemon", first.message);
    return 0;
}

static int unmap_device(struct cli *cli, int index, struct failure *why)
{
    bool force = words_has(&cli->words, "force"), knows = false;
    struct local_device device;
    int r = 0;

    if (!sysfs_read(&cli->sysfs, index, &device) || !device.in_use)
        return fail_code(why, STATUS_FAILED, "ENOENT", "/dev/nbd%d is not mapped", index);
    if (device.cookie[0] == '\0' && !force)
        return fail_code(
            why, STATUS_FAILED, "EBUSY",
            "/dev/nbd%d was not mapped by nbd-runner, "
            "but by %s; use that tool, or 'force'",
            index, device.backend[0] != '\0' ? device.backend : "a program that left no name");
    if (device.cookie[0] != '\0')
        r = begin_by_cookie(cli, &device, &knows, why);
    if (r == 0)
        r = detach(cli, index, device.cookie, knows, why);
    if (r == 0)
        answer_unmapped(cli, index, device.cookie);
    return r;
}

/* The local device of a mapping, -1 when there is none. */
static int find_device(struct cli *cli, const char *cookie)
{
    g_autofree struct local_device *devices = NULL;
    size_t n = sysfs_list(&cli->sysfs, &devices);

    for (size_t i = 0; i < n; i++)
        if (strcmp(devices[i].cookie, cookie) == 0)
            return devices[i].index;
    return -1;
}

/* No device here has the mapping: one of this host is gone (a reboot) and is forgotten, one
 * of another host is none of our business. */
static int forget(struct cli *cli, const nr_mapping *mapping, struct failure *why)
{
    bool is_ours = strcmp(mapping->client, cli_host_name()) == 0;
    struct failure ignored;
    int r;

    if (!is_ours && !words_has(&cli->words, "force")) {
        report(cli, NR_U_ABORT, mapping->cookie, &ignored);
        return fail_code(why, STATUS_FAILED, "EBUSY",
                         "it is mapped on host %s as %s; unmap it "
                         "there, or use 'force' to forget that",
                         mapping->client, mapping->device);
    }
    r = report(cli, NR_U_DONE, mapping->cookie, why);
    if (r == 0)
        answer_unmapped(cli, -1, mapping->cookie);
    return r;
}

static int unmap_target(struct cli *cli, struct failure *why)
{
    nr_unmap_args args = {
        .step = NR_U_BEGIN,
        .cookie = (char *)"",
        .name = (char *)"",
        .device = (char *)"",
    };
    nr_mapping_res res;
    nr_mapping mapping;
    int r = cli_backstore(cli, cli->backstore, &args.store, why), index;

    if (r != 0)
        return r;
    r = call_unmap(cli, &args, &mapping, &res, why);
    cli_backstore_clear(&args.store);
    if (r == STATUS_UNREACHABLE || r == STATUS_NO_ANSWER)
        cli_note(cli, "by its device it can be unmapped without the daemon: "
                      "'unmap /dev/nbdN force'");
    if (r != 0)
        return r;
    index = find_device(cli, mapping.cookie);
    if (index < 0) {
        r = forget(cli, &mapping, why);
    } else {
        r = detach(cli, index, mapping.cookie, true, why);
        if (r == 0)
            answer_unmapped(cli, index, mapping.cookie);
    }
    client_free(NR_UNMAP, &res);
    return r;
}

int cmd_unmap(struct cli *cli, struct failure *why)
{
    int index = device_index_parse(words_text(&cli->words, "TARGET", ""));

    bool forgets = words_has(&cli->words, "forget");
    int r;

    if (index >= 0 && forgets)
        return fail_with(why, STATUS_USAGE, "'forget' goes with the TARGET, not with a device");
    r = index >= 0 ? unmap_device(cli, index, why) : unmap_target(cli, why);
    if (forgets && (r == 0 || strcmp(why->code, "ENOENT") == 0))
        r = nbdtab_remove(nbdtab_path(cli), cli->backstore,
                          words_text(&cli->words, "TARGET", ""), why);
    return r;
}
