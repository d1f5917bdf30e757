/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * libnbd's asynchronous calls under nbd_poll(): its simple ones wait for ever.
 */
#include "remote.h"
#include "answer.h"
#include "net.h"
#include "nbd_protocol.h"

#include <errno.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int remote_fail(struct failure *why)
{
    const char *text = nbd_get_error();

    return fail_with(why, STATUS_FAILED, "%s",
                     text != NULL ? text : "libnbd failed, without a reason");
}

void remote_close(struct remote *remote)
{
    nbd_close(remote->nbd);
    remote->nbd = NULL;
}

int remote_poll(struct remote *remote, struct failure *why)
{
    int n = nbd_poll(remote->nbd, (int)remote->timeout_ms);

    if (n == 0)
        return fail_with(why, STATUS_NO_ANSWER, "the NBD server did not answer within %d s",
                         (int)(remote->timeout_ms / 1000));
    return n < 0 ? remote_fail(why) : 0;
}

int remote_finish(struct remote *remote, int64_t cookie, struct failure *why)
{
    int done, r;

    while ((done = nbd_aio_command_completed(remote->nbd, (uint64_t)cookie)) == 0) {
        r = remote_poll(remote, why);
        if (r != 0)
            return r;
    }
    return done < 0 ? remote_fail(why) : 0;
}

static int wait_connected(struct remote *remote, struct failure *why)
{
    int r = 0;

    while (r == 0 && nbd_aio_is_connecting(remote->nbd))
        r = remote_poll(remote, why);
    if (r == 0 && (nbd_aio_is_dead(remote->nbd) || nbd_aio_is_closed(remote->nbd)))
        r = fail_with(why, STATUS_FAILED, "the NBD server closed the connection: %s",
                      nbd_get_error() != NULL ? nbd_get_error() : "without a reason");
    return r;
}

static int fail_refused(struct remote *remote, struct failure *why)
{
    const char *reason = nbd_get_error();
    char *name = nbd_get_export_name(remote->nbd);

    fail_with(why, STATUS_FAILED, "the NBD server refuses export '%s': %s",
              name != NULL ? name : "", reason != NULL ? reason : "no reason given");
    free(name);
    return why->status;
}

int remote_go(struct remote *remote, struct failure *why)
{
    if (!nbd_aio_is_negotiating(remote->nbd))
        return 0;
    if (nbd_aio_opt_go(remote->nbd, NBD_NULL_COMPLETION) < 0)
        return remote_fail(why);
    while (!nbd_aio_is_ready(remote->nbd)) {
        int r = remote_poll(remote, why);

        if (r != 0)
            return r;
        if (nbd_aio_is_negotiating(remote->nbd))
            return fail_refused(remote, why);
        if (nbd_aio_is_dead(remote->nbd) || nbd_aio_is_closed(remote->nbd))
            return fail_with(why, STATUS_FAILED, "the NBD server closed the connection");
    }
    return 0;
}

/* ---- Where to ---- */

static int connect_address(struct cli *cli, struct remote *remote,
                           const struct address *address, struct failure *why)
{
    const char *bind_host = words_text(&cli->words, "bind", NULL);
    int fd = net_connect(address, bind_host, deadline_in_ms(remote->timeout_ms), why);

    if (fd < 0)
        return why->status;
    if (nbd_aio_connect_socket(remote->nbd, fd) < 0) {
        close(fd);
        return remote_fail(why);
    }
    return 0;
}

/* "unix:/path", or a port on an address; an empty or wildcard one is the daemon's host. */
static bool read_endpoint(const struct address *daemon, const nr_endpoint *endpoint,
                          struct address *ret_address)
{
    struct address address = {.port = (uint16_t)endpoint->port};

    if (g_str_has_prefix(endpoint->addr, "unix:")) {
        if (daemon->unix_path[0] == '\0')
            return false;
        g_strlcpy(address.unix_path, endpoint->addr + 5, sizeof(address.unix_path));
    } else if (endpoint->port == 0) {
        return false;
    } else if (endpoint->addr[0] != '\0' && strcmp(endpoint->addr, "0.0.0.0") != 0 &&
               strcmp(endpoint->addr, "::") != 0) {
        g_strlcpy(address.host, endpoint->addr, sizeof(address.host));
    } else {
        g_strlcpy(address.host, daemon->unix_path[0] != '\0' ? "localhost" : daemon->host,
                  sizeof(address.host));
    }
    *ret_address = address;
    return true;
}

/* The endpoints that the daemon names, in its order. */
static int connect_daemon(struct cli *cli, struct remote *remote, struct failure *why)
{
    nr_status_res res;
    const nr_status *status = &res.nr_status_res_u.status;
    int r = cli_client(cli, why);
    bool is_tried = false;

    if (r == 0)
        r = client_call(cli->client, NR_STATUS, NULL, &res, why);
    if (r != 0)
        return r;
    r = STATUS_UNREACHABLE;
    for (u_int i = 0; r != 0 && i < status->nbd_endpoints.nbd_endpoints_len; i++) {
        struct address address;

        if (!read_endpoint(client_address(cli->client),
                           &status->nbd_endpoints.nbd_endpoints_val[i], &address))
            continue;
        is_tried = true;
        r = connect_address(cli, remote, &address, why);
    }
    if (r != 0 && !is_tried)
        r = fail_with(why, STATUS_UNREACHABLE,
                      "the daemon serves NBD nowhere that can be reached");
    client_free(NR_STATUS, &res);
    return r;
}

static int connect_words(struct cli *cli, struct remote *remote, const char *name,
                         struct failure *why)
{
    const char *host = words_text(&cli->words, "addr", NULL);
    struct address address;
    int r;

    if (name != NULL && strstr(name, "://") != NULL)
        return nbd_aio_connect_uri(remote->nbd, name) < 0 ? remote_fail(why) : 0;
    if (nbd_set_export_name(remote->nbd, name != NULL ? name : "") < 0)
        return remote_fail(why);
    if (host == NULL && name == NULL)
        return fail_with(why, STATUS_USAGE,
                         "EXPORT (a name or a URI) or '--addr ADDR' is missing");
    if (host == NULL)
        return connect_daemon(cli, remote, why);
    r = address_parse(host, NBD_DEFAULT_PORT, &address, why);
    if (words_has(&cli->words, "port"))
        address.port = (uint16_t)words_number(&cli->words, "port", 0);
    return r == 0 ? connect_address(cli, remote, &address, why) : r;
}

int remote_connect(struct cli *cli, struct remote *ret_remote, struct failure *why)
{
    struct remote remote = {.nbd = nbd_create(), .timeout_ms = cli_timeout_ms(cli)};
    const char *name = words_text(&cli->words, "EXPORT", NULL);
    int r;

    if (remote.nbd == NULL)
        return remote_fail(why);
    nbd_set_opt_mode(remote.nbd, true);
    nbd_set_full_info(remote.nbd, true);
    nbd_add_meta_context(remote.nbd, LIBNBD_CONTEXT_BASE_ALLOCATION);
    r = connect_words(cli, &remote, name, why);
    if (r == 0)
        r = wait_connected(&remote, why);
    if (r == 0)
        *ret_remote = remote;
    else
        remote_close(&remote);
    return r;
}
