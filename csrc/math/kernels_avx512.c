/* kernels_avx512.c: the loops of kernels_template.h for x86-64 with AVX-512 F, BW, DQ and VL. */
#define LANES 16
#define TILE_ROWS 12
#define TILE_VECTORS 2
#define KERNELS cr_kernels_avx512
#define KERNELS_NAME "avx512"

struct cr_kernels;
extern const struct cr_kernels cr_kernels_avx512;

#include "math/kernels_template.h"
