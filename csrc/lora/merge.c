/* merge.c: the rows of V = W + scale · B A: their norms, and what DoRA makes of them (Liu et al., "DoRA:
 * Weight-Decomposed Low-Rank Adaptation", 2024, equation 5).
 *
 * A row is made whole and measured in double. ‖W‖² + 2 s ⟨W, BA⟩ + s² ‖BA‖² with a kept ‖W‖² costs as many
 * multiplications (W Aᵀ) and loses digits where B A takes away most of a row. */
#include <math.h>
#include <string.h>

#include "lora/lora.h"

#define ROWS 16 /* a task */

/* One projection with its branch. */
typedef struct composed {
    const cr_kernels *kernels;
    const cr_matrix *weight; /* [out, in] */
    const cr_branch *branch; /* or NULL */
} composed;

static bool is_zero(const float *values, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (values[i] != 0)
            return false;
    return true;
}

/* out [in] = row of V; delta [in] is work space. B A is summed before it meets W, whose digits it may not have. */
static void composed_row(float *out, float *delta, const composed *c, size_t row)
{
    const size_t in = c->weight->columns;
    cr_matrix_row(out, c->weight, row);
    if (!c->branch)
        return;
    const size_t rank = c->branch->rank;
    const float *b = c->branch->b + row * rank;
    if (is_zero(b, rank))
        return;
    memset(delta, 0, in * sizeof *delta);
    for (size_t k = 0; k < rank; k++)
        c->kernels->axpy(delta, b[k], c->branch->a + k * in, in);
    c->kernels->axpy(out, c->branch->scale, delta, in);
}

static float norm_of(const float *values, size_t count)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < count; i++)
        sum += (double)values[i] * (double)values[i];
    return (float)sqrt(sum);
}

/* A row without a direction has nothing to be stretched. */
static float gain_of(float magnitude, float norm)
{
    return norm > 0 ? magnitude / norm : 1.0f;
}

/* ---- norms of all modules ----------------------------------------------------------------------------- */

typedef struct norm_job {
    composed module;
    float *norms, *rows;
    size_t longest;
} norm_job;

static void norm_task(void *argument, size_t task, int thread)
{
    const norm_job *job = argument;
    const cr_matrix *weight = job->module.weight;
    float *row = job->rows + 2 * (size_t)thread * job->longest;
    for (size_t i = task * ROWS; i < (task + 1) * ROWS && i < weight->rows; i++) {
        composed_row(row, row + job->longest, &job->module, i);
        job->norms[i] = norm_of(row, weight->columns);
    }
}

static size_t branch_place(const cr_lora_module *module)
{
    return module->layer * CR_PROJECTIONS + (size_t)module->projection;
}

static const cr_matrix *weight_of(const cr_model *model, const cr_lora_module *module)
{
    return &model->layers[module->layer].projection[module->projection];
}

static void measure_norms(cr_lora *lora, cr_compute *compute, const cr_model *model)
{
    float *norms = lora->norms;
    for (size_t i = 0; i < lora->module_count; i++) {
        const cr_lora_module *module = &lora->modules[i];
        const cr_branch *branch = &lora->branches[branch_place(module)];
        norm_job job = {{compute->kernels, weight_of(model, module), branch},
                        norms + (branch->norm - lora->norms),
                        lora->rows,
                        cr_model_longest_row(model)};
        cr_parallel_for(compute->pool, (job.module.weight->rows + ROWS - 1) / ROWS, norm_task, &job);
    }
}

static const cr_lora_matrix *magnitudes_of(const cr_lora *lora, const cr_lora_module *module)
{
    return &lora->matrices[module->first + CR_PART_MAGNITUDE];
}

static void set_gains(cr_lora *lora)
{
    for (size_t i = 0; i < lora->module_count; i++) {
        const cr_lora_matrix *magnitudes = magnitudes_of(lora, &lora->modules[i]);
        const cr_branch *branch = &lora->branches[branch_place(&lora->modules[i])];
        const float *magnitude = lora->values + magnitudes->offset;
        float *gain = lora->gains + (branch->gain - lora->gains);
        for (size_t row = 0; row < magnitudes->rows; row++)
            gain[row] = gain_of(magnitude[row], branch->norm[row]);
    }
}

/* Norms are those of the present values from here on. */
static void note_values(cr_lora *lora)
{
    set_gains(lora);
    memcpy(lora->seen, lora->values, lora->floats * sizeof(float));
    lora->stale = false;
}

void cr_lora_start_magnitudes(cr_lora *lora, cr_compute *compute, const cr_model *model)
{
    if (!lora->dora)
        return;
    measure_norms(lora, compute, model);
    for (size_t i = 0; i < lora->module_count; i++) {
        const cr_lora_matrix *magnitudes = magnitudes_of(lora, &lora->modules[i]);
        const cr_branch *branch = &lora->branches[branch_place(&lora->modules[i])];
        memcpy(lora->values + magnitudes->offset, branch->norm, magnitudes->rows * sizeof(float));
    }
    note_values(lora);
}

void cr_lora_refresh(cr_lora *lora, cr_compute *compute, const cr_model *model, bool only_stale)
{
    if (!lora->dora || (only_stale && !lora->stale))
        return;
    /* Hosts may write to values at any time, so that these are compared. */
    if (memcmp(lora->seen, lora->values, lora->floats * sizeof(float)) != 0) {
        measure_norms(lora, compute, model);
        note_values(lora);
    }
    lora->stale = false;
}

/* ---- merging -------------------------------------------------------------------------------------------- */

static int check_finite(const float *values, size_t count, const cr_lora_module *module, size_t row)
{
    for (size_t i = 0; i < count; i++)
        if (!isfinite(values[i]))
            return cr_fail(CR_EARG, "%s: row %zu of the merged weight has a value that is not finite",
                           module->name, row);
    return CR_OK;
}

static int merge_row(float *out, float *delta, const composed *c, const float *magnitudes,
                     const cr_lora_module *module, size_t row)
{
    const size_t in = c->weight->columns;
    composed_row(out, delta, c, row);
    float gain = magnitudes ? gain_of(magnitudes[row], norm_of(out, in)) : 1.0f;
    if (gain != 1.0f)
        c->kernels->scale(out, gain, in);
    return module ? check_finite(out, in, module, row) : CR_OK;
}

int cr_lora_merge_rows(const cr_lora *lora, const cr_model *model, size_t layer, int projection,
                       size_t first, size_t count, float *out)
{
    const cr_matrix *weight = &model->layers[layer].projection[projection];
    const cr_lora_module *module = cr_lora_module_at(lora, layer, projection);
    const composed c = {cr_kernels_select(), weight,
                        module ? &lora->branches[branch_place(module)] : NULL};
    const float *magnitudes =
        module && lora->dora ? lora->values + magnitudes_of(lora, module)->offset : NULL;
    float *delta = cr_alloc(weight->columns * sizeof(float));
    int code = delta ? CR_OK : CR_ENOMEM;
    for (size_t i = 0; i < count && code == CR_OK; i++)
        code = merge_row(out + i * weight->columns, delta, &c, magnitudes, module, first + i);
    cr_free(delta);
    return code;
}

int cr_lora_row_norms(const cr_lora *lora, const cr_model *model, size_t layer, int projection,
                      float *out)
{
    const cr_matrix *weight = &model->layers[layer].projection[projection];
    const cr_lora_module *module = cr_lora_module_at(lora, layer, projection);
    float *rows = cr_calloc(2, weight->columns * sizeof(float));
    if (!rows)
        return CR_ENOMEM;
    norm_job job = {{cr_kernels_select(), weight,
                     module ? &lora->branches[branch_place(module)] : NULL},
                    out,
                    rows,
                    weight->columns};
    for (size_t task = 0; task < (weight->rows + ROWS - 1) / ROWS; task++)
        norm_task(&job, task, 0);
    cr_free(rows);
    return CR_OK;
}
