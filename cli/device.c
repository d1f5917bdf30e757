/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * NBD_CMD_CONNECT, RECONFIGURE and DISCONNECT. Each call has a netlink socket of its own and
 * reads until the ACK: CONNECT is answered by two messages, and a stale one on a shared socket
 * would be taken for the answer of the next call.
 */
#include "device.h"

#include "nbd_protocol.h"

#include <errno.h>
#include <glib.h>
#include <libkmod.h>
#include <linux/nbd-netlink.h>
#include <linux/netlink.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <netlink/netlink.h>
#include <stdlib.h>
#include <string.h>

/* What kernels up to now know; the rest is between server and client. */
#define KERNEL_FLAGS                                                                          \
    (NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |      \
     NBD_FLAG_ROTATIONAL | NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES |                  \
     NBD_FLAG_CAN_MULTI_CONN)

#define BUSY_RETRY_MS 5000 /* udev opens a device for a moment when it changes */
#define BUSY_PAUSE_MS 100

/* ---- The module ---- */

/* nbds_max=0: devices are made as they are mapped, so none is there for udev to open at the
 * wrong moment. What the administrator wrote in modprobe.d wins. */
static const char *module_options(struct kmod_module *module)
{
    const char *configured = kmod_module_get_options(module);

    return configured != NULL && strstr(configured, "nbds_max=") != NULL ? NULL : "nbds_max=0";
}

static int insert_module(struct failure *why)
{
    struct kmod_ctx *ctx = kmod_new(NULL, NULL);
    struct kmod_module *module = NULL;
    int r = -ENOMEM;

    if (ctx != NULL) {
        kmod_set_log_priority(ctx, 0);
        r = kmod_module_new_from_name(ctx, "nbd", &module);
    }
    if (r == 0)
        r = kmod_module_probe_insert_module(module, KMOD_PROBE_APPLY_BLACKLIST,
                                            module_options(module), NULL, NULL, NULL);
    kmod_module_unref(module);
    kmod_unref(ctx);
    switch (r) {
    case 0:
        return 0;
    case KMOD_PROBE_APPLY_BLACKLIST:
        return fail_with(why, STATUS_FAILED,
                         "the kernel module nbd is blacklisted on this host");
    case -ENOENT:
        return fail_with(why, STATUS_FAILED,
                         "this host has no kernel module nbd for its kernel "
                         "(in a container, load it outside)");
    case -EPERM:
    case -EACCES:
        return fail_with(why, STATUS_PERMISSION, "loading the kernel module nbd needs root");
    default:
        return fail_with(why, STATUS_FAILED, "loading the kernel module nbd failed: %s",
                         strerror(-r));
    }
}

/* ---- Netlink ---- */

struct call {
    struct nl_sock *socket;
    struct nl_msg *message;
    int command;
    int index; /* from the answer, -1 when there was none */
    int error; /* negative errno from the kernel */
    bool is_over;
};

static int on_answer(struct nl_msg *message, void *arg)
{
    struct call *call = arg;
    struct nlattr *attributes[NBD_ATTR_MAX + 1];

    if (genlmsg_parse(nlmsg_hdr(message), 0, attributes, NBD_ATTR_MAX, NULL) == 0 &&
        attributes[NBD_ATTR_INDEX] != NULL)
        call->index = (int)nla_get_u32(attributes[NBD_ATTR_INDEX]);
    return NL_OK;
}

static int on_ack(struct nl_msg *message, void *arg)
{
    struct call *call = arg;

    (void)message;
    call->is_over = true;
    return NL_STOP;
}

static int on_error(struct sockaddr_nl *from, struct nlmsgerr *error, void *arg)
{
    struct call *call = arg;

    (void)from;
    call->error = error->error;
    call->is_over = true;
    return NL_STOP;
}

/* False when the driver is not there; then nothing is open. */
static bool find_family(struct nl_sock **ret_socket, int *ret_family)
{
    struct nl_sock *socket = nl_socket_alloc();
    int family = -1;

    if (socket != NULL && genl_connect(socket) == 0)
        family = genl_ctrl_resolve(socket, NBD_GENL_FAMILY_NAME);
    if (family < 0) {
        nl_socket_free(socket);
        return false;
    }
    *ret_socket = socket;
    *ret_family = family;
    return true;
}

/* Nothing is loaded by looking a module up. */
static enum driver_state module_state(void)
{
    struct kmod_ctx *ctx = kmod_new(NULL, NULL);
    struct kmod_list *found = NULL, *allowed = NULL;
    enum driver_state state = DRIVER_MISSING;

    if (ctx != NULL) {
        kmod_set_log_priority(ctx, 0);
        kmod_module_new_from_lookup(ctx, "nbd", &found);
    }
    if (found != NULL) {
        kmod_module_apply_filter(ctx, KMOD_FILTER_BLACKLIST, found, &allowed);
        state = allowed != NULL ? DRIVER_LOADABLE : DRIVER_BLACKLISTED;
    }
    kmod_module_unref_list(allowed);
    kmod_module_unref_list(found);
    kmod_unref(ctx);
    return state;
}

enum driver_state device_driver_state(void)
{
    struct nl_sock *socket;
    int family;

    if (find_family(&socket, &family)) {
        nl_socket_free(socket);
        return DRIVER_READY;
    }
    return access("/sys/module/nbd", F_OK) == 0 ? DRIVER_OLD : module_state();
}

int device_driver(bool may_load, struct failure *why)
{
    struct nl_sock *socket;
    int family, r = 0;

    if (!find_family(&socket, &family)) {
        if (!may_load)
            return fail_with(why, STATUS_FAILED,
                             "the kernel module nbd is not loaded (modprobe nbd)");
        r = insert_module(why);
        if (r != 0)
            return r;
        if (!find_family(&socket, &family))
            return fail_with(
                why, STATUS_FAILED,
                "this kernel's nbd driver has no netlink interface; "
                "it is too old (4.12 is the first), or this is a network namespace "
                "of its own");
    }
    nl_socket_free(socket);
    return r;
}

static int call_begin(struct call *call, int command, struct failure *why)
{
    int family;

    memset(call, 0, sizeof(*call));
    call->command = command;
    call->index = -1;
    if (!find_family(&call->socket, &family))
        return fail_with(why, STATUS_FAILED,
                         "the kernel module nbd is not loaded (modprobe nbd)");
    call->message = nlmsg_alloc();
    if (call->message == NULL || genlmsg_put(call->message, NL_AUTO_PORT, NL_AUTO_SEQ, family,
                                             0, 0, (uint8_t)command, NBD_GENL_VERSION) == NULL)
        return fail_with(why, STATUS_FAILED, "out of memory for a netlink message");
    return 0;
}

static void call_end(struct call *call)
{
    nlmsg_free(call->message);
    nl_socket_free(call->socket);
}

/* Send the message and read until the ACK. Returns 0 or a negative errno of the kernel. */
static int call_run(struct call *call)
{
    int r;

    nl_socket_modify_cb(call->socket, NL_CB_VALID, NL_CB_CUSTOM, on_answer, call);
    nl_socket_modify_cb(call->socket, NL_CB_ACK, NL_CB_CUSTOM, on_ack, call);
    nl_socket_modify_err_cb(call->socket, NL_CB_CUSTOM, on_error, call);
    r = nl_send_auto(call->socket, call->message);
    while (r >= 0 && !call->is_over)
        r = nl_recvmsgs_default(call->socket);
    if (call->is_over)
        return call->error;
    return r == -NLE_PERM ? -EPERM : -EIO;
}

/* ---- Messages ---- */

static int put_sockets(struct nl_msg *message, const struct device_setup *setup)
{
    struct nlattr *list = nla_nest_start(message, NBD_ATTR_SOCKETS);

    if (list == NULL)
        return -NLE_NOMEM;
    for (size_t i = 0; i < setup->n_sockets; i++) {
        struct nlattr *item = nla_nest_start(message, NBD_SOCK_ITEM);

        if (item == NULL || nla_put_u32(message, NBD_SOCK_FD, (uint32_t)setup->sockets[i]) < 0)
            return -NLE_NOMEM;
        nla_nest_end(message, item);
    }
    nla_nest_end(message, list);
    return 0;
}

/* What CONNECT and RECONFIGURE have in common. A size in RECONFIGURE would wait for requests
 * that are in flight on dead connections, so only CONNECT has one. */
static int put_setup(struct nl_msg *message, const struct device_setup *setup)
{
    int r = 0;

    if (setup->index != DEVICE_ANY)
        r |= nla_put_u32(message, NBD_ATTR_INDEX, (uint32_t)setup->index);
    if (setup->timeout_s != 0)
        r |= nla_put_u64(message, NBD_ATTR_TIMEOUT, setup->timeout_s);
    r |= nla_put_u64(message, NBD_ATTR_DEAD_CONN_TIMEOUT, setup->dead_timeout_s);
    r |= nla_put_string(message, NBD_ATTR_BACKEND_IDENTIFIER, setup->backend);
    r |= put_sockets(message, setup);
    return r;
}

static int connect_once(const struct device_setup *setup, int *ret_index, int *ret_error,
                        struct failure *why)
{
    struct call call;
    int r = call_begin(&call, NBD_CMD_CONNECT, why);

    *ret_error = 0;
    if (r == 0 &&
        (put_setup(call.message, setup) |
         nla_put_u64(call.message, NBD_ATTR_SIZE_BYTES, setup->size_bytes) |
         nla_put_u64(call.message, NBD_ATTR_BLOCK_SIZE_BYTES, setup->block_bytes) |
         nla_put_u64(call.message, NBD_ATTR_SERVER_FLAGS, setup->flags & KERNEL_FLAGS)) != 0)
        r = fail_with(why, STATUS_FAILED, "out of memory for a netlink message");
    if (r == 0)
        *ret_error = call_run(&call);
    if (r == 0 && *ret_error == 0)
        *ret_index = call.index >= 0 ? call.index : setup->index;
    call_end(&call);
    return r;
}

static int fail_connect(const struct device_setup *setup, int error, struct failure *why)
{
    char device[32] = "a device";

    if (setup->index != DEVICE_ANY)
        snprintf(device, sizeof(device), "/dev/nbd%d", setup->index);
    switch (error) {
    case -EPERM:
    case -EACCES:
        return fail_with(why, STATUS_PERMISSION, "attaching %s needs root (CAP_SYS_ADMIN)",
                         device);
    case -EBUSY:
        return fail_code(why, STATUS_FAILED, "EBUSY", "%s is in use", device);
    case -EINVAL:
        return fail_code(why, STATUS_FAILED, "EINVAL",
                         "the kernel refuses to attach %s with "
                         "these parameters (its log says why)",
                         device);
    default:
        return fail_with(why, STATUS_FAILED, "attaching %s failed: %s", device,
                         strerror(-error));
    }
}

int device_connect(const struct device_setup *setup, int *ret_index, struct failure *why)
{
    int error = 0, r;

    for (int waited_ms = 0;; waited_ms += BUSY_PAUSE_MS) {
        r = connect_once(setup, ret_index, &error, why);
        if (r != 0 || error != -EBUSY || setup->index == DEVICE_ANY ||
            waited_ms >= BUSY_RETRY_MS)
            break;
        g_usleep(BUSY_PAUSE_MS * 1000);
    }
    if (r == 0 && error == 0 && *ret_index < 0)
        return fail_with(why, STATUS_FAILED,
                         "the kernel does not say which device it attached");
    return r == 0 && error != 0 ? fail_connect(setup, error, why) : r;
}

/* Run a call about a device that is attached. put_result: what filling the message came to;
 * doing: what a failure interrupts, for people. */
static int change_device(struct call *call, int put_result, const char *doing, int index,
                         struct failure *why)
{
    int error;

    if (put_result != 0)
        return fail_with(why, STATUS_FAILED, "out of memory for a netlink message");
    error = call_run(call);
    if (error == -EPERM || error == -EACCES)
        return fail_with(why, STATUS_PERMISSION, "%s /dev/nbd%d needs root (CAP_SYS_ADMIN)",
                         doing, index);
    if (error != 0)
        return fail_with(why, STATUS_FAILED, "%s /dev/nbd%d failed: %s", doing, index,
                         strerror(-error));
    return 0;
}

int device_reconfigure(const struct device_setup *setup, struct failure *why)
{
    struct call call;
    int r = call_begin(&call, NBD_CMD_RECONFIGURE, why);

    if (r == 0)
        r = change_device(&call, put_setup(call.message, setup), "reconnecting", setup->index,
                          why);
    call_end(&call);
    return r;
}

int device_resize(int index, const char *backend, uint64_t size_bytes, struct failure *why)
{
    struct call call;
    int r = call_begin(&call, NBD_CMD_RECONFIGURE, why);

    if (r == 0)
        r = change_device(&call,
                          nla_put_u32(call.message, NBD_ATTR_INDEX, (uint32_t)index) |
                              nla_put_u64(call.message, NBD_ATTR_SIZE_BYTES, size_bytes) |
                              nla_put_string(call.message, NBD_ATTR_BACKEND_IDENTIFIER,
                                             backend),
                          "changing the size of", index, why);
    call_end(&call);
    return r;
}

int device_disconnect(int index, struct failure *why)
{
    struct call call;
    int r = call_begin(&call, NBD_CMD_DISCONNECT, why);

    if (r == 0)
        r = change_device(&call, nla_put_u32(call.message, NBD_ATTR_INDEX, (uint32_t)index),
                          "detaching", index, why);
    call_end(&call);
    return r;
}
