/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Lists of addresses and networks. Every entry is kept as an IPv6 network; IPv4 is the part
 * ::ffff:0:0/96 of it. Any thread.
 */
#include "acl.h"

#include <arpa/inet.h>
#include <errno.h>
#include <glib.h>
#include <netinet/in.h>
#include <string.h>

#include "log.h"

#define V4_PREFIX_BITS 96

struct network {
    uint8_t bytes[16];
    unsigned bits;
};

struct acl {
    GArray *networks; /* struct network */
    char **entries;   /* the same as text */
    bool default_deny;
};

static const uint8_t v4_prefix[12] = { [10] = 0xff, [11] = 0xff };

static void put_v4(uint8_t bytes[16], const struct in_addr *v4)
{
    memcpy(bytes, v4_prefix, sizeof(v4_prefix));
    memcpy(bytes + sizeof(v4_prefix), v4, sizeof(*v4));
}

static bool address_bytes(const struct sockaddr *address, uint8_t bytes[16])
{
    if (address->sa_family == AF_INET) {
        put_v4(bytes, &((const struct sockaddr_in *)(const void *)address)->sin_addr);
        return true;
    }
    if (address->sa_family == AF_INET6) {
        memcpy(bytes, &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr, 16);
        return true;
    }
    return false;
}

/* Clears what lies below the mask; true when something was set there. */
static bool clear_host_bits(struct network *network)
{
    bool was_set = false;

    for (unsigned i = 0; i < 16; i++) {
        unsigned kept = network->bits > i * 8 ? MIN(network->bits - i * 8, 8u) : 0;
        uint8_t mask = (uint8_t)(0xff00u >> kept);

        was_set |= (network->bytes[i] & ~mask) != 0;
        network->bytes[i] &= mask;
    }
    return was_set;
}

static bool contains(const struct network *network, const uint8_t bytes[16])
{
    unsigned whole = network->bits / 8, rest = network->bits % 8;
    uint8_t mask = (uint8_t)(0xff00u >> rest);

    if (memcmp(network->bytes, bytes, whole) != 0)
        return false;
    return rest == 0 || ((network->bytes[whole] ^ bytes[whole]) & mask) == 0;
}

/* The decimal number after the slash; digits only, so that "/+8" and "/ 8" are junk. */
static bool parse_bits(const char *text, unsigned most, unsigned *ret_bits)
{
    size_t length = strlen(text);

    if (length == 0 || length > 3 || strspn(text, "0123456789") != length)
        return false;
    *ret_bits = (unsigned)g_ascii_strtoull(text, NULL, 10);
    return *ret_bits <= most;
}

static bool parse_network(const char *entry, struct network *ret_network)
{
    const char *slash = strchr(entry, '/');
    size_t length = slash != NULL ? (size_t)(slash - entry) : strlen(entry);
    char host[INET6_ADDRSTRLEN];
    struct in_addr v4;
    unsigned most, bits;

    if (length == 0 || length >= sizeof(host))
        return false;
    memcpy(host, entry, length);
    host[length] = '\0';

    if (inet_pton(AF_INET, host, &v4) == 1) {
        put_v4(ret_network->bytes, &v4);
        most = 32;
    } else if (inet_pton(AF_INET6, host, ret_network->bytes) == 1) {
        most = 128;
    } else {
        return false;
    }
    bits = most;
    if (slash != NULL && !parse_bits(slash + 1, most, &bits))
        return false;
    ret_network->bits = bits + (most == 32 ? V4_PREFIX_BITS : 0);
    return true;
}

int acl_new(const char *const *entries, struct acl **ret_acl, struct nbd_failure *why)
{
    struct acl *acl = g_new0(struct acl, 1);

    acl->networks = g_array_new(FALSE, FALSE, sizeof(struct network));
    acl->entries = entries != NULL ? g_strdupv((char **)entries) : g_new0(char *, 1);
    for (; entries != NULL && *entries != NULL; entries++) {
        struct network network;

        if (!parse_network(*entries, &network)) {
            char *quoted = log_quote(*entries, strlen(*entries));

            nbd_fail(why, EINVAL, "%s is no address and no network; write it like 192.0.2.7, "
                     "10.0.0.0/8, ::1 or 2001:db8::/32", quoted);
            g_free(quoted);
            acl_free(acl);
            return -EINVAL;
        }
        if (clear_host_bits(&network))
            log_warning("the network %s has bits set below its mask; they are ignored",
                        *entries);
        g_array_append_val(acl->networks, network);
    }
    *ret_acl = acl;
    return 0;
}

void acl_free(struct acl *acl)
{
    if (acl == NULL)
        return;
    g_array_free(acl->networks, TRUE);
    g_strfreev(acl->entries);
    g_free(acl);
}

const char *const *acl_entries(const struct acl *acl)
{
    return (const char *const *)acl->entries;
}

void acl_set_default_deny(struct acl *acl, bool default_deny)
{
    acl->default_deny = default_deny;
}

bool acl_default_deny(const struct acl *acl)
{
    return acl->default_deny;
}

bool acl_contains(const struct acl *acl, const struct sockaddr *address)
{
    uint8_t bytes[16];

    if (acl == NULL || !address_bytes(address, bytes))
        return false;
    for (guint i = 0; i < acl->networks->len; i++)
        if (contains(&g_array_index(acl->networks, struct network, i), bytes))
            return true;
    return false;
}

bool acl_allows(const struct acl *acl, const struct sockaddr *address)
{
    if (address->sa_family == AF_UNIX)
        return true;
    return acl->networks->len > 0 ? acl_contains(acl, address) : !acl->default_deny;
}

bool acl_is_loopback(const struct sockaddr *address)
{
    static const struct network v4 = { { [10] = 0xff, [11] = 0xff, [12] = 127 },
                                       V4_PREFIX_BITS + 8 };
    static const struct network v6 = { { [15] = 1 }, 128 };
    uint8_t bytes[16];

    return address_bytes(address, bytes) && (contains(&v4, bytes) || contains(&v6, bytes));
}
