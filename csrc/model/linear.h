/* linear.h: a frozen projection plus an optional low-rank branch, forward and backward.
 *
 *     y = x Wᵀ + bias + scale · (drop(x) Aᵀ) Bᵀ   (Hu et al., "LoRA", 2021, equation 3)
 *
 * With DoRA (Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", 2024, equation 5), V = W + scale · B A,
 * and what is added to the base is taken from the dropped input alone (peft/tuners/lora/dora.py):
 *
 *     y = x Wᵀ + bias + gain · drop(x) Vᵀ - drop(x) Wᵀ,   gain = magnitude / ‖V‖ by rows
 *
 * which without dropout is gain · x Vᵀ + bias. Norms are constants in backward (section 4.3 there).
 *
 * Dropout touches the branch's input alone. Its mask is a pure function of the position's key
 * and the projection (base/rng.h), so backward and recomputation make it again.
 *
 * Ownership: a branch borrows its matrices from whoever trains them (lora/lora.h).
 */
#ifndef CR_LINEAR_H
#define CR_LINEAR_H

#include "math/matmul.h"

typedef struct cr_branch {
    const float *a; /* [rank, in]; NULL = no branch */
    const float *b; /* [out, rank] */
    float *da, *db; /* gradients, accumulated */
    size_t rank;
    float scale;
    /* DoRA; else NULL. Norms and gains are those of the present values (cr_lora_refresh). */
    const float *norm;  /* [out]: of the rows of V */
    const float *gain;  /* [out]: magnitude / norm */
    float *dmagnitude;  /* [out], accumulated */
} cr_branch;

typedef struct cr_dropout {
    float rate;               /* 0 = off */
    const uint64_t *row_keys; /* [n]: of (seed, step, datum, position) */
} cr_dropout;

/* One projection at one place of the network, for n positions. */
typedef struct cr_linear {
    const cr_matrix *weight; /* [out, in] */
    const cr_branch *branch; /* or NULL */
    const float *bias;       /* [out], frozen, or NULL */
    cr_dropout dropout;
    uint64_t site;           /* tells this projection's masks from the others' */
    size_t n;
    float *low;              /* [n, rank]: drop(x) Aᵀ, kept from forward for backward */
    float *dropped;          /* [n, in] work space, needed with dropout */
    float *dlow;             /* [n, rank] work space of backward */
    float *product;          /* [n, out] with DoRA: drop(x) Vᵀ, kept from forward for backward; NULL where there
                                is no backward, no dropout and y is not added to */
    float *scaled;           /* [n, out] work space of backward with DoRA */
} cr_linear;

/* y [n, out] (+)= ...; x [n, in]. */
void cr_linear_forward(cr_compute *compute, float *y, bool accumulate, const float *x,
                       const cr_linear *linear);

/* dx [n, in] (+)= the gradient through y given dy [n, out]; dx NULL where nothing below needs
 * it. The branch's da and db accumulate. x as in forward, needed only with a branch. */
void cr_linear_backward(cr_compute *compute, float *dx, bool accumulate, const float *dy,
                        const float *x, const cr_linear *linear);

/* Forward for few rows (decoding): no dropout, results independent of n. */
void cr_linear_few(cr_compute *compute, float *y, const float *x, const cr_linear *linear);

#endif
