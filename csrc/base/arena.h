/* arena.h: one block per owner, handed out in pieces, released as a whole.
 *
 * What this is: the memory of a training step. The block is obtained once and
 * sub-allocated by bumping an offset, so that a step allocates nothing after
 * the first one of its size. Pages that no piece reaches are never touched and
 * cost no resident memory.
 * What it is not: a general allocator; single pieces cannot be released.
 *
 * Ownership: the arena owns its block; pieces are borrowed and die at
 * cr_arena_reset, cr_arena_rewind below them, cr_arena_reserve or cr_arena_free.
 */
#ifndef CR_ARENA_H
#define CR_ARENA_H

#include "base/base.h"

typedef struct cr_arena {
    unsigned char *block;
    size_t capacity; /* bytes of the block */
    size_t used;     /* bytes handed out */
    size_t peak;     /* the most ever handed out */
    bool planning;   /* measuring run: offsets move, no memory behind them */
} cr_arena;

/* Makes the block at least `bytes` long; existing pieces die if it moves. */
int cr_arena_reserve(cr_arena *arena, size_t bytes);
void cr_arena_reset(cr_arena *arena);
void cr_arena_free(cr_arena *arena);

/* A piece of count × size bytes, 64-byte aligned; NULL with the message set
 * when the block is too small (the caller planned wrongly) or sizes overflow.
 * While planning, a non-NULL address that must not be touched. */
void *cr_arena_take(cr_arena *arena, size_t count, size_t size);

/* A run of pieces whose failure is looked at once, at the end: after the first one that does
 * not fit, every further piece is NULL. */
typedef struct cr_taker {
    cr_arena *arena;
    bool failed;
} cr_taker;

void *cr_take(cr_taker *taker, size_t count, size_t size);
float *cr_take_floats(cr_taker *taker, size_t rows, size_t columns);

/* Marks and rewinds: pieces taken after the mark die. */
size_t cr_arena_mark(const cr_arena *arena);
void cr_arena_rewind(cr_arena *arena, size_t mark);

#endif
