/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The text of the state file: lines that are kept ready, and the checksum over them. Knows
 * nothing of exports. Any thread.
 */
#ifndef NR_STORE_TEXT_H
#define NR_STORE_TEXT_H

#include <glib.h>
#include <stdbool.h>

struct json_object;

/* One line: a member of one of the file's objects. Never changes; shared by reference. */
struct fragment {
    char *key;
    char *text; /* indented, without comma and newline */
    size_t length;
    char digest[65]; /* SHA-256 of the text, hexadecimal */
};

/* `depth`: of the object that it is a member of; 1 is the outermost. */
struct fragment *fragment_new(unsigned depth, const char *key, struct json_object *value);
struct fragment *fragment_ref(struct fragment *fragment);
void fragment_unref(void *fragment);

/* The whole file. A section is an object made of fragments. */
struct document;
/* `size_hint`: bytes that the text will have, more or less. */
struct document *document_new(size_t size_hint);
void document_member(struct document *document, const struct fragment *fragment);
/* `fragments`: struct fragment *, in order. */
void document_section(struct document *document, const char *name, const GPtrArray *fragments);
/* Adds the checksum, closes and frees the document. */
GString *document_end(struct document *document);

/* What a checksum says of a file's text. */
enum checksum_verdict { CHECKSUM_RIGHT, CHECKSUM_WRONG, CHECKSUM_ABSENT };
enum checksum_verdict document_check(const char *text, size_t length);

#endif
