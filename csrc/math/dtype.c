/* dtype.c: 16-bit floats, the processor's table of element types, and runs of rows. */
#include "math/dtype.h"

#include <stdio.h>
#include <string.h>

#include "math/dtype_half.h"
#include "math/kernels.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "model files are little endian and read in place: this library needs such a processor"
#endif

/* ---- half-length floats ------------------------------------------------- */

float cr_f16_to_f32(uint16_t half)
{
    return half_to_float(half);
}

uint16_t cr_f32_to_f16(float value)
{
    uint32_t bits = bits_f32(value);
    uint32_t sign = bits >> 16 & 0x8000;
    uint32_t magnitude = bits & 0x7fffffff;
    uint32_t half;
    if (magnitude > 0x7f800000) /* NaN: quiet, the payload's upper bits kept */
        half = 0x7e00 | (magnitude >> 13 & 0x3ff);
    else if (magnitude >= 0x47800000) /* 65536 and up */
        half = 0x7c00;
    else if (magnitude < 0x38800000) /* subnormal: adding 1/2 rounds at the right bit */
        half = bits_f32(from_bits_f32(magnitude) + 0.5f) - bits_f32(0.5f);
    else
        half = (magnitude - ((uint32_t)(127 - 15) << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
    return (uint16_t)(sign | half);
}

float cr_bf16_to_f32(uint16_t bits)
{
    return from_bits_f32((uint32_t)bits << 16);
}

uint16_t cr_f32_to_bf16(float value)
{
    uint32_t bits = bits_f32(value);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* ---- types ------------------------------------------------------------------ */

#define LONGEST_BLOCK 256

extern const cr_dtype_info cr_dtype_portable[CR_DTYPE_COUNT];

#if defined(__x86_64__)
extern const cr_dtype_info cr_dtype_avx2[CR_DTYPE_COUNT], cr_dtype_avx512[CR_DTYPE_COUNT];
#endif

const cr_dtype_info *cr_dtype_table(const char *kernels)
{
    if (!cr_kernels_find(kernels))
        return NULL;
#if defined(__x86_64__)
    if (strcmp(kernels, "avx512") == 0)
        return cr_dtype_avx512;
    if (strcmp(kernels, "avx2") == 0)
        return cr_dtype_avx2;
#endif
    return cr_dtype_portable;
}

const cr_dtype_info *cr_dtype_find(uint32_t type)
{
    const cr_dtype_info *types = cr_dtype_table(cr_kernel_name());
    return type < CR_DTYPE_COUNT && types[type].expand ? &types[type] : NULL;
}

const cr_dtype_info *cr_dtype_f32(void)
{
    return &cr_dtype_portable[CR_DTYPE_F32];
}

const char *cr_dtype_name(uint32_t type, char buffer[24])
{
    if (type < CR_DTYPE_COUNT)
        return cr_dtype_portable[type].name;
    snprintf(buffer, 24, "type %lu", (unsigned long)type);
    return buffer;
}

bool cr_dtype_row_bytes(const cr_dtype_info *info, size_t length, size_t *out)
{
    return length % info->block_length == 0 &&
           cr_size_mul(out, length / info->block_length, info->block_bytes);
}

/* dst[0..count) = values skip..skip+count of one block. */
static void expand_part(float *dst, const cr_dtype_info *info, const uint8_t *block, size_t skip,
                        size_t count)
{
    float whole[LONGEST_BLOCK];
    info->expand(whole, block, 1);
    memcpy(dst, whole + skip, count * sizeof *dst);
}

void cr_dtype_expand(float *dst, const cr_dtype_info *info, const void *row, size_t first,
                     size_t count)
{
    const size_t length = info->block_length, skip = first % length;
    const uint8_t *src = (const uint8_t *)row + first / length * info->block_bytes;
    if (skip != 0 && count != 0) {
        size_t part = length - skip < count ? length - skip : count;
        expand_part(dst, info, src, skip, part);
        dst += part, src += info->block_bytes, count -= part;
    }
    const size_t blocks = count / length, rest = count % length;
    info->expand(dst, src, blocks);
    if (rest != 0)
        expand_part(dst + blocks * length, info, src + blocks * info->block_bytes, 0, rest);
}
