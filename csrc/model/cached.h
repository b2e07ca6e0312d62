/* cached.h: the network over positions whose predecessors' keys and values were kept.
 *
 * What this is: the pass of generation and scoring. A cache has slots; a slot holds the keys
 * and values of one text. A call runs some new positions after what their slots hold, and may
 * add them to it.
 * What it is not: training (forward.h); nothing is kept for backward and dropout is off.
 *
 * Ownership: the cache owns its block; work space is the caller's arena.
 */
#ifndef CR_CACHED_H
#define CR_CACHED_H

#include "base/arena.h"
#include "model/linear.h"
#include "model/model.h"

typedef struct cr_cache {
    float *block;       /* [slots, layers, 2, length, kv_heads · size]: keys, then values */
    size_t bytes;       /* of the block */
    size_t slots, length;
    size_t layer_floats; /* of one layer's keys */
    size_t slot_floats;
} cr_cache;

int cr_cache_create(cr_cache *out, const cr_model *model, size_t slots, size_t length);
void cr_cache_free(cr_cache *cache);

/* Lays an empty cache (zeroed, or used before) out anew; its block is kept where it is large enough. */
int cr_cache_fit(cr_cache *cache, const cr_model *model, size_t slots, size_t length);

/* Bytes of a slot of `length` positions. */
uint64_t cr_cache_slot_bytes(const cr_model *model, size_t length);

/* The first positions of slot `from` become those of slot `to`. */
void cr_cache_copy(cr_cache *cache, size_t to, size_t from, size_t positions);

/* New positions of one text. */
typedef struct cr_cached_row {
    const int32_t *tokens; /* [count] */
    size_t count;
    size_t slot, past;     /* the slot holds `past` positions already */
    bool commit;           /* add these to the slot */
} cr_cached_row;

typedef struct cr_cached_pass {
    cr_compute *compute;
    const cr_model *model;
    const cr_branch *branches; /* [layers, CR_PROJECTIONS], or NULL */
    size_t rank;               /* the largest of them */
    cr_cache *cache;
    const cr_cached_row *rows;
    size_t count;
    bool few; /* decoding: kernels for few positions, whose results do not depend on the batch */
    const volatile int *cancelled;
} cr_cached_pass;

/* hidden [Σ rows.count, d]: the last layer's output for all new positions, a piece of the arena,
 * which grows as needed (earlier pieces die). */
int cr_cached_forward(const cr_cached_pass *pass, cr_arena *arena, float **hidden);

#endif
