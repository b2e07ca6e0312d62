/* lora.c: lays out and initialises the low-rank matrices; Hu et al., "LoRA", 2021, section 4.1. */
#include "lora/lora.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/rng.h"

static int count_projections(unsigned targets)
{
    int count = 0;
    for (int p = 0; p < CR_PROJECTIONS; p++)
        count += targets >> p & 1;
    return count;
}

static void describe(cr_lora *lora, size_t *index, const cr_model *model, size_t layer, int p,
                     bool is_b)
{
    const cr_matrix *weight = &model->layers[layer].projection[p];
    cr_lora_matrix *matrix = &lora->matrices[(*index)++];
    *matrix = (cr_lora_matrix){.layer = layer,
                               .projection = p,
                               .is_b = is_b,
                               .rows = is_b ? weight->rows : lora->rank,
                               .columns = is_b ? lora->rank : weight->columns,
                               .offset = lora->floats};
    snprintf(matrix->name, sizeof matrix->name, "layers.%zu.%s.%s.lora_%c", layer,
             cr_projection_names[p].folder, cr_projection_names[p].module, is_b ? 'B' : 'A');
    lora->floats += (matrix->rows * matrix->columns + 15) & ~(size_t)15;
}

static void describe_all(cr_lora *lora, const cr_model *model)
{
    size_t index = 0;
    for (size_t layer = 0; layer < lora->layers; layer++)
        for (int p = 0; p < CR_PROJECTIONS; p++)
            if (lora->targets >> p & 1) {
                describe(lora, &index, model, layer, p, false);
                describe(lora, &index, model, layer, p, true);
            }
}

static void initialise(cr_lora *lora, uint64_t seed)
{
    for (size_t i = 0; i < lora->count; i++) {
        const cr_lora_matrix *matrix = &lora->matrices[i];
        if (matrix->is_b)
            continue;
        cr_rng rng;
        cr_rng_seed(&rng, cr_hash_combine(seed, i));
        float *value = lora->values + matrix->offset;
        double bound = 1.0 / sqrt((double)matrix->columns);
        for (size_t j = 0; j < matrix->rows * matrix->columns; j++)
            value[j] = (float)((2.0 * cr_rng_uniform(&rng) - 1.0) * bound);
    }
}

static void attach(cr_lora *lora)
{
    for (size_t i = 0; i < lora->count; i++) {
        const cr_lora_matrix *matrix = &lora->matrices[i];
        size_t place = matrix->layer * CR_PROJECTIONS + (size_t)matrix->projection;
        cr_branch *branch = &lora->branches[place];
        branch->rank = lora->rank;
        branch->scale = lora->scale;
        if (matrix->is_b) {
            branch->b = lora->values + matrix->offset;
            branch->db = lora->gradients + matrix->offset;
        } else {
            branch->a = lora->values + matrix->offset;
            branch->da = lora->gradients + matrix->offset;
        }
    }
}

static int allocate_blocks(cr_lora *lora)
{
    float **blocks[] = {&lora->values, &lora->gradients, &lora->moment1, &lora->moment2};
    for (size_t i = 0; i < 4; i++) {
        *blocks[i] = cr_calloc(lora->floats, sizeof(float));
        if (!*blocks[i])
            return CR_ENOMEM;
    }
    return CR_OK;
}

static int fill(cr_lora *lora, const cr_model *model, uint64_t seed)
{
    lora->count = 2 * lora->layers * (size_t)count_projections(lora->targets);
    lora->matrices = cr_calloc(lora->count, sizeof *lora->matrices);
    lora->branches = cr_calloc(lora->layers * CR_PROJECTIONS, sizeof *lora->branches);
    if (!lora->matrices || !lora->branches)
        return CR_ENOMEM;
    describe_all(lora, model);
    CR_TRY(allocate_blocks(lora));
    initialise(lora, seed);
    attach(lora);
    return CR_OK;
}

int cr_lora_create(cr_lora *out, const cr_model *model, size_t rank, float scale, unsigned targets,
                   uint64_t seed)
{
    *out = (cr_lora){
        .rank = rank, .scale = scale, .targets = targets, .layers = model->config.layers};
    int code = fill(out, model, seed);
    if (code < 0)
        cr_lora_free(out);
    return code;
}

void cr_lora_free(cr_lora *lora)
{
    cr_free(lora->matrices);
    cr_free(lora->branches);
    cr_free(lora->values);
    cr_free(lora->gradients);
    cr_free(lora->moment1);
    cr_free(lora->moment2);
    *lora = (cr_lora){0};
}

void cr_lora_zero_frozen(cr_lora *lora)
{
    for (size_t i = 0; lora->frozen > 0 && i < lora->count; i++) {
        const cr_lora_matrix *matrix = &lora->matrices[i];
        if (matrix->frozen)
            memset(lora->gradients + matrix->offset, 0,
                   matrix->rows * matrix->columns * sizeof(float));
    }
}
