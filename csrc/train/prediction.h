/* prediction.h: a forward pass whose outputs wait for slopes.
 *
 * What this is: the way from what a loss asks (crucible.h, "losses of one's own") to picks of the head
 * and places in the rows, and back from its slopes to one backward pass. The slopes of all outputs
 * meet in the head's one backward and in the gradient of the last output.
 * What it is not: a loss.
 *
 * Ownership: the session owns its cr_predicting; all lists are pieces of the session's arena.
 */
#ifndef CR_PREDICTION_H
#define CR_PREDICTION_H

#include "train/comparison.h"
#include "train/loss.h"
#include "train/session.h"

/* Means of final hidden states over spans of positions. */
typedef struct cr_span_pass {
    size_t spans, n;               /* S; positions of all spans */
    size_t *starts;                /* [S + 1] into places */
    size_t *places;                /* [n] in the rows, repetitions allowed */
    float *raw, *normed, *inverse; /* [n, d], [n, d], [n] */
    float *dnormed, *draw;         /* [n, d]; NULL without gradients */
} cr_span_pass;

typedef struct cr_predicting {
    bool open;
    unsigned outputs;
    bool every_position, train;
    cr_pass pass;
    cr_micro_batch batch;
    cr_head_pass head;
    cr_span_pass spans;
    cr_comparing comparisons[CR_MOST_COMPARISONS];
    size_t comparison_count;
    float *comparison_scratch;
    float *mean_logprobs, *mean_slopes; /* [most_rows]; NULL when nobody asks */
    size_t most_rows, most_picks;       /* of the head: room for them */
    size_t candidate_count;             /* K of all datums */
    cr_answer *answers;                 /* [datums] */
    size_t *row_of;                     /* [n] row of the head for each position, or SIZE_MAX */
    size_t *shown_row;       /* [n] the same where log-probability and entropy are shown */
    size_t *target_pick;     /* [n] pick of its target, or SIZE_MAX */
    size_t *candidate_pick;  /* [K] */
    size_t *places, *starts; /* [most_rows], [most_rows + 1] */
    int32_t *ids;            /* [most_picks] */
    float *base_logprobs;    /* [most_picks] of the picks under the base */
    double *values, *slopes; /* [count] */
    size_t count;
    cr_piece piece;
    cr_loan *loan;
} cr_predicting;

void cr_predicting_free(cr_predicting *predicting);

#endif
