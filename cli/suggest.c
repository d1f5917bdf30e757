/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * After the daemon has said that there is no such export or target: the one that was probably
 * meant.
 */
#include "command.h"
#include "listing.h"

#include <glib.h>
#include <string.h>

#define SUGGEST_TIMEOUT_S 2

static char *find_nearest(const struct listing *listing, const char *text, bool is_target,
                          const char *handler)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();

    for (guint i = 0; i < listing->exports->len; i++) {
        const nr_export *x = g_ptr_array_index(listing->exports, i);

        if (!is_target || g_strcmp0(x->store.handler, handler) == 0)
            g_ptr_array_add(names, is_target ? x->store.target : x->name);
    }
    return g_strdup(nearest_word(text, (const char *const *)names->pdata, names->len));
}

void suggest(struct cli *cli, struct failure *why)
{
    const char *text = words_given(&cli->words, "EXPORT");
    bool is_target = text == NULL;
    struct listing listing = {0};
    struct failure ignored;
    g_autofree char *near = NULL;
    size_t length = strlen(why->message);

    if (is_target)
        text = words_given(&cli->words, "TARGET");
    if (text == NULL || cli->client == NULL || (is_target && cli->backstore == NULL))
        return;
    cli->timeout_s = SUGGEST_TIMEOUT_S;
    if (listing_fetch(cli, "", NR_L_ALL, &listing, &ignored) != 0)
        return;
    near = find_nearest(&listing, text, is_target, cli->backstore);
    if (near != NULL && strcmp(near, text) != 0)
        g_snprintf(why->message + length, sizeof(why->message) - length,
                   "; did you mean '%s'?", near);
    clean_text(why->message);
    listing_clear(&listing);
}
