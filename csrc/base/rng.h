/* rng.h: seeded random numbers, counter-based where order must not matter.
 *
 * cr_rng is a small sequential generator (xoshiro256++, Blackman and Vigna
 * 2019, seeded by splitmix64) whose state is saved in checkpoints.
 * cr_hash64 and the row keys built on it are counter-based: the value is a pure
 * function of its key, so threads, packing and recomputation cannot change it.
 */
#ifndef CR_RNG_H
#define CR_RNG_H

#include "base/base.h"

typedef struct cr_rng {
    uint64_t state[4];
} cr_rng;

void cr_rng_seed(cr_rng *rng, uint64_t seed);
uint64_t cr_rng_next(cr_rng *rng);
double cr_rng_uniform(cr_rng *rng); /* [0, 1) with 53 bits */

/* splitmix64's finaliser: a bijection of 64 bits that mixes well. */
uint64_t cr_hash64(uint64_t x);

/* Folds `value` into `key`; chain calls to build a key of several fields. */
uint64_t cr_hash_combine(uint64_t key, uint64_t value);

#endif
