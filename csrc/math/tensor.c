/* tensor.c: tensors over storages, views, copies. */
#include "math/tensor.h"

#include <string.h>

#include "math/tensor_kernels.h"

/* ---- tensors --------------------------------------------------------------------- */

int cr_tensor_usable(const char *what, const cr_tensor *tensor)
{
    const char *colon = what ? ": " : "";
    what = what ? what : "";
    if (!tensor)
        return cr_fail(CR_EARG, "%s%stensor is closed", what, colon);
    const char *reason;
    if (!cr_storage_usable(tensor->storage, &reason))
        return cr_fail(CR_EARG, "%s%stensor is gone: %s", what, colon, reason);
    return CR_OK;
}

int cr_tensor_writable(const char *what, const cr_tensor *tensor)
{
    CR_TRY(cr_tensor_usable(what, tensor));
    for (int i = 0; i < tensor->rank; i++)
        if (tensor->count > 0 && tensor->shape[i] > 1 && tensor->stride[i] == 0)
            return cr_fail(CR_EARG, "%s: an expanded tensor cannot be written; copy it first",
                           what);
    return CR_OK;
}

void cr_tensor_set_shape(cr_tensor *tensor, int rank, const size_t *shape)
{
    size_t count = 1;
    memmove(tensor->shape, shape, (size_t)rank * sizeof *shape);
    for (int i = rank - 1; i >= 0; i--) {
        tensor->stride[i] = (ptrdiff_t)count;
        count *= tensor->shape[i];
    }
    tensor->rank = rank;
    tensor->count = count;
}

static int tensor_over(cr_tensor **out, cr_storage *storage, int type, int rank,
                       const size_t *shape)
{
    cr_tensor *tensor = *out = storage ? cr_calloc(1, sizeof *tensor) : NULL;
    if (!tensor) {
        if (storage)
            cr_storage_release(storage);
        return CR_ENOMEM;
    }
    tensor->storage = storage;
    tensor->data = storage->values;
    tensor->type = type;
    cr_tensor_set_shape(tensor, rank, shape);
    return CR_OK;
}

int cr_tensor_make(cr_tensor **out, const char *what, const cr_tensor *like, int type, int rank,
                   const size_t *shape)
{
    size_t count;
    *out = NULL;
    CR_TRY(cr_shape_count(&count, what, type, rank, shape));
    cr_tensor_heap *heap = like ? like->storage->heap : NULL;
    return tensor_over(out, cr_storage_create(heap, count * cr_type_size(type)), type, rank, shape);
}

int cr_tensor_create(cr_tensor **out, int type, int rank, const size_t *shape)
{
    CR_TRY(cr_tensor_make(out, "zeros", NULL, type, rank, shape));
    memset((*out)->data, 0, (*out)->count * cr_type_size(type));
    return CR_OK;
}

int cr_tensor_borrow(cr_tensor **out, int type, int rank, const size_t *shape, void *data,
                     cr_loan *loan)
{
    size_t count;
    *out = NULL;
    CR_TRY(cr_shape_count(&count, "borrow", type, rank, shape));
    return tensor_over(out, cr_storage_borrow(data, loan), type, rank, shape);
}

void cr_tensor_close(cr_tensor *tensor)
{
    if (!tensor)
        return;
    cr_storage_release(tensor->storage);
    cr_free(tensor);
}

int cr_tensor_use_heap(cr_tensor *tensor, cr_tensor_heap *heap)
{
    CR_TRY(cr_tensor_usable(NULL, tensor));
    cr_storage_use_heap(tensor->storage, heap);
    return CR_OK;
}

bool cr_tensor_is_contiguous(const cr_tensor *tensor)
{
    ptrdiff_t expected = 1;
    if (tensor->count <= 1)
        return true;
    for (int i = tensor->rank - 1; i >= 0; i--) {
        if (tensor->shape[i] != 1 && tensor->stride[i] != expected)
            return false;
        expected *= (ptrdiff_t)tensor->shape[i];
    }
    return true;
}

int cr_tensor_describe(const cr_tensor *tensor, cr_tensor_info *out)
{
    CR_TRY(cr_tensor_usable(NULL, tensor));
    *out = (cr_tensor_info){.type = tensor->type,
                            .rank = tensor->rank,
                            .count = tensor->count,
                            .contiguous = cr_tensor_is_contiguous(tensor),
                            .borrowed = tensor->storage->loan != NULL,
                            .shared = tensor->storage->holders > 1,
                            .bytes = tensor->storage->bytes,
                            .version = tensor->storage->version};
    memcpy(out->shape, tensor->shape, sizeof out->shape);
    return CR_OK;
}

/* ---- views ------------------------------------------------------------------------- */

static int view_of(cr_tensor **out, const char *what, const cr_tensor *tensor)
{
    *out = NULL;
    CR_TRY(cr_tensor_usable(what, tensor));
    cr_tensor *view = cr_alloc(sizeof *view);
    if (!view)
        return CR_ENOMEM;
    *view = *tensor;
    view->storage->holders++;
    *out = view;
    return CR_OK;
}

int cr_tensor_view(cr_tensor **out, const cr_tensor *tensor)
{
    return view_of(out, "view", tensor);
}

int cr_tensor_permute(cr_tensor **out, const cr_tensor *tensor, const int *axes)
{
    unsigned seen = 0;
    *out = NULL;
    CR_TRY(cr_tensor_usable("permute", tensor));
    for (int i = 0; i < tensor->rank; i++) {
        CR_TRY(cr_shape_axis("permute", tensor, axes[i]));
        if (seen & 1u << axes[i])
            return cr_fail(CR_EARG, "permute: an axis is named twice");
        seen |= 1u << axes[i];
    }
    CR_TRY(view_of(out, "permute", tensor));
    for (int i = 0; i < tensor->rank; i++) {
        (*out)->shape[i] = tensor->shape[axes[i]];
        (*out)->stride[i] = tensor->stride[axes[i]];
    }
    return CR_OK;
}

/* Whether each axis of x is the target's, or 1, counted from the last. */
static bool can_expand(const cr_tensor *x, int rank, const size_t *shape)
{
    for (int i = 0; i < x->rank; i++) {
        int to = i + rank - x->rank;
        if (to < 0 || (x->shape[i] != 1 && x->shape[i] != shape[to]))
            return false;
    }
    return true;
}

int cr_tensor_expand(cr_tensor **out, const cr_tensor *tensor, int rank, const size_t *shape)
{
    char from[CR_SHAPE_TEXT], to[CR_SHAPE_TEXT];
    size_t count;
    *out = NULL;
    CR_TRY(cr_tensor_usable("expand", tensor));
    CR_TRY(cr_shape_count(&count, "expand", tensor->type, rank, shape));
    if (!can_expand(tensor, rank, shape))
        return cr_fail(CR_EARG, "expand: shape %s does not broadcast to %s",
                       cr_shape_text(from, tensor->rank, tensor->shape),
                       cr_shape_text(to, rank, shape));
    CR_TRY(view_of(out, "expand", tensor));
    for (int i = 0; i < rank; i++) {
        int own = i - (rank - tensor->rank);
        bool kept = own >= 0 && tensor->shape[own] == shape[i];
        (*out)->stride[i] = kept ? tensor->stride[own] : 0;
        (*out)->shape[i] = shape[i];
    }
    (*out)->rank = rank;
    (*out)->count = count;
    return CR_OK;
}

int cr_tensor_slice(cr_tensor **out, const cr_tensor *tensor, int axis, size_t start, size_t count,
                    size_t step)
{
    char text[CR_SHAPE_TEXT];
    *out = NULL;
    CR_TRY(cr_tensor_usable("slice", tensor));
    CR_TRY(cr_shape_axis("slice", tensor, axis));
    size_t size = tensor->shape[axis];
    bool fits =
        step > 0 && (count == 0 || (start < size && count - 1 <= (size - 1 - start) / step));
    if (!fits)
        return cr_fail(CR_EARG,
                       "slice: %zu positions from %zu, %zu apart, are not all on axis %d of %s",
                       count, start, step, axis, cr_shape_text(text, tensor->rank, tensor->shape));
    CR_TRY(view_of(out, "slice", tensor));
    cr_tensor *view = *out;
    if (count > 0)
        view->data += (ptrdiff_t)start * view->stride[axis] * (ptrdiff_t)cr_type_size(view->type);
    view->stride[axis] *= (ptrdiff_t)(count > 1 ? step : 1);
    view->shape[axis] = count;
    view->count = 1;
    for (int i = 0; i < view->rank; i++)
        view->count *= view->shape[i];
    return CR_OK;
}

/* Steps of the new shape when it differs in axes of size 1 alone. */
static bool steps_beside_ones(ptrdiff_t *stride, const cr_tensor *x, int rank, const size_t *shape)
{
    int own = 0;
    for (int i = 0; i < rank; i++) {
        stride[i] = 0;
        if (shape[i] == 1)
            continue;
        while (own < x->rank && x->shape[own] == 1)
            own++;
        if (own == x->rank || x->shape[own] != shape[i])
            return false;
        stride[i] = x->stride[own++];
    }
    return true;
}

int cr_tensor_reshape(cr_tensor **out, const cr_tensor *tensor, int rank, const size_t *shape)
{
    char from[CR_SHAPE_TEXT], to[CR_SHAPE_TEXT];
    ptrdiff_t stride[CR_MAX_RANK] = {0};
    size_t count;
    *out = NULL;
    CR_TRY(cr_tensor_usable("reshape", tensor));
    CR_TRY(cr_shape_count(&count, "reshape", tensor->type, rank, shape));
    if (count != tensor->count)
        return cr_fail(CR_EARG, "reshape: shape %s holds %zu values, %s would hold %zu",
                       cr_shape_text(from, tensor->rank, tensor->shape), tensor->count,
                       cr_shape_text(to, rank, shape), count);
    bool beside_ones = count > 0 && steps_beside_ones(stride, tensor, rank, shape);
    CR_TRY(beside_ones ? cr_tensor_view(out, tensor) : cr_tensor_contiguous(out, tensor));
    cr_tensor_set_shape(*out, rank, shape);
    if (beside_ones)
        memcpy((*out)->stride, stride, sizeof stride);
    return CR_OK;
}

/* ---- copies ------------------------------------------------------------------------- */

typedef struct transfer {
    void (*convert)(void *to, const void *from, size_t count);
    size_t size; /* bytes a value, where the types are the same */
} transfer;

static void convert_run(const void *context, char *const *at, const size_t *step, size_t count)
{
    (void)step;
    ((const transfer *)context)->convert(at[0], at[1], count);
}

static void move_run(const void *context, char *const *at, const size_t *step, size_t count)
{
    size_t size = ((const transfer *)context)->size;
    cr_copy_strided(at[0], (ptrdiff_t)step[0], at[1], (ptrdiff_t)step[1], size, count);
}

void cr_tensor_transfer(const cr_tensor *to, const cr_tensor *from)
{
    const cr_tensor *operands[] = {to, from};
    transfer context = {cr_tensor_kernels_select(to->type)->convert[from->type],
                        cr_type_size(to->type)};
    cr_walk walk;
    cr_walk_begin(&walk, to->rank, to->shape, operands, 2);
    walk.strided = to->type == from->type;
    cr_walk_over(&walk, walk.strided ? move_run : convert_run, &context);
}

static int copy_as(cr_tensor **out, const char *what, const cr_tensor *tensor, int type)
{
    *out = NULL;
    CR_TRY(cr_tensor_usable(what, tensor));
    CR_TRY(cr_tensor_make(out, what, tensor, type, tensor->rank, tensor->shape));
    cr_tensor_transfer(*out, tensor);
    return CR_OK;
}

int cr_tensor_copy(cr_tensor **out, const cr_tensor *tensor, int type)
{
    return copy_as(out, "copy", tensor, type);
}

int cr_tensor_operand(cr_tensor **out, const cr_tensor *tensor, int type)
{
    if (tensor && tensor->type == type && cr_tensor_is_contiguous(tensor))
        return view_of(out, "operand", tensor);
    return copy_as(out, "operand", tensor, type);
}

int cr_tensor_contiguous(cr_tensor **out, const cr_tensor *tensor)
{
    return cr_tensor_operand(out, tensor, tensor ? tensor->type : CR_F64);
}
