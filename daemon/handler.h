/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Finds, checks and loads handlers: the only dlopen(). The ABI itself is in
 * include/nbd-runner/handler.h.
 */
#ifndef NR_HANDLER_LOADER_H
#define NR_HANDLER_LOADER_H

#include <glib.h>

#include "nbd-runner/handler.h"
#include "loop.h"
#include "worker.h"

struct handler_set;

/* Load every libXXX_handler.so of the directory, in byte order of the names; with `only` the
 * one whose XXX that is (libraries of clusters take tens of milliseconds each). A library that
 * is not right is logged and skipped. `config` gives threads, gluster_host, file_roots; its
 * strings must outlive the set. */
struct handler_set *handler_set_load(const char *directory, const char *only,
                                     struct nbd_config *config, struct loop *loop,
                                     struct worker_pool *workers);
/* No device may be left. */
void handler_set_free(struct handler_set *set);

/* Where reports of handlers about their devices go (struct nbd_host), on the loop thread. */
typedef void handler_report(struct nbd_device *dev, const char *reason);
void handler_on_reports(handler_report *lost, handler_report *fenced, handler_report *troubled);

/* By name ("file"); NULL: not loaded. Valid as long as the set. */
const struct nbd_handler *handler_find(const struct handler_set *set, const char *name);

/* Names of the loaded handlers, sorted; the array is the set's. */
const GPtrArray *handler_names(const struct handler_set *set);

/* The library of a handler, without its directory; NULL: not loaded. */
const char *handler_file(const struct handler_set *set, const char *name);

/* A library that was not loaded, and why. */
struct skipped_handler {
    char *file;
    char *reason;
};

/* struct skipped_handler *, in the order of the files; the array is the set's. */
const GPtrArray *handler_skipped(const struct handler_set *set);

#endif
