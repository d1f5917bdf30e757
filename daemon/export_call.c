/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * A handler's blocking calls: each runs on a worker and ends on the loop, one at a time per
 * export. Also what precedes and follows most of them: the target is parsed, a failure gets
 * its sentence, what the handler wants to remember is kept. Which call comes next,
 * export_state.c decides.
 */
#include "export_private.h"

#include <assert.h>
#include <string.h>

#include <json-c/json.h>

#include "log.h"
#include "server.h"
#include "store.h"

static void on_worker(void *arg)
{
    struct call *call = arg;

    call->work(call);
}

static void on_call_end(void *arg)
{
    struct call *call = arg;
    struct export *export = call->export;

    call->end(call); /* still busy: what it sets off waits for the advance() below */
    if (call->saved != NULL)
        json_object_put(call->saved);
    g_free(call);
    export->private->busy = false;
    export_advance(export);
}

void call_start(struct export *export, void (*work)(struct call *call),
                void (*end)(struct call *call))
{
    struct call *call = g_new0(struct call, 1);
    struct json_object *saved;

    assert(!export->private->busy);
    export->private->busy = true;
    call->export = export;
    call->work = work;
    call->end = end;
    if (export->unknown_json != NULL &&
        json_object_object_get_ex(export->unknown_json, "handler_data", &saved))
        json_object_deep_copy(saved, &call->saved, NULL);
    worker_run(export->server->workers, on_worker, on_call_end, call);
}

/* What the handler wants to remember, once it has made or opened the backing store, goes into
 * the state file with the next save. */
void export_save_handler_data(struct export *export)
{
    struct json_object *data;

    if (export->handler->update_json == NULL || export->private->removed)
        return;
    data = json_object_new_object();
    if (!export->handler->update_json(&export->dev, data)) {
        json_object_put(data);
        return;
    }
    if (export->unknown_json == NULL)
        export->unknown_json = json_object_new_object();
    json_object_object_add(export->unknown_json, "handler_data", data);
    if (export->server->store != NULL)
        store_changed(export->server->store, export);
}

/* ---- On a worker ---- */

/* A handler that fails without a word gets a sentence from its errno. */
int call_settle(struct call *call, int r, const char *what)
{
    const struct export *export = call->export;

    if (r < 0 && call->why.message[0] == '\0')
        nbd_fail(&call->why, -r, "cannot %s the %s backstore %s: %s", what,
                 export->handler_name, export->target, strerror(-r));
    if (r < 0 && call->why.code == 0)
        call->why.code = -r;
    call->result = r < 0 ? r : 0;
    return call->result;
}

int call_parse(struct call *call)
{
    struct export *export = call->export;

    if (export->private->parsed)
        return 0;
    if (call_settle(call, export->handler->cfg_parse(&export->dev, export->target, &call->why),
                    "understand") < 0)
        return call->result;
    export->private->parsed = true;
    if (call->saved != NULL && export->handler->load_json != NULL &&
        !export->handler->load_json(&export->dev, call->saved))
        log_event(NBD_LOG_WARNING, export->name, NULL,
                  "export \"%s\": its handler does not understand what it had saved",
                  export->name);
    return 0;
}
