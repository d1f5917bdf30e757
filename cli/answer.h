/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The daemon's answers as JSON (documented in nbd-cli-json.md) and as single words. Pure
 * functions.
 */
#ifndef CLI_ANSWER_H
#define CLI_ANSWER_H

#include "rpc/rpc_nbd.h"

#include <json-c/json.h>

json_object *export_json(const nr_export *x);
json_object *mapping_json(const nr_mapping *mapping);
json_object *job_json(const nr_job *job);
json_object *client_json(const nr_client *client);
json_object *settings_json(const nr_settings *settings); /* cmd_set.c */
json_object *acl_json(const nr_acl *acl);                 /* cmd_set.c */
json_object *status_json(const nr_status *status);

json_object *endpoints_json(const nr_endpoint *endpoints, u_int count);

const char *export_state_word(nr_export_state state); /* "ready" */
const char *map_state_word(nr_map_state state);       /* "live" */
const char *job_kind_word(nr_job_kind kind);
const char *job_state_word(nr_job_state state);
const char *origin_word(nr_origin origin);

/* An endpoint as an address can be written, "unix:/path" or "10.0.0.1:24111"; g_free. */
char *endpoint_text(const nr_endpoint *endpoint);

#endif
