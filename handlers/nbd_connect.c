/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Makes connections to an NBD server and learns what it offers, within a time limit: libnbd's
 * own waiting has none. Only name look-ups are out of reach of the limit; they have the
 * resolver's. Worker thread.
 */
#include <poll.h>
#include <string.h>

#include "nbd.h"

/* A server that says it takes several connections may still be full; then it is silent. */
#define ANOTHER_MS 3000

#define MIN_BLOCK_MAX 65536 /* the protocol's limit for a minimum block size */
#define TRANSFER_MAX (UINT32_C(32) << 20)

/* The limits of one attempt. */
struct patience {
    int64_t deadline; /* monotonic microseconds */
    int cancel_fd;
};

const char *last_error(void)
{
    const char *text = nbd_get_error();
    const char *colon;

    if (text == NULL)
        return "no cause is known";
    colon = g_str_has_prefix(text, "nbd_") ? strstr(text, ": ") : NULL;
    return colon != NULL ? colon + 2 : text;
}

static int fail_connect(const struct address *address, struct nbd_failure *why)
{
    int code = nbd_get_errno();

    return nbd_fail(why, code > 0 ? code : EIO, "cannot connect to '%s': %s", address->shown,
                    last_error());
}

/* ---- One connection ---- */

static int set_up(struct nbd_handle *handle, const struct address *address)
{
    if (nbd_add_meta_context(handle, LIBNBD_CONTEXT_BASE_ALLOCATION) < 0 ||
        nbd_set_uri_allow_local_file(handle, address->may_name_files) < 0 ||
        (address->export != NULL && nbd_set_export_name(handle, address->export) < 0))
        return -1;
    if (address->certificates == NULL)
        return 0;
    if (nbd_set_tls_certificates(handle, address->certificates) < 0)
        return -1;
    return address->uri != NULL ? 0 : nbd_set_tls(handle, LIBNBD_TLS_REQUIRE);
}

static int begin(struct nbd_handle *handle, const struct address *address)
{
    if (address->uri != NULL)
        return nbd_aio_connect_uri(handle, address->uri);
    if (address->socket != NULL)
        return nbd_aio_connect_unix(handle, address->socket);
    return nbd_aio_connect_tcp(handle, address->host, address->port);
}

/* Wait until libnbd can go on: 0, or a negative errno. */
static int wait_for(struct nbd_handle *handle, const struct patience *patience,
                    short *ret_events)
{
    unsigned direction = nbd_aio_get_direction(handle);
    struct pollfd fds[2] = {
        {.fd = nbd_aio_get_fd(handle),
         .events = (short)((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
                           (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0))},
        {.fd = patience->cancel_fd, .events = POLLIN},
    };
    int64_t left_us = patience->deadline - g_get_monotonic_time();
    int n;

    if (left_us <= 0)
        return -ETIMEDOUT;
    n = poll(fds, G_N_ELEMENTS(fds), (int)(left_us / 1000) + 1);
    if (n < 0 && errno != EINTR)
        return -errno;
    *ret_events = n > 0 ? fds[0].revents : 0;
    return n > 0 && fds[1].revents != 0 ? -ECANCELED : 0;
}

static int go_on(struct nbd_handle *handle, short events)
{
    unsigned direction = nbd_aio_get_direction(handle);

    if ((events & ~POLLOUT) && (direction & LIBNBD_AIO_DIRECTION_READ))
        return nbd_aio_notify_read(handle);
    if ((events & ~POLLIN) && (direction & LIBNBD_AIO_DIRECTION_WRITE))
        return nbd_aio_notify_write(handle);
    return 0;
}

static int finish(struct nbd_handle *handle, const struct address *address,
                  const struct patience *patience, struct nbd_failure *why)
{
    while (nbd_aio_is_connecting(handle) > 0) {
        short events = 0;
        int r = wait_for(handle, patience, &events);

        if (r == -ETIMEDOUT)
            return nbd_fail(why, ETIMEDOUT, "cannot connect to '%s': no NBD server answered "
                            "there within %d seconds", address->shown, CONNECT_MS / 1000);
        if (r < 0)
            return nbd_fail(why, -r, "cannot connect to '%s': %s", address->shown,
                            g_strerror(-r));
        if (go_on(handle, events) < 0)
            return fail_connect(address, why);
    }
    if (nbd_aio_is_ready(handle) > 0)
        return 0;
    return nbd_fail(why, ECONNRESET, "cannot connect to '%s': the server closed the "
                    "connection during the handshake", address->shown);
}

static struct nbd_handle *connect_one(const struct address *address,
                                      const struct patience *patience, struct nbd_failure *why)
{
    struct nbd_handle *handle = nbd_create();

    if (handle == NULL || set_up(handle, address) < 0 || begin(handle, address) < 0)
        fail_connect(address, why);
    else if (finish(handle, address, patience, why) == 0)
        return handle;
    nbd_close(handle);
    return NULL;
}

/* ---- What the server offers ---- */

static uint32_t learn_caps(struct nbd_handle *handle)
{
    static const struct {
        int (*has)(struct nbd_handle *handle);
        uint32_t cap;
    } table[] = {
        {nbd_can_flush, NBD_CAP_FLUSH},
        {nbd_can_fua, NBD_CAP_FUA},
        {nbd_can_trim, NBD_CAP_TRIM},
        {nbd_can_zero, NBD_CAP_WRITE_ZEROES},
        {nbd_can_fast_zero, NBD_CAP_FAST_ZERO},
        {nbd_can_cache, NBD_CAP_CACHE},
        {nbd_can_multi_conn, NBD_CAP_MULTI_CONN},
        {nbd_is_rotational, NBD_CAP_ROTATIONAL},
    };
    uint32_t caps = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(table); i++)
        if (table[i].has(handle) > 0)
            caps |= table[i].cap;
    return caps;
}

static uint32_t learn_block(struct nbd_handle *handle, int which, uint32_t usual)
{
    int64_t block = nbd_get_block_size(handle, which);

    return block > 0 && block <= UINT32_MAX ? (uint32_t)block : usual;
}

static bool is_power_of_2(uint32_t number)
{
    return (number & (number - 1)) == 0;
}

static int learn(struct nbd_handle *handle, const struct address *address,
                 struct traits *ret_traits, struct nbd_failure *why)
{
    int64_t size = nbd_get_size(handle);
    struct traits traits = {
        .size = (uint64_t)size,
        .caps = learn_caps(handle),
        .min_block = learn_block(handle, LIBNBD_SIZE_MINIMUM, 1),
        .pref_block = learn_block(handle, LIBNBD_SIZE_PREFERRED, 4096),
        .max_block = learn_block(handle, LIBNBD_SIZE_MAXIMUM, TRANSFER_MAX),
        .readonly = nbd_is_read_only(handle) > 0,
        .has_allocation =
            nbd_can_meta_context(handle, LIBNBD_CONTEXT_BASE_ALLOCATION) > 0,
    };

    if (size < 0)
        return fail_connect(address, why);
    if (traits.readonly && address->writable)
        return nbd_fail(why, EROFS, "'%s' is read-only on its server; export it with "
                        "\"readonly\"", address->shown);
    if (!is_power_of_2(traits.min_block) || traits.min_block > MIN_BLOCK_MAX ||
        traits.max_block < traits.min_block)
        return nbd_fail(why, EPROTO, "the server of '%s' asks for blocks of %u to %u bytes, "
                        "which is against the protocol", address->shown, traits.min_block,
                        traits.max_block);
    if (!is_power_of_2(traits.pref_block) || traits.pref_block < traits.min_block)
        traits.pref_block = MAX(4096, traits.min_block);
    traits.max_block = MIN(traits.max_block, TRANSFER_MAX) & ~(traits.min_block - 1);
    *ret_traits = traits;
    return 0;
}

/* ---- All connections ---- */

/* Several only where a flush on one covers the writes on the others. */
static unsigned connections_for(const struct address *address, const struct traits *traits)
{
    if (!(traits->caps & NBD_CAP_MULTI_CONN))
        return 1;
    return address->connections > 0 ? address->connections : CONNECTIONS_USUAL;
}

int connect_all(const struct address *address, int cancel_fd, struct connected *ret_connected,
                struct nbd_failure *why)
{
    struct patience patience = {
        .deadline = g_get_monotonic_time() + CONNECT_MS * INT64_C(1000),
        .cancel_fd = cancel_fd,
    };
    struct connected connected = {.n = 1};
    unsigned wanted;

    connected.handles[0] = connect_one(address, &patience, why);
    if (connected.handles[0] == NULL)
        return -why->code;
    if (learn(connected.handles[0], address, &connected.traits, why) < 0) {
        connected_close(&connected);
        return -why->code;
    }
    wanted = connections_for(address, &connected.traits);
    patience.deadline = MIN(patience.deadline,
                            g_get_monotonic_time() + ANOTHER_MS * INT64_C(1000));
    while (connected.n < wanted) {
        struct nbd_failure ignored; /* fewer connections do as well */
        struct nbd_handle *handle = connect_one(address, &patience, &ignored);

        if (handle == NULL)
            break;
        connected.handles[connected.n++] = handle;
    }
    *ret_connected = connected;
    return 0;
}

void connected_close(struct connected *connected)
{
    for (unsigned i = 0; i < connected->n; i++) {
        if (nbd_aio_is_ready(connected->handles[i]) > 0)
            nbd_aio_disconnect(connected->handles[i], 0); /* as far as it can be sent now */
        nbd_close(connected->handles[i]);
    }
    connected->n = 0;
}
