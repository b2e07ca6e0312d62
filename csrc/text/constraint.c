/* constraint.c: sets of tokens by states of an automaton; Willard and Louf 2023, section 3. */
#include "text/constraint.h"

#include <stdlib.h>
#include <string.h>

#include "text/regex.h"
#include "text/tokenizer.h"

#define MOST_MASK_BYTES ((size_t)64 << 20)

typedef struct ordered_token {
    cr_text text; /* into bytes */
    int32_t id;
    size_t shared; /* bytes that it has in common with the one before */
} ordered_token;

struct cr_constraint {
    cr_regex *regex;
    size_t vocabulary, words; /* words of a mask */
    char *bytes;
    ordered_token *tokens; /* sorted by bytes */
    size_t count;
    cr_text *by_id;   /* [vocabulary]; bytes NULL = no ordinary token */
    uint64_t **masks; /* [mask_room] by state; NULL = not made yet */
    size_t mask_room, masks_made;
    int32_t *walk; /* [longest + 1]: states along a token */
    int holders;
};

/* ---- creation -------------------------------------------------------------------------- */

static int compare_tokens(const void *a, const void *b)
{
    const ordered_token *x = a, *y = b;
    size_t length = x->text.length < y->text.length ? x->text.length : y->text.length;
    int order = memcmp(x->text.bytes, y->text.bytes, length);
    if (order)
        return order;
    if (x->text.length != y->text.length)
        return x->text.length < y->text.length ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

static size_t shared_bytes(const cr_text *a, const cr_text *b)
{
    size_t most = a->length < b->length ? a->length : b->length, i = 0;
    while (i < most && a->bytes[i] == b->bytes[i])
        i++;
    return i;
}

/* Sizes of what copy_tokens fills. */
static void measure(const cr_tokenizer *tokenizer, size_t size, size_t *count, size_t *bytes)
{
    *count = *bytes = 0;
    for (size_t i = 0; i < size; i++)
        if (cr_tokenizer_is_ordinary(tokenizer, (int32_t)i)) {
            ++*count;
            *bytes += cr_tokenizer_bytes(tokenizer, (int32_t)i).length;
        }
}

static size_t copy_tokens(cr_constraint *c, const cr_tokenizer *tokenizer)
{
    size_t longest = 0, n = 0;
    char *to = c->bytes;
    for (size_t i = 0; i < c->vocabulary; i++) {
        if (!cr_tokenizer_is_ordinary(tokenizer, (int32_t)i))
            continue;
        cr_text text = cr_tokenizer_bytes(tokenizer, (int32_t)i);
        memcpy(to, text.bytes, text.length);
        c->by_id[i] = (cr_text){to, text.length};
        c->tokens[n++] = (ordered_token){c->by_id[i], (int32_t)i, 0};
        to += text.length;
        longest = text.length > longest ? text.length : longest;
    }
    return longest;
}

static int take_vocabulary(cr_constraint *c, const cr_tokenizer *tokenizer)
{
    cr_tokenizer_info info;
    size_t bytes;
    cr_tokenizer_describe(tokenizer, &info);
    c->vocabulary = (size_t)info.size;
    c->words = (c->vocabulary + 63) / 64;
    measure(tokenizer, c->vocabulary, &c->count, &bytes);
    c->bytes = cr_alloc(bytes);
    c->tokens = cr_calloc(c->count, sizeof *c->tokens);
    c->by_id = cr_calloc(c->vocabulary, sizeof *c->by_id);
    if (!c->bytes || !c->tokens || !c->by_id)
        return CR_ENOMEM;
    size_t longest = copy_tokens(c, tokenizer);
    qsort(c->tokens, c->count, sizeof *c->tokens, compare_tokens);
    for (size_t i = 1; i < c->count; i++)
        c->tokens[i].shared = shared_bytes(&c->tokens[i - 1].text, &c->tokens[i].text);
    c->walk = cr_calloc(longest + 1, sizeof *c->walk);
    return c->walk ? CR_OK : CR_ENOMEM;
}

int cr_constraint_create(cr_constraint **out, const cr_tokenizer *tokenizer, const char *pattern,
                         size_t length)
{
    *out = NULL;
    cr_constraint *made = cr_calloc(1, sizeof *made);
    if (!made)
        return CR_ENOMEM;
    made->holders = 1;
    int code = cr_regex_create(&made->regex, pattern, length);
    if (code == CR_OK)
        code = take_vocabulary(made, tokenizer);
    if (code < 0) {
        cr_constraint_close(made);
        return code;
    }
    *out = made;
    return CR_OK;
}

static void forget_masks(cr_constraint *c)
{
    for (size_t i = 0; i < c->mask_room; i++) {
        cr_free(c->masks[i]);
        c->masks[i] = NULL;
    }
    c->masks_made = 0;
}

void cr_constraint_hold(cr_constraint *constraint)
{
    constraint->holders++;
}

void cr_constraint_close(cr_constraint *constraint)
{
    if (!constraint || --constraint->holders > 0)
        return;
    forget_masks(constraint);
    cr_free(constraint->masks);
    cr_free(constraint->walk);
    cr_free(constraint->by_id);
    cr_free(constraint->tokens);
    cr_free(constraint->bytes);
    cr_regex_free(constraint->regex);
    cr_free(constraint);
}

/* ---- sets of tokens ------------------------------------------------------------------------ */

void cr_constraint_trim(cr_constraint *constraint)
{
    if (constraint->masks_made * constraint->words * sizeof(uint64_t) > MOST_MASK_BYTES)
        forget_masks(constraint);
}

/* Follows a token from byte `from`, whose state is known; *reached = bytes that led on. */
static int follow(cr_constraint *c, const cr_text *text, size_t from, size_t *reached)
{
    for (*reached = from; *reached < text->length; ++*reached) {
        int32_t next;
        CR_TRY(cr_regex_next(c->regex, c->walk[*reached], (unsigned char)text->bytes[*reached],
                             &next));
        if (next == CR_REGEX_DEAD)
            return CR_OK;
        c->walk[*reached + 1] = next;
    }
    return CR_OK;
}

/* walk[d] is the state after d bytes of the latest token, known up to `reached`: a token that shares more
 * with its neighbour than led on there is dead without a look. */
static int fill_mask(cr_constraint *c, int32_t state, uint64_t *mask)
{
    size_t reached = 0;
    c->walk[0] = state;
    for (size_t i = 0; i < c->count; i++) {
        const ordered_token *t = &c->tokens[i];
        if (i > 0 && t->shared > reached)
            continue;
        CR_TRY(follow(c, &t->text, i > 0 ? t->shared : 0, &reached));
        if (reached == t->text.length)
            mask[t->id / 64] |= UINT64_C(1) << (t->id % 64);
    }
    return CR_OK;
}

static int reserve_masks(cr_constraint *c, size_t state)
{
    if (state < c->mask_room)
        return CR_OK;
    size_t room = state * 2 + 64;
    uint64_t **masks =
        cr_realloc(c->masks, c->mask_room * sizeof(uint64_t *), room * sizeof(uint64_t *));
    if (!masks)
        return CR_ENOMEM;
    memset(masks + c->mask_room, 0, (room - c->mask_room) * sizeof(uint64_t *));
    c->masks = masks;
    c->mask_room = room;
    return CR_OK;
}

int cr_constraint_mask(cr_constraint *constraint, int32_t state, const uint64_t **mask)
{
    CR_TRY(reserve_masks(constraint, (size_t)state));
    uint64_t **kept = &constraint->masks[state];
    if (!*kept) {
        uint64_t *made = cr_calloc(constraint->words, sizeof *made);
        int code = made ? fill_mask(constraint, state, made) : CR_ENOMEM;
        if (code < 0) {
            cr_free(made);
            return code;
        }
        *kept = made;
        constraint->masks_made++;
    }
    *mask = *kept;
    return CR_OK;
}

/* ---- states ---------------------------------------------------------------------------------- */

int cr_constraint_advance(cr_constraint *constraint, int32_t state, int32_t token, int32_t *next)
{
    const cr_text *text = &constraint->by_id[token];
    *next = state;
    for (size_t i = 0; i < text->length && *next != CR_REGEX_DEAD; i++)
        CR_TRY(cr_regex_next(constraint->regex, *next, (unsigned char)text->bytes[i], next));
    return CR_OK;
}

size_t cr_constraint_vocabulary(const cr_constraint *constraint)
{
    return constraint->vocabulary;
}

bool cr_constraint_may_end(const cr_constraint *constraint, int32_t state)
{
    return cr_regex_accepts(constraint->regex, state);
}

bool cr_constraint_goes_on(const cr_constraint *constraint, int32_t state)
{
    return cr_regex_goes_on(constraint->regex, state);
}

int cr_constraint_allows_plain(cr_constraint *constraint, int32_t state, int32_t token, bool *out)
{
    int32_t next;
    *out = false;
    if (token < 0 || (size_t)token >= constraint->vocabulary || !constraint->by_id[token].bytes)
        return CR_OK;
    CR_TRY(cr_constraint_advance(constraint, state, token, &next));
    *out = next != CR_REGEX_DEAD;
    return CR_OK;
}

int cr_constraint_matches(cr_constraint *constraint, const char *text, size_t length, bool *out)
{
    int32_t state = CR_REGEX_START;
    for (size_t i = 0; i < length && state != CR_REGEX_DEAD; i++)
        CR_TRY(cr_regex_next(constraint->regex, state, (unsigned char)text[i], &state));
    *out = state != CR_REGEX_DEAD && cr_regex_accepts(constraint->regex, state);
    return CR_OK;
}
