/* tensor_heap.c: storages, the heaps that keep spare ones, loans of other memory. */
#include "math/tensor_heap.h"

#include <stdio.h>
#include <string.h>

/* ---- heaps --------------------------------------------------------------------- */

#define SPARE_BLOCKS 16
#define LEAST_KEPT ((size_t)128 << 10) /* bytes from which a block is worth keeping */

struct cr_tensor_heap {
    size_t holders; /* its owner and the storages that use it */
    size_t held;    /* bytes of those storages */
    size_t most_spare, spare_bytes;
    size_t count;
    cr_storage *spare[SPARE_BLOCKS]; /* the last released last */
};

int cr_tensor_heap_create(cr_tensor_heap **out, size_t most_spare)
{
    cr_tensor_heap *heap = *out = cr_calloc(1, sizeof *heap);
    if (!heap)
        return CR_ENOMEM;
    heap->holders = 1;
    heap->most_spare = most_spare;
    return CR_OK;
}

static void forget_spare(cr_tensor_heap *heap, size_t index)
{
    heap->spare_bytes -= heap->spare[index]->capacity;
    heap->count--;
    memmove(heap->spare + index, heap->spare + index + 1,
            (heap->count - index) * sizeof *heap->spare);
}

static void drop_oldest(cr_tensor_heap *heap)
{
    cr_storage *oldest = heap->spare[0];
    forget_spare(heap, 0);
    cr_free(oldest);
}

static void heap_release(cr_tensor_heap *heap)
{
    if (!heap || --heap->holders > 0)
        return;
    while (heap->count > 0)
        drop_oldest(heap);
    cr_free(heap);
}

void cr_tensor_heap_close(cr_tensor_heap *heap)
{
    if (!heap)
        return;
    heap->most_spare = 0; /* what is released from now on goes back to the system */
    while (heap->count > 0)
        drop_oldest(heap);
    heap_release(heap);
}

size_t cr_tensor_heap_held(const cr_tensor_heap *heap)
{
    return heap->held;
}

/* Keeps a released block; false when it is too small or too large for that. */
static bool keep_spare(cr_tensor_heap *heap, cr_storage *storage)
{
    if (storage->capacity < LEAST_KEPT || storage->capacity > heap->most_spare)
        return false;
    while (heap->count == SPARE_BLOCKS || heap->spare_bytes + storage->capacity > heap->most_spare)
        drop_oldest(heap);
    heap->spare[heap->count++] = storage;
    heap->spare_bytes += storage->capacity;
    return true;
}

/* The block released last among those that fit and are not much too large. */
static cr_storage *take_spare(cr_tensor_heap *heap, size_t bytes)
{
    for (size_t i = heap->count; i-- > 0;) {
        cr_storage *found = heap->spare[i];
        if (found->capacity < bytes || found->capacity - bytes > bytes / 4)
            continue;
        forget_spare(heap, i);
        return found;
    }
    return NULL;
}

/* ---- loans ----------------------------------------------------------------------- */

#define REASON_BYTES 160

struct cr_loan {
    size_t holders; /* its owner and the storages under it */
    uint64_t generation;
    char reason[REASON_BYTES];
};

int cr_loan_create(cr_loan **out, const char *reason)
{
    cr_loan *loan = *out = cr_calloc(1, sizeof *loan);
    if (!loan)
        return CR_ENOMEM;
    loan->holders = 1;
    snprintf(loan->reason, sizeof loan->reason, "%s", reason);
    return CR_OK;
}

static void loan_release(cr_loan *loan)
{
    if (loan && --loan->holders == 0)
        cr_free(loan);
}

void cr_loan_end(cr_loan *loan)
{
    loan->generation++;
}

void cr_loan_close(cr_loan *loan)
{
    if (!loan)
        return;
    cr_loan_end(loan);
    loan_release(loan);
}

/* ---- storages ----------------------------------------------------------------------- */

/* The values begin behind the header, in a cache line of their own. */
#define HEADER_BYTES ((sizeof(cr_storage) + 63) / 64 * 64)

void cr_storage_use_heap(cr_storage *storage, cr_tensor_heap *heap)
{
    if (storage->heap == heap)
        return;
    if (storage->heap)
        storage->heap->held -= storage->bytes;
    heap_release(storage->heap);
    storage->heap = heap;
    if (!heap)
        return;
    heap->holders++;
    heap->held += storage->bytes;
}

cr_storage *cr_storage_create(cr_tensor_heap *heap, size_t bytes)
{
    cr_storage *storage = heap ? take_spare(heap, bytes) : NULL;
    size_t capacity = storage ? storage->capacity : bytes;
    if (!storage)
        storage = cr_alloc_plain(HEADER_BYTES + bytes);
    if (!storage)
        return NULL;
    *storage = (cr_storage){.holders = 1, .bytes = bytes, .capacity = capacity};
    storage->values = (char *)storage + HEADER_BYTES;
    cr_storage_use_heap(storage, heap);
    return storage;
}

cr_storage *cr_storage_borrow(void *values, cr_loan *loan)
{
    cr_storage *storage = cr_alloc(sizeof *storage);
    if (!storage)
        return NULL;
    *storage =
        (cr_storage){.holders = 1, .values = values, .loan = loan, .generation = loan->generation};
    loan->holders++;
    return storage;
}

void cr_storage_release(cr_storage *storage)
{
    if (--storage->holders > 0)
        return;
    cr_tensor_heap *heap = storage->heap;
    loan_release(storage->loan);
    if (heap)
        heap->held -= storage->bytes;
    if (!heap || !keep_spare(heap, storage))
        cr_free(storage);
    heap_release(heap);
}

bool cr_storage_usable(const cr_storage *storage, const char **reason)
{
    const cr_loan *loan = storage->loan;
    *reason = loan ? loan->reason : "";
    return !loan || loan->generation == storage->generation;
}
