/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * BACKSTORE list, global list: the local kernel's devices (map, unmap) joined by their
 * cookies with the daemon's backstores (create, dead, live). Works without the module, and
 * for local devices without the daemon.
 */
#include "answer.h"
#include "command.h"
#include "listing.h"
#include "output.h"
#include "size.h"

#include <glib.h>
#include <string.h>

const struct word words_list[] = {
    {.name = "map", .alias = "inuse", .kind = WORD_FLAG, .help = "local devices in use"},
    {.name = "unmap", .alias = "free", .kind = WORD_FLAG, .help = "local devices not in use"},
    {.name = "create", .kind = WORD_FLAG, .help = "backstores that are not mapped"},
    {.name = "dead", .kind = WORD_FLAG, .help = "mapped, but nobody is connected"},
    {.name = "live", .kind = WORD_FLAG, .help = "mapped and connected"},
    {.name = "all", .kind = WORD_FLAG, .help = "all of these (default)"},
    {.name = NULL},
};

enum filter { SHOW_ALL, SHOW_MAP, SHOW_UNMAP, SHOW_CREATE, SHOW_DEAD, SHOW_LIVE };

/* A line of the table; members are NULL where there is nothing. */
struct row {
    const struct local_device *device;
    const nr_export *x;
    const nr_mapping *mapping;
};

static int read_filter(const struct words *words, enum filter *ret_filter, struct failure *why)
{
    static const struct {
        const char *word;
        enum filter filter;
    } filters[] = {
        {"all", SHOW_ALL},       {"map", SHOW_MAP},   {"unmap", SHOW_UNMAP},
        {"create", SHOW_CREATE}, {"dead", SHOW_DEAD}, {"live", SHOW_LIVE},
    };
    const char *given = NULL;

    *ret_filter = SHOW_ALL;
    for (size_t i = 0; i < G_N_ELEMENTS(filters); i++) {
        if (!words_has(words, filters[i].word))
            continue;
        if (given != NULL)
            return fail_with(why, STATUS_USAGE, "'%s' and '%s' exclude each other", given,
                             filters[i].word);
        given = filters[i].word;
        *ret_filter = filters[i].filter;
    }
    return 0;
}

static const char *nbd_state(const struct row *row)
{
    if (row->device == NULL)
        return NULL;
    return row->device->in_use ? "Mapped" : "Unmapped";
}

/* The mapping's state goes first, unless the backstore itself has trouble. */
static const char *backstore_state(const struct row *row)
{
    static const char *const exports[] = {
        [NR_X_CREATING] = "Creating",     [NR_X_LISTENING] = "Listening",
        [NR_X_FINALISING] = "Finalising", [NR_X_HANDED_OVER] = "HandedOver",
        [NR_X_DRAINING] = "Draining",     [NR_X_FAULTED] = "Faulted",
    };
    static const char *const mappings[] = {
        [NR_M_MAPPING] = "Mapping",
        [NR_M_LIVE] = "Live",
        [NR_M_DEAD] = "Dead",
        [NR_M_UNMAPPING] = "Unmapping",
    };

    if (row->x == NULL)
        return NULL;
    if ((unsigned)row->x->state < G_N_ELEMENTS(exports) && exports[row->x->state] != NULL)
        return exports[row->x->state];
    if (row->mapping != NULL && (unsigned)row->mapping->state < G_N_ELEMENTS(mappings) &&
        mappings[row->mapping->state] != NULL)
        return mappings[row->mapping->state];
    return "Created";
}

static bool is_shown(const struct row *row, enum filter filter)
{
    switch (filter) {
    case SHOW_ALL:
        return true;
    case SHOW_MAP:
        return row->device != NULL && row->device->in_use;
    case SHOW_UNMAP:
        return row->device != NULL && !row->device->in_use;
    case SHOW_CREATE:
        return row->x != NULL && row->mapping == NULL;
    case SHOW_DEAD:
        return row->mapping != NULL && row->mapping->state == NR_M_DEAD;
    case SHOW_LIVE:
        return row->mapping != NULL && row->mapping->state == NR_M_LIVE;
    }
    return false;
}

static const struct local_device *find_local(const struct local_device *devices, size_t n,
                                             const char *cookie)
{
    for (size_t i = 0; i < n; i++)
        if (devices[i].cookie[0] != '\0' && strcmp(devices[i].cookie, cookie) == 0)
            return &devices[i];
    return NULL;
}

/* Devices in the order of their numbers, then exports without a local device. */
static GArray *make_rows(const struct local_device *devices, size_t n_devices,
                         const struct listing *listing, const char *handler,
                         enum filter filter)
{
    GArray *rows = g_array_new(FALSE, TRUE, sizeof(struct row));

    for (size_t i = 0; i < n_devices; i++) {
        struct row row = {.device = &devices[i]};

        if (devices[i].cookie[0] != '\0')
            row.mapping = listing_find(listing, devices[i].cookie, &row.x);
        if (row.x != NULL && handler != NULL && strcmp(row.x->store.handler, handler) != 0)
            continue;
        if (is_shown(&row, filter))
            g_array_append_val(rows, row);
    }
    for (guint i = 0; listing->exports != NULL && i < listing->exports->len; i++) {
        struct row row = {.x = g_ptr_array_index(listing->exports, i)};

        if (handler != NULL && strcmp(row.x->store.handler, handler) != 0)
            continue;
        if (row.x->mappings.mappings_len == 0 && is_shown(&row, filter))
            g_array_append_val(rows, row);
        for (u_int j = 0; j < row.x->mappings.mappings_len; j++) {
            row.mapping = &row.x->mappings.mappings_val[j];
            if (find_local(devices, n_devices, row.mapping->cookie) == NULL &&
                is_shown(&row, filter))
                g_array_append_val(rows, row);
        }
    }
    return rows;
}

/* "/dev/nbd0"; of another host "HOST:/dev/nbd0"; NULL without a device. */
static char *device_name(const struct row *row)
{
    if (row->device != NULL)
        return g_strdup_printf("/dev/nbd%d", row->device->index);
    if (row->mapping != NULL && row->mapping->device[0] != '\0')
        return g_strdup_printf("%s:%s", row->mapping->client, row->mapping->device);
    return NULL;
}

static bool row_size(const struct row *row, uint64_t *ret_bytes)
{
    if (row->x == NULL && (row->device == NULL || !row->device->in_use))
        return false;
    *ret_bytes = row->x != NULL ? row->x->size : row->device->size_bytes;
    return true;
}

static const char *row_readonly(const struct row *row)
{
    bool readonly = false;

    if (row->mapping != NULL)
        readonly = row->mapping->readonly || row->x->readonly;
    else if (row->x != NULL)
        readonly = row->x->readonly;
    else if (row->device->in_use)
        readonly = row->device->readonly;
    else
        return NULL;
    return readonly ? "yes" : "no";
}

static void print_row(struct table *table, const struct row *row, bool with_handler)
{
    g_autofree char *device = device_name(row);
    char size_text[SIZE_TEXT_MAX];
    uint64_t size = 0;

    table_add(table, device);
    table_add(table, nbd_state(row));
    table_add(table, row->mapping != NULL ? time_text(row->mapping->since) : NULL);
    table_add(table, backstore_state(row));
    if (row->x != NULL && with_handler)
        table_add_format(table, "%s:%s", row->x->store.handler, row->x->store.target);
    else
        table_add(table, row->x != NULL ? row->x->store.target : NULL);
    table_add(table, row_size(row, &size) ? size_format(size, size_text) : NULL);
    table_add(table, row_readonly(row));
    if (row->mapping != NULL) {
        table_add_format(table, "%u", row->mapping->timeout_s);
        table_add_format(table, "%u/%u", row->mapping->connected, row->mapping->connections);
    } else {
        table_add(table, NULL);
        table_add(table, NULL);
    }
}

static json_object *row_json(const struct row *row)
{
    json_object *object = json_object_new_object();
    g_autofree char *device = device_name(row);
    uint64_t size = 0;

    json_put_optional(object, "device", device);
    json_put_optional(object, "nbd_state", nbd_state(row));
    json_put_optional(object, "backstore_state", backstore_state(row));
    json_put_optional(object, "backend", row->device != NULL ? row->device->backend : NULL);
    if (row_size(row, &size))
        json_put_number(object, "size_bytes", size);
    else
        json_object_object_add(object, "size_bytes", NULL);
    json_object_object_add(object, "export", row->x != NULL ? export_json(row->x) : NULL);
    json_object_object_add(object, "mapping",
                           row->mapping != NULL ? mapping_json(row->mapping) : NULL);
    return object;
}

static void print_rows(struct cli *cli, const GArray *rows)
{
    static const char *const titles[] = {"DEVICES", "NBD-STAT", "TIME", "BS-STAT", "BACKSTORE",
                                         "SIZE",    "RO",       "TMO",  "CONN",    NULL};
    struct table *table = table_new(titles);
    json_object *array = json_object_new_array();

    for (guint i = 0; i < rows->len; i++) {
        print_row(table, &g_array_index(rows, struct row, i), cli->backstore == NULL);
        json_object_array_add(array, row_json(&g_array_index(rows, struct row, i)));
    }
    table_paint(table, "BS-STAT");
    if (!cli->json)
        table_print(table, cli->out);
    json_object_object_add(cli_answer(cli), "rows", array);
    table_free(table);
}

int cmd_list(struct cli *cli, struct failure *why)
{
    g_autofree struct local_device *devices = NULL;
    struct listing listing = {0};
    enum filter filter;
    GArray *rows;
    size_t n;
    int r = read_filter(&cli->words, &filter, why);

    if (r != 0)
        return r;
    n = sysfs_list(&cli->sysfs, &devices);
    /* All of them: a local device may belong to an export of another handler. */
    if (filter != SHOW_UNMAP)
        r = listing_fetch(cli, "", NR_L_ALL, &listing, why);
    if (r != 0 && filter != SHOW_MAP)
        return r;
    if (r != 0)
        cli_note(cli, "%s; the devices' backstores are not known", why->message);
    rows = make_rows(devices, n, &listing, cli->backstore, filter);
    print_rows(cli, rows);
    g_array_free(rows, TRUE);
    listing_clear(&listing);
    return 0;
}
