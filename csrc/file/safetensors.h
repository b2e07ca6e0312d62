/* safetensors.h: reads and writes safetensors files.
 *
 * Byte layout: u64 header length (little endian), a JSON object of that length
 * (name → {dtype, shape, data_offsets [begin, end)}, optional "__metadata__" of
 * string → string), then the data. Offsets count from the end of the header,
 * must not overlap and must cover the data without holes.
 *
 * What this is: bytes to a checked table of named views, and back. Parsing is
 * apart from opening (fuzzed). Writing is atomic: temporary name, fsync,
 * rename, fsync of the folder (file/fsio.h).
 *
 * Ownership: views are borrowed from the cr_safetensors and die with it. `data` has whatever
 * alignment the header leaves (files written here: 8): read it with memcpy or cr_dtype_expand.
 */
#ifndef CR_SAFETENSORS_H
#define CR_SAFETENSORS_H

#include "base/base.h"
#include "file/fsio.h"
#include "math/dtype.h"

typedef struct cr_safetensors cr_safetensors;

typedef struct cr_safetensor {
    const char *name; /* terminated */
    cr_dtype type;    /* F32, F16 or BF16; other dtypes are refused by name */
    int dims;         /* 0..4 */
    uint64_t shape[4]; /* outermost first; unused = 1 */
    const void *data;
    size_t bytes;
} cr_safetensor;

int cr_safetensors_open(cr_safetensors **out, const char *path);
int cr_safetensors_parse(cr_safetensors **out, const void *bytes, size_t size);

/* The same for models, which may hold tensors of integers beside their weights (position_ids): these are
 * checked like all others and then left out of the table. */
int cr_safetensors_open_floats(cr_safetensors **out, const char *path);
void cr_safetensors_close(cr_safetensors *file);

size_t cr_safetensors_count(const cr_safetensors *file);
const cr_safetensor *cr_safetensors_at(const cr_safetensors *file, size_t index); /* by offset */
const cr_safetensor *cr_safetensors_find(const cr_safetensors *file, const char *name);
const char *cr_safetensors_metadata(const cr_safetensors *file, const char *key); /* or NULL */

/* Writing. `metadata` is a list of key, value, key, value, NULL, or NULL. */
typedef struct cr_safetensor_out {
    const char *name;
    uint64_t rows, columns; /* columns = 0: one dimension of `rows` values */
    const void *data;       /* of cr_safetensors_write */
    cr_dtype type;          /* F32 (0), F16 or BF16 */
} cr_safetensor_out;

int cr_safetensors_write(const char *path, const cr_safetensor_out *tensors, size_t count,
                         const char *const *metadata);

/* The same for data that come piece by piece: writes the header alone. The caller goes on with cr_write, one
 * tensor after another in this order, and ends with cr_writer_commit or cr_writer_discard. */
int cr_safetensors_begin(cr_writer **out, const char *path, const cr_safetensor_out *tensors,
                         size_t count, const char *const *metadata);

#endif
