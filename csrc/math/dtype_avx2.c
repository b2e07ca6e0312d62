/* dtype_avx2.c: the loops of dtype_loops.h for x86-64 with AVX2. */
#define TYPES cr_dtype_avx2

#include "math/dtype_loops.h"
