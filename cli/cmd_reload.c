/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * reload: the daemon reads its configuration again; what has come of it is printed.
 */
#include "answer.h"
#include "command.h"
#include "output.h"

#include <glib.h>

/* A reload may look at ten thousand files on slow storage. */
#define EXTRA_MS (5 * 60 * 1000)

static void say_names(struct cli *cli, const char *what, char *const *names, u_int shown,
                      u_int all)
{
    for (u_int i = 0; i < shown; i++)
        cli_say(cli, "%s %s", what, names[i]);
    if (all > shown)
        cli_say(cli, "%s %u more", what, all - shown);
}

static void say_reload(struct cli *cli, const nr_reload *reload)
{
    say_names(cli, "added", reload->added_names.added_names_val,
              reload->added_names.added_names_len, reload->added);
    say_names(cli, "changed", reload->changed_names.changed_names_val,
              reload->changed_names.changed_names_len, reload->changed);
    say_names(cli, "removed", reload->removed_names.removed_names_val,
              reload->removed_names.removed_names_len, reload->removed);
    say_names(cli, "rejected:", reload->problems.problems_val, reload->problems.problems_len,
              reload->rejected);
    say_names(cli, "note:", reload->notices.notices_val, reload->notices.notices_len,
              reload->notices.notices_len);
    cli_say(cli, "%u added, %u changed, %u removed, %u unchanged, %u draining, %u rejected",
            reload->added, reload->changed, reload->removed, reload->unchanged,
            reload->draining, reload->rejected);
}

static void put_texts(json_object *object, const char *key, char *const *texts, u_int count)
{
    json_object *array = json_object_new_array();

    for (u_int i = 0; i < count; i++)
        json_object_array_add(array, json_object_new_string(texts[i]));
    json_object_object_add(object, key, array);
}

static json_object *reload_json(const nr_reload *reload)
{
    json_object *object = json_object_new_object();

    json_put_number(object, "added", reload->added);
    json_put_number(object, "changed", reload->changed);
    json_put_number(object, "removed", reload->removed);
    json_put_number(object, "unchanged", reload->unchanged);
    json_put_number(object, "draining", reload->draining);
    json_put_number(object, "rejected", reload->rejected);
    json_put_bool(object, "failed", reload->failed);
    put_texts(object, "added_names", reload->added_names.added_names_val,
              reload->added_names.added_names_len);
    put_texts(object, "changed_names", reload->changed_names.changed_names_val,
              reload->changed_names.changed_names_len);
    put_texts(object, "removed_names", reload->removed_names.removed_names_val,
              reload->removed_names.removed_names_len);
    put_texts(object, "problems", reload->problems.problems_val,
              reload->problems.problems_len);
    put_texts(object, "notices", reload->notices.notices_val, reload->notices.notices_len);
    return object;
}

int cmd_reload(struct cli *cli, struct failure *why)
{
    nr_reload_res res;
    const nr_reload *reload = &res.nr_reload_res_u.reload;
    int r = cli_client(cli, why);

    if (r == 0)
        r = client_call_slow(cli->client, NR_RELOAD, NULL, &res, EXTRA_MS, why);
    if (r != 0)
        return r;
    say_reload(cli, reload);
    json_object_object_add(cli_answer(cli), "reload", reload_json(reload));
    cli->partly = true;
    if (reload->rejected > 0 || reload->failed)
        r = fail_with(why, STATUS_FAILED, reload->failed
                      ? "the configuration has mistakes: nothing was changed"
                      : "some files have mistakes: what they defined before stays in effect");
    client_free(NR_RELOAD, &res);
    return r;
}
