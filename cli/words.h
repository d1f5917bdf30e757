/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The grammar of a command's words. A command has a table of words; words_parse() reads an
 * argument vector against it, checks every value and refuses what it does not know. Knows no
 * command and does no I/O.
 *
 * "size 1G", "--size 1G" and "--size=1G" are the same. Required positions (TARGET) take the
 * first bare words, whatever these are; after them a bare word is the name of a word of the
 * table, or else fills an optional position.
 */
#ifndef CLI_WORDS_H
#define CLI_WORDS_H

#include "failure.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WORDS_MAX 32

enum word_kind {
    WORD_POSITION, /* a bare word that must be there */
    WORD_OPTIONAL, /* a bare word that may be there */
    WORD_MANY,     /* bare words, as many as there are; values in the list */
    WORD_DEVICE,   /* the same, taken only by something like /dev/nbd3 or nbd3 */
    WORD_FLAG,     /* no value */
    WORD_VALUE,    /* one value */
    WORD_LIST,     /* one value, may be repeated */
};

enum word_type {
    TYPE_TEXT,
    TYPE_NUMBER, /* min..max of the word */
    TYPE_SECONDS,
    TYPE_SIZE,   /* bytes of an export: cut to sectors, at least one */
    TYPE_LENGTH, /* bytes, at least one */
    TYPE_OFFSET, /* bytes */
};

struct word {
    const char *name; /* NULL ends a table; capitals for positions */
    enum word_kind kind;
    enum word_type type;
    const char *value; /* how the help calls the value */
    const char *help;
    uint64_t min, max; /* of a number or of a text's length; max 0: no limit */
    char letter;       /* -L, for options of other tools that have one */
    bool required;
    bool option_only;  /* only as --name */
    const char *alias; /* second name */
};

struct words {
    struct {
        const struct word *word;
        bool given;
        const char *text;   /* belongs to the argument vector */
        uint64_t number;    /* of the types that are no text */
        uint64_t cut_bytes; /* by which a TYPE_SIZE was rounded down */
    } slot[WORDS_MAX];
    size_t n_slots;
    const char **list; /* values of all WORD_LISTs and WORD_MANYs; g_free */
    size_t n_list;
};

/* Both tables together; the first one wins where both have a name. */
void words_init(struct words *words, const struct word *own, const struct word *common);
void words_clear(struct words *words);
int words_parse(struct words *words, int argc, char **argv, struct failure *why);

/* Read one option (--name...) at argv[0]; *ret_used is the number of arguments taken. */
int words_parse_option(struct words *words, int argc, char **argv, int *ret_used,
                       struct failure *why);

/* Read unfinished words, whatever they are: returns the word whose value comes next, or NULL
 * when the next one stands for itself. */
const struct word *words_expect(struct words *words, int argc, char **argv);

/* Is the word given, so that it must not be repeated? */
bool words_is_used(const struct words *words, size_t slot);
/* The position that the next bare word fills; -1 when there is none. */
int words_next_position(const struct words *words, enum word_kind kind);
/* The word of "--NAME", with `length` bytes of NAME; -1 when there is none. */
int words_option(const struct words *words, const char *name, size_t length);

/* What was given, NULL when it was not; for words that the command may not have. */
const char *words_given(const struct words *words, const char *name);

/* What was given; the name must be in the table. */
bool words_has(const struct words *words, const char *name);
const char *words_text(const struct words *words, const char *name, const char *otherwise);
uint64_t words_number(const struct words *words, const char *name, uint64_t otherwise);
uint64_t words_cut_bytes(const struct words *words, const char *name);

/* The entry nearest to a mistyped word, NULL when none is near. */
const char *nearest_word(const char *text, const char *const *candidates, size_t count);

/* "/dev/nbd12" and "nbd12" are devices; -1 for anything else. */
int device_index_parse(const char *text);

#endif
