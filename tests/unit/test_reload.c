/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What configuration files say of exports, and the difference between two readings of them.
 * No daemon runs: nothing is served here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "log.h"
#include "nbd_protocol.h"
#include "reload_plan.h"

struct fixture {
    char *dir, *conf_dir;
    struct config *config; /* the command line: --dir DIR */
    GHashTable *current;   /* as a daemon would have it */
};

/* ---- Files ---- */

static int set_up(void **state)
{
    struct fixture *fixture = g_new0(struct fixture, 1);
    char *arguments[] = { (char *)"nbd-runner", (char *)"--dir", NULL, NULL };
    enum config_verdict verdict;
    struct nbd_failure why;

    log_set_target("file:/dev/null");
    arguments[2] = fixture->dir = g_dir_make_tmp("nr-reload-XXXXXX", NULL);
    fixture->conf_dir = g_build_filename(fixture->dir, "conf.d", NULL);
    assert_int_equal(g_mkdir(fixture->conf_dir, 0700), 0);
    fixture->config = config_new();
    assert_int_equal(config_load(fixture->config, 3, arguments, &verdict, &why), 0);
    fixture->current = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, export_def_unref);
    *state = fixture;
    return 0;
}

static void empty(const char *path)
{
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        g_autofree char *file = g_build_filename(path, name, NULL);

        g_unlink(file);
    }
    if (dir != NULL)
        g_dir_close(dir);
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;

    empty(fixture->conf_dir);
    g_rmdir(fixture->conf_dir);
    empty(fixture->dir);
    g_rmdir(fixture->dir);
    g_hash_table_unref(fixture->current);
    config_free(fixture->config);
    g_free(fixture->conf_dir);
    g_free(fixture->dir);
    g_free(fixture);
    log_set_target("stderr");
    return 0;
}

/* "conf.d/a.conf"; text NULL: the file goes. */
static void put(const struct fixture *fixture, const char *name, const char *text)
{
    g_autofree char *path = g_build_filename(fixture->dir, name, NULL);

    if (text != NULL)
        assert_true(g_file_set_contents(path, text, -1, NULL));
    else
        assert_int_equal(g_unlink(path), 0);
}

static struct config_set *read_all(const struct fixture *fixture)
{
    return config_set_read(fixture->config, true);
}

static struct config_unit *unit_of(const struct config_set *set, const char *name)
{
    for (guint i = 0; i < set->units->len; i++) {
        struct config_unit *unit = set->units->pdata[i];

        if (g_str_has_suffix(unit->file, name))
            return unit;
    }
    fail_msg("no file %s was read", name);
    return NULL;
}

static void assert_has(const GPtrArray *texts, const char *part)
{
    for (guint i = 0; i < texts->len; i++)
        if (strstr(texts->pdata[i], part) != NULL)
            return;
    fail_msg("nothing says \"%s\"; the first is \"%s\"", part,
             texts->len > 0 ? (char *)texts->pdata[0] : "");
}

/* ---- A daemon that applies all ---- */

static const char *foreign(void *arg, const char *name)
{
    return g_strcmp0(arg, name) == 0 ? "a create through the control port" : NULL;
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* "a:add b:keep c:remove", in order of names. */
static char *letters(const GArray *steps)
{
    static const char *const words[] = { "keep", "limits", "replace", "add", "remove" };
    g_autoptr(GPtrArray) texts = g_ptr_array_new_with_free_func(g_free);

    for (guint i = 0; i < steps->len; i++) {
        const struct plan_step *step = &g_array_index(steps, struct plan_step, i);

        g_ptr_array_add(texts, g_strdup_printf(
            "%s:%s", step->def != NULL ? step->def->name : step->before->name,
            words[step->action]));
    }
    g_ptr_array_sort(texts, by_bytes);
    g_ptr_array_add(texts, NULL);
    return g_strjoinv(" ", (char **)texts->pdata);
}

static void apply(struct fixture *fixture, const GArray *steps)
{
    GHashTable *fresh = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, export_def_unref);

    for (guint i = 0; i < steps->len; i++) {
        const struct plan_step *step = &g_array_index(steps, struct plan_step, i);

        if (step->def != NULL)
            g_hash_table_replace(fresh, step->def->name, export_def_ref(step->def));
    }
    g_hash_table_unref(fixture->current);
    fixture->current = fresh;
}

/* Reads, compares, applies; the steps have to be these. `taken`: by the control port. */
static void reload(struct fixture *fixture, const char *taken, const char *wanted)
{
    struct config_set *set = read_all(fixture);
    GArray *steps;
    g_autofree char *found = NULL;

    plan_resolve(set, fixture->current, foreign, (void *)taken);
    steps = plan_make(set, fixture->current);
    found = letters(steps);
    assert_string_equal(found, wanted);
    apply(fixture, steps);
    g_array_unref(steps);
    config_set_free(set);
}

/* ---- Sections ---- */

static struct export_def *parse(const char *text, GPtrArray *problems, GPtrArray *ignored)
{
    struct ini *ini;
    struct export_def *def;

    if (ini_parse("/etc/x/t.conf", text, strlen(text), &ini, problems) < 0)
        return NULL;
    assert_true(ini->sections->len > 0);
    def = export_def_new(ini, ini->sections->pdata[0], problems, ignored);
    ini_free(ini);
    return def;
}

static void a_section_defines_an_export(void **state)
{
    g_autoptr(GPtrArray) problems = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) ignored = g_ptr_array_new_with_free_func(g_free);
    struct export_def *def = parse(
        "[vol 1]\r\n"
        "backstore = gluster\r\n"
        "target = v/f\r\n"
        "opt.host = g1\r\n"
        "size = 2G\r\n"
        "readonly = true\r\n"
        "trim = false\r\n"
        "rotational = true\r\n"
        "detect-zeroes = on\r\n"
        "description = what it is\r\n"
        "hidden = 1\r\n"
        "acl = 10.0.0.0/8, ::1\r\n"
        "default_deny = true\r\n"
        "max_connections = 3\r\n"
        "request_timeout = 4\r\n"
        "drain_timeout = 5\r\n"
        "timeout = 30\r\n"
        "copyonwrite = false\r\n", problems, ignored);

    (void)state;
    assert_int_equal(problems->len, 0);
    assert_non_null(def);
    assert_string_equal(def->name, "vol 1");
    assert_string_equal(def->handler, "gluster");
    assert_string_equal(def->target, "v/f");
    assert_string_equal(g_hash_table_lookup(def->opts, "host"), "g1");
    assert_string_equal(g_hash_table_lookup(def->opts, "detect-zeroes"), "on");
    assert_true(def->size == UINT64_C(2) << 30);
    assert_true(def->readonly && def->hidden && def->default_deny);
    assert_int_equal(def->flags_off, NBD_FLAG_SEND_TRIM);
    assert_int_equal(def->flags_on, NBD_FLAG_ROTATIONAL);
    assert_string_equal(def->description, "what it is");
    assert_string_equal(def->acl[1], "::1");
    assert_null(def->acl[2]);
    assert_int_equal(def->max_connections, 3);
    assert_int_equal(def->request_timeout_s, 4);
    assert_int_equal(def->drain_timeout_s, 5);
    assert_int_equal(def->line, 1);
    assert_int_equal(ignored->len, 1);
    assert_string_equal(ignored->pdata[0], "timeout in line 17");
    export_def_unref(def);
}

static void paths_start_from_the_file(void **state)
{
    g_autoptr(GPtrArray) problems = g_ptr_array_new_with_free_func(g_free);
    struct export_def *def = parse("[a]\nexportname = ../img/a b.raw\n", problems, NULL);

    (void)state;
    assert_non_null(def);
    assert_string_equal(def->handler, "file");
    assert_string_equal(def->target, "/etc/img/a b.raw");
    export_def_unref(def);
}

static void mistakes_are_named_with_line_and_key(void **state)
{
#define FILE_OF "exportname = /x\n"
    static const struct { const char *text, *says; } cases[] = {
        { "[a]\n" FILE_OF "readonyl = true\n", "line 3: unknown key 'readonyl': did you mean "
          "'readonly'" },
        { "[a]\n" FILE_OF "readonly = yes\n", "line 3: readonly: \"yes\" is neither" },
        { "[a]\n" FILE_OF "size = big\n", "line 3: size: \"big\" is not a size" },
        { "[a]\n" FILE_OF "size = 0\n", "line 3: size" },
        { "[a]\n" FILE_OF "size = 1M\nfilesize = 1M\n", "line 4: filesize: sets again what "
          "'size' in line 3" },
        { "[a]\n" FILE_OF "maxconnections = 1\nmax_connections = 2\n", "line 4: "
          "max_connections: sets again" },
        { "[a]\n" FILE_OF "detect_zeroes = on\ndetect-zeroes = on\n", "line 4: detect-zeroes: "
          "sets again" },
        { "[a]\n" FILE_OF "max_connections = -1\n", "line 3: max_connections: \"-1\" is not" },
        { "[a]\n" FILE_OF "acl = 10.0.0.0/8 zebra\n", "line 3: acl: \"zebra\"" },
        { "[a]\n" FILE_OF "authfile = /nonexistent/list\n", "cannot read /nonexistent/list" },
        { "[a]\n" FILE_OF "target = /y\n", "line 1: export \"a\": exportname means" },
        { "[a]\n" FILE_OF "backstore = file\n", "line 1: export \"a\": exportname means" },
        { "[a]\nreadonly = true\n", "line 1: export \"a\": what to serve is missing" },
        { "[a]\nbackstore = ../x\ntarget = y\n", "line 2: backstore: \"../x\" is no" },
        { "[a]\nbackstore = gluster\ntarget =\n", "line 1: export \"a\": " },
        { "[a]\nexportname = /x-%s\n", "line 2: exportname: a file for each client" },
        { "[a]\n" FILE_OF "create = true\n", "create = true needs a size" },
        { "[a]\n" FILE_OF "prealloc = true\n", "prealloc = true needs create" },
        { "[a]\n" FILE_OF "create = true\nsize = 1M\nreadonly = true\n", "makes no sense" },
        { "[a]\n" FILE_OF "opt. = x\n", "line 3: opt.: names no option" },
        { "[a]\n" FILE_OF "killswitch = 120\n", "line 3: killswitch: not supported" },
        { "[a]\n" FILE_OF "copyonwrite = true\n", "line 3: copyonwrite: not supported" },
        { "[a]\n" FILE_OF "force_tls = true\n", "line 3: force_tls: not supported" },
        { "[a]\n" FILE_OF "oldstyle = true\n", "line 3: oldstyle: not supported" },
        { "[a]\n" FILE_OF "bitmaps = daily\n", "line 3: bitmaps: not supported" },
        { "[a]\n" FILE_OF "port = 1\n", "line 3: port: not supported" },
        { "[a]\n" FILE_OF "prerun = rm %s\n", "line 3: prerun: not supported" },
        { "[@map/x]\n" FILE_OF, "line 1: export \"@map/x\": the export name" },
        { "[a/../b]\n" FILE_OF, "has a \"..\" component" },
        { "[a]\n" FILE_OF "detect-zeroes = maybe\n", "line 3: detect-zeroes: \"maybe\"" },
    };

    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GPtrArray) problems = g_ptr_array_new_with_free_func(g_free);
        g_autoptr(GPtrArray) ignored = g_ptr_array_new_with_free_func(g_free);

        assert_null(parse(cases[i].text, problems, ignored));
        assert_has(problems, cases[i].says);
        assert_has(problems, "/etc/x/t.conf line ");
    }
}

static void text_that_is_none_is_refused(void **state)
{
    static const struct { const char *text, *says; } cases[] = {
        { "\xef\xbb\xbf[a]\n", "byte-order mark" },
        { "[a]\nx=\xff\n", "is not UTF-8" },
        { "[a]\nx=\\q\n", "line 2: x" },
        { "x=1\n", "before the first section" },
        { "[a]\nx\n", "line 2: 'x' is neither" },
        { "[a]b]\n", "is not a section header" },
        { "[a]\n[b]\n[a]\n", "line 3: section [a] is there already, in line 1" },
        { "[a]\nx=1\n#\nx=1\n", "line 4: 'x' sets again what 'x' in line 2" },
    };

    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GPtrArray) problems = g_ptr_array_new_with_free_func(g_free);
        struct ini *ini;

        assert_int_equal(ini_parse("f", cases[i].text, strlen(cases[i].text), &ini, problems),
                         -EBADMSG);
        assert_has(problems, cases[i].says);
    }
}

static void an_authfile_lists_who_may_connect(void **state)
{
    struct fixture *fixture = *state;
    struct config_set *set;
    const struct export_def *def;

    put(fixture, "allow", "# ours\n10.0.0.0/8\n\n192.0.2.7 # one more\r\n");
    put(fixture, "none", "# nobody\n");
    put(fixture, "conf.d/a.conf", "[a]\nexportname=/x\nauthfile=../allow\n"
                                  "[b]\nexportname=/x\nauthfile=../none\n");
    set = read_all(fixture);

    def = unit_of(set, "a.conf")->defs->pdata[0];
    assert_string_equal(def->acl[0], "10.0.0.0/8");
    assert_string_equal(def->acl[1], "192.0.2.7");
    assert_null(def->acl[2]);
    def = unit_of(set, "a.conf")->defs->pdata[1];
    assert_null(def->acl[0]);
    assert_true(def->default_deny);
    config_set_free(set);
}

/* ---- Files ---- */

static void only_conf_files_are_read_in_byte_order(void **state)
{
    struct fixture *fixture = *state;
    struct config_set *set;

    put(fixture, "conf.d/b.conf", "[b]\nexportname=/x\n");
    put(fixture, "conf.d/B.conf", "[B]\nexportname=/x\n");
    put(fixture, "conf.d/.a.conf", "junk");
    put(fixture, "conf.d/a.conf~", "junk");
    put(fixture, "conf.d/a.conf.rpmnew", "junk");
    put(fixture, "conf.d/.conf", "junk");
    put(fixture, "conf.d/README", "junk");
    set = read_all(fixture);

    assert_int_equal(set->units->len, 2);
    assert_ptr_equal(set->units->pdata[0], unit_of(set, "/B.conf"));
    config_set_free(set);
}

static void a_file_counts_whole_or_not_at_all(void **state)
{
    struct fixture *fixture = *state;
    struct config_set *set;

    put(fixture, "nbd-runner.conf", "[generic]\nthreads=2\n[m]\nexportname=/x\n");
    put(fixture, "conf.d/a.conf", "[a]\nexportname=/x\n[b]\nnonsense=1\n");
    put(fixture, "conf.d/e.conf", "# nothing\n");
    put(fixture, "conf.d/g.conf", "[generic]\nthreads=1\n");
    set = read_all(fixture);

    assert_false(set->main_failed);
    assert_false(unit_of(set, "nbd-runner.conf")->rejected);
    assert_true(unit_of(set, "a.conf")->rejected);
    assert_has(unit_of(set, "e.conf")->problems, "the file is empty");
    assert_has(unit_of(set, "g.conf")->problems, "line 1: section [generic] belongs into");
    config_set_free(set);
}

static void a_mistake_in_the_main_file_concerns_all(void **state)
{
    struct fixture *fixture = *state;
    struct config_set *set;

    put(fixture, "nbd-runner.conf", "[generic]\nthreads=2\n[m]\nexport=/x\n");
    set = read_all(fixture);

    assert_true(set->main_failed);
    assert_has(unit_of(set, "nbd-runner.conf")->problems, "line 4: unknown key 'export'");
    config_set_free(set);
}

/* ---- Differences ---- */

static void the_difference_is_by_name_and_definition(void **state)
{
    struct fixture *fixture = *state;

    put(fixture, "conf.d/a.conf", "[a]\nexportname=/a\n");
    put(fixture, "conf.d/b.conf", "[b]\nexportname=/b\n");
    put(fixture, "conf.d/c.conf", "[c]\nexportname=/c\n");
    put(fixture, "conf.d/d.conf", "[d]\nexportname=/d\n");
    reload(fixture, NULL, "a:add b:add c:add d:add");
    reload(fixture, NULL, "a:keep b:keep c:keep d:keep");

    put(fixture, "conf.d/a.conf", "# moved down\n\n[a]\nbackstore=file\ntarget=/a\n");
    put(fixture, "conf.d/b.conf", "[b]\nexportname=/b\ndescription=x\nacl=::1\n");
    put(fixture, "conf.d/c.conf", "[c]\nexportname=/c\nreadonly=true\n");
    put(fixture, "conf.d/d.conf", NULL);
    put(fixture, "conf.d/e.conf", "[e]\nexportname=/e\n");
    reload(fixture, NULL, "a:keep b:limits c:replace d:remove e:add");
}

static void what_a_definition_serves_decides_about_replacing(void **state)
{
    static const char *const lines[] = {
        "exportname=/other\n", "exportname=/a\nsize=1M\n", "exportname=/a\nreadonly=true\n",
        "exportname=/a\ntrim=false\n", "exportname=/a\nopt.direct=true\n",
        "exportname=/a\ndetect-zeroes=on\n",
    };
    struct fixture *fixture = *state;

    for (size_t i = 0; i < G_N_ELEMENTS(lines); i++) {
        g_autofree char *text = g_strconcat("[a]\n", lines[i], NULL);

        g_hash_table_remove_all(fixture->current);
        put(fixture, "conf.d/a.conf", "[a]\nexportname=/a\n");
        reload(fixture, NULL, "a:add");
        put(fixture, "conf.d/a.conf", text);
        reload(fixture, NULL, "a:replace");
    }
}

static void a_broken_file_keeps_what_it_had(void **state)
{
    struct fixture *fixture = *state;

    put(fixture, "conf.d/a.conf", "[a]\nexportname=/a\n[b]\nexportname=/b\n");
    put(fixture, "conf.d/z.conf", "[z]\nexportname=/z\n");
    reload(fixture, NULL, "a:add b:add z:add");

    put(fixture, "conf.d/a.conf", "[a]\nexportname=/changed\nnonsense=1\n");
    put(fixture, "conf.d/z.conf", "[y]\nexportname=/z\n");
    reload(fixture, NULL, "a:keep b:keep y:add z:remove");
    put(fixture, "conf.d/a.conf", "[b]\nexportname=/b\n");
    reload(fixture, NULL, "a:remove b:keep y:keep");
}

static void who_is_served_keeps_the_name(void **state)
{
    struct fixture *fixture = *state;

    put(fixture, "conf.d/m.conf", "[x]\nexportname=/m\n");
    reload(fixture, NULL, "x:add");

    /* a.conf comes before m.conf, but x is served already; with it goes its other export. */
    put(fixture, "conf.d/a.conf", "[x]\nexportname=/a\n[more]\nexportname=/a\n");
    reload(fixture, NULL, "x:keep");
    put(fixture, "conf.d/m.conf", NULL);
    reload(fixture, NULL, "more:add x:replace");
}

static void of_new_ones_the_first_file_wins(void **state)
{
    struct fixture *fixture = *state;
    struct config_set *set;

    put(fixture, "conf.d/a.conf", "[x]\nexportname=/a\n");
    put(fixture, "conf.d/b.conf", "\n[x]\nexportname=/b\n");
    set = read_all(fixture);
    plan_resolve(set, fixture->current, foreign, NULL);

    assert_false(unit_of(set, "a.conf")->rejected);
    assert_has(unit_of(set, "b.conf")->problems, "export \"x\" in ");
    assert_has(unit_of(set, "b.conf")->problems, "/b.conf line 2 is already defined in ");
    assert_has(unit_of(set, "b.conf")->problems, "/a.conf line 1; ");
    config_set_free(set);
}

/* b.conf wants two names; one is taken, so that the other one is free for c.conf. */
static void a_rejected_file_takes_no_names(void **state)
{
    struct fixture *fixture = *state;
    const struct export_def *def;

    put(fixture, "conf.d/a.conf", "[x]\nexportname=/a\n");
    put(fixture, "conf.d/b.conf", "[y]\nexportname=/b\n[x]\nexportname=/b\n");
    put(fixture, "conf.d/c.conf", "[y]\nexportname=/c\n");
    reload(fixture, NULL, "x:add y:add");
    def = g_hash_table_lookup(fixture->current, "y");
    assert_string_equal(def->target, "/c");
}

/* What a.conf gives up is only free when a.conf is not rejected for another reason. */
static void rejecting_one_may_reject_another(void **state)
{
    struct fixture *fixture = *state;

    put(fixture, "conf.d/a.conf", "[x]\nexportname=/a\n");
    reload(fixture, "taken", "x:add");
    put(fixture, "conf.d/a.conf", "[taken]\nexportname=/a\n");
    put(fixture, "conf.d/b.conf", "[x]\nexportname=/b\n[w]\nexportname=/b\n");
    reload(fixture, "taken", "x:keep");
    reload(fixture, NULL, "taken:add w:add x:replace");
}

static void a_name_of_the_control_port_is_taken(void **state)
{
    struct fixture *fixture = *state;
    struct config_set *set;

    put(fixture, "conf.d/a.conf", "[x]\nexportname=/a\n");
    set = read_all(fixture);
    plan_resolve(set, fixture->current, foreign, (void *)"x");

    assert_has(unit_of(set, "a.conf")->problems,
               "line 1 is already defined by a create through the control port");
    config_set_free(set);
}

static void a_directory_that_is_gone_removes_nothing(void **state)
{
    struct fixture *fixture = *state;

    put(fixture, "conf.d/a.conf", "[a]\nexportname=/a\n");
    put(fixture, "nbd-runner.conf", "[m]\nexportname=/m\n");
    reload(fixture, NULL, "a:add m:add");
    put(fixture, "conf.d/a.conf", NULL);
    assert_int_equal(g_rmdir(fixture->conf_dir), 0);
    put(fixture, "nbd-runner.conf", "[n]\nexportname=/m\n");
    reload(fixture, NULL, "a:keep m:remove n:add");
}

static void storage_with_two_names_and_a_writer_is_warned_of(void **state)
{
    struct fixture *fixture = *state;
    g_autoptr(GPtrArray) warnings = g_ptr_array_new_with_free_func(g_free);
    struct config_set *set;
    GArray *steps;

    put(fixture, "conf.d/a.conf", "[a]\nexportname=/s\nreadonly=true\n");
    put(fixture, "conf.d/b.conf", "[b]\nexportname=/s\nreadonly=true\n");
    put(fixture, "conf.d/c.conf", "[c]\nexportname=/t\n");
    put(fixture, "conf.d/d.conf", "[d]\nexportname=/t\nreadonly=true\n");
    set = read_all(fixture);
    steps = plan_make(set, fixture->current);
    plan_warn_shared(steps, warnings);

    assert_int_equal(warnings->len, 1);
    assert_has(warnings, "export \"c\" in ");
    assert_has(warnings, "what export \"d\" in ");
    g_array_unref(steps);
    config_set_free(set);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_section_defines_an_export),
        cmocka_unit_test(paths_start_from_the_file),
        cmocka_unit_test(mistakes_are_named_with_line_and_key),
        cmocka_unit_test(text_that_is_none_is_refused),
        TEST(an_authfile_lists_who_may_connect),
        TEST(only_conf_files_are_read_in_byte_order),
        TEST(a_file_counts_whole_or_not_at_all),
        TEST(a_mistake_in_the_main_file_concerns_all),
        TEST(the_difference_is_by_name_and_definition),
        TEST(what_a_definition_serves_decides_about_replacing),
        TEST(a_broken_file_keeps_what_it_had),
        TEST(who_is_served_keeps_the_name),
        TEST(of_new_ones_the_first_file_wins),
        TEST(a_rejected_file_takes_no_names),
        TEST(rejecting_one_may_reject_another),
        TEST(a_name_of_the_control_port_is_taken),
        TEST(a_directory_that_is_gone_removes_nothing),
        TEST(storage_with_two_names_and_a_writer_is_warned_of),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
