/* head.h: from hidden states to log-probabilities without writing the logits down.
 *
 * The vocabulary is walked in chunks; each chunk's logits live in a small tile that is turned
 * into a running log-sum-exp at once (Milakov and Gimelshein 2018). In the same pass two mean
 * rows of the head under the predicted distribution p are summed,
 *
 *     expected = Σ_v p(v) · W_v,      tilt = Σ_v p(v) · (log p(v) + entropy) · W_v,
 *
 * which is all that the backward of any function of chosen log-probabilities and of the entropy
 * needs: d log p(t) / d hidden = W_t - expected, d entropy / d hidden = -tilt. So no second pass
 * and no kept logits.
 */
#ifndef CR_HEAD_H
#define CR_HEAD_H

#include "math/matmul.h"

/* The tokens that are asked about: those of position i are ids[starts[i]] to ids[starts[i + 1] - 1].
 * starts NULL: one a position; both NULL: none. */
typedef struct cr_head_picks {
    const size_t *starts; /* [n + 1] */
    const int32_t *ids;
} cr_head_picks;

/* What is wanted of n positions; NULL = not wanted. */
typedef struct cr_head_outputs {
    float *logprobs; /* [picks] log p(id); needed where there are picks */
    float *lse;      /* [n] log Σ_v exp(logit of v) */
    float *entropy;  /* [n] -Σ p log p */
    float *likeliest; /* [n] log p of the likeliest token: the very value that a pick of it has */
    float *expected; /* [n, d] */
    float *tilt;     /* [n, d]; with entropy and expected alone */
} cr_head_outputs;

/* Work space in floats for `n` positions. */
size_t cr_head_scratch(const cr_compute *compute, const cr_matrix *head, size_t n, bool entropy);

/* hidden [n, d], head [vocabulary, d]. */
void cr_head_forward(cr_compute *compute, const cr_head_outputs *out, const float *hidden,
                     const cr_head_picks *picks, const cr_matrix *head, size_t n, float *scratch);

/* dL / d logprobs [picks], dL / d entropy [n] or NULL. */
typedef struct cr_head_slopes {
    const float *logprobs, *entropy;
} cr_head_slopes;

/* dhidden [n, d] = Σ_picks slope · (W_id - expected) - slope of entropy · tilt: overwritten. With one pick a
 * position and no entropy, dhidden may be `expected`. */
void cr_head_backward(cr_compute *compute, float *dhidden, const cr_head_slopes *slopes,
                      const float *expected, const float *tilt, const cr_head_picks *picks,
                      const cr_matrix *head, size_t n);

/* The specification of forward: every logit, sums in double. */
void cr_head_plain(const cr_head_outputs *out, const float *hidden, const cr_head_picks *picks,
                   const cr_matrix *head, size_t n);

#endif
