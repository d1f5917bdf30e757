/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Lines by the shell's rules for quotes and comments. An edit leaves all other lines as they
 * are and replaces the file as a whole.
 */
#include "nbdtab.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX (1u << 20)

bool nbdtab_is_target(const char *a, const char *b)
{
    return strcmp(a + strspn(a, "/"), b + strspn(b, "/")) == 0;
}

static void free_line(void *data)
{
    struct nbdtab_line *line = data;

    g_strfreev(line->fields);
    g_free(line);
}

/* Its lines are run as root: nobody else may have written them. The directory belongs to the
 * daemon's group. */
static int check_owner(const char *path, struct failure *why)
{
    struct stat st;

    if (stat(path, &st) < 0 || ((st.st_uid == 0 || st.st_uid == geteuid()) &&
                                (st.st_mode & (S_IWGRP | S_IWOTH)) == 0))
        return 0;
    return fail_with(why, STATUS_PERMISSION,
                     "%s may be written by others than root: chown root and chmod 644 it",
                     path);
}

/* The whole text; empty when there is no file. */
static int read_text(const char *path, char **ret_text, struct failure *why)
{
    g_autoptr(GError) error = NULL;
    gsize length = 0;

    *ret_text = NULL;
    if (check_owner(path, why) != 0)
        return why->status;
    if (!g_file_get_contents(path, ret_text, &length, &error)) {
        if (g_error_matches(error, G_FILE_ERROR, G_FILE_ERROR_NOENT)) {
            *ret_text = g_strdup("");
            return 0;
        }
        return fail_with(why, g_error_matches(error, G_FILE_ERROR, G_FILE_ERROR_ACCES)
                                  ? STATUS_PERMISSION : STATUS_FAILED,
                         "%s", error->message);
    }
    if (length <= FILE_MAX && strlen(*ret_text) == length &&
        g_utf8_validate(*ret_text, -1, NULL))
        return 0;
    g_clear_pointer(ret_text, g_free);
    return fail_with(why, STATUS_FAILED, "%s is no text of at most %u bytes", path, FILE_MAX);
}

/* *ret_fields is NULL for a line that says nothing. */
static int split(const char *path, unsigned number, const char *text, int *ret_n,
                 char ***ret_fields, struct failure *why)
{
    g_autoptr(GError) error = NULL;

    *ret_fields = NULL;
    *ret_n = 0;
    if (!g_shell_parse_argv(text, ret_n, ret_fields, &error)) {
        if (g_error_matches(error, G_SHELL_ERROR, G_SHELL_ERROR_EMPTY_STRING))
            return 0;
        return fail_with(why, STATUS_FAILED, "%s:%u: %s", path, number, error->message);
    }
    if (*ret_n >= 3)
        return 0;
    g_clear_pointer(ret_fields, g_strfreev);
    return fail_with(why, STATUS_FAILED,
                     "%s:%u: a line is DEVICE BACKSTORE TARGET [WORD...], the device '-' for "
                     "any", path, number);
}

int nbdtab_read(const char *path, GPtrArray **ret_lines, struct failure *why)
{
    g_autofree char *text = NULL;
    g_auto(GStrv) rows = NULL;
    g_autoptr(GPtrArray) lines = g_ptr_array_new_with_free_func(free_line);
    int r = read_text(path, &text, why);

    if (r != 0)
        return r;
    rows = g_strsplit(text, "\n", -1);
    for (unsigned i = 0; rows[i] != NULL; i++) {
        struct nbdtab_line line = {.number = i + 1};

        r = split(path, line.number, rows[i], &line.n_fields, &line.fields, why);
        if (r != 0)
            return r;
        if (line.fields != NULL)
            g_ptr_array_add(lines, g_memdup2(&line, sizeof(line)));
    }
    *ret_lines = g_steal_pointer(&lines);
    return 0;
}

/* ---- Editing ---- */

static bool is_plain(const char *field)
{
    return *field != '\0' &&
           strspn(field, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                         "/:.,_+=@%[]-") == strlen(field);
}

static void append_line(GString *text, char **fields)
{
    if (text->len > 0 && text->str[text->len - 1] != '\n')
        g_string_append_c(text, '\n');
    for (char **field = fields; *field != NULL; field++) {
        g_autofree char *quoted = is_plain(*field) ? g_strdup(*field) : g_shell_quote(*field);

        g_string_append_printf(text, "%s%s", field > fields ? " " : "", quoted);
    }
    g_string_append_c(text, '\n');
}

/* All rows but those of this backstore and target. */
static int without(const char *path, const char *text, const char *backstore,
                   const char *target, GString *ret_text, struct failure *why)
{
    g_auto(GStrv) rows = g_strsplit(text, "\n", -1);

    for (unsigned i = 0; rows[i] != NULL; i++) {
        g_auto(GStrv) fields = NULL;
        int n, r = split(path, i + 1, rows[i], &n, &fields, why);

        if (r != 0)
            return r;
        if (fields != NULL && strcmp(fields[1], backstore) == 0 &&
            nbdtab_is_target(fields[2], target))
            continue;
        if (rows[i + 1] != NULL)
            g_string_append_printf(ret_text, "%s\n", rows[i]);
        else
            g_string_append(ret_text, rows[i]);
    }
    return 0;
}

/* Two edits at the same time must not lose one: the directory is the lock. */
static int lock_directory(const char *path, struct failure *why)
{
    g_autofree char *dir = g_path_get_dirname(path);
    int fd;

    if (g_mkdir_with_parents(dir, 0755) == 0) {
        fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd >= 0 && flock(fd, LOCK_EX) == 0)
            return fd;
        if (fd >= 0)
            close(fd);
    }
    fail_with(why, errno == EACCES ? STATUS_PERMISSION : STATUS_FAILED, "%s: %s", dir,
              strerror(errno));
    return -1;
}

static int edit(const char *path, const char *backstore, const char *target, char **added,
                struct failure *why)
{
    g_autofree char *text = NULL;
    g_autoptr(GString) edited = g_string_new(NULL);
    g_autoptr(GError) error = NULL;
    int lock = lock_directory(path, why), r;

    if (lock < 0)
        return why->status;
    r = read_text(path, &text, why);
    if (r == 0)
        r = without(path, text, backstore, target, edited, why);
    if (r == 0 && added != NULL)
        append_line(edited, added);
    if (r == 0 && strcmp(edited->str, text) != 0 &&
        !g_file_set_contents_full(path, edited->str, (gssize)edited->len,
                                  G_FILE_SET_CONTENTS_CONSISTENT | G_FILE_SET_CONTENTS_DURABLE,
                                  0644, &error))
        r = fail_with(why, g_error_matches(error, G_FILE_ERROR, G_FILE_ERROR_ACCES)
                               ? STATUS_PERMISSION : STATUS_FAILED,
                      "%s", error->message);
    close(lock);
    return r;
}

int nbdtab_add(const char *path, char **fields, struct failure *why)
{
    return edit(path, fields[1], fields[2], fields, why);
}

int nbdtab_remove(const char *path, const char *backstore, const char *target,
                  struct failure *why)
{
    return edit(path, backstore, target, NULL, why);
}
