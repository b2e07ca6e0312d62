/* tensor_kernels_portable.c: the loops of tensors for any processor (128-bit vectors: SSE2, NEON). */
#define VECTOR_BYTES 16
#define TILE_ROWS 6
#define KERNELS cr_tensor_kernels_portable

struct cr_tensor_kernels;
extern const struct cr_tensor_kernels *const cr_tensor_kernels_portable[2];

#include "math/tensor_kernels_template.h"
