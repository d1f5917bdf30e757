/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The multicast group of the kernel's nbd driver, through libnl. Any user may listen.
 */
#include "device_watch.h"

#include <glib.h>
#include <linux/nbd-netlink.h>
#include <netlink/errno.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <netlink/netlink.h>

#define RECEIVE_BYTES (1 << 20) /* room for the news of a whole host's devices */

struct device_watch {
    struct nl_sock *socket;
    void (*on_dead)(int index, void *arg);
    void *arg;
};

static int on_message(struct nl_msg *message, void *arg)
{
    struct device_watch *watch = arg;
    struct nlmsghdr *header = nlmsg_hdr(message);
    struct nlattr *attributes[NBD_ATTR_MAX + 1];

    if (!genlmsg_valid_hdr(header, 0) ||
        genlmsg_hdr(nlmsg_data(header))->cmd != NBD_CMD_LINK_DEAD ||
        genlmsg_parse(header, 0, attributes, NBD_ATTR_MAX, NULL) < 0 ||
        attributes[NBD_ATTR_INDEX] == NULL)
        return NL_OK;
    watch->on_dead((int)nla_get_u32(attributes[NBD_ATTR_INDEX]), watch->arg);
    return NL_OK;
}

struct device_watch *device_watch_open(void)
{
    struct nl_sock *socket = nl_socket_alloc();
    struct device_watch *watch;
    int group = -1;

    if (socket != NULL && genl_connect(socket) == 0)
        group = genl_ctrl_resolve_grp(socket, NBD_GENL_FAMILY_NAME,
                                      NBD_GENL_MCAST_GROUP_NAME);
    if (group < 0 || nl_socket_set_nonblocking(socket) < 0 ||
        nl_socket_add_membership(socket, group) < 0) {
        nl_socket_free(socket);
        return NULL;
    }
    watch = g_new0(struct device_watch, 1);
    watch->socket = socket;
    nl_socket_disable_seq_check(socket);
    nl_socket_set_buffer_size(socket, RECEIVE_BYTES, 0);
    nl_socket_modify_cb(socket, NL_CB_VALID, NL_CB_CUSTOM, on_message, watch);
    return watch;
}

void device_watch_close(struct device_watch *watch)
{
    if (watch == NULL)
        return;
    nl_socket_free(watch->socket);
    g_free(watch);
}

int device_watch_fd(const struct device_watch *watch)
{
    return nl_socket_get_fd(watch->socket);
}

bool device_watch_read(struct device_watch *watch, void (*on_dead)(int index, void *arg),
                       void *arg)
{
    int r;

    watch->on_dead = on_dead;
    watch->arg = arg;
    do
        r = nl_recvmsgs_default(watch->socket);
    while (r >= 0);
    return r == -NLE_AGAIN;
}
