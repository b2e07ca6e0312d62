/* dtype_loops.h: one expansion loop a type and the table of types, compiled once per instruction set.
 *
 * The including file defines TYPES (the table's symbol). Block layouts and the order of
 * operations are those of ggml (ggml-quants.c), so that every value equals ggml's to the last bit:
 * products are rounded before they are added, without contraction, whatever the processor.
 * Blocks are packed without padding and may start at any byte; fields are read byte by byte or
 * through memcpy. The loops have fixed lengths for the compiler to vectorise.
 */
#include "math/dtype.h"
#include "math/dtype_half.h"

/* (GCC is told by -ffp-contract=off.) */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

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

/* FROM_BYTES: dst[j] = expression in x = (float)q[j] for j < 32; SIGN is u or i, q's.
 * FROM_HALVES: the same of 32 values in 16 bytes, value j in the low half of byte j, value j + 16 in the high half.
 * Written out for AVX2, since the compiler fills its vectors with bytes and then needs narrow ones for their floats. */
#if defined(__AVX2__)
#include <immintrin.h>

typedef float eight_floats __attribute__((vector_size(32)));

#define PUT_EIGHT(SIGN, dst, bytes, expression)                                            \
    do {                                                                                   \
        const __m256i wide_ = _mm256_cvtep##SIGN##8_epi32(bytes);                          \
        const eight_floats x = (eight_floats)_mm256_cvtepi32_ps(wide_), put_ = expression; \
        memcpy(dst, &put_, sizeof put_);                                                   \
    } while (0)

#define FROM_BYTES(SIGN, dst, q, expression)                                                \
    for (int j_ = 0; j_ < 32; j_ += 8)                                                      \
    PUT_EIGHT(SIGN, (dst) + j_, _mm_loadl_epi64((const __m128i *)(const void *)((q) + j_)), \
              expression)

#define FROM_HALVES(dst, q, expression)                                                            \
    for (int j_ = 0; j_ < 16; j_ += 8) {                                                           \
        const __m128i both_ = _mm_loadl_epi64((const __m128i *)(const void *)((q) + j_));          \
        const __m128i mask_ = _mm_set1_epi8(15);                                                   \
        PUT_EIGHT(u, (dst) + j_, _mm_and_si128(both_, mask_), expression);                         \
        PUT_EIGHT(u, (dst) + j_ + 16, _mm_and_si128(_mm_srli_epi16(both_, 4), mask_), expression); \
    }
#else
#define FROM_BYTES(SIGN, dst, q, expression) \
    for (int j_ = 0; j_ < 32; j_++) {        \
        const float x = (float)(q)[j_];      \
        (dst)[j_] = expression;              \
    }

#define FROM_HALVES(dst, q, expression)            \
    for (int j_ = 0; j_ < 16; j_++) {              \
        {                                          \
            const float x = (float)((q)[j_] & 15); \
            (dst)[j_] = expression;                \
        }                                          \
        {                                          \
            const float x = (float)((q)[j_] >> 4); \
            (dst)[j_ + 16] = expression;           \
        }                                          \
    }
#endif

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
        dst[i] = from_bits_f32((uint32_t)load_u16(bytes + 2 * i) << 16);
}

/* ---- blocks of 32 -------------------------------------------------------- */

/* f16 d; u8 q[16]: value j in the low half of q[j], value j + 16 in the high half; d · (q - 8). */
static void expand_q4_0(float *CR_RESTRICT dst, const void *src, size_t blocks)
{
    const uint8_t *block = src;
    for (size_t b = 0; b < blocks; b++, block += 18, dst += 32) {
        const float d = load_f16(block);
        const uint8_t *q = block + 2;
        FROM_HALVES(dst, q, d * (x - 8))
    }
}

/* f16 d, m; u8 q[16] as in Q4_0; d · q + m. */
static void expand_q4_1(float *CR_RESTRICT dst, const void *src, size_t blocks)
{
    const uint8_t *block = src;
    for (size_t b = 0; b < blocks; b++, block += 20, dst += 32) {
        const float d = load_f16(block), m = load_f16(block + 2);
        const uint8_t *q = block + 4;
        FROM_HALVES(dst, q, d * x + m)
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
        FROM_BYTES(u, dst, q, d * (x - 16));
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
        FROM_BYTES(u, dst, q, d * x + m);
    }
}

/* f16 d; i8 q[32]; d · q. */
static void expand_q8_0(float *CR_RESTRICT dst, const void *src, size_t blocks)
{
    const uint8_t *block = src;
    for (size_t b = 0; b < blocks; b++, block += 34, dst += 32) {
        const float d = load_f16(block);
        const int8_t *q = (const int8_t *)block + 2;
        FROM_BYTES(i, dst, q, d * x);
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

/* Indexed by GGUF's number. Rows without a loop are types that ggml has or had and that are
 * known here by name alone. */
extern const cr_dtype_info TYPES[CR_DTYPE_COUNT];

const cr_dtype_info TYPES[CR_DTYPE_COUNT] = {
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
