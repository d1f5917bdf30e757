/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Configures the kernel's nbd devices over generic netlink and loads its module. Only this and
 * device_watch.c know libnl; what the kernel says about devices is read by sysfs.c.
 */
#ifndef CLI_DEVICE_H
#define CLI_DEVICE_H

#include "failure.h"

#include <stddef.h>
#include <stdint.h>

#define DEVICE_ANY (-1)
#define DEVICE_SOCKETS_MAX 16

struct device_setup {
    int index; /* DEVICE_ANY: the kernel chooses */
    uint64_t size_bytes;
    uint32_t block_bytes;
    uint16_t flags;          /* transmission flags as the server offers them */
    uint32_t timeout_s;      /* of a request; 0: none */
    uint32_t dead_timeout_s; /* how long requests wait for a reconnect */
    const char *backend;     /* identifier to store, and to show at RECONFIGURE */
    int sockets[DEVICE_SOCKETS_MAX];
    size_t n_sockets;
};

enum driver_state {
    DRIVER_READY,       /* can be used */
    DRIVER_LOADABLE,    /* its module is installed */
    DRIVER_BLACKLISTED, /* but must not be loaded by itself */
    DRIVER_OLD,         /* without netlink */
    DRIVER_MISSING,
};

/* What there is; changes nothing. */
enum driver_state device_driver_state(void);

/* Make sure that the driver is there; loads its module unless told not to. */
int device_driver(bool may_load, struct failure *why);

/* Connect a device; *ret_index is the one that it became. */
int device_connect(const struct device_setup *setup, int *ret_index, struct failure *why);
/* Give the device new sockets for its dead ones. */
int device_reconfigure(const struct device_setup *setup, struct failure *why);
/* Tell it the size of its export now. Waits for requests in flight: only while its connection
 * is alive. */
int device_resize(int index, const char *backend, uint64_t size_bytes, struct failure *why);
int device_disconnect(int index, struct failure *why);

#endif
