/* gguf.h: reads GGUF files (versions 2 and 3, little endian).
 *
 * Byte layout: "GGUF", u32 version, u64 tensor count, u64 key count, then the
 * keys (string name, u32 type, value), then the tensor table (string name, u32
 * dimension count, u64 dimensions innermost first, u32 type, u64 offset), then
 * padding to `general.alignment` (default 32), then the data; offsets count
 * from the start of the data. A string is u64 length + bytes, not terminated.
 *
 * What this is: bytes to a checked table of keys and tensors. Parsing is
 * separate from opening, so that it can be fuzzed. Every size and offset is
 * checked against the file before it is believed.
 * What it is not: a model loader; names mean nothing here.
 *
 * Ownership: the cr_gguf owns the mapping and the tables; every pointer and
 * view it returns is borrowed and lives until cr_gguf_close.
 */
#ifndef CR_GGUF_H
#define CR_GGUF_H

#include "base/base.h"
#include "math/dtype.h"

typedef struct cr_gguf cr_gguf;

typedef struct cr_text {
    const char *bytes; /* not terminated */
    size_t length;
} cr_text;

typedef struct cr_gguf_tensor {
    cr_text name;
    uint32_t type; /* as in the file; cr_dtype_find may not know it */
    int dims;      /* 1..4 */
    uint64_t shape[4]; /* innermost first, as in the file; unused = 1 */
    const void *data;  /* inside the mapping */
    size_t bytes;      /* 0 when the type is unknown */
} cr_gguf_tensor;

/* Maps the file and parses it. Failures name the path. */
int cr_gguf_open(cr_gguf **out, const char *path);

/* Parses bytes that the caller keeps alive until close, at an address that is a multiple of 8.
 * The data of every tensor are then 8-byte aligned too. */
int cr_gguf_parse(cr_gguf **out, const void *bytes, size_t size);
void cr_gguf_close(cr_gguf *file);

/* Tensors. `find` returns NULL when there is none of that name. */
size_t cr_gguf_tensor_count(const cr_gguf *file);
const cr_gguf_tensor *cr_gguf_tensor_at(const cr_gguf *file, size_t index);
const cr_gguf_tensor *cr_gguf_tensor_find(const cr_gguf *file, const char *name);

/* The only way weights are obtained: by name with the expected shape
 * (rows × columns; rows = 1 for vectors). An absent tensor, another shape, an
 * unknown type or a short file is an error that says expected and found.
 * CR_ENOTFOUND when absent, CR_EFORMAT on disagreement, CR_EUNSUPPORTED for
 * the type. */
int cr_gguf_weight(const cr_gguf *file, const char *name, uint64_t rows, uint64_t columns,
                   const cr_gguf_tensor **out);

/* Keys. Each returns CR_OK, CR_ENOTFOUND, or CR_EFORMAT when the value has
 * another type (the message says which). Integer getters accept any integer
 * width that fits. */
int cr_gguf_u64(const cr_gguf *file, const char *key, uint64_t *out);
int cr_gguf_f64(const cr_gguf *file, const char *key, double *out); /* f32, f64 or integer */
int cr_gguf_bool(const cr_gguf *file, const char *key, bool *out);
int cr_gguf_text(const cr_gguf *file, const char *key, cr_text *out);

/* GGUF's value types. */
typedef enum cr_gguf_type {
    CR_GGUF_U8,
    CR_GGUF_I8,
    CR_GGUF_U16,
    CR_GGUF_I16,
    CR_GGUF_U32,
    CR_GGUF_I32,
    CR_GGUF_F32,
    CR_GGUF_BOOL,
    CR_GGUF_STRING,
    CR_GGUF_ARRAY,
    CR_GGUF_U64,
    CR_GGUF_I64,
    CR_GGUF_F64
} cr_gguf_type;

/* A key as it stands in the file. */
typedef struct cr_gguf_key {
    cr_text name;
    cr_text entry;        /* name, type and value: cr_gguf_put_entry */
    cr_gguf_type type, element; /* element: of an array */
    size_t count;         /* of an array's elements, of a string's bytes */
    const void *value;    /* the scalar, the string's bytes or the elements; at any address */
} cr_gguf_key;

/* Sorted by name. Entries lie in the file's order in memory. */
size_t cr_gguf_key_count(const cr_gguf *file);
void cr_gguf_key_at(const cr_gguf *file, size_t index, cr_gguf_key *out);
int cr_gguf_key_find(const cr_gguf *file, const char *key, cr_gguf_key *out); /* CR_ENOTFOUND */

/* Where in the file that a pointer into it lies. */
uint64_t cr_gguf_offset(const cr_gguf *file, const void *inside);

/* general.alignment, or the default. */
size_t cr_gguf_alignment(const cr_gguf *file);

/* Arrays: length first, then elements by index (bounds are the caller's). */
int cr_gguf_text_array(const cr_gguf *file, const char *key, const cr_text **out, size_t *count);
int cr_gguf_f32_array(const cr_gguf *file, const char *key, const float **out, size_t *count);
int cr_gguf_i32_array(const cr_gguf *file, const char *key, const int32_t **out, size_t *count);

#endif
