/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * A file that is replaced whole, with its predecessor kept. Knows nothing of what is in it.
 * Any thread; blocks.
 */
#ifndef NR_STORE_FILE_H
#define NR_STORE_FILE_H

#include <glib.h>
#include <stdbool.h>

#include "nbd-runner/handler.h"

#define STORE_FILE_MAX (256u << 20)

/* What becomes of the file that is there. */
enum predecessor {
    PREDECESSOR_BACKUP,    /* it becomes PATH.bak */
    PREDECESSOR_SET_ASIDE, /* it is damaged: PATH.corrupt-TIME; PATH.bak stays as it is */
    PREDECESSOR_KEEP_V1,   /* it is of the old format: PATH.v1 */
    PREDECESSOR_DROP,      /* it is gone */
};

/* On success the text is on stable storage. On failure the former file is in its place, and
 * *why names the path and the cause. */
int store_file_replace(const char *path, const char *text, size_t length,
                       enum predecessor predecessor, struct nbd_failure *why);

/* The content, with a NUL behind it. -ENOENT, or another negative errno with *why. */
int store_file_read(const char *path, GString **ret_text, struct nbd_failure *why);

/* Renames PATH to PATH.corrupt-TIME. Success when there is no such file. */
int store_file_set_aside(const char *path, struct nbd_failure *why);

#endif
