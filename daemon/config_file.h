/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The section [generic] of the configuration file as a list of assignments. Any thread.
 */
#ifndef NR_CONFIG_FILE_H
#define NR_CONFIG_FILE_H

#include "ini.h"
#include "setting.h"

#define GENERIC "generic"

/* Appends to `layer`, whose assignments use the ini, and what is wrong to `problems`. */
void config_file_take(const struct ini *ini, GPtrArray *layer, GPtrArray *problems);

/* Is the file written for nbd-server, and expects its port? It has keys that only nbd-server
 * knows, or names a file by `exportname`. */
bool config_file_is_stock(const struct ini *ini);

#endif
