/* lora.h: the trained matrices of a session: layout, names, initial values.
 *
 * All values lie in one block, all gradients in another, and so the moments; a matrix is a
 * stretch of each. Order: layer, projection, A before B. That order is also the order of sums
 * over all matrices, of files and of the public list.
 *
 * Ownership: a cr_lora owns the blocks and names; branches (model/linear.h) are views into it.
 */
#ifndef CR_LORA_H
#define CR_LORA_H

#include "model/linear.h"
#include "model/model.h"

typedef struct cr_lora_matrix {
    char name[64];       /* "layers.12.self_attn.q_proj.lora_A" */
    size_t layer;
    int projection;
    bool is_b;
    size_t rows, columns;
    size_t offset;       /* into each block, in floats; a multiple of 16 */
    bool frozen;         /* keeps value and moments; its gradient is zero */
} cr_lora_matrix;

typedef struct cr_lora {
    size_t rank;
    float scale;
    unsigned targets;
    size_t count;             /* matrices */
    cr_lora_matrix *matrices; /* [count] */
    size_t floats;            /* of each block; gaps between matrices stay zero */
    float *values, *gradients, *moment1, *moment2;
    cr_branch *branches;      /* [layers, CR_PROJECTIONS] */
    size_t layers;
    size_t frozen;            /* matrices that are */
} cr_lora;

/* A uniform in ±1/sqrt(in) from (seed, matrix), which is Kaiming's bound for a = sqrt(5) and PEFT's
 * default; B zero. */
int cr_lora_create(cr_lora *out, const cr_model *model, size_t rank, float scale, unsigned targets,
                   uint64_t seed);
void cr_lora_free(cr_lora *lora);

/* Zeroes the gradients of frozen matrices. */
void cr_lora_zero_frozen(cr_lora *lora);

#endif
