/* attention.h: grouped-query attention over ragged rows, causal or not, without a T × T buffer.
 *
 * Several rows lie one after another in one batch of n positions; `starts` says where each
 * begins, and no position sees another row (so packing costs nothing and leaks nothing).
 * Forward keeps the log-sum-exp of each query; backward recomputes the scores tile by tile.
 * Source: Dao et al., "FlashAttention", 2022; the online softmax is Milakov and Gimelshein 2018.
 */
#ifndef CR_ATTENTION_H
#define CR_ATTENTION_H

#include "math/matmul.h"

typedef struct cr_attention {
    size_t heads, kv_heads, head_size; /* kv_heads divides heads */
    float scale;                       /* 1 / sqrt(head_size) */
    const size_t *starts;              /* [rows + 1]: row r is positions starts[r]..starts[r+1] */
    size_t rows;
    size_t n; /* positions, = starts[rows] */
    size_t window; /* a query sees itself and the window - 1 positions before it; 0: all before it */
    bool whole; /* every position sees its whole row (encoders); forward only */
} cr_attention;

/* Work space in floats for either direction, all threads together. */
size_t cr_attention_scratch(const cr_compute *compute, size_t head_size);

/* out [n, heads, head_size], lse [n, heads]; q [n, heads, head_size]; k, v [n, kv_heads, head_size]. */
void cr_attention_forward(cr_compute *compute, float *out, float *lse, const float *q,
                          const float *k, const float *v, const cr_attention *shape,
                          float *scratch);

/* The same for rows whose first past[r] keys and values were kept: all of row r's, its new ones included,
 * lie at row_k[r], row_v[r] [past + new, kv_heads, head_size]. A query's result has the same bytes however
 * its row is cut into past and new. */
void cr_attention_resumed(cr_compute *compute, float *out, float *lse, const float *q,
                          const cr_attention *shape, const float *const *row_k,
                          const float *const *row_v, const size_t *past, float *scratch);

/* dq as q, dk and dv as k: overwritten. wide_dk, wide_dv [n, heads, head_size] are work space:
 * each query head sums its own share there before the heads of a group are joined in order. */
void cr_attention_backward(cr_compute *compute, float *dq, float *dk, float *dv, const float *dout,
                           const float *out, const float *lse, const float *q, const float *k,
                           const float *v, const cr_attention *shape, float *wide_dk,
                           float *wide_dv, float *scratch);

/* Queries that come after keys kept from earlier calls (decoding, scoring). Query row r has
 * positions starts[r]..starts[r+1] in q, k, v; before them it sees past[r] keys and values at
 * past_k[r], past_v[r] [past, kv_heads, head_size]. scores: work space [threads, longest], where
 * longest is the most keys any query sees. */
void cr_attention_cached(cr_compute *compute, float *out, const float *q, const float *k,
                         const float *v, const cr_attention *shape, const float *const *past_k,
                         const float *const *past_v, const size_t *past, float *scores,
                         size_t longest);

/* The specification of forward: every score written out, sums in double. */
void cr_attention_plain(float *out, float *lse, const float *q, const float *k, const float *v,
                        const cr_attention *shape);

#endif
