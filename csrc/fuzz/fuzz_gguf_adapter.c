/* fuzz_gguf_adapter.c: any bytes are an adapter or are refused; the pairs of one fit together. */
#include <math.h>
#include <stdlib.h>

#include "lora/gguf_adapter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile float sink;

static void require(bool truth)
{
    if (!truth)
        abort();
}

static void touch(const cr_gguf_tensor *tensor)
{
    float values[64];
    const size_t count = tensor->shape[0] < 64 ? (size_t)tensor->shape[0] : 64;
    const cr_dtype_info *type = cr_dtype_find(tensor->type);
    require(type != NULL);
    cr_dtype_expand(values, type, tensor->data, 0, count);
    for (size_t i = 0; i < count; i++)
        sink = values[i];
}

static void check_pair(const cr_adapter_pair *pair)
{
    require(pair->a && pair->b && pair->projection >= 0 && pair->projection < CR_PROJECTIONS);
    require(pair->a->shape[1] == pair->rank && pair->b->shape[0] == pair->rank);
    require(pair->a->shape[0] == pair->in && pair->b->shape[1] == pair->out);
    touch(pair->a);
    touch(pair->b);
}

static bool is_before(const cr_adapter_pair *a, const cr_adapter_pair *b)
{
    return a->layer < b->layer || (a->layer == b->layer && a->projection < b->projection);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cr_gguf *file;
    cr_gguf_adapter adapter;
    if (cr_gguf_parse(&file, data, size) < 0)
        return 0;
    if (cr_gguf_adapter_read(&adapter, file) < 0) {
        require(cr_error_message()[0] != '\0');
    } else {
        require(adapter.count > 0 && 2 * adapter.count == cr_gguf_tensor_count(file));
        require(isfinite(adapter.alpha) && adapter.alpha >= 0);
        for (size_t i = 0; i < adapter.count; i++) {
            check_pair(&adapter.pairs[i]);
            require(i == 0 || is_before(&adapter.pairs[i - 1], &adapter.pairs[i]));
        }
        cr_gguf_adapter_free(&adapter);
    }
    cr_gguf_close(file);
    return 0;
}
