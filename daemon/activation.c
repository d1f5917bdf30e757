/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Socket activation: takes the descriptors that the service manager passes and checks that
 * each one is what its name says. Accepts nothing, that is listener.c. Before the loop runs.
 */
#include "activation.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

#ifdef HAVE_LIBSYSTEMD
#include <systemd/sd-daemon.h>
#else
#define SD_LISTEN_FDS_START 3
static int sd_listen_fds_with_names(int unset_environment, char ***ret_names)
{
    (void)unset_environment;
    *ret_names = NULL;
    return 0;
}
#endif

static const struct {
    const char *name;
    int family;
} roles[] = {
    { "control", AF_INET },
    { "control-unix", AF_UNIX },
    { "nbd", AF_INET },
    { "nbd-unix", AF_UNIX },
};

struct inherited {
    char *name;
    int fd; /* -1: adopted */
};

struct activation {
    struct inherited *sockets;
    unsigned n;
};

static void take_all(struct activation *activation, int n, char **names)
{
    activation->sockets = g_new0(struct inherited, (gsize)n);
    activation->n = (unsigned)n;
    for (int i = 0; i < n; i++)
        activation->sockets[i] =
            (struct inherited){ g_strdup(names[i]), SD_LISTEN_FDS_START + i };
}

static int find_role(const struct inherited *inherited, struct nbd_failure *why)
{
    g_autofree char *quoted = NULL;

    for (size_t i = 0; i < G_N_ELEMENTS(roles); i++)
        if (strcmp(roles[i].name, inherited->name) == 0)
            return roles[i].family;
    quoted = log_quote(inherited->name, strlen(inherited->name));
    return nbd_fail(why, EINVAL,
                    "a socket named %s was handed over; set FileDescriptorName= of its unit to "
                    "control, control-unix, nbd or nbd-unix",
                    quoted);
}

/* A stream socket that listens, of this family; TCP of either version will do. */
static bool is_listening(int fd, int family)
{
    int type = 0, listening = 0, domain = 0;
    socklen_t length = sizeof(int);

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) < 0)
        return false;
    return type == SOCK_STREAM && listening &&
           (domain == family || (family == AF_INET && domain == AF_INET6));
}

static int check(const struct inherited *inherited, struct nbd_failure *why)
{
    int family = find_role(inherited, why);

    if (family < 0)
        return family;
    if (is_listening(inherited->fd, family))
        return 0;
    return nbd_fail(why, EINVAL,
                    "the socket handed over as %s is no listening %s socket; correct "
                    "ListenStream= of its unit, and leave Accept= at no",
                    inherited->name, family == AF_UNIX ? "Unix" : "TCP");
}

int activation_take(struct activation **ret_activation, struct nbd_failure *why)
{
    struct activation *activation = g_new0(struct activation, 1);
    char **names = NULL;
    int n = sd_listen_fds_with_names(1, &names), r = 0;

    if (n > 0)
        take_all(activation, n, names);
    for (int i = 0; i < n; i++)
        free(names[i]);
    free(names);
    if (n < 0)
        r = nbd_fail(why, -n, "the sockets that were handed over cannot be taken: %s",
                     strerror(-n));
    for (unsigned i = 0; r == 0 && i < activation->n; i++)
        r = check(&activation->sockets[i], why);
    if (r < 0)
        activation_free(activation);
    else
        *ret_activation = activation;
    return r;
}

void activation_free(struct activation *activation)
{
    if (activation == NULL)
        return;
    for (unsigned i = 0; i < activation->n; i++) {
        if (activation->sockets[i].fd >= 0)
            close(activation->sockets[i].fd);
        g_free(activation->sockets[i].name);
    }
    g_free(activation->sockets);
    g_free(activation);
}

int activation_adopt(struct activation *activation, const char *name, struct listener_set *set,
                     unsigned *ret_adopted, struct nbd_failure *why)
{
    unsigned adopted = 0;

    for (unsigned i = 0; i < activation->n; i++) {
        struct inherited *inherited = &activation->sockets[i];
        int fd = inherited->fd, r;

        if (fd < 0 || strcmp(inherited->name, name) != 0)
            continue;
        inherited->fd = -1;
        r = listener_adopt(set, fd, why);
        if (r < 0)
            return r;
        adopted++;
    }
    *ret_adopted = adopted;
    return 0;
}
