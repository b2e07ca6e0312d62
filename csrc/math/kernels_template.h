/* kernels_template.h: the loops behind kernels.h, compiled once per instruction set.
 *
 * The including file defines LANES (floats a vector), TILE_ROWS, TILE_VECTORS (tile
 * columns = LANES · TILE_VECTORS), KERNELS (the table's symbol) and KERNELS_NAME.
 * The tile keeps TILE_ROWS · TILE_VECTORS accumulators in registers (Goto and van de
 * Geijn 2008); a row of A is read in place, B comes packed.
 */
#include "math/kernels.h"

#include <math.h>
#include <string.h>

typedef float vector __attribute__((vector_size(LANES * 4)));
typedef float loose_vector __attribute__((vector_size(LANES * 4), aligned(4)));

#define TILE_COLUMNS (LANES * TILE_VECTORS)

static inline vector load(const float *from)
{
    return *(const loose_vector *)(const void *)from;
}

static inline void store(float *to, vector value)
{
    *(loose_vector *)(void *)to = value;
}

static inline vector broadcast(float x)
{
    return x - (vector){0};
}

typedef union halves {
    vector whole;
    float lanes[LANES];
} halves;

/* Lanes in pairs: half of them onto the other, until one is left. */
static inline float total_of(vector x)
{
    halves sum = {x};
#pragma GCC unroll 4
    for (size_t width = LANES / 2; width > 0; width /= 2)
#pragma GCC unroll 8
        for (size_t l = 0; l < width; l++)
            sum.lanes[l] += sum.lanes[l + width];
    return sum.lanes[0];
}

static void gemm_tile(size_t depth, const float *const *rows, size_t step,
                      const float *CR_RESTRICT panel, float *CR_RESTRICT c, size_t ldc, float alpha,
                      bool accumulate)
{
    vector sum[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 16
    for (int i = 0; i < TILE_ROWS; i++)
#pragma GCC unroll 4
        for (int j = 0; j < TILE_VECTORS; j++)
            sum[i][j] = (vector){0};
    const float *row[TILE_ROWS];
#pragma GCC unroll 16
    for (int i = 0; i < TILE_ROWS; i++)
        row[i] = rows[i];
    for (size_t k = 0; k < depth; k++, panel += TILE_COLUMNS) {
        vector b[TILE_VECTORS];
#pragma GCC unroll 4
        for (int j = 0; j < TILE_VECTORS; j++)
            b[j] = *(const vector *)(const void *)(panel + j * LANES);
#pragma GCC unroll 16
        for (int i = 0; i < TILE_ROWS; i++) {
            vector a = broadcast(row[i][k * step]);
#pragma GCC unroll 4
            for (int j = 0; j < TILE_VECTORS; j++)
                sum[i][j] += a * b[j];
        }
    }
    vector factor = broadcast(alpha);
#pragma GCC unroll 16
    for (int i = 0; i < TILE_ROWS; i++)
#pragma GCC unroll 4
        for (int j = 0; j < TILE_VECTORS; j++) {
            float *to = c + (size_t)i * ldc + (size_t)j * LANES;
            store(to, accumulate ? load(to) + factor * sum[i][j] : factor * sum[i][j]);
        }
}

/* columns [8, depth] into rows of `stride` floats, by unpacking pairs, then fours, then halves. */
#if defined(__AVX2__)
#include <immintrin.h>

static inline size_t pack_eight(float *to, size_t stride, const float *const *rows, size_t depth)
{
    size_t k = 0;
    for (; k + 8 <= depth; k += 8) {
        __m256 row[8], pair[8], four[8];
        for (int j = 0; j < 8; j++)
            row[j] = _mm256_loadu_ps(rows[j] + k);
        for (int j = 0; j < 8; j += 2) {
            pair[j] = _mm256_unpacklo_ps(row[j], row[j + 1]);
            pair[j + 1] = _mm256_unpackhi_ps(row[j], row[j + 1]);
        }
        for (int j = 0; j < 8; j += 4)
            for (int h = 0; h < 2; h++) {
                four[j + 2 * h] = _mm256_shuffle_ps(pair[j + h], pair[j + h + 2], 0x44);
                four[j + 2 * h + 1] = _mm256_shuffle_ps(pair[j + h], pair[j + h + 2], 0xEE);
            }
        for (int j = 0; j < 4; j++) {
            float *at = to + (k + (size_t)j) * stride;
            _mm256_storeu_ps(at, _mm256_permute2f128_ps(four[j], four[j + 4], 0x20));
            _mm256_storeu_ps(at + 4 * stride, _mm256_permute2f128_ps(four[j], four[j + 4], 0x31));
        }
    }
    return k;
}
#else
static inline size_t pack_eight(float *to, size_t stride, const float *const *rows, size_t depth)
{
    (void)to, (void)stride, (void)rows, (void)depth;
    return 0;
}
#endif

static void pack(float *CR_RESTRICT panel, const float *const *rows, size_t width, size_t depth)
{
    size_t j = 0;
    for (; j + 8 <= width; j += 8)
        for (size_t k = pack_eight(panel + j, TILE_COLUMNS, rows + j, depth); k < depth; k++)
            for (size_t i = j; i < j + 8; i++)
                panel[k * TILE_COLUMNS + i] = rows[i][k];
    if (j == TILE_COLUMNS)
        return;
    for (size_t k = 0; k < depth; k++) {
        for (size_t i = j; i < width; i++)
            panel[k * TILE_COLUMNS + i] = rows[i][k];
        memset(panel + k * TILE_COLUMNS + width, 0, (TILE_COLUMNS - width) * sizeof(float));
    }
}

/* m rows of A by n rows of B, both known where it is called, m · n sums in registers. */
static inline __attribute__((always_inline)) void few_block(float *c, size_t ldc,
                                                            const float *const *rows, size_t n,
                                                            const float *a, size_t step, size_t m,
                                                            size_t depth)
{
    vector sum[4][CR_FEW_ROWS];
    size_t k = 0;
#pragma GCC unroll 4
    for (size_t i = 0; i < m; i++)
#pragma GCC unroll 6
        for (size_t j = 0; j < n; j++)
            sum[i][j] = (vector){0};
    for (; k + LANES <= depth; k += LANES) {
        vector b[CR_FEW_ROWS];
#pragma GCC unroll 6
        for (size_t j = 0; j < n; j++)
            b[j] = load(rows[j] + k);
#pragma GCC unroll 4
        for (size_t i = 0; i < m; i++) {
            vector x = load(a + i * step + k);
#pragma GCC unroll 6
            for (size_t j = 0; j < n; j++)
                sum[i][j] += b[j] * x;
        }
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < m; i++)
#pragma GCC unroll 6
        for (size_t j = 0; j < n; j++) {
            float total = total_of(sum[i][j]);
            for (size_t rest = k; rest < depth; rest++)
                total += rows[j][rest] * a[i * step + rest];
            c[i * ldc + j] = total;
        }
}

static void few_tile(float *CR_RESTRICT c, size_t ldc, const float *const *rows,
                     const float *CR_RESTRICT a, size_t step, size_t m, size_t depth)
{
    for (; m >= 4; m -= 4, a += 4 * step, c += 4 * ldc) {
        few_block(c, ldc, rows, 3, a, step, 4, depth);
        few_block(c + 3, ldc, rows + 3, 3, a, step, 4, depth);
    }
    if (m == 3) {
        few_block(c, ldc, rows, 3, a, step, 3, depth);
        few_block(c + 3, ldc, rows + 3, 3, a, step, 3, depth);
    } else if (m == 2) {
        few_block(c, ldc, rows, 6, a, step, 2, depth);
    } else if (m == 1) {
        few_block(c, ldc, rows, 6, a, step, 1, depth);
    }
}

static float dot(const float *a, const float *b, size_t count)
{
    vector sum[4] = {{0}, {0}, {0}, {0}};
    size_t i = 0;
    for (; i + 4 * LANES <= count; i += 4 * LANES)
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++)
            sum[j] += load(a + i + j * LANES) * load(b + i + j * LANES);
    for (; i + LANES <= count; i += LANES)
        sum[0] += load(a + i) * load(b + i);
    vector all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    float total = 0;
    for (int j = 0; j < LANES; j++)
        total += all[j];
    for (; i < count; i++)
        total += a[i] * b[i];
    return total;
}

static void dot4(float out[4], const float *a, const float *b, size_t stride, size_t count)
{
    vector sum[4][2] = {{{0}}};
    size_t i = 0;
    for (; i + 2 * LANES <= count; i += 2 * LANES) {
        vector a0 = load(a + i), a1 = load(a + i + LANES);
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) {
            sum[j][0] += a0 * load(b + j * stride + i);
            sum[j][1] += a1 * load(b + j * stride + i + LANES);
        }
    }
    for (size_t j = 0; j < 4; j++) {
        vector all = sum[j][0] + sum[j][1];
        float total = 0;
        for (int l = 0; l < LANES; l++)
            total += all[l];
        for (size_t rest = i; rest < count; rest++)
            total += a[rest] * b[j * stride + rest];
        out[j] = total;
    }
}

static void axpy(float *CR_RESTRICT y, float alpha, const float *CR_RESTRICT x, size_t count)
{
    for (size_t i = 0; i < count; i++)
        y[i] += alpha * x[i];
}

static void scale_row(float *x, float alpha, size_t count)
{
    for (size_t i = 0; i < count; i++)
        x[i] *= alpha;
}

static float sum_squares(const float *x, size_t count)
{
    return dot(x, x, count);
}

static float max_of(const float *x, size_t count)
{
    float best = -INFINITY;
#pragma omp simd reduction(max : best)
    for (size_t i = 0; i < count; i++)
        best = x[i] > best ? x[i] : best;
    return best;
}

/* exp by 2^n · p(r), |r| <= ln 2 / 2, p the degree-6 minimax polynomial of Cephes'
 * expf: about 1 ulp; 0 below -87.3, clamped above 88. NaN stays NaN. */
static inline float exp_lane(float x)
{
    float clamped = x < -87.3f ? -87.3f : x;
    clamped = clamped > 88.0f ? 88.0f : clamped;
    const float round_bias = 12582912.0f; /* 1.5 · 2^23: adding it rounds to an integer */
    float shifted = clamped * 1.44269504088896341f + round_bias;
    float n = shifted - round_bias;
    float r = clamped - n * 0.693359375f;
    r -= n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    int32_t exponent;
    memcpy(&exponent, &shifted, sizeof exponent);
    uint32_t bits = ((uint32_t)exponent + (127u - 0x4B400000u)) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    float value = x < -87.3f ? 0.0f : p * power;
    return x != x ? x : value;
}

static float exp_sum(float *x, float shift, size_t count)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < count; i++) {
        x[i] = exp_lane(x[i] - shift);
        sum += x[i];
    }
    return sum;
}

static void swiglu(float *CR_RESTRICT out, const float *CR_RESTRICT gate,
                   const float *CR_RESTRICT up, size_t count)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++)
        out[i] = gate[i] / (1.0f + exp_lane(-gate[i])) * up[i];
}

static void swiglu_backward(float *dgate, float *dup, const float *dout, const float *gate,
                            const float *up, size_t count)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++) {
        float g = gate[i], u = up[i], d = dout[i];
        float sigmoid = 1.0f / (1.0f + exp_lane(-g));
        float silu = g * sigmoid;
        dgate[i] = d * u * (sigmoid + silu * (1.0f - sigmoid));
        dup[i] = d * silu;
    }
}

/* gelu(x) = x · sigmoid(2 √(2/π) (x + 0.044715 x³)), the tanh form. */
static inline float gelu_sigmoid(float x)
{
    return 1.0f / (1.0f + exp_lane(-1.5957691216f * (x + 0.044715f * x * x * x)));
}

static void geglu(float *CR_RESTRICT out, const float *CR_RESTRICT gate,
                  const float *CR_RESTRICT up, size_t count)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++)
        out[i] = gate[i] * gelu_sigmoid(gate[i]) * up[i];
}

/* gelu'(x) = s + x s (1 - s) t', with s the sigmoid and t' the slope of its argument. Beyond ±12
 * the second term is nothing, and x² must not overflow it. */
static void geglu_backward(float *dgate, float *dup, const float *dout, const float *gate,
                           const float *up, size_t count)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++) {
        float g = gate[i], u = up[i], d = dout[i];
        float sigmoid = gelu_sigmoid(g);
        float near = g < -12.0f ? -12.0f : g;
        near = near > 12.0f ? 12.0f : near;
        float slope = 1.5957691216f * (1.0f + 0.134145f * near * near);
        dgate[i] = d * u * (sigmoid + near * sigmoid * (1.0f - sigmoid) * slope);
        dup[i] = d * g * sigmoid;
    }
}

/* Φ by erfc's rational approximation with an error below 1.5e-7 (Abramowitz and Stegun 7.1.26), of
 * |x| so that the small side keeps its relative error. */
static void gelu(float *x, size_t count)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++) {
        float z = x[i] * 0.70710678118654752f, magnitude = z < 0 ? -z : z;
        float t = 1.0f / (1.0f + 0.3275911f * magnitude);
        float p = 1.061405429f;
        p = p * t - 1.453152027f;
        p = p * t + 1.421413741f;
        p = p * t - 0.284496736f;
        p = p * t + 0.254829592f;
        float tail = 0.5f * p * t * exp_lane(-z * z);
        x[i] = x[i] * (x[i] < 0 ? tail : 1.0f - tail);
    }
}

static void gelu_tanh(float *x, size_t count)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++) {
        float u = 1.59576912160573071f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
        x[i] = x[i] / (1.0f + exp_lane(-u));
    }
}

static void dropout(float *CR_RESTRICT out, const float *CR_RESTRICT x, size_t count, uint64_t key,
                    uint32_t threshold, float factor)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++)
        out[i] = cr_mask_hash(key, (uint32_t)i) >= threshold ? x[i] * factor : 0.0f;
}

static void dropout_add(float *CR_RESTRICT out, const float *CR_RESTRICT x, size_t count,
                        uint64_t key, uint32_t threshold, float factor)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++)
        out[i] += cr_mask_hash(key, (uint32_t)i) >= threshold ? x[i] * factor : 0.0f;
}

static double adamw(float *CR_RESTRICT weight, const float *CR_RESTRICT gradient,
                    float *CR_RESTRICT moment1, float *CR_RESTRICT moment2, size_t count,
                    const cr_adamw_factors *factors)
{
    const cr_adamw_factors f = *factors;
    float change_squares = 0;
#pragma omp simd reduction(+ : change_squares)
    for (size_t i = 0; i < count; i++) {
        float g = gradient[i] * f.gradient_scale;
        float m = f.beta1 * moment1[i] + (1.0f - f.beta1) * g;
        float v = f.beta2 * moment2[i] + (1.0f - f.beta2) * g * g;
        float before = weight[i];
        float after = before * f.keep - f.step_size * m / (sqrtf(v) * f.moment2_scale + f.eps);
        moment1[i] = m;
        moment2[i] = v;
        weight[i] = after;
        change_squares += (after - before) * (after - before);
    }
    return (double)change_squares;
}

const cr_kernels KERNELS = {
    .name = KERNELS_NAME,
    .tile_rows = TILE_ROWS,
    .tile_columns = TILE_COLUMNS,
    .gemm_tile = gemm_tile,
    .pack = pack,
    .few_tile = few_tile,
    .dot = dot,
    .dot4 = dot4,
    .axpy = axpy,
    .scale = scale_row,
    .sum_squares = sum_squares,
    .max = max_of,
    .exp_sum = exp_sum,
    .swiglu = swiglu,
    .swiglu_backward = swiglu_backward,
    .geglu = geglu,
    .geglu_backward = geglu_backward,
    .gelu = gelu,
    .gelu_tanh = gelu_tanh,
    .dropout = dropout,
    .dropout_add = dropout_add,
    .adamw = adamw,
};
