/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Reads a configuration file into assignments, which config.c applies. GKeyFile reads the
 * values; the lines are scanned first, for what it lets pass in silence. Before the loop runs.
 */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "config_file.h"

#define GROUP "generic"
#define FILE_MAX (1u << 20)

/* What a line scan finds before GKeyFile, which would merge duplicates in silence. */
struct file_scan {
    const char *file;
    GHashTable *seen;  /* setting's offset -> "key in line N" */
    GPtrArray *layer;
    char *directory;
    bool in_generic, had_generic;
    unsigned line;
};

__attribute__((format(printf, 3, 4)))
static int bad_line(const struct file_scan *scan, struct nbd_failure *why, const char *format,
                    ...)
{
    char *text;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    nbd_fail(why, EBADMSG, "%s line %u: %s", scan->file, scan->line, text);
    g_free(text);
    return -EBADMSG;
}

static int scan_group(struct file_scan *scan, const char *line, struct nbd_failure *why)
{
    size_t length = strlen(line);

    if (length < 3 || line[length - 1] != ']' || strpbrk(line + 1, "[]") != line + length - 1)
        return bad_line(scan, why, "'%.64s' is not a section header", line);
    if (strcmp(line, "[" GROUP "]") != 0)
        return bad_line(scan, why, "section %.64s: export sections are not supported yet by "
                        "this version: create exports with nbd-cli", line);
    if (scan->had_generic)
        return bad_line(scan, why, "section [" GROUP "] is there twice; join the two");
    scan->in_generic = scan->had_generic = true;
    return 0;
}

static int unknown_key(struct file_scan *scan, const char *key, struct nbd_failure *why)
{
    char nearest[64];

    setting_nearest(SPELT_KEY, key, nearest);
    return bad_line(scan, why, "unknown key '%.64s': did you mean '%s'?", key, nearest);
}

static int scan_key(struct file_scan *scan, const char *line, struct nbd_failure *why)
{
    const char *equals = strchr(line, '=');
    const struct setting *setting;
    const char *before;
    char *key;
    int r = 0;

    if (equals == NULL || equals == line)
        return bad_line(scan, why, "'%.64s' is neither 'key = value', a section nor a comment",
                        line);
    if (!scan->in_generic)
        return bad_line(scan, why, "a key stands before the section [" GROUP "]");

    key = g_strchomp(g_strndup(line, (size_t)(equals - line)));
    setting = setting_find(SPELT_KEY, key);
    before = setting == NULL
                 ? NULL : g_hash_table_lookup(scan->seen, GSIZE_TO_POINTER(setting->offset));
    if (setting == NULL) {
        r = unknown_key(scan, key, why);
    } else if (before != NULL) {
        r = bad_line(scan, why, "'%.64s' sets again what %s has set", key, before);
    } else {
        g_hash_table_insert(scan->seen, GSIZE_TO_POINTER(setting->offset),
                            g_strdup_printf("'%s' in line %u", key, scan->line));
        assignment_add(scan->layer, setting,
               g_strdup_printf("%s line %u: %s", scan->file, scan->line, key),
               g_strdup(key), scan->directory);
    }
    g_free(key);
    return r;
}

/* Leaves in scan->layer one assignment per key, with the key itself for text. */
static int scan_lines(struct file_scan *scan, const char *content, struct nbd_failure *why)
{
    char **lines = g_strsplit(content, "\n", -1);
    int r = 0;

    for (char **line = lines; *line != NULL && r == 0; line++) {
        const char *text = g_strstrip(*line);

        scan->line++;
        if (text[0] == '[')
            r = scan_group(scan, text, why);
        else if (text[0] != '\0' && text[0] != '#')
            r = scan_key(scan, text, why);
    }
    g_strfreev(lines);
    return r;
}

static void set_text(struct assignment *a, char *text)
{
    g_free(a->text);
    a->text = text;
}

/* Puts the values, as GKeyFile understands them, in the place of the keys. */
static int take_values(struct file_scan *scan, const char *content, size_t length,
                       struct nbd_failure *why)
{
    GKeyFile *keys = g_key_file_new();
    GError *error = NULL;
    int r = 0;

    if (!g_key_file_load_from_data(keys, content, length, G_KEY_FILE_NONE, &error))
        r = nbd_fail(why, EBADMSG, "%s: %s", scan->file, error->message);
    for (unsigned i = 0; i < scan->layer->len && r == 0; i++) {
        struct assignment *a = g_ptr_array_index(scan->layer, i);
        char *value = g_key_file_get_string(keys, GROUP, a->text, &error);

        if (value == NULL)
            r = nbd_fail(why, EBADMSG, "%s: %s", a->where, error->message);
        else
            set_text(a, g_strchomp(value));
    }
    g_clear_error(&error);
    g_key_file_free(keys);
    return r;
}

static int read_fd(int fd, const char *file, GByteArray *bytes, struct nbd_failure *why)
{
    uint8_t piece[16384];
    ssize_t got;

    while ((got = TEMP_FAILURE_RETRY(read(fd, piece, sizeof(piece)))) > 0) {
        g_byte_array_append(bytes, piece, (unsigned)got);
        if (bytes->len > FILE_MAX)
            return nbd_fail(why, EFBIG, "%s: larger than 1 MiB, this is no configuration file",
                            file);
    }
    if (got < 0) {
        int error = errno;

        return nbd_fail(why, error, "cannot read %s: %s", file, g_strerror(error));
    }
    return 0;
}

static int read_text(const char *file, GByteArray *bytes, struct nbd_failure *why)
{
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    int r;

    if (fd < 0) {
        r = errno;
        return nbd_fail(why, r, "cannot read %s: %s", file, g_strerror(r));
    }
    r = read_fd(fd, file, bytes, why);
    close(fd);
    if (r < 0)
        return r;
    if (bytes->len >= 3 && memcmp(bytes->data, "\xef\xbb\xbf", 3) == 0)
        return nbd_fail(why, EBADMSG, "%s: begins with a byte-order mark; save it without one",
                        file);
    if (!g_utf8_validate((const char *)bytes->data, bytes->len, NULL))
        return nbd_fail(why, EBADMSG, "%s: is not UTF-8 text", file);
    g_byte_array_append(bytes, (const uint8_t *)"", 1);
    return 0;
}

int config_file_parse(const char *file, GPtrArray *layer, char **ret_directory,
                      struct nbd_failure *why)
{
    GByteArray *bytes = g_byte_array_new();
    struct file_scan scan = {
        .file = file,
        .layer = layer,
        .directory = g_path_get_dirname(file),
        .seen = g_hash_table_new_full(NULL, NULL, NULL, g_free),
    };
    int r = read_text(file, bytes, why);

    if (r == 0)
        r = scan_lines(&scan, (const char *)bytes->data, why);
    if (r == 0)
        r = take_values(&scan, (const char *)bytes->data, bytes->len - 1, why);
    g_hash_table_unref(scan.seen);
    g_byte_array_unref(bytes);
    *ret_directory = scan.directory;
    return r;
}
