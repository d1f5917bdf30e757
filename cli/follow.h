/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Waits for the end of one of the daemon's jobs and shows how far it is.
 */
#ifndef CLI_FOLLOW_H
#define CLI_FOLLOW_H

#include "command.h"

/* Until the job is over. 0 when it ended well; its last state in the answer as "job". */
int follow_job(struct cli *cli, const char *id, struct failure *why);

/* With the word nowait: say which job was answered; else follow it and print `success`. Frees
 * the answer. */
int finish_job(struct cli *cli, u_long procedure, nr_job_res *res, const char *success,
               struct failure *why);

#endif
