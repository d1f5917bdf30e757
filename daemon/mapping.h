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

/* Those that are LEASED are never saved: a restart of the daemon undoes them. UNMAPPING ones
 * are saved as LASTING ones are. */
enum mapping_phase { MAPPING_LEASED, MAPPING_LASTING, MAPPING_UNMAPPING };

enum mapping_state { /* as nr_map_state */
    MAPPING_STATE_NONE, MAPPING_STATE_MAPPING, MAPPING_STATE_LIVE, MAPPING_STATE_DEAD,
    MAPPING_STATE_UNMAPPING
};

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
    struct json_object *unknown_json; /* owned: put when the mapping is freed */
    struct mapping_table *table; /* mapping.c's own; NULL: removed, freed when the last
                                    connection has gone */
};

/* What a mapping is to be. Strings are copied; NULL is "". */
struct mapping_spec {
    const char *cookie; /* NULL: a new one */
    const char *client, *client_boot, *device;
    int64_t since_us;   /* 0: now */
    unsigned timeout_s, dead_timeout_s, connections;
    bool readonly;
};

struct mapping_table;
struct server;

struct mapping_table *mapping_table_new(struct server *server);
void mapping_table_free(struct mapping_table *table);

/* Instead of MAPPING_LEASE_S; for leases that begin from now on. */
void mapping_table_set_lease_ms(struct mapping_table *table, unsigned lease_ms);

struct mapping *mapping_find(struct mapping_table *table, const char *cookie);
unsigned mapping_count(const struct mapping_table *table);
enum mapping_state mapping_state(const struct mapping *mapping);
const char *mapping_state_name(enum mapping_state state);

/* The one mapping of this device on this client (NULL or "": any client). NULL when there is
 * none; *ret_count tells how many there are. */
struct mapping *mapping_find_device(struct mapping_table *table, const char *device,
                                    const char *client, unsigned *ret_count);

/* A new mapping, LEASED; its lease runs. Also in export->mappings. */
struct mapping *mapping_new(struct mapping_table *table, struct export *export,
                            const struct mapping_spec *spec);

/* One from the state file: LASTING, nobody connected, hence dead. spec->cookie may be NULL
 * (an old file has none). NULL and *why when the cookie is no UUID or is used already. */
struct mapping *mapping_restore(struct mapping_table *table, struct export *export,
                                const struct mapping_spec *spec, struct nbd_failure *why);

/* The lease begins again: of a LEASED mapping, or of a LASTING one whose client is to connect
 * anew (it is `resuming` then). */
void mapping_lease(struct mapping *mapping);

/* LASTING from now on, with this device. The lease ends. */
void mapping_commit(struct mapping *mapping, const char *device);

/* Takes mapping_commit() of a new mapping back: LEASED, with a new lease. */
void mapping_uncommit(struct mapping *mapping);

/* The client is about to disconnect: UNMAPPING, LASTING again when the lease ends first. */
void mapping_begin_unmap(struct mapping *mapping);

/* Ends the lease of a resuming or an UNMAPPING mapping: LASTING. */
void mapping_fall_back(struct mapping *mapping);

/* Forgets it: mapping_find() and the export know it no more. */
void mapping_remove(struct mapping *mapping);

/* Data path: the mapping behind an export name "@map/COOKIE" whose lease runs, else NULL. */
struct mapping *mapping_for_io_name(struct mapping_table *table, const char *name);
void mapping_connected(struct mapping *mapping);
void mapping_disconnected(struct mapping *mapping);

#endif
