/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Reads configuration files. GKeyFile reads the values; the lines are scanned first, for
 * their numbers and for what GKeyFile lets pass in silence. Any thread; blocks.
 */
#include "ini.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

struct scan {
    struct ini *ini;
    GPtrArray *problems;
    GHashTable *sections;        /* name -> struct ini_section */
    GHashTable *keys;            /* of the present section: key -> struct ini_entry */
    struct ini_section *section; /* NULL: none yet, or one that has been refused */
    bool had_section;
    unsigned line;
};

/* ---- Making and freeing ---- */

static void entry_free(void *data)
{
    struct ini_entry *entry = data;

    g_free(entry->key);
    g_free(entry->value);
    g_free(entry);
}

static void section_free(void *data)
{
    struct ini_section *section = data;

    g_free(section->name);
    g_ptr_array_unref(section->entries);
    g_free(section);
}

void ini_free(struct ini *ini)
{
    if (ini == NULL)
        return;
    g_ptr_array_unref(ini->sections);
    g_free(ini->file);
    g_free(ini->directory);
    g_free(ini);
}

static struct ini *ini_new(const char *file)
{
    struct ini *ini = g_new0(struct ini, 1);

    ini->file = g_strdup(file);
    ini->directory = g_path_get_dirname(file);
    ini->sections = g_ptr_array_new_with_free_func(section_free);
    return ini;
}

const struct ini_section *ini_find(const struct ini *ini, const char *section)
{
    for (guint i = 0; i < ini->sections->len; i++) {
        const struct ini_section *candidate = ini->sections->pdata[i];

        if (strcmp(candidate->name, section) == 0)
            return candidate;
    }
    return NULL;
}

/* ---- Problems ---- */

void ini_problem(GPtrArray *problems, const char *file, unsigned line, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    g_ptr_array_add(problems, g_strdup_printf("%s line %u: %s", file, line, text));
}

/* Of the file as a whole. */
__attribute__((format(printf, 2, 3)))
static void add_problem(GPtrArray *problems, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_ptr_array_add(problems, g_strdup_vprintf(format, args));
    va_end(args);
}

/* ---- Lines ---- */

static void scan_section(struct scan *scan, const char *line)
{
    size_t length = strlen(line);
    const char *file = scan->ini->file;
    const struct ini_section *before;
    struct ini_section *section;
    g_autofree char *name = NULL;

    scan->section = NULL;
    scan->had_section = true;
    if (length < 3 || line[length - 1] != ']' ||
        strpbrk(line + 1, "[]") != line + length - 1) {
        ini_problem(scan->problems, file, scan->line, "'%.64s' is not a section header", line);
        return;
    }
    name = g_strndup(line + 1, length - 2);
    before = g_hash_table_lookup(scan->sections, name);
    if (before != NULL) {
        ini_problem(scan->problems, file, scan->line, "section [%s] is there already, in line "
                    "%u; join the two or rename one", name, before->line);
        return;
    }
    section = g_new0(struct ini_section, 1);
    section->name = g_steal_pointer(&name);
    section->line = scan->line;
    section->entries = g_ptr_array_new_with_free_func(entry_free);
    g_ptr_array_add(scan->ini->sections, section);
    g_hash_table_insert(scan->sections, section->name, section);
    g_hash_table_remove_all(scan->keys);
    scan->section = section;
}

static void scan_key(struct scan *scan, const char *line)
{
    const char *equals = strchr(line, '='), *file = scan->ini->file;
    const struct ini_entry *before;
    struct ini_entry *entry;
    g_autofree char *key = NULL;

    if (equals == NULL || equals == line) {
        ini_problem(scan->problems, file, scan->line,
                    "'%.64s' is neither 'key = value', a section nor a comment", line);
        return;
    }
    if (scan->section == NULL) {
        if (!scan->had_section)
            ini_problem(scan->problems, file, scan->line, "a key stands before the first "
                        "section; settings belong under [generic]");
        return;
    }
    key = g_strchomp(g_strndup(line, (gsize)(equals - line)));
    before = g_hash_table_lookup(scan->keys, key);
    if (before != NULL) {
        ini_problem(scan->problems, file, scan->line,
                    "'%.64s' sets again what '%.64s' in line %u has set", key, key,
                    before->line);
        return;
    }
    entry = g_new0(struct ini_entry, 1);
    entry->key = g_steal_pointer(&key);
    entry->line = scan->line;
    g_ptr_array_add(scan->section->entries, entry);
    g_hash_table_insert(scan->keys, entry->key, entry);
}

/* Leaves the entries without values. */
static void scan_lines(struct scan *scan, const char *text)
{
    char **lines = g_strsplit(text, "\n", -1);

    for (char **line = lines; *line != NULL; line++) {
        const char *stripped = g_strstrip(*line);

        scan->line++;
        if (stripped[0] == '[')
            scan_section(scan, stripped);
        else if (stripped[0] != '\0' && stripped[0] != '#')
            scan_key(scan, stripped);
    }
    g_strfreev(lines);
}

/* ---- Values ---- */

static void take_section_values(struct ini *ini, const struct ini_section *section,
                                GKeyFile *keys, GPtrArray *problems)
{
    for (guint i = 0; i < section->entries->len; i++) {
        struct ini_entry *entry = section->entries->pdata[i];
        g_autoptr(GError) error = NULL;

        entry->value = g_key_file_get_string(keys, section->name, entry->key, &error);
        if (entry->value != NULL)
            g_strchomp(entry->value);
        if (error != NULL) /* there may be a value as well */
            ini_problem(problems, ini->file, entry->line, "%s: %s", entry->key,
                        error->message);
    }
}

static void take_values(struct ini *ini, const char *text, size_t length, GPtrArray *problems)
{
    g_autoptr(GKeyFile) keys = g_key_file_new();
    g_autoptr(GError) error = NULL;

    if (!g_key_file_load_from_data(keys, text, length, G_KEY_FILE_NONE, &error)) {
        add_problem(problems, "%s: %s", ini->file, error->message);
        return;
    }
    for (guint i = 0; i < ini->sections->len; i++)
        take_section_values(ini, ini->sections->pdata[i], keys, problems);
}

/* ---- Reading ---- */

static int read_all(int fd, const char *file, GByteArray *bytes, GPtrArray *problems)
{
    uint8_t piece[16384];
    ssize_t got;

    while ((got = TEMP_FAILURE_RETRY(read(fd, piece, sizeof(piece)))) > 0) {
        g_byte_array_append(bytes, piece, (unsigned)got);
        if (bytes->len > INI_FILE_MAX) {
            add_problem(problems, "%s: larger than %u MiB, this is no configuration file",
                        file, INI_FILE_MAX >> 20);
            return -EFBIG;
        }
    }
    if (got < 0) {
        int error = errno;

        add_problem(problems, "cannot read %s: %s", file, g_strerror(error));
        return -error;
    }
    return 0;
}

int ini_read(const char *file, struct ini **ret_ini, GPtrArray *problems)
{
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    GByteArray *bytes;
    int r;

    if (fd < 0) {
        r = -errno;
        add_problem(problems, "cannot read %s: %s", file, g_strerror(-r));
        return r;
    }
    bytes = g_byte_array_new();
    r = read_all(fd, file, bytes, problems);
    close(fd);
    if (r == 0)
        r = ini_parse(file, (const char *)bytes->data, bytes->len, ret_ini, problems);
    g_byte_array_unref(bytes);
    return r;
}

static bool is_text(const char *file, const char *text, size_t length, GPtrArray *problems)
{
    if (length >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        add_problem(problems, "%s: begins with a byte-order mark; save it without one", file);
    else if (!g_utf8_validate(text, (gssize)length, NULL))
        add_problem(problems, "%s: is not UTF-8 text", file);
    else
        return true;
    return false;
}

int ini_parse(const char *file, const char *text, size_t length, struct ini **ret_ini,
              GPtrArray *problems)
{
    guint problems_before = problems->len;
    g_autofree char *copy = NULL;
    struct scan scan = { .problems = problems };

    if (!is_text(file, length > 0 ? text : "", length, problems))
        return -EBADMSG;
    copy = g_strndup(length > 0 ? text : "", length);
    scan.ini = ini_new(file);
    scan.sections = g_hash_table_new(g_str_hash, g_str_equal);
    scan.keys = g_hash_table_new(g_str_hash, g_str_equal);
    scan_lines(&scan, copy);
    g_hash_table_unref(scan.sections);
    g_hash_table_unref(scan.keys);
    if (problems->len == problems_before)
        take_values(scan.ini, copy, length, problems);
    if (problems->len > problems_before) {
        ini_free(scan.ini);
        return -EBADMSG;
    }
    *ret_ini = scan.ini;
    return 0;
}
