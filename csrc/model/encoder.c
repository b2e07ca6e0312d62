/* encoder.c: post-norm transformer encoder; Devlin et al., "BERT", 2019, section 3; sentence vectors by
 * pooling: Reimers and Gurevych, "Sentence-BERT", 2019. */
#include "model/encoder.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "file/fsio.h"
#include "file/safetensors.h"
#include "math/attention.h"
#include "math/norm.h"

#define TOKENS_AT_ONCE 2048

/* ---- weights -------------------------------------------------------------------------------- */

typedef struct loader {
    cr_encoder *encoder;
    const cr_safetensors *file;
    const char *prefix; /* "", "bert.", "roberta." */
} loader;

static int keep(cr_encoder *encoder, void *block)
{
    if (encoder->block_count == encoder->block_room) {
        size_t room = encoder->block_room * 2 + 32;
        void **blocks = cr_realloc(encoder->blocks, encoder->block_count * sizeof *blocks,
                                   room * sizeof *blocks);
        if (!blocks) {
            cr_free(block);
            return CR_ENOMEM;
        }
        encoder->blocks = blocks;
        encoder->block_room = room;
    }
    encoder->blocks[encoder->block_count++] = block;
    return CR_OK;
}

/* The tensor of that name, which must have that shape; rows = 0: a vector. */
static int find(const loader *l, const char *name, size_t rows, size_t columns,
                const cr_safetensor **out)
{
    const cr_safetensor *t = *out = cr_safetensors_find(l->file, name);
    if (!t)
        return cr_fail(CR_EFORMAT, "tensor %s is missing", name);
    bool fits = rows ? t->dims == 2 && t->shape[0] == rows && t->shape[1] == columns
                     : t->dims == 1 && t->shape[0] == columns;
    if (fits)
        return CR_OK;
    return cr_fail(CR_EFORMAT, "tensor %s has %d dimensions [%llu, %llu]: expected [%zu, %zu]",
                   name, t->dims, (unsigned long long)t->shape[0], (unsigned long long)t->shape[1],
                   rows ? rows : columns, rows ? columns : (size_t)1);
}

static int take_matrix(const loader *l, const char *name, size_t rows, size_t columns,
                       cr_matrix *out)
{
    const cr_safetensor *t;
    CR_TRY(find(l, name, rows, columns, &t));
    const cr_dtype_info *type = cr_dtype_find(t->type);
    void *copy = cr_alloc(t->bytes);
    if (!copy)
        return CR_ENOMEM;
    memcpy(copy, t->data, t->bytes);
    l->encoder->parameters += rows * columns;
    *out = (cr_matrix){copy, type, rows, columns, t->bytes / rows};
    return keep(l->encoder, copy);
}

static int take_vector(const loader *l, const char *name, size_t count, const float **out)
{
    const cr_safetensor *t;
    CR_TRY(find(l, name, 0, count, &t));
    float *copy = cr_calloc(count, sizeof *copy);
    if (!copy)
        return CR_ENOMEM;
    cr_dtype_expand(copy, cr_dtype_find(t->type), t->data, 0, count);
    l->encoder->parameters += count;
    *out = copy;
    return keep(l->encoder, copy);
}

#define MOST_NAME 160

static int take_dense(const loader *l, const char *prefix, const char *name, size_t out, size_t in,
                      cr_dense *dense)
{
    char full[MOST_NAME];
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    CR_TRY(take_matrix(l, full, out, in, &dense->weight));
    snprintf(full, sizeof full, "%s%s.bias", prefix, name);
    return take_vector(l, full, out, &dense->bias);
}

static int take_norm(const loader *l, const char *prefix, const char *name, cr_scale_shift *norm)
{
    char full[MOST_NAME];
    size_t d = l->encoder->config.width;
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    CR_TRY(take_vector(l, full, d, &norm->weight));
    snprintf(full, sizeof full, "%s%s.bias", prefix, name);
    return take_vector(l, full, d, &norm->bias);
}

static int take_embeddings(const loader *l)
{
    cr_encoder *e = l->encoder;
    const cr_encoder_config *c = &e->config;
    char name[MOST_NAME];
    snprintf(name, sizeof name, "%sembeddings.word_embeddings.weight", l->prefix);
    CR_TRY(take_matrix(l, name, c->vocabulary, c->width, &e->words));
    snprintf(name, sizeof name, "%sembeddings.position_embeddings.weight", l->prefix);
    CR_TRY(take_matrix(l, name, c->positions, c->width, &e->positions));
    snprintf(name, sizeof name, "%sembeddings.token_type_embeddings.weight", l->prefix);
    CR_TRY(take_matrix(l, name, c->types, c->width, &e->types));
    return take_norm(l, l->prefix, "embeddings.LayerNorm", &e->embedding_norm);
}

static int take_layer(const loader *l, size_t index)
{
    cr_encoder_layer *layer = &l->encoder->layers[index];
    size_t d = l->encoder->config.width, f = l->encoder->config.ffn_width;
    char prefix[64];
    snprintf(prefix, sizeof prefix, "%sencoder.layer.%zu.", l->prefix, index);
    CR_TRY(take_dense(l, prefix, "attention.self.query", d, d, &layer->q));
    CR_TRY(take_dense(l, prefix, "attention.self.key", d, d, &layer->k));
    CR_TRY(take_dense(l, prefix, "attention.self.value", d, d, &layer->v));
    CR_TRY(take_dense(l, prefix, "attention.output.dense", d, d, &layer->o));
    CR_TRY(take_norm(l, prefix, "attention.output.LayerNorm", &layer->attention_norm));
    CR_TRY(take_dense(l, prefix, "intermediate.dense", f, d, &layer->up));
    CR_TRY(take_dense(l, prefix, "output.dense", d, f, &layer->down));
    return take_norm(l, prefix, "output.LayerNorm", &layer->output_norm);
}

/* Labels without names are LABEL_0, LABEL_1 ... as transformers calls them. */
static int name_labels(cr_encoder_config *config, size_t count)
{
    if (config->label_count == count)
        return CR_OK;
    if (config->label_count != 0)
        return cr_fail(CR_EFORMAT,
                       "the classifier has %zu outputs, id2label in config.json has %zu", count,
                       config->label_count);
    config->labels = cr_calloc(count, sizeof *config->labels);
    if (!config->labels)
        return CR_ENOMEM;
    for (config->label_count = 0; config->label_count < count; config->label_count++) {
        char name[32];
        snprintf(name, sizeof name, "LABEL_%zu", config->label_count);
        config->labels[config->label_count] = cr_strdup(name);
        if (!config->labels[config->label_count])
            return CR_ENOMEM;
    }
    return CR_OK;
}

/* BERT: pooler.dense and classifier; RoBERTa: classifier.dense and classifier.out_proj. Absent in a model
 * that only embeds. */
static int take_classifier(const loader *l)
{
    cr_encoder *e = l->encoder;
    const char *last = e->config.roberta ? "classifier.out_proj" : "classifier";
    char name[MOST_NAME];
    snprintf(name, sizeof name, "%s.weight", last);
    const cr_safetensor *found = cr_safetensors_find(l->file, name);
    if (!found)
        return CR_OK;
    if (found->dims != 2 || found->shape[0] < 1 || found->shape[0] > 4096)
        return cr_fail(CR_EFORMAT, "tensor %s: expected a matrix of 1 to 4096 rows", name);
    size_t labels = (size_t)found->shape[0], d = e->config.width;
    CR_TRY(take_dense(l, "", last, labels, d, &e->classifier));
    CR_TRY(take_dense(l, e->config.roberta ? "" : l->prefix,
                      e->config.roberta ? "classifier.dense" : "pooler.dense", d, d, &e->pooler));
    CR_TRY(name_labels(&e->config, labels));
    e->classifies = true;
    return CR_OK;
}

static const char *find_prefix(const cr_safetensors *file)
{
    static const char *const known[] = {"", "bert.", "roberta."};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        char name[MOST_NAME];
        snprintf(name, sizeof name, "%sembeddings.word_embeddings.weight", known[i]);
        if (cr_safetensors_find(file, name))
            return known[i];
    }
    return "";
}

static int take_weights(cr_encoder *e, const cr_safetensors *file)
{
    loader l = {e, file, find_prefix(file)};
    CR_TRY(take_embeddings(&l));
    e->layers = cr_calloc(e->config.layers, sizeof *e->layers);
    if (!e->layers)
        return CR_ENOMEM;
    for (size_t i = 0; i < e->config.layers; i++)
        CR_TRY(take_layer(&l, i));
    return take_classifier(&l);
}

static int load_weights(cr_encoder *e, const char *folder)
{
    char path[4096];
    cr_safetensors *file;
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    CR_TRY(cr_safetensors_open_floats(&file, path));
    int code = take_weights(e, file);
    cr_safetensors_close(file);
    return code < 0 ? cr_fail_context(code, "%s", path) : CR_OK;
}

/* ---- creation ---------------------------------------------------------------------------------- */

static int fill(cr_encoder *e, const char *folder, int threads)
{
    CR_TRY(cr_encoder_config_open(&e->config, folder));
    CR_TRY(cr_hub_tokenizer_open(&e->tokenizer, folder));
    if (cr_hub_tokenizer_size(e->tokenizer) > e->config.vocabulary)
        return cr_fail(CR_EFORMAT,
                       "%s: the tokenizer has %zu tokens, config.json a vocab_size of %zu", folder,
                       cr_hub_tokenizer_size(e->tokenizer), e->config.vocabulary);
    if (cr_hub_tokenizer_frame(e->tokenizer, true) >= e->config.context)
        return cr_fail(CR_EFORMAT, "%s: rows of %zu tokens leave no room for text", folder,
                       e->config.context);
    CR_TRY(load_weights(e, folder));
    size_t longest = e->config.ffn_width > e->config.width ? e->config.ffn_width : e->config.width;
    return cr_compute_create(&e->compute, threads, longest);
}

int cr_encoder_open(cr_encoder **out, const char *folder, int threads)
{
    *out = NULL;
    if (threads < 0 || threads > 1024)
        return cr_fail(CR_EARG, "threads must be 0 to 1024, got %d", threads);
    cr_encoder *e = cr_calloc(1, sizeof *e);
    if (!e)
        return CR_ENOMEM;
    int code = fill(e, folder, threads);
    if (code < 0) {
        cr_encoder_close(e);
        return code;
    }
    *out = e;
    return CR_OK;
}

void cr_encoder_close(cr_encoder *encoder)
{
    if (!encoder)
        return;
    for (size_t i = 0; i < encoder->block_count; i++)
        cr_free(encoder->blocks[i]);
    cr_free(encoder->blocks);
    cr_free(encoder->layers);
    cr_arena_free(&encoder->arena);
    if (encoder->compute.pool)
        cr_compute_free(&encoder->compute);
    cr_hub_tokenizer_free(encoder->tokenizer);
    cr_encoder_config_free(&encoder->config);
    cr_free(encoder);
}

void cr_encoder_describe(const cr_encoder *encoder, cr_encoder_info *out)
{
    const cr_encoder_config *c = &encoder->config;
    *out = (cr_encoder_info){.family = c->roberta ? "roberta" : "bert",
                             .tokenizer = cr_hub_tokenizer_kind(encoder->tokenizer),
                             .pooling = cr_pooling_name(c->pooling),
                             .normalises = c->normalise,
                             .layers = (int)c->layers,
                             .width = (int)c->width,
                             .heads = (int)c->heads,
                             .ffn_width = (int)c->ffn_width,
                             .vocabulary = (int)c->vocabulary,
                             .context = (int)c->context,
                             .labels = encoder->classifies ? (int)c->label_count : 0,
                             .parameters = encoder->parameters};
}

const char *cr_encoder_label(const cr_encoder *encoder, int index)
{
    bool known = encoder->classifies && index >= 0 && (size_t)index < encoder->config.label_count;
    return known ? encoder->config.labels[index] : NULL;
}

/* ---- the pass ------------------------------------------------------------------------------------ */

typedef struct pass {
    cr_encoder *e;
    const cr_hub_row *rows;
    size_t count, n;
    size_t *starts; /* [count + 1] */
    float *x, *y, *q, *k, *v, *wide, *lse, *scratch;
} pass;

static int take_buffers(pass *p, cr_arena *arena)
{
    const cr_encoder_config *c = &p->e->config;
    cr_taker from = {arena, false};
    p->starts = cr_take(&from, p->count + 1, sizeof *p->starts);
    p->x = cr_take_floats(&from, p->n, c->width);
    p->y = cr_take_floats(&from, p->n, c->width);
    p->q = cr_take_floats(&from, p->n, c->width);
    p->k = cr_take_floats(&from, p->n, c->width);
    p->v = cr_take_floats(&from, p->n, c->width);
    p->wide = cr_take_floats(&from, p->n, c->ffn_width);
    p->lse = cr_take_floats(&from, p->n, c->heads);
    p->scratch =
        cr_take_floats(&from, cr_attention_scratch(&p->e->compute, c->width / c->heads), 1);
    return from.failed ? CR_ENOMEM : CR_OK;
}

static int reserve_buffers(pass *p)
{
    cr_arena plan = {.planning = true}, *arena = &p->e->arena;
    CR_TRY(take_buffers(p, &plan));
    CR_TRY(cr_arena_reserve(arena, plan.used));
    cr_arena_reset(arena);
    return take_buffers(p, arena);
}

/* x = word + position + type; `row` of the matrices is expanded to `part`. */
static void embed_token(const cr_encoder *e, float *x, float *part, size_t token, size_t position,
                        size_t type)
{
    const size_t d = e->config.width;
    cr_matrix_row(x, &e->words, token);
    cr_matrix_row(part, &e->types, type);
    e->compute.kernels->axpy(x, 1.0f, part, d);
    cr_matrix_row(part, &e->positions, position);
    e->compute.kernels->axpy(x, 1.0f, part, d);
}

static void embed(const pass *p)
{
    const cr_encoder_config *c = &p->e->config;
    size_t at = 0;
    for (size_t r = 0; r < p->count; r++) {
        p->starts[r] = at;
        for (size_t i = 0; i < p->rows[r].count; i++, at++) {
            size_t type = (size_t)p->rows[r].types[i];
            embed_token(p->e, p->x + at * c->width, p->y, (size_t)p->rows[r].ids[i],
                        c->first_position + i, type < c->types ? type : 0);
        }
    }
    p->starts[p->count] = at;
    cr_layernorm_forward(&p->e->compute, p->x, p->x, p->e->embedding_norm.weight,
                         p->e->embedding_norm.bias, p->n, c->width, c->norm_epsilon);
}

/* y [n, out] = x Wᵀ, without the bias. */
static void multiply(const pass *p, float *y, const float *x, const cr_dense *dense)
{
    cr_matmul(&p->e->compute, y, dense->weight.rows, p->n, 1.0f, false,
              cr_rows(x, dense->weight.columns), &dense->weight, true);
}

static void add_bias(float *y, const float *bias, size_t n, size_t d, const cr_kernels *kernels)
{
    for (size_t i = 0; i < n; i++)
        kernels->axpy(y + i * d, 1.0f, bias, d);
}

static void project(const pass *p, float *y, const float *x, const cr_dense *dense)
{
    multiply(p, y, x, dense);
    add_bias(y, dense->bias, p->n, dense->weight.rows, p->e->compute.kernels);
}

/* x = norm(x + y). */
static void add_and_norm(const pass *p, const float *y, const cr_scale_shift *norm)
{
    const cr_encoder_config *c = &p->e->config;
    p->e->compute.kernels->axpy(p->x, 1.0f, y, p->n * c->width);
    cr_layernorm_forward(&p->e->compute, p->x, p->x, norm->weight, norm->bias, p->n, c->width,
                         c->norm_epsilon);
}

static void run_layer(const pass *p, const cr_encoder_layer *layer)
{
    const cr_encoder_config *c = &p->e->config;
    cr_attention shape = {.heads = c->heads,
                          .kv_heads = c->heads,
                          .head_size = c->width / c->heads,
                          .scale = 1.0f / sqrtf((float)(c->width / c->heads)),
                          .starts = p->starts,
                          .rows = p->count,
                          .n = p->n,
                          .whole = true};
    project(p, p->q, p->x, &layer->q);
    project(p, p->k, p->x, &layer->k);
    project(p, p->v, p->x, &layer->v);
    cr_attention_forward(&p->e->compute, p->y, p->lse, p->q, p->k, p->v, &shape, p->scratch);
    project(p, p->q, p->y, &layer->o);
    add_and_norm(p, p->q, &layer->attention_norm);
    multiply(p, p->wide, p->x, &layer->up);
    cr_activate(&p->e->compute, c->activation, p->wide, layer->up.bias, p->n, c->ffn_width);
    project(p, p->q, p->wide, &layer->down);
    add_and_norm(p, p->q, &layer->output_norm);
}

/* p->x [n, d]: the last layer's output. */
static int run(pass *p)
{
    CR_TRY(reserve_buffers(p));
    embed(p);
    for (size_t i = 0; i < p->e->config.layers; i++)
        run_layer(p, &p->e->layers[i]);
    return CR_OK;
}

/* ---- from a row's positions to its result ------------------------------------------------------------ */

static void pool_mean(float *out, const float *x, size_t count, size_t d, const cr_kernels *kernels)
{
    memset(out, 0, d * sizeof *out);
    for (size_t i = 0; i < count; i++)
        kernels->axpy(out, 1.0f, x + i * d, d);
    kernels->scale(out, 1.0f / (float)count, d);
}

static void pool_max(float *out, const float *x, size_t count, size_t d)
{
    memcpy(out, x, d * sizeof *out);
    for (size_t i = 1; i < count; i++)
        for (size_t c = 0; c < d; c++)
            out[c] = fmaxf(out[c], x[i * d + c]);
}

/* As torch's normalize: a vector shorter than 1e-12 is divided by that. */
static void normalise(float *x, size_t d, const cr_kernels *kernels)
{
    float length = sqrtf(kernels->sum_squares(x, d));
    kernels->scale(x, 1.0f / fmaxf(length, 1e-12f), d);
}

static void give_vectors(const pass *p, float *out)
{
    const cr_encoder_config *c = &p->e->config;
    const cr_kernels *kernels = p->e->compute.kernels;
    for (size_t r = 0; r < p->count; r++, out += c->width) {
        const float *x = p->x + p->starts[r] * c->width;
        if (c->pooling == CR_POOL_MEAN)
            pool_mean(out, x, p->rows[r].count, c->width, kernels);
        else if (c->pooling == CR_POOL_MAX)
            pool_max(out, x, p->rows[r].count, c->width);
        else
            memcpy(out, x, c->width * sizeof *out);
        if (c->normalise)
            normalise(out, c->width, kernels);
    }
}

/* The first positions → dense → tanh → one value a label. */
static void give_logits(const pass *p, float *out)
{
    const size_t d = p->e->config.width, labels = p->e->config.label_count;
    cr_compute *compute = &p->e->compute;
    for (size_t r = 0; r < p->count; r++)
        memcpy(p->q + r * d, p->x + p->starts[r] * d, d * sizeof(float));
    cr_matmul(compute, p->k, d, p->count, 1.0f, false, cr_rows(p->q, d), &p->e->pooler.weight,
              true);
    cr_activate(compute, CR_ACTIVATION_TANH, p->k, p->e->pooler.bias, p->count, d);
    cr_matmul(compute, out, labels, p->count, 1.0f, false, cr_rows(p->k, d),
              &p->e->classifier.weight, true);
    add_bias(out, p->e->classifier.bias, p->count, labels, compute->kernels);
}

/* ---- texts --------------------------------------------------------------------------------------------- */

static int encode_pair(const cr_encoder *e, const cr_text_pair *text, cr_hub_row *row)
{
    return cr_hub_tokenizer_encode(e->tokenizer, text->first, text->first_length, text->second,
                                   text->second_length, e->config.context, row);
}

int cr_encoder_tokens(const cr_encoder *encoder, const cr_text_pair *text, int32_t **ids,
                      size_t *count, size_t *cut)
{
    cr_hub_row row;
    *ids = NULL;
    *count = *cut = 0;
    CR_TRY(encode_pair(encoder, text, &row));
    *ids = row.ids; /* the types behind them are released with the block */
    *count = row.count;
    *cut = row.cut;
    return CR_OK;
}

/* Texts from `first` on whose rows make one pass; fills rows. */
static int next_rows(const cr_encoder *e, const cr_text_pair *texts, size_t count, cr_hub_row *rows,
                     size_t *taken, size_t *tokens)
{
    *taken = *tokens = 0;
    while (*taken < count && *tokens < TOKENS_AT_ONCE) {
        CR_TRY(encode_pair(e, &texts[*taken], &rows[*taken]));
        *tokens += rows[(*taken)++].count;
    }
    return CR_OK;
}

static int run_some(cr_encoder *e, const cr_text_pair *texts, size_t count, cr_hub_row *rows,
                    bool classify, float *out, size_t *taken)
{
    size_t tokens;
    int code = next_rows(e, texts, count, rows, taken, &tokens);
    pass p = {.e = e, .rows = rows, .count = *taken, .n = tokens};
    if (code == CR_OK)
        code = run(&p);
    if (code == CR_OK)
        (classify ? give_logits : give_vectors)(&p, out);
    for (size_t i = 0; i < *taken; i++)
        cr_hub_row_free(&rows[i]);
    return code;
}

static int run_all(cr_encoder *e, const cr_text_pair *texts, size_t count, bool classify,
                   size_t columns, float *out)
{
    /* A row has at least one token, so no pass has more rows. */
    size_t most = count < TOKENS_AT_ONCE ? count : TOKENS_AT_ONCE, taken;
    cr_hub_row *rows = cr_calloc(most, sizeof *rows);
    int code = rows ? CR_OK : CR_ENOMEM;
    for (size_t first = 0; first < count && code == CR_OK; first += taken)
        code = run_some(e, texts + first, count - first < most ? count - first : most, rows,
                        classify, out + first * columns, &taken);
    cr_free(rows);
    return code;
}

int cr_encoder_embed(cr_encoder *encoder, const cr_text_pair *texts, size_t count, float *out)
{
    return run_all(encoder, texts, count, false, encoder->config.width, out);
}

int cr_encoder_classify(cr_encoder *encoder, const cr_text_pair *texts, size_t count, float *out)
{
    if (!encoder->classifies)
        return cr_fail(CR_EARG, "the encoder has no classifier: expected a model for sequence "
                                "classification");
    return run_all(encoder, texts, count, true, encoder->config.label_count, out);
}
