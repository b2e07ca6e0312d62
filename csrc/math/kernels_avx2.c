/* kernels_avx2.c: the loops of kernels_template.h for x86-64 with AVX2 and FMA. */
#define LANES 8
#define TILE_ROWS 6
#define TILE_VECTORS 2
#define KERNELS cr_kernels_avx2
#define KERNELS_NAME "avx2"

struct cr_kernels;
extern const struct cr_kernels cr_kernels_avx2;

#include "math/kernels_template.h"
