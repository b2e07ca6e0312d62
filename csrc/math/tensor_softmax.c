/* tensor_softmax.c: softmax, log-softmax and log-sum-exp along an axis, shifted by the maximum.
 *
 * Lines are worked on where they are contiguous: another axis is first brought to the end, and
 * the result is seen back through the same exchange. */
#include "math/tensor.h"

#include <math.h>

#include "math/tensor_kernels.h"

static const char *const names[] = {"softmax", "log_softmax", "logsumexp"};

/* ---- the axis at the end ------------------------------------------------------------ */

/* A view with the axis exchanged for the last one; its own inverse. */
static int exchange(cr_tensor **out, const cr_tensor *x, int axis)
{
    int axes[CR_MAX_RANK];
    for (int i = 0; i < x->rank; i++)
        axes[i] = i;
    axes[axis] = x->rank - 1;
    axes[x->rank - 1] = axis;
    return cr_tensor_permute(out, x, axes);
}

/* The lines of x, contiguous and of `type`. */
static int lines_of(cr_tensor **out, const cr_tensor *x, int axis, int type)
{
    cr_tensor *view;
    CR_TRY(exchange(&view, x, axis));
    int code = cr_tensor_operand(out, view, type);
    cr_tensor_close(view);
    return code;
}

/* The result as it was asked for, of lines that are released. */
static int give_back(cr_tensor **out, cr_tensor *lines, int axis, int code)
{
    if (code == CR_OK)
        code = exchange(out, lines, axis);
    cr_tensor_close(lines);
    return code;
}

static int make_lines(cr_tensor **out, const cr_tensor *like, int op)
{
    size_t shape[CR_MAX_RANK];
    for (int i = 0; i < like->rank; i++)
        shape[i] = like->shape[i];
    if (op == CR_LOGSUMEXP)
        shape[like->rank - 1] = 1;
    return cr_tensor_make(out, names[op], like, like->type, like->rank, shape);
}

/* ---- forward --------------------------------------------------------------------------- */

/* Where all are -inf or one is inf there is nothing to shift by: the exponentials decide. */
static double shift_of(const cr_tensor_kernels *kernels, const void *x, size_t length)
{
    double largest = kernels->fold[CR_FOLD_MAX](x, length);
    return isinf(largest) ? 0 : largest;
}

static void forward_line(const cr_tensor_kernels *kernels, cr_softmax op, void *out, const void *x,
                         size_t length)
{
    double shift = shift_of(kernels, x, length), sum;
    switch (op) {
    case CR_SOFTMAX:
        sum = kernels->exp_shifted(out, x, shift, length);
        kernels->scale(out, 1 / sum, length);
        break;
    case CR_LOG_SOFTMAX:
        sum = kernels->exp_shifted_sum(x, shift, length);
        kernels->shift(out, x, shift + log(sum), length);
        break;
    case CR_LOGSUMEXP:
        sum = kernels->exp_shifted_sum(x, shift, length);
        kernels->fill(out, shift + log(sum), 1);
        break;
    }
}

static int check(cr_softmax op, const cr_tensor *x, int axis)
{
    if ((unsigned)op > CR_LOGSUMEXP)
        return cr_fail(CR_EARG, "there is no such softmax");
    CR_TRY(cr_tensor_usable(names[op], x));
    return cr_shape_axis(names[op], x, axis);
}

static char *line_at(const cr_tensor *lines, size_t i)
{
    return lines->data + i * lines->shape[lines->rank - 1] * cr_type_size(lines->type);
}

int cr_tensor_softmax(cr_tensor **out, cr_softmax op, const cr_tensor *x, int axis)
{
    cr_tensor *lines, *result = NULL;
    *out = NULL;
    CR_TRY(check(op, x, axis));
    CR_TRY(lines_of(&lines, x, axis, x->type));
    int code = make_lines(&result, lines, op);
    size_t length = x->shape[axis], count = length ? lines->count / length : 0;
    if (code == CR_OK && op == CR_LOGSUMEXP && length == 0)
        code = cr_tensor_fill(result, -INFINITY);
    for (size_t i = 0; code == CR_OK && i < count; i++)
        forward_line(cr_tensor_kernels_select(x->type), op, line_at(result, i), line_at(lines, i),
                     length);
    cr_tensor_close(lines);
    return give_back(out, result, axis, code);
}

/* ---- backward ---------------------------------------------------------------------------- */

static double value_of(const cr_tensor *lines, size_t i)
{
    const void *at = line_at(lines, i);
    return lines->type == CR_F64 ? *(const double *)at : (double)*(const float *)at;
}

static void backward_line(cr_softmax op, cr_tensor *dx, const cr_tensor *dy, const cr_tensor *x,
                          const cr_tensor *y, size_t i)
{
    const cr_tensor_kernels *kernels = cr_tensor_kernels_select(dx->type);
    size_t length = dx->shape[dx->rank - 1];
    void *to = line_at(dx, i);
    const void *slope = line_at(dy, i), *value = line_at(y, i);
    switch (op) {
    case CR_SOFTMAX:
        kernels->softmax_slope(to, slope, value, kernels->dot(slope, value, length), length);
        break;
    case CR_LOG_SOFTMAX:
        kernels->log_softmax_slope(to, slope, value, kernels->fold[CR_FOLD_SUM](slope, length),
                                   length);
        break;
    case CR_LOGSUMEXP:
        kernels->logsumexp_slope(to, value_of(dy, i), line_at(x, i), value_of(y, i), length);
        break;
    }
}

/* Lines of dy, x and y, which fit each other. */
static int backward_lines(cr_tensor *lines[3], cr_softmax op, const cr_tensor *const given[3],
                          int axis)
{
    const cr_tensor *x = given[1];
    size_t one_each = x->shape[axis] ? x->count / x->shape[axis] : 0;
    for (int i = 0; i < 3; i++) {
        CR_TRY(cr_tensor_usable(names[op], given[i]));
        size_t expected = op == CR_LOGSUMEXP && i != 1 && x->count ? one_each : x->count;
        if (given[i]->rank != x->rank || (x->count && given[i]->count != expected))
            return cr_fail(CR_EARG, "%s: a slope of another shape", names[op]);
        CR_TRY(lines_of(&lines[i], given[i], axis, x->type));
    }
    return CR_OK;
}

int cr_tensor_softmax_slope(cr_tensor **out, cr_softmax op, const cr_tensor *dy, const cr_tensor *x,
                            const cr_tensor *y, int axis)
{
    cr_tensor *lines[3] = {NULL, NULL, NULL}, *dx = NULL;
    const cr_tensor *const given[3] = {dy, x, y};
    *out = NULL;
    CR_TRY(check(op, x, axis));
    int code = backward_lines(lines, op, given, axis);
    if (code == CR_OK)
        code = make_lines(&dx, lines[1], CR_SOFTMAX);
    size_t count = code == CR_OK && x->shape[axis] ? dx->count / x->shape[axis] : 0;
    for (size_t i = 0; i < count; i++)
        backward_line(op, dx, lines[0], lines[1], lines[2], i);
    for (int i = 0; i < 3; i++)
        cr_tensor_close(lines[i]);
    return give_back(out, dx, axis, code);
}
