/* lora_file.c: reads and writes the PEFT layout (peft/utils/save_and_load.py names the tensors). */
#include "lora/lora_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "file/safetensors.h"
#include "lora/lora_digest.h"
#include "model/tensor_list.h"

#define NAME_BYTES 128
#define DIGEST_KEY "crucible.sha256"

static void peft_name(char name[NAME_BYTES], const cr_lora_matrix *matrix)
{
    bool bare = matrix->part == CR_PART_MAGNITUDE; /* a parameter and no layer when PEFT's format was settled */
    snprintf(name, NAME_BYTES, "base_model.model.model.%s%s", matrix->name, bare ? "" : ".weight");
}

/* Heads whose rows the family permutes in this matrix; 0 = rows are as everywhere. */
static size_t permuted_heads(const cr_lora_matrix *matrix, const cr_model *model)
{
    if (matrix->part == CR_PART_A || !model->config.rope_neighbours)
        return 0;
    if (matrix->projection == CR_PROJECTION_q)
        return model->config.heads;
    return matrix->projection == CR_PROJECTION_k ? model->config.kv_heads : 0;
}

static void copy_rows(float *out, const float *in, const cr_lora_matrix *matrix,
                      const cr_model *model, bool to_engine)
{
    bool permuted = permuted_heads(matrix, model) > 0;
    for (size_t row = 0; row < matrix->rows; row++) {
        size_t engine = permuted ? cr_row_in_gguf(row, model->config.head_size) : row;
        size_t from = to_engine ? row : engine, to = to_engine ? engine : row;
        memcpy(out + to * matrix->columns, in + from * matrix->columns,
               matrix->columns * sizeof(float));
    }
}

/* ---- tensors of a file ------------------------------------------------------------------------- */

/* A list of tensors to write, with the names they need. */
typedef struct listing {
    cr_safetensor_out *tensors;
    char (*names)[NAME_BYTES];
    size_t count;
} listing;

static void free_listing(listing *list)
{
    cr_free(list->tensors);
    cr_free(list->names);
}

static int make_listing(listing *list, size_t most)
{
    *list = (listing){cr_calloc(most, sizeof *list->tensors), cr_calloc(most, NAME_BYTES), 0};
    return list->tensors && list->names ? CR_OK : CR_ENOMEM;
}

static void add_tensor(listing *list, const char *prefix, const cr_lora_matrix *matrix,
                       const float *data)
{
    char *name = list->names[list->count];
    if (prefix)
        snprintf(name, NAME_BYTES, "%s.%s", prefix, matrix->name);
    else
        peft_name(name, matrix);
    list->tensors[list->count++] = (cr_safetensor_out){
        .name = name,
        .rows = matrix->rows,
        .columns = matrix->part == CR_PART_MAGNITUDE ? 0 : matrix->columns,
        .data = data};
}

#define SHAPE_BYTES 48

static void show_shape(char text[SHAPE_BYTES], int dims, uint64_t rows, uint64_t columns)
{
    if (dims == 1)
        snprintf(text, SHAPE_BYTES, "[%llu]", (unsigned long long)rows);
    else if (dims == 2)
        snprintf(text, SHAPE_BYTES, "[%llu, %llu]", (unsigned long long)rows,
                 (unsigned long long)columns);
    else
        snprintf(text, SHAPE_BYTES, "%d dimensions", dims);
}

static int check_shape(const cr_safetensor *tensor, const char *path, const cr_lora_matrix *matrix)
{
    bool vector = matrix->part == CR_PART_MAGNITUDE;
    if (tensor->dims == (vector ? 1 : 2) && tensor->shape[0] == matrix->rows &&
        tensor->shape[1] == matrix->columns)
        return CR_OK;
    char expected[SHAPE_BYTES], found[SHAPE_BYTES];
    show_shape(expected, vector ? 1 : 2, matrix->rows, matrix->columns);
    show_shape(found, tensor->dims, tensor->shape[0], tensor->shape[1]);
    return cr_fail(CR_EFORMAT, "%s: tensor %s: expected %s, the file has %s", path, tensor->name,
                   expected, found);
}

static int check_tensor(const cr_safetensor **out, const cr_safetensors *file, const char *path,
                        const char *name, const cr_lora_matrix *matrix)
{
    const cr_safetensor *tensor = cr_safetensors_find(file, name);
    *out = tensor;
    if (!tensor)
        return cr_fail(CR_ENOTFOUND, "%s: tensor %s is missing", path, name);
    return check_shape(tensor, path, matrix);
}

static bool expects(const cr_lora *lora, const char *name)
{
    char expected[NAME_BYTES];
    for (size_t i = 0; i < lora->count; i++) {
        peft_name(expected, &lora->matrices[i]);
        if (strcmp(expected, name) == 0)
            return true;
    }
    return false;
}

static int refuse_unexpected(const cr_lora *lora, const cr_safetensors *file, const char *path)
{
    for (size_t i = 0; i < cr_safetensors_count(file); i++) {
        const char *name = cr_safetensors_at(file, i)->name;
        if (!expects(lora, name))
            return cr_fail(CR_EFORMAT, "%s: tensor %s is none of this session's matrices", path,
                           name);
    }
    return CR_OK;
}

/* ---- digests -------------------------------------------------------------------------------------- */

static void add_to_digest(cr_sha256 *digest, const cr_lora_matrix *matrix, const float *rows)
{
    cr_lora_digest_add(digest, matrix->name, matrix->rows, matrix->columns, rows);
}

int cr_lora_digest(const cr_lora *lora, const cr_model *model, char text[CR_DIGEST_TEXT])
{
    cr_sha256 digest;
    float *rows = cr_calloc(lora->floats, sizeof(float));
    if (!rows)
        return CR_ENOMEM;
    cr_sha256_init(&digest);
    for (size_t i = 0; i < lora->count; i++) {
        const cr_lora_matrix *matrix = &lora->matrices[i];
        copy_rows(rows, lora->values + matrix->offset, matrix, model, false);
        add_to_digest(&digest, matrix, rows);
    }
    cr_lora_digest_end(&digest, text);
    cr_free(rows);
    return CR_OK;
}

static int check_digest(const char *found, const char *expected, const char *path, const char *why)
{
    if (strcmp(found, expected) == 0)
        return CR_OK;
    return cr_fail(CR_EFORMAT, "%s: the tensors' digest is %.12s..., %s %.12s...", path, found, why,
                   expected);
}

/* ---- matrices ------------------------------------------------------------------------------------ */

int cr_lora_save(const cr_lora *lora, const cr_model *model, const char *path)
{
    listing list = {0};
    cr_sha256 hash;
    char digest[CR_DIGEST_TEXT];
    const char *const metadata[] = {"format", "pt", DIGEST_KEY, digest, NULL};
    float *rows = cr_calloc(lora->floats, sizeof(float));
    int code = rows ? make_listing(&list, lora->count) : CR_ENOMEM;
    cr_sha256_init(&hash);
    for (size_t i = 0; i < lora->count && code == CR_OK; i++) {
        const cr_lora_matrix *matrix = &lora->matrices[i];
        copy_rows(rows + matrix->offset, lora->values + matrix->offset, matrix, model, false);
        add_to_digest(&hash, matrix, rows + matrix->offset);
        add_tensor(&list, NULL, matrix, rows + matrix->offset);
    }
    cr_lora_digest_end(&hash, digest);
    if (code == CR_OK)
        code = cr_safetensors_write(path, list.tensors, list.count, metadata);
    free_listing(&list);
    cr_free(rows);
    return code;
}

static int read_matrix(float *values, const cr_lora_matrix *matrix, const cr_model *model,
                       const cr_safetensors *file, const char *path, float *rows,
                       cr_sha256 *digest)
{
    char name[NAME_BYTES];
    const cr_safetensor *tensor;
    peft_name(name, matrix);
    CR_TRY(check_tensor(&tensor, file, path, name, matrix));
    size_t count = matrix->rows * matrix->columns;
    cr_dtype_expand(rows, cr_dtype_find((uint32_t)tensor->type), tensor->data, 0, count);
    for (size_t i = 0; i < count; i++)
        if (!(rows[i] - rows[i] == 0))
            return cr_fail(CR_EFORMAT, "%s: tensor %s holds a value that is not finite", path, name);
    add_to_digest(digest, matrix, rows);
    copy_rows(values + matrix->offset, rows, matrix, model, true);
    return CR_OK;
}

/* What was read is what was written, where the file says what that was, and what is held. */
static int check_loaded(const cr_lora *lora, const cr_model *model, const cr_safetensors *file,
                        const char *path, cr_sha256 *hash)
{
    char read[CR_DIGEST_TEXT], held[CR_DIGEST_TEXT];
    const char *written = cr_safetensors_metadata(file, DIGEST_KEY);
    cr_lora_digest_end(hash, read);
    if (written)
        CR_TRY(check_digest(read, written, path, "the file records"));
    CR_TRY(cr_lora_digest(lora, model, held));
    return check_digest(held, read, path, "in the file it is");
}

int cr_lora_load(cr_lora *lora, const cr_model *model, const char *path)
{
    cr_safetensors *file = NULL;
    CR_TRY(cr_safetensors_open(&file, path));
    float *values = cr_calloc(lora->floats, sizeof(float));
    float *rows = cr_calloc(lora->floats, sizeof(float));
    cr_lora loaded = *lora;
    cr_sha256 digest;
    loaded.values = values;
    cr_sha256_init(&digest);
    int code = values && rows ? refuse_unexpected(lora, file, path) : CR_ENOMEM;
    for (size_t i = 0; i < lora->count && code == CR_OK; i++)
        code = read_matrix(values, &lora->matrices[i], model, file, path, rows, &digest);
    if (code == CR_OK)
        code = check_loaded(&loaded, model, file, path, &digest);
    if (code == CR_OK)
        memcpy(lora->values, values, lora->floats * sizeof(float));
    lora->stale = lora->stale || code == CR_OK;
    cr_free(rows);
    cr_free(values);
    cr_safetensors_close(file);
    return code;
}

/* ---- optimiser ------------------------------------------------------------------------------------- */

#define RATIO "loraplus_lr_ratio" /* as the bits of a double: exact, whatever the locale */

int cr_optimizer_save(const cr_lora *lora, const cr_optimizer_state *state, const char *path)
{
    listing list = {0};
    char step[24], ratio[24];
    uint64_t bits;
    memcpy(&bits, &state->loraplus_lr_ratio, sizeof bits);
    snprintf(step, sizeof step, "%llu", (unsigned long long)state->step);
    snprintf(ratio, sizeof ratio, "%016llx", (unsigned long long)bits);
    const char *const metadata[] = {
        "step", step, state->loraplus_lr_ratio != 1.0 ? RATIO : NULL, ratio, NULL};
    int code = make_listing(&list, 2 * lora->count);
    for (size_t i = 0; i < lora->count && code == CR_OK; i++) {
        const cr_lora_matrix *matrix = &lora->matrices[i];
        add_tensor(&list, "moment1", matrix, lora->moment1 + matrix->offset);
        add_tensor(&list, "moment2", matrix, lora->moment2 + matrix->offset);
    }
    if (code == CR_OK)
        code = cr_safetensors_write(path, list.tensors, list.count, metadata);
    free_listing(&list);
    return code;
}

static int read_moment(float *block, const char *prefix, const cr_lora_matrix *matrix,
                       const cr_safetensors *file, const char *path)
{
    char name[NAME_BYTES];
    const cr_safetensor *tensor;
    snprintf(name, sizeof name, "%s.%s", prefix, matrix->name);
    CR_TRY(check_tensor(&tensor, file, path, name, matrix));
    cr_dtype_expand(block + matrix->offset, cr_dtype_find((uint32_t)tensor->type), tensor->data, 0,
                    matrix->rows * matrix->columns);
    return CR_OK;
}

/* Files without one come from updates with one rate. */
static int read_ratio(double *ratio, const cr_safetensors *file, const char *path)
{
    const char *text = cr_safetensors_metadata(file, RATIO);
    *ratio = 1.0;
    if (!text)
        return CR_OK;
    uint64_t bits = strtoull(text, NULL, 16);
    memcpy(ratio, &bits, sizeof bits);
    if (strspn(text, "0123456789abcdef") != 16 || text[16] != '\0' || !(*ratio > 0) || isinf(*ratio))
        return cr_fail(CR_EFORMAT, "%s: metadata \"%s\": expected the bits of a positive number", path,
                       RATIO);
    return CR_OK;
}

static int read_step(uint64_t *step, const cr_safetensors *file, const char *path)
{
    const char *text = cr_safetensors_metadata(file, "step");
    char *end = NULL;
    unsigned long long value = text ? strtoull(text, &end, 10) : 0;
    if (!text || *text < '0' || *text > '9' || *end != '\0')
        return cr_fail(CR_EFORMAT, "%s: metadata \"step\": expected a number", path);
    *step = value;
    return CR_OK;
}

int cr_optimizer_load(cr_lora *lora, cr_optimizer_state *state, const char *path)
{
    cr_safetensors *file = NULL;
    CR_TRY(cr_safetensors_open(&file, path));
    float *moments = cr_calloc(2 * lora->floats, sizeof(float));
    cr_optimizer_state found = {0, 1};
    int code = moments ? read_step(&found.step, file, path) : CR_ENOMEM;
    if (code == CR_OK)
        code = read_ratio(&found.loraplus_lr_ratio, file, path);
    if (code == CR_OK && cr_safetensors_count(file) != 2 * lora->count)
        code = cr_fail(CR_EFORMAT, "%s: expected %zu tensors, the file has %zu", path,
                       2 * lora->count, cr_safetensors_count(file));
    for (size_t i = 0; i < lora->count && code == CR_OK; i++) {
        code = read_moment(moments, "moment1", &lora->matrices[i], file, path);
        if (code == CR_OK)
            code = read_moment(moments + lora->floats, "moment2", &lora->matrices[i], file, path);
    }
    if (code == CR_OK) {
        memcpy(lora->moment1, moments, lora->floats * sizeof(float));
        memcpy(lora->moment2, moments + lora->floats, lora->floats * sizeof(float));
        *state = found;
    }
    cr_free(moments);
    cr_safetensors_close(file);
    return code;
}
