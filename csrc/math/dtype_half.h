/* dtype_half.h: bits of floats, and 16-bit floats read; for dtype.c and dtype_loops.h alone. */
#ifndef CR_DTYPE_HALF_H
#define CR_DTYPE_HALF_H

#include <stdint.h>
#include <string.h>

static inline float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Rebasing the exponent handles normal numbers; infinities and NaNs need it twice, and subnormals
 * are normalised by subtracting the leading one that the rebasing invents. Selects, no branches:
 * a row converts at vector speed. */
static inline float half_to_float(int32_t half)
{
    const int32_t one = 1 << 23, rebase = 127 - 15;
    int32_t magnitude = (half & 0x7fff) << 13;
    int32_t normal = magnitude + rebase * one;
    int32_t subnormal = (int32_t)bits_of(float_of((uint32_t)(normal + one)) - 0x1p-14f);
    int32_t bits = magnitude < one ? subnormal : normal;
    bits += magnitude < 31 * one ? 0 : rebase * one;
    return float_of((uint32_t)bits | (uint32_t)(half & 0x8000) << 16);
}

#endif
