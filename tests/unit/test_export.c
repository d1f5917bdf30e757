/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Exports: names and collisions, and the life of a backstore. Whether one is open is seen
 * from the descriptors of this process.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "nbd_client_harness.h"
#include "registry.h"

struct fixture {
    struct harness *harness;
    struct registry *registry;
    char *path; /* of a file for the plain handler */
};

static int set_up(void **state)
{
    struct fixture *f = g_new0(struct fixture, 1);

    f->harness = harness_new(NULL);
    f->registry = f->harness->server->registry;
    f->path = harness_path(f->harness, "disk");
    assert_true(g_file_set_contents(f->path, "0123456789abcdef", 16, NULL));
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    harness_free(f->harness);
    g_free(f->path);
    g_free(f);
    return 0;
}

/* How an asynchronous call ended. */
struct outcome {
    bool ended;
    unsigned times;
    int result;
    char message[1024];
};

static void on_done(void *arg, int result, const struct nbd_failure *why)
{
    struct outcome *outcome = arg;

    outcome->ended = true;
    outcome->times++;
    outcome->result = result;
    g_strlcpy(outcome->message, result < 0 ? why->message : "", sizeof(outcome->message));
}

static void on_event(void *arg)
{
    struct outcome *outcome = arg;

    outcome->ended = true;
    outcome->times++;
}

static bool has_ended(void *arg)
{
    return ((struct outcome *)arg)->ended;
}

static struct outcome opens(struct fixture *f, struct export *export)
{
    struct outcome outcome = { 0 };

    export_open(export, 0, on_done, &outcome);
    harness_wait(f->harness, has_ended, &outcome);
    return outcome;
}

static struct export *plain_disk(struct fixture *f, const char *path)
{
    return harness_add_export(f->harness, "disk", "plain", path, NULL, false);
}

static bool is_open(const char *path)
{
    DIR *dir = opendir("/proc/self/fd");
    struct dirent *entry;
    bool found = false;

    while ((entry = readdir(dir)) != NULL) {
        char target[4096];
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);

        if (n > 0) {
            target[n] = '\0';
            found |= strcmp(target, path) == 0;
        }
    }
    closedir(dir);
    return found;
}

static bool is_closed(void *path)
{
    return !is_open(path);
}

static bool is_open_now(void *path)
{
    return is_open(path);
}

static int adds(struct fixture *f, const char *name, const char *handler, const char *target,
                struct nbd_failure *why)
{
    struct export_spec spec = { .name = name, .handler = handler, .target = target,
                                .origin = EXPORT_BY_RPC };
    struct export *export = NULL;

    return registry_add(f->registry, &spec, false, &export, why);
}

/* ---- What may change ---- */

static void what_may_change_is_changed_whole_or_not_at_all(void **state)
{
    struct fixture *f = *state;
    struct export *export = plain_disk(f, f->path);
    const char *acl[] = { "192.0.2.0/24", "::1", NULL }, *junk[] = { "192.0.2.0/33", NULL };
    struct export_spec spec, now;
    struct nbd_failure why;

    export_get_spec(export, &spec);
    assert_null(spec.acl[0]);
    spec.description = "new";
    spec.acl = acl;
    spec.default_deny = spec.hidden = true;
    spec.max_connections = 3;
    spec.request_timeout_s = 4;
    spec.drain_timeout_s = 5;
    assert_int_equal(export_apply(export, &spec, &why), 0);
    export_get_spec(export, &now);
    assert_int_equal(export_apply(export, &now, &why), 0); /* its own strings may be given */
    now.acl = junk;
    now.description = "newer";
    assert_int_equal(export_apply(export, &now, &why), -EINVAL);

    export_get_spec(export, &now);
    assert_string_equal(now.description, "new");
    assert_string_equal(now.acl[0], "192.0.2.0/24");
    assert_string_equal(now.acl[1], "::1");
    assert_null(now.acl[2]);
    assert_true(now.default_deny && now.hidden);
    assert_int_equal(now.max_connections, 3);
    assert_int_equal(now.request_timeout_s, 4);
    assert_int_equal(now.drain_timeout_s, 5);
    assert_non_null(strstr(why.message, "192.0.2.0/33"));
}

static void an_access_list_that_makes_no_sense_makes_no_export(void **state)
{
    struct fixture *f = *state;
    const char *junk[] = { "everybody", NULL };
    struct export_spec spec = { .name = "x", .handler = "null", .target = "x", .acl = junk };
    struct export *export;
    struct nbd_failure why;

    assert_int_equal(registry_add(f->registry, &spec, false, &export, &why), -EINVAL);
    assert_non_null(strstr(why.message, "everybody"));
    assert_int_equal(registry_size(f->registry), 0);
}

/* ---- Names ---- */

static void names_that_cannot_be_are_refused_with_a_sentence(void **state)
{
    struct fixture *f = *state;
    g_autofree char *longest = g_strnfill(EXPORT_NAME_MAX, 'n');
    g_autofree char *longer = g_strnfill(EXPORT_NAME_MAX + 1, 'n');
    const struct { const char *name, *text; } bad[] = {
        { longer, "255" }, { "a\xff", "UTF-8" }, { "a\nb", "control characters" },
        { "a\x7f", "control characters" }, { "@map/x", "'@'" }, { "/abs", "'/'" },
        { " a", "space" }, { "a ", "space" }, { "..", "\"..\"" }, { "a/../b", "\"..\"" },
        { "../b", "\"..\"" }, { "a/..", "\"..\"" },
    };
    struct nbd_failure why;

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        assert_int_equal(adds(f, bad[i].name, "null", "x", &why), -EINVAL);
        assert_int_equal(why.code, EINVAL);
        if (strstr(why.message, bad[i].text) == NULL)
            fail_msg("\"%s\" is not in: %s", bad[i].text, why.message);
    }
    assert_int_equal(adds(f, longest, "null", "x", &why), 0);
    assert_int_equal(registry_size(f->registry), 1);
}

static void without_a_name_it_is_the_handler_and_the_target(void **state)
{
    struct fixture *f = *state;
    struct nbd_failure why;

    assert_int_equal(adds(f, NULL, "null", "//srv/disk1", &why), 0);
    assert_int_equal(adds(f, "", "null", "vol/disk2", &why), 0);

    assert_non_null(registry_find(f->registry, "null/srv/disk1"));
    assert_non_null(registry_find(f->registry, "null/vol/disk2"));
}

static void a_target_that_cannot_be_is_refused(void **state)
{
    struct fixture *f = *state;
    g_autofree char *longer = g_strnfill(EXPORT_TARGET_MAX + 1, 't');
    struct nbd_failure why;

    assert_int_equal(adds(f, "a", "null", "", &why), -EINVAL);
    assert_int_equal(adds(f, "a", "null", longer, &why), -EINVAL);
    assert_int_equal(adds(f, "a", "null", "\xff", &why), -EINVAL);
}

static void a_name_or_a_backstore_that_is_taken_says_by_whom(void **state)
{
    struct fixture *f = *state;
    struct nbd_failure why;

    assert_int_equal(adds(f, "disk1", "null", "x", &why), 0);
    assert_int_equal(adds(f, "disk1", "null", "y", &why), -EEXIST);
    assert_non_null(strstr(why.message, "\"disk1\""));
    assert_non_null(strstr(why.message, "control port"));
    assert_int_equal(adds(f, "disk2", "null", "x", &why), -EEXIST);
    assert_non_null(strstr(why.message, "\"disk1\""));

    assert_int_equal(adds(f, "disk2", "mem", "x", &why), 0);
}

static void a_handler_that_is_missing_is_named(void **state)
{
    struct fixture *f = *state;
    struct export_spec saved = { .name = "old", .handler = "tape", .target = "x",
                                 .id = "0b2e8c60-7d2f-4b55-8c66-3b1c6f1f2a77" };
    struct nbd_failure why;
    struct export *export;
    struct outcome outcome;

    assert_int_equal(adds(f, "new", "tape", "x", &why), -ENOENT);
    assert_non_null(strstr(why.message, "\"tape\""));
    assert_int_equal(registry_add(f->registry, &saved, false, &export, &why), 0);
    assert_int_equal(export->state, EXPORT_FAULTED);
    outcome = opens(f, export);

    assert_int_equal(outcome.result, -ENOENT);
    assert_non_null(strstr(outcome.message, "\"tape\" is not loaded"));
}

static void exports_are_walked_in_the_order_of_bytes(void **state)
{
    static const char *const names[] = { "b", "a/z", "a", "Z", "\xc3\xa4" };
    static const char *const sorted[] = { "Z", "a", "a/z", "b", "\xc3\xa4" };
    struct fixture *f = *state;
    struct export *export = NULL;
    struct nbd_failure why;

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++)
        assert_int_equal(adds(f, names[i], "null", names[i], &why), 0);
    for (size_t i = 0; i < G_N_ELEMENTS(sorted); i++) {
        export = registry_next(f->registry, export != NULL ? export->name : NULL);
        assert_non_null(export);
        assert_string_equal(export->name, sorted[i]);
    }

    assert_null(registry_next(f->registry, export->name));
    assert_string_equal(registry_next(f->registry, "aa")->name, "b");
}

/* ---- Opening and closing ---- */

static void an_export_is_opened_by_its_first_user_and_closed_after_its_last(void **state)
{
    struct fixture *f = *state;
    struct export *export = plain_disk(f, f->path);

    assert_false(is_open(f->path));
    assert_int_equal(opens(f, export).result, 0);
    assert_true(is_open(f->path));
    assert_int_equal(export->size, 16);
    assert_int_equal(opens(f, export).result, 0);
    export_close(export);
    harness_settle(f->harness);
    assert_true(is_open(f->path));
    export_close(export);
    harness_settle(f->harness);
    assert_true(is_open(f->path)); /* it lingers for the next one */
    harness_wait(f->harness, is_closed, f->path);

    assert_int_equal(opens(f, export).result, 0);
    assert_true(is_open(f->path));
    export_close(export);
}

static void close_now_does_not_linger_but_waits_for_users(void **state)
{
    struct fixture *f = *state;
    struct export *export = plain_disk(f, f->path);
    struct outcome closed = { 0 };

    assert_int_equal(opens(f, export).result, 0);
    export_close_now(export, on_event, &closed);
    harness_settle(f->harness);
    assert_false(closed.ended);
    assert_true(is_open(f->path));
    export_close(export);
    harness_wait(f->harness, has_ended, &closed);
    assert_false(is_open(f->path));

    closed = (struct outcome){ 0 };
    export_close_now(export, on_event, &closed);
    assert_true(closed.ended);
}

static void everybody_who_waits_for_it_to_close_is_told(void **state)
{
    struct fixture *f = *state;
    struct export *export = plain_disk(f, f->path);
    struct outcome one = { 0 }, two = { 0 };

    assert_int_equal(opens(f, export).result, 0);
    export_close_now(export, on_event, &one);
    export_close_now(export, on_event, &two);
    export_close(export);
    harness_wait(f->harness, has_ended, &one);
    harness_wait(f->harness, has_ended, &two);

    assert_int_equal(one.times, 1);
    assert_int_equal(two.times, 1);
}

static void a_user_that_comes_while_it_closes_gets_it_open_again(void **state)
{
    struct fixture *f = *state;
    struct export *export = plain_disk(f, f->path);
    struct outcome closed = { 0 };

    assert_int_equal(opens(f, export).result, 0);
    export_close(export);
    export_close_now(export, on_event, &closed);

    assert_int_equal(opens(f, export).result, 0);
    assert_true(is_open(f->path));
    export_close(export);
}

static void all_who_wait_for_an_open_are_told(void **state)
{
    struct fixture *f = *state;
    struct export *export = harness_add_export(f->harness, "slow", "fault", "x",
                                               "size=1M open_delay_ms=10", false);
    struct outcome outcomes[5] = { { 0 } };

    for (size_t i = 0; i < 5; i++)
        export_open(export, 0, on_done, &outcomes[i]);
    for (size_t i = 0; i < 5; i++) {
        assert_false(outcomes[i].ended);
    }
    harness_wait(f->harness, has_ended, &outcomes[4]);

    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(outcomes[i].result, 0);
        assert_int_equal(outcomes[i].times, 1);
        export_close(export);
    }
}

static void an_open_that_fails_says_why_and_may_succeed_later(void **state)
{
    struct fixture *f = *state;
    g_autofree char *missing = harness_path(f->harness, "missing");
    struct export *export = plain_disk(f, missing);
    struct outcome outcome = opens(f, export);

    assert_int_equal(outcome.result, -ENOENT);
    assert_non_null(strstr(outcome.message, missing));
    assert_int_equal(export->state, EXPORT_FAULTED);
    assert_int_equal(harness_count_in_log(f->harness, "cannot be opened"), 1);
    assert_true(g_file_set_contents(missing, "x", 1, NULL));
    assert_int_equal(opens(f, export).result, 0);

    assert_int_equal(export->state, EXPORT_READY);
    assert_int_equal(harness_count_in_log(f->harness, "is back"), 1);
    export_close(export);
}

static void who_waits_too_long_is_told_and_the_late_open_is_kept_for_a_while(void **state)
{
    struct fixture *f = *state;
    g_autofree char *hold = harness_path(f->harness, "hold");
    g_autofree char *opts = g_strdup_printf("size=1M open_hold=%s", hold);
    struct export *export;
    struct outcome outcome = { 0 }, second = { 0 };

    assert_true(g_file_set_contents(hold, "", 0, NULL));
    export = harness_add_export(f->harness, "slow", "fault", "x", opts, false);
    export_open(export, 20, on_done, &outcome);
    export_open(export, 0, on_done, &second);
    harness_wait(f->harness, has_ended, &outcome);
    assert_int_equal(outcome.result, -ETIMEDOUT);
    assert_non_null(strstr(outcome.message, "did not open in time"));
    assert_false(second.ended);
    unlink(hold);
    harness_wait(f->harness, has_ended, &second);

    assert_int_equal(second.result, 0);
    assert_int_equal(outcome.times, 1);
    export_close(export);
}

/* A FIFO opens for reading when somebody opens it for writing: the handler waits in map(). */
static void a_late_open_that_nobody_wants_any_more_is_closed_again(void **state)
{
    struct fixture *f = *state;
    g_autofree char *fifo = harness_path(f->harness, "fifo");
    struct export *export;
    struct outcome outcome = { 0 };
    FILE *writer;

    assert_int_equal(mkfifo(fifo, 0600), 0);
    export = harness_add_export(f->harness, "fifo", "plain", fifo, NULL, true);
    export_open(export, 20, on_done, &outcome);
    harness_wait(f->harness, has_ended, &outcome);
    assert_int_equal(outcome.result, -ETIMEDOUT);
    writer = fopen(fifo, "w");
    fclose(writer);
    harness_wait(f->harness, is_open_now, fifo);
    harness_settle(f->harness);

    harness_wait(f->harness, is_closed, fifo);
}

/* ---- Backstores that are away ---- */

static struct export *away(struct fixture *f, const char *name, const char *error,
                           char **ret_path)
{
    g_autofree char *opts = NULL;

    *ret_path = harness_path(f->harness, name);
    assert_true(g_file_set_contents(*ret_path, "", 0, NULL));
    opts = g_strdup_printf("size=1M open_error=%s open_error_if=%s", error, *ret_path);
    return harness_add_export(f->harness, name, "fault", name, opts, false);
}

static bool is_ready(void *export)
{
    return ((struct export *)export)->state == EXPORT_READY;
}

static bool is_faulted(void *export)
{
    return ((struct export *)export)->state == EXPORT_FAULTED;
}

static void a_backstore_that_does_not_open_is_tried_again_and_comes_back(void **state)
{
    struct fixture *f = *state;
    g_autofree char *path = NULL;
    struct export *export = away(f, "lun", "EIO", &path);
    unsigned before;

    assert_int_equal(opens(f, export).result, -EIO);
    assert_int_equal(export->state, EXPORT_FAULTED);
    assert_string_equal(export->fault.message, "open_error=Input/output error");
    before = harness_count_in_log(f->harness, "cannot be opened");
    unlink(path);
    harness_wait(f->harness, is_ready, export); /* with nobody asking */

    assert_int_equal(before, 1);
    assert_int_equal(harness_count_in_log(f->harness, "is back"), 1);
    assert_int_equal(opens(f, export).result, 0);
    export_close(export);
}

static void who_wants_a_faulted_export_does_not_wait_for_the_next_attempt(void **state)
{
    struct fixture *f = *state;
    g_autofree char *path = NULL;
    struct export *export = away(f, "lun", "EIO", &path);

    assert_int_equal(opens(f, export).result, -EIO);
    unlink(path);
    assert_int_equal(opens(f, export).result, 0);

    assert_int_equal(export->state, EXPORT_READY);
    export_close(export);
}

static void a_faulted_export_that_is_removed_is_not_tried_again(void **state)
{
    struct fixture *f = *state;
    g_autofree char *path = NULL;
    struct export *export = away(f, "lun", "EIO", &path);
    struct outcome gone = { 0 };

    assert_int_equal(opens(f, export).result, -EIO);
    registry_remove(export, on_event, &gone);

    harness_wait(f->harness, has_ended, &gone);
}

static bool are_checked(void *registry)
{
    for (struct export *e = registry_next(registry, NULL); e != NULL;
         e = registry_next(registry, e->name))
        if (e->flags == 0 && e->state == EXPORT_READY)
            return false;
    return true;
}

static void every_export_is_looked_at_once_and_closed_again(void **state)
{
    struct fixture *f = *state;
    g_autofree char *hold = harness_path(f->harness, "hold");
    g_autofree char *held = g_strdup_printf("size=1M open_hold=%s", hold);
    g_autofree char *path = NULL;
    struct export *disk = plain_disk(f, f->path), *lun = away(f, "lun", "EIO", &path);
    struct export *stuck;

    assert_true(g_file_set_contents(hold, "", 0, NULL));
    stuck = harness_add_export(f->harness, "a", "fault", "stuck", held, false);
    for (int i = 0; i < 40; i++) {
        g_autofree char *name = g_strdup_printf("mem%d", i);

        harness_add_export(f->harness, name, "mem", name, "size=1M", false);
    }
    registry_check_all(f->registry);
    harness_wait(f->harness, is_faulted, lun);
    harness_wait(f->harness, is_closed, f->path);
    assert_int_equal(disk->state, EXPORT_READY);
    assert_int_equal(disk->size, 16);
    assert_int_equal(stuck->flags, 0); /* one that hangs does not hold the others up */
    unlink(hold);

    harness_wait(f->harness, are_checked, f->registry);
}

/* ---- Removing ---- */

static void a_removed_export_is_hidden_at_once_and_gone_after_its_last_user(void **state)
{
    struct fixture *f = *state;
    struct export *export = plain_disk(f, f->path);
    struct outcome gone = { 0 }, late = { 0 };
    struct nbd_failure why;

    assert_int_equal(opens(f, export).result, 0);
    registry_remove(export, on_event, &gone);
    assert_null(registry_find(f->registry, "disk"));
    assert_null(registry_find_backstore(f->registry, "plain", f->path));
    assert_int_equal(adds(f, "disk", "null", "x", &why), 0); /* the name is free */
    export_open(export, 0, on_done, &late);
    assert_int_equal(late.result, -EBUSY);
    harness_settle(f->harness);
    assert_false(gone.ended);
    export_close(export);
    harness_wait(f->harness, has_ended, &gone);

    assert_false(is_open(f->path));
    assert_int_equal(gone.times, 1);
}

static void an_export_that_was_never_opened_is_gone_at_once(void **state)
{
    struct fixture *f = *state;
    struct export *export = plain_disk(f, f->path);
    struct outcome gone = { 0 };

    registry_remove(export, on_event, &gone);

    assert_true(gone.ended);
    assert_int_equal(registry_size(f->registry), 0);
}

static void who_waits_for_an_export_that_is_removed_is_told(void **state)
{
    struct fixture *f = *state;
    struct export *slow = harness_add_export(f->harness, "slow", "fault", "x",
                                             "size=1M open_delay_ms=20", false);
    struct outcome outcome = { 0 }, gone = { 0 };

    export_open(slow, 0, on_done, &outcome);
    registry_remove(slow, on_event, &gone);
    harness_wait(f->harness, has_ended, &outcome);
    if (outcome.result == 0)
        export_close(slow);
    harness_wait(f->harness, has_ended, &gone);

    assert_int_equal(outcome.times, 1);
}

static void a_removed_export_serves_its_clients_until_they_leave(void **state)
{
    struct fixture *f = *state;
    struct export *export = plain_disk(f, f->path);
    struct client *client = client_on(f->harness, "disk");
    struct outcome gone = { 0 };

    registry_remove(export, on_event, &gone);
    client_reads_back(client, 0, "0123456789abcdef", 16);
    assert_false(gone.ended);
    client_leave(client);

    harness_wait(f->harness, has_ended, &gone);
}

/* ---- Creating and deleting ---- */

static struct export *creating(struct fixture *f, const char *handler, const char *target,
                               uint64_t size)
{
    struct export_spec spec = { .name = "new", .handler = handler, .target = target,
                                .size = size, .origin = EXPORT_BY_RPC };
    struct export *export;
    struct nbd_failure why;

    assert_int_equal(registry_add(f->registry, &spec, true, &export, &why), 0);
    assert_int_equal(export->state, EXPORT_CREATING);
    return export;
}

static void an_export_is_ready_when_its_store_was_created(void **state)
{
    struct fixture *f = *state;
    g_autofree char *path = harness_path(f->harness, "new");
    struct export *export = creating(f, "plain", path, 4096);
    struct outcome outcome = { 0 }, early = { 0 };

    export_create(export, on_done, &outcome);
    export_open(export, 0, on_done, &early);
    assert_int_equal(early.result, -EBUSY);
    assert_non_null(strstr(early.message, "being created"));
    harness_wait(f->harness, has_ended, &outcome);
    assert_int_equal(outcome.result, 0);
    assert_int_equal(export->state, EXPORT_READY);
    assert_int_equal(opens(f, export).result, 0);

    assert_int_equal(export->size, 4096);
    export_close(export);
}

static void a_backstore_is_known_however_it_is_written(void **state)
{
    static const struct { const char *handler, *first, *second; bool same; } pairs[] = {
        { "file", "/srv/a", "/srv//a", true },      { "file", "/srv/a", "//srv/./a", true },
        { "file", "/root/a", "a", true },           { "file", "a", "./a", true },
        { "file", "/srv/a", "/srv/x/../a", false }, { "file", "/srv/a", "/srv/b", false },
        { "gluster", "vol/a", "vol///a", true },    { "gluster", "vol/a/b", "vol/ab", false },
        { "null", "a/b", "a//b", false },           { "ceph", "p/a", "p//a", false },
    };

    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(pairs); i++) {
        g_autofree char *first = export_store_key(pairs[i].handler, pairs[i].first, "/root");
        g_autofree char *second = export_store_key(pairs[i].handler, pairs[i].second, "/root");

        assert_int_equal(strcmp(first, second) == 0, pairs[i].same);
    }
}

static void another_way_to_write_a_backstore_that_is_taken_is_refused(void **state)
{
    struct fixture *f = *state;
    g_autofree char *other = g_strconcat("/.", f->path, NULL);
    struct nbd_failure why;

    assert_int_equal(adds(f, "disk", "file", f->path, &why), 0);
    assert_int_equal(adds(f, "again", "file", other, &why), -EEXIST);
    assert_non_null(strstr(why.message, "\"disk\""));
    assert_non_null(registry_find_backstore(f->harness->server->registry, "file", other));
}

static void a_create_that_fails_says_why(void **state)
{
    struct fixture *f = *state;
    struct export *export = creating(f, "plain", f->path, 4096); /* it is there already */
    struct outcome outcome = { 0 }, gone = { 0 };

    export_create(export, on_done, &outcome);
    harness_wait(f->harness, has_ended, &outcome);
    assert_int_equal(outcome.result, -EEXIST);
    assert_non_null(strstr(outcome.message, f->path));
    assert_int_equal(export->state, EXPORT_CREATING);
    registry_remove(export, on_event, &gone);
    harness_wait(f->harness, has_ended, &gone);

    assert_int_equal(registry_size(f->registry), 0);
}

static void a_create_may_be_canceled_before_its_target_was_understood(void **state)
{
    struct fixture *f = *state;
    g_autofree char *hold = harness_path(f->harness, "hold");
    GHashTable *opts = g_hash_table_new(g_str_hash, g_str_equal);
    struct export_spec spec = { .name = "new", .handler = "fault", .target = "x", .opts = opts,
                                .size = 4096, .origin = EXPORT_BY_RPC };
    struct outcome outcome = { 0 }, gone = { 0 };
    struct export *export;

    g_hash_table_insert(opts, (char *)"parse_hold", hold);
    assert_true(g_file_set_contents(hold, "", 0, NULL));
    assert_int_equal(registry_add(f->registry, &spec, true, &export, NULL), 0);
    export_create(export, on_done, &outcome);
    export_create_cancel(export);
    unlink(hold);
    harness_wait(f->harness, has_ended, &outcome);

    assert_int_equal(outcome.result, -ECANCELED);
    registry_remove(export, on_event, &gone);
    harness_wait(f->harness, has_ended, &gone);
    g_hash_table_unref(opts);
}

static void delete_closes_first_and_then_removes_the_store(void **state)
{
    struct fixture *f = *state;
    struct export *export = plain_disk(f, f->path);
    struct outcome deleted = { 0 }, again = { 0 };

    assert_int_equal(opens(f, export).result, 0);
    export_close(export);
    export_delete(export, on_done, &deleted);
    export_delete(export, on_done, &again);
    assert_int_equal(again.result, -EBUSY);
    harness_wait(f->harness, has_ended, &deleted);

    assert_int_equal(deleted.result, 0);
    assert_false(is_open(f->path));
    assert_int_equal(access(f->path, F_OK), -1);
}

static void a_store_that_is_gone_already_counts_as_deleted(void **state)
{
    struct fixture *f = *state;
    struct export *export = plain_disk(f, f->path);
    struct outcome deleted = { 0 };

    unlink(f->path);
    export_delete(export, on_done, &deleted);
    harness_wait(f->harness, has_ended, &deleted);

    assert_int_equal(deleted.result, 0);
}

static void a_user_that_comes_during_a_delete_does_not_stop_it(void **state)
{
    struct fixture *f = *state;
    struct export *export = plain_disk(f, f->path);
    struct outcome deleted = { 0 }, late = { 0 };

    assert_int_equal(opens(f, export).result, 0);
    export_close(export);
    export_delete(export, on_done, &deleted);
    export_open(export, 0, on_done, &late);
    harness_wait(f->harness, has_ended, &deleted);
    harness_wait(f->harness, has_ended, &late);

    assert_int_equal(deleted.result, 0);
    assert_int_equal(late.result, -ENOENT);
}

/* ---- Files that are replaced, names that come back ---- */

static struct export *add_configured(struct fixture *f, const char *name, const char *target,
                                     uint64_t serve_bytes, uint16_t flags_off)
{
    struct export_spec spec = { .name = name, .handler = "file", .target = target,
                                .origin = EXPORT_BY_CONFIG, .origin_file = "/etc/a.conf",
                                .serve_bytes = serve_bytes, .flags_off = flags_off };
    struct export *export;
    struct nbd_failure why;

    if (registry_add(f->registry, &spec, false, &export, &why) < 0)
        fail_msg("%s", why.message);
    return export;
}

static void replace_file(const char *path, const char *content)
{
    g_autofree char *fresh = g_strconcat(path, ".new", NULL);

    assert_true(g_file_set_contents(fresh, content, -1, NULL));
    assert_int_equal(rename(fresh, path), 0);
}

static void nobody_joins_those_who_see_another_file(void **state)
{
    struct fixture *f = *state;
    struct export *export = add_configured(f, "x", f->path, 0, 0);
    struct outcome first = opens(f, export), second;

    assert_int_equal(first.result, 0);
    replace_file(f->path, "another");
    second = opens(f, export);
    assert_int_equal(second.result, -ESHUTDOWN);
    assert_non_null(strstr(second.message, "is another file now"));

    export_close(export);
    second = opens(f, export);
    assert_int_equal(second.result, 0);
    assert_int_equal(export->size, strlen("another"));
    export_close(export);
}

static void a_file_that_is_unlinked_serves_whoever_comes(void **state)
{
    struct fixture *f = *state;
    struct export *export = add_configured(f, "x", f->path, 0, 0);

    assert_int_equal(opens(f, export).result, 0);
    assert_int_equal(unlink(f->path), 0);
    assert_int_equal(opens(f, export).result, 0);
    export_close(export);
    export_close(export);
}

static void what_nobody_uses_is_opened_anew_when_its_file_is_another(void **state)
{
    struct fixture *f = *state;
    struct export *export = add_configured(f, "x", f->path, 0, 0);

    assert_int_equal(opens(f, export).result, 0);
    export_close(export); /* it stays open for a while */
    replace_file(f->path, "another");
    assert_int_equal(opens(f, export).result, 0);
    assert_int_equal(export->size, strlen("another"));
    export_close(export);
}

static void a_name_with_other_bytes_waits_for_the_last_user_of_the_old_ones(void **state)
{
    struct fixture *f = *state;
    g_autofree char *other = harness_path(f->harness, "other");
    struct export *old = add_configured(f, "x", f->path, 0, 0), *new;
    struct outcome outcome, gone = { 0 };

    assert_true(g_file_set_contents(other, "other", -1, NULL));
    assert_int_equal(opens(f, old).result, 0);
    registry_remove(old, on_event, &gone);
    new = add_configured(f, "x", other, 0, 0);
    assert_ptr_equal(registry_next_leaving(f->registry, NULL, NULL), old);
    outcome = opens(f, new);
    assert_int_equal(outcome.result, -ESHUTDOWN);
    assert_non_null(strstr(outcome.message, f->path));

    export_close(old);
    harness_wait(f->harness, has_ended, &gone);
    assert_null(registry_next_leaving(f->registry, NULL, NULL));
    assert_int_equal(opens(f, new).result, 0);
    export_close(new);
}

static void an_export_that_drains_can_come_back(void **state)
{
    struct fixture *f = *state;
    struct export *export = add_configured(f, "x", f->path, 0, 0);
    struct outcome gone = { 0 };

    assert_int_equal(opens(f, export).result, 0);
    registry_remove(export, on_event, &gone);
    assert_null(registry_find(f->registry, "x"));
    registry_revive(export);

    assert_ptr_equal(registry_find(f->registry, "x"), export);
    assert_ptr_equal(registry_find_backstore(f->registry, "file", f->path), export);
    assert_int_equal(export->state, EXPORT_READY);
    assert_int_equal(opens(f, export).result, 0);
    export_close(export);
    export_close(export);
    harness_settle(f->harness);
    assert_false(gone.ended);
}

static void as_many_bytes_are_served_as_the_definition_says(void **state)
{
    struct fixture *f = *state; /* the file has 16 */
    struct export *part = add_configured(f, "part", f->path, 10, NBD_FLAG_SEND_TRIM);
    struct export *more;
    struct outcome outcome = { 0 };

    assert_int_equal(opens(f, part).result, 0);
    assert_int_equal(part->size, 10);
    assert_int_equal(part->flags & (NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_FLUSH),
                     NBD_FLAG_SEND_FLUSH);
    export_close(part);
    export_close_now(part, on_event, &outcome);
    harness_wait(f->harness, is_closed, f->path);

    more = add_configured(f, "more", f->path, 17, 0);
    outcome = opens(f, more);
    assert_int_equal(outcome.result, -EINVAL);
    assert_non_null(strstr(outcome.message, "has 16 bytes, but the export is to have 17"));
}

static void files_may_name_one_backstore_twice(void **state)
{
    struct fixture *f = *state;
    struct export *a = add_configured(f, "a", f->path, 0, 0);
    struct export *b = add_configured(f, "b", f->path, 0, 0);
    struct nbd_failure why;

    assert_int_equal(adds(f, "c", "file", f->path, &why), -EEXIST);
    assert_ptr_equal(registry_find_backstore(f->registry, "file", f->path), a);
    registry_remove(a, NULL, NULL);
    assert_ptr_equal(registry_find_backstore(f->registry, "file", f->path), b);
    registry_remove(b, NULL, NULL);
    assert_null(registry_find_backstore(f->registry, "file", f->path));
    assert_int_equal(adds(f, "c", "file", f->path, &why), 0);
}

int main(void)
{
#define A_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        A_TEST(names_that_cannot_be_are_refused_with_a_sentence),
        A_TEST(what_may_change_is_changed_whole_or_not_at_all),
        A_TEST(an_access_list_that_makes_no_sense_makes_no_export),
        A_TEST(without_a_name_it_is_the_handler_and_the_target),
        A_TEST(a_target_that_cannot_be_is_refused),
        A_TEST(a_name_or_a_backstore_that_is_taken_says_by_whom),
        A_TEST(a_handler_that_is_missing_is_named),
        A_TEST(exports_are_walked_in_the_order_of_bytes),
        A_TEST(an_export_is_opened_by_its_first_user_and_closed_after_its_last),
        A_TEST(close_now_does_not_linger_but_waits_for_users),
        A_TEST(everybody_who_waits_for_it_to_close_is_told),
        A_TEST(a_user_that_comes_while_it_closes_gets_it_open_again),
        A_TEST(all_who_wait_for_an_open_are_told),
        A_TEST(an_open_that_fails_says_why_and_may_succeed_later),
        A_TEST(who_waits_too_long_is_told_and_the_late_open_is_kept_for_a_while),
        A_TEST(a_late_open_that_nobody_wants_any_more_is_closed_again),
        A_TEST(a_backstore_that_does_not_open_is_tried_again_and_comes_back),
        A_TEST(who_wants_a_faulted_export_does_not_wait_for_the_next_attempt),
        A_TEST(a_faulted_export_that_is_removed_is_not_tried_again),
        A_TEST(every_export_is_looked_at_once_and_closed_again),
        A_TEST(a_removed_export_is_hidden_at_once_and_gone_after_its_last_user),
        A_TEST(an_export_that_was_never_opened_is_gone_at_once),
        A_TEST(who_waits_for_an_export_that_is_removed_is_told),
        A_TEST(a_removed_export_serves_its_clients_until_they_leave),
        A_TEST(nobody_joins_those_who_see_another_file),
        A_TEST(a_file_that_is_unlinked_serves_whoever_comes),
        A_TEST(what_nobody_uses_is_opened_anew_when_its_file_is_another),
        A_TEST(a_name_with_other_bytes_waits_for_the_last_user_of_the_old_ones),
        A_TEST(an_export_that_drains_can_come_back),
        A_TEST(as_many_bytes_are_served_as_the_definition_says),
        A_TEST(files_may_name_one_backstore_twice),
        A_TEST(an_export_is_ready_when_its_store_was_created),
        A_TEST(a_backstore_is_known_however_it_is_written),
        A_TEST(another_way_to_write_a_backstore_that_is_taken_is_refused),
        A_TEST(a_create_that_fails_says_why),
        A_TEST(a_create_may_be_canceled_before_its_target_was_understood),
        A_TEST(delete_closes_first_and_then_removes_the_store),
        A_TEST(a_store_that_is_gone_already_counts_as_deleted),
        A_TEST(a_user_that_comes_during_a_delete_does_not_stop_it),
    };

    return cmocka_run_group_tests_name("export", tests, NULL, NULL);
}
