/* dtype_portable.c: the loops of dtype_loops.h for any processor. */
#define TYPES cr_dtype_portable

#include "math/dtype_loops.h"
