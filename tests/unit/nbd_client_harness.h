/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * A daemon without ports, in the test's own process and thread, and NBD clients on socket
 * pairs. Whatever a client waits for turns the daemon's loop; what does not come in time
 * fails the test.
 */
#ifndef NBD_CLIENT_HARNESS_H
#define NBD_CLIENT_HARNESS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "nbd_protocol.h"
#include "server.h"

/* What differs from the defaults of config_new(); 0 or NULL: the default. */
struct harness_settings {
    const char *handler_dir; /* NULL: file, null, mem, fault and plain */
    uint64_t max_inflight_bytes;
    unsigned max_connections; /* also of one export */
    unsigned negotiation_timeout_s, request_timeout_s, threads;
};

struct harness {
    struct server *server;
    char *directory; /* temporary, for whatever the test needs */
    char *log_file;
    GPtrArray *clients;
    struct event *guard; /* ends a turn of the loop in which nothing happens */
};

struct harness *harness_new(const struct harness_settings *settings); /* NULL: defaults */
/* The clients go, requests in flight end, then the server. */
void harness_free(struct harness *harness);
/* The same without waiting for anything. */
void harness_free_now(struct harness *harness);

/* opts: "size=1M thread=true"; NULL: none. An empty name: the registry's default. */
struct export *harness_add_export(struct harness *harness, const char *name,
                                  const char *handler, const char *target, const char *opts,
                                  bool readonly);
/* A path in the temporary directory. */
char *harness_path(const struct harness *harness, const char *name);
/* A file there with `size` bytes of pattern_byte(). The export "file" on it. */
struct export *harness_add_file(struct harness *harness, const char *name, size_t size);
/* All that was logged so far. */
char *harness_log(const struct harness *harness);
unsigned harness_count_in_log(const struct harness *harness, const char *text);

/* One turn of the loop; at most about a millisecond when there is nothing to do. */
void harness_turn(struct harness *harness);
/* As long as something happens. */
void harness_settle(struct harness *harness);
typedef bool harness_condition(void *arg);
/* Fails the test when it does not come true. */
void harness_wait(struct harness *harness, harness_condition *condition, void *arg);
bool harness_has_no_connection(void *harness); /* a condition */

/* ---- Clients ---- */

struct client {
    struct harness *harness;
    int fd;
    bool structured, extended; /* set by the test after it has negotiated them */
    uint64_t last_cookie;
    GHashTable *reads;         /* cookie -> what a READ that waits for its reply wants */
};

/* A whole reply, all of its chunks. */
struct reply {
    uint64_t cookie;
    uint32_t error;
    unsigned chunks;
    uint8_t *data; /* of a READ; g_free() */
    uint64_t length;
    char text[256]; /* of an error chunk */
};

struct client *client_connect(struct harness *harness);
/* The same, from what is taken for a TCP peer with this IPv4 address. */
struct client *client_connect_from(struct harness *harness, const char *address);
void client_leave(struct client *client); /* closes its socket and frees it */

void client_sends(struct client *client, const void *data, size_t length);
void client_sends_bytewise(struct client *client, const void *data, size_t length);
void client_receives(struct client *client, void *to, size_t length);
/* What has come within some turns of the loop. */
size_t client_has_received(struct client *client, void *to, size_t size);
/* The daemon has closed it, without a further byte. */
void client_is_closed(struct client *client);
/* The same, whatever comes before. */
void client_is_closed_at_last(struct client *client);
void client_has_nothing(struct client *client);

/* ---- Handshake ---- */

/* Greeting and client flags. */
void client_greets(struct client *client, uint32_t flags);
void client_sends_option(struct client *client, uint32_t option, const void *data,
                         size_t length);
/* Takes one option reply; its data (with a zero byte behind it) is the caller's. */
struct option_reply {
    uint32_t option, type, length;
    char *data;
};
void client_takes_option_reply(struct client *client, struct option_reply *ret_reply);
/* One option reply of this type, its data dropped; `text`, if any, is part of it. */
void client_is_told(struct client *client, uint32_t option, uint32_t type, const char *text);
/* The data of GO and INFO: name, and the n information types behind it. */
GByteArray *name_with_infos(const void *name, size_t length, unsigned n,
                            const uint16_t *infos);
void client_asks(struct client *client, uint32_t option, const char *name);
/* GO, and what comes of it up to the ACK. */
struct negotiated {
    uint64_t size;
    uint16_t flags;
    uint32_t minimum, preferred, maximum;
    char name[256], description[4097];
};
void client_takes_infos(struct client *client, uint32_t option, struct negotiated *ret);
void client_goes(struct client *client, const char *name);
/* Connect, greet, go. */
struct client *client_on(struct harness *harness, const char *name);

/* ---- Transmission ---- */

/* The cookie. No payload. */
uint64_t client_requests(struct client *client, uint16_t type, uint16_t flags, uint64_t offset,
                         uint64_t length);
uint64_t client_writes(struct client *client, uint16_t flags, uint64_t offset,
                       const void *data, size_t length);
/* Puts the header where the test will; returns its length. */
size_t client_puts_header(struct client *client, uint8_t *to, uint16_t type, uint16_t flags,
                          uint64_t offset, uint64_t length);
/* The next reply, whichever request it is for. */
void client_takes_reply(struct client *client, struct reply *ret_reply);
/* The next reply must be for this cookie; its error. */
uint32_t client_awaits(struct client *client, uint64_t cookie);
/* READ and compare with what `expected` says. */
void client_reads_back(struct client *client, uint64_t offset, const void *expected,
                       size_t length);
/* The daemon still serves it. */
void client_is_served(struct client *client);

/* ---- Patterns ---- */

uint8_t pattern_byte(uint64_t offset);
void fill_pattern(void *to, uint64_t offset, size_t length);
void is_pattern(const void *data, uint64_t offset, size_t length);

#endif
