/* quantize.h: f32 values to stored element types: the way back from dtype.h.
 *
 * What this is: one loop a type, for every type that dtype.h expands. F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0
 * and Q5_1 are rounded as ggml's reference does, to the same bits. IQ4_NL and the K-quants are fitted:
 * of a fixed list of scales, each improved once by least squares, the one with the least squared error
 * is taken (quantize.c), so that no run of values is worse off than by the plain scale of its extremes,
 * up to the rounding of the scales themselves.
 * What it is not: aware of which values matter more than others; all count alike.
 */
#ifndef CR_QUANTIZE_H
#define CR_QUANTIZE_H

#include "math/dtype.h"

typedef enum cr_quantized {
    CR_QUANTIZED,
    CR_QUANTIZED_NOT_FINITE, /* a value is NaN or infinite */
    CR_QUANTIZED_TOO_LARGE   /* a value is beyond the type: of half-length floats, 65504 */
} cr_quantized;

/* dst = the row src[0..count), a whole number of blocks; dst is undefined unless CR_QUANTIZED. */
cr_quantized cr_quantize_row(void *dst, const cr_dtype_info *info, const float *src, size_t count);

#endif
