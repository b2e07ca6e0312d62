/* model.h: a model as opened: hyperparameters and views of its weights.
 *
 * What this is: read-only after opening and shared by sessions through a count of holders.
 * What it is not: anything trained; branches belong to the session (model/linear.h).
 *
 * Ownership: the model owns the mapped files, the tokenizer and the expanded norm vectors; all
 * matrices are views into the mapping.
 */
#ifndef CR_MODEL_H
#define CR_MODEL_H

#include "math/activation.h"
#include "math/matmul.h"
#include "math/rope.h"
#include "model/source.h"

/* One projection's number, as in cr_target_name. */
enum {
#define CR_PROJECTION(field, file, folder, module, rows, columns) CR_PROJECTION_##field,
#define CR_NORM(field, file, name, size, wanted)
#include "model/weights.def"
#undef CR_PROJECTION
#undef CR_NORM
    CR_PROJECTIONS
};

typedef struct cr_layer {
    cr_matrix projection[CR_PROJECTIONS];
    const float *bias[CR_PROJECTIONS]; /* [rows], or NULL */
    bool local;                        /* sees a window, turns by the local base */
/* NULL where the family has none */
#define CR_PROJECTION(field, file, folder, module, rows, columns)
#define CR_NORM(field, file, name, size, wanted) const float *field;
#include "model/weights.def"
#undef CR_PROJECTION
#undef CR_NORM
} cr_layer;

/* Where a projection lies: "self_attn", "q_proj". */
typedef struct cr_projection_name {
    const char *folder, *module;
} cr_projection_name;
extern const cr_projection_name cr_projection_names[CR_PROJECTIONS];

struct cr_model {
    cr_config config;
    cr_source source;
    cr_tokenizer *tokenizer;
    cr_matrix embedding; /* [vocabulary, d] */
    cr_matrix head;      /* [vocabulary, d]; the embedding itself where tied */
    cr_layer *layers;
    const float *final_norm; /* [d] */
    cr_rope rope, local_rope;
    float *vectors; /* owns the norm vectors, biases and rope factors */
    char *name, *chat_template, *path;
    uint64_t parameters;
    int holders; /* atomic: opens and sessions */
};

void cr_model_hold(cr_model *model); /* one more cr_model_close is due */

/* x [d]: a token's embedding, scaled where the family scales it. */
void cr_model_embed(const cr_model *model, float *x, int32_t token);

cr_gate cr_model_gate(const cr_model *model);

/* Columns of the widest matrix: what cr_compute_create wants to know. */
size_t cr_model_longest_row(const cr_model *model);

#endif
