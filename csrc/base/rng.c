/* rng.c: xoshiro256++ (Blackman and Vigna 2019) and splitmix64 (Steele et al. 2014). */
#include "base/rng.h"

static uint64_t rotate_left(uint64_t x, int k)
{
    return (x << k) | (x >> (64 - k));
}

uint64_t cr_hash64(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
    return x ^ (x >> 31);
}

uint64_t cr_hash_combine(uint64_t key, uint64_t value)
{
    return cr_hash64(key + UINT64_C(0x9E3779B97F4A7C15) * (value + 1));
}

void cr_rng_seed(cr_rng *rng, uint64_t seed)
{
    for (int i = 0; i < 4; i++) {
        seed += UINT64_C(0x9E3779B97F4A7C15);
        rng->state[i] = cr_hash64(seed);
    }
}

uint64_t cr_rng_next(cr_rng *rng)
{
    uint64_t *s = rng->state;
    uint64_t result = rotate_left(s[0] + s[3], 23) + s[0];
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

double cr_rng_uniform(cr_rng *rng)
{
    return (double)(cr_rng_next(rng) >> 11) * 0x1.0p-53;
}
