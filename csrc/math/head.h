/* head.h: from hidden states to log-probabilities without writing the logits down.
 *
 * The vocabulary is walked in chunks; each chunk's logits live in a small tile that is turned
 * into a running log-sum-exp at once (Milakov and Gimelshein 2018). In the same pass the mean
 * row of the head under the predicted distribution is summed,
 *
 *     expected = Σ_v p(v) · W_v,
 *
 * which is all that the backward of any function of log p(target) needs:
 * d log p(t) / d hidden = W_t - expected. So no second pass and no kept logits.
 */
#ifndef CR_HEAD_H
#define CR_HEAD_H

#include "math/matmul.h"

/* Work space in floats for `n` positions. */
size_t cr_head_scratch(const cr_compute *compute, const cr_matrix *head, size_t n);

/* logprob [n] = log p(target) for hidden [n, d] and head [vocabulary, d]; expected [n, d], or NULL
 * where no gradient is wanted. */
void cr_head_forward(cr_compute *compute, float *logprob, float *expected, const float *hidden,
                     const int32_t *targets, const cr_matrix *head, size_t n, float *scratch);

/* dhidden [n, d] = slope[n] · (W_target - expected): overwritten. slope is dL / d logprob.
 * dhidden may be `expected`. */
void cr_head_backward(cr_compute *compute, float *dhidden, const float *slope, const float *expected,
                      const int32_t *targets, const cr_matrix *head, size_t n);

/* The specification of forward: every logit, sums in double. */
void cr_head_plain(float *logprob, float *expected, const float *hidden, const int32_t *targets,
                   const cr_matrix *head, size_t n);

#endif
