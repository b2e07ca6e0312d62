/* batch.h: datums checked, cut into micro-batches and laid out as rows.
 *
 * What this is: the way from the caller's lists to a pass. A micro-batch is a run of datums in
 * their order; a datum is never cut. Only positions of weight other than 0 are selected for the head.
 * What it is not: a loss; weights are carried along untouched.
 *
 * Ownership: all lists of a cr_micro_batch are pieces of the caller's arena.
 */
#ifndef CR_BATCH_H
#define CR_BATCH_H

#include "base/arena.h"
#include "model/forward.h"

typedef struct cr_batch_counts {
    uint64_t positions;  /* inputs */
    uint64_t supervised; /* targets of weight other than 0 */
} cr_batch_counts;

/* T of a datum. */
size_t cr_datum_length(const cr_datum *datum);
int32_t cr_datum_target(const cr_datum *datum, size_t index);
float cr_datum_weight(const cr_datum *datum, size_t index);

/* Refuses, naming the datum from 1: too few tokens, ids outside the vocabulary, weights that are not
 * finite (CR_EARG), more positions than the context (CR_ECONTEXT). */
int cr_batch_check(cr_batch_counts *out, const cr_datum *datums, size_t count, const cr_config *config);

/* How many of the datums from `first` on make the next micro-batch of about `tokens` positions. */
size_t cr_batch_next(const cr_datum *datums, size_t count, size_t first, size_t tokens);

typedef struct cr_micro_batch {
    const cr_datum *datums;
    size_t count;
    cr_rows_batch rows;
    size_t selected;          /* S: positions of weight other than 0 */
    size_t *places;           /* [S] position in the rows */
    int32_t *targets;         /* [S] */
    float *weights;           /* [S] */
} cr_micro_batch;

/* Sizes only: rows.n, rows.rows, selected. */
void cr_micro_batch_measure(cr_micro_batch *batch, const cr_datum *datums, size_t count);

/* Takes the lists (while planning, counts them) and fills them. Dropout is keyed by (key, index of the
 * datum counted from first_index, position). */
int cr_micro_batch_prepare(cr_micro_batch *batch, cr_arena *arena, uint64_t key,
                           uint64_t first_index);

/* Refuses prompts, naming them from 1, that are empty or hold ids outside the vocabulary (CR_EARG) or
 * with `more` tokens after them exceed the context (CR_ECONTEXT). *longest includes `more`. */
int cr_prompts_check(size_t *longest, const cr_prompt *prompts, size_t count, size_t more,
                     const cr_config *config);

#endif
