/* regex.c: parser, Thompson's construction from the end backwards, lazy subsets; ranges of characters
 * become byte ranges as in RE2 (Cox, "Regular Expression Matching in the Wild", 2010). */
#include "text/regex.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

#define NONE (-1)
#define MOST_DEPTH 100
#define MOST_REPEAT 1000
#define MOST_POINT 0x10FFFF

typedef struct range {
    int32_t first, last; /* characters */
} range;

/* ---- the pattern's tree ----------------------------------------------------------------------- */

typedef enum tree_kind { TREE_SET, TREE_SEQUENCE, TREE_CHOICE, TREE_REPEAT } tree_kind;

typedef struct tree {
    tree_kind kind;
    int32_t last_child;         /* children are linked from the last to the first */
    int32_t before;             /* the sibling before this one */
    size_t first_range, ranges; /* of a set */
    int least, most;            /* of a repeat; most NONE = no limit */
} tree;

/* ---- the automaton ------------------------------------------------------------------------------ */

typedef enum node_kind { NODE_BYTES, NODE_SPLIT, NODE_MATCH } node_kind;

typedef struct nfa_node {
    uint8_t kind, first, last; /* first..last: the bytes */
    int32_t to, other;         /* other: of a split */
} nfa_node;

typedef struct dfa_state {
    int32_t *nodes; /* sorted, of kind NODE_BYTES */
    size_t count;
    bool accepts;
    int32_t next[256]; /* UNKNOWN, CR_REGEX_DEAD or a state */
} dfa_state;

#define UNKNOWN (-2)

struct cr_regex {
    nfa_node *nodes;
    size_t node_count, node_room;
    int32_t start;
    dfa_state **states;
    size_t state_count, state_room;
    int32_t *slots; /* hash of node lists to state + 1; 0 = free */
    size_t slot_mask;
    uint32_t *marks, mark; /* [node_count]: visited in this closure */
    int32_t *stack, *set;  /* [node_count] */
};

/* Makes room for one more element; the list's room doubles. */
static int grow(void **list, size_t count, size_t *room, size_t size)
{
    if (count < *room)
        return CR_OK;
    size_t wanted = *room * 2 + 32;
    void *more = cr_realloc(*list, count * size, wanted * size);
    if (!more)
        return CR_ENOMEM;
    *list = more;
    *room = wanted;
    return CR_OK;
}

/* ---- parsing ------------------------------------------------------------------------------------- */

typedef struct parser {
    const char *text;
    size_t length, at;
    int depth;
    tree *trees;
    size_t tree_count, tree_room;
    range *ranges;
    size_t range_count, range_room;
} parser;

static int refuse(const parser *p, int code, const char *what)
{
    return cr_fail(code, "pattern, byte %zu: %s", p->at + 1, what);
}

static bool at_end(const parser *p)
{
    return p->at >= p->length;
}

static char peek(const parser *p)
{
    return at_end(p) ? '\0' : p->text[p->at];
}

static bool take(parser *p, char wanted)
{
    if (at_end(p) || p->text[p->at] != wanted)
        return false;
    p->at++;
    return true;
}

static int add_tree(parser *p, tree_kind kind, int32_t *out)
{
    CR_TRY(grow((void **)&p->trees, p->tree_count, &p->tree_room, sizeof *p->trees));
    *out = (int32_t)p->tree_count;
    p->trees[p->tree_count++] = (tree){.kind = kind, .last_child = NONE, .before = NONE};
    return CR_OK;
}

static void add_child(parser *p, int32_t parent, int32_t child)
{
    p->trees[child].before = p->trees[parent].last_child;
    p->trees[parent].last_child = child;
}

static int add_range(parser *p, int32_t first, int32_t last)
{
    CR_TRY(grow((void **)&p->ranges, p->range_count, &p->range_room, sizeof *p->ranges));
    p->ranges[p->range_count++] = (range){first, last};
    return CR_OK;
}

static int take_character(parser *p, int32_t *out)
{
    const unsigned char *text = (const unsigned char *)p->text + p->at;
    size_t length = cr_utf8_sequence(p->text + p->at, p->length - p->at);
    if (length == 0)
        return refuse(p, CR_EFORMAT, "expected well-formed UTF-8");
    static const unsigned char masks[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    int32_t point = text[0] & masks[length];
    for (size_t i = 1; i < length; i++)
        point = point << 6 | (text[i] & 0x3F);
    p->at += length;
    *out = point;
    return CR_OK;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 32);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : NONE;
}

/* Behind "\x": two digits, or digits in braces. */
static int take_hex(parser *p, int32_t *out)
{
    bool braces = take(p, '{');
    int32_t value = 0;
    int digits = 0;
    while (hex_digit(peek(p)) >= 0 && !at_end(p) && digits < (braces ? 6 : 2)) {
        value = value * 16 + hex_digit(p->text[p->at++]);
        digits++;
    }
    if (digits == 0 || (braces ? !take(p, '}') : digits != 2))
        return refuse(p, CR_EFORMAT, "expected \\xHH or \\x{H...}");
    if (value > MOST_POINT || (value >= 0xD800 && value <= 0xDFFF))
        return refuse(p, CR_EFORMAT, "there is no character of that number");
    if (!braces && value > 0x7F)
        return refuse(p, CR_EUNSUPPORTED, "\\xHH goes up to 7F; \\x{HH} names a character");
    *out = value;
    return CR_OK;
}

/* "dws" in either case; NULL for other letters. */
static const range *named_class(char letter, size_t *count)
{
    static const range digits[] = {{'0', '9'}};
    static const range words[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
    static const range spaces[] = {{'\t', '\r'}, {' ', ' '}};
    switch (letter | 32) {
    case 'd':
        *count = 1;
        return digits;
    case 'w':
        *count = 4;
        return words;
    case 's':
        *count = 2;
        return spaces;
    default:
        return NULL;
    }
}

/* What follows a backslash and stands for one character. */
static int take_escaped(parser *p, int32_t *out)
{
    static const char letters[] = "nrtf", values[] = "\n\r\t\f";
    if (at_end(p))
        return refuse(p, CR_EFORMAT, "a character is missing after the backslash");
    char c = p->text[p->at];
    const char *found = c ? strchr(letters, c) : NULL;
    if (found) {
        p->at++;
        *out = values[found - letters];
        return CR_OK;
    }
    if (take(p, 'x'))
        return take_hex(p, out);
    if ((unsigned char)c >= 0x80 || (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z'))
        return refuse(p, CR_EUNSUPPORTED,
                      "this escape is not supported (n r t f x d w s, and punctuation, are)");
    p->at++;
    *out = (unsigned char)c;
    return CR_OK;
}

static int compare_ranges(const void *a, const void *b)
{
    const range *x = a, *y = b;
    return (x->first > y->first) - (x->first < y->first);
}

/* Sorts the ranges from `first` on, joins what touches and leaves surrogates out; with `negated` the
 * complement. */
static int settle_set(parser *p, size_t first, bool negated)
{
    size_t count = p->range_count - first;
    range *list = count ? p->ranges + first : NULL;
    if (count > 1)
        qsort(list, count, sizeof *list, compare_ranges);
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        if (kept > 0 && list[i].first <= list[kept - 1].last + 1) {
            if (list[i].last > list[kept - 1].last)
                list[kept - 1].last = list[i].last;
        } else {
            list[kept++] = list[i];
        }
    }
    p->range_count = first + kept;
    if (!negated)
        return CR_OK;
    int32_t from = 0;
    for (size_t i = 0; i < kept; i++) {
        range r = p->ranges[first + i];
        if (r.first > from)
            CR_TRY(add_range(p, from, r.first - 1));
        from = r.last + 1;
    }
    if (from <= MOST_POINT)
        CR_TRY(add_range(p, from, MOST_POINT));
    p->range_count -= kept;
    if (p->range_count > first)
        memmove(p->ranges + first, p->ranges + first + kept,
                (p->range_count - first) * sizeof *p->ranges);
    return CR_OK;
}

static int make_set(parser *p, size_t first, bool negated, int32_t *out)
{
    CR_TRY(settle_set(p, first, negated));
    if (p->range_count == first)
        return refuse(p, CR_EFORMAT, "the class holds no character");
    CR_TRY(add_tree(p, TREE_SET, out));
    p->trees[*out].first_range = first;
    p->trees[*out].ranges = p->range_count - first;
    return CR_OK;
}

/* A character of a class, or a named class (*point = NONE). */
static int take_member(parser *p, int32_t *point)
{
    size_t count;
    if (peek(p) == '[' && p->at + 1 < p->length && strchr(":.=", p->text[p->at + 1]))
        return refuse(p, CR_EUNSUPPORTED, "[:name:] is not supported");
    if (!take(p, '\\'))
        return take_character(p, point);
    const range *named = at_end(p) ? NULL : named_class(p->text[p->at], &count);
    if (!named)
        return take_escaped(p, point);
    if (p->text[p->at] < 'a')
        return refuse(p, CR_EUNSUPPORTED, "a negated class inside a class is not supported");
    p->at++;
    *point = NONE;
    for (size_t i = 0; i < count; i++)
        CR_TRY(add_range(p, named[i].first, named[i].last));
    return CR_OK;
}

static int take_class(parser *p, int32_t *out)
{
    size_t first = p->range_count;
    bool negated = take(p, '^'), begun = false;
    while (!begun || peek(p) != ']') {
        int32_t low, high;
        if (at_end(p))
            return refuse(p, CR_EFORMAT, "the class has no ']'");
        CR_TRY(take_member(p, &low));
        begun = true;
        bool span = peek(p) == '-' && p->at + 1 < p->length && p->text[p->at + 1] != ']';
        if (low == NONE && span)
            return refuse(p, CR_EFORMAT, "a range cannot begin with a class");
        if (low == NONE)
            continue;
        high = low;
        if (span) {
            p->at++;
            CR_TRY(take_member(p, &high));
        }
        if (high < low)
            return refuse(p, CR_EFORMAT, "a range must lead from lower to higher");
        CR_TRY(add_range(p, low, high));
    }
    p->at++;
    return make_set(p, first, negated, out);
}

static int single_set(parser *p, int32_t point, int32_t *out)
{
    size_t first = p->range_count;
    CR_TRY(add_range(p, point, point));
    return make_set(p, first, false, out);
}

static int take_backslash(parser *p, int32_t *out)
{
    size_t count, first = p->range_count;
    int32_t point;
    const range *named = at_end(p) ? NULL : named_class(p->text[p->at], &count);
    if (!named) {
        CR_TRY(take_escaped(p, &point));
        return single_set(p, point, out);
    }
    bool negated = p->text[p->at++] < 'a';
    for (size_t i = 0; i < count; i++)
        CR_TRY(add_range(p, named[i].first, named[i].last));
    return make_set(p, first, negated, out);
}

static int take_choice(parser *p, int32_t *out);

static int take_group(parser *p, int32_t *out)
{
    if (take(p, '?') && !take(p, ':'))
        return refuse(p, CR_EUNSUPPORTED, "of groups that begin with (? only (?: is supported");
    if (++p->depth > MOST_DEPTH)
        return refuse(p, CR_EUNSUPPORTED, "groups are nested more than 100 deep");
    CR_TRY(take_choice(p, out));
    p->depth--;
    return take(p, ')') ? CR_OK : refuse(p, CR_EFORMAT, "the group has no ')'");
}

static int take_atom(parser *p, int32_t *out)
{
    int32_t point;
    size_t first = p->range_count;
    switch (peek(p)) {
    case '(':
        p->at++;
        return take_group(p, out);
    case '[':
        p->at++;
        return take_class(p, out);
    case '\\':
        p->at++;
        return take_backslash(p, out);
    case '.':
        p->at++;
        CR_TRY(add_range(p, '\n', '\n'));
        return make_set(p, first, true, out);
    case '^':
    case '$':
        return refuse(p, CR_EUNSUPPORTED,
                      "the pattern always means the whole text: '^' and '$' are not supported");
    case '*':
    case '+':
    case '?':
    case '{':
        return refuse(p, CR_EFORMAT, "there is nothing to repeat (a '{' as such is \\{)");
    default:
        CR_TRY(take_character(p, &point));
        return single_set(p, point, out);
    }
}

static int take_number(parser *p, int *out)
{
    int value = 0;
    size_t from = p->at;
    while (!at_end(p) && p->text[p->at] >= '0' && p->text[p->at] <= '9' && value <= MOST_REPEAT)
        value = value * 10 + (p->text[p->at++] - '0');
    if (p->at == from)
        return refuse(p, CR_EFORMAT, "expected {n}, {n,} or {n,m}");
    if (value > MOST_REPEAT)
        return refuse(p, CR_EUNSUPPORTED, "a repeat goes up to 1000");
    *out = value;
    return CR_OK;
}

static int take_counts(parser *p, int *least, int *most)
{
    CR_TRY(take_number(p, least));
    *most = *least;
    if (take(p, ',')) {
        *most = NONE;
        if (peek(p) != '}')
            CR_TRY(take_number(p, most));
    }
    if (!take(p, '}'))
        return refuse(p, CR_EFORMAT, "expected {n}, {n,} or {n,m}");
    if (*most != NONE && *most < *least)
        return refuse(p, CR_EFORMAT, "a repeat's second number is less than its first");
    return CR_OK;
}

static int take_repeat(parser *p, int32_t *atom)
{
    int least = 0, most = NONE;
    int32_t repeat;
    if (take(p, '+'))
        least = 1;
    else if (take(p, '?'))
        most = 1;
    else if (take(p, '{'))
        CR_TRY(take_counts(p, &least, &most));
    else if (!take(p, '*'))
        return CR_OK;
    char after = peek(p);
    if (!at_end(p) && (after == '?' || after == '+'))
        return refuse(p, CR_EUNSUPPORTED,
                      "lazy and possessive repeats are not supported (the whole text is meant)");
    if (!at_end(p) && (after == '*' || after == '{'))
        return refuse(p, CR_EFORMAT, "a repeat of a repeat needs a group");
    CR_TRY(add_tree(p, TREE_REPEAT, &repeat));
    p->trees[repeat].least = least;
    p->trees[repeat].most = most;
    add_child(p, repeat, *atom);
    *atom = repeat;
    return CR_OK;
}

static int take_sequence(parser *p, int32_t *out)
{
    CR_TRY(add_tree(p, TREE_SEQUENCE, out));
    while (!at_end(p) && peek(p) != '|' && peek(p) != ')') {
        int32_t atom;
        CR_TRY(take_atom(p, &atom));
        CR_TRY(take_repeat(p, &atom));
        add_child(p, *out, atom);
    }
    return CR_OK;
}

static int take_choice(parser *p, int32_t *out)
{
    CR_TRY(add_tree(p, TREE_CHOICE, out));
    do {
        int32_t sequence;
        CR_TRY(take_sequence(p, &sequence));
        add_child(p, *out, sequence);
    } while (take(p, '|'));
    return CR_OK;
}

static int parse(parser *p, int32_t *root)
{
    CR_TRY(take_choice(p, root));
    return at_end(p) ? CR_OK : refuse(p, CR_EFORMAT, "there is no '(' for this ')'");
}

/* ---- Thompson's construction, from the end backwards ------------------------------------------------ */

static int add_node(cr_regex *r, nfa_node node, int32_t *out)
{
    if (r->node_count == CR_REGEX_NODES)
        return cr_fail(CR_EUNSUPPORTED, "the pattern is too large: more than %d nodes",
                       CR_REGEX_NODES);
    CR_TRY(grow((void **)&r->nodes, r->node_count, &r->node_room, sizeof *r->nodes));
    *out = (int32_t)r->node_count;
    r->nodes[r->node_count++] = node;
    return CR_OK;
}

static int add_split(cr_regex *r, int32_t to, int32_t other, int32_t *out)
{
    return add_node(r, (nfa_node){NODE_SPLIT, 0, 0, to, other}, out);
}

static size_t encode(unsigned char out[4], int32_t point)
{
    if (point < 0x80) {
        out[0] = (unsigned char)point;
        return 1;
    }
    size_t length = point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    static const unsigned char leads[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = length - 1; i > 0; i--, point >>= 6)
        out[i] = (unsigned char)(0x80 | (point & 0x3F));
    out[0] = (unsigned char)(leads[length] | point);
    return length;
}

/* A chain for characters first..last whose encodings differ by independent byte ranges; *way gets one more
 * alternative. */
static int add_chain(cr_regex *r, int32_t first, int32_t last, int32_t next, int32_t *way)
{
    unsigned char low[4], high[4];
    size_t length = encode(low, first);
    encode(high, last);
    for (size_t i = length; i-- > 0;)
        CR_TRY(add_node(r, (nfa_node){NODE_BYTES, low[i], high[i], next, NONE}, &next));
    if (*way == NONE) {
        *way = next;
        return CR_OK;
    }
    return add_split(r, next, *way, way);
}

/* Cuts first..last until each part is a product of byte ranges. */
static int add_characters(cr_regex *r, int32_t first, int32_t last, int32_t next, int32_t *way)
{
    static const int32_t borders[] = {0x7F, 0x7FF, 0xD7FF, 0xDFFF, 0xFFFF};
    for (size_t i = 0; i < sizeof borders / sizeof *borders; i++)
        if (first <= borders[i] && borders[i] < last) {
            CR_TRY(add_characters(r, first, borders[i], next, way));
            return add_characters(r, borders[i] + 1, last, next, way);
        }
    if (first >= 0xD800 && last <= 0xDFFF)
        return CR_OK; /* surrogates are no characters */
    for (int shift = 6; last > 0x7F && shift <= 18; shift += 6) {
        int32_t mask = (1 << shift) - 1;
        if ((first & ~mask) == (last & ~mask))
            continue;
        if ((first & mask) != 0) {
            CR_TRY(add_characters(r, first, first | mask, next, way));
            return add_characters(r, (first | mask) + 1, last, next, way);
        }
        if ((last & mask) != mask) {
            CR_TRY(add_characters(r, first, (last & ~mask) - 1, next, way));
            return add_characters(r, last & ~mask, last, next, way);
        }
    }
    return add_chain(r, first, last, next, way);
}

static int compile(cr_regex *r, const parser *p, int32_t at, int32_t next, int32_t *out);

static int compile_set(cr_regex *r, const parser *p, const tree *t, int32_t next, int32_t *out)
{
    int32_t way = NONE;
    for (size_t i = 0; i < t->ranges; i++) {
        const range *part = &p->ranges[t->first_range + i];
        CR_TRY(add_characters(r, part->first, part->last, next, &way));
    }
    *out = way;
    return way == NONE ? cr_fail(CR_EFORMAT, "pattern: a class holds no character") : CR_OK;
}

/* x{2,4} is xx(x(x)?)?, x{2,} is xxx*. */
static int compile_repeat(cr_regex *r, const parser *p, const tree *t, int32_t next, int32_t *out)
{
    int32_t way = next, body = t->last_child;
    if (t->most == NONE) {
        int32_t loop, inside;
        CR_TRY(add_split(r, NONE, next, &loop));
        CR_TRY(compile(r, p, body, loop, &inside));
        r->nodes[loop].to = inside;
        way = loop;
    }
    for (int i = t->least; i < t->most; i++) {
        CR_TRY(compile(r, p, body, way, &way));
        CR_TRY(add_split(r, way, next, &way));
    }
    for (int i = 0; i < t->least; i++) {
        int32_t before = way;
        CR_TRY(compile(r, p, body, way, &way));
        if (way == before) /* the body is empty, and so is any number of it */
            break;
    }
    *out = way;
    return CR_OK;
}

static int compile(cr_regex *r, const parser *p, int32_t at, int32_t next, int32_t *out)
{
    const tree *t = &p->trees[at];
    int32_t way = t->kind == TREE_SEQUENCE ? next : NONE;
    if (t->kind == TREE_SET)
        return compile_set(r, p, t, next, out);
    if (t->kind == TREE_REPEAT)
        return compile_repeat(r, p, t, next, out);
    for (int32_t child = t->last_child; child != NONE; child = p->trees[child].before) {
        int32_t one;
        CR_TRY(compile(r, p, child, t->kind == TREE_SEQUENCE ? way : next, &one));
        if (t->kind == TREE_CHOICE && way != NONE)
            CR_TRY(add_split(r, one, way, &one));
        way = one;
    }
    *out = way;
    return CR_OK;
}

/* ---- deterministic states ----------------------------------------------------------------------------- */

/* Adds what `node` leads to without a byte: bytes nodes to r->set from *count on. */
static void close_over(cr_regex *r, int32_t node, size_t *count, bool *accepts)
{
    size_t depth = 0;
    r->stack[depth++] = node;
    while (depth > 0) {
        int32_t at = r->stack[--depth];
        if (r->marks[at] == r->mark)
            continue;
        r->marks[at] = r->mark;
        const nfa_node *n = &r->nodes[at];
        if (n->kind == NODE_BYTES) {
            r->set[(*count)++] = at;
        } else if (n->kind == NODE_MATCH) {
            *accepts = true;
        } else {
            if (r->marks[n->other] != r->mark)
                r->stack[depth++] = n->other;
            if (r->marks[n->to] != r->mark)
                r->stack[depth++] = n->to;
        }
    }
}

static int compare_ids(const void *a, const void *b)
{
    const int32_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static uint64_t hash_set(const int32_t *set, size_t count, bool accepts)
{
    uint64_t hash = count * 2 + accepts;
    for (size_t i = 0; i < count; i++) {
        hash = (hash ^ (uint32_t)set[i]) * UINT64_C(0x9E3779B97F4A7C15);
        hash ^= hash >> 29;
    }
    return hash;
}

static int32_t *find_slot(const cr_regex *r, const int32_t *set, size_t count, bool accepts)
{
    for (size_t at = hash_set(set, count, accepts) & r->slot_mask;; at = (at + 1) & r->slot_mask) {
        int32_t *slot = &r->slots[at];
        if (*slot == 0)
            return slot;
        const dfa_state *s = r->states[*slot - 1];
        if (s->count == count && s->accepts == accepts &&
            memcmp(s->nodes, set, count * sizeof *set) == 0)
            return slot;
    }
}

static int make_state(cr_regex *r, size_t count, bool accepts, int32_t *slot)
{
    if (r->state_count == CR_REGEX_STATES)
        return cr_fail(CR_ENOMEM, "the pattern needs more than %d states", CR_REGEX_STATES);
    CR_TRY(grow((void **)&r->states, r->state_count, &r->state_room, sizeof(dfa_state *)));
    dfa_state *s = cr_calloc(1, sizeof *s);
    int32_t *nodes = cr_calloc(count, sizeof *nodes);
    if (!s || !nodes) {
        cr_free(s);
        cr_free(nodes);
        return CR_ENOMEM;
    }
    if (count)
        memcpy(nodes, r->set, count * sizeof *nodes);
    *s = (dfa_state){.nodes = nodes, .count = count, .accepts = accepts};
    for (int byte = 0; byte < 256; byte++)
        s->next[byte] = UNKNOWN;
    r->states[r->state_count++] = s;
    *slot = (int32_t)r->state_count;
    return CR_OK;
}

/* The state of r->set[0..count). */
static int state_of_set(cr_regex *r, size_t count, bool accepts, int32_t *out)
{
    if (count == 0 && !accepts) {
        *out = CR_REGEX_DEAD;
        return CR_OK;
    }
    qsort(r->set, count, sizeof *r->set, compare_ids);
    int32_t *slot = find_slot(r, r->set, count, accepts);
    if (*slot == 0)
        CR_TRY(make_state(r, count, accepts, slot));
    *out = *slot - 1;
    return CR_OK;
}

int cr_regex_next(cr_regex *regex, int32_t state, unsigned char byte, int32_t *next)
{
    dfa_state *s = regex->states[state];
    *next = s->next[byte];
    if (*next != UNKNOWN)
        return CR_OK;
    size_t count = 0;
    bool accepts = false;
    regex->mark++;
    for (size_t i = 0; i < s->count; i++) {
        const nfa_node *n = &regex->nodes[s->nodes[i]];
        if (n->first <= byte && byte <= n->last)
            close_over(regex, n->to, &count, &accepts);
    }
    CR_TRY(state_of_set(regex, count, accepts, next));
    s->next[byte] = *next;
    return CR_OK;
}

bool cr_regex_accepts(const cr_regex *regex, int32_t state)
{
    return regex->states[state]->accepts;
}

bool cr_regex_goes_on(const cr_regex *regex, int32_t state)
{
    return regex->states[state]->count > 0;
}

/* ---- creation ---------------------------------------------------------------------------------------------- */

static int build(cr_regex *r, const char *pattern, size_t length)
{
    parser p = {.text = pattern, .length = length};
    int32_t root, match;
    int code = parse(&p, &root);
    if (code == CR_OK)
        code = add_node(r, (nfa_node){.kind = NODE_MATCH}, &match);
    if (code == CR_OK)
        code = compile(r, &p, root, match, &r->start);
    cr_free(p.trees);
    cr_free(p.ranges);
    return code;
}

static int prepare(cr_regex *r)
{
    size_t slots = 64, count = 0;
    bool accepts = false;
    int32_t first;
    while (slots < 2 * CR_REGEX_STATES)
        slots *= 2;
    r->slot_mask = slots - 1;
    r->slots = cr_calloc(slots, sizeof *r->slots);
    r->marks = cr_calloc(r->node_count, sizeof *r->marks);
    r->stack = cr_calloc(2 * r->node_count + 2, sizeof *r->stack);
    r->set = cr_calloc(r->node_count, sizeof *r->set);
    if (!r->slots || !r->marks || !r->stack || !r->set)
        return CR_ENOMEM;
    r->mark = 1;
    close_over(r, r->start, &count, &accepts);
    return state_of_set(r, count, accepts, &first);
}

int cr_regex_create(cr_regex **out, const char *pattern, size_t length)
{
    *out = NULL;
    cr_regex *made = cr_calloc(1, sizeof *made);
    if (!made)
        return CR_ENOMEM;
    int code = build(made, pattern, length);
    if (code == CR_OK)
        code = prepare(made);
    if (code < 0) {
        cr_regex_free(made);
        return code;
    }
    *out = made;
    return CR_OK;
}

void cr_regex_free(cr_regex *regex)
{
    if (!regex)
        return;
    for (size_t i = 0; i < regex->state_count; i++) {
        cr_free(regex->states[i]->nodes);
        cr_free(regex->states[i]);
    }
    cr_free(regex->states);
    cr_free(regex->slots);
    cr_free(regex->marks);
    cr_free(regex->stack);
    cr_free(regex->set);
    cr_free(regex->nodes);
    cr_free(regex);
}

/* ---- the specification --------------------------------------------------------------------------------------- */

/* Marks every node that `node` leads to without a byte, itself included. */
static void reach_plain(const cr_regex *r, bool *in, int32_t node)
{
    if (in[node])
        return;
    in[node] = true;
    if (r->nodes[node].kind == NODE_SPLIT) {
        reach_plain(r, in, r->nodes[node].other);
        reach_plain(r, in, r->nodes[node].to);
    }
}

static bool holds_match(const cr_regex *r, const bool *in)
{
    for (size_t i = 0; i < r->node_count; i++)
        if (in[i] && r->nodes[i].kind == NODE_MATCH)
            return true;
    return false;
}

int cr_regex_matches_plain(const cr_regex *regex, const char *text, size_t length, bool *out)
{
    size_t n = regex->node_count;
    bool *now = cr_calloc(2 * n, sizeof *now), *then = now ? now + n : NULL, *block = now;
    if (!now)
        return CR_ENOMEM;
    reach_plain(regex, now, regex->start);
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)text[i];
        memset(then, 0, n * sizeof *then);
        for (size_t node = 0; node < n; node++)
            if (now[node] && regex->nodes[node].kind == NODE_BYTES &&
                regex->nodes[node].first <= byte && byte <= regex->nodes[node].last)
                reach_plain(regex, then, regex->nodes[node].to);
        bool *swap = now;
        now = then;
        then = swap;
    }
    *out = holds_match(regex, now);
    cr_free(block);
    return CR_OK;
}
