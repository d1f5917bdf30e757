/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Ticket to sockets. The sockets go to the first endpoint that takes the first of them.
 */
#include "attach.h"
#include "answer.h"
#include "net.h"

#include "nbd_protocol.h"

#include <glib.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

static bool is_local(const struct address *address)
{
    return address->unix_path[0] != '\0' || strcmp(address->host, "localhost") == 0 ||
           g_str_has_prefix(address->host, "127.") || strcmp(address->host, "::1") == 0;
}

static bool is_any_host(const char *text)
{
    return *text == '\0' || strcmp(text, "0.0.0.0") == 0 || strcmp(text, "::") == 0;
}

/* False when the endpoint cannot be reached from here. */
static bool resolve_endpoint(const struct address *called, const nr_endpoint *endpoint,
                             struct address *ret_address)
{
    struct address address = {.port = (uint16_t)endpoint->port};

    if (g_str_has_prefix(endpoint->addr, "unix:")) {
        /* A path of another host must not be looked for on this one. */
        if (!is_local(called) || strlen(endpoint->addr) - 5 >= sizeof(address.unix_path))
            return false;
        strcpy(address.unix_path, endpoint->addr + 5);
    } else if (endpoint->port == 0 || endpoint->port > 65535) {
        return false;
    } else if (!is_any_host(endpoint->addr)) {
        g_strlcpy(address.host, endpoint->addr, sizeof(address.host));
    } else {
        g_strlcpy(address.host, called->unix_path[0] != '\0' ? "localhost" : called->host,
                  sizeof(address.host));
    }
    *ret_address = address;
    return true;
}

static int open_one(const struct address *address, const char *io_name, int64_t deadline,
                    int *ret_fd, struct terms *ret_terms, struct failure *why)
{
    char text[ADDRESS_MAX], peer[ADDRESS_MAX + 32];
    int fd = net_connect(address, NULL, deadline, why), r;

    if (fd < 0)
        return why->status;
    snprintf(peer, sizeof(peer), "the NBD server at %s", address_format(address, text));
    r = handshake(fd, io_name, deadline, peer, ret_terms, why);
    if (r != 0) {
        close(fd);
        return r;
    }
    handshake_hand_over(fd);
    *ret_fd = fd;
    return 0;
}

static int open_first(struct cli *cli, const nr_ticket *ticket, int64_t deadline,
                      struct address *ret_address, int *ret_fd, struct terms *ret_terms,
                      struct failure *why)
{
    int r = fail_with(why, STATUS_UNREACHABLE,
                      "the daemon offers no NBD address that can be reached "
                      "from here");

    for (u_int i = 0; i < ticket->endpoints.endpoints_len; i++) {
        if (!resolve_endpoint(client_address(cli->client), &ticket->endpoints.endpoints_val[i],
                              ret_address))
            continue;
        r = open_one(ret_address, ticket->io_name, deadline, ret_fd, ret_terms, why);
        if (r == 0)
            return 0;
    }
    return r;
}

int attach_sockets(struct cli *cli, const nr_ticket *ticket, size_t count,
                   struct device_setup *setup, struct terms *ret_terms, struct failure *why)
{
    int64_t deadline = deadline_in_ms(cli_timeout_ms(cli));
    struct address address;
    struct terms first, other;
    int r = open_first(cli, ticket, deadline, &address, &setup->sockets[0], &first, why);

    if (r != 0)
        return r;
    setup->n_sockets = 1;
    if (count > 1 && !(first.flags & NBD_FLAG_CAN_MULTI_CONN))
        r = fail_with(why, STATUS_FAILED, "export '%s' allows one connection only, not %zu",
                      ticket->export_name, count);
    while (r == 0 && setup->n_sockets < count) {
        r = open_one(&address, ticket->io_name, deadline, &setup->sockets[setup->n_sockets],
                     &other, why);
        if (r != 0)
            break;
        setup->n_sockets++;
        if (other.size_bytes != first.size_bytes || other.flags != first.flags)
            r = fail_with(why, STATUS_FAILED,
                          "export '%s' changed while it was being connected "
                          "(%" PRIu64 " bytes, then %" PRIu64 "); try again",
                          ticket->export_name, first.size_bytes, other.size_bytes);
    }
    if (r != 0) {
        attach_close(setup);
        return r;
    }
    setup->size_bytes = first.size_bytes;
    setup->flags = first.flags;
    *ret_terms = first;
    return 0;
}

void attach_close(struct device_setup *setup)
{
    for (size_t i = 0; i < setup->n_sockets; i++)
        close(setup->sockets[i]);
    setup->n_sockets = 0;
}

char *attach_backend(struct cli *cli, const char *cookie)
{
    struct address address = *client_address(cli->client);
    char text[ADDRESS_MAX];

    if (address.unix_path[0] != '\0') { /* whoever reads it may be in another directory */
        g_autofree char *path = g_canonicalize_filename(address.unix_path, NULL);

        if (strlen(path) < sizeof(address.unix_path))
            strcpy(address.unix_path, path);
    }
    return g_strconcat(BACKEND_PREFIX, cookie, "@", address_format(&address, text), NULL);
}

/* The kernel's boot id, without which the daemon could take a rebooted client for the old. */
static char *boot_id(const struct sysfs *sysfs)
{
    g_autofree char *path = g_build_filename(sysfs->proc, "sys/kernel/random/boot_id", NULL);
    char *text = NULL;

    if (!g_file_get_contents(path, &text, NULL, NULL))
        return g_strdup("");
    text[strcspn(text, "\n")] = '\0';
    if (strlen(text) > NR_ID_MAX)
        text[0] = '\0';
    return text;
}

int attach_premap(struct cli *cli, nr_map_args *args, nr_ticket_res *res, struct failure *why)
{
    g_autofree char *boot = boot_id(&cli->sysfs);
    int r = cli_client(cli, why);

    args->client = (char *)cli_host_name();
    args->client_boot = boot;
    return r == 0 ? client_call(cli->client, NR_PREMAP, args, res, why) : r;
}

static int postmap(struct cli *cli, nr_postmap_args *args, struct failure *why)
{
    nr_mapping_res res;
    int r = client_call(cli->client, NR_POSTMAP, args, &res, why);

    if (r == 0)
        client_free(NR_POSTMAP, &res);
    return r;
}

int attach_done(struct cli *cli, const char *cookie, int index, struct failure *why)
{
    g_autofree char *device = g_strdup_printf("/dev/nbd%d", index);
    nr_postmap_args args = {
        .cookie = (char *)cookie, .ok = true, .device = device, .reason = (char *)""};

    return postmap(cli, &args, why);
}

void attach_failed(struct cli *cli, const char *cookie, const struct failure *why)
{
    g_autofree char *reason = g_utf8_make_valid(
        why->message, NR_TEXT_MAX < strlen(why->message) ? NR_TEXT_MAX - 8 : -1);
    nr_postmap_args args = {.cookie = (char *)cookie, .device = (char *)"", .reason = reason};
    struct failure ignored;

    postmap(cli, &args, &ignored);
}
