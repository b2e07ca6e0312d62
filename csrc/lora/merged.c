/* merged.c: which tensors a merged model has, and their bytes. */
#include "lora/merged.h"

#include <stdio.h>
#include <string.h>

#include "math/quantize.h"
#include "model/tensor_list.h"

#define PIECE_FLOATS ((size_t)1 << 20) /* expanded at a time */

/* ---- types ----------------------------------------------------------------------------------------- */

static bool fills(const cr_dtype_info *type, size_t columns)
{
    return columns % type->block_length == 0;
}

/* Whether a type takes less room than another. */
static bool is_smaller(const cr_dtype_info *a, const cr_dtype_info *b)
{
    return a->block_bytes * b->block_length < b->block_bytes * a->block_length;
}

static bool is_float(const cr_dtype_info *type)
{
    return type->block_length == 1;
}

/* What safetensors cannot hold, and rows that do not fill blocks, become F16. */
static const cr_dtype_info *storable(const cr_dtype_info *type, bool to_hub, size_t columns)
{
    const bool held = (!to_hub || is_float(type)) && fills(type, columns);
    return held ? type : cr_dtype_find(CR_DTYPE_F16);
}

/* `asked` NULL: the base's own. */
static const cr_dtype_info *matrix_type(const cr_merged_tensor *tensor, const cr_dtype_info *asked,
                                        bool to_hub)
{
    const bool changed = tensor->projection != CR_PROJECTIONS;
    const bool follows = asked && (changed || is_smaller(asked, tensor->from) ||
                                   (to_hub && !is_float(tensor->from)));
    return storable(follows ? asked : tensor->from, to_hub, tensor->columns);
}

/* ---- the list ---------------------------------------------------------------------------------------- */

/* Whether the branch changes anything: B starts at zero. DoRA's magnitudes may, whatever B is. */
static bool has_effect(const cr_lora *lora, const cr_branch *branch, size_t rows)
{
    if (branch->a && lora->dora)
        return true;
    for (size_t i = 0; branch->a && i < rows * branch->rank; i++)
        if (branch->b[i] != 0)
            return true;
    return false;
}

static bool is_merged(const cr_merged *merged, const cr_model_tensor *known, size_t rows)
{
    if (!known || known->projection == CR_PROJECTIONS || known->bias)
        return false;
    const size_t place = known->layer * CR_PROJECTIONS + (size_t)known->projection;
    return has_effect(merged->lora, &merged->lora->branches[place], rows);
}

/* Between the two kinds of files: rows of q and k, and norms without their 1. */
static void convert(cr_merged_tensor *tensor, const cr_merged *merged, const cr_model_tensor *known)
{
    const cr_model *model = merged->model;
    const bool from_hub = model->source.folder != NULL;
    if (from_hub == merged->to_hub)
        return;
    if (tensor->dims == 2 && known->projection != CR_PROJECTIONS &&
        cr_rows_are_permuted(model->config.family, known->projection))
        tensor->source = merged->to_hub ? cr_row_in_gguf : cr_row_in_hub;
    if (known->norm && model->config.family->centred_norms)
        tensor->shift = merged->to_hub ? -1.0f : 1.0f;
    if (!merged->to_hub && tensor->dims == 1)
        tensor->type = cr_dtype_find(CR_DTYPE_F32);
}

static int add(cr_merged *merged, const cr_source_tensor *base, const cr_model_tensor *known,
               const cr_dtype_info *asked)
{
    cr_merged_tensor *tensor = &merged->tensors[merged->count++];
    const bool from_hub = merged->model->source.folder != NULL;
    if (!base->info || base->name.length >= sizeof tensor->name)
        return cr_fail(CR_EUNSUPPORTED, "tensor %.*s: it cannot be copied",
                       (int)(base->name.length < 90 ? base->name.length : 90), base->name.bytes);
    *tensor = (cr_merged_tensor){.from = base->info,
                                 .type = base->info,
                                 .data = base->data,
                                 .dims = base->dims,
                                 .projection = CR_PROJECTIONS,
                                 .columns = (size_t)base->shape[0],
                                 .rows = 1};
    memcpy(tensor->shape, base->shape, sizeof tensor->shape);
    for (int i = 1; i < base->dims; i++)
        tensor->rows *= (size_t)base->shape[i];
    if (known && from_hub != merged->to_hub)
        snprintf(tensor->name, sizeof tensor->name, "%s",
                 merged->to_hub ? known->name.hub : known->name.gguf);
    else
        memcpy(tensor->name, base->name.bytes, base->name.length);
    if (is_merged(merged, known, tensor->rows)) {
        tensor->layer = known->layer;
        tensor->projection = known->projection;
    }
    if (tensor->dims > 1)
        tensor->type = matrix_type(tensor, asked, merged->to_hub);
    if (known)
        convert(tensor, merged, known);
    return CR_OK;
}

/* Between the two kinds only what the model knows goes over; within one kind everything does. */
static int add_all(cr_merged *merged, const cr_dtype_info *asked, const cr_model_tensor *list,
                   size_t count)
{
    const cr_source *source = &merged->model->source;
    const bool from_hub = source->folder != NULL;
    for (size_t i = 0; i < cr_source_count(source); i++) {
        cr_source_tensor base;
        if (!cr_source_at(&base, source, i))
            continue;
        const cr_model_tensor *known =
            cr_model_tensor_find(list, count, base.name.bytes, base.name.length, from_hub);
        if (known || from_hub == merged->to_hub)
            CR_TRY(add(merged, &base, known, asked));
    }
    return CR_OK;
}

int cr_merged_create(cr_merged *out, const cr_lora *lora, const cr_model *model,
                     cr_compute *compute, const cr_dtype_info *type, bool to_hub)
{
    cr_model_tensor *list;
    size_t count;
    *out = (cr_merged){.lora = lora, .model = model, .compute = compute, .to_hub = to_hub};
    if (to_hub && type && !is_float(type))
        return cr_fail(CR_EUNSUPPORTED, "a folder's safetensors hold f32, f16 or bf16, not %s",
                       type->name);
    if (to_hub && !type && model->source.gguf)
        return cr_fail(
            CR_EUNSUPPORTED,
            "the base is a GGUF file, whose types safetensors cannot hold: give f16, bf16 or f32");
    CR_TRY(cr_model_tensors(&list, &count, model));
    out->tensors = cr_calloc(cr_source_count(&model->source), sizeof *out->tensors);
    int code = out->tensors ? add_all(out, type, list, count) : CR_ENOMEM;
    cr_free(list);
    if (code < 0)
        cr_merged_free(out);
    return code;
}

void cr_merged_free(cr_merged *merged)
{
    cr_free(merged->tensors);
    *merged = (cr_merged){0};
}

static size_t row_bytes(const cr_dtype_info *type, size_t columns)
{
    return columns / type->block_length * type->block_bytes;
}

size_t cr_merged_bytes(const cr_merged_tensor *tensor)
{
    return tensor->rows * row_bytes(tensor->type, tensor->columns);
}

const cr_dtype_info *cr_merged_type(const cr_merged *merged)
{
    const cr_dtype_info *best = cr_dtype_find(CR_DTYPE_F32);
    uint64_t most = 0;
    for (size_t i = 0; i < merged->count; i++) {
        uint64_t values = 0;
        for (size_t j = 0; j < merged->count; j++) {
            const cr_merged_tensor *other = &merged->tensors[j];
            if (other->type == merged->tensors[i].type && other->dims > 1)
                values += (uint64_t)other->rows * other->columns;
        }
        if (values > most) {
            most = values;
            best = merged->tensors[i].type;
        }
    }
    return best;
}

/* ---- bytes --------------------------------------------------------------------------------------------- */

static bool is_copied(const cr_merged_tensor *tensor)
{
    return tensor->projection == CR_PROJECTIONS && tensor->type == tensor->from &&
           tensor->shift == 0;
}

typedef struct piece_job {
    const cr_merged *merged;
    const cr_merged_tensor *tensor;
    size_t first;         /* row */
    float *values;        /* [rows, columns] */
    unsigned char *bytes; /* the same as stored */
    uint8_t *failed;      /* [rows]: 1 + what went wrong */
} piece_job;

enum { FAILED_MERGE = 1, FAILED_FINITE, FAILED_RANGE };

static size_t source_row(const piece_job *job, size_t row)
{
    const cr_merged_tensor *tensor = job->tensor;
    return tensor->source ? tensor->source(row, job->merged->model->config.head_size) : row;
}

static int fill_row(const piece_job *job, size_t row, float *out)
{
    const cr_merged_tensor *tensor = job->tensor;
    const cr_merged *merged = job->merged;
    if (tensor->projection != CR_PROJECTIONS)
        return cr_lora_merge_rows(merged->lora, merged->model, tensor->layer, tensor->projection,
                                  row, 1, out);
    const unsigned char *data = tensor->data;
    cr_dtype_expand(out, tensor->from, data + row * row_bytes(tensor->from, tensor->columns), 0,
                    tensor->columns);
    for (size_t c = 0; tensor->shift != 0 && c < tensor->columns; c++)
        out[c] += tensor->shift;
    return CR_OK;
}

static void row_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const piece_job *job = argument;
    const cr_merged_tensor *tensor = job->tensor;
    const size_t row = source_row(job, job->first + task);
    unsigned char *bytes = job->bytes + task * row_bytes(tensor->type, tensor->columns);
    if (is_copied(tensor)) {
        const size_t size = row_bytes(tensor->from, tensor->columns);
        memcpy(bytes, (const unsigned char *)tensor->data + row * size, size);
        return;
    }
    float *values = job->values + task * tensor->columns;
    if (fill_row(job, row, values) < 0) {
        job->failed[task] = FAILED_MERGE;
        return;
    }
    const cr_quantized found = cr_quantize_row(bytes, tensor->type, values, tensor->columns);
    if (found != CR_QUANTIZED)
        job->failed[task] = found == CR_QUANTIZED_TOO_LARGE ? FAILED_RANGE : FAILED_FINITE;
}

/* Of the first row that failed; messages belong to threads, so it is made once more on this one. */
static int check_rows(const piece_job *job, size_t rows)
{
    for (size_t i = 0; i < rows; i++) {
        if (job->failed[i] == FAILED_MERGE)
            return fill_row(job, source_row(job, job->first + i), job->values);
        if (job->failed[i])
            return cr_fail(CR_EARG, "tensor %s: a value is %s", job->tensor->name,
                           job->failed[i] == FAILED_RANGE ? "too large for its type"
                                                          : "not finite");
    }
    return CR_OK;
}

static int write_pieces(piece_job *job, size_t most_rows, cr_sink sink, void *to)
{
    const cr_merged_tensor *tensor = job->tensor;
    for (job->first = 0; job->first < tensor->rows;) {
        const size_t left = tensor->rows - job->first, rows = left < most_rows ? left : most_rows;
        cr_parallel_for(job->merged->compute->pool, rows, row_task, job);
        CR_TRY(check_rows(job, rows));
        CR_TRY(sink(to, job->bytes, rows * row_bytes(tensor->type, tensor->columns)));
        job->first += rows;
    }
    return CR_OK;
}

int cr_merged_write(const cr_merged *merged, const cr_merged_tensor *tensor, cr_sink sink, void *to)
{
    if (merged->cancelled && *merged->cancelled)
        return cr_fail(CR_ECANCELLED, "cancelled");
    if (is_copied(tensor) && !tensor->source)
        return sink(to, tensor->data, cr_merged_bytes(tensor));
    const size_t fitting = tensor->columns < PIECE_FLOATS ? PIECE_FLOATS / tensor->columns : 1;
    const size_t rows = fitting < tensor->rows ? fitting : tensor->rows;
    piece_job job = {.merged = merged, .tensor = tensor};
    job.values = cr_alloc_plain(rows * tensor->columns * sizeof(float));
    job.bytes = cr_alloc_plain(rows * row_bytes(tensor->type, tensor->columns));
    job.failed = cr_calloc(rows, 1);
    int code =
        job.values && job.bytes && job.failed ? write_pieces(&job, rows, sink, to) : CR_ENOMEM;
    cr_free(job.values);
    cr_free(job.bytes);
    cr_free(job.failed);
    return code;
}
