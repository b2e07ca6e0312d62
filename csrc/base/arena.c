/* arena.c: one block, handed out by bumping an offset. */
#include "base/arena.h"

#define PIECE_ALIGNMENT 64

int cr_arena_reserve(cr_arena *arena, size_t bytes)
{
    if (bytes <= arena->capacity)
        return CR_OK;
    unsigned char *block = cr_alloc(bytes);
    if (!block)
        return CR_ENOMEM;
    cr_free(arena->block);
    arena->block = block;
    arena->capacity = bytes;
    arena->used = 0;
    return CR_OK;
}

void cr_arena_reset(cr_arena *arena)
{
    arena->used = 0;
}

void cr_arena_free(cr_arena *arena)
{
    cr_free(arena->block);
    *arena = (cr_arena){0};
}

static bool piece_bytes(size_t *out, size_t count, size_t size)
{
    size_t bytes;
    if (!cr_size_mul(&bytes, count, size) || !cr_size_add(&bytes, bytes, PIECE_ALIGNMENT - 1))
        return false;
    *out = bytes & ~(size_t)(PIECE_ALIGNMENT - 1);
    return true;
}

void *cr_arena_take(cr_arena *arena, size_t count, size_t size)
{
    static unsigned char nowhere[PIECE_ALIGNMENT];
    size_t bytes, end;
    if (!piece_bytes(&bytes, count, size) || !cr_size_add(&end, arena->used, bytes) ||
        (!arena->planning && end > arena->capacity)) {
        cr_fail(CR_ENOMEM, "work space: %zu items of %zu bytes do not fit in %zu of %zu bytes",
                count, size, arena->capacity - arena->used, arena->capacity);
        return NULL;
    }
    void *piece = arena->planning ? (void *)nowhere : (void *)(arena->block + arena->used);
    arena->used = end;
    if (end > arena->peak)
        arena->peak = end;
    return piece;
}

void *cr_take(cr_taker *taker, size_t count, size_t size)
{
    void *piece = taker->failed ? NULL : cr_arena_take(taker->arena, count, size);
    taker->failed = taker->failed || !piece;
    return piece;
}

float *cr_take_floats(cr_taker *taker, size_t rows, size_t columns)
{
    size_t count;
    if (!cr_size_mul(&count, rows, columns))
        count = SIZE_MAX;
    return cr_take(taker, count, sizeof(float));
}

size_t cr_arena_mark(const cr_arena *arena)
{
    return arena->used;
}

void cr_arena_rewind(cr_arena *arena, size_t mark)
{
    arena->used = mark;
}
