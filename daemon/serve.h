/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * `nbd-runner serve`: one backstore, in the foreground, no state, no control port.
 */
#ifndef NR_SERVE_H
#define NR_SERVE_H

/* argv[0] is "serve". The exit code: 0, or 1 for any failure. */
int serve_main(int argc, char **argv);

#endif
