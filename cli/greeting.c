/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The look whether the daemon answers NBD clients. One connection, of which the daemon makes no
 * line in its log; none where it says beforehand that it would close it.
 */
#include "greeting.h"

#include <glib.h>
#include <string.h>
#include <unistd.h>

#include "nbd_protocol.h"

const char *answer_word(enum answer answer)
{
    static const char *const words[] = {
        [ANSWER_YES] = "yes",
        [ANSWER_NO] = "no",
        [ANSWER_NOT_ADMITTED] = "not-admitted",
        [ANSWER_NOT_REACHABLE] = "not-reachable",
    };

    return words[answer];
}

static bool is_wildcard(const char *host)
{
    return *host == '\0' || strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0;
}

size_t greeting_places(const nr_endpoint *endpoint, const char *remote_host, bool by_unix,
                       struct address places[2])
{
    const char *host = endpoint->addr;

    for (size_t i = 0; i < 2; i++)
        places[i] = (struct address){.port = (uint16_t)endpoint->port};
    if (g_str_has_prefix(host, "unix:")) {
        g_strlcpy(places[0].unix_path, host + strlen("unix:"), sizeof(places[0].unix_path));
        return by_unix ? 1 : 0;
    }
    if (remote_host != NULL) {
        g_strlcpy(places[0].host, is_wildcard(host) ? remote_host : host,
                  sizeof(places[0].host));
        return net_is_loopback(places[0].host) ? 0 : 1;
    }
    if (!is_wildcard(host)) {
        g_strlcpy(places[0].host, host, sizeof(places[0].host));
        return 1;
    }
    g_strlcpy(places[0].host, "127.0.0.1", sizeof(places[0].host));
    g_strlcpy(places[1].host, "::1", sizeof(places[1].host));
    return 2;
}

int greeting_read(const struct address *address, int64_t deadline, struct failure *why)
{
    struct nbd_greeting greeting;
    char text[ADDRESS_MAX];
    int fd = net_connect(address, NULL, deadline, why);
    int r;

    if (fd < 0)
        return why->status;
    address_format(address, text);
    /* All of it: closing with bytes unread would be a reset. */
    r = net_read(fd, &greeting, sizeof(greeting), deadline, text, why);
    close(fd);
    if (r == 0 && (GUINT64_FROM_BE(greeting.magic) != NBD_MAGIC ||
                   GUINT64_FROM_BE(greeting.ihaveopt) != NBD_IHAVEOPT))
        r = fail_with(why, STATUS_FAILED, "what answers at %s is no NBD server", text);
    return r;
}

/* Would the daemon let us in there? One of before this question says nothing: let us see. */
static enum answer ask_admission(struct client *client, const struct address *place,
                                 struct failure *why)
{
    char source[ADDRESS_MAX];
    nr_admission_args args = {.address = source};
    nr_admission_res res;
    const nr_admission *admission = &res.nr_admission_res_u.admission;
    enum answer answer = ANSWER_YES;

    if (!net_source(place, source, sizeof(source)))
        return ANSWER_YES; /* connecting will tell why */
    if (client_call(client, NR_ADMISSION, &args, &res, why) != 0)
        return strcmp(why->code, "ENOTSUP") == 0 ? ANSWER_YES : ANSWER_NO;
    if (admission->code == NR_EPERM) {
        answer = ANSWER_NOT_ADMITTED;
        fail_with(why, STATUS_PERMISSION, "nbd_allow does not let %s in", source);
    } else if (admission->code != NR_OK) {
        answer = ANSWER_NO;
        fail_with(why, STATUS_FAILED, "a client from %s is closed at once: %s", source,
                  admission->why);
    }
    client_free(NR_ADMISSION, &res);
    return answer;
}

static void look_at(struct client *client, const struct address *place, int64_t deadline,
                    struct greeting *ret)
{
    struct failure why = {.message = ""};

    address_format(place, ret->address);
    ret->answer = ask_admission(client, place, &why);
    if (ret->answer == ANSWER_YES && greeting_read(place, deadline, &why) != 0)
        ret->answer = ANSWER_NO;
    g_strlcpy(ret->message, ret->answer == ANSWER_YES ? "" : why.message,
              sizeof(ret->message));
}

void greeting_look(struct client *client, const nr_endpoint *endpoint, int64_t timeout_ms,
                   struct greeting *ret_greeting)
{
    struct greeting greeting = {.answer = ANSWER_NOT_REACHABLE};
    int64_t deadline = deadline_in_ms(timeout_ms);
    char remote[ADDRESS_MAX];
    bool is_remote = client_remote_host(client, remote, sizeof(remote));
    struct address places[2];
    size_t n = greeting_places(endpoint, is_remote ? remote : NULL,
                               client_address(client)->unix_path[0] != '\0', places);

    g_strlcpy(greeting.message, "only clients on the daemon's own host can reach it",
              sizeof(greeting.message));
    for (size_t i = 0; i < n && greeting.answer != ANSWER_YES; i++) {
        struct greeting next;

        look_at(client, &places[i], deadline, &next);
        if (i == 0 || next.answer == ANSWER_YES)
            greeting = next;
    }
    *ret_greeting = greeting;
}
