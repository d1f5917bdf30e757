/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * NR_LIST, page by page.
 */
#include "listing.h"

#include <string.h>

static void free_page(gpointer page)
{
    client_free(NR_LIST, page);
    g_free(page);
}

void listing_clear(struct listing *listing)
{
    if (listing->exports != NULL)
        g_ptr_array_free(listing->exports, TRUE);
    if (listing->pages != NULL)
        g_ptr_array_free(listing->pages, TRUE);
    *listing = (struct listing){0};
}

/* One page behind `after`; *ret_after is the name to go on from, NULL after the last. */
static int fetch_page(struct cli *cli, nr_list_args *args, struct listing *listing,
                      const char **ret_after, struct failure *why)
{
    nr_list_res *page = g_new0(nr_list_res, 1);
    nr_list_ok *list = &page->nr_list_res_u.list;
    int r = client_call(cli->client, NR_LIST, args, page, why);

    if (r != 0) {
        g_free(page);
        return r;
    }
    g_ptr_array_add(listing->pages, page);
    for (u_int i = 0; i < list->rows.rows_len; i++)
        g_ptr_array_add(listing->exports, &list->rows.rows_val[i]);
    *ret_after = NULL;
    if (!list->more)
        return 0;
    if (list->rows.rows_len > 0)
        *ret_after = list->rows.rows_val[list->rows.rows_len - 1].name;
    if (*ret_after == NULL || strcmp(*ret_after, args->after) == 0)
        return fail_with(why, STATUS_FAILED, "the daemon's list of exports does not end");
    return 0;
}

int listing_fetch(struct cli *cli, const char *handler, nr_list_what what,
                  struct listing *ret_listing, struct failure *why)
{
    nr_list_args args = {.handler = (char *)handler, .what = what};
    struct listing listing = {
        .exports = g_ptr_array_new(),
        .pages = g_ptr_array_new_with_free_func(free_page),
    };
    const char *after = "";
    int r = cli_client(cli, why);

    while (r == 0 && after != NULL) {
        args.after = (char *)after;
        r = fetch_page(cli, &args, &listing, &after, why);
    }
    if (r == 0)
        *ret_listing = listing;
    else
        listing_clear(&listing);
    return r;
}

const nr_mapping *listing_find(const struct listing *listing, const char *cookie,
                               const nr_export **ret_export)
{
    for (guint i = 0; listing->exports != NULL && i < listing->exports->len; i++) {
        const nr_export *x = g_ptr_array_index(listing->exports, i);

        for (u_int j = 0; j < x->mappings.mappings_len; j++)
            if (strcmp(x->mappings.mappings_val[j].cookie, cookie) == 0) {
                *ret_export = x;
                return &x->mappings.mappings_val[j];
            }
    }
    return NULL;
}
