/* source.c: weights by name from either kind of file. */
#include "model/source.h"

#include <string.h>

#include "file/fsio.h"

int cr_source_open(cr_source *out, const char *path)
{
    cr_file_status status;
    *out = (cr_source){0};
    CR_TRY(cr_file_stat(path, &status));
    if (status.folder) {
        CR_TRY(cr_hub_folder_open(&out->folder, path));
        out->bytes = cr_hub_folder_bytes(out->folder);
        return CR_OK;
    }
    out->bytes = status.size;
    return cr_gguf_open(&out->gguf, path);
}

void cr_source_close(cr_source *source)
{
    cr_gguf_close(source->gguf);
    cr_hub_folder_close(source->folder);
}

int cr_source_config(const cr_source *source, cr_config *out)
{
    return source->gguf ? cr_config_from_gguf(out, source->gguf)
                        : cr_config_from_json(out, cr_hub_folder_config(source->folder));
}

bool cr_source_has(const cr_source *source, const cr_weight_name *name)
{
    return source->gguf ? cr_gguf_tensor_find(source->gguf, name->gguf) != NULL
                        : cr_hub_folder_find(source->folder, name->hub) != NULL;
}

size_t cr_source_count(const cr_source *source)
{
    return source->gguf ? cr_gguf_tensor_count(source->gguf) : cr_hub_folder_count(source->folder);
}

static cr_source_tensor of_gguf(const cr_gguf_tensor *tensor)
{
    cr_source_tensor out = {.name = tensor->name,
                            .type = tensor->type,
                            .info = cr_dtype_find(tensor->type),
                            .data = tensor->data,
                            .bytes = tensor->bytes,
                            .dims = tensor->dims};
    memcpy(out.shape, tensor->shape, sizeof out.shape);
    return out;
}

static cr_source_tensor of_hub(const cr_safetensor *tensor)
{
    cr_source_tensor out = {.name = {tensor->name, strlen(tensor->name)},
                            .type = (uint32_t)tensor->type,
                            .info = cr_dtype_find((uint32_t)tensor->type),
                            .data = tensor->data,
                            .bytes = tensor->bytes,
                            .dims = tensor->dims,
                            .shape = {1, 1, 1, 1}};
    for (int i = 0; i < tensor->dims; i++)
        out.shape[i] = tensor->shape[tensor->dims - 1 - i];
    return out;
}

bool cr_source_at(cr_source_tensor *out, const cr_source *source, size_t index)
{
    if (source->gguf) {
        *out = of_gguf(cr_gguf_tensor_at(source->gguf, index));
        return true;
    }
    const cr_safetensor *tensor = cr_hub_folder_at(source->folder, index);
    if (tensor)
        *out = of_hub(tensor);
    return tensor != NULL;
}

/* Type and data of a tensor of that shape. */
static int find(const cr_source *source, const cr_weight_name *name, size_t rows, size_t columns,
                const cr_dtype_info **type, const void **data)
{
    const cr_gguf_tensor *tensor;
    const cr_safetensor *hub_tensor;
    if (source->folder) {
        CR_TRY(cr_hub_folder_weight(source->folder, name->hub, rows, columns, &hub_tensor));
        *type = cr_dtype_find(hub_tensor->type);
        *data = hub_tensor->data;
        return CR_OK;
    }
    CR_TRY(cr_gguf_weight(source->gguf, name->gguf, rows, columns, &tensor));
    *type = cr_dtype_find(tensor->type);
    *data = tensor->data;
    return CR_OK;
}

int cr_source_matrix(const cr_source *source, const cr_weight_name *name, size_t rows,
                     size_t columns, cr_matrix *out)
{
    const cr_dtype_info *type;
    const void *data;
    size_t row_bytes;
    CR_TRY(find(source, name, rows, columns, &type, &data));
    if (!cr_dtype_row_bytes(type, columns, &row_bytes))
        return cr_fail(CR_EFORMAT, "tensor %s: rows of %zu values do not fill %s blocks of %zu",
                       name->gguf, columns, type->name, type->block_length);
    *out = (cr_matrix){data, type, rows, columns, row_bytes};
    return CR_OK;
}

int cr_source_vector(const cr_source *source, const cr_weight_name *name, size_t count, float *out)
{
    const cr_dtype_info *type;
    const void *data;
    CR_TRY(find(source, name, 1, count, &type, &data));
    cr_dtype_expand(out, type, data, 0, count);
    return CR_OK;
}
