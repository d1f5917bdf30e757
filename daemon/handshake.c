/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The handshake phase: greeting and options, a table of NBD_OPT_*, one function each. An
 * option is handled in three moves: check its length and fields, do, reply. A bad one is
 * taken whole and answered, and negotiation goes on.
 */
#include "handshake.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include <glib.h>

#include "acl.h"
#include "log.h"
#include "meta_context.h"
#include "nbd_protocol.h"
#include "registry.h"
#include "server.h"

#define OPEN_TIMEOUT_MS 10000
#define OPEN_ANSWER_MAX (12u << 10) /* to INFO, GO, EXPORT_NAME: two strings and some headers */

/* An option as it came. */
struct option {
    uint32_t type;
    const uint8_t *data;
    size_t length;
};

/* INFO, GO or EXPORT_NAME, while the export is being opened. */
struct opening {
    struct connection *conn; /* NULL: it has gone */
    struct export *export;
    struct mapping *mapping; /* behind a name "@map/COOKIE", else NULL */
    char *cookie;
    uint32_t option;
    bool name, description;  /* asked for */
};

/* ---- Replies ---- */

static bool reply(struct connection *conn, uint32_t option, uint32_t type, const void *data,
                  size_t length)
{
    struct nbd_option_reply header = {
        .magic = htobe64(NBD_REPLY_MAGIC), .option = htobe32(option), .type = htobe32(type),
        .length = htobe32((uint32_t)length),
    };
    uint8_t *to = connection_reserve(conn, sizeof(header) + length);

    if (to == NULL)
        return false;
    memcpy(to, &header, sizeof(header));
    if (length > 0)
        memcpy(to + sizeof(header), data, length);
    connection_commit(conn, sizeof(header) + length);
    return true;
}

static bool acknowledge(struct connection *conn, uint32_t option)
{
    return reply(conn, option, NBD_REP_ACK, NULL, 0);
}

/* That a client did not get an export is for the operator; the rest of the negotiation is not. */
static bool is_about_export(uint32_t option)
{
    return option == NBD_OPT_GO || option == NBD_OPT_INFO || option == NBD_OPT_STARTTLS;
}

__attribute__((format(printf, 4, 5)))
static bool refuse(struct connection *conn, uint32_t option, uint32_t type, const char *format,
                   ...)
{
    char text[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    connection_log(conn, is_about_export(option) ? NBD_LOG_INFO : NBD_LOG_DEBUG,
                   "option %u refused: %s", option, text);
    return reply(conn, option, type, text, strlen(text));
}

/* ---- Fields ---- */

static uint32_t get32(const uint8_t *p)
{
    uint32_t value;

    memcpy(&value, p, sizeof(value));
    return be32toh(value);
}

static uint16_t get16(const uint8_t *p)
{
    uint16_t value;

    memcpy(&value, p, sizeof(value));
    return be16toh(value);
}

/* A string of the protocol; NULL when it is none (NUL, not UTF-8, too long). */
static char *take_string(const uint8_t *p, size_t length)
{
    if (length > NBD_MAX_STRING || memchr(p, '\0', length) != NULL ||
        !g_utf8_validate((const char *)p, (gssize)length, NULL))
        return NULL;
    return g_strndup((const char *)p, length);
}

/* ---- Which export a name means ---- */

/* The empty name is the default export: the only one there is. */
static struct export *find_export(struct connection *conn, const char *name,
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

/* May it know of the export, and use it? */
static bool is_allowed(const struct connection *conn, const struct export *export)
{
    return acl_allows(export->acl, &conn->address.any);
}

/* The sentence against using an export now, and the reply type; 0: there is none. */
static uint32_t objection(const struct connection *conn, const struct export *export,
                          struct nbd_failure *why)
{
    if (conn->server->stopping) {
        nbd_fail(why, ESHUTDOWN, "the server is shutting down");
        return NBD_REP_ERR_SHUTDOWN;
    }
    if (!is_allowed(conn, export))
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

/* Bytes of it that the protocol allows, in whole characters. */
static size_t sent_length(const char *string)
{
    size_t length = strlen(string);

    if (length <= NBD_MAX_STRING)
        return length;
    return (size_t)(g_utf8_find_prev_char(string, string + NBD_MAX_STRING + 1) - string);
}

static void send_text(struct connection *conn, uint32_t option, uint16_t type,
                      const char *string)
{
    uint8_t data[2 + NBD_MAX_STRING];
    size_t length = sent_length(string);
    uint16_t wire_type = htobe16(type);

    memcpy(data, &wire_type, 2);
    memcpy(data + 2, string, length);
    reply(conn, option, NBD_REP_INFO, data, 2 + length);
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
    reply(conn, o->option, NBD_REP_INFO, &sizes, sizeof(sizes));
    reply(conn, o->option, NBD_REP_INFO, &facts, sizeof(facts));
    acknowledge(conn, o->option);
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
        return refuse(conn, option, type, "%s", why->message);
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
    uint32_t type = objection(conn, o->export, &why); /* things change while it opens */

    if (type != 0) {
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

static bool open_export(struct connection *conn, uint32_t option, const char *name,
                        bool wants_name, bool wants_description)
{
    struct mapping *mapping;
    struct export *export = find_export(conn, name, &mapping);
    struct nbd_failure why;
    struct opening *o;
    uint32_t type;

    /* Once the export is open the answer can no longer wait for room. */
    if (connection_reserve(conn, OPEN_ANSWER_MAX) == NULL)
        return false;
    if (export == NULL) {
        g_autofree char *quoted = log_quote(name, strlen(name));

        if (option != NBD_OPT_EXPORT_NAME)
            return refuse(conn, option, NBD_REP_ERR_UNKNOWN, "there is no export %s", quoted);
        connection_close(conn, "it asked for an unknown export");
        return false;
    }
    type = objection(conn, export, &why);
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

/* ---- Options ----
 *
 * Each returns true when it is done with the option, false when there was no room for the
 * reply (it is then called again) or the connection has ended. */

static bool do_export_name(struct connection *conn, const struct option *opt)
{
    g_autofree char *name = take_string(opt->data, opt->length);

    if (name == NULL || conn->extended) {
        connection_close(conn, name == NULL ? "it asked for an export by a malformed name"
                                            : "EXPORT_NAME after EXTENDED_HEADERS");
        return false;
    }
    return open_export(conn, opt->type, name, false, false);
}

static bool do_abort(struct connection *conn, const struct option *opt)
{
    if (!acknowledge(conn, opt->type))
        return false;
    connection_finish(conn, "the client ended the negotiation");
    return true;
}

static bool reply_server(struct connection *conn, const struct export *export)
{
    uint8_t data[4 + EXPORT_NAME_MAX + NBD_MAX_STRING];
    size_t name = strlen(export->name);
    size_t description = sent_length(export->description);
    uint32_t length = htobe32((uint32_t)name);

    memcpy(data, &length, 4);
    memcpy(data + 4, export->name, name);
    memcpy(data + 4 + name, export->description, description);
    return reply(conn, NBD_OPT_LIST, NBD_REP_SERVER, data, 4 + name + description);
}

/* The list may be larger than the output buffer: it then goes on behind the last name. */
static bool do_list(struct connection *conn, const struct option *opt)
{
    struct export *export;

    if (opt->length > 0)
        return refuse(conn, opt->type, NBD_REP_ERR_INVALID, "LIST has no data");
    if (!conn->server->config->allow_list)
        return refuse(conn, opt->type, NBD_REP_ERR_POLICY,
                      "exports are not listed here (allowlist in [generic])");
    while ((export = registry_next(conn->server->registry, conn->list_after)) != NULL) {
        if (!export->hidden && is_allowed(conn, export) && !reply_server(conn, export))
            return false;
        g_free(conn->list_after);
        conn->list_after = g_strdup(export->name);
    }
    if (!acknowledge(conn, opt->type))
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
        return refuse(conn, opt->type, NBD_REP_ERR_INVALID, "the option is too short");
    infos = opt->data + 4 + length;
    n = get16(infos);
    if (opt->length != (size_t)4 + length + 2 + 2 * (size_t)n)
        return refuse(conn, opt->type, NBD_REP_ERR_INVALID,
                      "the option's length does not fit its %u information requests", n);
    g_autofree char *name = take_string(opt->data + 4, length);

    if (name == NULL)
        return refuse(conn, opt->type, NBD_REP_ERR_INVALID,
                      "an export name is UTF-8 of at most %u bytes without NUL", NBD_MAX_STRING);
    for (unsigned i = 0; i < n; i++) {
        wants_name |= get16(infos + 2 + 2 * i) == NBD_INFO_NAME;
        wants_description |= get16(infos + 2 + 2 * i) == NBD_INFO_DESCRIPTION;
    }
    return open_export(conn, opt->type, name, wants_name, wants_description);
}

static bool do_structured_reply(struct connection *conn, const struct option *opt)
{
    if (opt->length > 0)
        return refuse(conn, opt->type, NBD_REP_ERR_INVALID, "STRUCTURED_REPLY has no data");
    if (conn->extended)
        return refuse(conn, opt->type, NBD_REP_ERR_EXT_HEADER_REQD,
                      "EXTENDED_HEADERS was chosen, which includes structured replies");
    if (!acknowledge(conn, opt->type))
        return false;
    conn->structured = true;
    return true;
}

static bool do_extended_headers(struct connection *conn, const struct option *opt)
{
    if (opt->length > 0)
        return refuse(conn, opt->type, NBD_REP_ERR_INVALID, "EXTENDED_HEADERS has no data");
    if (!acknowledge(conn, opt->type))
        return false;
    conn->structured = conn->extended = true;
    return true;
}

/* ---- Options: metadata contexts ---- */

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
    ret->name = take_string(p + 4, length);
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
    return reply(conn, option, NBD_REP_META_CONTEXT, data, 4 + strlen(name));
}

static bool reply_contexts(struct connection *conn, const struct option *opt,
                           const struct context_query *query)
{
    struct mapping *mapping;
    struct export *export = find_export(conn, query->name, &mapping);
    struct nbd_failure why;

    if (export == NULL) {
        g_autofree char *quoted = log_quote(query->name, strlen(query->name));

        return refuse(conn, opt->type, NBD_REP_ERR_UNKNOWN, "there is no export %s", quoted);
    }
    if (!is_allowed(conn, export)) {
        objection(conn, export, &why);
        return refuse(conn, opt->type, NBD_REP_ERR_POLICY, "%s", why.message);
    }
    for (unsigned i = 0; i < N_META_CONTEXTS; i++)
        if ((query->set & 1u << i) && !reply_context(conn, opt->type, i))
            return false;
    if (!acknowledge(conn, opt->type))
        return false;
    if (opt->type == NBD_OPT_SET_META_CONTEXT) {
        conn->contexts = query->set;
        conn->contexts_export = g_strdup(export->id);
    }
    return true;
}

/* Room for all replies of a context option, so that it never stops half way. */
#define CONTEXT_REPLIES_BYTES 2048

static bool do_meta_context(struct connection *conn, const struct option *opt)
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
    done = wrong != NULL ? refuse(conn, opt->type, NBD_REP_ERR_INVALID, "%s", wrong)
                         : reply_contexts(conn, opt, &query);
    g_free(query.name);
    return done;
}

static const struct {
    uint32_t type;
    bool (*run)(struct connection *conn, const struct option *opt);
} options[] = {
    { NBD_OPT_EXPORT_NAME, do_export_name },
    { NBD_OPT_ABORT, do_abort },
    { NBD_OPT_LIST, do_list },
    { NBD_OPT_INFO, do_info },
    { NBD_OPT_GO, do_info },
    { NBD_OPT_STRUCTURED_REPLY, do_structured_reply },
    { NBD_OPT_LIST_META_CONTEXT, do_meta_context },
    { NBD_OPT_SET_META_CONTEXT, do_meta_context },
    { NBD_OPT_EXTENDED_HEADERS, do_extended_headers },
};

static bool run_option(struct connection *conn, const struct option *opt)
{
    if (conn->server->stopping && opt->type != NBD_OPT_ABORT &&
        opt->type != NBD_OPT_EXPORT_NAME)
        return refuse(conn, opt->type, NBD_REP_ERR_SHUTDOWN, "the server is shutting down");
    for (size_t i = 0; i < G_N_ELEMENTS(options); i++)
        if (options[i].type == opt->type)
            return options[i].run(conn, opt);
    return refuse(conn, opt->type, NBD_REP_ERR_UNSUP, "option %u is not supported", opt->type);
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
    if (!refuse(conn, opt->type, NBD_REP_ERR_TOO_BIG, "an option has at most %u bytes",
                OPTION_DATA_MAX))
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
