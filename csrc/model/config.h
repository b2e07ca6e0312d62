/* config.h: a model's hyperparameters, read from its file and refused when inconsistent.
 *
 * What this is: numbers and the table of families. What it is not: weights.
 */
#ifndef CR_CONFIG_H
#define CR_CONFIG_H

#include "base/base.h"
#include "file/gguf.h"

#define CR_MAX_LAYERS 1024

/* What tells one architecture from another; adding a family starts with a row in config.c. */
typedef struct cr_family {
    const char *name;         /* general.architecture */
    bool neighbours_in_gguf;  /* its GGUF files permute q and k so that rotary pairs are (2p, 2p+1) */
    bool biases;              /* of q, k and v */
    bool head_norms;          /* q and k are normed head by head before they are turned */
    bool post_norms;          /* attention and feed-forward are normed before they are added */
    bool scaled_embedding;    /* by √d */
    bool gelu;                /* GeGLU instead of SwiGLU */
    size_t global_every;      /* layers i with (i + 1) % this = 0 see everything, others a window; 0: all do */
    double local_rope_base;   /* of the layers with a window, where the file does not say */
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
    double rope_base, local_rope_base;
    double rope_scale;         /* positions of layers without a window are divided by it */
    bool rope_neighbours;
    size_t window;             /* positions that a local layer sees */
    bool local[CR_MAX_LAYERS]; /* layers that see a window and turn by the local base */
    float attention_scale;
    float norm_epsilon;
} cr_config;

int cr_config_from_gguf(cr_config *out, const cr_gguf *file);

#endif
