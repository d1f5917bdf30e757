/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The target of an nbd backstore: HOST[:PORT]/EXPORT, unix:PATH:EXPORT or an NBD URI. Looks
 * at the words only; whether anybody answers there is nbd_connect.c's. Worker thread.
 */
#include <string.h>
#include <sys/un.h>

#include "nbd.h"

#define NBD_PORT "10809" /* as registered for NBD */
#define EXPORT_NAME_MAX 4096
#define FORMS "HOST[:PORT]/EXPORT, unix:PATH:EXPORT or an NBD URI"

static int check_export(const struct address *address, struct nbd_failure *why)
{
    if (strlen(address->export) > EXPORT_NAME_MAX)
        return nbd_fail(why, ENAMETOOLONG, "the export name in '%s' has more than %d bytes",
                        address->shown, EXPORT_NAME_MAX);
    return 0;
}

/* ---- unix:PATH:EXPORT ---- */

static int parse_unix(struct address *address, const char *rest, struct nbd_failure *why)
{
    const char *colon = strchr(rest, ':');

    if (colon == NULL)
        return nbd_fail(why, EINVAL, "'%s' names no export: write unix:PATH:EXPORT (EXPORT "
                        "may be empty)", address->shown);
    address->socket = g_strndup(rest, (gsize)(colon - rest));
    address->export = g_strdup(colon + 1);
    if (address->socket[0] != '/')
        return nbd_fail(why, EINVAL, "the socket in '%s' must be an absolute path",
                        address->shown);
    if (strlen(address->socket) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
        return nbd_fail(why, ENAMETOOLONG, "the socket path in '%s' has more than %zu bytes",
                        address->shown, sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1);
    return check_export(address, why);
}

/* ---- HOST[:PORT]/EXPORT ---- */

static bool is_port(const char *port)
{
    guint64 number;

    return g_ascii_string_to_unsigned(port, 10, 1, 65535, &number, NULL);
}

static int check_host(const struct address *address, struct nbd_failure *why)
{
    if (address->host[0] == '\0')
        return nbd_fail(why, EINVAL, "'%s' names no host: a target is " FORMS, address->shown);
    if (strpbrk(address->host, " \t@?#%[]\\\"'") != NULL &&
        strchr(address->host, ':') == NULL)
        return nbd_fail(why, EINVAL, "'%s' is no host name (in '%s')", address->host,
                        address->shown);
    if (!is_port(address->port))
        return nbd_fail(why, EINVAL, "'%s' is no port, which is a number from 1 to 65535 (in "
                        "'%s')", address->port, address->shown);
    return check_export(address, why);
}

static int parse_host(struct address *address, const char *target, struct nbd_failure *why)
{
    bool in_brackets = target[0] == '[';
    const char *end = in_brackets ? strchr(target, ']') : target + strcspn(target, ":/");
    const char *slash;

    if (end == NULL)
        return nbd_fail(why, EINVAL, "'%s' has no ']' behind the IPv6 address",
                        address->shown);
    address->host = g_strndup(target + in_brackets, (gsize)(end - target - in_brackets));
    end += in_brackets;
    slash = strchr(end, '/');
    if (slash == NULL)
        return nbd_fail(why, EINVAL, "'%s' names no export: a target is " FORMS " (EXPORT may "
                        "be empty)", address->shown);
    if (!in_brackets && end < slash && memchr(end + 1, ':', (size_t)(slash - end - 1)) != NULL)
        return nbd_fail(why, EINVAL, "write the IPv6 address in '%s' in brackets: "
                        "[ADDRESS]:PORT/EXPORT", address->shown);
    if (*end != ':' && *end != '/')
        return nbd_fail(why, EINVAL, "':' or '/' must follow the ']' in '%s'", address->shown);
    address->port = *end == ':' ? g_strndup(end + 1, (gsize)(slash - end - 1))
                                : g_strdup(NBD_PORT);
    address->export = g_strdup(slash + 1);
    return check_host(address, why);
}

/* ---- URIs ---- */

static bool has_parameter(const char *query, const char *name)
{
    g_autoptr(GHashTable) parameters =
        g_uri_parse_params(query != NULL ? query : "", -1, "&", G_URI_PARAMS_NONE, NULL);

    return parameters != NULL && g_hash_table_contains(parameters, name);
}

static int check_uri(const struct address *address, GUri *uri, struct nbd_failure *why)
{
    const char *scheme = g_uri_get_scheme(uri);
    bool is_unix = g_str_has_suffix(scheme, "+unix");

    if (is_unix != has_parameter(g_uri_get_query(uri), "socket"))
        return nbd_fail(why, EINVAL, is_unix
                            ? "'%s' has no parameter socket: write %s:///EXPORT?socket=PATH"
                            : "'%s' has a parameter socket, which goes with %s+unix: only",
                        address->shown, scheme);
    if (!is_unix && (g_uri_get_host(uri) == NULL || g_uri_get_host(uri)[0] == '\0'))
        return nbd_fail(why, EINVAL, "'%s' names no host", address->shown);
    if (address->certificates != NULL && !g_str_has_prefix(scheme, "nbds"))
        return nbd_fail(why, EINVAL, "tls_certificates needs a URI that asks for TLS: write "
                        "nbds in place of nbd in '%s'", address->shown);
    return 0;
}

static int parse_uri(struct address *address, const char *target, struct nbd_failure *why)
{
    static const char *const schemes[] = {"nbd", "nbds", "nbd+unix", "nbds+unix", NULL};
    g_autoptr(GError) error = NULL;
    g_autoptr(GUri) uri = g_uri_parse(target, G_URI_FLAGS_ENCODED, &error);

    if (uri == NULL)
        return nbd_fail(why, EINVAL, "'%s' is not a URI: %s", address->shown, error->message);
    if (!g_strv_contains(schemes, g_uri_get_scheme(uri)))
        return nbd_fail(why, EINVAL, "'%s' is no NBD URI; those start with nbd://, nbds://, "
                        "nbd+unix:// or nbds+unix://", address->shown);
    address->uri = g_strdup(target);
    return check_uri(address, uri, why);
}

int target_parse(struct address *address, const char *target, struct nbd_failure *why)
{
    const char *scheme_end = target + strcspn(target, ":/[");

    if (g_str_has_prefix(scheme_end, "://"))
        return parse_uri(address, target, why);
    if (g_str_has_prefix(target, "unix:"))
        return parse_unix(address, target + strlen("unix:"), why);
    return parse_host(address, target, why);
}

static void release(void *arg)
{
    struct address *address = arg;

    g_free(address->shown);
    g_free(address->uri);
    g_free(address->socket);
    g_free(address->host);
    g_free(address->port);
    g_free(address->export);
    g_free(address->certificates);
}

void address_unref(struct address *address)
{
    g_atomic_rc_box_release_full(address, release);
}
