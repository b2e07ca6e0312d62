/* json.c: a strict reader of JSON (RFC 8259) into a flat array of nodes.
 *
 * Strings take no more room unescaped than in the text, so one block of the text's size holds
 * them all. Members are indexed by one sort over (object, key), which finds duplicates and serves
 * look-ups in bounded time whatever the keys are.
 */
#include "file/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

#define NUMBER_BYTES 512

typedef struct member {
    size_t object; /* index of the node it belongs to */
    size_t node;
    const char *key;
} member;

struct cr_json {
    cr_json_node *nodes;
    size_t count, capacity;
    member *members; /* sorted by object, then key */
    size_t member_count;
    char *strings;
    size_t strings_used;
};

typedef struct parser {
    cr_json *document;
    const char *text;
    size_t size, at;
    int depth;
} parser;

/* ---- reading bytes -------------------------------------------------------- */

/* The next byte, or -1 at the end. */
static int peek(const parser *p)
{
    return p->at < p->size ? (unsigned char)p->text[p->at] : -1;
}

static int fail_expected(const parser *p, const char *what)
{
    const int found = peek(p);
    if (found < 0)
        return cr_fail(CR_EFORMAT, "JSON: expected %s at byte %zu, found the end", what, p->at);
    if (found >= 0x20 && found < 0x7f)
        return cr_fail(CR_EFORMAT, "JSON: expected %s at byte %zu, found '%c'", what, p->at, found);
    return cr_fail(CR_EFORMAT, "JSON: expected %s at byte %zu, found byte 0x%02x", what, p->at,
                   (unsigned)found);
}

static int skip_spaces(parser *p)
{
    int next;
    while ((next = peek(p)) == ' ' || next == '\n' || next == '\r' || next == '\t')
        p->at++;
    return next;
}

static bool take(parser *p, char wanted)
{
    if (peek(p) != (unsigned char)wanted)
        return false;
    p->at++;
    return true;
}

/* ---- strings --------------------------------------------------------------- */

static int hex_digit(int c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int parse_hex4(parser *p, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < 4; i++, p->at++) {
        int digit = hex_digit(peek(p));
        if (digit < 0)
            return fail_expected(p, "four hexadecimal digits after \\u");
        *out = *out << 4 | (uint32_t)digit;
    }
    return CR_OK;
}

/* After "\u": one unit, or a surrogate pair. */
static int parse_unicode(parser *p, uint32_t *point)
{
    const size_t start = p->at - 2;
    uint32_t low;
    CR_TRY(parse_hex4(p, point));
    if (*point < 0xd800 || *point > 0xdfff)
        return CR_OK;
    if (*point < 0xdc00 && take(p, '\\') && take(p, 'u')) {
        CR_TRY(parse_hex4(p, &low));
        if (low >= 0xdc00 && low <= 0xdfff) {
            *point = 0x10000 + ((*point - 0xd800) << 10) + (low - 0xdc00);
            return CR_OK;
        }
    }
    return cr_fail(CR_EFORMAT, "JSON: expected a surrogate pair at byte %zu, found half of one",
                   start);
}

/* After the backslash; *out grows by what the escape stands for. */
static int parse_escape(parser *p, char **out)
{
    static const char letters[] = "\"\\/bfnrt", bytes[] = "\"\\/\b\f\n\r\t";
    const int letter = peek(p);
    const char *found = letter > 0 ? strchr(letters, letter) : NULL;
    if (found) {
        p->at++;
        *(*out)++ = bytes[found - letters];
        return CR_OK;
    }
    if (!take(p, 'u'))
        return fail_expected(p, "one of \" \\ / b f n r t u after a backslash");
    uint32_t point;
    CR_TRY(parse_unicode(p, &point));
    *out += cr_utf8_encode(*out, point);
    return CR_OK;
}

/* One character of a string's inside that is no escape. */
static int copy_character(parser *p, char **out)
{
    const unsigned char *s = (const unsigned char *)p->text + p->at;
    if (p->at == p->size)
        return fail_expected(p, "the end of a string");
    if (*s < 0x20)
        return fail_expected(p, "an escape instead of a raw control character");
    const size_t length = cr_utf8_sequence((const char *)s, p->size - p->at);
    if (length == 0)
        return fail_expected(p, "UTF-8");
    memcpy(*out, s, length);
    *out += length;
    p->at += length;
    return CR_OK;
}

/* At the opening quote. */
static int parse_string(parser *p, const char **text, size_t *length)
{
    char *const start = p->document->strings + p->document->strings_used;
    char *out = start;
    p->at++;
    while (!take(p, '"')) {
        if (take(p, '\\'))
            CR_TRY(parse_escape(p, &out));
        else
            CR_TRY(copy_character(p, &out));
    }
    *text = start;
    *length = (size_t)(out - start);
    *out++ = '\0';
    p->document->strings_used += (size_t)(out - start);
    return CR_OK;
}

/* Keys are looked up as C strings. */
static int parse_key(parser *p, const char **key)
{
    size_t length;
    if (skip_spaces(p) != '"')
        return fail_expected(p, "a key in quotes");
    const size_t start = p->at;
    CR_TRY(parse_string(p, key, &length));
    if (strlen(*key) != length)
        return cr_fail(CR_EFORMAT, "JSON: the key at byte %zu contains a NUL", start);
    if (skip_spaces(p) != ':')
        return fail_expected(p, "':' after a key");
    p->at++;
    return CR_OK;
}

/* ---- numbers ---------------------------------------------------------------- */

typedef struct decimal {
    bool negative, plain; /* plain: neither fraction nor exponent */
    size_t digits;
    long exponent;                /* of the last digit */
    char text[NUMBER_BYTES + 24]; /* digits, later "digits" "e" exponent */
} decimal;

static int parse_digits(parser *p, decimal *number)
{
    int next = peek(p);
    if (next < '0' || next > '9')
        return fail_expected(p, "a digit");
    for (; next >= '0' && next <= '9'; next = peek(p)) {
        if (number->digits == NUMBER_BYTES)
            return cr_fail(CR_EFORMAT, "JSON: the number before byte %zu has more than %d digits",
                           p->at, NUMBER_BYTES);
        number->text[number->digits++] = (char)next;
        p->at++;
    }
    return CR_OK;
}

static int parse_exponent(parser *p, decimal *number)
{
    long exponent = 0;
    p->at++;
    const bool negative = take(p, '-');
    if (!negative)
        take(p, '+');
    int next = peek(p);
    if (next < '0' || next > '9')
        return fail_expected(p, "a digit of an exponent");
    for (; next >= '0' && next <= '9'; next = peek(p)) {
        if (exponent < 100000) /* far beyond what a double can tell apart */
            exponent = 10 * exponent + (next - '0');
        p->at++;
    }
    number->exponent += negative ? -exponent : exponent;
    number->plain = false;
    return CR_OK;
}

static int parse_decimal(parser *p, decimal *number)
{
    number->digits = 0; /* the text needs no clearing: a header may hold millions of numbers */
    number->exponent = 0;
    number->plain = true;
    number->negative = take(p, '-');
    if (take(p, '0'))
        number->text[number->digits++] = '0';
    else
        CR_TRY(parse_digits(p, number));
    if (take(p, '.')) {
        const size_t whole = number->digits;
        CR_TRY(parse_digits(p, number));
        number->exponent = (long)whole - (long)number->digits;
        number->plain = false;
    }
    if (peek(p) == 'e' || peek(p) == 'E')
        CR_TRY(parse_exponent(p, number));
    return CR_OK;
}

static bool to_integer(const decimal *number, int64_t *out)
{
    const uint64_t limit = (uint64_t)INT64_MAX + number->negative;
    uint64_t magnitude = 0;
    for (size_t i = 0; i < number->digits; i++) {
        const uint64_t digit = (uint64_t)(number->text[i] - '0');
        if (magnitude > (limit - digit) / 10)
            return false;
        magnitude = 10 * magnitude + digit;
    }
    *out = number->negative ? (int64_t)(0 - magnitude) : (int64_t)magnitude;
    return number->plain;
}

/* strtod rounds correctly but reads the point in the host's locale: it gets digits and an
 * exponent alone. */
static double to_double(decimal *number)
{
    snprintf(number->text + number->digits, sizeof number->text - number->digits, "e%ld",
             number->exponent);
    const double magnitude = strtod(number->text, NULL);
    return number->negative ? -magnitude : magnitude;
}

static int parse_number(parser *p, cr_json_node *node)
{
    const size_t start = p->at;
    decimal number;
    CR_TRY(parse_decimal(p, &number));
    node->kind = CR_JSON_NUMBER;
    node->integer = to_integer(&number, &node->value);
    if (!node->integer)
        node->value = 0;
    node->number = node->integer ? (double)node->value : to_double(&number);
    if (isinf(node->number))
        return cr_fail(CR_EFORMAT, "JSON: the number at byte %zu is too large for a double", start);
    return CR_OK;
}

/* ---- values ------------------------------------------------------------------ */

static int add_node(cr_json *document, size_t *index)
{
    if (document->count == CR_JSON_NODES)
        return cr_fail(CR_EFORMAT, "JSON: more than %d values", CR_JSON_NODES);
    if (document->count == document->capacity) {
        const size_t old = document->capacity, capacity = old ? 2 * old : 64;
        cr_json_node *nodes =
            cr_realloc(document->nodes, old * sizeof *nodes, capacity * sizeof *nodes);
        if (!nodes)
            return CR_ENOMEM;
        document->nodes = nodes;
        document->capacity = capacity;
    }
    *index = document->count++;
    document->nodes[*index] = (cr_json_node){.kind = CR_JSON_NULL};
    return CR_OK;
}

static int parse_word(parser *p, cr_json_node *node)
{
    static const struct {
        const char *text;
        size_t length;
        cr_json_kind kind;
    } words[] = {{"null", 4, CR_JSON_NULL}, {"true", 4, CR_JSON_TRUE}, {"false", 5, CR_JSON_FALSE}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (p->size - p->at < words[i].length ||
            memcmp(p->text + p->at, words[i].text, words[i].length) != 0)
            continue;
        p->at += words[i].length;
        node->kind = words[i].kind;
        return CR_OK;
    }
    return fail_expected(p, "a value");
}

static int parse_value(parser *p, size_t *index);

/* One element of an array or member of an object, linked behind `previous`. */
static int parse_child(parser *p, size_t parent, size_t previous, size_t *index)
{
    cr_json *document = p->document;
    const char *key = NULL;
    if (document->nodes[parent].kind == CR_JSON_OBJECT) {
        CR_TRY(parse_key(p, &key));
        document->member_count++;
    }
    CR_TRY(parse_value(p, index));
    document->nodes[*index].key = key;
    document->nodes[parent].length++;
    if (previous == 0)
        document->nodes[parent].child = *index;
    else
        document->nodes[previous].next = *index;
    return CR_OK;
}

/* At the opening bracket. */
static int parse_container(parser *p, size_t parent, cr_json_kind kind)
{
    const char close = kind == CR_JSON_OBJECT ? '}' : ']';
    size_t previous = 0;
    p->document->nodes[parent].kind = kind;
    if (p->depth == CR_JSON_DEPTH)
        return cr_fail(CR_EFORMAT, "JSON: nested deeper than %d at byte %zu", CR_JSON_DEPTH, p->at);
    p->at++;
    if (skip_spaces(p) == close) {
        p->at++;
        return CR_OK;
    }
    p->depth++;
    do {
        CR_TRY(parse_child(p, parent, previous, &previous));
        skip_spaces(p);
    } while (take(p, ','));
    p->depth--;
    if (!take(p, close))
        return fail_expected(p, kind == CR_JSON_OBJECT ? "',' or '}'" : "',' or ']'");
    return CR_OK;
}

static int parse_value(parser *p, size_t *index)
{
    CR_TRY(add_node(p->document, index));
    cr_json_node *node = &p->document->nodes[*index];
    const int next = skip_spaces(p);
    switch (next) {
    case '{':
        return parse_container(p, *index, CR_JSON_OBJECT);
    case '[':
        return parse_container(p, *index, CR_JSON_ARRAY);
    case '"':
        node->kind = CR_JSON_STRING;
        return parse_string(p, &node->text, &node->length);
    default:
        return next == '-' || (next >= '0' && next <= '9') ? parse_number(p, node)
                                                           : parse_word(p, node);
    }
}

/* ---- members ------------------------------------------------------------------- */

static int compare_members(const void *a, const void *b)
{
    const member *x = a, *y = b;
    if (x->object != y->object)
        return x->object < y->object ? -1 : 1;
    return strcmp(x->key, y->key);
}

static int index_members(cr_json *document)
{
    member *members = cr_alloc(document->member_count * sizeof *members);
    if (!members)
        return CR_ENOMEM;
    document->members = members;
    size_t filled = 0;
    for (size_t i = 0; i < document->count; i++) {
        if (document->nodes[i].kind != CR_JSON_OBJECT)
            continue;
        for (size_t n = document->nodes[i].child; n != 0; n = document->nodes[n].next)
            members[filled++] = (member){i, n, document->nodes[n].key};
    }
    qsort(members, filled, sizeof *members, compare_members);
    for (size_t i = 1; i < filled; i++)
        if (compare_members(&members[i - 1], &members[i]) == 0)
            return cr_fail(CR_EFORMAT, "JSON: the key \"%.200s\" stands twice in one object",
                           members[i].key);
    return CR_OK;
}

/* ---- documents ------------------------------------------------------------------ */

static int parse_document(parser *p)
{
    size_t root;
    p->document->strings = cr_alloc(p->size);
    if (!p->document->strings)
        return CR_ENOMEM;
    CR_TRY(parse_value(p, &root));
    if (skip_spaces(p) >= 0)
        return fail_expected(p, "the end");
    return index_members(p->document);
}

int cr_json_parse(cr_json **out, const char *text, size_t size)
{
    *out = NULL;
    cr_json *document = cr_calloc(1, sizeof *document);
    if (!document)
        return CR_ENOMEM;
    parser p = {document, text, size, 0, 0};
    int code = parse_document(&p);
    if (code < 0) {
        cr_json_free(document);
        return code;
    }
    *out = document;
    return CR_OK;
}

void cr_json_free(cr_json *document)
{
    if (!document)
        return;
    cr_free(document->nodes);
    cr_free(document->members);
    cr_free(document->strings);
    cr_free(document);
}

const cr_json_node *cr_json_root(const cr_json *document)
{
    return document->nodes;
}

const cr_json_node *cr_json_first(const cr_json *document, const cr_json_node *parent)
{
    return parent->child ? &document->nodes[parent->child] : NULL;
}

const cr_json_node *cr_json_next(const cr_json *document, const cr_json_node *node)
{
    return node->next ? &document->nodes[node->next] : NULL;
}

const cr_json_node *cr_json_member(const cr_json *document, const cr_json_node *object,
                                   const char *key)
{
    if (document->member_count == 0)
        return NULL;
    const member wanted = {(size_t)(object - document->nodes), 0, key};
    const member *found =
        bsearch(&wanted, document->members, document->member_count, sizeof wanted, compare_members);
    return found ? &document->nodes[found->node] : NULL;
}

/* ---- writing -------------------------------------------------------------------- */

static size_t quote_control(char *out, unsigned char c)
{
    static const char digits[] = "0123456789abcdef";
    const char escape[6] = {'\\', 'u', '0', '0', digits[c >> 4], digits[c & 15]};
    memcpy(out, escape, sizeof escape);
    return sizeof escape;
}

size_t cr_json_quote(char *out, const char *text)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t left = strlen(text), used = 0;
    out[used++] = '"';
    while (left > 0) {
        const size_t length = cr_utf8_sequence((const char *)s, left);
        if (length == 0)
            return 0;
        if (*s < 0x20) {
            used += quote_control(out + used, *s);
        } else {
            if (*s == '"' || *s == '\\')
                out[used++] = '\\';
            memcpy(out + used, s, length);
            used += length;
        }
        s += length;
        left -= length;
    }
    out[used++] = '"';
    return used;
}
