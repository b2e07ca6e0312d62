/* quantize.c: one loop a type from f32 to stored blocks, whose layouts stand in dtype.c.
 *
 * The types of 32 values with one scale follow ggml's reference (ggml-quants.c) and gguf-py's quants.py,
 * operation by operation. For the others the format leaves the choice of scales open; here it is a search
 * for the least squared error: the scale that maps the extremes to the last levels and its neighbours,
 * each followed by one step of the alternation of Lloyd (1982): levels for the scale, then the scale that
 * fits these levels best.
 */
#include "math/quantize.h"

#include <float.h>
#include <math.h>
#include <string.h>

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

#define SUPER 256    /* values of a K-quant's block */
#define MOST_RUNS 16 /* of a block, with a scale each */
#define LONGEST_RUN 32

static void store_u16(uint8_t *bytes, uint16_t value)
{
    memcpy(bytes, &value, sizeof value);
}

static void store_f16(uint8_t *bytes, float value)
{
    store_u16(bytes, cr_f32_to_f16(value));
}

static float as_f16(float value)
{
    return cr_f16_to_f32(cr_f32_to_f16(value));
}

/* 1 / d; 0 where there is none. */
static float inverse(float d)
{
    float out = d == 0 ? 0 : 1.0f / d;
    return isinf(out) ? 0 : out;
}

/* x towards zero, kept between the two; any float may come. */
static int whole_between(float x, int least, int most)
{
    return x > (float)least ? x < (float)most ? (int)x : most : least;
}

/* ---- floats ------------------------------------------------------------------------------------ */

static void store_f32s(void *dst, const float *src, size_t count)
{
    memcpy(dst, src, count * sizeof *src);
}

static void store_f16s(void *dst, const float *src, size_t count)
{
    for (size_t i = 0; i < count; i++)
        store_f16((uint8_t *)dst + 2 * i, src[i]);
}

static void store_bf16s(void *dst, const float *src, size_t count)
{
    for (size_t i = 0; i < count; i++)
        store_u16((uint8_t *)dst + 2 * i, cr_f32_to_bf16(src[i]));
}

/* ---- blocks of 32, rounded as ggml does ------------------------------------------------------------ */

/* The value of largest magnitude, the first of several. */
static float extreme_of(const float *x, int count)
{
    float extreme = x[0];
    for (int i = 1; i < count; i++)
        extreme = fabsf(x[i]) > fabsf(extreme) ? x[i] : extreme;
    return extreme;
}

static void range_of(const float *x, int count, float *least, float *most)
{
    *least = *most = x[0];
    for (int i = 1; i < count; i++) {
        *least = x[i] < *least ? x[i] : *least;
        *most = x[i] > *most ? x[i] : *most;
    }
}

/* Value j in the low half of byte j, value j + 16 in its high half. */
static void store_halves(uint8_t bytes[16], const uint8_t q[32])
{
    for (int j = 0; j < 16; j++)
        bytes[j] = (uint8_t)((q[j] & 15) | q[j + 16] << 4);
}

static void store_fifths(uint8_t bytes[4], const uint8_t q[32])
{
    memset(bytes, 0, 4);
    for (int j = 0; j < 32; j++)
        bytes[j / 8] |= (uint8_t)((q[j] >> 4 & 1) << j % 8);
}

/* q = x / d + middle, rounded; the extreme value becomes level 0. Returns d. */
static float symmetric_levels(uint8_t q[32], const float *x, int middle)
{
    const float d = extreme_of(x, 32) / (float)-middle, id = inverse(d);
    for (int j = 0; j < 32; j++)
        q[j] = (uint8_t)whole_between(x[j] * id + ((float)middle + 0.5f), 0, 2 * middle - 1);
    return d;
}

/* q = (x - least) / d, rounded; the most becomes the last level. Returns d. */
static float ranged_levels(uint8_t q[32], const float *x, int last, float *least)
{
    float most;
    range_of(x, 32, least, &most);
    const float d = (most - *least) / (float)last, id = inverse(d);
    for (int j = 0; j < 32; j++)
        q[j] = (uint8_t)whole_between((x[j] - *least) * id + 0.5f, 0, last);
    return d;
}

static void store_q4_0(void *dst, const float *src, size_t blocks)
{
    uint8_t *block = dst, q[32];
    for (size_t b = 0; b < blocks; b++, block += 18, src += 32) {
        store_f16(block, symmetric_levels(q, src, 8));
        store_halves(block + 2, q);
    }
}

static void store_q4_1(void *dst, const float *src, size_t blocks)
{
    uint8_t *block = dst, q[32];
    float least;
    for (size_t b = 0; b < blocks; b++, block += 20, src += 32) {
        store_f16(block, ranged_levels(q, src, 15, &least));
        store_f16(block + 2, least);
        store_halves(block + 4, q);
    }
}

static void store_q5_0(void *dst, const float *src, size_t blocks)
{
    uint8_t *block = dst, q[32];
    for (size_t b = 0; b < blocks; b++, block += 22, src += 32) {
        store_f16(block, symmetric_levels(q, src, 16));
        store_fifths(block + 2, q);
        store_halves(block + 6, q);
    }
}

static void store_q5_1(void *dst, const float *src, size_t blocks)
{
    uint8_t *block = dst, q[32];
    float least;
    for (size_t b = 0; b < blocks; b++, block += 24, src += 32) {
        store_f16(block, ranged_levels(q, src, 31, &least));
        store_f16(block + 2, least);
        store_fifths(block + 4, q);
        store_halves(block + 8, q);
    }
}

/* Halves away from zero, as C's roundf. */
static int8_t rounded(float x)
{
    const float magnitude = fabsf(x);
    int whole = whole_between(magnitude, 0, 127);
    whole += whole < 127 && magnitude - (float)whole >= 0.5f;
    return (int8_t)(x < 0 ? -whole : whole);
}

static void store_q8_0(void *dst, const float *src, size_t blocks)
{
    uint8_t *block = dst;
    for (size_t b = 0; b < blocks; b++, block += 34, src += 32) {
        const float d = fabsf(extreme_of(src, 32)) / 127, id = inverse(d);
        store_f16(block, d);
        for (int j = 0; j < 32; j++)
            block[2 + j] = (uint8_t)rounded(src[j] * id);
    }
}

/* ---- fitting: one scale, levels on both sides of zero ------------------------------------------------- */

/* The levels of a run: q from `least` to `most` in steps of 1. */
typedef struct levels {
    int least, most;
} levels;

static int level_of(float x, float id, levels range)
{
    const float q = x * id;
    return whole_between(q < 0 ? q - 0.5f : q + 0.5f, range.least, range.most);
}

static float scale_error(const float *x, int count, levels range, float d)
{
    const float id = inverse(d);
    float sum = 0;
    for (int i = 0; i < count; i++) {
        float e = d * (float)level_of(x[i], id, range) - x[i];
        sum += e * e;
    }
    return sum;
}

/* The scale that fits the levels of scale d best: Σ q x / Σ q². */
static float refit_scale(const float *x, int count, levels range, float d)
{
    const float id = inverse(d);
    float qx = 0, qq = 0;
    for (int i = 0; i < count; i++) {
        float q = (float)level_of(x[i], id, range);
        qx += q * x[i];
        qq += q * q;
    }
    return qq > 0 ? qx / qq : d;
}

/* Scales around the one that takes the extreme value to the last level of the longer side. */
static float fit_scale(const float *x, int count, levels range)
{
    const float extreme = extreme_of(x, count);
    float best = extreme / (float)range.least;
    float least = scale_error(x, count, range, best);
    for (int t = -6; t <= 6 && extreme != 0; t++) {
        float start = extreme / ((float)range.least + 0.15f * (float)t);
        float d = refit_scale(x, count, range, start);
        float error = scale_error(x, count, range, d);
        if (error < least) {
            least = error;
            best = d;
        }
    }
    return best;
}

typedef struct scaled_block {
    float d; /* as f16 has it */
    int scales[MOST_RUNS];
    int q[SUPER];
} scaled_block;

/* The stored scale next to `wanted` with the least error. */
static int choose_scale(const float *x, levels range, float d, int wanted, levels scales)
{
    int best = wanted;
    float least = INFINITY;
    for (int s = wanted - 1; s <= wanted + 1; s++) {
        if (s < scales.least || s > scales.most)
            continue;
        float error = scale_error(x, 16, range, d * (float)s);
        if (error < least) {
            least = error;
            best = s;
        }
    }
    return best;
}

/* Sixteen runs of sixteen, whose scales are d times integers. */
static void fit_scaled(scaled_block *out, const float *x, levels range, levels scales)
{
    float wanted[MOST_RUNS];
    for (int run = 0; run < MOST_RUNS; run++)
        wanted[run] = fit_scale(x + 16 * run, 16, range);
    out->d = as_f16(extreme_of(wanted, MOST_RUNS) / (float)scales.least);
    const float id = inverse(out->d);
    for (int run = 0; run < MOST_RUNS; run++) {
        const float *from = x + 16 * run;
        int s = choose_scale(from, range, out->d, level_of(wanted[run], id, scales), scales);
        const float step = inverse(out->d * (float)s);
        out->scales[run] = s;
        for (int j = 0; j < 16; j++)
            out->q[16 * run + j] = level_of(from[j], step, range);
    }
}

/* ---- fitting: scale and minimum, levels from 0 up --------------------------------------------------------- */

/* x is about scale · q - minimum; both are at least 0. */
typedef struct range_fit {
    float scale, minimum;
} range_fit;

static int ranged_level(float x, float minimum, float id, int last)
{
    return whole_between((x + minimum) * id + 0.5f, 0, last);
}

static float range_error(const float *x, int count, int last, range_fit fit)
{
    const float id = inverse(fit.scale);
    float sum = 0;
    for (int i = 0; i < count; i++) {
        float q = (float)ranged_level(x[i], fit.minimum, id, last);
        float e = fit.scale * q - fit.minimum - x[i];
        sum += e * e;
    }
    return sum;
}

/* Least squares of x over the levels that `from` gives; where the minimum would be negative, the line
 * through the origin. */
static range_fit refit_range(const float *x, int count, int last, range_fit from)
{
    const float id = inverse(from.scale), n = (float)count;
    float sq = 0, sqq = 0, sx = 0, sqx = 0;
    for (int i = 0; i < count; i++) {
        float q = (float)ranged_level(x[i], from.minimum, id, last);
        sq += q;
        sqq += q * q;
        sx += x[i];
        sqx += q * x[i];
    }
    const float determinant = n * sqq - sq * sq;
    if (!(determinant > 0))
        return from;
    range_fit fit = {(n * sqx - sq * sx) / determinant, 0};
    fit.minimum = (fit.scale * sq - sx) / n;
    if (fit.minimum < 0)
        fit = (range_fit){sqx / sqq, 0};
    return fit.scale > 0 ? fit : from;
}

/* Scales around the one that takes the most to the last level. */
static range_fit fit_range(const float *x, int count, int last)
{
    float low, high;
    range_of(x, count, &low, &high);
    low = low > 0 ? 0 : low;
    range_fit best = {(high - low) / (float)last, -low};
    float least = range_error(x, count, last, best);
    for (int t = -5; t <= 5 && high > low; t++) {
        range_fit start = {(high - low) / ((float)last + 0.2f * (float)t), -low};
        range_fit fit = refit_range(x, count, last, start);
        float error = range_error(x, count, last, fit);
        if (error < least) {
            least = error;
            best = fit;
        }
    }
    return best;
}

typedef struct ranged_block {
    float d, dmin; /* as f16 has them */
    int scales[MOST_RUNS], minima[MOST_RUNS];
    int q[SUPER];
} ranged_block;

/* How a type divides its block: runs of `length`, levels to `last`, scales and minima to `last_scale`. */
typedef struct ranged_shape {
    int length, last, last_scale;
} ranged_shape;

static range_fit stored_fit(const ranged_block *block, int scale, int minimum)
{
    return (range_fit){block->d * (float)scale, block->dmin * (float)minimum};
}

/* Of the stored scales and minima next to the wanted ones the pair with the least error. */
static void choose_range(ranged_block *out, int run, const float *x, range_fit wanted,
                         const ranged_shape *shape)
{
    const int scale = ranged_level(wanted.scale, 0, inverse(out->d), shape->last_scale);
    const int minimum = ranged_level(wanted.minimum, 0, inverse(out->dmin), shape->last_scale);
    float least = INFINITY;
    for (int s = scale - 1; s <= scale + 1; s++)
        for (int m = minimum - 1; m <= minimum + 1; m++) {
            if (s < 0 || m < 0 || s > shape->last_scale || m > shape->last_scale)
                continue;
            float error = range_error(x, shape->length, shape->last, stored_fit(out, s, m));
            if (error < least) {
                least = error;
                out->scales[run] = s;
                out->minima[run] = m;
            }
        }
}

static void fit_ranged(ranged_block *out, const float *x, const ranged_shape *shape)
{
    const int runs = SUPER / shape->length;
    range_fit wanted[MOST_RUNS];
    float scale = 0, minimum = 0;
    for (int run = 0; run < runs; run++) {
        wanted[run] = fit_range(x + run * shape->length, shape->length, shape->last);
        scale = wanted[run].scale > scale ? wanted[run].scale : scale;
        minimum = wanted[run].minimum > minimum ? wanted[run].minimum : minimum;
    }
    out->d = as_f16(scale / (float)shape->last_scale);
    out->dmin = as_f16(minimum / (float)shape->last_scale);
    for (int run = 0; run < runs; run++) {
        const float *from = x + run * shape->length;
        choose_range(out, run, from, wanted[run], shape);
        const range_fit fit = stored_fit(out, out->scales[run], out->minima[run]);
        const float id = inverse(fit.scale);
        for (int j = 0; j < shape->length; j++)
            out->q[run * shape->length + j] = ranged_level(from[j], fit.minimum, id, shape->last);
    }
}

/* ---- fitted blocks -------------------------------------------------------------------------------------- */

static const float nonlinear[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                    1,    13,   25,  38,  53,  69,  89,  113};

static int nearest_nonlinear(float x)
{
    int q = 0;
    while (q < 15 && x - nonlinear[q] > nonlinear[q + 1] - x)
        q++;
    return q;
}

static float nonlinear_error(const float *x, float d)
{
    const float id = inverse(d);
    float sum = 0;
    for (int i = 0; i < 32; i++) {
        float e = d * nonlinear[nearest_nonlinear(x[i] * id)] - x[i];
        sum += e * e;
    }
    return sum;
}

static float refit_nonlinear(const float *x, float d)
{
    const float id = inverse(d);
    float qx = 0, qq = 0;
    for (int i = 0; i < 32; i++) {
        float q = nonlinear[nearest_nonlinear(x[i] * id)];
        qx += q * x[i];
        qq += q * q;
    }
    return qq > 0 ? qx / qq : d;
}

static float fit_nonlinear(const float *x)
{
    const float extreme = extreme_of(x, 32);
    float best = extreme / nonlinear[0], least = nonlinear_error(x, best);
    for (int t = -8; t <= 8 && extreme != 0; t++) {
        float d = refit_nonlinear(x, extreme / (nonlinear[0] + 4 * (float)t));
        float error = nonlinear_error(x, d);
        if (error < least) {
            least = error;
            best = d;
        }
    }
    return best;
}

static void store_iq4_nl(void *dst, const float *src, size_t blocks)
{
    uint8_t *block = dst, q[32];
    for (size_t b = 0; b < blocks; b++, block += 18, src += 32) {
        const float d = as_f16(fit_nonlinear(src)), id = inverse(d);
        for (int j = 0; j < 32; j++)
            q[j] = (uint8_t)nearest_nonlinear(src[j] * id);
        store_f16(block, d);
        store_halves(block + 2, q);
    }
}

/* Where values of a run of 16 keep two bits each: as in Q2_K, Q3_K and the upper bits of Q6_K. */
static void add_pair(uint8_t *q, int run, int j, int bits)
{
    q[run / 8 * 32 + run % 2 * 16 + j] |= (uint8_t)(bits << run / 2 % 4 * 2);
}

static void store_q2_k(void *dst, const float *src, size_t blocks)
{
    static const ranged_shape shape = {16, 3, 15};
    uint8_t *block = dst;
    ranged_block fit;
    for (size_t b = 0; b < blocks; b++, block += 84, src += SUPER) {
        fit_ranged(&fit, src, &shape);
        memset(block, 0, 84);
        for (int run = 0; run < 16; run++) {
            block[run] = (uint8_t)(fit.scales[run] | fit.minima[run] << 4);
            for (int j = 0; j < 16; j++)
                add_pair(block + 16, run, j, fit.q[16 * run + j]);
        }
        store_f16(block + 80, fit.d);
        store_f16(block + 82, fit.dmin);
    }
}

static void store_q3_k(void *dst, const float *src, size_t blocks)
{
    uint8_t *block = dst;
    scaled_block fit;
    for (size_t b = 0; b < blocks; b++, block += 110, src += SUPER) {
        fit_scaled(&fit, src, (levels){-4, 3}, (levels){-32, 31});
        memset(block, 0, 110);
        for (int run = 0; run < 16; run++) {
            const int scale = fit.scales[run] + 32;
            block[96 + run % 8] |= (uint8_t)((scale & 15) << run / 8 * 4);
            block[104 + run % 4] |= (uint8_t)(scale >> 4 << run / 4 * 2);
            for (int j = 0; j < 16; j++) {
                const int q = fit.q[16 * run + j] + 4;
                add_pair(block + 32, run, j, q & 3);
                block[run % 2 * 16 + j] |= (uint8_t)(q >> 2 << run / 2);
            }
        }
        store_f16(block + 108, fit.d);
    }
}

/* Eight scales and eight minima of six bits: dtype.c, q4_scales. */
static void store_scales(uint8_t packed[12], const ranged_block *fit)
{
    for (int j = 0; j < 4; j++) {
        const int scale = fit->scales[j + 4], minimum = fit->minima[j + 4];
        packed[j] = (uint8_t)(fit->scales[j] | scale >> 4 << 6);
        packed[j + 4] = (uint8_t)(fit->minima[j] | minimum >> 4 << 6);
        packed[j + 8] = (uint8_t)((scale & 15) | (minimum & 15) << 4);
    }
}

static void add_half(uint8_t *q, int run, int j, int bits)
{
    q[run / 2 * 32 + j] |= (uint8_t)((bits & 15) << run % 2 * 4);
}

static void store_q4_k(void *dst, const float *src, size_t blocks)
{
    static const ranged_shape shape = {32, 15, 63};
    uint8_t *block = dst;
    ranged_block fit;
    for (size_t b = 0; b < blocks; b++, block += 144, src += SUPER) {
        fit_ranged(&fit, src, &shape);
        memset(block, 0, 144);
        store_f16(block, fit.d);
        store_f16(block + 2, fit.dmin);
        store_scales(block + 4, &fit);
        for (int i = 0; i < SUPER; i++)
            add_half(block + 16, i / 32, i % 32, fit.q[i]);
    }
}

static void store_q5_k(void *dst, const float *src, size_t blocks)
{
    static const ranged_shape shape = {32, 31, 63};
    uint8_t *block = dst;
    ranged_block fit;
    for (size_t b = 0; b < blocks; b++, block += 176, src += SUPER) {
        fit_ranged(&fit, src, &shape);
        memset(block, 0, 176);
        store_f16(block, fit.d);
        store_f16(block + 2, fit.dmin);
        store_scales(block + 4, &fit);
        for (int i = 0; i < SUPER; i++) {
            add_half(block + 48, i / 32, i % 32, fit.q[i]);
            block[16 + i % 32] |= (uint8_t)(fit.q[i] >> 4 << i / 32);
        }
    }
}

static void store_q6_k(void *dst, const float *src, size_t blocks)
{
    uint8_t *block = dst;
    scaled_block fit;
    for (size_t b = 0; b < blocks; b++, block += 210, src += SUPER) {
        fit_scaled(&fit, src, (levels){-32, 31}, (levels){-128, 127});
        memset(block, 0, 210);
        for (int run = 0; run < 16; run++) {
            block[192 + run] = (uint8_t)(int8_t)fit.scales[run];
            for (int j = 0; j < 16; j++) {
                const int q = fit.q[16 * run + j] + 32;
                block[run / 8 * 64 + run % 4 * 16 + j] |= (uint8_t)((q & 15) << run / 4 % 2 * 4);
                add_pair(block + 128, run, j, q >> 4);
            }
        }
        store_f16(block + 208, fit.d);
    }
}

/* ---- rows -------------------------------------------------------------------------------------------------- */

typedef void (*store_fn)(void *dst, const float *src, size_t blocks);

static store_fn store_of(cr_dtype type)
{
    switch (type) {
    case CR_DTYPE_F32:
        return store_f32s;
    case CR_DTYPE_F16:
        return store_f16s;
    case CR_DTYPE_BF16:
        return store_bf16s;
    case CR_DTYPE_Q4_0:
        return store_q4_0;
    case CR_DTYPE_Q4_1:
        return store_q4_1;
    case CR_DTYPE_Q5_0:
        return store_q5_0;
    case CR_DTYPE_Q5_1:
        return store_q5_1;
    case CR_DTYPE_Q8_0:
        return store_q8_0;
    case CR_DTYPE_Q2_K:
        return store_q2_k;
    case CR_DTYPE_Q3_K:
        return store_q3_k;
    case CR_DTYPE_Q4_K:
        return store_q4_k;
    case CR_DTYPE_Q5_K:
        return store_q5_k;
    case CR_DTYPE_Q6_K:
        return store_q6_k;
    case CR_DTYPE_IQ4_NL:
        return store_iq4_nl;
    }
    return NULL;
}

/* Scales of all types but these two are half-length floats. */
static float most_of(cr_dtype type)
{
    return type == CR_DTYPE_F32 ? FLT_MAX : type == CR_DTYPE_BF16 ? 0x1.fep127f : 65504.0f;
}

cr_quantized cr_quantize_row(void *dst, const cr_dtype_info *info, const float *src, size_t count)
{
    const float most = most_of(info->type);
    bool fits = true;
    for (size_t i = 0; i < count; i++)
        fits = fits && fabsf(src[i]) <= most;
    for (size_t i = 0; !fits && i < count; i++)
        if (!isfinite(src[i]))
            return CR_QUANTIZED_NOT_FINITE;
    if (!fits)
        return CR_QUANTIZED_TOO_LARGE;
    store_of(info->type)(dst, src, count / info->block_length);
    return CR_QUANTIZED;
}
