/* divergence.h: how far two predicted distributions are from each other, position by position, over
 * the whole vocabulary, with the slope for one of them. No logits are kept.
 *
 * p is the other side's softmax, q one's own, both of logits divided by a temperature; m = (p + q) / 2:
 *
 *     forward KL      Σ p log(p / q)                         d / d logit of q:  (q - p) / T
 *     reverse KL      Σ q log(q / p)                         q (log(q / p) - KL) / T
 *     Jensen-Shannon  ½ Σ p log(p / m) + ½ Σ q log(q / m)    ½ q (log(q / m) - KL(q|m)) / T
 *     mean square     Σ (own - other)² / V of the logits     2 (own - other) / V
 *
 * Two passes: the first finds both log-sum-exps, the second sums values and slopes from differences of
 * single probabilities, so that nothing cancels when the two sides are alike.
 */
#ifndef CR_DIVERGENCE_H
#define CR_DIVERGENCE_H

#include "math/head.h"

typedef enum cr_divergence_kind {
    CR_DIVERGENCE_FORWARD,
    CR_DIVERGENCE_REVERSE,
    CR_DIVERGENCE_JENSEN_SHANNON,
    CR_DIVERGENCE_SQUARE
} cr_divergence_kind;

/* Hidden states [n, head->columns] and the head over them. */
typedef struct cr_divergence_side {
    const float *hidden;
    const cr_matrix *head;
} cr_divergence_side;

/* Work space in floats for n positions. */
size_t cr_divergence_scratch(const cr_compute *compute, const cr_matrix *own,
                             const cr_matrix *other, size_t n);

/* value [n]; slope [n, d] = d value / d own hidden, or NULL. Both heads have as many rows. */
void cr_divergence(cr_compute *compute, float *value, float *slope, cr_divergence_kind kind,
                   float temperature, const cr_divergence_side *own,
                   const cr_divergence_side *other, size_t n, float *scratch);

/* The specification: every logit, sums in double. */
void cr_divergence_plain(float *value, float *slope, cr_divergence_kind kind, float temperature,
                         const cr_divergence_side *own, const cr_divergence_side *other, size_t n);

#endif
