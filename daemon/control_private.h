/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What the files of the control port share: refusals, checks that precede every change, and
 * the procedures themselves. Included by control*.c only. Loop thread only.
 */
#ifndef NR_CONTROL_PRIVATE_H
#define NR_CONTROL_PRIVATE_H

#include <glib.h>

#include "export.h"
#include "job.h"
#include "mapping.h"
#include "registry.h"
#include "rpc/rpc_nbd.h"
#include "rpc_server.h"
#include "server.h"
#include "store.h"

/* A procedure of the table in control.c; arg is the struct server. */
typedef void control_procedure(struct rpc_call *call, void *args, void *arg);

control_procedure control_hello, control_status, control_log_level, control_handlers,
    control_admission;                                                   /* control.c */
control_procedure control_create, control_delete;                        /* control_export.c */
control_procedure control_export_set, control_export_settings, control_acl_get,
    control_acl_set;                                                     /* control_set.c */
control_procedure control_resize;                                        /* control_resize.c */
control_procedure control_sync;                                          /* control_sync.c */
control_procedure control_premap;                                        /* control_map.c */
control_procedure control_postmap, control_unmap;                        /* control_unmap.c */
control_procedure control_list, control_export_get, control_clients, control_client_kick;
                                                                         /* control_list.c */
control_procedure control_reload;                                        /* control_reload.c */
control_procedure control_counters;                                      /* control_counters.c */
control_procedure control_job_get, control_jobs, control_job_cancel;     /* control_job.c */

/* ---- Refusals: one sentence that names the object, its state and the remedy ---- */

/* Answers the call. sys_errno 0: none. */
__attribute__((format(printf, 4, 5)))
void control_refuse(struct rpc_call *call, nr_code code, int sys_errno,
                    const char *format, ...);

/* The same from the failure of a call of the core; its code tells the nr_code. */
void control_refuse_failure(struct rpc_call *call, const struct nbd_failure *why);

/* The only place where an errno becomes an nr_code. */
nr_code control_code_of(int error);

/* ---- Checks; false: the call has been refused ---- */

/* Changes are not made while the daemon stops or must not write its state file. */
bool control_may_change(struct rpc_call *call, const struct server *server);
/* Strings of a peer that are kept: UTF-8 without control characters. */
bool control_check_text(struct rpc_call *call, const char *text, const char *field);

/* The export that a name, or else a backstore, means. NULL and *why. */
struct export *control_find_export(const struct server *server, const char *name,
                                   const nr_backstore *store, struct nbd_failure *why);
/* The mapping with this cookie. NULL: the call has been refused. */
struct mapping *control_find_mapping(struct rpc_call *call, struct server *server,
                                     const char *cookie);
/* The options of a backstore as registry_add() takes them. NULL and *why for a key that is
 * given twice. The caller unrefs it. */
GHashTable *control_opts(const nr_backstore *store, struct nbd_failure *why);

/* How many rows an answer has at most; the caller allows `limit`, 0: as many as there may be. */
static inline u_int control_page_limit(u_int limit)
{
    return limit > 0 ? MIN(limit, (u_int)NR_PAGE_MAX) : NR_PAGE_MAX;
}

/* ---- Rows of answers; strings are borrowed, or in `texts` ---- */

/* The text itself, or a copy in `texts` that is UTF-8 and has at most `most` bytes. */
char *control_text(GStringChunk *texts, const char *text, size_t most);

void control_describe_export(const struct export *export, GStringChunk *texts,
                             nr_export *ret_row);
void control_clear_export(nr_export *row);
/* The array is the caller's; NULL: none. */
nr_endpoint *control_endpoints(const GPtrArray *endpoints, GStringChunk *texts, u_int *ret_n);
nr_export_state control_shown_state(enum export_state state);
void control_describe_mapping(const struct mapping *mapping, GStringChunk *texts,
                              nr_mapping *ret_row);
void control_describe_job(struct job *job, GStringChunk *texts, nr_job *ret_row);
void control_reply_job(struct rpc_call *call, struct job *job);

/* ---- The state file ---- */

/* Saves without anybody waiting: a failure shows in `status`, and the store tries again. */
void control_save(struct server *server);

/* Cuts off the export's clients. Also while the daemon is taken down. */
void control_kick_export(struct export *export, const char *reason);

/* Cuts off the connections that carry the mapping. */
void control_kick_mapping(struct server *server, const struct mapping *mapping,
                          const char *reason);

/* Cuts off its clients, forgets its mappings, hides it. on_gone: as of registry_remove(). */
void control_forget_export(struct export *export, const char *reason, void (*on_gone)(void *arg),
                           void *arg);

#endif
