/* fuzz_safetensors.c: any bytes parse or fail; every value of what parsed is expanded. */
#include <stdlib.h>
#include <string.h>

#include "file/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool truth)
{
    if (!truth)
        abort();
}

static void check_tensor(const cr_safetensors *file, const cr_safetensor *tensor)
{
    const cr_dtype_info *info = cr_dtype_find(tensor->type);
    size_t values = 1, bytes;
    require(info && cr_safetensors_find(file, tensor->name) == tensor);
    for (int i = 0; i < 4; i++)
        values *= (size_t)tensor->shape[i];
    require(cr_dtype_row_bytes(info, values, &bytes) && bytes == tensor->bytes);
    float *expanded = malloc(values * sizeof *expanded + 1);
    if (expanded)
        cr_dtype_expand(expanded, info, tensor->data, 0, values);
    free(expanded);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cr_safetensors *file;
    if (cr_safetensors_parse(&file, data, size) < 0) {
        require(cr_error_message()[0] != '\0');
        return 0;
    }
    size_t covered = 0;
    for (size_t i = 0; i < cr_safetensors_count(file); i++) {
        const cr_safetensor *tensor = cr_safetensors_at(file, i);
        check_tensor(file, tensor);
        covered += tensor->bytes;
    }
    require(covered <= size);
    require(cr_safetensors_find(file, "a name that no seed has") == NULL);
    const char *format = cr_safetensors_metadata(file, "format");
    require(!format || strlen(format) < size);
    cr_safetensors_close(file);
    return 0;
}
