/* tensor_kernels.c: picks the table for the processor, the same instruction set as kernels.c. */
#include "math/tensor_kernels.h"

#include <stdatomic.h>
#include <string.h>

#include "math/kernels.h"

extern const cr_tensor_kernels *const cr_tensor_kernels_portable[2];

#if defined(__x86_64__)
extern const cr_tensor_kernels *const cr_tensor_kernels_avx2[2];
extern const cr_tensor_kernels *const cr_tensor_kernels_avx512[2];
#endif

typedef const cr_tensor_kernels *const pair[2];

static pair *find_pair(const char *name)
{
#if defined(__x86_64__)
    if (strcmp(name, "avx512") == 0)
        return &cr_tensor_kernels_avx512;
    if (strcmp(name, "avx2") == 0)
        return &cr_tensor_kernels_avx2;
#else
    (void)name;
#endif
    return &cr_tensor_kernels_portable;
}

const cr_tensor_kernels *cr_tensor_kernels_find(const char *name, int type)
{
    return cr_kernels_find(name) ? (*find_pair(name))[type] : NULL;
}

/* Asking the processor takes longer than most operations on small tensors, so its answer, which
 * cannot change, is kept. Threads that ask at the same time store the same. */
static _Atomic(pair *) kept;

const cr_tensor_kernels *cr_tensor_kernels_select(int type)
{
    pair *chosen = atomic_load_explicit(&kept, memory_order_relaxed);
    if (cr_unlikely(!chosen)) {
        chosen = find_pair(cr_kernel_name());
        atomic_store_explicit(&kept, chosen, memory_order_relaxed);
    }
    return (*chosen)[type];
}
