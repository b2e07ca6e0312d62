/* tensor_kernels_avx512.c: the loops of tensors for x86-64 with AVX-512 F, BW, DQ and VL. */
#define VECTOR_BYTES 64
#define TILE_ROWS 12
#define KERNELS cr_tensor_kernels_avx512

struct cr_tensor_kernels;
extern const struct cr_tensor_kernels *const cr_tensor_kernels_avx512[2];

#include "math/tensor_kernels_template.h"
