/* lora.h: the trained values of a session: layout, names, initial values; and what they make of the base.
 *
 * All values lie in one block, all gradients in another, and so the moments; a matrix is a
 * stretch of each. Order: layer, projection, then A, B and, with DoRA, the magnitudes. That order is
 * also the order of sums over all matrices, of files and of the public list.
 *
 * Ownership: a cr_lora owns the blocks and names; branches (model/linear.h) are views into it.
 */
#ifndef CR_LORA_H
#define CR_LORA_H

#include "model/linear.h"
#include "model/model.h"

#define CR_MOST_RANK 4096

typedef struct cr_lora_matrix {
    char name[64];       /* "layers.12.self_attn.q_proj.lora_A" */
    size_t layer;
    int projection;
    int part;            /* CR_PART_* */
    size_t rows, columns; /* of magnitudes: [out, 1] */
    size_t offset;       /* into each block, in floats; a multiple of 16 */
    bool frozen;         /* keeps value and moments; its gradient is zero */
} cr_lora_matrix;

/* A projection that carries a branch. */
typedef struct cr_lora_module {
    char name[64]; /* in a Hugging Face model: "model.layers.12.self_attn.q_proj" */
    size_t layer;
    int projection;
    size_t rank;
    double alpha;
    float scale;  /* alpha / rank, or alpha / sqrt(rank) */
    size_t first; /* its A among the matrices; B and magnitudes follow */
} cr_lora_module;

typedef struct cr_lora {
    bool dora;
    size_t rank;              /* the largest of all modules */
    unsigned targets;
    size_t module_count;
    cr_lora_module *modules;  /* [module_count] */
    size_t count;             /* matrices */
    cr_lora_matrix *matrices; /* [count] */
    size_t floats;            /* of each block; gaps between matrices stay zero */
    float *values, *gradients, *moment1, *moment2;
    cr_branch *branches;      /* [layers, CR_PROJECTIONS] */
    size_t layers;
    size_t frozen;            /* matrices that are */
    /* DoRA, else NULL */
    float *norms, *gains;     /* one stretch a module, as branches see them */
    size_t norm_floats;       /* of each */
    float *seen;              /* [floats]: the values that norms and gains belong to */
    float *rows;              /* [threads, 2, longest row]: work space */
    bool stale;               /* values were changed by an update or a file */
} cr_lora;

/* Modules, ranks and scales by the config, whose other fields are not looked at. A is uniform in ±1/sqrt(in)
 * from (seed, module), which is Kaiming's bound for a = sqrt(5) and PEFT's default; B zero; magnitudes the
 * norms of the base's rows. */
int cr_lora_create(cr_lora *out, const cr_model *model, cr_compute *compute,
                   const cr_session_config *config);
void cr_lora_free(cr_lora *lora);

/* Zeroes the gradients of frozen matrices. */
void cr_lora_zero_frozen(cr_lora *lora);

/* Bytes that it holds. */
uint64_t cr_lora_bytes(const cr_lora *lora);

/* NULL where the projection carries none. */
const cr_lora_module *cr_lora_module_at(const cr_lora *lora, size_t layer, int projection);

/* Makes norms and gains those of the present values; nothing without DoRA. With `only_stale` it looks no
 * further where no update or file has changed values. */
void cr_lora_refresh(cr_lora *lora, cr_compute *compute, const cr_model *model, bool only_stale);

/* Sets all magnitudes to the norms of the present rows; nothing without DoRA. */
void cr_lora_start_magnitudes(cr_lora *lora, cr_compute *compute, const cr_model *model);

/* Rows first..first+count of a projection with its branch merged into it: out [count, in], in the engine's
 * row order; the rows are there. Without a branch, the base's. CR_EARG names the module when a value is not
 * finite. */
int cr_lora_merge_rows(const cr_lora *lora, const cr_model *model, size_t layer, int projection,
                       size_t first, size_t count, float *out);

/* Norms of W + scale · B A by rows: out [out]. */
int cr_lora_row_norms(const cr_lora *lora, const cr_model *model, size_t layer, int projection,
                      float *out);

#endif
