/* rope.h: rotary position embedding (Su et al. 2021).
 *
 * Pair p of a head at position t turns by t · base^(-2p / head_size) / factor[p]. Which two
 * values form a pair depends on the checkpoint: neighbours (2p, 2p+1) in GGUF files of the
 * llama family, whose q and k rows are permuted for it, or halves (p, p + head_size/2).
 * The gradient is the same turn the other way.
 */
#ifndef CR_ROPE_H
#define CR_ROPE_H

#include "math/matmul.h"

typedef struct cr_rope {
    double base;
    const float *factors; /* [head_size / 2] divisors of the frequencies, or NULL */
    size_t head_size;
    bool neighbours;
} cr_rope;

/* turns [n, head_size / 2, 2]: cosine and sine for each position. */
void cr_rope_turns(float *turns, const cr_rope *rope, const int32_t *positions, size_t n);

/* x [n, heads, head_size] in place, rows `stride` floats apart; backward turns back. */
void cr_rope_apply(cr_compute *compute, float *x, size_t stride, const float *turns,
                   const cr_rope *rope, size_t n, size_t heads, bool backward);

#endif
