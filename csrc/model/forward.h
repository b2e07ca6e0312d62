/* forward.h: the network over a ragged batch, forward and backward.
 *
 * A batch is `rows` rows laid one after another, n positions in all: no padding anywhere. A
 * layer is ten calls forward and the same ten, reversed, backward; gradients reach branches
 * only, and nothing is computed below the lowest branch.
 *
 * Ownership: all buffers are pieces of the caller's arena and die with it.
 */
#ifndef CR_FORWARD_H
#define CR_FORWARD_H

#include "base/arena.h"
#include "math/attention.h"
#include "model/linear.h"
#include "model/model.h"

typedef struct cr_rows_batch {
    const int32_t *tokens;    /* [n] */
    const int32_t *positions; /* [n], from 0 in each row */
    const size_t *starts;     /* [rows + 1] */
    size_t rows, n;
    const uint64_t *dropout_keys; /* [n], or NULL */
    float dropout;
} cr_rows_batch;

/* What a layer keeps for backward; the last four lines only where the family has such norms. */
typedef struct cr_layer_kept {
    float *inverse1, *inverse2; /* [n] of the two norms */
    float *q, *k, *v;           /* after rope: [n, heads · size], [n, kv_heads · size] */
    float *attended;            /* [n, heads · size] */
    float *lse;                 /* [n, heads] */
    float *middle;              /* [n, d]: after attention and its residual */
    float *gate, *up;           /* [n, f] */
    float *low[CR_PROJECTIONS]; /* [n, rank] where there is a branch */
    float *product[CR_PROJECTIONS];   /* [n, out] where the branch is DoRA's */
    float *raw_q, *raw_k;             /* before their norms */
    float *inverse_q, *inverse_k;     /* [n, heads], [n, kv_heads] */
    float *o, *down;                  /* [n, d] before their norms */
    float *inverse_o, *inverse_down;  /* [n] */
} cr_layer_kept;

/* A pass over one batch. */
typedef struct cr_pass {
    cr_compute *compute;
    const cr_model *model;
    const cr_branch *branches; /* [layers, CR_PROJECTIONS], or NULL for the bare base */
    size_t rank;               /* the largest of them */
    cr_rows_batch batch;
    bool train;                /* keep what backward needs */
    bool recompute;            /* keep layer inputs only */
    const volatile int *cancelled;

    size_t kept_bytes;     /* of the buffers that wait for backward */
    float *turns;          /* [n, head_size / 2, 2] */
    float *local_turns;    /* the same for layers with a window, or NULL */
    float **inputs;        /* [layers + 1] of [n, d]: the input of each layer and the last output */
    cr_layer_kept *kept;   /* [layers], or one shared by all */
    float *normed;         /* [n, d] */
    float *wide;           /* [n, f]: SwiGLU's output */
    float *dropped, *dlow; /* branch work space */
    float *scaled;         /* [n, widest output], with DoRA */
    float *scratch;        /* attention */
    /* backward */
    float *dx, *dnormed;        /* [n, d] */
    float *dwide, *dgate, *dup; /* [n, f] */
    float *dq, *dk, *dv, *dattended, *wide_dk, *wide_dv;
} cr_pass;

/* Takes the pass's buffers from the arena (or, while it plans, counts them). The fields above
 * the blank line are the caller's. */
int cr_pass_prepare(cr_pass *pass, cr_arena *arena);

/* Runs all layers; the last output is pass->inputs[layers] [n, d]. CR_ECANCELLED. */
int cr_pass_forward(cr_pass *pass);

/* Gradients of the branches from pass->dx [n, d] = dL / d(last output), which is overwritten. */
int cr_pass_backward(cr_pass *pass);

#endif
