/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What map and unmap need of the commands about nbdtab(5).
 */
#ifndef CLI_CMD_NBDTAB_H
#define CLI_CMD_NBDTAB_H

#include "command.h"

/* The word "tab", else the system's file. */
const char *nbdtab_path(const struct cli *cli);

/* Keep what was just mapped, with its words. */
int nbdtab_persist(struct cli *cli, struct failure *why);

#endif
