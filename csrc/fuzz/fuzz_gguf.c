/* fuzz_gguf.c: any bytes parse or fail; every getter is asked for every key that the seeds have,
 * and the first row of every tensor is expanded. */
#include <stdlib.h>
#include <string.h>

#include "file/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Of the seeds (csrc/fuzz/seeds/gguf), besides what models use. */
static const char *const keys[] = {
    "general.architecture",
    "general.alignment",
    "u8",
    "i8",
    "u16",
    "i16",
    "u32",
    "i32",
    "f32",
    "bool",
    "text",
    "u64",
    "i64",
    "f64",
    "texts",
    "f32s",
    "i32s",
    "u32s",
    "u8s",
    "bools",
    "absent",
};

static volatile unsigned sink;

static void require(bool truth)
{
    if (!truth)
        abort();
}

static void touch(const void *bytes, size_t size)
{
    unsigned sum = 0;
    for (size_t i = 0; i < size; i++)
        sum += ((const unsigned char *)bytes)[i];
    sink += sum;
}

static void ask_scalars(const cr_gguf *file, const char *key)
{
    uint64_t whole;
    double real;
    bool truth;
    cr_text text;
    const bool is_whole = cr_gguf_u64(file, key, &whole) == CR_OK;
    const bool is_real = cr_gguf_f64(file, key, &real) == CR_OK;
    require(!is_whole || (is_real && real == (double)whole));
    require(cr_gguf_bool(file, key, &truth) < 0 || !is_real);
    if (cr_gguf_text(file, key, &text) == CR_OK)
        touch(text.bytes, text.length);
}

static void ask_arrays(const cr_gguf *file, const char *key)
{
    const cr_text *texts;
    const float *floats;
    const int32_t *integers;
    size_t count;
    if (cr_gguf_text_array(file, key, &texts, &count) == CR_OK)
        for (size_t i = 0; i < count; i++)
            touch(texts[i].bytes, texts[i].length);
    if (cr_gguf_f32_array(file, key, &floats, &count) == CR_OK)
        touch(floats, count * sizeof *floats);
    if (cr_gguf_i32_array(file, key, &integers, &count) == CR_OK)
        touch(integers, count * sizeof *integers);
}

/* A row may be far longer than the file where blocks are small: a part of it will do. */
static void expand_row(const cr_gguf_tensor *tensor, const cr_dtype_info *info)
{
    const size_t length = (size_t)tensor->shape[0], odd = length / 3;
    const size_t count = length - odd < 100000 ? length - odd : 100000;
    float *row = malloc(count * sizeof *row);
    if (row) {
        cr_dtype_expand(row, info, tensor->data, 0, count);
        cr_dtype_expand(row, info, tensor->data, odd, count);
        cr_dtype_expand(row, info, tensor->data, length - 1, 1);
    }
    free(row);
}

static void check_tensor(const cr_gguf *file, const cr_gguf_tensor *tensor)
{
    const cr_dtype_info *info = cr_dtype_find(tensor->type);
    const cr_gguf_tensor *found = NULL;
    touch(tensor->data, tensor->bytes);
    require((tensor->bytes > 0) == (info != NULL));
    if (info)
        expand_row(tensor, info);
    char *name = malloc(tensor->name.length + 1);
    if (!name)
        return;
    memcpy(name, tensor->name.bytes, tensor->name.length);
    name[tensor->name.length] = '\0';
    if (strlen(name) == tensor->name.length) { /* else no C string finds it */
        require(cr_gguf_tensor_find(file, name) == tensor);
        if (cr_gguf_weight(file, name, tensor->shape[1], tensor->shape[0], &found) == CR_OK)
            require(found == tensor && info);
        require(cr_gguf_weight(file, name, tensor->shape[1], tensor->shape[0] + 1, &found) < 0);
    }
    free(name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cr_gguf *file;
    if (cr_gguf_parse(&file, data, size) < 0) {
        require(cr_error_message()[0] != '\0');
        return 0;
    }
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        ask_scalars(file, keys[i]);
        ask_arrays(file, keys[i]);
    }
    for (size_t i = 0; i < cr_gguf_tensor_count(file); i++)
        check_tensor(file, cr_gguf_tensor_at(file, i));
    require(cr_gguf_tensor_find(file, "a name that no seed has") == NULL);
    cr_gguf_close(file);
    return 0;
}
