/* tensor.h: what the files of tensors share: memory, shapes, walks over strided values.
 *
 * What this is: the inside of cr_tensor (crucible.h, "tensors"). One idea a file:
 *   tensor_heap.h         memory, spare blocks, loans
 *   tensor.c              tensors over that memory, views, copies
 *   tensor_shape.c        shapes as text, broadcasting, axes
 *   tensor_walk.c         one loop over several strided operands
 *   tensor_make.c         ranges, random numbers, reading and writing
 *   tensor_elementwise.c  unary, binary, where, clamp, in-place operations
 *   tensor_reduce.c       sums, products, extremes, norms
 *   tensor_softmax.c      softmax and its kin
 *   tensor_matmul.c       products of matrices
 *   tensor_index.c        gather, scatter, select
 *   tensor_order.c        sort, cumulative sums
 *   tensor_kernels.h      the inner loops, by type and instruction set
 * What it is not: differentiation; a slope is computed where it is asked for.
 *
 * Ownership: tensors hold their storage, borrowed ones also their loan; both are counted without
 * locks, so tensors of one memory stay on one thread.
 */
#ifndef CR_TENSOR_H
#define CR_TENSOR_H

#include "math/tensor_heap.h"

struct cr_tensor {
    cr_storage *storage;
    char *data; /* the first value */
    int type;
    int rank;
    size_t count;
    size_t shape[CR_MAX_RANK];
    ptrdiff_t stride[CR_MAX_RANK]; /* in values */
};

/* ---- shapes (tensor_shape.c) ------------------------------------------------- */

#define CR_SHAPE_TEXT 144

/* "[3, 4]" in the buffer, which is returned. */
const char *cr_shape_text(char buffer[CR_SHAPE_TEXT], int rank, const size_t *shape);

/* CR_EARG for a rank or type out of range, CR_ENOMEM when count or bytes overflow. */
int cr_shape_count(size_t *count, const char *what, int type, int rank, const size_t *shape);

bool cr_shape_equal(const cr_tensor *a, const cr_tensor *b);

/* The shape to which all operands broadcast; CR_EARG names `what` and both shapes. */
int cr_shape_broadcast(int *rank, size_t *shape, const char *what, const cr_tensor *const *operands,
                       int count);

/* CR_EARG unless 0 <= axis < rank. */
int cr_shape_axis(const char *what, const cr_tensor *x, int axis);

/* A tensor seen along an axis: [outer, length, inner]. */
typedef struct cr_lines {
    size_t outer, length, inner;
} cr_lines;

cr_lines cr_lines_along(const cr_tensor *x, int axis); /* CR_ALL_AXES: one line */

/* ---- tensors (tensor.c) --------------------------------------------------------- */

static inline size_t cr_type_size(int type)
{
    return type == CR_F64 ? sizeof(double) : sizeof(float);
}

/* CR_EARG with "<what>: tensor is closed" or "... is gone: <reason>"; without `what` from "tensor" on. */
int cr_tensor_usable(const char *what, const cr_tensor *tensor);

/* Also refuses a tensor in which one value stands at several places. */
int cr_tensor_writable(const char *what, const cr_tensor *tensor);

/* A contiguous tensor whose values are still to be written, out of the same heap as `like` (or NULL). */
int cr_tensor_make(cr_tensor **out, const char *what, const cr_tensor *like, int type, int rank,
                   const size_t *shape);

/* Steps between neighbours on each axis of a contiguous tensor. */
void cr_tensor_set_shape(cr_tensor *tensor, int rank, const size_t *shape);

bool cr_tensor_is_contiguous(const cr_tensor *tensor);

/* An operand as the loops want it: contiguous and of `type`, the tensor itself where it already is
 * so. Released by cr_tensor_close like any other. */
int cr_tensor_operand(cr_tensor **out, const cr_tensor *tensor, int type);

/* Says that the values changed. */
static inline void cr_tensor_touch(cr_tensor *tensor)
{
    tensor->storage->version++;
}

/* to[...] = from[...], of the same shape, converting types; strides may be any. */
void cr_tensor_transfer(const cr_tensor *to, const cr_tensor *from);

/* ---- walks (tensor_walk.c) ---------------------------------------------------------- */

#define CR_MAX_OPERANDS 4

/* One pass over several operands of one shape. Operand 0 is written, the others are read; at[]
 * points at the run's first values, step[] is 1 or, for inputs where it was allowed, 0. */
typedef void (*cr_run)(const void *context, char *const *at, const size_t *step, size_t count);

typedef struct cr_walk {
    int operands, rank;
    size_t shape[CR_MAX_RANK];
    ptrdiff_t stride[CR_MAX_OPERANDS][CR_MAX_RANK]; /* bytes */
    char *data[CR_MAX_OPERANDS];
    size_t size[CR_MAX_OPERANDS]; /* bytes a value */
    bool repeats;                 /* runs take inputs of step 0; else these are written out */
    bool strided;                 /* runs take any steps, in bytes (as ptrdiff_t) */
} cr_walk;

/* Every operand broadcasts to the shape; axes that all can take as one are merged. */
void cr_walk_begin(cr_walk *walk, int rank, const size_t *shape, const cr_tensor *const *operands,
                   int count);
void cr_walk_over(const cr_walk *walk, cr_run run, const void *context);

/* Moves `count` values of `size` bytes that lie the given bytes apart. */
void cr_copy_strided(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step,
                     size_t size, size_t count);

#endif
