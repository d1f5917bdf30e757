/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The monitor's calls that may block, each in a child process with a pipe: a daemon that does
 * not answer, a resolver that hangs or a kernel that waits holds up this child only. Knows
 * nothing of what the child does.
 */
#ifndef CLI_MONITOR_TASK_H
#define CLI_MONITOR_TASK_H

#include "command.h"
#include "reattach.h"

#include <sys/types.h>

/* What comes through the pipe; below PIPE_BUF, so that each is written as a whole. */
struct task_record {
    bool is_end;
    struct mapping_facts facts; /* when it is not the end */
    int status;                 /* when it is; 0: done */
    char code[32];
    char message[1024];
};

struct task {
    pid_t pid; /* 0: none runs */
    int fd;
    int64_t deadline; /* it is killed then */
    bool is_killed;
};

/* Runs in the child; `out` is for task_send(). */
typedef int task_run(struct cli *cli, void *arg, int out, struct failure *why);

/* close_fds: of the parent, not for the child; ends with -1. */
int task_start(struct task *task, struct cli *cli, task_run *run, void *arg,
               const int *close_fds, int64_t limit_ms, struct failure *why);
void task_send(int out, const struct mapping_facts *facts);

/* A record, when there is one; the task is over behind its end record. False: none now. */
bool task_receive(struct task *task, struct task_record *ret_record);
/* Kill it if its time is over. */
void task_check(struct task *task);
void task_kill(struct task *task);

#endif
