/* config.h: a model's hyperparameters, read from its file and refused when inconsistent.
 *
 * What this is: numbers and the table of families. What it is not: weights.
 */
#ifndef CR_CONFIG_H
#define CR_CONFIG_H

#include "base/base.h"
#include "file/gguf.h"

/* What tells one architecture from another; adding a family starts with a row in config.c. */
typedef struct cr_family {
    const char *name;       /* general.architecture */
    bool rope_neighbours;   /* pairs are (2p, 2p+1); the file's q and k rows are permuted for it */
} cr_family;

typedef struct cr_config {
    const cr_family *family;
    size_t layers;
    size_t width;              /* d */
    size_t heads, kv_heads;    /* kv_heads divides heads */
    size_t head_size;          /* even */
    size_t ffn_width;          /* f */
    size_t vocabulary;
    size_t context;
    double rope_base;
    float norm_epsilon;
} cr_config;

int cr_config_from_gguf(cr_config *out, const cr_gguf *file);

#endif
