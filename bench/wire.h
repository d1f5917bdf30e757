/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The benchmark's NBD client: connecting and negotiating, with blocking calls. Requests are
 * load.c's and probe.c's.
 */
#ifndef BENCH_WIRE_H
#define BENCH_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_TIMEOUT_S 10 /* no answer for so long: the server is taken for dead */

struct negotiated {
    uint64_t size;
    uint16_t flags;
    bool status; /* structured replies and base:allocation were agreed on */
};

/* Print what is wrong, one sentence, and end. */
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A connection to "PORT" of 127.0.0.1 or to "unix:PATH"; -1 with errno. */
int wire_connect(const char *address);
bool wire_is_unix(const char *address);

/* The whole of it, or false with errno (0: the server closed the connection). */
bool wire_send(int fd, const void *data, size_t length);
bool wire_receive(int fd, void *data, size_t length);

/* Fixed newstyle, up to the answer to NBD_OPT_GO. */
bool wire_negotiate(int fd, const char *export, bool want_status, struct negotiated *ret);

/* Both, or the end of the process. */
int wire_open(const char *address, const char *export, bool want_status,
              struct negotiated *ret);

/* One READ of `length` bytes at 0. */
bool wire_read_once(int fd, void *data, uint32_t length);
void wire_disconnect(int fd);

#endif
