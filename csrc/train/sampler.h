/* sampler.h: from logits to a token.
 *
 * What may not follow is left out first, then in the order of Hugging Face's generate: repetition penalty
 * (Keskar et al., "CTRL", 2019), temperature, top-k, top-p (Holtzman et al., "The Curious Case of Neural
 * Text Degeneration", 2020), min-p (Nguyen et al., "Turning Up the Heat", 2024). Ties go to the lower
 * id, so a seed gives the same token everywhere.
 */
#ifndef CR_SAMPLER_H
#define CR_SAMPLER_H

#include "base/rng.h"
#include "math/kernels.h"

typedef struct cr_candidate {
    float weight; /* exp((score - largest) / temperature) */
    int32_t id;
} cr_candidate;

/* A set of token ids: bit id % 64 of word id / 64. */
#define cr_id_words(vocabulary) (((vocabulary) + 63) / 64)
static inline bool cr_id_in(const uint64_t *set, size_t id)
{
    return set[id / 64] >> (id % 64) & 1;
}

/* What a choice depends on beside the logits. */
typedef struct cr_choice {
    const cr_sampling_params *params;
    const uint64_t *seen;    /* ids of the row so far, for the penalty; or NULL */
    const uint64_t *allowed; /* ids that may follow; NULL = all */
    bool may_end;            /* with `allowed`: whether the stop ids may follow */
} cr_choice;

/* Work space for one thread: [vocabulary] each. */
typedef struct cr_sampler_space {
    float *weights;
    cr_candidate *candidates;
} cr_sampler_space;

/* The chosen id, -1 when none may follow. *logprob is of the chosen token under the plain softmax of the
 * logits: NaN where the logits are no numbers, and then the choice is greedy. */
int32_t cr_sample(const float *logits, size_t vocabulary, const cr_choice *choice, cr_rng *rng,
                  const cr_sampler_space *space, const cr_kernels *kernels, float *logprob);

#endif
