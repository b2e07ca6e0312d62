/* kernels.c: picks the table for the processor. */
#include "math/kernels.h"

#include <string.h>

extern const cr_kernels cr_kernels_portable;

#if defined(__x86_64__)
#include <cpuid.h>

extern const cr_kernels cr_kernels_avx2, cr_kernels_avx512;

/* clang 14's __builtin_cpu_supports does not know this one; elsewhere the instruction is left out, since
 * a virtual machine leaves for its host on each. */
static bool has_f16c(void)
{
#if defined(__clang__) || __GNUC__ < 11
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
#else
    return __builtin_cpu_supports("f16c");
#endif
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

const cr_kernels *cr_kernels_find(const char *name)
{
#if defined(__x86_64__)
    if (strcmp(name, "avx512") == 0)
        return has_avx512() ? &cr_kernels_avx512 : NULL;
    if (strcmp(name, "avx2") == 0)
        return has_avx2() ? &cr_kernels_avx2 : NULL;
#endif
    return strcmp(name, "portable") == 0 ? &cr_kernels_portable : NULL;
}

const cr_kernels *cr_kernels_select(void)
{
    const cr_kernels *wide = cr_kernels_find("avx512");
    if (!wide)
        wide = cr_kernels_find("avx2");
    return wide ? wide : &cr_kernels_portable;
}

const char *cr_kernel_name(void)
{
    return cr_kernels_select()->name;
}
