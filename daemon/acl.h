/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Lists of addresses and networks (CIDR, IPv4 and IPv6). Pure functions.
 */
#ifndef NR_ACL_H
#define NR_ACL_H

#include <stdbool.h>
#include <sys/socket.h>

#include "nbd-runner/handler.h"

struct acl;

/* From a NULL-terminated list (NULL: empty): "10.0.0.0/8", "::1", "192.0.2.7". Strings are
 * copied. -EINVAL names the entry. */
int acl_new(const char *const *entries, struct acl **ret_acl, struct nbd_failure *why);
void acl_free(struct acl *acl);

/* What it was made of; never NULL, valid as long as the list. */
const char *const *acl_entries(const struct acl *acl);

/* An empty list allows nobody, instead of everybody. False at first. */
void acl_set_default_deny(struct acl *acl, bool default_deny);
bool acl_default_deny(const struct acl *acl);

/* May this peer use what the list guards? Those that an entry contains; with no entry all, or
 * with default_deny none. A Unix socket's peers always may: its mode says who they are. */
bool acl_allows(const struct acl *acl, const struct sockaddr *address);

/* An IPv4-mapped IPv6 address counts as IPv4. Other families never match. */
bool acl_contains(const struct acl *acl, const struct sockaddr *address);
bool acl_is_loopback(const struct sockaddr *address);

#endif
