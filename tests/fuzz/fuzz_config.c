/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Fuzz target: configuration files. What stands before the first NUL is the configuration
 * file, what stands behind it a file of conf.d; the difference to an empty one is made.
 */
#include <glib/gstdio.h>
#include <string.h>

#include "fuzz.h"
#include "reload_plan.h"

static void write_file(const char *name, const uint8_t *data, size_t size)
{
    g_autofree char *path = g_build_filename(fuzz_directory(), name, NULL);

    g_file_set_contents(path, (const char *)data, (gssize)size, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *nul = size > 0 ? memchr(data, 0, size) : NULL;
    size_t main_size = nul != NULL ? (size_t)(nul - data) : size;
    char *arguments[] = { (char *)"nbd-runner", (char *)"--dir", (char *)fuzz_directory(),
                          (char *)"--conf-dir", (char *)fuzz_directory(), (char *)"-C", NULL,
                          NULL };
    g_autofree char *file = g_build_filename(fuzz_directory(), "main", NULL);
    g_autoptr(GHashTable) none = g_hash_table_new(g_str_hash, g_str_equal);
    g_autoptr(GPtrArray) warnings = g_ptr_array_new_with_free_func(g_free);
    struct config *config = config_new();
    struct config_set *set;
    GArray *steps;

    arguments[6] = file;
    config->arguments = g_strdupv(arguments);
    write_file("main", data, main_size);
    if (nul != NULL)
        write_file("a.conf", nul + 1, size - main_size - 1);
    set = config_set_read(config, false);
    plan_resolve(set, none, NULL, NULL);
    steps = plan_make(set, none);
    plan_warn_shared(steps, warnings);
    g_array_unref(steps);
    config_set_free(set);
    config_free(config);
    fuzz_empty_directory();
    return 0;
}
