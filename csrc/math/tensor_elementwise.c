/* tensor_elementwise.c: one value of the result from one value of each operand. */
#include "math/tensor.h"

#include <string.h>

#include "math/tensor_kernels.h"

static const char *const unary_names[CR_UNARY_COUNT] = {
    "neg", "abs", "sign", "exp",  "expm1", "log",     "log1p", "sqrt",
    "sin", "cos", "asin", "acos", "tanh",  "sigmoid", "relu",  "softplus",
};

static const char *const binary_names[CR_BINARY_COUNT] = {
    "add",
    "sub",
    "mul",
    "div",
    "pow",
    "maximum",
    "minimum",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "pow_base_slope",
    "pow_exponent_slope",
};

const char *cr_unary_name(cr_unary op)
{
    return (unsigned)op < CR_UNARY_COUNT ? unary_names[op] : NULL;
}

const char *cr_binary_name(cr_binary op)
{
    return (unsigned)op < CR_BINARY_COUNT ? binary_names[op] : NULL;
}

/* ---- operands of one type ---------------------------------------------------------- */

#define MOST 3 /* inputs of an operation */

/* Inputs of an operation as it reads them; `owned` are conversions to be released. */
typedef struct inputs {
    int count, type, rank;
    size_t shape[CR_MAX_RANK];
    const cr_tensor *given[MOST];
    cr_tensor *owned[MOST];
} inputs;

static void inputs_release(inputs *in)
{
    for (int i = 0; i < in->count; i++)
        cr_tensor_close(in->owned[i]);
}

static int inputs_convert(inputs *in)
{
    for (int i = 0; i < in->count; i++)
        if (in->given[i]->type != in->type) {
            CR_TRY(cr_tensor_copy(&in->owned[i], in->given[i], in->type));
            in->given[i] = in->owned[i];
        }
    return CR_OK;
}

/* Checks the given tensors, finds the shape and type in which they meet. */
static int inputs_meet(inputs *in, const char *what)
{
    if (!what)
        return cr_fail(CR_EARG, "there is no such operation on tensors");
    in->type = CR_F32;
    for (int i = 0; i < in->count; i++) {
        CR_TRY(cr_tensor_usable(what, in->given[i]));
        if (in->given[i]->type == CR_F64)
            in->type = CR_F64;
    }
    return cr_shape_broadcast(&in->rank, in->shape, what, in->given, in->count);
}

/* Runs over a new tensor of the inputs' shape and the inputs. */
static int inputs_run(cr_tensor **out, inputs *in, const char *what, cr_run run,
                      const void *context, bool repeats)
{
    int code = inputs_convert(in);
    if (code == CR_OK)
        code = cr_tensor_make(out, what, in->given[0], in->type, in->rank, in->shape);
    if (code == CR_OK) {
        const cr_tensor *operands[MOST + 1] = {*out};
        memcpy(operands + 1, in->given, sizeof in->given);
        cr_walk walk;
        cr_walk_begin(&walk, in->rank, in->shape, operands, in->count + 1);
        walk.repeats = repeats;
        cr_walk_over(&walk, run, context);
    }
    inputs_release(in);
    return code;
}

/* ---- unary -------------------------------------------------------------------------- */

typedef struct job {
    const cr_tensor_kernels *kernels;
    int op;
    double low, high;
} job;

static void unary_run(const void *context, char *const *at, const size_t *step, size_t count)
{
    const job *task = context;
    (void)step;
    task->kernels->unary[task->op](at[0], at[1], count);
}

int cr_tensor_unary(cr_tensor **out, cr_unary op, const cr_tensor *x)
{
    inputs in = {.count = 1, .given = {x}};
    *out = NULL;
    CR_TRY(inputs_meet(&in, cr_unary_name(op)));
    job task = {.kernels = cr_tensor_kernels_select(in.type), .op = (int)op};
    return inputs_run(out, &in, cr_unary_name(op), unary_run, &task, false);
}

static void unary_slope_run(const void *context, char *const *at, const size_t *step, size_t count)
{
    const job *task = context;
    (void)step;
    task->kernels->unary_slope[task->op](at[0], at[1], at[2], at[3], count);
}

int cr_tensor_unary_slope(cr_tensor **out, cr_unary op, const cr_tensor *dy, const cr_tensor *x,
                          const cr_tensor *y)
{
    inputs in = {.count = 3, .given = {dy, x, y}};
    *out = NULL;
    CR_TRY(inputs_meet(&in, cr_unary_name(op)));
    job task = {.kernels = cr_tensor_kernels_select(in.type), .op = (int)op};
    return inputs_run(out, &in, cr_unary_name(op), unary_slope_run, &task, false);
}

/* ---- binary --------------------------------------------------------------------------- */

static void binary_run(const void *context, char *const *at, const size_t *step, size_t count)
{
    const job *task = context;
    task->kernels->binary[task->op](at[0], at[1], step[1], at[2], step[2], count);
}

int cr_tensor_binary(cr_tensor **out, cr_binary op, const cr_tensor *a, const cr_tensor *b)
{
    inputs in = {.count = 2, .given = {a, b}};
    *out = NULL;
    CR_TRY(inputs_meet(&in, cr_binary_name(op)));
    job task = {.kernels = cr_tensor_kernels_select(in.type), .op = (int)op};
    return inputs_run(out, &in, cr_binary_name(op), binary_run, &task, true);
}

int cr_tensor_binary_number(cr_tensor **out, cr_binary op, const cr_tensor *x, double number,
                            bool number_first)
{
    *out = NULL;
    if (!cr_binary_name(op))
        return cr_fail(CR_EARG, "there is no such operation on tensors");
    CR_TRY(cr_tensor_usable(cr_binary_name(op), x));
    double value = number;
    if (x->type == CR_F32)
        memcpy(&value, &(float){(float)number}, sizeof(float));
    cr_storage storage = {.holders = 1, .heap = x->storage->heap};
    const cr_tensor scalar = {
        .storage = &storage, .data = (char *)&value, .type = x->type, .count = 1};
    return number_first ? cr_tensor_binary(out, op, &scalar, x)
                        : cr_tensor_binary(out, op, x, &scalar);
}

/* ---- where, clamp ------------------------------------------------------------------------ */

static void where_run(const void *context, char *const *at, const size_t *step, size_t count)
{
    (void)step;
    ((const job *)context)->kernels->where(at[0], at[1], at[2], at[3], count);
}

int cr_tensor_where(cr_tensor **out, const cr_tensor *condition, const cr_tensor *a,
                    const cr_tensor *b)
{
    inputs in = {.count = 3, .given = {condition, a, b}};
    *out = NULL;
    CR_TRY(inputs_meet(&in, "where"));
    if (a->type == CR_F32 && b->type == CR_F32)
        in.type = CR_F32; /* the condition's type says nothing about the values */
    job task = {.kernels = cr_tensor_kernels_select(in.type)};
    return inputs_run(out, &in, "where", where_run, &task, false);
}

static void clamp_run(const void *context, char *const *at, const size_t *step, size_t count)
{
    const job *task = context;
    (void)step;
    task->kernels->clamp(at[0], at[1], task->low, task->high, count);
}

int cr_tensor_clamp(cr_tensor **out, const cr_tensor *x, double low, double high)
{
    inputs in = {.count = 1, .given = {x}};
    *out = NULL;
    CR_TRY(inputs_meet(&in, "clamp"));
    job task = {.kernels = cr_tensor_kernels_select(in.type), .low = low, .high = high};
    return inputs_run(out, &in, "clamp", clamp_run, &task, false);
}

static void clamp_slope_run(const void *context, char *const *at, const size_t *step, size_t count)
{
    const job *task = context;
    (void)step;
    task->kernels->clamp_slope(at[0], at[1], at[2], task->low, task->high, count);
}

int cr_tensor_clamp_slope(cr_tensor **out, const cr_tensor *dy, const cr_tensor *x, double low,
                          double high)
{
    inputs in = {.count = 2, .given = {dy, x}};
    *out = NULL;
    CR_TRY(inputs_meet(&in, "clamp"));
    job task = {.kernels = cr_tensor_kernels_select(in.type), .low = low, .high = high};
    return inputs_run(out, &in, "clamp", clamp_slope_run, &task, false);
}

/* ---- in place -------------------------------------------------------------------------------- */

/* The source in the tensor's type and shape; a copy when it lies in the memory that is written. */
static int source_for(cr_tensor **out, const char *what, const cr_tensor *tensor,
                      const cr_tensor *source)
{
    char from[CR_SHAPE_TEXT], to[CR_SHAPE_TEXT];
    cr_tensor *own = NULL;
    *out = NULL;
    CR_TRY(cr_tensor_writable(what, tensor));
    CR_TRY(cr_tensor_usable(what, source));
    if (source->type != tensor->type || source->storage == tensor->storage)
        CR_TRY(cr_tensor_copy(&own, source, tensor->type));
    int code = cr_tensor_expand(out, own ? own : source, tensor->rank, tensor->shape);
    cr_tensor_close(own);
    if (code == CR_EARG)
        return cr_fail(CR_EARG, "%s: shape %s does not broadcast to %s in place", what,
                       cr_shape_text(from, source->rank, source->shape),
                       cr_shape_text(to, tensor->rank, tensor->shape));
    return code;
}

static void walk_in_place(cr_tensor *tensor, const cr_tensor *source, cr_run run,
                          const void *context)
{
    const cr_tensor *operands[] = {tensor, source};
    cr_walk walk;
    cr_walk_begin(&walk, tensor->rank, tensor->shape, operands, source ? 2 : 1);
    cr_walk_over(&walk, run, context);
    cr_tensor_touch(tensor);
}

static void fill_run(const void *context, char *const *at, const size_t *step, size_t count)
{
    const job *task = context;
    (void)step;
    task->kernels->fill(at[0], task->low, count);
}

int cr_tensor_fill(cr_tensor *tensor, double value)
{
    CR_TRY(cr_tensor_writable("fill", tensor));
    job task = {.kernels = cr_tensor_kernels_select(tensor->type), .low = value};
    walk_in_place(tensor, NULL, fill_run, &task);
    return CR_OK;
}

static void scale_run(const void *context, char *const *at, const size_t *step, size_t count)
{
    const job *task = context;
    (void)step;
    task->kernels->scale(at[0], task->low, count);
}

int cr_tensor_scale(cr_tensor *tensor, double factor)
{
    CR_TRY(cr_tensor_writable("scale", tensor));
    job task = {.kernels = cr_tensor_kernels_select(tensor->type), .low = factor};
    walk_in_place(tensor, NULL, scale_run, &task);
    return CR_OK;
}

int cr_tensor_assign(cr_tensor *tensor, const cr_tensor *source)
{
    cr_tensor *fitted;
    CR_TRY(source_for(&fitted, "assign", tensor, source));
    cr_tensor_transfer(tensor, fitted);
    cr_tensor_touch(tensor);
    cr_tensor_close(fitted);
    return CR_OK;
}

static void add_run(const void *context, char *const *at, const size_t *step, size_t count)
{
    const job *task = context;
    (void)step;
    task->kernels->add_scaled(at[0], at[1], task->low, count);
}

int cr_tensor_add(cr_tensor *tensor, const cr_tensor *source, double factor)
{
    cr_tensor *fitted;
    CR_TRY(source_for(&fitted, "add", tensor, source));
    job task = {.kernels = cr_tensor_kernels_select(tensor->type), .low = factor};
    walk_in_place(tensor, fitted, add_run, &task);
    cr_tensor_close(fitted);
    return CR_OK;
}
