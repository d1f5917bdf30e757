/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * A library without the entry point.
 */
#include "nbd-runner/handler.h"

extern const int not_a_handler;
const int not_a_handler = 1;
