/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * A small HTTP server on bufferevents. libevent's own (evhttp) has, in version 2.1, no limit
 * on the number of its connections and none on their time but that between two bytes, so that
 * a few peers that dawdle could keep the monitoring out.
 */
#include "http.h"

#include <event2/bufferevent.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "listener.h"
#include "log.h"

struct http_server {
    struct loop *loop;             /* not owned */
    const struct http_page *pages; /* not owned */
    void *arg;
    struct listener_set *listeners;
    struct http_reply *first; /* all peers */
    unsigned count;
};

enum http_phase {
    HTTP_RECEIVING, /* the request */
    HTTP_STREAMING, /* more() has more */
    HTTP_ENDING,    /* what is left of the reply is on its way */
    HTTP_LINGERING, /* all of it has left; wait until the peer closes */
};

/* A peer, its request and the reply. */
struct http_reply {
    struct http_server *server;
    struct http_reply *next, *previous;
    struct bufferevent *socket;
    struct event *deadline;
    struct event *again;     /* a part was empty: go on in the next turn of the loop */
    enum http_phase phase;
    bool head;    /* HEAD: no content */
    bool chunked; /* HTTP/1.1 */
    char *accept;
    http_more *more; /* HTTP_STREAMING; NULL otherwise */
    void (*gone)(void *arg);
    void *arg;
};

/* ---- The end of a peer ---- */

static void stop_streaming(struct http_reply *reply)
{
    void (*gone)(void *arg) = reply->gone;

    reply->more = NULL;
    reply->gone = NULL;
    if (gone != NULL)
        gone(reply->arg);
}

static void reply_free(struct http_reply *reply)
{
    struct http_server *server = reply->server;

    *(reply->previous != NULL ? &reply->previous->next : &server->first) = reply->next;
    if (reply->next != NULL)
        reply->next->previous = reply->previous;
    server->count--;
    stop_streaming(reply);
    event_free(reply->deadline);
    event_free(reply->again);
    bufferevent_free(reply->socket);
    g_free(reply->accept);
    g_free(reply);
}

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    reply_free(arg);
}

/* ---- Replies ---- */

static const char *reason_of(unsigned status)
{
    switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 431: return "Request Header Fields Too Large";
    default: return "Service Unavailable";
    }
}

/* length < 0: it is not known, the reply is chunked or ends with the connection. */
static void send_header(struct http_reply *reply, unsigned status, const char *type,
                        ssize_t length)
{
    struct evbuffer *output = bufferevent_get_output(reply->socket);
    struct timeval limit = { .tv_sec = HTTP_REPLY_S };

    evbuffer_add_printf(output, "HTTP/1.1 %u %s\r\nContent-Type: %s\r\nConnection: close\r\n",
                        status, reason_of(status), type);
    if (status == 405)
        evbuffer_add_printf(output, "Allow: GET, HEAD\r\n");
    if (length >= 0)
        evbuffer_add_printf(output, "Content-Length: %zd\r\n", length);
    else if (reply->chunked)
        evbuffer_add_printf(output, "Transfer-Encoding: chunked\r\n");
    evbuffer_add_printf(output, "\r\n");
    evtimer_add(reply->deadline, &limit);
}

void http_reply_text(struct http_reply *reply, unsigned status, const char *text)
{
    struct evbuffer *output = bufferevent_get_output(reply->socket);

    reply->phase = HTTP_ENDING;
    send_header(reply, status, "text/plain; charset=utf-8", (ssize_t)strlen(text) + 1);
    if (!reply->head)
        evbuffer_add_printf(output, "%s\n", text);
}

/* One part of a stream, framed. */
static void send_part(struct http_reply *reply)
{
    struct evbuffer *output = bufferevent_get_output(reply->socket);
    struct evbuffer *part = evbuffer_new();
    bool more = reply->more(reply->arg, part);

    if (reply->chunked && evbuffer_get_length(part) > 0) {
        evbuffer_add_printf(output, "%zx\r\n", evbuffer_get_length(part));
        evbuffer_add(part, "\r\n", 2);
    }
    evbuffer_add_buffer(output, part);
    evbuffer_free(part);
    if (more) {
        if (evbuffer_get_length(output) == 0)
            evtimer_add(reply->again, &(struct timeval){ 0 });
        return;
    }
    if (reply->chunked)
        evbuffer_add_printf(output, "0\r\n\r\n");
    reply->phase = HTTP_ENDING;
    stop_streaming(reply);
}

void http_reply_stream(struct http_reply *reply, const char *type, http_more *more,
                       void (*gone)(void *arg), void *arg)
{
    reply->more = more;
    reply->gone = gone;
    reply->arg = arg;
    reply->phase = HTTP_STREAMING;
    send_header(reply, 200, type, -1);
    if (!reply->head)
        return;
    reply->phase = HTTP_ENDING;
    stop_streaming(reply);
}

const char *http_reply_accept(const struct http_reply *reply)
{
    return reply->accept != NULL ? reply->accept : "";
}

/* Most of what there was has left. */
static void on_writable(struct bufferevent *socket, void *arg)
{
    struct http_reply *reply = arg;

    if (reply->phase == HTTP_STREAMING)
        send_part(reply);
    if (reply->phase != HTTP_ENDING || evbuffer_get_length(bufferevent_get_output(socket)) > 0)
        return;
    /* Closing with bytes that nobody has read would take back what is on its way. */
    reply->phase = HTTP_LINGERING;
    shutdown(bufferevent_getfd(socket), SHUT_WR);
}

static void on_again(evutil_socket_t fd, short what, void *arg)
{
    struct http_reply *reply = arg;

    (void)fd;
    (void)what;
    on_writable(reply->socket, reply);
}

/* ---- Requests ---- */

/* A header field "Name: value"; only Accept is of interest. */
static void take_field(struct http_reply *reply, const char *line)
{
    static const char name[] = "accept:";

    if (g_ascii_strncasecmp(line, name, strlen(name)) != 0 || reply->accept != NULL)
        return;
    reply->accept = g_strstrip(g_strdup(line + strlen(name)));
}

static const struct http_page *find_page(const struct http_server *server, const char *target)
{
    size_t length = strcspn(target, "?#");

    for (const struct http_page *page = server->pages; page->path != NULL; page++)
        if (strlen(page->path) == length && memcmp(page->path, target, length) == 0)
            return page;
    return NULL;
}

static void answer(struct http_reply *reply, char **words)
{
    const struct http_page *page = find_page(reply->server, words[1]);

    reply->head = strcmp(words[0], "HEAD") == 0;
    if (!reply->head && strcmp(words[0], "GET") != 0)
        http_reply_text(reply, 405, "only GET and HEAD");
    else if (page == NULL)
        http_reply_text(reply, 404, "there is no such page");
    else
        page->get(reply, reply->server->arg);
}

/* All lines are there. */
static void take_request(struct http_reply *reply, const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    g_auto(GStrv) words = NULL;

    for (char **line = lines; *line != NULL; line++)
        g_strchomp(*line);
    words = g_strsplit(lines[0], " ", -1);
    for (char **line = lines + 1; *line != NULL; line++)
        take_field(reply, *line);
    reply->chunked = g_strv_length(words) == 3 && strcmp(words[2], "HTTP/1.1") == 0;
    if (g_strv_length(words) != 3 || !g_str_has_prefix(words[2], "HTTP/1."))
        http_reply_text(reply, 400, "this is no request of HTTP/1.1");
    else
        answer(reply, words);
}

/* Bytes up to and with the empty line that ends the header; 0: it is not there yet. */
static size_t request_length(const char *bytes, size_t length)
{
    for (size_t i = 1; i < length; i++) {
        if (bytes[i] != '\n')
            continue;
        if (bytes[i - 1] == '\n' || (i >= 2 && bytes[i - 1] == '\r' && bytes[i - 2] == '\n'))
            return i + 1;
    }
    return 0;
}

static void on_readable(struct bufferevent *socket, void *arg)
{
    struct http_reply *reply = arg;
    struct evbuffer *input = bufferevent_get_input(socket);
    size_t length = MIN(evbuffer_get_length(input), HTTP_REQUEST_MAX);
    g_autofree char *text = NULL;

    if (reply->phase == HTTP_RECEIVING) {
        const char *bytes = (const char *)evbuffer_pullup(input, (ssize_t)length);
        size_t whole = bytes != NULL ? request_length(bytes, length) : 0;

        if (whole > 0) {
            text = g_strndup(bytes, whole);
            take_request(reply, text);
        } else if (length == HTTP_REQUEST_MAX) {
            http_reply_text(reply, 431, "the header is too long");
        }
    }
    if (reply->phase != HTTP_RECEIVING)
        evbuffer_drain(input, evbuffer_get_length(input)); /* it has had its say */
}

static void on_end(struct bufferevent *socket, short what, void *arg)
{
    struct http_reply *reply = arg;

    (void)socket;
    /* One that has sent all that it has to say may still listen. */
    if ((what & BEV_EVENT_EOF) && reply->phase != HTTP_RECEIVING &&
        reply->phase != HTTP_LINGERING)
        return;
    reply_free(reply);
}

/* ---- Peers ---- */

static void on_accept(void *arg, int fd, const struct sockaddr *peer)
{
    struct http_server *server = arg;
    struct timeval limit = { .tv_sec = HTTP_REQUEST_S };
    struct http_reply *reply;

    if (server->count >= HTTP_CLIENTS_MAX) {
        g_autofree char *name = listener_peer_name(fd, peer);

        log_debug("http client %s: closed at once, there are too many", name);
        close(fd);
        return;
    }
    reply = g_new0(struct http_reply, 1);
    reply->server = server;
    reply->next = server->first;
    if (server->first != NULL)
        server->first->previous = reply;
    server->first = reply;
    server->count++;
    reply->socket = bufferevent_socket_new(loop_base(server->loop), fd, BEV_OPT_CLOSE_ON_FREE);
    reply->deadline = evtimer_new(loop_base(server->loop), on_deadline, reply);
    reply->again = evtimer_new(loop_base(server->loop), on_again, reply);
    bufferevent_setcb(reply->socket, on_readable, on_writable, on_end, reply);
    bufferevent_setwatermark(reply->socket, EV_READ, 0, HTTP_REQUEST_MAX);
    bufferevent_setwatermark(reply->socket, EV_WRITE, 0, 0);
    bufferevent_enable(reply->socket, EV_READ | EV_WRITE);
    evtimer_add(reply->deadline, &limit);
}

struct http_server *http_server_new(struct loop *loop, const struct http_page *pages, void *arg)
{
    struct http_server *server = g_new0(struct http_server, 1);

    server->loop = loop;
    server->pages = pages;
    server->arg = arg;
    server->listeners = listener_set_new(loop, on_accept, server);
    return server;
}

void http_server_free(struct http_server *server)
{
    if (server == NULL)
        return;
    listener_set_free(server->listeners);
    while (server->first != NULL)
        reply_free(server->first);
    g_free(server);
}

int http_server_listen(struct http_server *server, const char *host, int port,
                       struct nbd_failure *why)
{
    return listener_add_tcp(server->listeners, host, port, why);
}

const GPtrArray *http_server_endpoints(const struct http_server *server)
{
    return listener_endpoints(server->listeners);
}
