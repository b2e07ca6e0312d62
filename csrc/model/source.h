/* source.h: where a model's weights come from: a GGUF file or a Hugging Face folder.
 *
 * What this is: one way to ask for a matrix or a vector by both of its names, with its shape.
 *
 * Ownership: the source owns what it opened; matrices are views into it.
 */
#ifndef CR_SOURCE_H
#define CR_SOURCE_H

#include "file/hub_folder.h"
#include "math/matmul.h"
#include "model/config.h"

typedef struct cr_source {
    cr_gguf *gguf; /* one of the two */
    cr_hub_folder *folder;
    uint64_t bytes;
} cr_source;

/* A folder is one of the hub's, anything else a GGUF file. */
int cr_source_open(cr_source *out, const char *path);
void cr_source_close(cr_source *source);

int cr_source_config(const cr_source *source, cr_config *out);

/* A tensor's names in both; "" where that kind of file has no such tensor. */
typedef struct cr_weight_name {
    char gguf[64], hub[96];
} cr_weight_name;

/* Any tensor of the file or folder, whatever it is called. */
typedef struct cr_source_tensor {
    cr_text name;
    uint32_t type;
    const cr_dtype_info *info; /* NULL for a type that cannot be expanded */
    const void *data;
    size_t bytes;
    int dims;
    uint64_t shape[4]; /* innermost first; unused = 1 */
} cr_source_tensor;

/* By place. false for a tensor of a shard that the folder's list says is elsewhere. */
size_t cr_source_count(const cr_source *source);
bool cr_source_at(cr_source_tensor *out, const cr_source *source, size_t index);

bool cr_source_has(const cr_source *source, const cr_weight_name *name);
int cr_source_matrix(const cr_source *source, const cr_weight_name *name, size_t rows,
                     size_t columns, cr_matrix *out);
/* Expands `count` values to out. */
int cr_source_vector(const cr_source *source, const cr_weight_name *name, size_t count,
                     float *out);

#endif
