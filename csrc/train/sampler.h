/* sampler.h: from logits to a token.
 *
 * temperature, then top-k, then top-p (Holtzman et al., "The Curious Case of Neural Text
 * Degeneration", 2020), as Hugging Face orders them; ties go to the lower id, so a seed gives
 * the same token everywhere.
 */
#ifndef CR_SAMPLER_H
#define CR_SAMPLER_H

#include "base/rng.h"
#include "math/kernels.h"

typedef struct cr_candidate {
    float weight; /* logit, then exp(logit - largest) */
    int32_t id;
} cr_candidate;

/* logits [vocabulary] are overwritten. candidates [vocabulary] is work space. *logprob is of the
 * chosen token under the plain softmax of the logits: NaN where the logits are no numbers, and then the
 * choice is greedy. */
int32_t cr_sample(float *logits, size_t vocabulary, const cr_sampling_params *params, cr_rng *rng,
                  cr_candidate *candidates, const cr_kernels *kernels, float *logprob);

#endif
