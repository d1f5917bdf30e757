/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * fork(), a pipe, and waitpid() behind the end of the pipe.
 */
#include "monitor_task.h"
#include "net.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

G_STATIC_ASSERT(sizeof(struct task_record) <= PIPE_BUF);

static void send_record(int out, const struct task_record *record)
{
    /* When nobody reads any more there is nobody to tell that either. */
    while (write(out, record, sizeof(*record)) < 0 && errno == EINTR)
        continue;
}

void task_send(int out, const struct mapping_facts *facts)
{
    struct task_record record = {.facts = *facts};

    send_record(out, &record);
}

static void send_end(int out, int status, const struct failure *why)
{
    struct task_record record = {.is_end = true, .status = status};

    if (status != 0) {
        g_strlcpy(record.code, why->code, sizeof(record.code));
        g_strlcpy(record.message, why->message, sizeof(record.message));
    }
    send_record(out, &record);
}

static void be_child(struct cli *cli, task_run *run, void *arg, int out)
{
    struct failure why = {0};
    sigset_t none;
    int status;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    status = run(cli, arg, out, &why);
    send_end(out, status, &why);
    _exit(status);
}

int task_start(struct task *task, struct cli *cli, task_run *run, void *arg,
               const int *close_fds, int64_t limit_ms, struct failure *why)
{
    int ends[2] = {-1, -1};
    pid_t pid = -1;

    if (pipe2(ends, O_CLOEXEC) == 0)
        pid = fork();
    if (pid < 0) {
        fail_with(why, STATUS_FAILED, "starting a process failed: %s", strerror(errno));
        if (ends[0] >= 0) {
            close(ends[0]);
            close(ends[1]);
        }
        return why->status;
    }
    if (pid == 0) {
        close(ends[0]);
        for (const int *fd = close_fds; *fd >= 0; fd++)
            close(*fd);
        be_child(cli, run, arg, ends[1]);
    }
    close(ends[1]);
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    *task = (struct task){.pid = pid, .fd = ends[0], .deadline = deadline_in_ms(limit_ms)};
    return 0;
}

static void finish(struct task *task)
{
    close(task->fd);
    while (waitpid(task->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    *task = (struct task){0};
}

bool task_receive(struct task *task, struct task_record *ret_record)
{
    ssize_t n = read(task->fd, ret_record, sizeof(*ret_record));

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n != sizeof(*ret_record)) { /* it ended without a word */
        *ret_record = (struct task_record){
            .is_end = true, .status = STATUS_NO_ANSWER, .code = "NO_ANSWER"};
        g_strlcpy(ret_record->message,
                  task->is_killed ? "it took too long" : "the process ended early",
                  sizeof(ret_record->message));
    }
    if (ret_record->is_end)
        finish(task);
    return true;
}

void task_kill(struct task *task)
{
    if (task->pid != 0)
        kill(task->pid, SIGKILL);
    task->is_killed = true;
}

void task_check(struct task *task)
{
    if (task->pid != 0 && !task->is_killed && deadline_left_ms(task->deadline) == 0)
        task_kill(task);
}
