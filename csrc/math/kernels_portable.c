/* kernels_portable.c: the loops of kernels_template.h for any processor (128-bit vectors: SSE2, NEON). */
#define LANES 4
#define TILE_ROWS 6
#define TILE_VECTORS 2
#define KERNELS cr_kernels_portable
#define KERNELS_NAME "portable"

struct cr_kernels;
extern const struct cr_kernels cr_kernels_portable;

#include "math/kernels_template.h"
