/* tensor_heap.h: the memory behind tensors: counted blocks, and spare ones kept for the next.
 *
 * What this is: where the storages of tensors come from and go to. A block of megabytes that is
 * asked of the system anew costs as much as the operation that fills it, because every page is
 * faulted in and cleared; so a heap keeps what was released, up to a limit, and gives it out again.
 * What it is not: an arena; small blocks are malloc's business.
 *
 * Ownership: a heap lives until it is closed and the last storage that uses it is released. Counted
 * without locks, like storages: one thread.
 */
#ifndef CR_TENSOR_HEAP_H
#define CR_TENSOR_HEAP_H

#include "base/base.h"

/* Memory that tensors share; the values follow in the same block unless they are somebody else's. */
typedef struct cr_storage {
    size_t holders;
    size_t bytes;     /* of the values, 0 where they are borrowed */
    size_t capacity;  /* of the block, behind the header */
    uint64_t version; /* counts writes */
    void *values;
    cr_tensor_heap *heap; /* or NULL */
    cr_loan *loan;        /* NULL: own memory */
    uint64_t generation;  /* of the loan when it was lent */
} cr_storage;

/* A storage of that many bytes, out of the heap where there is one. NULL with the message set when
 * there is no memory. */
cr_storage *cr_storage_create(cr_tensor_heap *heap, size_t bytes);

/* A storage over `values` of somebody else. */
cr_storage *cr_storage_borrow(void *values, cr_loan *loan);

/* One holder fewer; the last one releases it. */
void cr_storage_release(cr_storage *storage);

void cr_storage_use_heap(cr_storage *storage, cr_tensor_heap *heap);

/* Whether the memory is still there; else the reason why it is not. */
bool cr_storage_usable(const cr_storage *storage, const char **reason);

#endif
