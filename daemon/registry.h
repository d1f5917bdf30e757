/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The registry: which exports there are, by name and by backstore, and those that have been
 * removed but still have users. Owns the exports. Loop thread only.
 */
#ifndef NR_REGISTRY_H
#define NR_REGISTRY_H

#include "export.h"

struct registry;

struct registry *registry_new(struct server *server);
void registry_free(struct registry *registry);

/* Add an export. Checks names and handler, calls no handler function. -EEXIST names who has
 * the name, or the same backstore, already. With `creating` its state is CREATING until
 * export_create() has ended. A missing handler makes a FAULTED export when origin is not RPC or an id
 * is given (loaded from the state file), else -ENOENT. */
int registry_add(struct registry *registry, const struct export_spec *spec, bool creating,
                 struct export **ret_export, struct nbd_failure *why);

/* Have on_changed(arg, export) called on the loop whenever an access list has changed. */
void registry_watch_access(struct registry *registry,
                           void (*on_changed)(void *arg, struct export *export), void *arg);

/* Open every export once, in the background, to know which of them are faulted. */
void registry_check_all(struct registry *registry);

/* Hide the name now. The export is DRAINING: its users go on. It is closed and freed when the
 * last one has left; then on_gone(arg), which may be NULL. While it has users and another
 * backstore than an export that has its name since, that one refuses to be opened: nobody may
 * find the old bytes and somebody else the new ones under one name. */
void registry_remove(struct export *export, void (*on_gone)(void *arg), void *arg);

/* One that is DRAINING comes back as it was. Nobody may have its name. */
void registry_revive(struct export *export);

/* The next export that is DRAINING, in order of names and ids; NULL, NULL: the first. */
struct export *registry_next_leaving(const struct registry *registry, const char *name,
                                     const char *id);

struct export *registry_find(const struct registry *registry, const char *name);
/* If several exports have it (only configuration can do that): one of them. */
struct export *registry_find_backstore(const struct registry *registry, const char *handler,
                                       const char *target);
/* The first export in byte order of names that comes after `name` (NULL: the first). */
struct export *registry_next(const struct registry *registry, const char *name);
unsigned registry_size(const struct registry *registry);

#endif
