/* model.c: opens a model file and checks every tensor against the hyperparameters. */
#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "file/fsio.h"
#include "text/tokenizer.h"
#include "text/tokenizer_json.h"

const cr_projection_name cr_projection_names[CR_PROJECTIONS] = {
#define CR_PROJECTION(field, file, folder, module, rows, columns) {folder, module},
#define CR_NORM(field, file, name, size, wanted)
#include "model/weights.def"
#undef CR_PROJECTION
#undef CR_NORM
};

const char *cr_target_name(int index)
{
    return index >= 0 && index < CR_PROJECTIONS ? cr_projection_names[index].module : NULL;
}

unsigned cr_target_find(const char *name)
{
    for (int i = 0; i < CR_PROJECTIONS; i++)
        if (strcmp(cr_projection_names[i].module, name) == 0)
            return 1u << i;
    return 0;
}

/* ---- weights -------------------------------------------------------------------------------- */

static int load_matrix(cr_matrix *out, cr_model *model, const cr_weight_name *name, size_t rows,
                       size_t columns)
{
    CR_TRY(cr_source_matrix(&model->source, name, rows, columns, out));
    model->parameters += (uint64_t)rows * columns;
    return CR_OK;
}

/* Expands a vector of `count` values to *to and moves *to past it. */
static int load_vector(const float **out, cr_model *model, float **to, const cr_weight_name *name,
                       size_t count)
{
    CR_TRY(cr_source_vector(&model->source, name, count, *to));
    *out = *to;
    *to += count;
    model->parameters += count;
    return CR_OK;
}

/* A norm's weights, with their 1 where checkpoints store them without. */
static int load_norm(const float **out, cr_model *model, float **to, const cr_weight_name *name,
                     size_t count)
{
    float *values = *to;
    CR_TRY(load_vector(out, model, to, name, count));
    bool centred = model->source.folder && model->config.family->centred_norms;
    for (size_t c = 0; centred && c < count; c++)
        values[c] += 1.0f;
    return CR_OK;
}

/* "blk.3.attn_q.weight" and "model.layers.3.self_attn.q_proj.weight". */
static cr_weight_name layer_name(size_t layer, const char *gguf, const char *hub, const char *kind)
{
    cr_weight_name name;
    snprintf(name.gguf, sizeof name.gguf, "blk.%zu.%s.%s", layer, gguf, kind);
    snprintf(name.hub, sizeof name.hub, "model.layers.%zu.%s.%s", layer, hub, kind);
    return name;
}

static bool has_bias(const cr_family *family, int projection)
{
    return family->biases && (projection == CR_PROJECTION_q || projection == CR_PROJECTION_k ||
                              projection == CR_PROJECTION_v);
}

static int load_biases(cr_model *model, size_t index, float **vectors)
{
    static const char *const names[CR_PROJECTIONS][2] = {
#define CR_PROJECTION(field, file, folder, module, rows, columns) {file, folder "." module},
#define CR_NORM(field, file, name, size, wanted)
#include "model/weights.def"
#undef CR_PROJECTION
#undef CR_NORM
    };
    cr_layer *layer = &model->layers[index];
    for (int p = 0; p < CR_PROJECTIONS; p++) {
        if (!has_bias(model->config.family, p))
            continue;
        cr_weight_name name = layer_name(index, names[p][0], names[p][1], "bias");
        CR_TRY(load_vector(&layer->bias[p], model, vectors, &name, layer->projection[p].rows));
    }
    return CR_OK;
}

static int load_layer(cr_model *model, size_t index, float **vectors)
{
    const cr_config *config = &model->config;
    const cr_family *family = config->family;
    const size_t D = config->width, F = config->ffn_width, H = config->head_size;
    const size_t Q = config->heads * H, K = config->kv_heads * H;
    cr_layer *layer = &model->layers[index];
    cr_weight_name name;
    layer->local = config->local[index];
#define CR_PROJECTION(field, file, folder, module, rows, columns)                                  \
    name = layer_name(index, file, folder "." module, "weight");                                   \
    CR_TRY(load_matrix(&layer->projection[CR_PROJECTION_##field], model, &name, rows, columns));
#define CR_NORM(field, file, hub, size, wanted)                                                    \
    if (wanted) {                                                                                  \
        name = layer_name(index, file, hub, "weight");                                             \
        CR_TRY(load_norm(&layer->field, model, vectors, &name, size));                             \
    }
#include "model/weights.def"
#undef CR_PROJECTION
#undef CR_NORM
    return load_biases(model, index, vectors);
}

/* What llama3's bands divide the frequency of pair p by. */
static double band_divisor(const cr_config *config, size_t p)
{
    const cr_rope_bands *bands = &config->rope_bands;
    double exponent = (double)(2 * p) / (double)config->head_size;
    double turns = bands->original_context / (2 * 3.14159265358979323846 * pow(config->rope_base, exponent));
    double kept = (turns - bands->low) / (bands->high - bands->low);
    kept = kept < 0 ? 0 : kept > 1 ? 1 : kept;
    return 1 / ((1 - kept) / bands->factor + kept);
}

/* Divisors of the frequencies: the file's own, the bands', or one for all; none where positions
 * count as they are. */
static int load_rope_factors(cr_model *model, float **vectors)
{
    static const cr_weight_name name = {.gguf = "rope_freqs.weight"};
    const cr_config *config = &model->config;
    size_t half = config->head_size / 2;
    bool bands = config->rope_bands.factor != 0;
    if (cr_source_has(&model->source, &name))
        return load_vector(&model->rope.factors, model, vectors, &name, half);
    if (!bands && config->rope_scale == 1.0)
        return CR_OK;
    for (size_t p = 0; p < half; p++)
        (*vectors)[p] = (float)(bands ? band_divisor(config, p) : config->rope_scale);
    model->rope.factors = *vectors;
    *vectors += half;
    return CR_OK;
}

static int load_rope(cr_model *model, float **vectors)
{
    const cr_config *config = &model->config;
    model->rope = (cr_rope){.base = config->rope_base,
                            .head_size = config->head_size,
                            .neighbours = config->rope_neighbours};
    model->local_rope = model->rope;
    model->local_rope.base = config->local_rope_base;
    return load_rope_factors(model, vectors);
}

static int load_head(cr_model *model)
{
    static const cr_weight_name embedding = {"token_embd.weight", "model.embed_tokens.weight"};
    static const cr_weight_name head = {"output.weight", "lm_head.weight"};
    const cr_config *config = &model->config;
    CR_TRY(load_matrix(&model->embedding, model, &embedding, config->vocabulary, config->width));
    model->head = model->embedding;
    if (config->tied_head || !cr_source_has(&model->source, &head))
        return CR_OK;
    return load_matrix(&model->head, model, &head, config->vocabulary, config->width);
}

/* Floats of a layer's norms and biases. */
static size_t layer_vectors(const cr_config *config)
{
    const cr_family *family = config->family;
    const size_t D = config->width, H = config->head_size;
    size_t total = family->biases ? (config->heads + 2 * config->kv_heads) * H : 0;
#define CR_PROJECTION(field, file, folder, module, rows, columns)
#define CR_NORM(field, file, name, size, wanted) total += (wanted) ? (size) : 0;
#include "model/weights.def"
#undef CR_PROJECTION
#undef CR_NORM
    return total;
}

static int load_weights(cr_model *model)
{
    static const cr_weight_name final_norm = {"output_norm.weight", "model.norm.weight"};
    const cr_config *config = &model->config;
    size_t floats = config->layers * layer_vectors(config) + config->width + config->head_size;
    model->layers = cr_calloc(config->layers, sizeof *model->layers);
    model->vectors = cr_calloc(floats, sizeof(float));
    if (!model->layers || !model->vectors)
        return CR_ENOMEM;
    float *to = model->vectors;
    CR_TRY(load_head(model));
    for (size_t i = 0; i < config->layers; i++)
        CR_TRY(load_layer(model, i, &to));
    CR_TRY(load_norm(&model->final_norm, model, &to, &final_norm, config->width));
    return load_rope(model, &to);
}

/* ---- opening and closing ---------------------------------------------------------------------- */

/* A copy of a text value, "" where the key is absent. */
static int copy_text(char **out, const cr_gguf *file, const char *key)
{
    cr_text text = {"", 0};
    int code = cr_gguf_text(file, key, &text);
    if (code < 0 && code != CR_ENOTFOUND)
        return code;
    if (code == CR_ENOTFOUND)
        text.length = 0;
    *out = cr_alloc(text.length + 1);
    if (!*out)
        return CR_ENOMEM;
    if (text.length)
        memcpy(*out, text.bytes, text.length);
    (*out)[text.length] = '\0';
    return CR_OK;
}

static int check_tokenizer(const cr_model *model)
{
    cr_tokenizer_info info;
    cr_tokenizer_describe(model->tokenizer, &info);
    if ((size_t)info.size > model->config.vocabulary)
        return cr_fail(CR_EFORMAT, "the tokenizer has %d tokens, the embedding only %zu rows",
                       info.size, model->config.vocabulary);
    return CR_OK;
}

static int read_gguf_texts(cr_model *model)
{
    const cr_gguf *file = model->source.gguf;
    CR_TRY(copy_text(&model->name, file, "general.name"));
    CR_TRY(copy_text(&model->chat_template, file, "tokenizer.chat_template"));
    return cr_tokenizer_from_gguf(&model->tokenizer, file);
}

/* A folder has no other name than its own. */
static int read_folder_texts(cr_model *model, const char *path)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/')
        start--;
    model->name = cr_alloc(end - start + 1);
    if (!model->name)
        return CR_ENOMEM;
    memcpy(model->name, path + start, end - start);
    model->name[end - start] = '\0';
    return cr_tokenizer_from_folder(&model->tokenizer, &model->chat_template, model->source.folder);
}

static int fill(cr_model *model, const char *path)
{
    CR_TRY(cr_source_open(&model->source, path));
    model->path = cr_strdup(path);
    if (!model->path)
        return CR_ENOMEM;
    CR_TRY(cr_source_config(&model->source, &model->config));
    CR_TRY(load_weights(model));
    CR_TRY(model->source.gguf ? read_gguf_texts(model) : read_folder_texts(model, path));
    return check_tokenizer(model);
}

static void destroy(cr_model *model)
{
    cr_tokenizer_free(model->tokenizer);
    cr_free(model->layers);
    cr_free(model->vectors);
    cr_free(model->name);
    cr_free(model->chat_template);
    cr_free(model->path);
    cr_source_close(&model->source);
    cr_free(model);
}

int cr_model_open(cr_model **out, const char *path)
{
    *out = NULL;
    cr_model *model = cr_calloc(1, sizeof *model);
    if (!model)
        return CR_ENOMEM;
    model->holders = 1;
    int code = fill(model, path);
    if (code < 0) {
        if (!strstr(cr_error_message(), path))
            cr_fail_context(code, "%s", path);
        destroy(model);
        return code;
    }
    *out = model;
    return CR_OK;
}

void cr_model_hold(cr_model *model)
{
    __atomic_add_fetch(&model->holders, 1, __ATOMIC_RELAXED);
}

void cr_model_close(cr_model *model)
{
    if (model && __atomic_sub_fetch(&model->holders, 1, __ATOMIC_ACQ_REL) == 0)
        destroy(model);
}

/* ---- describing --------------------------------------------------------------------------------- */

const cr_tokenizer *cr_model_tokenizer(const cr_model *model)
{
    return model->tokenizer;
}

/* The type that holds most of the projections' values. */
static const char *main_type(const cr_model *model)
{
    const char *best = "";
    uint64_t most = 0;
    for (int p = 0; p < CR_PROJECTIONS; p++) {
        const cr_dtype_info *type = model->layers[0].projection[p].type;
        uint64_t values = 0;
        for (size_t l = 0; l < model->config.layers; l++)
            for (int o = 0; o < CR_PROJECTIONS; o++) {
                const cr_matrix *other = &model->layers[l].projection[o];
                values += other->type == type ? (uint64_t)other->rows * other->columns : 0;
            }
        if (values > most) {
            most = values;
            best = type->name;
        }
    }
    return best;
}

void cr_model_describe(const cr_model *model, cr_model_info *out)
{
    const cr_config *config = &model->config;
    *out = (cr_model_info){.family = config->family->name,
                           .name = model->name,
                           .quantisation = main_type(model),
                           .chat_template = model->chat_template,
                           .layers = (int)config->layers,
                           .width = (int)config->width,
                           .heads = (int)config->heads,
                           .kv_heads = (int)config->kv_heads,
                           .head_size = (int)config->head_size,
                           .ffn_width = (int)config->ffn_width,
                           .vocabulary = (int)config->vocabulary,
                           .context = (int)config->context,
                           .rope_base = config->rope_base,
                           .norm_epsilon = (double)config->norm_epsilon,
                           .tied_head = model->head.data == model->embedding.data,
                           .parameters = model->parameters,
                           .file_bytes = model->source.bytes};
}

size_t cr_model_stored_count(const cr_model *model)
{
    return cr_source_count(&model->source);
}

bool cr_model_stored(const cr_model *model, size_t index, cr_stored_tensor *out)
{
    static const char unknown[] = "unknown";
    cr_source_tensor tensor;
    if (index >= cr_source_count(&model->source) || !cr_source_at(&tensor, &model->source, index))
        return false;
    *out = (cr_stored_tensor){.name = tensor.name.bytes,
                              .name_length = tensor.name.length,
                              .type = tensor.info ? tensor.info->name : unknown,
                              .dims = tensor.dims,
                              .bytes = tensor.bytes};
    for (int i = 0; i < tensor.dims; i++)
        out->shape[i] = tensor.shape[tensor.dims - 1 - i];
    return true;
}

void cr_model_embed(const cr_model *model, float *x, int32_t token)
{
    const size_t d = model->embedding.columns;
    cr_matrix_row(x, &model->embedding, (size_t)token);
    if (!model->config.family->scaled_embedding)
        return;
    float scale = sqrtf((float)d);
    for (size_t c = 0; c < d; c++)
        x[c] *= scale;
}

cr_gate cr_model_gate(const cr_model *model)
{
    return model->config.family->gelu ? CR_GATE_GELU : CR_GATE_SILU;
}

size_t cr_model_longest_row(const cr_model *model)
{
    const cr_config *config = &model->config;
    size_t longest = config->width;
    size_t q = config->heads * config->head_size;
    if (config->ffn_width > longest)
        longest = config->ffn_width;
    return q > longest ? q : longest;
}
