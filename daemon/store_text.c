/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The text of the state file. One export is one line, kept with its digest, so that saving
 * ten thousand of them after one change costs copying and not converting. Any thread.
 *
 * The checksum is the SHA-256 of the digests, as hexadecimal text one after the other, of all
 * lines before its own, each without newline and trailing comma.
 */
#include <json-c/json.h>
#include <string.h>

#include "store_text.h"

#define CHECKSUM_LINE "  \"checksum\": \""
#define JSON_STYLE (JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE)

struct document {
    GString *text;
    GChecksum *checksum;
    bool has_members;
};

static void digest_line(const char *text, size_t length, char digest[static 65])
{
    char *hex = g_compute_checksum_for_data(G_CHECKSUM_SHA256, (const guchar *)text, length);

    g_strlcpy(digest, hex, 65);
    g_free(hex);
}

/* ---- Fragments ---- */

struct fragment *fragment_new(unsigned depth, const char *key, struct json_object *value)
{
    struct fragment *fragment = g_atomic_rc_box_new0(struct fragment);
    struct json_object *name = json_object_new_string(key);
    const char *text = json_object_to_json_string_ext(value, JSON_STYLE);

    fragment->key = g_strdup(key);
    fragment->text = g_strdup_printf("%*s%s: %s", (int)depth * 2, "",
                                     json_object_to_json_string_ext(name, JSON_STYLE), text);
    fragment->length = strlen(fragment->text);
    digest_line(fragment->text, fragment->length, fragment->digest);
    json_object_put(name);
    return fragment;
}

struct fragment *fragment_ref(struct fragment *fragment)
{
    return g_atomic_rc_box_acquire(fragment);
}

static void clear_fragment(void *arg)
{
    struct fragment *fragment = arg;

    g_free(fragment->key);
    g_free(fragment->text);
}

void fragment_unref(void *fragment)
{
    g_atomic_rc_box_release_full(fragment, clear_fragment);
}

/* ---- Documents ---- */

static void add_digest(struct document *document, const char *digest)
{
    g_checksum_update(document->checksum, (const guchar *)digest, 64);
}

static void add_line(struct document *document, const char *text)
{
    char digest[65];

    digest_line(text, strlen(text), digest);
    add_digest(document, digest);
    g_string_append(document->text, text);
}

static void add_fragment(struct document *document, const struct fragment *fragment)
{
    add_digest(document, fragment->digest);
    g_string_append_len(document->text, fragment->text, (gssize)fragment->length);
}

/* Members are told apart by a comma that ends the line before. */
static void next_member(struct document *document)
{
    g_string_append(document->text, document->has_members ? ",\n" : "\n");
    document->has_members = true;
}

struct document *document_new(size_t size_hint)
{
    struct document *document = g_new0(struct document, 1);

    document->text = g_string_sized_new(size_hint);
    document->checksum = g_checksum_new(G_CHECKSUM_SHA256);
    add_line(document, "{");
    return document;
}

void document_member(struct document *document, const struct fragment *fragment)
{
    next_member(document);
    add_fragment(document, fragment);
}

void document_section(struct document *document, const char *name, const GPtrArray *fragments)
{
    char *head = g_strdup_printf("  \"%s\": {", name);

    next_member(document);
    add_line(document, head);
    g_free(head);
    for (unsigned i = 0; i < fragments->len; i++) {
        g_string_append(document->text, i > 0 ? ",\n" : "\n");
        add_fragment(document, g_ptr_array_index(fragments, i));
    }
    g_string_append_c(document->text, '\n');
    add_line(document, "  }");
}

GString *document_end(struct document *document)
{
    GString *text = document->text;

    next_member(document);
    g_string_append_printf(text, CHECKSUM_LINE "%s\"\n}\n",
                           g_checksum_get_string(document->checksum));
    g_checksum_free(document->checksum);
    g_free(document);
    return text;
}

/* ---- Checking ---- */

static enum checksum_verdict compare_checksum(const char *line, size_t length,
                                              GChecksum *checksum)
{
    const char *expected = g_checksum_get_string(checksum);
    size_t head = strlen(CHECKSUM_LINE);

    if (length < head + 65 || memcmp(line + head, expected, 64) != 0 || line[head + 64] != '"')
        return CHECKSUM_WRONG;
    return CHECKSUM_RIGHT;
}

enum checksum_verdict document_check(const char *text, size_t length)
{
    GChecksum *checksum = g_checksum_new(G_CHECKSUM_SHA256);
    enum checksum_verdict verdict = CHECKSUM_ABSENT;
    const char *end = text + length, *newline;

    for (const char *line = text; line < end; line = newline + 1) {
        size_t size;
        char digest[65];

        newline = memchr(line, '\n', (size_t)(end - line));
        if (newline == NULL)
            newline = end;
        size = (size_t)(newline - line);
        if (size >= strlen(CHECKSUM_LINE) &&
            memcmp(line, CHECKSUM_LINE, strlen(CHECKSUM_LINE)) == 0) {
            verdict = compare_checksum(line, size, checksum);
            break;
        }
        if (size > 0 && line[size - 1] == ',')
            size--;
        digest_line(line, size, digest);
        g_checksum_update(checksum, (const guchar *)digest, 64);
    }
    g_checksum_free(checksum);
    return verdict;
}
