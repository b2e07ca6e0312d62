/* loss.h: the end of the network: final norm, head, log-probabilities and their slopes.
 *
 * Only the selected positions of a micro-batch reach the head. Any loss that is a function of
 * the targets' log-probabilities enters here as slopes dL / d logprob; cross-entropy's are
 * -weight · scale.
 */
#ifndef CR_LOSS_H
#define CR_LOSS_H

#include "math/head.h"
#include "train/batch.h"

typedef struct cr_head_pass {
    float *logprobs; /* [S] */
    float *slopes;   /* [S]: dL / d logprob, filled by the caller before backward */
    float *raw;      /* [S, d]: the last layer's output at the selected positions */
    float *normed;   /* [S, d] */
    float *inverse;  /* [S] */
    float *expected; /* [S, d]; NULL without gradients */
    float *draw;     /* [S, d] */
    float *scratch;
} cr_head_pass;

int cr_head_pass_prepare(cr_head_pass *head, const cr_pass *pass, const cr_micro_batch *batch,
                         cr_arena *arena);

/* logprobs from the pass's last output. */
void cr_head_pass_forward(cr_head_pass *head, const cr_pass *pass, const cr_micro_batch *batch);

/* pass->dx = the gradient of the last output, from `slopes`. */
void cr_head_pass_backward(cr_head_pass *head, const cr_pass *pass, const cr_micro_batch *batch);

#endif
