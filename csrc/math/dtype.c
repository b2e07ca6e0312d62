/* dtype.c: the table of element types and one expansion loop a type.
 *
 * Block layouts and the order of operations are those of ggml (ggml-quants.c), so that every
 * value equals ggml's to the last bit. Blocks are packed without padding and may start at any
 * byte; fields are read byte by byte or through memcpy. The loops are the specification of the
 * processor-specific kernels and are written with fixed lengths for the compiler to vectorise.
 */
#include "math/dtype.h"

#include <stdio.h>
#include <string.h>

/* ggml rounds each product before it adds; a fused multiply-add would not. (GCC keeps to this by
 * itself under -std=c11 and warns about the pragma.) */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "model files are little endian and read in place: this library needs such a processor"
#endif

/* ---- half-length floats ------------------------------------------------- */

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

float cr_f16_to_f32(uint16_t half)
{
    return half_to_float(half);
}

uint16_t cr_f32_to_f16(float value)
{
    uint32_t bits = bits_of(value);
    uint32_t sign = bits >> 16 & 0x8000;
    uint32_t magnitude = bits & 0x7fffffff;
    uint32_t half;
    if (magnitude > 0x7f800000) /* NaN: quiet, the payload's upper bits kept */
        half = 0x7e00 | (magnitude >> 13 & 0x3ff);
    else if (magnitude >= 0x47800000) /* 65536 and up */
        half = 0x7c00;
    else if (magnitude < 0x38800000) /* subnormal: adding 1/2 rounds at the right bit */
        half = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
    else
        half = (magnitude - ((uint32_t)(127 - 15) << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
    return (uint16_t)(sign | half);
}

float cr_bf16_to_f32(uint16_t bits)
{
    return float_of((uint32_t)bits << 16);
}

uint16_t cr_f32_to_bf16(float value)
{
    uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline uint16_t load_u16(const uint8_t *bytes)
{
    uint16_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static inline float load_f16(const uint8_t *bytes)
{
    return half_to_float(load_u16(bytes));
}

static void expand_f32(float *CR_RESTRICT dst, const void *src, size_t blocks)
{
    memcpy(dst, src, blocks * sizeof *dst);
}

static void expand_f16(float *CR_RESTRICT dst, const void *src, size_t blocks)
{
    const uint8_t *bytes = src;
    for (size_t i = 0; i < blocks; i++)
        dst[i] = load_f16(bytes + 2 * i);
}

static void expand_bf16(float *CR_RESTRICT dst, const void *src, size_t blocks)
{
    const uint8_t *bytes = src;
    for (size_t i = 0; i < blocks; i++)
        dst[i] = float_of((uint32_t)load_u16(bytes + 2 * i) << 16);
}

/* ---- blocks of 32 -------------------------------------------------------- */

/* f16 d; u8 q[16]: value j in the low half of q[j], value j + 16 in the high half; d · (q - 8). */
static void expand_q4_0(float *CR_RESTRICT dst, const void *src, size_t blocks)
{
    const uint8_t *block = src;
    for (size_t b = 0; b < blocks; b++, block += 18, dst += 32) {
        const float d = load_f16(block);
        const uint8_t *q = block + 2;
#pragma omp simd
        for (int j = 0; j < 16; j++) {
            dst[j] = d * (float)((q[j] & 15) - 8);
            dst[j + 16] = d * (float)((q[j] >> 4) - 8);
        }
    }
}

/* f16 d, m; u8 q[16] as in Q4_0; d · q + m. */
static void expand_q4_1(float *CR_RESTRICT dst, const void *src, size_t blocks)
{
    const uint8_t *block = src;
    for (size_t b = 0; b < blocks; b++, block += 20, dst += 32) {
        const float d = load_f16(block), m = load_f16(block + 2);
        const uint8_t *q = block + 4;
#pragma omp simd
        for (int j = 0; j < 16; j++) {
            dst[j] = d * (float)(q[j] & 15) + m;
            dst[j + 16] = d * (float)(q[j] >> 4) + m;
        }
    }
}

/* Bit i of `packed` to 16 in byte i of the result. The multiplication places seven bits at once;
 * the eighth would collide with the first. */
static inline uint64_t spread_bits(uint8_t packed)
{
    uint64_t low = (packed & 0x7f) * 0x0002040810204081u & 0x0101010101010101u;
    return (low | (uint64_t)(packed >> 7) << 56) << 4;
}

/* q[j] = the half as in Q4_0, with bit j of `fifth` on top: eight values a word. */
static inline void unpack_fives(uint8_t q[32], const uint8_t fifth[4], const uint8_t halves[16])
{
    const uint64_t low = 0x0f0f0f0f0f0f0f0fu;
    uint64_t half[2], out[4];
    memcpy(half, halves, sizeof half);
    for (int i = 0; i < 2; i++) {
        out[i] = (half[i] & low) | spread_bits(fifth[i]);
        out[i + 2] = (half[i] >> 4 & low) | spread_bits(fifth[i + 2]);
    }
    memcpy(q, out, sizeof out);
}

/* f16 d; u8 fifth[4]; u8 halves[16]; d · (q - 16). */
static void expand_q5_0(float *CR_RESTRICT dst, const void *src, size_t blocks)
{
    const uint8_t *block = src;
    for (size_t b = 0; b < blocks; b++, block += 22, dst += 32) {
        const float d = load_f16(block);
        uint8_t q[32];
        unpack_fives(q, block + 2, block + 6);
#pragma omp simd
        for (int j = 0; j < 32; j++)
            dst[j] = d * (float)(q[j] - 16);
    }
}

/* f16 d, m; u8 fifth[4]; u8 halves[16]; d · q + m. */
static void expand_q5_1(float *CR_RESTRICT dst, const void *src, size_t blocks)
{
    const uint8_t *block = src;
    for (size_t b = 0; b < blocks; b++, block += 24, dst += 32) {
        const float d = load_f16(block), m = load_f16(block + 2);
        uint8_t q[32];
        unpack_fives(q, block + 4, block + 8);
#pragma omp simd
        for (int j = 0; j < 32; j++)
            dst[j] = d * (float)q[j] + m;
    }
}

/* f16 d; i8 q[32]; d · q. */
static void expand_q8_0(float *CR_RESTRICT dst, const void *src, size_t blocks)
{
    const uint8_t *block = src;
    for (size_t b = 0; b < blocks; b++, block += 34, dst += 32) {
        const float d = load_f16(block);
        const int8_t *q = (const int8_t *)block + 2;
        for (int j = 0; j < 32; j++)
            dst[j] = d * (float)q[j];
    }
}

/* f16 d; u8 q[16] as in Q4_0, indices into a table of unequal steps; d · table[q]. */
static void expand_iq4_nl(float *CR_RESTRICT dst, const void *src, size_t blocks)
{
    static const float table[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                    1,    13,   25,  38,  53,  69,  89,  113};
    const uint8_t *block = src;
    for (size_t b = 0; b < blocks; b++, block += 18, dst += 32) {
        const float d = load_f16(block);
        const uint8_t *q = block + 2;
        for (int j = 0; j < 16; j++) {
            dst[j] = d * table[q[j] & 15];
            dst[j + 16] = d * table[q[j] >> 4];
        }
    }
}

/* ---- K-quants: blocks of 256 in runs of 16 or 32 with a scale each -------- */

/* u8 scales[16]: low half scale, high half minimum of 16 values each; u8 q[64]; f16 d, dmin.
 * Each half of 128 values keeps four layers of 32 in the bit pairs of 32 bytes. */
static void expand_q2_k(float *CR_RESTRICT dst, const void *src, size_t blocks)
{
    const uint8_t *block = src;
    for (size_t b = 0; b < blocks; b++, block += 84) {
        const uint8_t *scales = block;
        const float d = load_f16(block + 80), dmin = load_f16(block + 82);
        for (int run = 0; run < 16; run++, dst += 16) {
            const uint8_t *q = block + 16 + run / 8 * 32 + run % 2 * 16;
            const int shift = run / 2 % 4 * 2;
            const float scale = d * (float)(scales[run] & 15);
            const float minimum = dmin * (float)(scales[run] >> 4);
            for (int j = 0; j < 16; j++)
                dst[j] = scale * (float)(q[j] >> shift & 3) - minimum;
        }
    }
}

/* Sixteen scales of six bits, offset 32: the low four bits of scale j are half a byte of
 * packed[j % 8], the upper two a bit pair of packed[8 + j % 4]. */
static inline void q3_scales(int8_t scales[16], const uint8_t packed[12])
{
    for (int j = 0; j < 16; j++) {
        int low = packed[j % 8] >> (j / 8 * 4) & 15;
        int high = packed[8 + j % 4] >> (j / 4 * 2) & 3;
        scales[j] = (int8_t)((low | high << 4) - 32);
    }
}

/* u8 third[32]: bit r of byte j is set where value j of layer r needs no -4; u8 q[64] as in Q2_K;
 * u8 scales[12]; f16 d. */
static void expand_q3_k(float *CR_RESTRICT dst, const void *src, size_t blocks)
{
    const uint8_t *block = src;
    for (size_t b = 0; b < blocks; b++, block += 110) {
        const float d = load_f16(block + 108);
        int8_t scales[16];
        q3_scales(scales, block + 96);
        for (int run = 0; run < 16; run++, dst += 16) {
            const uint8_t *third = block + run % 2 * 16;
            const uint8_t *q = block + 32 + run / 8 * 32 + run % 2 * 16;
            const int layer = run / 2, shift = layer % 4 * 2;
            const float scale = d * (float)scales[run];
            for (int j = 0; j < 16; j++)
                dst[j] = scale * (float)((q[j] >> shift & 3) + (third[j] >> layer & 1) * 4 - 4);
        }
    }
}

/* Eight scales and eight minima of six bits: the first four of each lie in the low six bits of
 * packed[0..3] and [4..7], the others in halves of packed[8..11] with their upper two bits on top
 * of the former. */
static inline void q4_scales(uint8_t scales[8], uint8_t minima[8], const uint8_t packed[12])
{
    for (int j = 0; j < 4; j++) {
        scales[j] = packed[j] & 63;
        minima[j] = packed[j + 4] & 63;
        scales[j + 4] = (uint8_t)((packed[j + 8] & 15) | packed[j] >> 6 << 4);
        minima[j + 4] = (uint8_t)(packed[j + 8] >> 4 | packed[j + 4] >> 6 << 4);
    }
}

/* f16 d, dmin; u8 scales[12]; u8 q[128]: 32 bytes hold a run of 32 in their low halves and the
 * next run in their high halves; scale · q - minimum. */
static void expand_q4_k(float *CR_RESTRICT dst, const void *src, size_t blocks)
{
    const uint8_t *block = src;
    for (size_t b = 0; b < blocks; b++, block += 144) {
        const float d = load_f16(block), dmin = load_f16(block + 2);
        uint8_t scales[8], minima[8];
        q4_scales(scales, minima, block + 4);
        for (int run = 0; run < 8; run++, dst += 32) {
            const uint8_t *q = block + 16 + run / 2 * 32;
            const int shift = run % 2 * 4;
            const float scale = d * (float)scales[run];
            const float minimum = dmin * (float)minima[run];
            for (int j = 0; j < 32; j++)
                dst[j] = scale * (float)(q[j] >> shift & 15) - minimum;
        }
    }
}

/* Q4_K with u8 fifth[32] between scales and q: bit r of byte j is the fifth bit of value j of
 * run r. */
static void expand_q5_k(float *CR_RESTRICT dst, const void *src, size_t blocks)
{
    const uint8_t *block = src;
    for (size_t b = 0; b < blocks; b++, block += 176) {
        const float d = load_f16(block), dmin = load_f16(block + 2);
        const uint8_t *fifth = block + 16;
        uint8_t scales[8], minima[8];
        q4_scales(scales, minima, block + 4);
        for (int run = 0; run < 8; run++, dst += 32) {
            const uint8_t *q = block + 48 + run / 2 * 32;
            const int shift = run % 2 * 4;
            const float scale = d * (float)scales[run];
            const float minimum = dmin * (float)minima[run];
            for (int j = 0; j < 32; j++) {
                int value = (q[j] >> shift & 15) | (fifth[j] >> run & 1) << 4;
                dst[j] = scale * (float)value - minimum;
            }
        }
    }
}

/* u8 low[128], u8 high[64], i8 scales[16] of 16 values each, f16 d. Each half of 128 values keeps
 * the lower four bits of its first 64 in the low halves of 64 bytes, of its second 64 in the high
 * halves; the upper two bits are laid out as q of Q2_K. scale · (q - 32). */
static void expand_q6_k(float *CR_RESTRICT dst, const void *src, size_t blocks)
{
    const uint8_t *block = src;
    for (size_t b = 0; b < blocks; b++, block += 210) {
        const int8_t *scales = (const int8_t *)block + 192;
        const float d = load_f16(block + 208);
        for (int run = 0; run < 16; run++, dst += 16) {
            const uint8_t *low = block + run / 8 * 64 + run % 4 * 16;
            const uint8_t *high = block + 128 + run / 8 * 32 + run % 2 * 16;
            const int low_shift = run / 4 % 2 * 4, high_shift = run / 2 % 4 * 2;
            const float scale = d * (float)scales[run];
            for (int j = 0; j < 16; j++) {
                int value = (low[j] >> low_shift & 15) | (high[j] >> high_shift & 3) << 4;
                dst[j] = scale * (float)(value - 32);
            }
        }
    }
}

/* ---- the table ----------------------------------------------------------- */

#define LONGEST_BLOCK 256

/* Indexed by GGUF's number. Rows without a loop are types that ggml has or had and that are
 * known here by name alone. */
static const cr_dtype_info types[] = {
    [0] = {CR_DTYPE_F32, "F32", 1, 4, expand_f32},
    [1] = {CR_DTYPE_F16, "F16", 1, 2, expand_f16},
    [2] = {CR_DTYPE_Q4_0, "Q4_0", 32, 18, expand_q4_0},
    [3] = {CR_DTYPE_Q4_1, "Q4_1", 32, 20, expand_q4_1},
    [4] = {.name = "Q4_2"},
    [5] = {.name = "Q4_3"},
    [6] = {CR_DTYPE_Q5_0, "Q5_0", 32, 22, expand_q5_0},
    [7] = {CR_DTYPE_Q5_1, "Q5_1", 32, 24, expand_q5_1},
    [8] = {CR_DTYPE_Q8_0, "Q8_0", 32, 34, expand_q8_0},
    [9] = {.name = "Q8_1"},
    [10] = {CR_DTYPE_Q2_K, "Q2_K", 256, 84, expand_q2_k},
    [11] = {CR_DTYPE_Q3_K, "Q3_K", 256, 110, expand_q3_k},
    [12] = {CR_DTYPE_Q4_K, "Q4_K", 256, 144, expand_q4_k},
    [13] = {CR_DTYPE_Q5_K, "Q5_K", 256, 176, expand_q5_k},
    [14] = {CR_DTYPE_Q6_K, "Q6_K", 256, 210, expand_q6_k},
    [15] = {.name = "Q8_K"},
    [16] = {.name = "IQ2_XXS"},
    [17] = {.name = "IQ2_XS"},
    [18] = {.name = "IQ3_XXS"},
    [19] = {.name = "IQ1_S"},
    [20] = {CR_DTYPE_IQ4_NL, "IQ4_NL", 32, 18, expand_iq4_nl},
    [21] = {.name = "IQ3_S"},
    [22] = {.name = "IQ2_S"},
    [23] = {.name = "IQ4_XS"},
    [24] = {.name = "I8"},
    [25] = {.name = "I16"},
    [26] = {.name = "I32"},
    [27] = {.name = "I64"},
    [28] = {.name = "F64"},
    [29] = {.name = "IQ1_M"},
    [30] = {CR_DTYPE_BF16, "BF16", 1, 2, expand_bf16},
    [31] = {.name = "Q4_0_4_4"},
    [32] = {.name = "Q4_0_4_8"},
    [33] = {.name = "Q4_0_8_8"},
    [34] = {.name = "TQ1_0"},
    [35] = {.name = "TQ2_0"},
    [36] = {.name = "IQ4_NL_4_4"},
    [37] = {.name = "IQ4_NL_4_8"},
    [38] = {.name = "IQ4_NL_8_8"},
    [39] = {.name = "MXFP4"},
    [40] = {.name = "NVFP4"},
    [41] = {.name = "Q1_0"},
};

#define TYPE_COUNT (sizeof types / sizeof types[0])

const cr_dtype_info *cr_dtype_find(uint32_t type)
{
    return type < TYPE_COUNT && types[type].expand ? &types[type] : NULL;
}

const char *cr_dtype_name(uint32_t type, char buffer[24])
{
    if (type < TYPE_COUNT)
        return types[type].name;
    snprintf(buffer, 24, "type %lu", (unsigned long)type);
    return buffer;
}

bool cr_dtype_row_bytes(const cr_dtype_info *info, size_t length, size_t *out)
{
    return length % info->block_length == 0 &&
           cr_size_mul(out, length / info->block_length, info->block_bytes);
}

/* dst[0..count) = values skip..skip+count of one block. */
static void expand_part(float *dst, const cr_dtype_info *info, const uint8_t *block, size_t skip,
                        size_t count)
{
    float whole[LONGEST_BLOCK];
    info->expand(whole, block, 1);
    memcpy(dst, whole + skip, count * sizeof *dst);
}

void cr_dtype_expand(float *dst, const cr_dtype_info *info, const void *row, size_t first,
                     size_t count)
{
    const size_t length = info->block_length, skip = first % length;
    const uint8_t *src = (const uint8_t *)row + first / length * info->block_bytes;
    if (skip != 0 && count != 0) {
        size_t part = length - skip < count ? length - skip : count;
        expand_part(dst, info, src, skip, part);
        dst += part, src += info->block_bytes, count -= part;
    }
    const size_t blocks = count / length, rest = count % length;
    info->expand(dst, src, blocks);
    if (rest != 0)
        expand_part(dst + blocks * length, info, src + blocks * info->block_bytes, 0, rest);
}
