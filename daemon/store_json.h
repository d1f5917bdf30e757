/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Exports, mappings and jobs as JSON objects, and back. Files are store.c's. Loop thread.
 */
#ifndef NR_STORE_JSON_H
#define NR_STORE_JSON_H

#include <json-c/json.h>

#include "export.h"
#include "job.h"
#include "mapping.h"
#include "server.h"

/* The caller puts the result. */
struct json_object *store_json_from_export(const struct export *export);
/* Of one that a configuration file defines: its mappings. NULL: there are none. */
struct json_object *store_json_from_config_export(const struct export *export);
struct json_object *store_json_from_job(const struct job *job);
struct json_object *store_json_from_time(int64_t us);

/* The whole text, or NULL with *why. */
struct json_object *store_json_parse(const char *text, size_t length, struct nbd_failure *why);

/* Adds the export, with its mappings, to the server's registry. Mappings that make no sense
 * are logged and kept in export->unknown_json. */
int store_json_to_export(struct server *server, const char *id, struct json_object *object,
                         struct export **ret_export, struct nbd_failure *why);
/* The mappings of an export that a configuration file defines; -EINVAL: they are not of this
 * backstore. */
int store_json_to_config_export(struct server *server, struct export *export,
                                struct json_object *object, struct nbd_failure *why);
int store_json_to_job(struct server *server, const char *id, struct json_object *object,
                      struct nbd_failure *why);

/* Does this look like a file of version 1, a map from VOLUME/FILE to objects? */
bool store_json_is_v1(struct json_object *top);
int store_json_v1_to_export(struct server *server, const char *target,
                            struct json_object *object, struct export **ret_export,
                            struct nbd_failure *why);

#endif
