/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What this host's kernel says about its nbd devices: /sys/block/nbdN, and who uses them
 * (mounts, swap, holders). Only reads; changes are device.c's. Works without the module.
 */
#ifndef CLI_SYSFS_H
#define CLI_SYSFS_H

#include "failure.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The kernel keeps an identifier of each device: "nbd-runner:COOKIE@ADDRESS", the address being
 * that of the daemon's control port. */
#define BACKEND_PREFIX "nbd-runner:"
#define BACKEND_MAX 512

/* Where to look; tests have their own trees. */
struct sysfs {
    const char *block; /* "/sys/block" */
    const char *proc;  /* "/proc" */
    const char *dev;   /* "/dev" */
    const char *run;   /* "/run/nbd-cli": what runs of nbd-cli tell each other */
};
#define SYSFS_SYSTEM                                                                          \
    (struct sysfs)                                                                            \
    {                                                                                         \
        .block = "/sys/block", .proc = "/proc", .dev = "/dev", .run = "/run/nbd-cli"          \
    }

struct local_device {
    int index;
    bool in_use; /* configured, by whomever */
    bool readonly;
    uint64_t size_bytes;
    uint32_t block_bytes;      /* logical block size */
    char backend[BACKEND_MAX]; /* identifier given at CONNECT, or empty */
    char cookie[64];           /* of our mapping, or empty */
    char address[BACKEND_MAX]; /* of its daemon, or empty */
};

/* Requests of a device: those that wait for an answer, and all that were ever answered. */
struct device_load {
    uint64_t in_flight, completed;
};

/* All nbd devices in the order of their numbers; *ret_devices is g_free'd. Returns how many.
 */
size_t sysfs_list(const struct sysfs *sysfs, struct local_device **ret_devices);

/* False when there is no such device. */
bool sysfs_read(const struct sysfs *sysfs, int index, struct local_device *ret_device);

bool sysfs_load(const struct sysfs *sysfs, int index, struct device_load *ret_load);

/* Who uses the device or one of its partitions: "is mounted on /mnt"; NULL for nobody, else
 * g_free. */
char *sysfs_user(const struct sysfs *sysfs, int index);

/* Wait until the device has that size and its node exists. */
bool sysfs_wait_ready(const struct sysfs *sysfs, int index, uint64_t size_bytes,
                      int64_t deadline);
/* Wait until nothing is configured on the device. */
bool sysfs_wait_free(const struct sysfs *sysfs, int index, int64_t deadline);

#endif
