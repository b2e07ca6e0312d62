/* singular.c: Householder triangles, then one-sided Jacobi rotations; Golub and Van Loan, "Matrix
 * Computations", sections 5.2.2 and 8.6.3; Hestenes 1958. Small values keep their leading digits. */
#include "math/singular.h"

#include <math.h>
#include <string.h>

#define MOST_SWEEPS 60 /* ten suffice in practice */

/* Matrices here are column-major doubles: element (i, j) of one with m rows is a[i + j · m]. */

static double dot(const double *a, const double *b, size_t count)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < count; i++)
        sum += a[i] * b[i];
    return sum;
}

/* Turns v into the vector whose reflection maps it to a multiple of the first axis; returns that multiple. */
static double reflector(double *v, size_t count)
{
    double norm = sqrt(dot(v, v, count));
    double image = v[0] > 0 ? -norm : norm;
    v[0] -= image;
    return image;
}

/* x -= 2 v (v · x) / (v · v) */
static void reflect(double *x, const double *v, double v_squared, size_t count)
{
    double factor = 2 * dot(v, x, count) / v_squared;
    for (size_t i = 0; i < count; i++)
        x[i] -= factor * v[i];
}

/* a [m, r] becomes its triangle in the first min(m, r) rows; below is work space. */
static void triangle(double *a, size_t m, size_t r)
{
    size_t steps = m < r ? m : r;
    for (size_t j = 0; j < steps; j++) {
        double *v = a + j + j * m;
        size_t rest = m - j;
        double image = reflector(v, rest);
        double v_squared = dot(v, v, rest);
        for (size_t column = j + 1; column < r && v_squared > 0; column++)
            reflect(a + j + column * m, v, v_squared, rest);
        memset(v, 0, rest * sizeof *v);
        v[0] = image;
    }
}

/* out [rows, columns] = left · rightᵀ of the triangles' first rows; left [m, r], right [n, r]. */
static void join(double *out, size_t rows, size_t columns, const double *left, size_t m,
                 const double *right, size_t n, size_t r)
{
    for (size_t j = 0; j < columns; j++)
        for (size_t i = 0; i < rows; i++) {
            double sum = 0;
            for (size_t k = 0; k < r; k++)
                sum += left[i + k * m] * right[j + k * n];
            out[i + j * rows] = sum;
        }
}

/* Makes two columns orthogonal; false when they were. */
static bool rotate(double *a, double *b, size_t count)
{
    double aa = dot(a, a, count), bb = dot(b, b, count), ab = dot(a, b, count);
    if (fabs(ab) <= 1e-15 * sqrt(aa) * sqrt(bb))
        return false;
    double zeta = (bb - aa) / (2 * ab);
    double tangent = copysign(1.0, zeta) / (fabs(zeta) + hypot(1.0, zeta));
    double cosine = 1 / hypot(1.0, tangent), sine = cosine * tangent;
    for (size_t i = 0; i < count; i++) {
        double x = a[i], y = b[i];
        a[i] = cosine * x - sine * y;
        b[i] = sine * x + cosine * y;
    }
    return true;
}

static void rotate_all(double *a, size_t rows, size_t columns)
{
    bool turned = true;
    for (int sweep = 0; turned && sweep < MOST_SWEEPS; sweep++) {
        turned = false;
        for (size_t p = 0; p + 1 < columns; p++)
            for (size_t q = p + 1; q < columns; q++)
                turned |= rotate(a + p * rows, a + q * rows, rows);
    }
}

static void give_lengths(double *out, const double *a, size_t rows, size_t columns)
{
    for (size_t j = 0; j < columns; j++) {
        double length = sqrt(dot(a + j * rows, a + j * rows, rows));
        size_t place = j;
        for (; place > 0 && out[place - 1] < length; place--)
            out[place] = out[place - 1];
        out[place] = length;
    }
}

static size_t lesser(size_t a, size_t b)
{
    return a < b ? a : b;
}

static void solve(double *out, double *left, size_t m, double *right, size_t n, size_t r,
                  double *product)
{
    triangle(left, m, r);
    triangle(right, n, r);
    size_t rows = lesser(m, r), columns = lesser(n, r);
    /* The transpose has the same values; rotating the fewer columns is less work. */
    if (rows < columns) {
        join(product, columns, rows, right, n, left, m, r);
        rotate_all(product, columns, rows);
        give_lengths(out, product, columns, rows);
    } else {
        join(product, rows, columns, left, m, right, n, r);
        rotate_all(product, rows, columns);
        give_lengths(out, product, rows, columns);
    }
}

static void copy_columns(double *out, const float *left, size_t m, size_t r)
{
    for (size_t i = 0; i < m; i++)
        for (size_t k = 0; k < r; k++)
            out[i + k * m] = (double)left[i * r + k];
}

int cr_singular_values(double *out, const float *left, size_t m, const float *right, size_t n,
                       size_t r)
{
    double *a = cr_calloc(m * r, sizeof *a), *b = cr_calloc(n * r, sizeof *b);
    double *product = cr_calloc(lesser(m, r) * lesser(n, r), sizeof *product);
    int code = a && b && product ? CR_OK : CR_ENOMEM;
    if (code == CR_OK) {
        copy_columns(a, left, m, r);
        for (size_t i = 0; i < n * r; i++)
            b[i] = (double)right[i]; /* the rows of right are the columns of its transpose */
        solve(out, a, m, b, n, r, product);
    }
    cr_free(a);
    cr_free(b);
    cr_free(product);
    return code;
}
