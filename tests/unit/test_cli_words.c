/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The grammar of words: any order, every spelling, and one sentence for what is wrong.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "command.h"

static const struct word table[] = {
    {.name = "TARGET", .kind = WORD_POSITION, .min = 1, .max = 16},
    {.name = "DEVICE", .kind = WORD_DEVICE, .min = 1},
    {.name = "size", .kind = WORD_VALUE, .type = TYPE_SIZE, .value = "SIZE", .required = true},
    {.name = "wait", .alias = "hold", .kind = WORD_VALUE, .type = TYPE_SECONDS, .value = "TIME"},
    {.name = "count", .kind = WORD_VALUE, .type = TYPE_NUMBER, .value = "N", .min = 1, .max = 16,
     .letter = 'c'},
    {.name = "force", .kind = WORD_FLAG},
    {.name = "opt", .kind = WORD_LIST, .value = "KEY=VALUE"},
    {.name = NULL},
};

static const struct word common[] = {
    {.name = "json", .kind = WORD_FLAG, .option_only = true},
    {.name = "count", .kind = WORD_FLAG}, /* hidden by the other one */
    {.name = NULL},
};

struct parsed {
    struct words words;
    struct failure why;
    int status;
};

/* Parse a line of words that are separated by single blanks; "_" is an empty word. */
static void parse(struct parsed *parsed, const char *line)
{
    static char copy[512];
    char *argv[64];
    int argc = 0;

    snprintf(copy, sizeof(copy), "%s", line);
    for (char *word = strtok(copy, " "); word != NULL; word = strtok(NULL, " "))
        argv[argc++] = strcmp(word, "_") == 0 ? (char *)"" : word;
    words_init(&parsed->words, table, common);
    memset(&parsed->why, 0, sizeof(parsed->why));
    parsed->status = words_parse(&parsed->words, argc, argv, &parsed->why);
}

static void words_come_in_any_order(void **state)
{
    static const char *const lines[] = {
        "disk size 1G count 3 force nbd4",   "disk nbd4 force count 3 size 1G",
        "disk --size 1G --count=3 --force /dev/nbd4", "--size=1G disk -c 3 nbd4 force",
        "--force --count 3 --size 1G disk nbd4",      "disk force nbd4 -c 3 --SIZE 1G",
        "--target disk force --device=nbd4 -c 3 size 1G",
    };
    (void)state;

    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        struct parsed p;

        parse(&p, lines[i]);
        if (p.status != 0)
            fail_msg("'%s': %s", lines[i], p.why.message);
        assert_string_equal(words_text(&p.words, "TARGET", ""), "disk");
        assert_int_equal(device_index_parse(words_text(&p.words, "DEVICE", "")), 4);
        assert_int_equal(words_number(&p.words, "size", 0), 1 << 30);
        assert_int_equal(words_number(&p.words, "count", 0), 3);
        assert_true(words_has(&p.words, "force"));
        assert_false(words_has(&p.words, "json"));
        words_clear(&p.words);
    }
}

static void what_is_not_given_has_its_default(void **state)
{
    struct parsed p;
    (void)state;

    parse(&p, "disk size 1000");

    assert_int_equal(p.status, 0);
    assert_int_equal(words_number(&p.words, "wait", 30), 30);
    assert_null(words_text(&p.words, "DEVICE", NULL));
    assert_int_equal(words_number(&p.words, "size", 0), 512);
    assert_int_equal(words_cut_bytes(&p.words, "size"), 488);
    words_clear(&p.words);
}

static void a_second_name_is_the_same_word(void **state)
{
    struct parsed p;
    (void)state;

    parse(&p, "disk size 1K hold 5m");

    assert_int_equal(p.status, 0);
    assert_int_equal(words_number(&p.words, "wait", 0), 300);
    words_clear(&p.words);
}

static void only_lists_may_be_repeated(void **state)
{
    struct parsed p;
    (void)state;

    parse(&p, "disk opt a=1 size 1K --opt=b=2 --opt c=3");

    assert_int_equal(p.status, 0);
    assert_int_equal(p.words.n_list, 3);
    assert_string_equal(p.words.list[1], "b=2");
    words_clear(&p.words);
}

static void the_first_word_is_the_target_whatever_it_is(void **state)
{
    struct parsed p;
    (void)state;

    parse(&p, "size size 1K");
    assert_int_equal(p.status, 0);
    assert_string_equal(words_text(&p.words, "TARGET", ""), "size");
    words_clear(&p.words);

    parse(&p, "nbd0 size 1K");
    assert_int_equal(p.status, 0);
    assert_string_equal(words_text(&p.words, "TARGET", ""), "nbd0");
    words_clear(&p.words);
}

static void a_mistake_is_named(void **state)
{
    static const struct {
        const char *line, *sentence;
    } cases[] = {
        {"", "TARGET is missing"},
        {"size 1K", "taken as TARGET"},
        {"disk", "'size SIZE' is missing"},
        {"disk size", "'size' needs a value: SIZE"},
        {"disk --size", "'size' needs a value: SIZE"},
        {"disk size 1K size 2K", "'size' is given twice"},
        {"disk size 1K --size=2K", "'size' is given twice"},
        {"disk size 1K force force", "'force' is given twice"},
        {"disk size 1K nbd1 /dev/nbd2", "'DEVICE' is given twice"},
        {"disk size 1K hold 1 wait 2", "'wait' is given twice"},
        {"disk siez 1K", "unknown word 'siez'; did you mean 'size'?"},
        {"disk --sise 1K", "unknown word '--sise'; did you mean '--size'?"},
        {"disk size 1K whatever", "unknown word 'whatever'"},
        {"disk size 1K json", "unknown word 'json'"},
        {"disk size 1K nbdx", "unknown word 'nbdx'"},
        {"disk size 1K --force=yes", "'force' takes no value"},
        {"disk size 1K -x", "unknown option '-x'"},
        {"disk size 1K -cc 3", "unknown option '-cc'"},
        {"disk size _", "size '' is empty"},
        {"disk --size=", "size '' is empty"},
        {"disk size -1", "size '-1' is negative"},
        {"disk size 0", "too small"},
        {"disk size 511", "too small"},
        {"disk size --force", "size '--force' is negative"},
        {"disk size 1K count 0", "count '0' is out of range: 1 to 16"},
        {"disk size 1K count 17", "count '17' is out of range: 1 to 16"},
        {"disk size 1K count x", "count 'x' is not a number"},
        {"disk size 1K wait 1y", "wait '1y' has an unknown unit"},
        {"_ size 1K", "TARGET is empty"},
        {"_", "TARGET is empty"},
        {"disk size 1K _", "unknown word ''"},
        {"12345678901234567 size 1K", "TARGET is longer than 16 bytes"},
        {"\xff size 1K", "TARGET is not valid UTF-8"},
        {"disk size 1K --", "unknown word '--'"},
        {"disk size 1K -", "unknown word '-'"},
    };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct parsed p;

        parse(&p, cases[i].line);
        if (p.status != STATUS_USAGE || strstr(p.why.message, cases[i].sentence) == NULL)
            fail_msg("'%s': %d, %s", cases[i].line, p.status, p.why.message);
        words_clear(&p.words);
    }
}

static void a_device_is_nbd_and_a_number(void **state)
{
    (void)state;

    assert_int_equal(device_index_parse("/dev/nbd0"), 0);
    assert_int_equal(device_index_parse("nbd12"), 12);
    assert_int_equal(device_index_parse("nbd"), -1);
    assert_int_equal(device_index_parse("nbd1p1"), -1);
    assert_int_equal(device_index_parse("nbd-1"), -1);
    assert_int_equal(device_index_parse("/dev/sda"), -1);
    assert_int_equal(device_index_parse("nbd99999999999999999999"), -1);
    assert_int_equal(device_index_parse(""), -1);
}

/* Every word of every command takes as many arguments as its kind says: behind it another
 * word of the table is still read as such. */
static void every_word_takes_its_number_of_values(void **state)
{
    (void)state;

    for (size_t i = 0; i < n_commands; i++) {
        for (const struct word *word = commands[i].words; word != NULL && word->name != NULL;
             word++) {
            char option[64], json[] = "--json", value[] = "1K";
            char *argv[] = {option, value, json};
            bool takes_value = word->kind != WORD_FLAG;
            struct failure why;
            struct words words;
            int used = 0, r;

            snprintf(option, sizeof(option), "--%s", word->name);
            words_init(&words, commands[i].words, common_words);
            r = words_parse_option(&words, 3, argv, &used, &why);
            if (r == 0)
                assert_int_equal(used, takes_value ? 2 : 1);
            else /* 1K is no number or time: it was taken as the value */
                assert_true(takes_value && strstr(why.message, "'1K'") != NULL);
            words_clear(&words);
        }
    }
}

static void any_words_end_in_a_sentence_or_success(void **state)
{
    static const char *const vocabulary[] = {
        "size",  "--size", "--size=", "force", "--force",  "nbd0", "/dev/nbd1", "x",
        "1K",    "0",      "",        "-",     "--",       "-c",   "---",       "=",
        "--=",   "opt",    "a=b",     "\xc3",  "disk",     "wait", "--wait=1h", "count",
        "json",  "--json", "-json",   "99Y",   "\xe2\x82\xac", "TARGET", "--target=y",
    };
    (void)state;

    srand(20240229);
    for (int i = 0; i < 20000; i++) {
        struct words words;
        struct failure why = {0};
        char *argv[8];
        int argc = rand() % 9, r;

        for (int j = 0; j < argc; j++)
            argv[j] = (char *)vocabulary[(size_t)rand() % (sizeof(vocabulary) /
                                                            sizeof(vocabulary[0]))];
        words_init(&words, table, common);
        r = words_parse(&words, argc, argv, &why);
        assert_true(r == 0 || (r == STATUS_USAGE && why.message[0] != '\0'));
        words_clear(&words);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_come_in_any_order),
        cmocka_unit_test(what_is_not_given_has_its_default),
        cmocka_unit_test(a_second_name_is_the_same_word),
        cmocka_unit_test(only_lists_may_be_repeated),
        cmocka_unit_test(the_first_word_is_the_target_whatever_it_is),
        cmocka_unit_test(a_mistake_is_named),
        cmocka_unit_test(a_device_is_nbd_and_a_number),
        cmocka_unit_test(every_word_takes_its_number_of_values),
        cmocka_unit_test(any_words_end_in_a_sentence_or_success),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
