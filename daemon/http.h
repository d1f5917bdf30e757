/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * HTTP/1.1 for metrics and health: GET and HEAD of a few pages, one request per connection.
 * Knows what no page contains. Peers are bounded in number, bytes and time. Not for anything
 * that is uploaded, and not for the open network: no TLS, no passwords. Loop thread only.
 */
#ifndef NR_HTTP_H
#define NR_HTTP_H

#include <event2/buffer.h>
#include <glib.h>
#include <stdbool.h>

#include "loop.h"
#include "nbd-runner/handler.h"

#define HTTP_CLIENTS_MAX 32           /* at a time; surplus ones are closed */
#define HTTP_REQUEST_MAX 8192         /* bytes of request line and header */
#define HTTP_REQUEST_S 5              /* for all of it to come */
#define HTTP_REPLY_S 30               /* for all of the reply to be taken */
#define HTTP_CHUNK_BYTES (64u << 10)  /* what a page adds at a time, about */

struct http_server;
struct http_reply; /* a request that waits for its answer */

struct http_page {
    const char *path; /* "/metrics" */
    /* Answers, before it returns, by one of the two calls below. */
    void (*get)(struct http_reply *reply, void *arg);
};

/* pages: ends with path NULL; must outlive the server, like arg. */
struct http_server *http_server_new(struct loop *loop, const struct http_page *pages, void *arg);
void http_server_free(struct http_server *server);

/* As listener_add_tcp(). */
int http_server_listen(struct http_server *server, const char *host, int port,
                       struct nbd_failure *why);
const GPtrArray *http_server_endpoints(const struct http_server *server); /* struct endpoint * */

/* The value of the header field Accept; "" when there is none. Valid as long as the reply. */
const char *http_reply_accept(const struct http_reply *reply);

/* A short text. status: 200, 503 ... */
void http_reply_text(struct http_reply *reply, unsigned status, const char *text);

/* A long page, in parts. more() adds the next part, about HTTP_CHUNK_BYTES of it in little
 * time, or nothing yet, whenever the peer has taken what was there; false: that was the last.
 * gone() is called exactly once, after that or when the peer has left. */
typedef bool http_more(void *arg, struct evbuffer *to);
void http_reply_stream(struct http_reply *reply, const char *type, http_more *more,
                       void (*gone)(void *arg), void *arg);

#endif
