/* bpe.c: greedy merging by rank (Sennrich et al. 2016), by scan and by heap. */
#include "text/bpe.h"

#include <string.h>

#include "text/shown.h"

#define NONE UINT32_MAX

/* ---- the table ------------------------------------------------------------- */

static size_t pair_hash(int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    pair *= UINT64_C(0x9E3779B97F4A7C15);
    return (size_t)(pair ^ pair >> 32);
}

/* The slot that holds the pair, or the free one where it belongs. */
static cr_merge_slot *find_slot(const cr_merges *merges, int32_t left, int32_t right)
{
    for (size_t at = pair_hash(left, right) & merges->mask;; at = (at + 1) & merges->mask) {
        cr_merge_slot *slot = &merges->slots[at];
        if (slot->rank == NONE || (slot->left == left && slot->right == right))
            return slot;
    }
}

#define LONGEST_SCORED 256 /* bytes of a token that merging by score may give */

/* The token whose text is that of both, or -1. */
static int32_t find_joined(const cr_vocabulary *vocabulary, int32_t left, int32_t right)
{
    const cr_text *a = &vocabulary->texts[left], *b = &vocabulary->texts[right];
    char joined[LONGEST_SCORED];
    if (a->length + b->length > vocabulary->longest_piece ||
        a->length + b->length > LONGEST_SCORED)
        return -1;
    memcpy(joined, a->bytes, a->length);
    memcpy(joined + a->length, b->bytes, b->length);
    return cr_text_index_find(&vocabulary->pieces, joined, a->length + b->length);
}

/* Ascending where scores descend; the bits of a float order like it but for the sign. */
static uint32_t score_rank(float score)
{
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    return bits >> 31 ? bits : ~(bits | UINT32_C(0x80000000));
}

static uint32_t pair_rank(const cr_merges *merges, int32_t left, int32_t right)
{
    if (!merges->vocabulary)
        return find_slot(merges, left, right)->rank;
    int32_t joined = find_joined(merges->vocabulary, left, right);
    return joined < 0 ? NONE : score_rank(merges->scores[joined]);
}

/* What a pair that has a rank becomes. */
static int32_t pair_merged(const cr_merges *merges, int32_t left, int32_t right, uint32_t rank)
{
    return merges->vocabulary ? find_joined(merges->vocabulary, left, right) : merges->merged[rank];
}

static int allocate_table(cr_merges *out, size_t count)
{
    size_t slots = 16;
    while (slots < count * 2)
        slots *= 2;
    out->mask = slots - 1;
    out->slots = cr_calloc(slots, sizeof *out->slots);
    out->merged = cr_calloc(count, sizeof *out->merged);
    if (!out->slots || !out->merged)
        return CR_ENOMEM;
    for (size_t i = 0; i < slots; i++)
        out->slots[i].rank = NONE;
    return CR_OK;
}

/* The reason may end in a list of the file: "... is not in tokenizer.ggml.tokens". */
static int refuse(const char *keys, size_t rank, const cr_text *merge, const char *reason,
                  const char *list)
{
    return cr_fail(CR_EFORMAT, "%smerges[%zu] '%s': %s%s%s", keys, rank,
                   cr_show(merge->bytes, merge->length).text, reason, *list ? keys : "", list);
}

/* Bytes of the left half, or 0. A first byte that is a space belongs to it. */
static size_t find_border(const cr_text *merge)
{
    if (merge->length < 3)
        return 0;
    const char *space = memchr(merge->bytes + 1, ' ', merge->length - 1);
    size_t border = space ? (size_t)(space - merge->bytes) : 0;
    return border + 1 < merge->length ? border : 0;
}

/* `joined` has room for the merge's text. */
static int add_merge(cr_merges *out, size_t rank, const cr_text *merge, char *joined,
                     const cr_text_index *tokens, const char *keys)
{
    size_t border = find_border(merge), rest = merge->length - border - 1;
    if (border == 0)
        return refuse(keys, rank, merge, "expected two tokens with a space between them", "");
    const char *second = merge->bytes + border + 1;
    memcpy(joined, merge->bytes, border);
    memcpy(joined + border, second, rest);
    int32_t left = cr_text_index_find(tokens, merge->bytes, border);
    int32_t right = cr_text_index_find(tokens, second, rest);
    int32_t merged = cr_text_index_find(tokens, joined, border + rest);
    if (left < 0 || right < 0)
        return refuse(keys, rank, merge, "one of the two is not in ", "tokens");
    if (merged < 0)
        return refuse(keys, rank, merge, "what it gives is not in ", "tokens");
    cr_merge_slot *slot = find_slot(out, left, right);
    if (slot->rank != NONE)
        return refuse(keys, rank, merge, "the same pair stands earlier in the list", "");
    *slot = (cr_merge_slot){left, right, (uint32_t)rank};
    out->merged[rank] = merged;
    return CR_OK;
}

static int add_all(cr_merges *out, const cr_text *merges, size_t count, const cr_text_index *tokens,
                   const char *keys)
{
    size_t longest = 0;
    for (size_t i = 0; i < count; i++)
        longest = merges[i].length > longest ? merges[i].length : longest;
    char *joined = cr_alloc(longest);
    int code = joined ? CR_OK : CR_ENOMEM;
    for (size_t i = 0; i < count && code == CR_OK; i++)
        code = add_merge(out, i, &merges[i], joined, tokens, keys);
    cr_free(joined);
    return code;
}

int cr_merges_create(cr_merges *out, const cr_text *merges, size_t count,
                     const cr_text_index *tokens, const char *keys)
{
    *out = (cr_merges){.slots = NULL};
    if (count >= NONE)
        return cr_fail(CR_EFORMAT, "%smerges has %zu entries: too many", keys, count);
    int code = allocate_table(out, count);
    if (code == CR_OK)
        code = add_all(out, merges, count, tokens, keys);
    if (code < 0)
        cr_merges_free(out);
    return code;
}

int cr_merges_create_scored(cr_merges *out, const cr_vocabulary *vocabulary, const float *scores,
                            const char *keys)
{
    *out = (cr_merges){.vocabulary = vocabulary};
    for (size_t i = 0; i < vocabulary->size; i++)
        if (!(scores[i] == scores[i]))
            return cr_fail(CR_EFORMAT, "%sscores[%zu] is not a number", keys, i);
    out->scores = cr_calloc(vocabulary->size, sizeof *out->scores);
    if (!out->scores)
        return CR_ENOMEM;
    memcpy(out->scores, scores, vocabulary->size * sizeof *scores);
    return CR_OK;
}

void cr_merges_free(cr_merges *merges)
{
    cr_free(merges->scores);
    cr_free(merges->slots);
    cr_free(merges->merged);
    *merges = (cr_merges){.slots = NULL};
}

/* ---- by scan: the specification, and the fastest for words ------------------- */

#define SHORT 96 /* ids; about where the heap overtakes the scan */

/* ranks[i] is the rank of the pair (i, i + 1); returns the leftmost lowest, or count - 1. */
static size_t lowest_pair(const uint32_t *ranks, size_t count)
{
    size_t best = count - 1;
    uint32_t rank = NONE;
    for (size_t i = 0; i + 1 < count; i++)
        if (ranks[i] < rank) {
            rank = ranks[i];
            best = i;
        }
    return best;
}

static void merge_by_scan(const cr_merges *merges, int32_t *ids, size_t *count)
{
    uint32_t ranks[SHORT];
    size_t n = *count;
    for (size_t i = 0; i + 1 < n; i++)
        ranks[i] = pair_rank(merges, ids[i], ids[i + 1]);
    while (n > 1) {
        size_t at = lowest_pair(ranks, n);
        if (at == n - 1)
            break;
        ids[at] = pair_merged(merges, ids[at], ids[at + 1], ranks[at]);
        n--;
        memmove(&ids[at + 1], &ids[at + 2], (n - at - 1) * sizeof *ids);
        memmove(&ranks[at], &ranks[at + 1], (n - at - 1) * sizeof *ranks);
        if (at > 0)
            ranks[at - 1] = pair_rank(merges, ids[at - 1], ids[at]);
        if (at + 1 < n)
            ranks[at] = pair_rank(merges, ids[at], ids[at + 1]);
    }
    *count = n;
}

/* ---- by heap: long pieces ------------------------------------------------------ */

/* A pair in the heap is rank << 32 | position of its left token, so the smallest
 * is the lowest rank, leftmost. Pairs are not taken out when a neighbour
 * changes; one whose rank is no longer that of its position is stale. */
typedef struct chain {
    const cr_merges *merges;
    int32_t *ids;              /* [count], by first position of the token */
    uint32_t *ranks;           /* [count], of the pair that begins here; NONE = none or gone */
    uint32_t *next, *previous; /* [count], NONE at the ends */
    uint64_t *heap;            /* [2 count]: each merge takes one pair and adds at most two */
    size_t pairs;
} chain;

static void sift_down(chain *c, size_t at)
{
    uint64_t moving = c->heap[at];
    for (size_t child; (child = 2 * at + 1) < c->pairs; at = child) {
        if (child + 1 < c->pairs && c->heap[child + 1] < c->heap[child])
            child++;
        if (c->heap[child] >= moving)
            break;
        c->heap[at] = c->heap[child];
    }
    c->heap[at] = moving;
}

static void push_pair(chain *c, uint64_t pair)
{
    size_t at = c->pairs++;
    for (size_t parent; at > 0 && c->heap[parent = (at - 1) / 2] > pair; at = parent)
        c->heap[at] = c->heap[parent];
    c->heap[at] = pair;
}

static uint64_t pop_pair(chain *c)
{
    uint64_t pair = c->heap[0];
    c->heap[0] = c->heap[--c->pairs];
    if (c->pairs > 0)
        sift_down(c, 0);
    return pair;
}

/* Looks the pair at `at` up; false when it has no rank. */
static bool rank_pair(chain *c, uint32_t at)
{
    uint32_t next = c->next[at];
    c->ranks[at] = next == NONE ? NONE : pair_rank(c->merges, c->ids[at], c->ids[next]);
    return c->ranks[at] != NONE;
}

static uint64_t pair_key(const chain *c, uint32_t at)
{
    return (uint64_t)c->ranks[at] << 32 | at;
}

static void link_all(chain *c, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        c->next[i] = i + 1 < count ? i + 1 : NONE;
        c->previous[i] = i > 0 ? i - 1 : NONE;
    }
    for (uint32_t i = 0; i < count; i++)
        if (rank_pair(c, i))
            c->heap[c->pairs++] = pair_key(c, i);
    for (size_t i = c->pairs / 2; i-- > 0;)
        sift_down(c, i);
}

static void merge_at(chain *c, uint32_t at)
{
    uint32_t gone = c->next[at], after = c->next[gone], before = c->previous[at];
    c->ids[at] = pair_merged(c->merges, c->ids[at], c->ids[gone], c->ranks[at]);
    c->ranks[gone] = NONE;
    c->next[at] = after;
    if (after != NONE)
        c->previous[after] = at;
    if (rank_pair(c, at))
        push_pair(c, pair_key(c, at));
    if (before != NONE && rank_pair(c, before))
        push_pair(c, pair_key(c, before));
}

static size_t gather(const chain *c)
{
    size_t n = 0;
    for (uint32_t at = 0; at != NONE; at = c->next[at])
        c->ids[n++] = c->ids[at];
    return n;
}

static int grow_work(cr_bpe_work *work, size_t bytes)
{
    if (work->bytes >= bytes)
        return CR_OK;
    cr_bpe_work_free(work);
    work->block = cr_alloc(bytes);
    if (!work->block)
        return CR_ENOMEM;
    work->bytes = bytes;
    return CR_OK;
}

static int merge_by_heap(const cr_merges *merges, cr_bpe_work *work, int32_t *ids, size_t *count)
{
    size_t n = *count, bytes;
    size_t each = 2 * sizeof(uint64_t) + 3 * sizeof(uint32_t);
    if (n > CR_BPE_LONGEST || !cr_size_mul(&bytes, n, each))
        return cr_fail(CR_EARG, "a piece of %zu bytes: at most %zu can be merged", n,
                       CR_BPE_LONGEST);
    CR_TRY(grow_work(work, bytes));
    uint64_t *heap = work->block;
    uint32_t *ranks = (uint32_t *)(heap + 2 * n);
    chain c = {merges, ids, ranks, ranks + n, ranks + 2 * n, heap, 0};
    link_all(&c, (uint32_t)n);
    while (c.pairs > 0) {
        uint64_t pair = pop_pair(&c);
        uint32_t at = (uint32_t)pair;
        if (c.ranks[at] == pair >> 32)
            merge_at(&c, at);
    }
    *count = gather(&c);
    return CR_OK;
}

int cr_bpe_merge(const cr_merges *merges, cr_bpe_work *work, int32_t *ids, size_t *count)
{
    if (*count > SHORT)
        return merge_by_heap(merges, work, ids, count);
    merge_by_scan(merges, ids, count);
    return CR_OK;
}

void cr_bpe_work_free(cr_bpe_work *work)
{
    cr_free(work->block);
    *work = (cr_bpe_work){NULL, 0};
}
