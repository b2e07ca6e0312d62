/* tensor_walk.c: one loop over several strided operands, in runs of neighbouring values.
 *
 * Axes are merged where every operand steps through them as through one, so that contiguous
 * operands become a single run. Operands whose values do not lie side by side are carried through
 * small buffers, so that the loops behind a run know contiguous values alone. */
#include "math/tensor.h"

#include <string.h>

#define STAGED 256 /* values a buffer */

static void place_operand(cr_walk *walk, int index, const cr_tensor *x)
{
    walk->data[index] = x->data;
    walk->size[index] = cr_type_size(x->type);
    for (int i = 0; i < walk->rank; i++) {
        int own = i - (walk->rank - x->rank);
        bool repeated = own < 0 || x->shape[own] == 1;
        walk->stride[index][i] = repeated ? 0 : x->stride[own] * (ptrdiff_t)walk->size[index];
    }
}

static bool can_merge(const cr_walk *walk, int outer, int inner)
{
    for (int i = 0; i < walk->operands; i++)
        if (walk->stride[i][outer] != walk->stride[i][inner] * (ptrdiff_t)walk->shape[inner])
            return false;
    return true;
}

static void move_axis(cr_walk *walk, int to, int from)
{
    walk->shape[to] = walk->shape[from];
    for (int i = 0; i < walk->operands; i++)
        walk->stride[i][to] = walk->stride[i][from];
}

static void merge_axes(cr_walk *walk)
{
    int last = -1;
    for (int i = 0; i < walk->rank; i++) {
        if (walk->shape[i] == 1)
            continue;
        if (last >= 0 && can_merge(walk, last, i)) {
            walk->shape[i] *= walk->shape[last];
            last--;
        }
        move_axis(walk, ++last, i);
    }
    walk->rank = last + 1;
}

void cr_walk_begin(cr_walk *walk, int rank, const size_t *shape, const cr_tensor *const *operands,
                   int count)
{
    memset(walk, 0, sizeof *walk);
    walk->rank = rank;
    walk->operands = count;
    memcpy(walk->shape, shape, (size_t)rank * sizeof *shape);
    for (int i = 0; i < count; i++)
        place_operand(walk, i, operands[i]);
    merge_axes(walk);
}

/* ---- runs ---------------------------------------------------------------------- */

void cr_copy_strided(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step,
                     size_t size, size_t count)
{
    bool dense = to_step == (ptrdiff_t)size && from_step == (ptrdiff_t)size;
    if (dense)
        memcpy(to, from, count * size);
    else if (size == sizeof(double))
        for (size_t i = 0; i < count; i++, to += to_step, from += from_step)
            memcpy(to, from, sizeof(double));
    else
        for (size_t i = 0; i < count; i++, to += to_step, from += from_step)
            memcpy(to, from, sizeof(float));
}

/* A run whose operands do not all lie as the loop wants them, in pieces that fit the buffers. */
static void staged_run(const cr_walk *walk, const ptrdiff_t *inner, const bool *staged,
                       char *const *start, size_t length, cr_run run, const void *context)
{
    double buffers[CR_MAX_OPERANDS][STAGED];
    char *at[CR_MAX_OPERANDS];
    size_t step[CR_MAX_OPERANDS];
    for (size_t done = 0; done < length; done += STAGED) {
        size_t count = length - done < STAGED ? length - done : STAGED;
        for (int i = 0; i < walk->operands; i++) {
            char *from = start[i] + (ptrdiff_t)done * inner[i];
            at[i] = staged[i] ? (char *)buffers[i] : from;
            step[i] = staged[i] || inner[i] != 0;
            if (staged[i])
                cr_copy_strided(at[i], (ptrdiff_t)walk->size[i], from, inner[i], walk->size[i],
                                count);
        }
        run(context, at, step, count);
        if (staged[0])
            cr_copy_strided(start[0] + (ptrdiff_t)done * inner[0], inner[0], at[0],
                            (ptrdiff_t)walk->size[0], walk->size[0], count);
    }
}

/* How the innermost axis is run through. */
typedef struct plan {
    ptrdiff_t inner[CR_MAX_OPERANDS]; /* bytes from value to value */
    size_t step[CR_MAX_OPERANDS];
    bool staged[CR_MAX_OPERANDS], any_staged;
    size_t length;
} plan;

static plan make_plan(const cr_walk *walk)
{
    plan made = {.length = walk->rank ? walk->shape[walk->rank - 1] : 1};
    for (int i = 0; i < walk->operands; i++) {
        ptrdiff_t size = (ptrdiff_t)walk->size[i];
        made.inner[i] = walk->rank ? walk->stride[i][walk->rank - 1] : size;
        if (walk->strided) {
            made.step[i] = (size_t)made.inner[i];
            continue;
        }
        made.step[i] = made.inner[i] != 0;
        bool allowed = i > 0 && walk->repeats && made.inner[i] == 0;
        made.staged[i] = made.inner[i] != size && !allowed;
        made.any_staged |= made.staged[i];
    }
    return made;
}

/* Moves to the next run; false after the last. */
static bool advance(const cr_walk *walk, size_t *index, char **at)
{
    for (int axis = walk->rank - 2; axis >= 0; axis--) {
        for (int i = 0; i < walk->operands; i++)
            at[i] += walk->stride[i][axis];
        if (++index[axis] < walk->shape[axis])
            return true;
        index[axis] = 0;
        for (int i = 0; i < walk->operands; i++)
            at[i] -= walk->stride[i][axis] * (ptrdiff_t)walk->shape[axis];
    }
    return false;
}

void cr_walk_over(const cr_walk *walk, cr_run run, const void *context)
{
    size_t index[CR_MAX_RANK] = {0};
    char *at[CR_MAX_OPERANDS];
    for (int i = 0; i < walk->rank; i++)
        if (walk->shape[i] == 0)
            return;
    memcpy(at, walk->data, sizeof at);
    plan inner = make_plan(walk);
    do {
        if (inner.any_staged)
            staged_run(walk, inner.inner, inner.staged, at, inner.length, run, context);
        else
            run(context, at, inner.step, inner.length);
    } while (advance(walk, index, at));
}
