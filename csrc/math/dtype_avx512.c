/* dtype_avx512.c: the loops of dtype_loops.h for x86-64 with AVX-512 F, BW, DQ and VL. */
#define TYPES cr_dtype_avx512

#include "math/dtype_loops.h"
