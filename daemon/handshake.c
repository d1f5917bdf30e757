/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The handshake phase: greeting and options, a table of NBD_OPT_*, one function each. An
 * option is handled in three moves: check its length and fields, do, reply. A bad one is
 * taken whole and answered, and negotiation goes on. What opens an export, and what chooses
 * contexts, is handshake_open.c's and handshake_context.c's. Loop thread only.
 */
#include "handshake.h"

#include <endian.h>
#include <string.h>

#include <glib.h>

#include "handshake_private.h"
#include "registry.h"
#include "server.h"

/* ---- Options: each an option_function ---- */

static bool do_export_name(struct connection *conn, const struct option *opt)
{
    g_autofree char *name = handshake_take_string(opt->data, opt->length);

    if (name == NULL || conn->extended) {
        connection_close(conn, name == NULL ? "it asked for an export by a malformed name"
                                            : "EXPORT_NAME after EXTENDED_HEADERS");
        return false;
    }
    return handshake_open_export(conn, opt->type, name, false, false);
}

static bool do_abort(struct connection *conn, const struct option *opt)
{
    if (!handshake_acknowledge(conn, opt->type))
        return false;
    connection_finish(conn, "the client ended the negotiation");
    return true;
}

static bool reply_server(struct connection *conn, const struct export *export)
{
    uint8_t data[4 + EXPORT_NAME_MAX + NBD_MAX_STRING];
    size_t name = strlen(export->name);
    size_t description = handshake_sent_length(export->description);
    uint32_t length = htobe32((uint32_t)name);

    memcpy(data, &length, 4);
    memcpy(data + 4, export->name, name);
    memcpy(data + 4 + name, export->description, description);
    return handshake_reply(conn, NBD_OPT_LIST, NBD_REP_SERVER, data, 4 + name + description);
}

/* The list may be larger than the output buffer: it then goes on behind the last name. */
static bool do_list(struct connection *conn, const struct option *opt)
{
    struct export *export;

    if (opt->length > 0)
        return handshake_refuse(conn, opt->type, NBD_REP_ERR_INVALID, "LIST has no data");
    if (!conn->server->config->allow_list)
        return handshake_refuse(conn, opt->type, NBD_REP_ERR_POLICY,
                                "exports are not listed here (allowlist in [generic])");
    while ((export = registry_next(conn->server->registry, conn->list_after)) != NULL) {
        if (!export->hidden && handshake_is_allowed(conn, export) &&
            !reply_server(conn, export))
            return false;
        g_free(conn->list_after);
        conn->list_after = g_strdup(export->name);
    }
    if (!handshake_acknowledge(conn, opt->type))
        return false;
    g_clear_pointer(&conn->list_after, g_free);
    return true;
}

static bool do_info(struct connection *conn, const struct option *opt)
{
    uint32_t length = opt->length >= 6 ? get32(opt->data) : 0;
    bool wants_name = false, wants_description = false;
    const uint8_t *infos;
    unsigned n;

    if (opt->length < 6 || length > opt->length - 6)
        return handshake_refuse(conn, opt->type, NBD_REP_ERR_INVALID,
                                "the option is too short");
    infos = opt->data + 4 + length;
    n = get16(infos);
    if (opt->length != (size_t)4 + length + 2 + 2 * (size_t)n)
        return handshake_refuse(conn, opt->type, NBD_REP_ERR_INVALID,
                                "the option's length does not fit its %u information "
                                "requests", n);
    g_autofree char *name = handshake_take_string(opt->data + 4, length);

    if (name == NULL)
        return handshake_refuse(conn, opt->type, NBD_REP_ERR_INVALID,
                                "an export name is UTF-8 of at most %u bytes without NUL",
                                NBD_MAX_STRING);
    for (unsigned i = 0; i < n; i++) {
        wants_name |= get16(infos + 2 + 2 * i) == NBD_INFO_NAME;
        wants_description |= get16(infos + 2 + 2 * i) == NBD_INFO_DESCRIPTION;
    }
    return handshake_open_export(conn, opt->type, name, wants_name, wants_description);
}

static bool do_structured_reply(struct connection *conn, const struct option *opt)
{
    if (opt->length > 0)
        return handshake_refuse(conn, opt->type, NBD_REP_ERR_INVALID,
                                "STRUCTURED_REPLY has no data");
    if (conn->extended)
        return handshake_refuse(conn, opt->type, NBD_REP_ERR_EXT_HEADER_REQD,
                                "EXTENDED_HEADERS was chosen, which includes structured "
                                "replies");
    if (!handshake_acknowledge(conn, opt->type))
        return false;
    conn->structured = true;
    return true;
}

static bool do_extended_headers(struct connection *conn, const struct option *opt)
{
    if (opt->length > 0)
        return handshake_refuse(conn, opt->type, NBD_REP_ERR_INVALID,
                                "EXTENDED_HEADERS has no data");
    if (!handshake_acknowledge(conn, opt->type))
        return false;
    conn->structured = conn->extended = true;
    return true;
}

static const struct {
    uint32_t type;
    option_function *run;
} options[] = {
    { NBD_OPT_EXPORT_NAME, do_export_name },
    { NBD_OPT_ABORT, do_abort },
    { NBD_OPT_LIST, do_list },
    { NBD_OPT_INFO, do_info },
    { NBD_OPT_GO, do_info },
    { NBD_OPT_STRUCTURED_REPLY, do_structured_reply },
    { NBD_OPT_LIST_META_CONTEXT, handshake_do_meta_context },
    { NBD_OPT_SET_META_CONTEXT, handshake_do_meta_context },
    { NBD_OPT_EXTENDED_HEADERS, do_extended_headers },
};

static bool run_option(struct connection *conn, const struct option *opt)
{
    if (conn->server->stopping && opt->type != NBD_OPT_ABORT &&
        opt->type != NBD_OPT_EXPORT_NAME)
        return handshake_refuse(conn, opt->type, NBD_REP_ERR_SHUTDOWN,
                                "the server is shutting down");
    for (size_t i = 0; i < G_N_ELEMENTS(options); i++)
        if (options[i].type == opt->type)
            return options[i].run(conn, opt);
    return handshake_refuse(conn, opt->type, NBD_REP_ERR_UNSUP, "option %u is not supported",
                            opt->type);
}

/* ---- Messages in ---- */

void handshake_greet(struct connection *conn)
{
    struct nbd_greeting greeting = {
        .magic = htobe64(NBD_MAGIC), .ihaveopt = htobe64(NBD_IHAVEOPT),
        .flags = htobe16(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES),
    };
    uint8_t *to = connection_reserve(conn, sizeof(greeting));

    if (to == NULL)
        return;
    memcpy(to, &greeting, sizeof(greeting));
    connection_commit(conn, sizeof(greeting));
}

size_t handshake_receive_flags(struct connection *conn, const struct input *input)
{
    uint32_t flags;

    if (input->length < sizeof(flags))
        return 0;
    flags = get32(input->data);
    if (flags & ~(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES)) {
        connection_close(conn, "it sent client flags that are unknown");
        return 0;
    }
    conn->no_zeroes = flags & NBD_FLAG_C_NO_ZEROES;
    connection_enter(conn, PHASE_OPTIONS);
    return sizeof(flags);
}

static size_t skip_option(struct connection *conn, const struct input *input)
{
    size_t n = MIN(input->length, conn->option_drain);

    conn->option_drain -= n;
    return n;
}

/* An option that is longer than any that we understand: answer, and skip its data. */
static size_t skip_long_option(struct connection *conn, const struct option *opt)
{
    if (opt->length > OPTION_DRAIN_MAX || opt->type == NBD_OPT_EXPORT_NAME) {
        connection_close(conn, "it sent an option that is too long");
        return 0;
    }
    if (!handshake_refuse(conn, opt->type, NBD_REP_ERR_TOO_BIG,
                          "an option has at most %u bytes", OPTION_DATA_MAX))
        return 0;
    conn->option_drain = opt->length;
    return sizeof(struct nbd_option);
}

static unsigned options_max(const struct connection *conn)
{
    return OPTIONS_MAX + OPTIONS_PER_EXPORT * registry_size(conn->server->registry);
}

size_t handshake_receive_option(struct connection *conn, const struct input *input)
{
    const struct nbd_option *wire = (const void *)input->data;
    struct option opt;

    if (conn->option_drain > 0)
        return skip_option(conn, input);
    if (input->length < sizeof(*wire))
        return 0;
    if (be64toh(wire->ihaveopt) != NBD_IHAVEOPT) {
        connection_close(conn, "an option with a wrong magic number");
        return 0;
    }
    if (conn->n_options >= options_max(conn)) {
        connection_close(conn, "it sent too many options");
        return 0;
    }
    opt.type = be32toh(wire->option);
    opt.length = be32toh(wire->length);
    opt.data = input->data + sizeof(*wire);
    if (opt.length > OPTION_DATA_MAX) {
        conn->n_options++;
        return skip_long_option(conn, &opt);
    }
    if (input->length - sizeof(*wire) < opt.length || !run_option(conn, &opt))
        return 0;
    conn->n_options++;
    return sizeof(*wire) + opt.length;
}
