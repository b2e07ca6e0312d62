/* gguf_adapter.c: reads and writes adapters as llama.cpp's llama-adapter.cpp and convert_lora_to_gguf.py
 * have them. */
#include "lora/gguf_adapter.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "file/gguf_writer.h"
#include "lora/lora_digest.h"
#include "math/quantize.h"
#include "model/tensor_list.h"

#define NAME_BYTES 96
#define DIGEST_KEY "crucible.lora.sha256"
#define MOST_LAYERS 100000

static const char *const file_names[CR_PROJECTIONS] = {
#define CR_PROJECTION(field, file, folder, module, rows, columns) file,
#define CR_NORM(field, file, name, size, wanted)
#include "model/weights.def"
#undef CR_PROJECTION
#undef CR_NORM
};

static void tensor_name(char out[NAME_BYTES], size_t layer, int projection, char part)
{
    snprintf(out, NAME_BYTES, "blk.%zu.%s.weight.lora_%c", layer, file_names[projection], part);
}

/* ---- names --------------------------------------------------------------------------------------- */

/* A name of any bytes as a terminated text, cut to the buffer. */
static const char *shown(char out[NAME_BYTES], cr_text name)
{
    const size_t length = name.length < NAME_BYTES - 1 ? name.length : NAME_BYTES - 1;
    for (size_t i = 0; i < length; i++)
        out[i] = name.bytes[i] >= 0x20 && name.bytes[i] < 0x7f ? name.bytes[i] : '?';
    out[length] = '\0';
    return out;
}

/* Layer, projection and 'a' or 'b' of a tensor's name; false for any other name. */
static bool parse_name(cr_text name, size_t *layer, int *projection, char *part)
{
    char text[NAME_BYTES], expected[NAME_BYTES];
    if (name.length < 6 || name.length >= NAME_BYTES || memcmp(name.bytes, "blk.", 4) != 0)
        return false;
    memcpy(text, name.bytes, name.length);
    text[name.length] = '\0';
    *layer = (size_t)strtoul(text + 4, NULL, 10);
    *part = text[name.length - 1];
    for (*projection = 0; *projection < CR_PROJECTIONS; ++*projection) {
        tensor_name(expected, *layer, *projection, *part);
        if (strcmp(expected, text) == 0)
            return (*part == 'a' || *part == 'b') && *layer < MOST_LAYERS &&
                   strlen(text) == name.length;
    }
    return false;
}

/* ---- reading --------------------------------------------------------------------------------------- */

static int read_text(const cr_gguf *file, const char *key, cr_text *out)
{
    const int code = cr_gguf_text(file, key, out);
    return code == CR_ENOTFOUND ? cr_fail(CR_EFORMAT, "not an adapter: %s", cr_error_message())
                                : code;
}

static int expect_text(const cr_gguf *file, const char *key, const char *expected)
{
    cr_text found;
    char text[NAME_BYTES];
    CR_TRY(read_text(file, key, &found));
    if (found.length == strlen(expected) && memcmp(found.bytes, expected, found.length) == 0)
        return CR_OK;
    return cr_fail(CR_EFORMAT, "not an adapter: key %s: expected \"%s\", the file says \"%s\"", key,
                   expected, shown(text, found));
}

static int read_keys(cr_gguf_adapter *out, const cr_gguf *file)
{
    CR_TRY(expect_text(file, "general.type", "adapter"));
    CR_TRY(expect_text(file, "adapter.type", "lora"));
    CR_TRY(read_text(file, "general.architecture", &out->architecture));
    int code = cr_gguf_f64(file, "adapter.lora.alpha", &out->alpha);
    if (code < 0)
        return code == CR_ENOTFOUND ? CR_EFORMAT : code;
    if (!(out->alpha >= 0 && out->alpha < 1e9))
        return cr_fail(CR_EFORMAT, "adapter.lora.alpha is %g: expected a number from 0 on",
                       out->alpha);
    code = cr_gguf_text(file, DIGEST_KEY, &out->digest);
    if (code == CR_ENOTFOUND)
        out->digest = (cr_text){"", 0};
    return code == CR_ENOTFOUND ? CR_OK : code;
}

static int check_matrix(const cr_gguf_tensor *tensor)
{
    char name[NAME_BYTES], type[24];
    if (tensor->dims != 2)
        return cr_fail(CR_EFORMAT, "tensor %s: expected a matrix, the file has %d dimensions",
                       shown(name, tensor->name), tensor->dims);
    if (!cr_dtype_find(tensor->type))
        return cr_fail(CR_EUNSUPPORTED, "tensor %s: element type %s is not supported",
                       shown(name, tensor->name), cr_dtype_name(tensor->type, type));
    return CR_OK;
}

/* The pair that a tensor belongs to; its other half was mostly the last one read. */
static cr_adapter_pair *pair_of(cr_gguf_adapter *adapter, size_t layer, int projection)
{
    for (size_t i = adapter->count; i-- > 0;)
        if (adapter->pairs[i].layer == layer && adapter->pairs[i].projection == projection)
            return &adapter->pairs[i];
    cr_adapter_pair *pair = &adapter->pairs[adapter->count++];
    *pair = (cr_adapter_pair){.layer = layer, .projection = projection};
    return pair;
}

static int read_tensor(cr_gguf_adapter *out, const cr_gguf_tensor *tensor)
{
    char name[NAME_BYTES], part;
    size_t layer;
    int projection;
    if (!parse_name(tensor->name, &layer, &projection, &part))
        return cr_fail(CR_EUNSUPPORTED,
                       "tensor %s is no matrix of a projection: expected names such as "
                       "blk.0.attn_q.weight.lora_a",
                       shown(name, tensor->name));
    CR_TRY(check_matrix(tensor));
    cr_adapter_pair *pair = pair_of(out, layer, projection);
    *(part == 'a' ? &pair->a : &pair->b) = tensor;
    return CR_OK;
}

static int complete(cr_adapter_pair *pair)
{
    char name[NAME_BYTES];
    if (!pair->a || !pair->b) {
        tensor_name(name, pair->layer, pair->projection, pair->a ? 'b' : 'a');
        return cr_fail(CR_EFORMAT, "tensor %s is missing", name);
    }
    pair->rank = (size_t)pair->a->shape[1];
    pair->in = (size_t)pair->a->shape[0];
    pair->out = (size_t)pair->b->shape[1];
    if (pair->b->shape[0] == pair->rank)
        return CR_OK;
    return cr_fail(CR_EFORMAT,
                   "tensor %s: expected rows of %zu values, the rank of its lora_a, the "
                   "file has %llu",
                   shown(name, pair->b->name), pair->rank, (unsigned long long)pair->b->shape[0]);
}

static int compare_pairs(const void *a, const void *b)
{
    const cr_adapter_pair *x = a, *y = b;
    if (x->layer != y->layer)
        return x->layer < y->layer ? -1 : 1;
    return (x->projection > y->projection) - (x->projection < y->projection);
}

static int read_pairs(cr_gguf_adapter *out, const cr_gguf *file)
{
    const size_t count = cr_gguf_tensor_count(file);
    if (count == 0)
        return cr_fail(CR_EFORMAT, "an adapter without tensors");
    if (count > (size_t)CR_MAX_LAYERS * CR_PROJECTIONS * 2)
        return cr_fail(CR_EFORMAT, "an adapter of %zu tensors: more than any model has", count);
    out->pairs = cr_calloc(count, sizeof *out->pairs);
    if (!out->pairs)
        return CR_ENOMEM;
    for (size_t i = 0; i < count; i++)
        CR_TRY(read_tensor(out, cr_gguf_tensor_at(file, i)));
    for (size_t i = 0; i < out->count; i++)
        CR_TRY(complete(&out->pairs[i]));
    qsort(out->pairs, out->count, sizeof *out->pairs, compare_pairs);
    return CR_OK;
}

int cr_gguf_adapter_read(cr_gguf_adapter *out, const cr_gguf *file)
{
    *out = (cr_gguf_adapter){0};
    int code = read_keys(out, file);
    if (code == CR_OK)
        code = read_pairs(out, file);
    if (code < 0)
        cr_gguf_adapter_free(out);
    return code;
}

void cr_gguf_adapter_free(cr_gguf_adapter *adapter)
{
    cr_free(adapter->pairs);
    *adapter = (cr_gguf_adapter){0};
}

/* ---- into a lora ----------------------------------------------------------------------------------- */

/* What a reader of the file multiplies B A with. */
static float file_scale(double alpha, size_t rank)
{
    return alpha == 0 ? 1.0f : (float)(alpha / (double)rank);
}

/* What B is multiplied with on its way from one scale to another. */
static float quotient(float from, float to)
{
    return from == to ? 1.0f : (float)((double)from / (double)to);
}

/* Row of the engine that holds a row of the file. */
static size_t engine_row(const cr_model *model, int projection, size_t row)
{
    const bool moved =
        cr_rows_are_permuted(model->config.family, projection) && !model->config.rope_neighbours;
    return moved ? cr_row_in_hub(row, model->config.head_size) : row;
}

/* The values as they stand in the file, which go into the digest. */
static int expand(float *out, const cr_gguf_tensor *tensor, cr_sha256 *digest)
{
    char name[NAME_BYTES];
    const size_t columns = (size_t)tensor->shape[0], rows = (size_t)tensor->shape[1];
    cr_dtype_expand(out, cr_dtype_find(tensor->type), tensor->data, 0, rows * columns);
    for (size_t i = 0; i < rows * columns; i++)
        if (!isfinite(out[i]))
            return cr_fail(CR_EFORMAT, "tensor %s holds a value that is not finite",
                           shown(name, tensor->name));
    cr_lora_digest_add(digest, shown(name, tensor->name), rows, columns, out);
    return CR_OK;
}

typedef struct load_job {
    const cr_lora *lora;
    const cr_model *model;
    const cr_gguf_adapter *adapter;
    float *values; /* [lora->floats] */
    float *rows;   /* [lora->floats] */
    cr_sha256 digest;
} load_job;

static int load_pair(load_job *job, const cr_adapter_pair *pair)
{
    const cr_branch *branch =
        &job->lora->branches[pair->layer * CR_PROJECTIONS + (size_t)pair->projection];
    float *a = job->values + (branch->a - job->lora->values);
    float *b = job->values + (branch->b - job->lora->values);
    const float factor = quotient(file_scale(job->adapter->alpha, pair->rank), branch->scale);
    CR_TRY(expand(a, pair->a, &job->digest));
    CR_TRY(expand(job->rows, pair->b, &job->digest));
    for (size_t row = 0; row < pair->out; row++) {
        float *to = b + engine_row(job->model, pair->projection, row) * pair->rank;
        for (size_t c = 0; c < pair->rank; c++)
            to[c] = factor * job->rows[row * pair->rank + c];
    }
    return CR_OK;
}

static int check_pair(const load_job *job, const cr_adapter_pair *pair)
{
    char name[NAME_BYTES];
    tensor_name(name, pair->layer, pair->projection, 'a');
    const cr_branch *branch =
        pair->layer < job->lora->layers
            ? &job->lora->branches[pair->layer * CR_PROJECTIONS + (size_t)pair->projection]
            : NULL;
    if (!branch || !branch->a)
        return cr_fail(CR_EFORMAT, "tensor %s is none of this session's matrices", name);
    const cr_matrix *weight = &job->model->layers[pair->layer].projection[pair->projection];
    if (pair->rank != branch->rank || pair->in != weight->columns || pair->out != weight->rows)
        return cr_fail(
            CR_EFORMAT,
            "tensor %s and its lora_b: expected rank %zu between %zu and %zu values, the "
            "file has rank %zu between %zu and %zu",
            name, branch->rank, weight->columns, weight->rows, pair->rank, pair->in, pair->out);
    return CR_OK;
}

/* Every branch of the session must be there. */
static int check_missing(const load_job *job)
{
    char name[NAME_BYTES];
    const cr_gguf_adapter *adapter = job->adapter;
    for (size_t place = 0, next = 0; place < job->lora->layers * CR_PROJECTIONS; place++) {
        if (!job->lora->branches[place].a)
            continue;
        const size_t layer = place / CR_PROJECTIONS;
        const int projection = (int)(place % CR_PROJECTIONS);
        const cr_adapter_pair *pair = next < adapter->count ? &adapter->pairs[next++] : NULL;
        if (pair && pair->layer == layer && pair->projection == projection)
            continue;
        tensor_name(name, layer, projection, 'a');
        return cr_fail(CR_ENOTFOUND, "tensor %s is missing", name);
    }
    return CR_OK;
}

static int check_architecture(const load_job *job)
{
    char text[NAME_BYTES];
    const char *expected = job->model->config.family->name;
    const cr_text *found = &job->adapter->architecture;
    if (found->length == strlen(expected) && memcmp(found->bytes, expected, found->length) == 0)
        return CR_OK;
    return cr_fail(CR_EFORMAT, "an adapter for a model of family %s, this session's is %s",
                   shown(text, *found), expected);
}

static int check_digest(load_job *job)
{
    char found[2 * CR_SHA256_BYTES + 1], recorded[NAME_BYTES];
    const cr_text *digest = &job->adapter->digest;
    cr_lora_digest_end(&job->digest, found);
    if (digest->length == 0 ||
        (digest->length == strlen(found) && memcmp(digest->bytes, found, digest->length) == 0))
        return CR_OK;
    return cr_fail(CR_EFORMAT,
                   "the tensors' digest is %.12s..., the file records %.12s...: it was "
                   "changed after it was written",
                   found, shown(recorded, *digest));
}

static int load_all(load_job *job)
{
    const cr_gguf_adapter *adapter = job->adapter;
    if (job->lora->dora)
        return cr_fail(CR_EUNSUPPORTED,
                       "a GGUF adapter holds no magnitudes of DoRA, this session needs them");
    CR_TRY(check_architecture(job));
    for (size_t i = 0; i < adapter->count; i++)
        CR_TRY(check_pair(job, &adapter->pairs[i]));
    CR_TRY(check_missing(job));
    job->values = cr_calloc(job->lora->floats, sizeof(float));
    job->rows = cr_calloc(job->lora->floats, sizeof(float));
    if (!job->values || !job->rows)
        return CR_ENOMEM;
    cr_sha256_init(&job->digest);
    for (size_t i = 0; i < adapter->count; i++)
        CR_TRY(load_pair(job, &adapter->pairs[i]));
    return check_digest(job);
}

int cr_gguf_adapter_load(cr_lora *lora, const cr_model *model, const char *path)
{
    cr_gguf *file;
    cr_gguf_adapter adapter;
    CR_TRY(cr_gguf_open(&file, path));
    load_job job = {.lora = lora, .model = model, .adapter = &adapter};
    int code = cr_gguf_adapter_read(&adapter, file);
    if (code == CR_OK) {
        code = load_all(&job);
        cr_gguf_adapter_free(&adapter);
    }
    if (code == CR_OK)
        memcpy(lora->values, job.values, lora->floats * sizeof(float));
    lora->stale = lora->stale || code == CR_OK;
    cr_free(job.values);
    cr_free(job.rows);
    cr_gguf_close(file);
    return code < 0 && !strstr(cr_error_message(), path) ? cr_fail_context(code, "%s", path) : code;
}

/* ---- out of a lora ----------------------------------------------------------------------------------- */

typedef struct save_job {
    const cr_lora *lora;
    const cr_model *model;
    double alpha;
    const cr_dtype_info *type;
    cr_gguf_writer *writer;
    float *rows;          /* [lora->floats]: one tensor at a time */
    unsigned char *bytes; /* the same as stored */
    cr_sha256 digest;
} save_job;

static const cr_branch *branch_at(const save_job *job, size_t place)
{
    const cr_branch *branch = &job->lora->branches[place];
    return branch->a ? branch : NULL;
}

static const cr_matrix *weight_at(const save_job *job, size_t place)
{
    return &job->model->layers[place / CR_PROJECTIONS].projection[place % CR_PROJECTIONS];
}

/* The values of A or B as the file has them, rounded to its type: rows, and bytes. */
static int lay_out(save_job *job, size_t place, char part)
{
    const cr_branch *branch = branch_at(job, place);
    const cr_matrix *weight = weight_at(job, place);
    const size_t rows = part == 'a' ? branch->rank : weight->rows;
    const size_t columns = part == 'a' ? weight->columns : branch->rank;
    const float *from = part == 'a' ? branch->a : branch->b;
    const float theirs = file_scale(job->alpha, branch->rank);
    const float factor = part == 'a' ? 1.0f : quotient(branch->scale, theirs);
    for (size_t row = 0; row < rows; row++) {
        const size_t source =
            part == 'a' ? row : engine_row(job->model, (int)(place % CR_PROJECTIONS), row);
        for (size_t c = 0; c < columns; c++)
            job->rows[row * columns + c] = factor * from[source * columns + c];
    }
    const cr_quantized found = cr_quantize_row(job->bytes, job->type, job->rows, rows * columns);
    char name[NAME_BYTES];
    tensor_name(name, place / CR_PROJECTIONS, (int)(place % CR_PROJECTIONS), part);
    if (found != CR_QUANTIZED)
        return cr_fail(CR_EARG, "tensor %s holds a value that is %s", name,
                       found == CR_QUANTIZED_TOO_LARGE ? "too large for its type" : "not finite");
    cr_dtype_expand(job->rows, job->type, job->bytes, 0, rows * columns);
    return CR_OK;
}

static int declare(save_job *job, size_t place, char part)
{
    char name[NAME_BYTES];
    const cr_branch *branch = branch_at(job, place);
    const cr_matrix *weight = weight_at(job, place);
    const uint64_t a[2] = {weight->columns, branch->rank}, b[2] = {branch->rank, weight->rows};
    tensor_name(name, place / CR_PROJECTIONS, (int)(place % CR_PROJECTIONS), part);
    CR_TRY(lay_out(job, place, part));
    const uint64_t *shape = part == 'a' ? a : b;
    cr_lora_digest_add(&job->digest, name, (size_t)shape[1], (size_t)shape[0], job->rows);
    return cr_gguf_put_tensor(job->writer, name, strlen(name), job->type, 2, shape);
}

static int write_data(save_job *job, size_t place, char part)
{
    const size_t other = part == 'a' ? weight_at(job, place)->columns : weight_at(job, place)->rows;
    CR_TRY(lay_out(job, place, part));
    return cr_gguf_writer_data(job->writer, job->bytes,
                               branch_at(job, place)->rank * other * job->type->block_bytes);
}

/* Runs over all branches in the order of the file. */
static int for_each(save_job *job, int (*step)(save_job *job, size_t place, char part))
{
    for (size_t place = 0; place < job->lora->layers * CR_PROJECTIONS; place++) {
        if (!branch_at(job, place))
            continue;
        CR_TRY(step(job, place, 'a'));
        CR_TRY(step(job, place, 'b'));
    }
    return CR_OK;
}

static int put_keys(save_job *job, const char *const *notes)
{
    cr_gguf_writer *writer = job->writer;
    CR_TRY(cr_gguf_put_text(writer, "general.architecture", job->model->config.family->name));
    CR_TRY(cr_gguf_put_text(writer, "general.type", "adapter"));
    CR_TRY(cr_gguf_put_text(writer, "adapter.type", "lora"));
    CR_TRY(cr_gguf_put_f32(writer, "adapter.lora.alpha", (float)job->alpha));
    for (size_t i = 0; notes && notes[i]; i += 2)
        CR_TRY(cr_gguf_put_text(writer, notes[i], notes[i + 1]));
    return CR_OK;
}

static int save_all(save_job *job, const char *const *notes, const char *path)
{
    char digest[2 * CR_SHA256_BYTES + 1];
    CR_TRY(put_keys(job, notes));
    cr_sha256_init(&job->digest);
    CR_TRY(for_each(job, declare));
    cr_lora_digest_end(&job->digest, digest);
    CR_TRY(cr_gguf_put_text(job->writer, DIGEST_KEY, digest));
    CR_TRY(cr_gguf_writer_begin(job->writer, path));
    return for_each(job, write_data);
}

int cr_gguf_adapter_save(const cr_lora *lora, const cr_model *model, double alpha,
                         const cr_dtype_info *type, const char *const *notes, const char *path)
{
    if (lora->dora)
        return cr_fail(CR_EUNSUPPORTED,
                       "a GGUF adapter cannot hold DoRA's magnitudes: llama.cpp has no such "
                       "tensors; merge it, or save it for PEFT");
    save_job job = {.lora = lora,
                    .model = model,
                    .alpha = (double)(float)alpha, /* as the file has it */
                    .type = type};
    job.rows = cr_calloc(lora->floats, sizeof(float));
    job.bytes = cr_calloc(lora->floats, type->block_bytes);
    int code = job.rows && job.bytes ? cr_gguf_writer_create(&job.writer) : CR_ENOMEM;
    if (code == CR_OK)
        code = save_all(&job, notes, path);
    if (code == CR_OK)
        code = cr_gguf_writer_commit(job.writer);
    else
        cr_gguf_writer_discard(job.writer);
    cr_free(job.rows);
    cr_free(job.bytes);
    return code;
}
