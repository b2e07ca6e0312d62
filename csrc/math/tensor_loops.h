/* tensor_loops.h: the loops of tensor_kernels.h for one type and one instruction set.
 *
 * The including file defines REAL (float or double), TYPE (f32 or f64, the suffix of the lanes),
 * VECTOR_BYTES and TILE_ROWS. No guard: it is included once a type.
 */

#define JOIN_(name, type) name##_##type
#define JOIN(name, type) JOIN_(name, type)
#define OWN(name) JOIN(name, TYPE)             /* this type's */
#define LANE(name, ...) OWN(name)(__VA_ARGS__) /* tensor_lanes.h */

/* ---- unary -------------------------------------------------------------------- */

#define UNARY(name, expression)                                        \
    static void OWN(name##_loop)(void *out_, const void *x_, size_t n) \
    {                                                                  \
        REAL *out = out_;                                              \
        const REAL *in = x_;                                           \
        _Pragma("omp simd") for (size_t i = 0; i < n; i++)             \
        {                                                              \
            REAL x = in[i];                                            \
            out[i] = expression;                                       \
        }                                                              \
    }

UNARY(neg, -x)
UNARY(abs, OWN(magnitude)(x))
UNARY(sign, x > 0 ? (REAL)1 : x < 0 ? (REAL)-1 : x * 0)
UNARY(exp, LANE(exp, x))
UNARY(expm1, LANE(expm1, x))
UNARY(log, LANE(log, x))
UNARY(log1p, LANE(log1p, x))
UNARY(sqrt, OWN(root)(x))
UNARY(asin, LANE(asin, x))
UNARY(acos, LANE(acos, x))
UNARY(tanh, LANE(tanh, x))
UNARY(sigmoid, LANE(sigmoid, x))
UNARY(relu, x <= 0 ? (REAL)0 : x)
UNARY(softplus, LANE(softplus, x))
UNARY(near_sin, LANE(sin, x))
UNARY(near_cos, LANE(cos, x))

/* Whether the lanes' sin and cos hold for all values. */
static bool OWN(all_near)(const REAL *x, size_t n)
{
    REAL beyond = 0;
#pragma omp simd reduction(+ : beyond)
    for (size_t i = 0; i < n; i++)
        beyond += OWN(magnitude)(x[i]) > OWN(SIN_LIMIT) ? (REAL)1 : (REAL)0;
    return beyond == 0;
}

/* Blocks in which a value is too large for the lanes are libm's. */
#define TURNING(name)                                                     \
    static void OWN(name##_loop)(void *out_, const void *x_, size_t n)    \
    {                                                                     \
        REAL *out = out_;                                                 \
        const REAL *x = x_;                                               \
        for (size_t i = 0; i < n; i += TURNING_BLOCK) {                   \
            size_t count = n - i < TURNING_BLOCK ? n - i : TURNING_BLOCK; \
            if (OWN(all_near)(x + i, count))                              \
                OWN(near_##name##_loop)(out + i, x + i, count);           \
            else                                                          \
                for (size_t j = i; j < i + count; j++)                    \
                    out[j] = (REAL)name((double)x[j]);                    \
        }                                                                 \
    }

TURNING(sin)
TURNING(cos)

#define SLOPE(name, expression)                                                               \
    static void OWN(name##_slope)(void *dx_, const void *dy_, const void *x_, const void *y_, \
                                  size_t n)                                                   \
    {                                                                                         \
        REAL *dx = dx_;                                                                       \
        const REAL *dy_in = dy_, *x_in = x_, *y_in = y_;                                      \
        _Pragma("omp simd") for (size_t i = 0; i < n; i++)                                    \
        {                                                                                     \
            REAL dy = dy_in[i], x = x_in[i], y = y_in[i];                                     \
            (void)x, (void)y;                                                                 \
            dx[i] = expression;                                                               \
        }                                                                                     \
    }

SLOPE(neg, -dy)
SLOPE(abs, dy *(x > 0 ? (REAL)1 : x < 0 ? (REAL)-1 : (REAL)0))
SLOPE(sign, dy *(REAL)0)
SLOPE(exp, dy *y)
SLOPE(expm1, dy *(y + 1))
SLOPE(log, dy / x)
SLOPE(log1p, dy / (1 + x))
SLOPE(sqrt, dy *(REAL)0.5 / y)
SLOPE(asin, dy / OWN(root)((1 - x) * (1 + x)))
SLOPE(acos, -dy / OWN(root)((1 - x) * (1 + x)))
SLOPE(tanh, dy *((1 - y) * (1 + y)))
SLOPE(sigmoid, dy *(y *(1 - y)))
SLOPE(relu, x > 0 ? dy : (REAL)0)
SLOPE(softplus, dy *LANE(sigmoid, x))

/* The other function, times dy. */
#define TURNING_SLOPE(name, other, sign)                                                    \
    static void OWN(name##_slope)(void *dx_, const void *dy_, const void *x, const void *y, \
                                  size_t n)                                                 \
    {                                                                                       \
        REAL *dx = dx_;                                                                     \
        const REAL *dy = dy_;                                                               \
        (void)y;                                                                            \
        OWN(other##_loop)(dx, x, n);                                                        \
        _Pragma("omp simd") for (size_t i = 0; i < n; i++) dx[i] = sign dy[i] * dx[i];      \
    }

TURNING_SLOPE(sin, cos, +)
TURNING_SLOPE(cos, sin, -)

/* ---- binary --------------------------------------------------------------------- */

#define BINARY(name, expression)                                                            \
    static void OWN(name##_loop)(void *out_, const void *a_, size_t a_step, const void *b_, \
                                 size_t b_step, size_t n)                                   \
    {                                                                                       \
        REAL *out = out_;                                                                   \
        const REAL *a_in = a_, *b_in = b_;                                                  \
        if (a_step && b_step) {                                                             \
            _Pragma("omp simd") for (size_t i = 0; i < n; i++)                              \
            {                                                                               \
                REAL a = a_in[i], b = b_in[i];                                              \
                out[i] = expression;                                                        \
            }                                                                               \
        } else if (a_step) {                                                                \
            REAL b = *b_in;                                                                 \
            _Pragma("omp simd") for (size_t i = 0; i < n; i++)                              \
            {                                                                               \
                REAL a = a_in[i];                                                           \
                out[i] = expression;                                                        \
            }                                                                               \
        } else {                                                                            \
            REAL a = *a_in;                                                                 \
            size_t different = b_step ? n : 1;                                              \
            _Pragma("omp simd") for (size_t i = 0; i < different; i++)                      \
            {                                                                               \
                REAL b = b_in[i];                                                           \
                out[i] = expression;                                                        \
            }                                                                               \
            for (size_t i = different; i < n; i++)                                          \
                out[i] = out[0];                                                            \
        }                                                                                   \
    }

BINARY(add, a + b)
BINARY(sub, a - b)
BINARY(mul, a *b)
BINARY(div, a / b)
BINARY(maximum, a > b || a != a ? a : b)
BINARY(minimum, a < b || a != a ? a : b)
BINARY(eq, a == b ? (REAL)1 : (REAL)0)
BINARY(ne, a != b ? (REAL)1 : (REAL)0)
BINARY(lt, a < b ? (REAL)1 : (REAL)0)
BINARY(le, a <= b ? (REAL)1 : (REAL)0)
BINARY(gt, a > b ? (REAL)1 : (REAL)0)
BINARY(ge, a >= b ? (REAL)1 : (REAL)0)

/* Long expressions: one loop, for which a single value is written out. */
#define LONG_BINARY(name, expression)                                                        \
    static void OWN(name##_block)(REAL * out, const REAL *a_in, const REAL *b_in, size_t n)  \
    {                                                                                        \
        _Pragma("omp simd") for (size_t i = 0; i < n; i++)                                   \
        {                                                                                    \
            REAL a = a_in[i], b = b_in[i];                                                   \
            out[i] = expression;                                                             \
        }                                                                                    \
    }                                                                                        \
    static void OWN(name##_loop)(void *out, const void *a, size_t a_step, const void *b,     \
                                 size_t b_step, size_t n)                                    \
    {                                                                                        \
        REAL left[BINARY_BLOCK], right[BINARY_BLOCK];                                        \
        for (size_t j = 0; j < BINARY_BLOCK; j++) {                                          \
            left[j] = *(const REAL *)a;                                                      \
            right[j] = *(const REAL *)b;                                                     \
        }                                                                                    \
        for (size_t i = 0; i < n; i += BINARY_BLOCK)                                         \
            OWN(name##_block)                                                                \
        ((REAL *)out + i, a_step ? (const REAL *)a + i : left,                               \
         b_step ? (const REAL *)b + i : right, n - i < BINARY_BLOCK ? n - i : BINARY_BLOCK); \
    }

LONG_BINARY(any_pow, LANE(pow, a, b))
LONG_BINARY(any_pow_base_slope, OWN(unless_flat)(b *LANE(pow, a, b - 1), b == 0, a == a))
LONG_BINARY(pow_exponent_slope, OWN(unless_flat)(LANE(pow, a, b) * LANE(log, a), a == 0, b >= 0))

/* The exponents that people write are arithmetic. */
static void OWN(pow_loop)(void *out, const void *a, size_t a_step, const void *b, size_t b_step,
                          size_t n)
{
    static const REAL one = 1;
    REAL exponent = b_step ? 0 : *(const REAL *)b;
    if (exponent == 2)
        OWN(mul_loop)(out, a, a_step, a, a_step, n);
    else if (exponent == 1)
        OWN(mul_loop)(out, a, a_step, &one, 0, n);
    else if (exponent == -1)
        OWN(div_loop)(out, &one, 0, a, a_step, n);
    else
        OWN(any_pow_loop)(out, a, a_step, b, b_step, n);
}

static void OWN(pow_base_slope_loop)(void *out, const void *a, size_t a_step, const void *b,
                                     size_t b_step, size_t n)
{
    REAL exponent = b_step ? 0 : *(const REAL *)b;
    if (exponent == 2)
        OWN(mul_loop)(out, a, a_step, b, 0, n);
    else
        OWN(any_pow_base_slope_loop)(out, a, a_step, b, b_step, n);
}

/* ---- where, clamp, in place --------------------------------------------------------- */

static void OWN(where_loop)(void *out_, const void *condition_, const void *a_, const void *b_,
                            size_t n)
{
    REAL *out = out_;
    const REAL *condition = condition_, *a = a_, *b = b_;
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        out[i] = condition[i] != 0 ? a[i] : b[i];
}

static void OWN(clamp_loop)(void *out_, const void *x_, double low_, double high_, size_t n)
{
    REAL *out = out_, low = (REAL)low_, high = (REAL)high_;
    const REAL *x = x_;
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        REAL raised = x[i] < low ? low : x[i];
        out[i] = raised > high ? high : raised;
    }
}

static void OWN(clamp_slope)(void *dx_, const void *dy_, const void *x_, double low_, double high_,
                             size_t n)
{
    REAL *dx = dx_, low = (REAL)low_, high = (REAL)high_;
    const REAL *dy = dy_, *x = x_;
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        dx[i] = x[i] < low || x[i] > high ? (REAL)0 : dy[i];
}

static void OWN(fill_loop)(void *out_, double value, size_t n)
{
    REAL *out = out_;
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        out[i] = (REAL)value;
}

static void OWN(add_scaled_loop)(void *y_, const void *x_, double factor_, size_t n)
{
    REAL *y = y_, factor = (REAL)factor_;
    const REAL *x = x_;
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        y[i] += factor * x[i];
}

static void OWN(scale_loop)(void *x_, double factor, size_t n)
{
    REAL *x = x_;
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        x[i] *= (REAL)factor;
}

static void OWN(from_f32)(void *out_, const void *x_, size_t n)
{
    REAL *out = out_;
    const float *x = x_;
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        out[i] = (REAL)x[i];
}

static void OWN(from_f64)(void *out_, const void *x_, size_t n)
{
    REAL *out = out_;
    const double *x = x_;
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        out[i] = (REAL)x[i];
}

/* ---- folds of a line ------------------------------------------------------------------ */

/* Three sums side by side, so that one need not wait for the other, over a block that is short
 * enough for rounding not to matter; then the blocks in pairs (Higham 1993). */
#define SUM(name, term)                                                                         \
    static double OWN(name##_block)(const REAL *in, size_t n)                                   \
    {                                                                                           \
        double a = 0, b = 0, c = 0;                                                             \
        size_t third = n / 3;                                                                   \
        _Pragma("omp simd reduction(+ : a, b, c)") for (size_t i = 0; i < third; i++)           \
        {                                                                                       \
            double x = (double)in[i], y = (double)in[third + i], z = (double)in[2 * third + i]; \
            a += term(x), b += term(y), c += term(z);                                           \
        }                                                                                       \
        for (size_t i = 3 * third; i < n; i++)                                                  \
            a += term((double)in[i]);                                                           \
        return (a + b) + c;                                                                     \
    }                                                                                           \
    static double OWN(name##_fold)(const void *x_, size_t n)                                    \
    {                                                                                           \
        const REAL *x = x_;                                                                     \
        if (n <= SUM_BLOCK)                                                                     \
            return OWN(name##_block)(x, n);                                                     \
        size_t left = (n / 2 + SUM_BLOCK - 1) / SUM_BLOCK * SUM_BLOCK;                          \
        return OWN(name##_fold)(x, left) + OWN(name##_fold)(x + left, n - left);                \
    }

SUM(sum, TERM_VALUE)
SUM(abs, TERM_ABS)
SUM(squares, TERM_SQUARE)

static double OWN(prod_fold)(const void *x_, size_t n)
{
    const REAL *x = x_;
    double a = 1, b = 1;
    size_t half = n / 2;
#pragma omp simd reduction(* : a, b)
    for (size_t i = 0; i < half; i++) {
        a *= (double)x[i];
        b *= (double)x[half + i];
    }
    return n % 2 ? a * b * (double)x[n - 1] : a * b;
}

/* The first place of NaN, or n. */
static size_t OWN(find_nan)(const REAL *x, size_t n)
{
    size_t i = 0;
    while (i < n && x[i] == x[i])
        i++;
    return i;
}

/* NaN compares with nothing, but a sum times 0 differs from 0 only where NaN, infinities or an
 * overflow went into it: then it is looked for. */
#define EXTREME(name, operator, start, pragma)                                \
    static double OWN(name##_fold)(const void *x_, size_t n)                  \
    {                                                                         \
        const REAL *x = x_;                                                   \
        REAL a = start, b = start, c = start, d = start, odd = 0;             \
        size_t q = n / 4;                                                     \
        _Pragma(pragma) for (size_t i = 0; i < q; i++)                        \
        {                                                                     \
            REAL s = x[i], t = x[q + i], u = x[2 * q + i], v = x[3 * q + i];  \
            a = s operator a ? s : a;                                         \
            b = t operator b ? t : b;                                         \
            c = u operator c ? u : c;                                         \
            d = v operator d ? v : d;                                         \
            odd += ((s + t) + (u + v)) * 0;                                   \
        }                                                                     \
        a = b operator a ? b : a;                                             \
        c = d operator c ? d : c;                                             \
        a = c operator a ? c : a;                                             \
        for (size_t i = 4 * q; i < n; i++) {                                  \
            a = x[i] operator a ? x[i] : a;                                   \
            odd += x[i] * 0;                                                  \
        }                                                                     \
        return odd != 0 && OWN(find_nan)(x, n) < n ? (double)NAN : (double)a; \
    }

EXTREME(max, >, (REAL)-INFINITY, "omp simd reduction(max : a, b, c, d) reduction(+ : odd)")
EXTREME(min, <, (REAL)INFINITY, "omp simd reduction(min : a, b, c, d) reduction(+ : odd)")

/* ---- folds of columns --------------------------------------------------------------------- */

/* Eight rows at a time: the held values are read and written once for them. */
#define FOLD_ROWS(name, term, operator)                                                           \
    static inline double OWN(name##_four)(const REAL *x, size_t stride, size_t j)                 \
    {                                                                                             \
        double p = (double)x[j], q = (double)x[stride + j];                                       \
        double r = (double)x[2 * stride + j], s = (double)x[3 * stride + j];                      \
        return (term(p) operator term(q)) operator(term(r) operator term(s));                     \
    }                                                                                             \
    static void OWN(name##_rows)(double *held, const void *x_, size_t rows, size_t stride,        \
                                 size_t n)                                                        \
    {                                                                                             \
        const REAL *x = x_;                                                                       \
        for (; rows >= 8; rows -= 8, x += 8 * stride)                                             \
            _Pragma("omp simd") for (size_t j = 0; j < n; j++) held[j] = held[j] operator(OWN(    \
                name##_four)(x, stride, j) operator OWN(name##_four)(x + 4 * stride, stride, j)); \
        for (; rows > 0; rows--, x += stride)                                                     \
            _Pragma("omp simd") for (size_t j = 0; j < n; j++)                                    \
            {                                                                                     \
                double p = (double)x[j];                                                          \
                held[j] = held[j] operator term(p);                                               \
            }                                                                                     \
    }

FOLD_ROWS(sum, TERM_VALUE, +)
FOLD_ROWS(abs, TERM_ABS, +)
FOLD_ROWS(squares, TERM_SQUARE, +)
FOLD_ROWS(prod, TERM_VALUE, *)

/* Extremes need no double; NaN in a row stays. */
#define EXTREME_ROWS(name, operator)                                                        \
    static inline REAL OWN(name##_of)(REAL x, REAL held)                                    \
    {                                                                                       \
        REAL chosen = x operator held ? x : held;                                           \
        return x != x ? x : chosen;                                                         \
    }                                                                                       \
    static void OWN(name##_rows)(double *held_, const void *x_, size_t rows, size_t stride, \
                                 size_t n)                                                  \
    {                                                                                       \
        for (size_t first = 0; first < n; first += EXTREME_BLOCK) {                         \
            REAL held[EXTREME_BLOCK];                                                       \
            const REAL *x = (const REAL *)x_ + first;                                       \
            size_t row = 0, count = n - first < EXTREME_BLOCK ? n - first : EXTREME_BLOCK;  \
            OWN(from_f64)(held, held_ + first, count);                                      \
            for (; row + 2 <= rows; row += 2, x += 2 * stride)                              \
                _Pragma("omp simd") for (size_t j = 0; j < count; j++) held[j] =            \
                    OWN(name##_of)(x[stride + j], OWN(name##_of)(x[j], held[j]));           \
            for (; row < rows; row++, x += stride)                                          \
                _Pragma("omp simd") for (size_t j = 0; j < count; j++) held[j] =            \
                    OWN(name##_of)(x[j], held[j]);                                          \
            _Pragma("omp simd") for (size_t j = 0; j < count; j++) held_[first + j] =       \
                (double)held[j];                                                            \
        }                                                                                   \
    }

EXTREME_ROWS(max, >)
EXTREME_ROWS(min, <)

/* ---- places ---------------------------------------------------------------------------------- */

/* Blocks without it are passed over by comparing all their values at once. */
static size_t OWN(find_in)(const void *x_, double value_, size_t n)
{
    const REAL *x = x_, value = (REAL)value_;
    if (value != value)
        return OWN(find_nan)(x, n);
    for (size_t start = 0; start < n; start += FIND_BLOCK) {
        size_t end = n - start < FIND_BLOCK ? n : start + FIND_BLOCK;
        REAL hits = 0;
#pragma omp simd reduction(+ : hits)
        for (size_t i = start; i < end; i++)
            hits += x[i] == value ? (REAL)1 : (REAL)0;
        for (size_t i = start; i < end && hits != 0; i++)
            if (x[i] == value)
                return i;
    }
    return n;
}

/* From the last row to the first, so that the first has the last word. */
static void OWN(find_in_rows)(double *at_, const double *value_, const void *x_, size_t rows,
                              size_t stride, size_t n, double first)
{
    for (size_t row = rows; row-- > 0;) {
        const REAL *in = (const REAL *)x_ + row * stride;
        double here = first + (double)row;
#pragma omp simd
        for (size_t j = 0; j < n; j++) {
            double x = (double)in[j], value = value_[j], at = at_[j];
            at_[j] = x == value || (x != x && value != value) ? here : at;
        }
    }
}

/* ---- softmax ------------------------------------------------------------------------------------ */

static double OWN(exp_shifted_loop)(void *out_, const void *x_, double shift_, size_t n)
{
    REAL *out = out_, shift = (REAL)shift_;
    const REAL *x = x_;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++) {
        REAL value = LANE(exp, x[i] - shift);
        out[i] = value;
        sum += (double)value;
    }
    return sum;
}

static double OWN(exp_shifted_sum_loop)(const void *x_, double shift_, size_t n)
{
    REAL shift = (REAL)shift_;
    const REAL *x = x_;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++)
        sum += (double)LANE(exp, x[i] - shift);
    return sum;
}

/* The difference is rounded once: log-probabilities near 0 come from large values. */
static void OWN(shift_loop)(void *out_, const void *x_, double by, size_t n)
{
    REAL *out = out_;
    const REAL *x = x_;
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        out[i] = (REAL)((double)x[i] - by);
}

static double OWN(dot_loop)(const void *a_, const void *b_, size_t n)
{
    const REAL *a = a_, *b = b_;
    double left = 0, right = 0;
    size_t half = n / 2;
#pragma omp simd reduction(+ : left, right)
    for (size_t i = 0; i < half; i++) {
        left += (double)a[i] * (double)b[i];
        right += (double)a[half + i] * (double)b[half + i];
    }
    return left + right + (n % 2 ? (double)a[n - 1] * (double)b[n - 1] : 0);
}

static void OWN(softmax_slope_loop)(void *dx_, const void *dy_, const void *y_, double dot,
                                    size_t n)
{
    REAL *dx = dx_;
    const REAL *dy = dy_, *y = y_;
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        dx[i] = y[i] * (dy[i] - (REAL)dot);
}

static void OWN(log_softmax_slope_loop)(void *dx_, const void *dy_, const void *y_, double sum,
                                        size_t n)
{
    REAL *dx = dx_;
    const REAL *dy = dy_, *y = y_;
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        dx[i] = dy[i] - (REAL)sum * LANE(exp, y[i]);
}

/* A line of nothing but -inf has no slope, where e^(x - y) would be NaN. */
static void OWN(logsumexp_slope_loop)(void *dx_, double dy, const void *x_, double y_, size_t n)
{
    REAL *dx = dx_, y = y_ == -(double)INFINITY ? (REAL)0 : (REAL)y_;
    const REAL *x = x_;
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        dx[i] = (REAL)dy * LANE(exp, x[i] - y);
}

/* ---- products of matrices --------------------------------------------------------------------------- */

typedef REAL OWN(vector) __attribute__((vector_size(VECTOR_BYTES)));
typedef REAL OWN(loose_vector) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL))));

#define LANES (VECTOR_BYTES / sizeof(REAL))

/* All sums of the tile stay in registers (Goto and van de Geijn 2008). */
static void OWN(tile_loop)(void *c_, size_t ldc, const void *const *rows, ptrdiff_t step,
                           const void *panel_, size_t depth)
{
    OWN(vector) sum[TILE_ROWS][2];
    const REAL *row[TILE_ROWS], *panel = panel_;
#pragma GCC unroll 16
    for (int i = 0; i < TILE_ROWS; i++) {
        row[i] = rows[i];
        sum[i][0] = sum[i][1] = (OWN(vector)){0};
    }
    for (size_t k = 0; k < depth; k++, panel += 2 * LANES) {
        OWN(vector) b0 = *(const OWN(vector) *)(const void *)panel;
        OWN(vector) b1 = *(const OWN(vector) *)(const void *)(panel + LANES);
#pragma GCC unroll 16
        for (int i = 0; i < TILE_ROWS; i++) {
            REAL a = row[i][(ptrdiff_t)k * step];
            sum[i][0] += a * b0;
            sum[i][1] += a * b1;
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < TILE_ROWS; i++) {
        REAL *to = (REAL *)c_ + (size_t)i * ldc;
        *(OWN(loose_vector) *)(void *)to = sum[i][0];
        *(OWN(loose_vector) *)(void *)(to + LANES) = sum[i][1];
    }
}

/* ---- the table ----------------------------------------------------------------------------------------- */

#define UNARY_ENTRY(id, name) [id] = OWN(name##_loop)
#define SLOPE_ENTRY(id, name) [id] = OWN(name##_slope)
#define BINARY_ENTRY(id, name) [id] = OWN(name##_loop)
#define FOLD_ENTRY(id, name) [id] = OWN(name##_fold)
#define ROWS_ENTRY(id, name) [id] = OWN(name##_rows)
#define FOR_UNARY(entry)                                                                          \
    entry(CR_NEG, neg), entry(CR_ABS, abs), entry(CR_SIGN, sign), entry(CR_EXP, exp),             \
        entry(CR_EXPM1, expm1), entry(CR_LOG, log), entry(CR_LOG1P, log1p), entry(CR_SQRT, sqrt), \
        entry(CR_SIN, sin), entry(CR_COS, cos), entry(CR_ASIN, asin), entry(CR_ACOS, acos),       \
        entry(CR_TANH, tanh), entry(CR_SIGMOID, sigmoid), entry(CR_RELU, relu),                   \
        entry(CR_SOFTPLUS, softplus)
#define FOR_BINARY(entry)                                                                         \
    entry(CR_ADD, add), entry(CR_SUB, sub), entry(CR_MUL, mul), entry(CR_DIV, div),               \
        entry(CR_POW, pow), entry(CR_MAXIMUM, maximum), entry(CR_MINIMUM, minimum),               \
        entry(CR_EQ, eq), entry(CR_NE, ne), entry(CR_LT, lt), entry(CR_LE, le), entry(CR_GT, gt), \
        entry(CR_GE, ge), entry(CR_POW_BASE_SLOPE, pow_base_slope),                               \
        entry(CR_POW_EXPONENT_SLOPE, pow_exponent_slope)
#define FOR_FOLD(entry)                                                                \
    entry(CR_FOLD_SUM, sum), entry(CR_FOLD_ABS, abs), entry(CR_FOLD_SQUARES, squares), \
        entry(CR_FOLD_PROD, prod), entry(CR_FOLD_MAX, max), entry(CR_FOLD_MIN, min)

static const cr_tensor_kernels OWN(table) = {
    .unary = {FOR_UNARY(UNARY_ENTRY)},
    .unary_slope = {FOR_UNARY(SLOPE_ENTRY)},
    .binary = {FOR_BINARY(BINARY_ENTRY)},
    .where = OWN(where_loop),
    .clamp = OWN(clamp_loop),
    .clamp_slope = OWN(clamp_slope),
    .fill = OWN(fill_loop),
    .add_scaled = OWN(add_scaled_loop),
    .scale = OWN(scale_loop),
    .convert = {OWN(from_f32), OWN(from_f64)},
    .fold = {FOR_FOLD(FOLD_ENTRY)},
    .fold_rows = {FOR_FOLD(ROWS_ENTRY)},
    .find = OWN(find_in),
    .find_rows = OWN(find_in_rows),
    .exp_shifted = OWN(exp_shifted_loop),
    .exp_shifted_sum = OWN(exp_shifted_sum_loop),
    .shift = OWN(shift_loop),
    .dot = OWN(dot_loop),
    .softmax_slope = OWN(softmax_slope_loop),
    .log_softmax_slope = OWN(log_softmax_slope_loop),
    .logsumexp_slope = OWN(logsumexp_slope_loop),
    .tile = OWN(tile_loop),
    .tile_rows = TILE_ROWS,
    .tile_columns = 2 * LANES,
};
