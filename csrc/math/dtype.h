/* dtype.h: element types of stored weights and their expansion to f32.
 *
 * What this is: one table of types (name, block length, block bytes) and one
 * function that expands a run of a row. Quantised formats are those of ggml;
 * each block layout is written out in dtype.c beside its loop.
 * Adding a type = one row in the table + one expansion loop.
 */
#ifndef CR_DTYPE_H
#define CR_DTYPE_H

#include "base/base.h"

/* The values are those of GGUF's tensor type field. */
typedef enum cr_dtype {
    CR_DTYPE_F32 = 0,
    CR_DTYPE_F16 = 1,
    CR_DTYPE_Q4_0 = 2,
    CR_DTYPE_Q4_1 = 3,
    CR_DTYPE_Q5_0 = 6,
    CR_DTYPE_Q5_1 = 7,
    CR_DTYPE_Q8_0 = 8,
    CR_DTYPE_Q2_K = 10,
    CR_DTYPE_Q3_K = 11,
    CR_DTYPE_Q4_K = 12,
    CR_DTYPE_Q5_K = 13,
    CR_DTYPE_Q6_K = 14,
    CR_DTYPE_IQ4_NL = 20,
    CR_DTYPE_BF16 = 30
} cr_dtype;

typedef struct cr_dtype_info {
    cr_dtype type;
    const char *name;    /* "Q4_1" */
    size_t block_length; /* values a block */
    size_t block_bytes;
    /* Expands `blocks` whole blocks from src to dst. */
    void (*expand)(float *dst, const void *src, size_t blocks);
} cr_dtype_info;

#define CR_DTYPE_COUNT 42 /* GGUF's numbers that have a name */

/* NULL for a type this library cannot expand. */
const cr_dtype_info *cr_dtype_find(uint32_t type);

/* The type of f32 values: no search, for views made in hot places. */
const cr_dtype_info *cr_dtype_f32(void);

/* All types with the loops of one kernel table (kernels.h), by GGUF's number; NULL where this
 * processor lacks it. */
const cr_dtype_info *cr_dtype_table(const char *kernels);

/* The name GGUF gives the type, also for ones this library cannot expand;
 * "type 99" style text is written to `buffer` (at least 24 bytes) otherwise. */
const char *cr_dtype_name(uint32_t type, char buffer[24]);

/* Bytes of a row of `length` values; false when it is no multiple of the block. */
bool cr_dtype_row_bytes(const cr_dtype_info *info, size_t length, size_t *out);

/* dst[0..count) = values first..first+count of the row; any alignment of first. */
void cr_dtype_expand(float *dst, const cr_dtype_info *info, const void *row, size_t first,
                     size_t count);

float cr_f16_to_f32(uint16_t half);
uint16_t cr_f32_to_f16(float value); /* round to nearest even */
float cr_bf16_to_f32(uint16_t bits);
uint16_t cr_f32_to_bf16(float value); /* round to nearest even, NaN kept */

#endif
