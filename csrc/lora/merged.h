/* merged.h: a base model with a lora merged into it, tensor by tensor, on its way into a file.
 *
 * What this is: the list of tensors of the file to be written, each with its type there and what is done to
 * the base's values on the way: merging, another type, rows in another order, norm weights with or without
 * their 1. A tensor to which nothing is done is copied byte for byte.
 *
 * Types. Merged matrices get the type asked for, or with NULL keep the base's. The other matrices follow
 * where that makes them smaller, else they keep their bytes: nothing is expanded that gains nothing by it.
 * Rows that do not fill a type's blocks become F16. Vectors keep their type; F32 is what GGUF has for them.
 *
 * What it is not: a file; lora/merged_gguf.c and lora/merged_folder.c write these. The head and the embedding carry no branch
 * and are never merged into, tied or not.
 *
 * Ownership: a list borrows from the model and is freed by cr_merged_free.
 */
#ifndef CR_MERGED_H
#define CR_MERGED_H

#include "file/gguf_writer.h"
#include "lora/lora.h"

typedef struct cr_merged_tensor {
    char name[96]; /* in the file to be written */
    const cr_dtype_info *from, *type;
    const void *data; /* in the base */
    size_t rows, columns;
    int dims;
    uint64_t shape[4]; /* innermost first */
    size_t layer;
    int projection; /* the branch that changes it, else CR_PROJECTIONS */
    size_t (*source)(size_t row,
                     size_t head_size); /* row of the base for a row of the file; NULL: the same */
    float shift;                        /* added to each value */
} cr_merged_tensor;

typedef struct cr_merged {
    const cr_lora *lora;
    const cr_model *model;
    cr_compute *compute; /* whose threads work */
    const volatile int *cancelled; /* looked at between tensors; or NULL */
    cr_merged_tensor *tensors;
    size_t count;
    bool to_hub; /* what kind of file is to be written */
} cr_merged;

/* `type` NULL: the base's own. CR_EUNSUPPORTED for a base type that the file cannot hold. */
int cr_merged_create(cr_merged *out, const cr_lora *lora, const cr_model *model,
                     cr_compute *compute, const cr_dtype_info *type, bool to_hub);
void cr_merged_free(cr_merged *merged);

size_t cr_merged_bytes(const cr_merged_tensor *tensor);

/* Hands the tensor's bytes to `sink` piece by piece: a few megabytes are in memory at a time. CR_EARG names a
 * tensor with a value that is not finite or too large for its type. */
typedef int (*cr_sink)(void *to, const void *bytes, size_t size);
int cr_merged_write(const cr_merged *merged, const cr_merged_tensor *tensor, cr_sink sink,
                    void *to);

/* The type that most of the merged matrices' values have. */
const cr_dtype_info *cr_merged_type(const cr_merged *merged);

/* A GGUF file. Keys of a GGUF base are all kept but those that say what the file's types are; keys of a folder's
 * model are made of its config.json and tokenizer.json. `notes`: further keys with texts: name, text, ...,
 * NULL. `blanks`: names of f64 keys that are NaN until cr_gguf_set_number gives them a value: name, ..., NULL. */
int cr_merged_write_gguf(const cr_merged *merged, const char *const *notes,
                         const char *const *blanks, const char *path);

/* The weights of a folder of the hub: model.safetensors, or shards of at most `shard_bytes` (unless one tensor has
 * more) and their index. */
int cr_merged_write_folder(const cr_merged *merged, const char *const *notes, uint64_t shard_bytes,
                           const char *folder);

#endif
