/* bpe.h: byte-pair encoding of one piece.
 *
 * What this is: merges by rank and the merging itself: of all adjacent pairs
 * the one of lowest rank, leftmost first, becomes one token, until no pair has a
 * rank. Short pieces are scanned; long ones use a heap, so that a megabyte of one
 * letter takes n log n steps.
 * Merges are a list of pairs, or, as in SentencePiece (Kudo and Richardson 2018), any
 * two tokens whose texts together are a token's, the highest score first.
 * What it is not: a splitter of text; a piece is given as the ids of its bytes.
 *
 * Ownership: the table owns its arrays and is read-only after creation. The
 * work space is the caller's, grows on demand and serves one thread.
 */
#ifndef CR_BPE_H
#define CR_BPE_H

#include "text/text_index.h"
#include "text/vocabulary.h"

typedef struct cr_merge_slot {
    int32_t left, right;
    uint32_t rank; /* UINT32_MAX = free */
} cr_merge_slot;

typedef struct cr_merges {
    cr_merge_slot *slots;
    size_t mask;     /* slots - 1 */
    int32_t *merged; /* the token that a rank gives */
    /* by score: no table */
    const cr_vocabulary *vocabulary;
    float *scores;   /* [size] */
} cr_merges;

/* `merges` as in the file, "left right" in order of rank; `tokens` finds the file's own
 * spelling. Refuses a merge that is no pair, that names or gives no token, or
 * that stands twice; `keys` stands before the file's names of lists in messages ("tokenizer.ggml."). */
int cr_merges_create(cr_merges *out, const cr_text *merges, size_t count,
                     const cr_text_index *tokens, const char *keys);
/* Merges by score: `scores` [vocabulary->size] are copied, the vocabulary must outlive them.
 * Refuses a score that is not a number. */
int cr_merges_create_scored(cr_merges *out, const cr_vocabulary *vocabulary, const float *scores,
                            const char *keys);
void cr_merges_free(cr_merges *merges);

typedef struct cr_bpe_work {
    void *block;
    size_t bytes;
} cr_bpe_work;

/* Merges ids[0..*count) in place and shortens *count. At most CR_BPE_LONGEST ids. */
int cr_bpe_merge(const cr_merges *merges, cr_bpe_work *work, int32_t *ids, size_t *count);
void cr_bpe_work_free(cr_bpe_work *work);

/* Positions are 32 bits wide and the last value means "none". */
#define CR_BPE_LONGEST ((size_t)UINT32_MAX - 1)

#endif
