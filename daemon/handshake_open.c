/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Opening an export for INFO, GO and EXPORT_NAME: which one a name means, who may use it, and
 * the way from the option to its answer, behind which transmission starts. Loop thread only.
 */
#include "handshake.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "acl.h"
#include "handshake_private.h"
#include "log.h"
#include "registry.h"
#include "server.h"

#define OPEN_TIMEOUT_MS 10000
#define OPEN_ANSWER_MAX (12u << 10) /* to INFO, GO, EXPORT_NAME: two strings and some headers */

/* INFO, GO or EXPORT_NAME, while the export is being opened. */
struct opening {
    struct connection *conn; /* NULL: it has gone */
    struct export *export;
    struct mapping *mapping; /* behind a name "@map/COOKIE", else NULL */
    char *cookie;
    uint32_t option;
    bool name, description;  /* asked for */
};

/* ---- Which export a name means ---- */

struct export *handshake_find_export(struct connection *conn, const char *name,
                                     struct mapping **ret_mapping)
{
    struct registry *registry = conn->server->registry;

    *ret_mapping = NULL;
    if (g_str_has_prefix(name, MAPPING_IO_PREFIX)) {
        *ret_mapping = conn->server->mappings != NULL
                           ? mapping_for_io_name(conn->server->mappings, name) : NULL;
        return *ret_mapping != NULL ? (*ret_mapping)->export : NULL;
    }
    if (name[0] == '\0' && registry_size(registry) == 1)
        return registry_next(registry, NULL);
    return registry_find(registry, name);
}

/* ---- Who may use an export ---- */

bool handshake_is_allowed(const struct connection *conn, const struct export *export)
{
    return acl_allows(export->acl, &conn->address.any);
}

uint32_t handshake_objection(const struct connection *conn, const struct export *export,
                             struct nbd_failure *why)
{
    if (conn->server->stopping) {
        nbd_fail(why, ESHUTDOWN, "the server is shutting down");
        return NBD_REP_ERR_SHUTDOWN;
    }
    if (!handshake_is_allowed(conn, export))
        nbd_fail(why, EACCES, "%s may not use export \"%s\": its address is not in the access "
                 "list (acl of the export)", conn->peer, export->name);
    else if (conn->over_limit)
        nbd_fail(why, EMFILE, "the server has its most connections (max_connections in "
                 "[generic])");
    else if (export->connections >= export_connection_limit(export))
        nbd_fail(why, EMFILE, "export \"%s\" has its most connections, %u (max_connections of "
                 "the export, or max_export_connections in [generic])", export->name,
                 export_connection_limit(export));
    else
        return 0;
    return NBD_REP_ERR_POLICY;
}

/* ---- Opening an export: INFO, GO, EXPORT_NAME ---- */

/* The contexts that were chosen hold for the export that they were chosen for. */
static bool has_contexts(const struct connection *conn, const struct export *export)
{
    return conn->contexts != 0 && strcmp(conn->contexts_export, export->id) == 0;
}

static uint16_t flags_for(const struct connection *conn, const struct export *export,
                          bool readonly)
{
    uint16_t flags = export->flags;

    if (readonly)
        flags = (flags & (NBD_FLAG_HAS_FLAGS | NBD_FLAG_ROTATIONAL | NBD_FLAG_CAN_MULTI_CONN |
                          NBD_FLAG_SEND_CACHE)) | NBD_FLAG_READ_ONLY;
    if (conn->structured)
        flags |= NBD_FLAG_SEND_DF;
    if (conn->extended && has_contexts(conn, export))
        flags |= NBD_FLAG_BLOCK_STATUS_PAYLOAD;
    return flags;
}

static bool is_readonly(const struct export *export, const struct mapping *mapping)
{
    return export->readonly || (mapping != NULL && mapping->readonly);
}

static void send_text(struct connection *conn, uint32_t option, uint16_t type,
                      const char *string)
{
    uint8_t data[2 + NBD_MAX_STRING];
    size_t length = handshake_sent_length(string);
    uint16_t wire_type = htobe16(type);

    memcpy(data, &wire_type, 2);
    memcpy(data + 2, string, length);
    handshake_reply(conn, option, NBD_REP_INFO, data, 2 + length);
}

static void send_infos(struct connection *conn, const struct opening *o, uint16_t flags)
{
    const struct export *export = o->export;
    struct nbd_info_export facts = {
        .type = htobe16(NBD_INFO_EXPORT), .size = htobe64(export->size),
        .flags = htobe16(flags),
    };
    struct nbd_info_block_size sizes = {
        .type = htobe16(NBD_INFO_BLOCK_SIZE), .minimum = htobe32(export->min_block),
        .preferred = htobe32(export->pref_block), .maximum = htobe32(EXPORT_MAX_BLOCK),
    };

    if (o->name)
        send_text(conn, o->option, NBD_INFO_NAME, export->name);
    if (o->description && export->description[0] != '\0')
        send_text(conn, o->option, NBD_INFO_DESCRIPTION, export->description);
    handshake_reply(conn, o->option, NBD_REP_INFO, &sizes, sizeof(sizes));
    handshake_reply(conn, o->option, NBD_REP_INFO, &facts, sizeof(facts));
    handshake_acknowledge(conn, o->option);
}

static void send_export_name_reply(struct connection *conn, const struct export *export,
                                   uint16_t flags)
{
    struct nbd_export_name_reply facts = { htobe64(export->size), htobe16(flags) };
    size_t zeroes = conn->no_zeroes ? 0 : 124;
    uint8_t *to = connection_reserve(conn, sizeof(facts) + zeroes);

    if (to == NULL)
        return;
    memcpy(to, &facts, sizeof(facts));
    memset(to + sizeof(facts), 0, zeroes);
    connection_commit(conn, sizeof(facts) + zeroes);
}

static void start_transmission(struct connection *conn, struct export *export,
                               struct mapping *mapping, uint16_t flags)
{
    conn->export = export;
    conn->size = export->size;
    conn->readonly = is_readonly(export, mapping);
    conn->flags = flags;
    conn->mapping = mapping;
    conn->losses = export->losses;
    if (!has_contexts(conn, export))
        conn->contexts = 0;
    export->connections++;
    tally_init_latencies(&export->tally);
    if (mapping != NULL)
        mapping_connected(mapping);
    connection_enter(conn, PHASE_TRANSMISSION);
    connection_log(conn, NBD_LOG_INFO, "connected%s%s", conn->readonly ? ", read-only" : "",
                   mapping != NULL ? ", for a mapped device" : "");
}

static void opening_free(struct opening *o)
{
    g_free(o->cookie);
    g_free(o);
}

/* EXPORT_NAME has no error: the log tells. */
static bool refuse_export(struct connection *conn, uint32_t option, uint32_t type,
                          const struct nbd_failure *why)
{
    if (option != NBD_OPT_EXPORT_NAME)
        return handshake_refuse(conn, option, type, "%s", why->message);
    connection_log(conn, NBD_LOG_INFO, "EXPORT_NAME refused: %s", why->message);
    connection_close(conn, "it may not have the export, and EXPORT_NAME has no error");
    return false;
}

static void on_open_failed(struct connection *conn, const struct opening *o, int result,
                           const struct nbd_failure *why)
{
    uint32_t type = NBD_REP_ERR_PLATFORM;

    if (result == -ENOENT)
        type = NBD_REP_ERR_UNKNOWN;
    else if (result == -ESHUTDOWN)
        type = NBD_REP_ERR_SHUTDOWN;
    connection_enter(conn, PHASE_OPTIONS);
    refuse_export(conn, o->option, type, why);
}

static void on_opened(struct connection *conn, struct opening *o)
{
    uint16_t flags = flags_for(conn, o->export, is_readonly(o->export, o->mapping));
    struct nbd_failure why;
    uint32_t type = handshake_objection(conn, o->export, &why);

    if (type != 0) { /* things change while it opens */
        connection_enter(conn, PHASE_OPTIONS);
        refuse_export(conn, o->option, type, &why);
        export_close(o->export);
        return;
    }
    if (o->option == NBD_OPT_EXPORT_NAME)
        send_export_name_reply(conn, o->export, flags);
    else
        send_infos(conn, o, flags);
    if (o->option == NBD_OPT_INFO) {
        connection_enter(conn, PHASE_OPTIONS);
        export_close(o->export);
    } else {
        start_transmission(conn, o->export, o->mapping, flags);
    }
}

/* The lease may have ended while the backstore was opened. */
static bool has_lost_mapping(const struct connection *conn, const struct opening *o)
{
    return o->cookie != NULL && mapping_for_io_name(conn->server->mappings, o->cookie) == NULL;
}

static void on_export_open(void *arg, int result, const struct nbd_failure *why)
{
    struct opening *o = arg;
    struct connection *conn = o->conn;
    struct nbd_failure gone;

    if (conn == NULL || (result == 0 && has_lost_mapping(conn, o))) {
        if (result == 0)
            export_close(o->export);
        result = nbd_fail(&gone, ENOENT, "the lease of this mapping has ended");
        why = &gone;
    }
    if (conn != NULL) {
        conn->opening = NULL;
        if (result == 0)
            on_opened(conn, o);
        else
            on_open_failed(conn, o, result, why);
        connection_resume(conn);
    }
    opening_free(o);
}

bool handshake_open_export(struct connection *conn, uint32_t option, const char *name,
                           bool wants_name, bool wants_description)
{
    struct mapping *mapping;
    struct export *export = handshake_find_export(conn, name, &mapping);
    struct nbd_failure why;
    struct opening *o;
    uint32_t type;

    /* Once the export is open the answer can no longer wait for room. */
    if (connection_reserve(conn, OPEN_ANSWER_MAX) == NULL)
        return false;
    if (export == NULL) {
        g_autofree char *quoted = log_quote(name, strlen(name));

        if (option != NBD_OPT_EXPORT_NAME)
            return handshake_refuse(conn, option, NBD_REP_ERR_UNKNOWN,
                                    "there is no export %s", quoted);
        connection_close(conn, "it asked for an unknown export");
        return false;
    }
    type = handshake_objection(conn, export, &why);
    if (type != 0)
        return refuse_export(conn, option, type, &why);
    o = g_new0(struct opening, 1);
    o->conn = conn;
    o->export = export;
    o->mapping = mapping;
    o->cookie = mapping != NULL ? g_strdup(name) : NULL;
    o->option = option;
    o->name = wants_name;
    o->description = wants_description;
    conn->opening = o;
    connection_enter(conn, PHASE_OPENING);
    export_open(export, OPEN_TIMEOUT_MS, on_export_open, o);
    return true;
}

bool handshake_is_in_vain(const struct connection *conn)
{
    return conn->opening != NULL && conn->opening->option != NBD_OPT_INFO;
}

void handshake_abandon(struct connection *conn)
{
    if (conn->opening != NULL)
        conn->opening->conn = NULL;
    conn->opening = NULL;
}
