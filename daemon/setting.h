/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The table of settings: how each is spelt on the command line and in the file, what it takes,
 * where in struct config it goes, and whether a reload may change it. For config*.c and
 * reload*.c. Any thread.
 */
#ifndef NR_SETTING_H
#define NR_SETTING_H

#include <glib.h>

#include "config.h"

/* One value for one setting, and where it was written. */
struct assignment {
    const struct setting *setting;
    char *where; /* "--threads", or "/etc/x.conf line 3: threads" */
    char *text;
    const char *key;  /* in a file: as it is spelt there, and where */
    unsigned line;
    const char *base; /* directory that relative paths start from; NULL: the current one */
};

/* Checks and stores. -EINVAL with a sentence that begins with a->where. */
typedef int set_value(struct config *config, const struct assignment *a,
                      struct nbd_failure *why);

struct setting {
    const char *words;    /* bare words of the command line, or NULL */
    const char *options;  /* "-t --threads", or NULL */
    const char *keys;     /* in [generic], or NULL */
    const char *argument; /* NULL: takes none */
    const char *help;
    set_value *set;
    size_t offset;        /* in struct config */
    int64_t min, max;
    const char *list;     /* may be given many times; in the file separated by these */
    bool live;            /* a reload changes it: server_apply_config() tells who uses it */
    bool stock;           /* a key that only nbd-server has: its configuration is in use */
};

#define SETTING_NOWHERE SIZE_MAX /* offset of what is checked and not stored */

extern const struct setting settings[];
extern const size_t n_settings;

/* Which of the three lists of spellings. */
enum spelling { SPELT_WORD, SPELT_OPTION, SPELT_KEY };

const struct setting *setting_find(enum spelling kind, const char *text);
/* The existing spelling that is most like this one. */
void setting_nearest(enum spelling kind, const char *text, char ret_nearest[static 64]);
void *setting_field(struct config *config, const struct setting *setting);

/* Have both the same value? */
bool setting_is_equal(const struct setting *setting, struct config *a, struct config *b);
/* Exchange the values. */
void setting_swap(const struct setting *setting, struct config *a, struct config *b);

/* How many edits make one word of the other; for "did you mean". At most 63 bytes of each. */
size_t setting_distance(const char *a, const char *b);

/* "512", "64K", "1GiB" in bytes, saturated at 2^63 - 1; false: no size. */
bool setting_parse_size(const char *text, uint64_t *ret_bytes);

/* Does it fit into a socket address? `where` begins the sentence. */
int setting_check_socket(const char *where, const char *path, struct nbd_failure *why);

/* "HOST:PORT", "[V6]:PORT", ":PORT" (every address: host ""). False: it is none of these. */
bool setting_parse_endpoint(const char *text, char **ret_host, int *ret_port);

/* Appends to the layer, an array of assignments. Takes over `where` and `text`. */
struct assignment *assignment_add(GPtrArray *layer, const struct setting *setting, char *where,
                                  char *text, const char *base);
void assignment_free(void *assignment);

#endif
