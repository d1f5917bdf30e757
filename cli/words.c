/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Reads argument vectors against tables of words.
 */
#include "words.h"
#include "size.h"

#include <assert.h>
#include <glib.h>
#include <inttypes.h>
#include <string.h>
#include <strings.h>

#define DEVICE_INDEX_MAX 1048575 /* minors are 20 bits */
#define NEAR_ENOUGH 2            /* edits between a mistyped word and the one meant */

static bool is_position(const struct word *word)
{
    return word->kind == WORD_POSITION || word->kind == WORD_OPTIONAL ||
           word->kind == WORD_MANY || word->kind == WORD_DEVICE;
}

static int slot_by_name(const struct words *words, const char *name)
{
    for (size_t i = 0; i < words->n_slots; i++)
        if (strcmp(words->slot[i].word->name, name) == 0)
            return (int)i;
    return -1;
}

static void add_table(struct words *words, const struct word *table)
{
    for (; table != NULL && table->name != NULL; table++) {
        if (slot_by_name(words, table->name) >= 0)
            continue;
        assert(words->n_slots < WORDS_MAX);
        words->slot[words->n_slots++].word = table;
    }
}

void words_init(struct words *words, const struct word *own, const struct word *common)
{
    memset(words, 0, sizeof(*words));
    add_table(words, own);
    add_table(words, common);
}

void words_clear(struct words *words)
{
    g_free(words->list);
    words->list = NULL;
    words->n_list = 0;
}

int device_index_parse(const char *text)
{
    uint64_t index;

    if (strncmp(text, "/dev/", 5) == 0)
        text += 5;
    if (strncmp(text, "nbd", 3) != 0 || number_parse(text + 3, &index) != NULL)
        return -1;
    return index <= DEVICE_INDEX_MAX ? (int)index : -1;
}

/* ---- Mistyped words ---- */

/* Levenshtein's distance, in one row. */
static size_t distance(const char *a, const char *b)
{
    size_t row[64], n = strlen(b);

    if (n >= G_N_ELEMENTS(row))
        return SIZE_MAX;
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 0; a[i] != '\0'; i++) {
        size_t diagonal = row[0];

        row[0] = i + 1;
        for (size_t j = 0; j < n; j++) {
            size_t replaced = diagonal + (a[i] != b[j]);

            diagonal = row[j + 1];
            row[j + 1] = MIN(replaced, MIN(row[j], row[j + 1]) + 1);
        }
    }
    return row[n];
}

const char *nearest_word(const char *text, const char *const *candidates, size_t count)
{
    const char *best = NULL;
    size_t best_distance = NEAR_ENOUGH + 1;

    if (strlen(text) > 64)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        size_t d = distance(text, candidates[i]);

        if (d < best_distance && d < strlen(candidates[i])) {
            best = candidates[i];
            best_distance = d;
        }
    }
    return best;
}

/* A keyword that was swallowed as a position is the likelier mistake. */
static const char *keyword_in_position(const struct words *words)
{
    for (size_t i = 0; i < words->n_slots; i++) {
        const char *text = words->slot[i].text;
        int found;

        if (words->slot[i].word->kind != WORD_POSITION || !words->slot[i].given)
            continue;
        found = slot_by_name(words, text);
        if (found >= 0)
            return words->slot[i].word->name;
    }
    return NULL;
}

static int fail_unknown(const struct words *words, const char *text, bool is_option,
                        struct failure *why)
{
    const char *dashes = is_option ? "--" : "";
    const char *names[WORDS_MAX], *position, *near;
    size_t n = 0;

    for (size_t i = 0; i < words->n_slots; i++)
        if (is_option ||
            (!is_position(words->slot[i].word) && !words->slot[i].word->option_only))
            names[n++] = words->slot[i].word->name;
    position = keyword_in_position(words);
    if (position != NULL)
        return fail_with(why, STATUS_USAGE,
                         "unknown word '%s%.64s'; the first word was taken as %s", dashes,
                         text, position);
    near = nearest_word(text, names, n);
    if (near != NULL)
        return fail_with(why, STATUS_USAGE, "unknown word '%s%.64s'; did you mean '%s%s'?",
                         dashes, text, dashes, near);
    return fail_with(why, STATUS_USAGE, "unknown word '%s%.64s'; 'help' lists the words",
                     dashes, text);
}

/* ---- Values ---- */

static int check_text(const struct word *word, const char *text, struct failure *why)
{
    if (*text == '\0' && word->min > 0)
        return fail_with(why, STATUS_USAGE, "%s is empty", word->name);
    if (word->max != 0 && strlen(text) > word->max)
        return fail_with(why, STATUS_USAGE, "%s is longer than %" PRIu64 " bytes", word->name,
                         word->max);
    if (!g_utf8_validate(text, -1, NULL))
        return fail_with(why, STATUS_USAGE, "%s is not valid UTF-8", word->name);
    return 0;
}

static int check_range(const struct word *word, const char *text, uint64_t number,
                       struct failure *why)
{
    if (number < word->min || (word->max != 0 && number > word->max))
        return fail_with(why, STATUS_USAGE,
                         "%s '%.64s' is out of range: %" PRIu64 " to %" PRIu64, word->name,
                         text, word->min, word->max);
    return 0;
}

static int check_size(const struct word *word, const char *text, uint64_t bytes,
                      struct failure *why)
{
    if (word->type == TYPE_SIZE && bytes < SECTOR_BYTES)
        return fail_with(why, STATUS_USAGE, "%s '%.64s' is too small; the least is %u bytes",
                         word->name, text, SECTOR_BYTES);
    if (word->type == TYPE_LENGTH && bytes == 0)
        return fail_with(why, STATUS_USAGE, "%s '%.64s' is zero", word->name, text);
    return 0;
}

/* A text gives no number. */
static int parse_value(const struct word *word, const char *text, uint64_t *ret_number,
                       struct failure *why)
{
    const char *problem = NULL;

    switch (word->type) {
    case TYPE_TEXT:
        return check_text(word, text, why);
    case TYPE_NUMBER:
        problem = number_parse(text, ret_number);
        break;
    case TYPE_SECONDS:
        problem = seconds_parse(text, ret_number);
        break;
    case TYPE_SIZE:
    case TYPE_LENGTH:
    case TYPE_OFFSET:
        problem = size_parse(text, ret_number);
        break;
    }
    if (problem != NULL)
        return fail_with(why, STATUS_USAGE, "%s '%.64s' %s", word->name, text, problem);
    if (word->type == TYPE_NUMBER || word->type == TYPE_SECONDS)
        return check_range(word, text, *ret_number, why);
    return check_size(word, text, *ret_number, why);
}

static int take_value(struct words *words, size_t i, const char *text, struct failure *why)
{
    const struct word *word = words->slot[i].word;
    uint64_t number = 0;
    int r = parse_value(word, text, &number, why);

    if (r != 0)
        return r;
    if (word->type == TYPE_SIZE) {
        words->slot[i].cut_bytes = number % SECTOR_BYTES;
        number -= words->slot[i].cut_bytes;
    }
    words->slot[i].given = true;
    words->slot[i].text = text;
    words->slot[i].number = number;
    if (word->kind == WORD_LIST || word->kind == WORD_MANY) {
        words->list = g_renew(const char *, words->list, words->n_list + 1);
        words->list[words->n_list++] = text;
    }
    return 0;
}

/* ---- Words ---- */

bool words_is_used(const struct words *words, size_t slot)
{
    enum word_kind kind = words->slot[slot].word->kind;

    return words->slot[slot].given && kind != WORD_LIST && kind != WORD_MANY;
}

static int refuse_repetition(const struct words *words, size_t i, struct failure *why)
{
    if (words_is_used(words, i))
        return fail_with(why, STATUS_USAGE, "'%s' is given twice", words->slot[i].word->name);
    return 0;
}

/* Slot i was named; value is what stood behind "=", NULL when nothing did. */
static int take_named(struct words *words, size_t i, const char *value, int argc, char **argv,
                      int *ret_used, struct failure *why)
{
    const struct word *word = words->slot[i].word;
    int r = refuse_repetition(words, i, why);

    if (r != 0)
        return r;
    *ret_used = 1;
    if (word->kind == WORD_FLAG) {
        if (value != NULL)
            return fail_with(why, STATUS_USAGE, "'%s' takes no value", word->name);
        words->slot[i].given = true;
        return 0;
    }
    if (value == NULL) {
        if (argc < 2)
            return fail_with(why, STATUS_USAGE, "'%s' needs a value: %s", word->name,
                             word->value != NULL ? word->value : word->name);
        value = argv[1];
        *ret_used = 2;
    }
    return take_value(words, i, value, why);
}

int words_option(const struct words *words, const char *name, size_t length)
{
    for (size_t i = 0; i < words->n_slots; i++) {
        const struct word *word = words->slot[i].word;

        if (strlen(word->name) == length && strncasecmp(word->name, name, length) == 0)
            return (int)i;
        if (word->alias != NULL && strlen(word->alias) == length &&
            strncmp(word->alias, name, length) == 0)
            return (int)i;
    }
    return -1;
}

static int slot_by_letter(const struct words *words, char letter)
{
    for (size_t i = 0; i < words->n_slots; i++)
        if (letter != '\0' && words->slot[i].word->letter == letter)
            return (int)i;
    return -1;
}

int words_parse_option(struct words *words, int argc, char **argv, int *ret_used,
                       struct failure *why)
{
    const char *text = argv[0], *equals = NULL;
    int i;

    if (strncmp(text, "--", 2) == 0) {
        equals = strchr(text, '=');
        i = words_option(words, text + 2,
                           equals != NULL ? (size_t)(equals - text - 2) : strlen(text + 2));
    } else {
        i = text[1] != '\0' && text[2] == '\0' ? slot_by_letter(words, text[1]) : -1;
    }
    if (i < 0 && text[1] != '-')
        return fail_with(why, STATUS_USAGE, "unknown option '%.64s'; 'help' lists the words",
                         text);
    if (i < 0)
        return fail_unknown(words, text + 2, true, why);
    return take_named(words, (size_t)i, equals != NULL ? equals + 1 : NULL, argc, argv,
                      ret_used, why);
}

/* The first position of a kind that is still empty, -1 when there is none. */
int words_next_position(const struct words *words, enum word_kind kind)
{
    for (size_t i = 0; i < words->n_slots; i++)
        if (words->slot[i].word->kind == kind && !words_is_used(words, i))
            return (int)i;
    return -1;
}

/* The word that a bare word names, -1 when it names none. */
static int slot_by_keyword(const struct words *words, const char *text)
{
    for (size_t i = 0; i < words->n_slots; i++) {
        const struct word *word = words->slot[i].word;

        if (is_position(word) || word->option_only)
            continue;
        if (strcmp(word->name, text) == 0 ||
            (word->alias != NULL && strcmp(word->alias, text) == 0))
            return (int)i;
    }
    return -1;
}

static int take_bare(struct words *words, int argc, char **argv, int *ret_used,
                     struct failure *why)
{
    int i = words_next_position(words, WORD_POSITION);

    *ret_used = 1;
    if (i >= 0)
        return take_value(words, (size_t)i, argv[0], why);
    i = slot_by_keyword(words, argv[0]);
    if (i >= 0)
        return take_named(words, (size_t)i, NULL, argc, argv, ret_used, why);
    if (device_index_parse(argv[0]) >= 0) {
        for (size_t j = 0; j < words->n_slots; j++)
            if (words->slot[j].word->kind == WORD_DEVICE)
                return take_named(words, j, argv[0], argc, argv, ret_used, why);
    }
    i = words_next_position(words, WORD_OPTIONAL);
    if (i < 0)
        i = words_next_position(words, WORD_MANY);
    if (i >= 0)
        return take_value(words, (size_t)i, argv[0], why);
    return fail_unknown(words, argv[0], false, why);
}

static int check_required(const struct words *words, struct failure *why)
{
    for (size_t i = 0; i < words->n_slots; i++) {
        const struct word *word = words->slot[i].word;

        if (words->slot[i].given || (word->kind != WORD_POSITION && !word->required))
            continue;
        if (is_position(word))
            return fail_with(why, STATUS_USAGE, "%s is missing", word->name);
        return fail_with(why, STATUS_USAGE, "'%s %s' is missing", word->name, word->value);
    }
    return 0;
}

int words_parse(struct words *words, int argc, char **argv, struct failure *why)
{
    int used, r;

    for (; argc > 0; argc -= used, argv += used) {
        if (argv[0][0] == '-' && argv[0][1] != '\0')
            r = words_parse_option(words, argc, argv, &used, why);
        else
            r = take_bare(words, argc, argv, &used, why);
        if (r != 0)
            return r;
    }
    return check_required(words, why);
}

/* ---- Unfinished words ---- */

/* The word that `text` names and that wants a value behind it; NULL when it is none. */
static const struct word *awaits_value(const struct words *words, const char *text)
{
    int i = -1;

    if (strncmp(text, "--", 2) == 0)
        i = words_option(words, text + 2, strlen(text + 2));
    else if (text[0] == '-' && text[1] != '\0' && text[2] == '\0')
        i = slot_by_letter(words, text[1]);
    else if (words_next_position(words, WORD_POSITION) < 0)
        i = slot_by_keyword(words, text);
    if (i < 0 || words->slot[i].word->kind == WORD_FLAG)
        return NULL;
    return words->slot[i].word;
}

const struct word *words_expect(struct words *words, int argc, char **argv)
{
    struct failure ignored;
    int used;

    for (; argc > 0; argc -= used, argv += used) {
        const struct word *word = argc == 1 ? awaits_value(words, argv[0]) : NULL;

        if (word != NULL)
            return word;
        used = 1; /* of what makes no sense, one word is skipped */
        if (argv[0][0] == '-' && argv[0][1] != '\0')
            words_parse_option(words, argc, argv, &used, &ignored);
        else
            take_bare(words, argc, argv, &used, &ignored);
    }
    return NULL;
}

/* ---- Answers ---- */

const char *words_given(const struct words *words, const char *name)
{
    int i = slot_by_name(words, name);

    if (i < 0 || !words->slot[i].given)
        return NULL;
    return words->slot[i].text != NULL ? words->slot[i].text : name; /* a flag has no text */
}

static size_t known_slot(const struct words *words, const char *name)
{
    int i = slot_by_name(words, name);

    assert(i >= 0);
    return (size_t)i;
}

bool words_has(const struct words *words, const char *name)
{
    return words->slot[known_slot(words, name)].given;
}

const char *words_text(const struct words *words, const char *name, const char *otherwise)
{
    size_t i = known_slot(words, name);

    return words->slot[i].given ? words->slot[i].text : otherwise;
}

uint64_t words_number(const struct words *words, const char *name, uint64_t otherwise)
{
    size_t i = known_slot(words, name);

    return words->slot[i].given ? words->slot[i].number : otherwise;
}

uint64_t words_cut_bytes(const struct words *words, const char *name)
{
    return words->slot[known_slot(words, name)].cut_bytes;
}
