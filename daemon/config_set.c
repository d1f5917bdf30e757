/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Reads the configuration file and the directory of export definitions. Any thread; blocks.
 */
#include "config_set.h"

#include <errno.h>
#include <string.h>

#include "config_file.h"

/* ---- Units ---- */

static void unit_free(void *data)
{
    struct config_unit *unit = data;

    g_free(unit->file);
    g_ptr_array_unref(unit->defs);
    g_ptr_array_unref(unit->problems);
    g_free(unit);
}

static struct config_unit *add_unit(struct config_set *set, const char *file, bool main)
{
    struct config_unit *unit = g_new0(struct config_unit, 1);

    unit->file = g_strdup(file);
    unit->main = main;
    unit->defs = g_ptr_array_new_with_free_func(export_def_unref);
    unit->problems = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(set->units, unit);
    return unit;
}

void config_unit_reject(struct config_unit *unit, char *problem)
{
    unit->rejected = true;
    g_ptr_array_add(unit->problems, problem);
}

/* One line a file, however many keys. */
static void notice_ignored(struct config_set *set, const char *file, GPtrArray *ignored)
{
    g_autofree char *list = NULL;

    if (ignored->len == 0)
        return;
    g_ptr_array_add(ignored, NULL);
    list = g_strjoinv(", ", (char **)ignored->pdata);
    g_ptr_array_add(set->notices, g_strdup_printf(
        "%s: of nbd-server, without meaning here, and ignored: %s", file, list));
}

static void take_section(struct config_unit *unit, const struct ini *ini,
                         const struct ini_section *section, GPtrArray *ignored)
{
    struct export_def *def = export_def_new(ini, section, unit->problems, ignored);

    if (def != NULL)
        g_ptr_array_add(unit->defs, def);
}

/* `ignored`: those of the file that are known already. */
static void take_sections(struct config_set *set, struct config_unit *unit,
                          const struct ini *ini, GPtrArray *ignored)
{
    for (guint i = 0; i < ini->sections->len; i++) {
        const struct ini_section *section = ini->sections->pdata[i];

        if (strcmp(section->name, GENERIC) != 0)
            take_section(unit, ini, section, ignored);
        else if (!unit->main)
            ini_problem(unit->problems, unit->file, section->line, "section [" GENERIC "] "
                        "belongs into %s; this file may only define exports",
                        set->config->config_file);
    }
    if (!unit->main && ini->sections->len == 0)
        g_ptr_array_add(unit->problems, g_strdup_printf("%s: the file is empty; remove it to "
                                                        "remove its exports", unit->file));
    notice_ignored(set, unit->file, ignored);
    unit->rejected = unit->problems->len > 0;
}

/* ---- The configuration file ---- */

static void copy_texts(const GPtrArray *from, GPtrArray *to)
{
    for (guint i = 0; i < from->len; i++)
        g_ptr_array_add(to, g_strdup(from->pdata[i]));
}

static void read_main(struct config_set *set, const struct config *config)
{
    struct nbd_failure why = { 0 };
    g_autoptr(GPtrArray) ignored = g_ptr_array_new_with_free_func(g_free);
    struct config_unit *unit;
    int r = config_load_again(config, &set->config, &why);

    copy_texts(set->config->ignored, ignored);
    if (r < 0 && set->config->problems->len == 0) {
        g_ptr_array_add(set->problems, g_strdup(why.message));
    } else if (r < 0 || set->config->ini != NULL) {
        unit = add_unit(set, set->config->config_file, true);
        copy_texts(set->config->problems, unit->problems);
        if (set->config->ini != NULL)
            take_sections(set, unit, set->config->ini, ignored);
        unit->rejected = r < 0 || unit->problems->len > 0;
        set->main_failed = unit->rejected;
    }
    set->main_failed |= r < 0;
}

/* ---- The directory ---- */

static bool is_wanted(const char *name)
{
    return name[0] != '.' && strlen(name) > strlen(".conf") && g_str_has_suffix(name, ".conf");
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void read_file(struct config_set *set, const char *name)
{
    g_autofree char *path = g_build_filename(set->directory, name, NULL);
    g_autoptr(GPtrArray) ignored = g_ptr_array_new_with_free_func(g_free);
    struct config_unit *unit = add_unit(set, path, false);
    struct ini *ini;

    if (ini_read(path, &ini, unit->problems) < 0) {
        unit->rejected = true;
        return;
    }
    take_sections(set, unit, ini, ignored);
    ini_free(ini);
}

static void note_missing(struct config_set *set, GError *error, bool is_reload)
{
    char *text = g_strdup_printf("cannot read the directory %s: %s", set->directory,
                                 error->message);

    if (!g_error_matches(error, G_FILE_ERROR, G_FILE_ERROR_NOENT)) {
        set->directory_failed = true;
        g_ptr_array_add(set->problems, text);
    } else if (is_reload) {
        set->directory_failed = true;
        g_free(text); /* reload_plan.c knows whether this matters */
    } else if (set->config->conf_dir_named) {
        g_ptr_array_add(set->notices, text);
    } else {
        g_free(text);
    }
}

static void read_directory(struct config_set *set, bool is_reload)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    GDir *directory = g_dir_open(set->directory, 0, &error);
    const char *name;

    if (directory == NULL) {
        note_missing(set, error, is_reload);
        return;
    }
    while ((name = g_dir_read_name(directory)) != NULL)
        if (is_wanted(name))
            g_ptr_array_add(names, g_strdup(name));
    g_dir_close(directory);
    g_ptr_array_sort(names, by_bytes);
    for (guint i = 0; i < names->len; i++)
        read_file(set, names->pdata[i]);
}

/* ---- Public ---- */

struct config_set *config_set_read(const struct config *config, bool is_reload)
{
    struct config_set *set = g_new0(struct config_set, 1);

    set->units = g_ptr_array_new_with_free_func(unit_free);
    set->problems = g_ptr_array_new_with_free_func(g_free);
    set->notices = g_ptr_array_new_with_free_func(g_free);
    read_main(set, config);
    set->directory = g_strdup(set->config->conf_dir);
    if (!set->main_failed || !is_reload)
        read_directory(set, is_reload);
    return set;
}

void config_set_free(struct config_set *set)
{
    if (set == NULL)
        return;
    config_free(set->config);
    g_free(set->directory);
    g_ptr_array_unref(set->units);
    g_ptr_array_unref(set->problems);
    g_ptr_array_unref(set->notices);
    g_free(set);
}
