/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * An NBD export opened as a client, through libnbd, with time limits. For read, write and
 * info; mapping has its own negotiation, since the kernel takes its sockets.
 */
#ifndef CLI_REMOTE_H
#define CLI_REMOTE_H

#include "command.h"

#include <libnbd.h>

struct remote {
    struct nbd_handle *nbd;
    int64_t timeout_ms; /* without any progress */
};

/* Connect to what the words EXPORT (a name or a URI), addr, port and bind say and stop before
 * the export is opened, so that options can be sent. */
int remote_connect(struct cli *cli, struct remote *ret_remote, struct failure *why);
/* Open the export. */
int remote_go(struct remote *remote, struct failure *why);
void remote_close(struct remote *remote);

/* Wait until something happened. */
int remote_poll(struct remote *remote, struct failure *why);
/* Wait for the end of a command. */
int remote_finish(struct remote *remote, int64_t cookie, struct failure *why);
/* What libnbd says about its last error. */
int remote_fail(struct failure *why);

#endif
