/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The section [generic] of the configuration file: its keys are looked up, and become
 * assignments, which config.c applies. Any thread.
 */
#include "config_file.h"

#include <string.h>

static const struct setting *take_key(const struct ini *ini, const struct ini_entry *entry,
                                      GHashTable *seen, GPtrArray *problems)
{
    const struct setting *setting = setting_find(SPELT_KEY, entry->key);
    const struct ini_entry *before;
    char nearest[64];

    if (setting == NULL) {
        setting_nearest(SPELT_KEY, entry->key, nearest);
        ini_problem(problems, ini->file, entry->line,
                    "unknown key '%.64s': did you mean '%s'?", entry->key, nearest);
        return NULL;
    }
    if (setting->offset == SETTING_NOWHERE)
        return setting;
    /* Two spellings of one setting. */
    before = g_hash_table_lookup(seen, GSIZE_TO_POINTER(setting->offset));
    if (before != NULL) {
        ini_problem(problems, ini->file, entry->line,
                    "'%.64s' sets again what '%.64s' in line %u has set", entry->key,
                    before->key, before->line);
        return NULL;
    }
    g_hash_table_insert(seen, GSIZE_TO_POINTER(setting->offset), (void *)entry);
    return setting;
}

void config_file_take(const struct ini *ini, GPtrArray *layer, GPtrArray *problems)
{
    const struct ini_section *generic = ini_find(ini, GENERIC);
    GHashTable *seen = g_hash_table_new(NULL, NULL);

    for (guint i = 0; generic != NULL && i < generic->entries->len; i++) {
        const struct ini_entry *entry = generic->entries->pdata[i];
        const struct setting *setting = take_key(ini, entry, seen, problems);
        struct assignment *a;
        char *where;

        if (setting == NULL)
            continue;
        where = g_strdup_printf("%s line %u: %s", ini->file, entry->line, entry->key);
        a = assignment_add(layer, setting, where, g_strdup(entry->value), ini->directory);
        a->key = entry->key;
        a->line = entry->line;
    }
    g_hash_table_unref(seen);
}

bool config_file_is_stock(const struct ini *ini)
{
    for (guint i = 0; i < ini->sections->len; i++) {
        const struct ini_section *section = ini->sections->pdata[i];
        bool generic = strcmp(section->name, GENERIC) == 0;

        for (guint j = 0; j < section->entries->len; j++) {
            const struct ini_entry *entry = section->entries->pdata[j];
            const struct setting *setting =
                generic ? setting_find(SPELT_KEY, entry->key) : NULL;

            if (generic ? setting != NULL && setting->stock
                        : strcmp(entry->key, "exportname") == 0)
                return true;
        }
    }
    return false;
}
