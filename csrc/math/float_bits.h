/* float_bits.h: an f32 as its bits and back. */
#ifndef CR_FLOAT_BITS_H
#define CR_FLOAT_BITS_H

#include <stdint.h>
#include <string.h>

static inline uint32_t bits_f32(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float from_bits_f32(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

#endif
