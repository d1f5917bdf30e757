/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What the fuzz targets share: a daemon without ports in this process, with the handlers null
 * and mem only, and peers on socket pairs. One thread turns its loop.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The directory for all files of this process. */
const char *fuzz_directory(void);
void fuzz_empty_directory(void);

struct server *fuzz_server_new(void);
struct export *fuzz_add_export(struct server *server, const char *name, const char *handler,
                               bool readonly);
/* Waits for what is in flight. */
void fuzz_server_free(struct server *server);

/* A non-blocking socket pair: ours, and the daemon's. */
void fuzz_pair(int fds[2]);

/* Turns the loop and throws away what the peer gets, until nothing more happens. */
void fuzz_settle(struct server *server, int fd);

/* Sends it in pieces (0: in one), as far as the daemon takes it. */
void fuzz_send(struct server *server, int fd, const uint8_t *data, size_t size, size_t piece);

#endif
