/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * LIST_META_CONTEXT and SET_META_CONTEXT: which metadata contexts a client asks about, and
 * which it chooses. Loop thread only.
 */
#include "handshake_private.h"

#include <endian.h>
#include <string.h>

#include "log.h"
#include "meta_context.h"

/* Room for all replies of a context option, so that it never stops half way. */
#define CONTEXT_REPLIES_BYTES 2048

/* What LIST_META_CONTEXT and SET_META_CONTEXT say. */
struct context_query {
    char *name;      /* of the export */
    uint32_t n;      /* queries */
    unsigned set;    /* the contexts that they mean, a bit each */
};

/* The sentence against the option, or NULL. */
static const char *parse_context_query(const struct option *opt, struct context_query *ret)
{
    const uint8_t *p = opt->data, *end = opt->data + opt->length;
    bool list = opt->type == NBD_OPT_LIST_META_CONTEXT;
    uint32_t length = opt->length >= 8 ? get32(p) : 0;

    if (opt->length < 8 || length > opt->length - 8)
        return "the option is too short for its export name";
    ret->name = handshake_take_string(p + 4, length);
    if (ret->name == NULL)
        return "an export name is UTF-8 of at most 4096 bytes without NUL";
    p += 4 + length;
    ret->n = get32(p);
    p += 4;
    for (uint32_t i = 0; i < ret->n; i++) {
        if (end - p < 4 || (length = get32(p)) > (size_t)(end - p) - 4)
            return "the option is too short for its queries";
        if (length > NBD_MAX_STRING)
            return "a query has at most 4096 bytes";
        ret->set |= meta_context_match((const char *)p + 4, length, list);
        p += 4 + length;
    }
    if (p != end)
        return "the option is longer than its queries";
    if (list && ret->n == 0)
        ret->set = (1u << N_META_CONTEXTS) - 1;
    return NULL;
}

static bool reply_context(struct connection *conn, uint32_t option, enum meta_context context)
{
    const char *name = meta_context_name(context);
    uint32_t id = htobe32(option == NBD_OPT_SET_META_CONTEXT ? meta_context_id(context) : 0);
    uint8_t data[4 + 64];

    memcpy(data, &id, 4);
    memcpy(data + 4, name, strlen(name));
    return handshake_reply(conn, option, NBD_REP_META_CONTEXT, data, 4 + strlen(name));
}

static bool reply_contexts(struct connection *conn, const struct option *opt,
                           const struct context_query *query)
{
    struct mapping *mapping;
    struct export *export = handshake_find_export(conn, query->name, &mapping);
    struct nbd_failure why;

    if (export == NULL) {
        g_autofree char *quoted = log_quote(query->name, strlen(query->name));

        return handshake_refuse(conn, opt->type, NBD_REP_ERR_UNKNOWN,
                                "there is no export %s", quoted);
    }
    if (!handshake_is_allowed(conn, export)) {
        handshake_objection(conn, export, &why);
        return handshake_refuse(conn, opt->type, NBD_REP_ERR_POLICY, "%s", why.message);
    }
    for (unsigned i = 0; i < N_META_CONTEXTS; i++)
        if ((query->set & 1u << i) && !reply_context(conn, opt->type, i))
            return false;
    if (!handshake_acknowledge(conn, opt->type))
        return false;
    if (opt->type == NBD_OPT_SET_META_CONTEXT) {
        conn->contexts = query->set;
        conn->contexts_export = g_strdup(export->id);
    }
    return true;
}

bool handshake_do_meta_context(struct connection *conn, const struct option *opt)
{
    struct context_query query = { 0 };
    const char *wrong;
    bool done;

    if (connection_reserve(conn, CONTEXT_REPLIES_BYTES) == NULL)
        return false;
    if (opt->type == NBD_OPT_SET_META_CONTEXT) { /* replaces the choice even when it fails */
        conn->contexts = 0;
        g_clear_pointer(&conn->contexts_export, g_free);
    }
    wrong = parse_context_query(opt, &query);
    if (wrong == NULL && !conn->structured)
        wrong = "metadata contexts need STRUCTURED_REPLY first";
    done = wrong != NULL ? handshake_refuse(conn, opt->type, NBD_REP_ERR_INVALID, "%s", wrong)
                         : reply_contexts(conn, opt, &query);
    g_free(query.name);
    return done;
}
