/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * A forked child loads the library and calls handler_init() as the daemon would, with services
 * that do nothing: the loop's descriptors are shared with the parent and must not be touched.
 * How the child ends is the answer.
 */
#include "handler_probe.h"

#include <dlfcn.h>
#include <errno.h>
#include <glib.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "log.h"

#define PROBE_TIMEOUT_S 20

/* How the child ends when all went well: no library ends a process so by mistake, as it may by
 * exit(0), and nothing that checks for leaks at the end of a process can change it. */
#define REACHED_THE_END SIGKILL

/* ---- Services for the child ---- */

static void no_log(enum nbd_log_level level, const char *format, ...)
{
    (void)level;
    (void)format; /* it will say the same to the daemon */
}

static struct nbd_watch *no_watch(int fd, void (*ready)(void *arg), void *arg)
{
    (void)fd;
    (void)ready;
    (void)arg;
    return g_malloc0(sizeof(void *)); /* one that never fires */
}

static void no_unwatch(struct nbd_watch *watch)
{
    g_free(watch);
}

static void no_run(void (*work)(void *arg), void (*done)(void *arg), void *arg)
{
    (void)work;
    (void)done;
    (void)arg;
}

static void no_post(void (*fn)(void *arg), void *arg)
{
    (void)fn;
    (void)arg;
}

static const struct nbd_host quiet_host = {
    .size = sizeof(struct nbd_host),
    .log = no_log,
    .watch = no_watch,
    .unwatch = no_unwatch,
    .run = no_run,
    .post = no_post,
};

/* ---- The child ---- */

bool handler_abi_fits(const struct nbd_handler_abi *abi)
{
    return abi->version == NBD_HANDLER_ABI && abi->handler_size <= sizeof(struct nbd_handler);
}

/* A crash shall end this process without a word, not call what the daemon has set up. */
static void forget_signals(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS,  SIGILL,  SIGFPE, SIGABRT,
                                  SIGALRM, SIGTERM, SIGTRAP, SIGSYS};
    sigset_t none;

    for (size_t i = 0; i < G_N_ELEMENTS(signals); i++)
        signal(signals[i], SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static void try_library(const char *path, const struct nbd_config *config)
{
    struct nbd_config quiet = *config;
    struct nbd_handler *(*init)(const struct nbd_config *);
    const struct nbd_handler_abi *abi;
    void *library;

    quiet.host = &quiet_host;
    forget_signals();
    setrlimit(RLIMIT_CORE, &(struct rlimit){0});
    alarm(PROBE_TIMEOUT_S);
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return; /* the daemon's own dlopen() will say why */
    init =
        (struct nbd_handler * (*)(const struct nbd_config *)) dlsym(library, "handler_init");
    abi = dlsym(library, "nbd_handler_abi");
    if (init != NULL && abi != NULL && handler_abi_fits(abi))
        init(&quiet);
}

/* ---- The daemon ---- */

static char *describe_end(int status)
{
    if (WIFSIGNALED(status) && WTERMSIG(status) == REACHED_THE_END)
        return NULL;
    if (WIFEXITED(status))
        return g_strdup_printf("it ended the process with status %d while it was loaded",
                               WEXITSTATUS(status));
    if (WTERMSIG(status) == SIGALRM)
        return g_strdup_printf("its handler_init() did not return in %d seconds",
                               PROBE_TIMEOUT_S);
    return g_strdup_printf("it crashed while it was loaded, or in its handler_init() (%s)",
                           strsignal(WTERMSIG(status)));
}

bool handler_probe(const char *path, const struct nbd_config *config, char **ret_complaint)
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        try_library(path, config);
        raise(REACHED_THE_END);
    }
    if (pid < 0) {
        log_warning("cannot try handler %s in a process of its own: %s; it is loaded all the "
                    "same",
                    path, strerror(errno));
        return true;
    }
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return true; /* somebody ignores SIGCHLD: nothing is known */
    *ret_complaint = describe_end(status);
    return *ret_complaint == NULL;
}
