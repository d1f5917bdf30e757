/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * nbd-cli: everything is in command.c, where tests reach it.
 */
#include "command.h"

int main(int argc, char **argv)
{
    return command_main(argc, argv, stdout);
}
