/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * An export, and the life of its backstore: created, opened when the first user comes, closed
 * some time after the last one left, deleted. registry.h has all of them. Loop thread
 * only. Handlers' blocking calls run on workers, one at a time per export.
 */
#ifndef NR_EXPORT_H
#define NR_EXPORT_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "nbd-runner/handler.h"
#include "buffer.h"
#include "counters.h"
#include "handler.h"

#define EXPORT_NAME_MAX 255      /* bytes */
#define EXPORT_TARGET_MAX 4096
#define EXPORT_MAX_BLOCK (64u << 20) /* largest payload of a request, as advertised */

enum export_state {
    EXPORT_CREATING, /* its backing store is being made; not to be connected to */
    EXPORT_READY,
    EXPORT_DRAINING, /* hidden; freed when the last user has left */
    EXPORT_FAULTED,  /* could not be opened, or its handler is missing; see fault. Tried
                        again now and then, and when somebody wants it */
};

enum export_origin { EXPORT_BY_RPC, EXPORT_BY_CONFIG, EXPORT_BY_COMMAND_LINE };

/* What a new export is to be. Strings are copied. */
struct export_spec {
    const char *id;          /* UUID text; NULL: a new one */
    const char *name;        /* NULL or "": HANDLER/TARGET without leading slashes */
    const char *description; /* NULL: none */
    const char *handler;
    const char *target;
    GHashTable *opts;        /* char * -> char *; NULL: none. Copied. "detect-zeroes" (on or
                                off) is the daemon's own, the others are the handler's */
    enum export_origin origin;
    const char *origin_file;
    uint64_t size;           /* 0: what the backing store has */
    uint64_t serve_bytes;    /* only so many, from the start; 0: all of the backing store */
    bool prealloc, readonly;
    bool sync;               /* each change is durable when it is answered */
    uint16_t flags_off, flags_on; /* NBD transmission flags, whatever the handler can do */
    int64_t created_us;      /* 0: now */

    /* What may change later, by export_apply(); description as well. */
    const char *const *acl;  /* who may connect: addresses and networks (acl.h), NULL-
                                terminated; NULL or empty: everybody, unless default_deny */
    bool default_deny;
    bool hidden;             /* not shown to clients that list; served to who names it */
    unsigned max_connections;   /* 0: the daemon's max_export_connections */
    unsigned request_timeout_s; /* 0: the daemon's request_timeout */
    unsigned drain_timeout_s;   /* after a removal by a reload; 0: clients leave when they like */
};

struct server;

struct export {
    /* Written by export*.c and registry.c only. */
    struct server *server;             /* not owned */
    char id[37];
    char *name, *description, *handler_name, *target, *origin_file;
    const struct nbd_handler *handler; /* NULL: not loaded, state is FAULTED */
    const struct nbd_handler *io;      /* where requests go: the handler; see away.h */
    struct away *away;                 /* away.c's own; NULL: it is not */
    GHashTable *opts;                  /* char * -> char *, sorted when shown */
    enum export_origin origin;
    enum export_state state;
    struct nbd_failure fault;
    uint64_t size;                     /* bytes; of the backing store once it was open */
    uint64_t serve_bytes;              /* as in the spec */
    uint16_t flags_off, flags_on;
    bool prealloc, readonly, sync;
    struct acl *acl;                   /* who may connect; never NULL */
    bool hidden;                       /* from clients that list */
    unsigned max_connections, request_timeout_s; /* 0: the daemon's */
    unsigned drain_timeout_s;          /* 0: none */
    bool detect_zeroes;                /* writes of zeroes become WRITE_ZEROES */
    int64_t created_us;                /* since 1970 */
    struct nbd_device dev;             /* what the handler sees */
    uint32_t min_block, pref_block;    /* 1 and 4096 until first opened */
    uint32_t logical_block;            /* for kernel clients; 512 until first opened */
    uint16_t flags;                    /* transmission flags; 0 until first opened */

    /* Written by the data path. */
    unsigned connections;              /* in transmission, or opening for it */
    struct export_tally tally;         /* what is counted about its requests */
    unsigned in_flight;                /* requests that are with the handler */
    unsigned blocking;                 /* requests on workers, for a handler that blocks */
    struct request *blocked, **blocked_tail; /* that wait for a worker */
    uint64_t changes;                  /* counts changes of the content, see extents.h */
    struct extent_cache *extents;      /* extents.c's own */
    struct expiry *expiry;             /* expiry.c's own; NULL: no request_timeout */
    unsigned submitted;                /* requests and scans that the handler has */
    uint64_t flushed_changes;          /* of `changes`: what the last flush covers */
    unsigned losses;                   /* times that changes were lost with the backstore */
    struct buffer_share buffers;       /* of its requests */
    unsigned orphans;                  /* requests that were answered, but not by the storage */
    uint64_t orphan_bytes;             /* of their buffers */

    /* Written by mapping.c: struct mapping *, owned there. */
    GPtrArray *mappings;

    /* Written by store.c: members of the state file that this version does not know. */
    struct json_object *unknown_json;

    /* Written by job.c: the running job about this export, or NULL; not owned. */
    struct job *job;

    struct export_private *private;    /* export_private.h */
};

/* ---- Definitions ---- */

/* Names, target and options make sense. 0 or -EINVAL. Any thread. */
int export_check_spec(const struct export_spec *spec, struct nbd_failure *why);

/* A text that is the same for all ways to write one backstore: "//" and "/./" in paths, and
 * file targets that start from `directory` (NULL: there are none). Links are not followed.
 * The caller frees it. Any thread. */
char *export_store_key(const char *handler, const char *target, const char *directory);

/* The definition as it is now; strings stay the export's. */
void export_get_spec(const struct export *export, struct export_spec *ret_spec);

/* Change what may change while it is in use: description, acl, default_deny, hidden and the
 * three limits; of the rest of the spec nothing is looked at. Clients that are not allowed any
 * more are disconnected. All or nothing; -EINVAL names the entry. The caller saves it. */
int export_apply(struct export *export, const struct export_spec *spec,
                 struct nbd_failure *why);

/* From the next open on. -EBUSY while it is in use or mapped: clients have been told what they
 * may do. The caller saves it. */
int export_set_readonly(struct export *export, bool readonly, struct nbd_failure *why);

/* The definition stands in another file now. */
void export_set_origin_file(struct export *export, const char *file);

/* Is this option the daemon's own, and not the handler's? Any thread. */
bool export_opt_is_ours(const char *key);

/* What max_connections comes to. */
unsigned export_connection_limit(const struct export *export);

const char *export_state_name(enum export_state state);

/* ---- Backstore ---- */

/* How an asynchronous call ended: 0 or a negative errno with *why (valid for the call). */
typedef void export_done(void *arg, int result, const struct nbd_failure *why);

/* Become a user: open the backstore unless it is open. done() may come at once, from inside.
 * On success each caller owes one export_close(); on failure none. When the caller has lost
 * interest it still gets done(). `timeout_ms` 0: no limit; a late open is then kept for the
 * next user. */
void export_open(struct export *export, unsigned timeout_ms, export_done *done, void *arg);

/* What handlers report (struct nbd_host). Loop thread. */
void export_lost(struct nbd_device *dev, const char *reason);
void export_fenced(struct nbd_device *dev, const char *reason);
void export_troubled(struct nbd_device *dev, const char *reason); /* NULL: over */

/* For request.h: the handler of an export that is away has nothing left. */
void export_is_idle(struct export *export);

/* The user is done. All its requests must have ended. */
void export_close(struct export *export);

/* Close the backstore as soon as there is no user, without waiting for the next one. */
void export_close_now(struct export *export, void (*on_closed)(void *arg), void *arg);

/* Make the backing store of an export in state CREATING; READY when done(arg, 0). After a
 * failure the caller removes the export. */
void export_create(struct export *export, export_done *done, void *arg);
void export_create_cancel(struct export *export);
void export_create_progress(struct export *export, uint64_t *ret_done, uint64_t *ret_total);

/* Change the size of the backing store; the caller is a user. A smaller one is refused (-EBUSY)
 * while a client is connected or the export is mapped. */
void export_resize(struct export *export, uint64_t size, export_done *done, void *arg);

/* See whether the size of the backing store was changed by others, if it is open and was not
 * looked at for some seconds. */
void export_look_at_size(const struct export *export);

/* Delete the backing store. The export has no user; it is closed first. Success when it was
 * gone already (result -ENOENT is turned into 0). The caller then removes the export. */
void export_delete(struct export *export, export_done *done, void *arg);

#endif
