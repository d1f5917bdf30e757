/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The configuration file as a list of assignments. Before the loop runs.
 */
#ifndef NR_CONFIG_FILE_H
#define NR_CONFIG_FILE_H

#include "setting.h"

/* Appends to `layer`, whose assignments use *ret_directory; it is set, and to be freed after
 * them, in any case. -EBADMSG for what is in the file, naming line and key; another negative
 * errno when it cannot be read. */
int config_file_parse(const char *file, GPtrArray *layer, char **ret_directory,
                      struct nbd_failure *why);

#endif
