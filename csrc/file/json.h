/* json.h: a minimal bounded JSON reader for file headers, and strings for writing them.
 *
 * Parses a whole text into a flat array of nodes (no recursion deeper than
 * CR_JSON_DEPTH, no more nodes than bytes nor than CR_JSON_NODES). Strings are
 * unescaped into storage that the document owns; all text must be UTF-8.
 * Numbers are doubles, with a flag for exact integers. Duplicate keys, keys
 * with a NUL and trailing bytes other than spaces are refused. Failures are
 * CR_EFORMAT (or CR_ENOMEM) and say at which byte; they name no file.
 */
#ifndef CR_JSON_H
#define CR_JSON_H

#include "base/base.h"

#define CR_JSON_DEPTH 64
#define CR_JSON_NODES (1 << 23)

typedef enum cr_json_kind {
    CR_JSON_NULL, CR_JSON_FALSE, CR_JSON_TRUE, CR_JSON_NUMBER,
    CR_JSON_STRING, CR_JSON_ARRAY, CR_JSON_OBJECT
} cr_json_kind;

typedef struct cr_json_node {
    cr_json_kind kind;
    bool integer;      /* written as an integer that int64 holds: see `value` */
    const char *key;   /* member name inside an object, terminated; else NULL */
    const char *text;  /* strings: unescaped, terminated; length below */
    size_t length;     /* bytes of text, or children of an array or object */
    double number;
    int64_t value;
    size_t next;       /* index of the next sibling, 0 = none */
    size_t child;      /* index of the first child, 0 = none */
} cr_json_node;

typedef struct cr_json cr_json;

int cr_json_parse(cr_json **out, const char *text, size_t size);
void cr_json_free(cr_json *document);
const cr_json_node *cr_json_root(const cr_json *document);
const cr_json_node *cr_json_first(const cr_json *document, const cr_json_node *parent); /* or NULL */
const cr_json_node *cr_json_next(const cr_json *document, const cr_json_node *node);    /* or NULL */
const cr_json_node *cr_json_member(const cr_json *document, const cr_json_node *object,
                                   const char *key); /* or NULL */

/* Writing: `text` as a JSON string with its quotes goes to out (not terminated), which has room
 * for cr_json_quoted_most(strlen(text)) bytes; returns its length, 0 when text is not UTF-8. */
size_t cr_json_quote(char *out, const char *text);
#define cr_json_quoted_most(length) (6 * (length) + 2)

#endif
