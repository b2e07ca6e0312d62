/* tensor_lanes.h: elementary functions without branches, for loops that the compiler vectorises.
 *
 * What this is: exp, log, sin and their kin for one value, in f32 and f64, written with selections
 * and integer arithmetic on the bits alone, so that a loop over any of them becomes vector code of
 * whatever width the including file is compiled for.
 * What it is not: a replacement of libm where speed does not matter.
 *
 * Errors are below 2.5 units in the last place, those of f64 pow below 4 where the result is near the
 * ends of the range. NaN stays NaN, infinities and zeros give what libm gives. Polynomials are those of fdlibm (Sun 1993) and Cephes (Moshier 1992), or Taylor's.
 *
 * sin and cos hold up to SIN_LIMIT; beyond it the caller asks libm.
 */
#ifndef CR_TENSOR_LANES_H
#define CR_TENSOR_LANES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "math/float_bits.h"

#define SIN_LIMIT_f32 1.0e5f
#define SIN_LIMIT_f64 1.0e6

/* Adding it rounds to an integer, which is then also in the low bits. */
#define ROUND_f32 0x1.8p23f
#define ROUND_f64 0x1.8p52

static inline uint64_t bits_f64(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline double from_bits_f64(uint64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline float with_sign_f32(float magnitude, float sign)
{
    return from_bits_f32(bits_f32(magnitude) | (bits_f32(sign) & 0x80000000u));
}

static inline double with_sign_f64(double magnitude, double sign)
{
    return from_bits_f64(bits_f64(magnitude) | (bits_f64(sign) & UINT64_C(0x8000000000000000)));
}

/* ---- exp, expm1 ------------------------------------------------------------------ */

/* 2^n for the n that `shifted` = n + ROUND holds, where 2^n is normal. */
static inline float power_of_two_f32(float shifted)
{
    return from_bits_f32((bits_f32(shifted) + 127u) << 23);
}

static inline double power_of_two_f64(double shifted)
{
    return from_bits_f64((bits_f64(shifted) + 1023u) << 52);
}

/* x · 2^n in two steps, so that the result may be subnormal or infinite. */
static inline float scale_f32(float x, float n)
{
    float half = n * 0.5f + ROUND_f32;
    float rest = n - (half - ROUND_f32) + ROUND_f32;
    return x * power_of_two_f32(half) * power_of_two_f32(rest);
}

static inline double scale_f64(double x, double n)
{
    double half = n * 0.5 + ROUND_f64;
    double rest = n - (half - ROUND_f64) + ROUND_f64;
    return x * power_of_two_f64(half) * power_of_two_f64(rest);
}

/* exp(r) - 1 for |r| <= ln 2 / 2. */
static inline float expm1_core_f32(float r)
{
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return p * (r * r) + r;
}

static inline double expm1_core_f64(double r)
{
    double p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    return p * (r * r) + r;
}

/* n and r of x = n · ln 2 + r. */
static inline float exp_split_f32(float x, float *n)
{
    *n = (x * 1.44269504088896341f + ROUND_f32) - ROUND_f32;
    return (x - *n * 0.693359375f) - *n * -2.12194440e-4f;
}

static inline double exp_split_f64(double x, double *n)
{
    *n = (x * 1.44269504088896338700 + ROUND_f64) - ROUND_f64;
    return (x - *n * 6.93147180369123816490e-01) - *n * 1.90821492927058770002e-10;
}

static inline float exp_f32(float x)
{
    float n, clamped = x < -104.0f ? -104.0f : x;
    float r = exp_split_f32(clamped > 89.0f ? 89.0f : clamped, &n);
    return scale_f32(1.0f + expm1_core_f32(r), n);
}

/* exp(x + tail) for a tail below x's last place. */
static inline double exp_tail_f64(double x, double tail)
{
    double n, clamped = x < -746.0 ? -746.0 : x;
    double r = exp_split_f64(clamped > 710.0 ? 710.0 : clamped, &n) + tail;
    return scale_f64(1.0 + expm1_core_f64(r), n);
}

static inline double exp_f64(double x)
{
    return exp_tail_f64(x, 0.0);
}

/* With h = 2^(n-1): 2 · (h · (e^r - 1) + (h - 1/2)), exact in its parts. */
static inline float expm1_f32(float x)
{
    float n, clamped = x < -18.0f ? -18.0f : x;
    float r = exp_split_f32(clamped > 89.0f ? 89.0f : clamped, &n);
    float half = power_of_two_f32(n - 1.0f + ROUND_f32);
    float value = 2.0f * (half * expm1_core_f32(r) + (half - 0.5f));
    return x > 88.8f ? INFINITY : value;
}

static inline double expm1_f64(double x)
{
    double n, clamped = x < -38.0 ? -38.0 : x;
    double r = exp_split_f64(clamped > 710.0 ? 710.0 : clamped, &n);
    double half = power_of_two_f64(n - 1.0 + ROUND_f64);
    double value = 2.0 * (half * expm1_core_f64(r) + (half - 0.5));
    return x > 709.8 ? (double)INFINITY : value;
}

/* ---- log, log1p ------------------------------------------------------------------ */

/* x = 2^k · m with m in [sqrt(1/2), sqrt(2)), for positive finite x. */
static inline float log_split_f32(float x, float *k)
{
    float tiny = x < 0x1p-126f ? 1.0f : 0.0f;
    uint32_t u = bits_f32(x * (1.0f + tiny * (0x1p24f - 1.0f))) + (0x3f800000u - 0x3f3504f3u);
    *k = (float)(int32_t)(u >> 23) - 127.0f - tiny * 24.0f;
    return from_bits_f32((u & 0x007fffffu) + 0x3f3504f3u);
}

static inline double log_split_f64(double x, double *k)
{
    double tiny = x < 0x1p-1022 ? 1.0 : 0.0;
    uint64_t u = bits_f64(x * (1.0 + tiny * (0x1p54 - 1.0))) +
                 (UINT64_C(0x3ff0000000000000) - UINT64_C(0x3fe6a09e00000000));
    *k = from_bits_f64((u >> 52) | UINT64_C(0x4330000000000000)) - (0x1p52 + 1023.0) - tiny * 54.0;
    return from_bits_f64((u & UINT64_C(0x000fffffffffffff)) + UINT64_C(0x3fe6a09e00000000));
}

/* What log does where there is no finite logarithm. */
static inline float log_edges_f32(float value, float x)
{
    value = x == 0.0f ? -INFINITY : value;
    value = x == INFINITY ? INFINITY : value;
    return x >= 0.0f ? value : NAN;
}

static inline double log_edges_f64(double value, double x)
{
    value = x == 0.0 ? -(double)INFINITY : value;
    value = x == (double)INFINITY ? (double)INFINITY : value;
    return x >= 0.0 ? value : (double)NAN;
}

/* log(2^k · (1 + f)) + correction; fdlibm's e_log.c and e_logf.c. */
static inline float log_core_f32(float k, float f, float correction)
{
    float s = f / (2.0f + f), z = s * s, w = z * z;
    float odd = w * (0xccce13.0p-25f + w * 0xf89e26.0p-26f);
    float even = z * (0xaaaaaa.0p-24f + w * 0x91e9ee.0p-25f);
    float half_square = 0.5f * f * f;
    return s * (half_square + (odd + even)) + (k * 9.0580006145e-06f + correction) - half_square +
           f + k * 6.9313812256e-01f;
}

static inline double log_core_f64(double k, double f, double correction)
{
    double s = f / (2.0 + f), z = s * s, w = z * z;
    double odd = w * (3.999999999940941908e-01 +
                      w * (2.222219843214978396e-01 + w * 1.531383769920937332e-01));
    double even = z * (6.666666666666735130e-01 +
                       w * (2.857142874366239149e-01 +
                            w * (1.818357216161805012e-01 + w * 1.479819860511658591e-01)));
    double half_square = 0.5 * f * f;
    return s * (half_square + (odd + even)) + (k * 1.90821492927058770002e-10 + correction) -
           half_square + f + k * 6.93147180369123816490e-01;
}

static inline float log_f32(float x)
{
    float k, m = log_split_f32(x, &k);
    return log_edges_f32(log_core_f32(k, m - 1.0f, 0.0f), x);
}

static inline double log_f64(double x)
{
    double k, m = log_split_f64(x, &k);
    return log_edges_f64(log_core_f64(k, m - 1.0, 0.0), x);
}

/* log(1 + x): the logarithm of the rounded sum, and what rounding took from it. */
static inline float log1p_f32(float x)
{
    float sum = 1.0f + x, k, m = log_split_f32(sum, &k);
    float lost = x > 1.0f ? 1.0f - (sum - x) : x - (sum - 1.0f);
    float value = log_core_f32(k, m - 1.0f, lost / sum);
    return log_edges_f32(value, sum);
}

static inline double log1p_f64(double x)
{
    double sum = 1.0 + x, k, m = log_split_f64(sum, &k);
    double lost = x > 1.0 ? 1.0 - (sum - x) : x - (sum - 1.0);
    double value = log_core_f64(k, m - 1.0, lost / sum);
    return log_edges_f64(value, sum);
}

/* ---- sin, cos -------------------------------------------------------------------- */

/* sin(r) and cos(r) for |r| <= pi / 4 (Cephes), chosen and signed by the quadrant's two bits. */
static inline float sin_quadrant_f32(float r, uint32_t quadrant)
{
    float z = r * r;
    float sine = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * r + r;
    float cosine =
        ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) *
            (z * z) -
        0.5f * z + 1.0f;
    float value = quadrant & 1u ? cosine : sine;
    return from_bits_f32(bits_f32(value) ^ ((quadrant & 2u) << 30));
}

/* The same for r + tail (fdlibm's k_sin.c and k_cos.c). */
static inline double sin_quadrant_f64(double r, double tail, uint64_t quadrant)
{
    double z = r * r, v = z * r;
    double p = 8.33333333332248946124e-03 +
               z * (-1.98412698298579493134e-04 +
                    z * (2.75573137070700676789e-06 +
                         z * (-2.50507602534068634195e-08 + z * 1.58969099521155010221e-10)));
    double sine = r - ((z * (0.5 * tail - v * p) - tail) - v * -1.66666666666666324348e-01);
    double q =
        z * (4.16666666666666019037e-02 +
             z * (-1.38888888888741095749e-03 +
                  z * (2.48015872894767294178e-05 +
                       z * (-2.75573143513906633035e-07 +
                            z * (2.08757232129817482790e-09 + z * -1.13596475577881948265e-11)))));
    double half = 0.5 * z, w = 1.0 - half;
    double cosine = w + (((1.0 - w) - half) + (z * q - r * tail));
    double value = quadrant & 1u ? cosine : sine;
    return from_bits_f64(bits_f64(value) ^ ((quadrant & 2u) << 62));
}

/* x less the nearest multiple of pi / 2: f32 in doubles, f64 in parts whose first products are exact. */
static inline float sin_turned_f32(float x, uint32_t turn)
{
    float shifted = x * 0.636619772367581343f + ROUND_f32;
    double n = (double)(shifted - ROUND_f32);
    double r = ((double)x - n * 1.57079632673412561417e+00) - n * 6.07710050650619224932e-11;
    return sin_quadrant_f32((float)r, (bits_f32(shifted) + turn) & 3u);
}

static inline double sin_turned_f64(double x, uint64_t turn)
{
    double shifted = x * 6.36619772367581382433e-01 + ROUND_f64;
    double n = shifted - ROUND_f64;
    double r = x - n * 1.57079632673412561417e+00;
    double w = n * 6.07710050630396597660e-11, r1 = r - w;
    double lost = (r - r1) - w;
    w = n * 2.02226624871116645580e-21;
    double r2 = r1 - w;
    lost += ((r1 - r2) - w) - n * 8.47842766036889956997e-32;
    double near = r2 + lost;
    return sin_quadrant_f64(near, (r2 - near) + lost, (bits_f64(shifted) + turn) & 3u);
}

static inline float sin_f32(float x)
{
    return sin_turned_f32(x, 0);
}

static inline double sin_f64(double x)
{
    return sin_turned_f64(x, 0);
}

static inline float cos_f32(float x)
{
    return sin_turned_f32(x, 1);
}

static inline double cos_f64(double x)
{
    return sin_turned_f64(x, 1);
}

/* ---- tanh, sigmoid, softplus --------------------------------------------------------- */

static inline float tanh_f32(float x)
{
    float a = fabsf(x);
    float t = expm1_f32(2.0f * (a > 10.0f ? 10.0f : a));
    return with_sign_f32(t / (t + 2.0f), x);
}

static inline double tanh_f64(double x)
{
    double a = fabs(x);
    double t = expm1_f64(2.0 * (a > 22.0 ? 22.0 : a));
    return with_sign_f64(t / (t + 2.0), x);
}

static inline float sigmoid_f32(float x)
{
    return 1.0f / (1.0f + exp_f32(-x));
}

static inline double sigmoid_f64(double x)
{
    return 1.0 / (1.0 + exp_f64(-x));
}

static inline float softplus_f32(float x)
{
    return (x > 0.0f ? x : 0.0f) + log1p_f32(exp_f32(-fabsf(x)));
}

static inline double softplus_f64(double x)
{
    return (x > 0.0 ? x : 0.0) + log1p_f64(exp_f64(-fabs(x)));
}

/* ---- asin, acos ------------------------------------------------------------------------ */

/* (asin(s) - s) / s for z = s² <= 1/4; fdlibm's e_asinf.c and e_asin.c. */
static inline float asin_core_f32(float z)
{
    float p = z * (1.6666586697e-01f + z * (-4.2743422091e-02f + z * -8.6563630030e-03f));
    return p / (1.0f + z * -7.0662963390e-01f);
}

static inline double asin_core_f64(double z)
{
    double p =
        z * (1.66666666666666657415e-01 +
             z * (-3.25565818622400915405e-01 +
                  z * (2.01212532134862925881e-01 +
                       z * (-4.00555345006794114027e-02 +
                            z * (7.91534994289814532176e-04 + z * 3.47933107596021167570e-05)))));
    double q = 1.0 + z * (-2.40339491173441421878e+00 +
                          z * (2.02094576023350569471e+00 +
                               z * (-6.88283971605453293030e-01 + z * 7.70381505559019352791e-02)));
    return p / q;
}

/* asin(|x|) directly below 1/2, else the angle 2 · asin(sqrt((1 - |x|) / 2)) left to pi / 2. */
static inline float asin_parts_f32(float x, float *angle)
{
    float a = fabsf(x), z = a < 0.5f ? a * a : 0.5f * (1.0f - a);
    float s = a < 0.5f ? a : sqrtf(z);
    *angle = s + s * asin_core_f32(z);
    return a;
}

static inline double asin_parts_f64(double x, double *angle)
{
    double a = fabs(x), z = a < 0.5 ? a * a : 0.5 * (1.0 - a);
    double s = a < 0.5 ? a : sqrt(z);
    *angle = s + s * asin_core_f64(z);
    return a;
}

static inline float asin_f32(float x)
{
    float angle, a = asin_parts_f32(x, &angle);
    float far = 1.57079637050628662109375f - (2.0f * angle + 4.37113900018624283e-8f);
    return with_sign_f32(a < 0.5f ? angle : far, x);
}

static inline double asin_f64(double x)
{
    double angle, a = asin_parts_f64(x, &angle);
    double far = 1.57079632679489655800 - (2.0 * angle - 6.12323399573676603587e-17);
    return with_sign_f64(a < 0.5 ? angle : far, x);
}

static inline float acos_f32(float x)
{
    float angle, a = asin_parts_f32(x, &angle);
    float middle = 1.57079637050628662109375f - (with_sign_f32(angle, x) + 4.37113900018624283e-8f);
    float far = x < 0.0f ? 3.1415927410125732421875f - (2.0f * angle + 8.74227800037248566e-8f)
                         : 2.0f * angle;
    return a < 0.5f ? middle : far;
}

static inline double acos_f64(double x)
{
    double angle, a = asin_parts_f64(x, &angle);
    double middle = 1.57079632679489655800 - (with_sign_f64(angle, x) - 6.12323399573676603587e-17);
    double far =
        x < 0.0 ? 3.14159265358979311600 - (2.0 * angle - 1.22464679914735320717e-16) : 2.0 * angle;
    return a < 0.5 ? middle : far;
}

/* ---- pow ------------------------------------------------------------------------------- */

/* What a · b lost in rounding to `product`, exactly. */
static inline double product_error_f64(double a, double b, double product)
{
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return __builtin_fma(a, b, -product);
#else /* Veltkamp and Dekker 1971; there is no fused operation that could spoil it */
    double a_wide = a * 134217729.0, b_wide = b * 134217729.0;
    double a_high = a_wide - (a_wide - a), b_high = b_wide - (b_wide - b);
    double a_low = a - a_high, b_low = b - b_high;
    return ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low;
#endif
}

/* f - s · t, exactly, where that is small beside f. */
static inline double residue_f64(double f, double s, double t)
{
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return __builtin_fma(-s, t, f);
#else
    double product = s * t;
    return (f - product) - product_error_f64(s, t, product);
#endif
}

/* log(x) as a sum of two doubles, for positive finite x: the series 2 · (s + s³/3 + ...) in
 * s = f / (2 + f), of which s is kept with its rest. About 2^-60 of the larger term is lost. */
static inline double log_pair_f64(double x, double *low)
{
    double k, f = log_split_f64(x, &k) - 1.0;
    double t = 2.0 + f, t_low = f - (t - 2.0);
    double s = f / t, rest = (residue_f64(f, s, t) - s * t_low) / t;
    double z = s * s, w = z * z;
    double odd = w * (3.999999999940941908e-01 +
                      w * (2.222219843214978396e-01 + w * 1.531383769920937332e-01));
    double even = z * (6.666666666666735130e-01 +
                       w * (2.857142874366239149e-01 +
                            w * (1.818357216161805012e-01 + w * 1.479819860511658591e-01)));
    double large = k * 6.93147180369123816490e-01, twice = 2.0 * s;
    double high = large + twice;
    double swap = fabs(large) < fabs(twice) ? 1.0 : 0.0;
    double first = swap != 0.0 ? twice : large, second = swap != 0.0 ? large : twice;
    double more = (second - (high - first)) +
                  (2.0 * rest + s * (odd + even) + k * 1.90821492927058770002e-10);
    double sum = high + more;
    *low = more - (sum - high);
    return sum;
}

/* How far finite x >= 0 is from a whole number; 0 where all are whole. */
static inline float fraction_f32(float x)
{
    float small = x < 0x1p23f ? 1.0f : 0.0f;
    return (x - ((x + 0x1p23f) - 0x1p23f)) * small;
}

static inline double fraction_f64(double x)
{
    double small = x < 0x1p52 ? 1.0 : 0.0;
    return (x - ((x + 0x1p52) - 0x1p52)) * small;
}

/* |x|^y = `magnitude` with its sign, and the cases that libm defines otherwise. Conditions are
 * products of 0 and 1, because compilers turn && into jumps. */
static inline float pow_edges_f32(float magnitude, float x, float y)
{
    float a = fabsf(x), growing = y > 0.0f ? 1.0f : 0.0f;
    float whole = fraction_f32(fabsf(y)) == 0.0f ? 1.0f : 0.0f;
    float odd = whole * (fraction_f32(0.5f * fabsf(y)) != 0.0f ? 1.0f : 0.0f);
    float finite = (a < INFINITY ? 1.0f : 0.0f) * (fabsf(y) < INFINITY ? 1.0f : 0.0f);
    float undefined = (1.0f - whole) * (x < 0.0f ? 1.0f : 0.0f) * finite;
    float value = a == 1.0f ? 1.0f : magnitude;
    value = a == 0.0f ? (growing != 0.0f ? 0.0f : INFINITY) : value;
    value = a == INFINITY ? (growing != 0.0f ? INFINITY : 0.0f) : value;
    value *= odd != 0.0f ? with_sign_f32(1.0f, x) : 1.0f;
    value = undefined != 0.0f ? NAN : value;
    value = x != x ? x : value;
    value = y != y ? y : value;
    value = x == 1.0f ? 1.0f : value;
    return y == 0.0f ? 1.0f : value;
}

static inline double pow_edges_f64(double magnitude, double x, double y)
{
    double a = fabs(x), growing = y > 0.0 ? 1.0 : 0.0;
    double whole = fraction_f64(fabs(y)) == 0.0 ? 1.0 : 0.0;
    double odd = whole * (fraction_f64(0.5 * fabs(y)) != 0.0 ? 1.0 : 0.0);
    double finite = (a < (double)INFINITY ? 1.0 : 0.0) * (fabs(y) < (double)INFINITY ? 1.0 : 0.0);
    double undefined = (1.0 - whole) * (x < 0.0 ? 1.0 : 0.0) * finite;
    double value = a == 1.0 ? 1.0 : magnitude;
    value = a == 0.0 ? (growing != 0.0 ? 0.0 : (double)INFINITY) : value;
    value = a == (double)INFINITY ? (growing != 0.0 ? (double)INFINITY : 0.0) : value;
    value *= odd != 0.0 ? with_sign_f64(1.0, x) : 1.0;
    value = undefined != 0.0 ? (double)NAN : value;
    value = x != x ? x : value;
    value = y != y ? y : value;
    value = x == 1.0 ? 1.0 : value;
    return y == 0.0 ? 1.0 : value;
}

/* y · log|x| in double, by the series in s = f / (2 + f) up to 2^-40; exp of it in single. */
static inline float pow_f32(float x, float y)
{
    float k, m = log_split_f32(fabsf(x), &k);
    double f = (double)m - 1.0, s = f / (2.0 + f), z = s * s;
    double p = 2.0 / 15.0;
    p = p * z + 2.0 / 13.0;
    p = p * z + 2.0 / 11.0;
    p = p * z + 2.0 / 9.0;
    p = p * z + 2.0 / 7.0;
    p = p * z + 2.0 / 5.0;
    p = p * z + 2.0 / 3.0;
    p = p * z + 2.0;
    double power = (double)y * (s * p + (double)k * 6.93147180559945286227e-01);
    power = power < -104.0 ? -104.0 : power;
    power = power > 89.0 ? 89.0 : power;
    double n = (power * 1.44269504088896338700 + ROUND_f64) - ROUND_f64;
    float r = (float)(power - n * 6.93147180559945286227e-01);
    return pow_edges_f32(scale_f32(1.0f + expm1_core_f32(r), (float)n), x, y);
}

static inline double pow_f64(double x, double y)
{
    double low, high = log_pair_f64(fabs(x), &low);
    double limited = fabs(y) > 1e300 ? with_sign_f64(1e300, y) : y; /* no inf - inf below */
    double product = limited * high;
    double tail = product_error_f64(limited, high, product) + limited * low;
    tail = fabs(product) < 800.0 ? tail : 0.0;
    return pow_edges_f64(exp_tail_f64(product, tail), x, y);
}

#endif
