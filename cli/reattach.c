/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * PREMAP with the cookie, sockets, RECONFIGURE, POSTMAP, under the lock of the device, so that
 * an unmap at the same time comes before or after all of it.
 */
#include "reattach.h"
#include "attach.h"
#include "device.h"
#include "net.h"
#include "rundir.h"
#include "size.h"

#include <errno.h>
#include <glib.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define LOCK_MS 10000

void mapping_facts_take(struct mapping_facts *facts, const nr_export *x,
                        const nr_mapping *mapping)
{
    memset(facts, 0, sizeof(*facts)); /* it goes through a pipe as it is */
    g_strlcpy(facts->cookie, mapping->cookie, sizeof(facts->cookie));
    g_strlcpy(facts->export_name, x->name, sizeof(facts->export_name));
    facts->size_bytes = x->size;
    facts->state = mapping->state;
    facts->connections = CLAMP(mapping->connections, 1u, (unsigned)DEVICE_SOCKETS_MAX);
    facts->connected = mapping->connected;
    facts->timeout_s = mapping->timeout_s;
    facts->dead_timeout_s = mapping->dead_timeout_s;
    facts->readonly = mapping->readonly;
}

bool mapping_facts_are_short(const struct mapping_facts *facts)
{
    return facts->state == NR_M_DEAD ||
           (facts->state == NR_M_LIVE && facts->connected < facts->connections);
}

uint64_t device_size_for(const struct local_device *device, uint64_t export_bytes)
{
    return export_bytes - export_bytes % device->block_bytes;
}

/* The lock of the device, which is still that mapping's; a descriptor, or -1. */
static int lock_device(struct cli *cli, const struct local_device *device, struct failure *why)
{
    int fd = rundir_lock_device(&cli->sysfs, device->index, deadline_in_ms(LOCK_MS));
    struct local_device now;

    if (fd < 0) {
        fail_with(why, fd == -EACCES ? STATUS_PERMISSION : STATUS_FAILED,
                  fd == -ETIMEDOUT ? "another nbd-cli changes /dev/nbd%d just now"
                                   : "/dev/nbd%d cannot be locked in %s: %s",
                  device->index, cli->sysfs.run, strerror(-fd));
        return -1;
    }
    if (sysfs_read(&cli->sysfs, device->index, &now) && now.in_use &&
        strcmp(now.cookie, device->cookie) == 0 &&
        !rundir_is_given_up(&cli->sysfs, now.cookie))
        return fd;
    close(fd);
    fail_code(why, STATUS_FAILED, "GONE", "/dev/nbd%d was unmapped meanwhile", device->index);
    return -1;
}

/* The export must not have lost what the kernel knows; it does not look itself. */
static int check_size(const struct local_device *device, uint64_t export_bytes,
                      struct failure *why)
{
    if (device_size_for(device, export_bytes) >= device->size_bytes)
        return 0;
    return fail_with(why, STATUS_FAILED,
                     "/dev/nbd%d has %" PRIu64 " bytes, its export only %" PRIu64
                     " now; unmap it and map it again",
                     device->index, device->size_bytes, export_bytes);
}

static int resize(const struct local_device *device, uint64_t export_bytes,
                  struct failure *why)
{
    uint64_t wanted = device_size_for(device, export_bytes);

    if (wanted <= device->size_bytes)
        return check_size(device, export_bytes, why);
    return device_resize(device->index, device->backend, wanted, why);
}

static int reconnect(struct cli *cli, const struct local_device *device,
                     const struct mapping_facts *facts, size_t count, const nr_ticket *ticket,
                     struct failure *why)
{
    struct device_setup setup = {
        .index = device->index,
        .timeout_s = facts->timeout_s,
        .dead_timeout_s = facts->dead_timeout_s,
        .backend = device->backend,
    };
    struct terms terms;
    int r = attach_sockets(cli, ticket, count, &setup, &terms, why);

    if (r == 0)
        r = check_size(device, setup.size_bytes, why);
    if (r == 0)
        r = device_reconfigure(&setup, why);
    if (r == 0)
        r = attach_done(cli, ticket->cookie, device->index, why);
    if (r == 0)
        r = resize(device, setup.size_bytes, why);
    attach_close(&setup);
    return r;
}

static int resume(struct cli *cli, const struct local_device *device,
                  const struct mapping_facts *facts, bool cut, struct failure *why)
{
    nr_map_args args = {
        .store = {.handler = (char *)"", .target = (char *)""},
        .name = (char *)facts->export_name,
        .readonly = facts->readonly,
        .multi = cut,
        .timeout_s = facts->timeout_s,
        .dead_timeout_s = facts->dead_timeout_s,
        .connections = facts->connections,
        .resume = (char *)facts->cookie,
    };
    size_t alive = facts->state == NR_M_LIVE && !cut ? facts->connected : 0;
    size_t count = alive < facts->connections ? facts->connections - alive : 1;
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
        r = reconnect(cli, device, facts, count, ticket, why);
    if (r != 0)
        attach_failed(cli, ticket->cookie, why);
    client_free(NR_PREMAP, &res);
    return r;
}

int reattach(struct cli *cli, const struct local_device *device,
             const struct mapping_facts *facts, bool cut, struct failure *why)
{
    int lock = lock_device(cli, device, why), r;

    if (lock < 0)
        return why->status;
    r = resume(cli, device, facts, cut, why);
    close(lock);
    return r;
}

int reattach_size(struct cli *cli, const struct local_device *device,
                  const struct mapping_facts *facts, struct failure *why)
{
    int lock = lock_device(cli, device, why), r;

    if (lock < 0)
        return why->status;
    r = resize(device, facts->size_bytes, why);
    close(lock);
    return r;
}
