/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Mappings: which client host has which export on which /dev/nbdN. A mapping begins as a
 * lease (PREMAP), becomes lasting (POSTMAP), is live while an NBD connection carries its
 * cookie and dead while none does. Loop thread only.
 */
#ifndef NR_MAPPING_H
#define NR_MAPPING_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "export.h"

#define MAPPING_LEASE_S 60
#define MAPPING_IO_PREFIX "@map/" /* export name on the NBD port: this and the cookie */

enum mapping_phase { MAPPING_LEASED, MAPPING_LASTING, MAPPING_UNMAPPING };

struct mapping {
    char cookie[37];
    struct export *export;     /* not owned; outlives the mapping */
    enum mapping_phase phase;
    bool resuming;             /* LASTING, and a lease for new connections runs */
    char *client, *client_boot, *device; /* owned; "" = unknown */
    int64_t since_us;
    unsigned timeout_s, dead_timeout_s, connections;
    bool readonly;
    unsigned connected;        /* NBD connections now; written by the data path through
                                  mapping_connected() and mapping_disconnected() */
    struct event *lease;
    struct json_object *unknown_json;
};

struct mapping_table;
struct server;

struct mapping_table *mapping_table_new(struct server *server);
void mapping_table_free(struct mapping_table *table);

struct mapping *mapping_find(struct mapping_table *table, const char *cookie);
unsigned mapping_count(const struct mapping_table *table);

/* Data path: the mapping behind an export name "@map/COOKIE" whose lease runs, else NULL. */
struct mapping *mapping_for_io_name(struct mapping_table *table, const char *name);
void mapping_connected(struct mapping *mapping);
void mapping_disconnected(struct mapping *mapping);

#endif
