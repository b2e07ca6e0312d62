/* tensor_kernels_avx2.c: the loops of tensors for x86-64 with AVX2 and FMA. */
#define VECTOR_BYTES 32
#define TILE_ROWS 6
#define KERNELS cr_tensor_kernels_avx2

struct cr_tensor_kernels;
extern const struct cr_tensor_kernels *const cr_tensor_kernels_avx2[2];

#include "math/tensor_kernels_template.h"
