/* lora.c: lays out and initialises the low-rank matrices; Hu et al., "LoRA", 2021, section 4.1. */
#include "lora/lora.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "lora/pattern.h"

static const char *const part_names[] = {"lora_A", "lora_B", "lora_magnitude_vector"};

static size_t parts_of(const cr_lora *lora)
{
    return lora->dora ? 3 : 2;
}

static size_t padded(size_t floats)
{
    return (floats + 15) & ~(size_t)15;
}

/* ---- modules -------------------------------------------------------------------------------------- */

static size_t count_projections(unsigned targets)
{
    size_t count = 0;
    for (int p = 0; p < CR_PROJECTIONS; p++)
        count += targets >> p & 1;
    return count;
}

static void list_modules(cr_lora *lora)
{
    size_t index = 0;
    for (size_t layer = 0; layer < lora->layers; layer++)
        for (int p = 0; p < CR_PROJECTIONS; p++) {
            if (!(lora->targets >> p & 1))
                continue;
            cr_lora_module *module = &lora->modules[index];
            *module = (cr_lora_module){
                .layer = layer, .projection = p, .first = parts_of(lora) * index++};
            snprintf(module->name, sizeof module->name, "model.layers.%zu.%s.%s", layer,
                     cr_projection_names[p].folder, cr_projection_names[p].module);
        }
}

static int set_ranks(cr_lora *lora, const cr_session_config *config, double *values)
{
    for (size_t i = 0; i < lora->module_count; i++)
        values[i] = config->rank;
    CR_TRY(cr_pattern_apply(values, lora, config->rank_pattern, config->rank_pattern_count,
                            "rank_pattern"));
    for (size_t i = 0; i < lora->module_count; i++) {
        if (!(values[i] >= 1 && values[i] <= CR_MOST_RANK && values[i] == floor(values[i])))
            return cr_fail(CR_EARG, "rank_pattern: %s: expected a rank from 1 to %d, got %g",
                           lora->modules[i].name, CR_MOST_RANK, values[i]);
        lora->modules[i].rank = (size_t)values[i];
        lora->rank = lora->modules[i].rank > lora->rank ? lora->modules[i].rank : lora->rank;
    }
    return CR_OK;
}

static int set_scales(cr_lora *lora, const cr_session_config *config, double *values)
{
    for (size_t i = 0; i < lora->module_count; i++)
        values[i] = config->alpha;
    CR_TRY(cr_pattern_apply(values, lora, config->alpha_pattern, config->alpha_pattern_count,
                            "alpha_pattern"));
    for (size_t i = 0; i < lora->module_count; i++) {
        cr_lora_module *module = &lora->modules[i];
        double rank = config->rslora ? sqrt((double)module->rank) : (double)module->rank;
        if (!(values[i] > 0) || isinf(values[i]))
            return cr_fail(CR_EARG, "alpha_pattern: %s: expected a positive number, got %g",
                           module->name, values[i]);
        module->alpha = values[i];
        module->scale = (float)(module->alpha / rank);
    }
    return CR_OK;
}

static int make_modules(cr_lora *lora, const cr_session_config *config)
{
    lora->module_count = lora->layers * count_projections(lora->targets);
    lora->modules = cr_calloc(lora->module_count, sizeof *lora->modules);
    double *values = cr_calloc(lora->module_count, sizeof *values);
    int code = lora->modules && values ? CR_OK : CR_ENOMEM;
    if (code == CR_OK) {
        list_modules(lora);
        code = set_ranks(lora, config, values);
    }
    if (code == CR_OK)
        code = set_scales(lora, config, values);
    cr_free(values);
    return code;
}

const cr_lora_module *cr_lora_module_at(const cr_lora *lora, size_t layer, int projection)
{
    if (layer >= lora->layers || projection < 0 || projection >= CR_PROJECTIONS ||
        !(lora->targets >> projection & 1))
        return NULL;
    unsigned before = lora->targets & ((1u << projection) - 1);
    return &lora->modules[layer * count_projections(lora->targets) + count_projections(before)];
}

/* ---- matrices --------------------------------------------------------------------------------------- */

static void describe(cr_lora *lora, const cr_lora_module *module, const cr_matrix *weight, int part)
{
    cr_lora_matrix *matrix = &lora->matrices[module->first + (size_t)part];
    *matrix = (cr_lora_matrix){
        .layer = module->layer,
        .projection = module->projection,
        .part = part,
        .rows = part == CR_PART_A ? module->rank : weight->rows,
        .columns = part == CR_PART_A ? weight->columns : part == CR_PART_B ? module->rank : 1,
        .offset = lora->floats};
    snprintf(matrix->name, sizeof matrix->name, "%s.%s", module->name + strlen("model."),
             part_names[part]);
    lora->floats += padded(matrix->rows * matrix->columns);
}

static void describe_all(cr_lora *lora, const cr_model *model)
{
    for (size_t i = 0; i < lora->module_count; i++) {
        const cr_lora_module *module = &lora->modules[i];
        const cr_matrix *weight = &model->layers[module->layer].projection[module->projection];
        for (int part = 0; part < (int)parts_of(lora); part++)
            describe(lora, module, weight, part);
        lora->norm_floats += lora->dora ? padded(weight->rows) : 0;
    }
}

/* The stream is the module's, so that what else a module has does not change its A. */
static void initialise(cr_lora *lora, uint64_t seed)
{
    for (size_t i = 0; i < lora->module_count; i++) {
        const cr_lora_matrix *matrix = &lora->matrices[lora->modules[i].first];
        cr_rng rng;
        cr_rng_seed(&rng, cr_hash_combine(seed, 2 * i));
        float *value = lora->values + matrix->offset;
        double bound = 1.0 / sqrt((double)matrix->columns);
        for (size_t j = 0; j < matrix->rows * matrix->columns; j++)
            value[j] = (float)((2.0 * cr_rng_uniform(&rng) - 1.0) * bound);
    }
}

static void attach(cr_lora *lora)
{
    size_t at = 0;
    for (size_t i = 0; i < lora->module_count; i++) {
        const cr_lora_module *module = &lora->modules[i];
        const cr_lora_matrix *a = &lora->matrices[module->first], *b = a + 1;
        cr_branch *branch =
            &lora->branches[module->layer * CR_PROJECTIONS + (size_t)module->projection];
        *branch = (cr_branch){.a = lora->values + a->offset,
                              .b = lora->values + b->offset,
                              .da = lora->gradients + a->offset,
                              .db = lora->gradients + b->offset,
                              .rank = module->rank,
                              .scale = module->scale};
        if (!lora->dora)
            continue;
        branch->norm = lora->norms + at;
        branch->gain = lora->gains + at;
        branch->dmagnitude = lora->gradients + (b + 1)->offset;
        at += padded(b->rows);
    }
}

static int allocate_blocks(cr_lora *lora, const cr_model *model, const cr_compute *compute)
{
    size_t spaces = 2 * (size_t)cr_pool_threads(compute->pool);
    const struct {
        float **block;
        size_t floats;
    } blocks[] = {{&lora->values, lora->floats},      {&lora->gradients, lora->floats},
                  {&lora->moment1, lora->floats},     {&lora->moment2, lora->floats},
                  {&lora->norms, lora->norm_floats},  {&lora->gains, lora->norm_floats},
                  {&lora->seen, lora->floats},        {&lora->rows, spaces * cr_model_longest_row(model)}};
    for (size_t i = 0; i < (size_t)(lora->dora ? 8 : 4); i++) {
        *blocks[i].block = cr_calloc(blocks[i].floats, sizeof(float));
        if (!*blocks[i].block)
            return CR_ENOMEM;
    }
    return CR_OK;
}

static int fill(cr_lora *lora, const cr_model *model, cr_compute *compute,
                const cr_session_config *config)
{
    CR_TRY(make_modules(lora, config));
    lora->count = parts_of(lora) * lora->module_count;
    lora->matrices = cr_calloc(lora->count, sizeof *lora->matrices);
    lora->branches = cr_calloc(lora->layers * CR_PROJECTIONS, sizeof *lora->branches);
    if (!lora->matrices || !lora->branches)
        return CR_ENOMEM;
    describe_all(lora, model);
    CR_TRY(allocate_blocks(lora, model, compute));
    initialise(lora, config->seed);
    attach(lora);
    cr_lora_start_magnitudes(lora, compute, model);
    return CR_OK;
}

int cr_lora_create(cr_lora *out, const cr_model *model, cr_compute *compute,
                   const cr_session_config *config)
{
    *out = (cr_lora){
        .dora = config->dora, .targets = config->targets, .layers = model->config.layers};
    int code = fill(out, model, compute, config);
    if (code < 0)
        cr_lora_free(out);
    return code;
}

void cr_lora_free(cr_lora *lora)
{
    cr_free(lora->modules);
    cr_free(lora->matrices);
    cr_free(lora->branches);
    cr_free(lora->values);
    cr_free(lora->gradients);
    cr_free(lora->moment1);
    cr_free(lora->moment2);
    cr_free(lora->norms);
    cr_free(lora->gains);
    cr_free(lora->seen);
    cr_free(lora->rows);
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

uint64_t cr_lora_bytes(const cr_lora *lora)
{
    size_t blocks = lora->dora ? 5 : 4;
    return (blocks * lora->floats + 2 * lora->norm_floats) * sizeof(float);
}
