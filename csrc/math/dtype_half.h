/* dtype_half.h: 16-bit floats read; for dtype.c and dtype_loops.h alone. */
#ifndef CR_DTYPE_HALF_H
#define CR_DTYPE_HALF_H

#include "math/float_bits.h"

/* Rebasing the exponent handles normal numbers; infinities and NaNs need it twice, and subnormals
 * are normalised by subtracting the leading one that the rebasing invents. Selects, no branches:
 * a row converts at vector speed. */
static inline float half_to_float(int32_t half)
{
    const int32_t one = 1 << 23, rebase = 127 - 15;
    int32_t magnitude = (half & 0x7fff) << 13;
    int32_t normal = magnitude + rebase * one;
    int32_t subnormal = (int32_t)bits_f32(from_bits_f32((uint32_t)(normal + one)) - 0x1p-14f);
    int32_t bits = magnitude < one ? subnormal : normal;
    bits += magnitude < 31 * one ? 0 : rebase * one;
    return from_bits_f32((uint32_t)bits | (uint32_t)(half & 0x8000) << 16);
}

#endif
