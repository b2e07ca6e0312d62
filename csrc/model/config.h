/* config.h: a model's hyperparameters, read from a GGUF file or a config.json and refused when
 * inconsistent.
 *
 * What this is: numbers and the table of families. What it is not: weights.
 */
#ifndef CR_CONFIG_H
#define CR_CONFIG_H

#include "base/base.h"
#include "file/gguf.h"
#include "file/json_fields.h"

#define CR_MAX_LAYERS 1024

/* What tells one architecture from another; adding a family starts with a row in config.c. */
typedef struct cr_family {
    const char *name;         /* general.architecture */
    const char *hub_types[2]; /* model_type in config.json; unused = NULL */
    bool neighbours_in_gguf;  /* its GGUF files permute q and k so that rotary pairs are (2p, 2p+1) */
    bool biases;              /* of q, k and v */
    bool head_norms;          /* q and k are normed head by head before they are turned */
    bool post_norms;          /* attention and feed-forward are normed before they are added */
    bool scaled_embedding;    /* by √d */
    bool gelu;                /* GeGLU instead of SwiGLU */
    bool centred_norms;       /* checkpoints (not GGUF files) store norm weights less 1 */
    size_t hub_head_size;     /* head_dim where config.json has none; 0: width / heads */
    size_t global_every;      /* layers i with (i + 1) % this = 0 see everything, others a window; 0: all do */
    double local_rope_base;   /* of the layers with a window, where the file does not say */
} cr_family;

/* Llama 3.1's rope bands: long wavelengths are stretched by factor, short ones kept, those between
 * blended (Grattafiori et al. 2024; transformers, modeling_rope_utils.py). */
typedef struct cr_rope_bands {
    double factor; /* 0 = no bands */
    double low, high, original_context;
} cr_rope_bands;

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
    cr_rope_bands rope_bands;
    bool rope_neighbours;
    bool tied_head;            /* the file says so; one without a head of its own is tied too */
    size_t window;             /* positions that a local layer sees */
    bool local[CR_MAX_LAYERS]; /* layers that see a window and turn by the local base */
    float attention_scale;
    float norm_epsilon;
} cr_config;

int cr_config_from_gguf(cr_config *out, const cr_gguf *file);

/* From the content of a config.json; CR_EUNSUPPORTED names what no family here has. */
int cr_config_from_json(cr_config *out, cr_json_object config);

/* A family by general.architecture or, with `hub`, by model_type; the message lists those known. */
int cr_family_find(const cr_family **out, const char *name, size_t length, bool hub);

/* What both readers check at the end. */
int cr_config_check_heads(const cr_config *config);

#endif
