/* tensor_kernels_template.h: the loops of tensor_loops.h for both types, compiled once per
 * instruction set.
 *
 * The including file defines VECTOR_BYTES, TILE_ROWS (rows of a tile of two vectors), and KERNELS,
 * the symbol of its two tables.
 */
#include "math/tensor_kernels.h"

#include "math/tensor_lanes.h"

#define SUM_BLOCK 1536    /* values summed without pairs, by three times the lanes of a vector */
#define TURNING_BLOCK 512 /* values whose sin or cos is libm's together */
#define FIND_BLOCK 128
#define EXTREME_BLOCK 512
#define BINARY_BLOCK 256

#define TERM_VALUE(x) (x)
#define TERM_ABS(x) fabs(x)
#define TERM_SQUARE(x) ((x) * (x))

static inline float magnitude_f32(float x)
{
    return fabsf(x);
}

static inline double magnitude_f64(double x)
{
    return fabs(x);
}

static inline float root_f32(float x)
{
    return sqrtf(x);
}

static inline double root_f64(double x)
{
    return sqrt(x);
}

/* 0 where both conditions hold; a product, because compilers turn && into jumps. */
static inline float unless_flat_f32(float slope, bool one, bool other)
{
    float flat = (one ? 1.0f : 0.0f) * (other ? 1.0f : 0.0f);
    return flat != 0.0f ? 0.0f : slope;
}

static inline double unless_flat_f64(double slope, bool one, bool other)
{
    double flat = (one ? 1.0 : 0.0) * (other ? 1.0 : 0.0);
    return flat != 0.0 ? 0.0 : slope;
}

#define REAL float
#define TYPE f32
#include "math/tensor_loops.h"
#undef REAL
#undef TYPE

#define REAL double
#define TYPE f64
#include "math/tensor_loops.h"
#undef REAL
#undef TYPE

const cr_tensor_kernels *const KERNELS[2] = {[CR_F32] = &table_f32, [CR_F64] = &table_f64};
