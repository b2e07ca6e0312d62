/* merged_gguf.c: a merged model as a GGUF file. */
#include "lora/merged.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_json.h"

/* ---- keys that say what the file's types are -------------------------------------------------------- */

/* llama.cpp's enum llama_ftype. */
static uint32_t file_type(cr_dtype type)
{
    switch (type) {
    case CR_DTYPE_F32:
        return 0;
    case CR_DTYPE_F16:
        return 1;
    case CR_DTYPE_Q4_0:
        return 2;
    case CR_DTYPE_Q4_1:
        return 3;
    case CR_DTYPE_Q8_0:
        return 7;
    case CR_DTYPE_Q5_0:
        return 8;
    case CR_DTYPE_Q5_1:
        return 9;
    case CR_DTYPE_Q2_K:
        return 10;
    case CR_DTYPE_Q3_K:
        return 12;
    case CR_DTYPE_Q4_K:
        return 15;
    case CR_DTYPE_Q5_K:
        return 17;
    case CR_DTYPE_Q6_K:
        return 18;
    case CR_DTYPE_IQ4_NL:
        return 25;
    case CR_DTYPE_BF16:
        return 32;
    }
    return 1;
}

#define QUANTISATION_VERSION 2 /* of ggml's block layouts: dtype.c's */

static int put_types(cr_gguf_writer *writer, const cr_merged *merged)
{
    CR_TRY(cr_gguf_put_u32(writer, "general.file_type", file_type(cr_merged_type(merged)->type)));
    return cr_gguf_put_u32(writer, "general.quantization_version", QUANTISATION_VERSION);
}

/* ---- keys of a GGUF base ------------------------------------------------------------------------------ */

static bool begins(cr_text text, const char *prefix)
{
    return text.length >= strlen(prefix) && memcmp(text.bytes, prefix, strlen(prefix)) == 0;
}

static bool is_replaced(cr_text name)
{
    return begins(name, "general.file_type") || begins(name, "general.quantization_version") ||
           begins(name, "crucible.merge.");
}

static int compare_places(const void *a, const void *b)
{
    const cr_text *x = a, *y = b;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* In the order of the base's file. */
static int copy_keys(cr_gguf_writer *writer, const cr_gguf *base)
{
    size_t count = 0;
    cr_text *entries = cr_calloc(cr_gguf_key_count(base), sizeof *entries);
    if (!entries)
        return CR_ENOMEM;
    for (size_t i = 0; i < cr_gguf_key_count(base); i++) {
        cr_gguf_key key;
        cr_gguf_key_at(base, i, &key);
        if (!is_replaced(key.name))
            entries[count++] = key.entry;
    }
    if (count)
        qsort(entries, count, sizeof *entries, compare_places);
    int code = CR_OK;
    for (size_t i = 0; i < count && code == CR_OK; i++)
        code = cr_gguf_put_entry(writer, entries[i]);
    cr_free(entries);
    return code;
}

/* ---- keys of a folder's model ---------------------------------------------------------------------------- */

typedef struct family_keys {
    cr_gguf_writer *writer;
    const char *family;
} family_keys;

static int put_size(const family_keys *to, const char *suffix, size_t value)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", to->family, suffix);
    return cr_gguf_put_u32(to->writer, key, (uint32_t)value);
}

static int put_number(const family_keys *to, const char *suffix, double value)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", to->family, suffix);
    return cr_gguf_put_f32(to->writer, key, (float)value);
}

static int put_sizes(const family_keys *to, const cr_config *config)
{
    CR_TRY(put_size(to, "block_count", config->layers));
    CR_TRY(put_size(to, "context_length", config->context));
    CR_TRY(put_size(to, "embedding_length", config->width));
    CR_TRY(put_size(to, "feed_forward_length", config->ffn_width));
    CR_TRY(put_size(to, "attention.head_count", config->heads));
    CR_TRY(put_size(to, "attention.head_count_kv", config->kv_heads));
    CR_TRY(put_size(to, "attention.key_length", config->head_size));
    CR_TRY(put_size(to, "attention.value_length", config->head_size));
    CR_TRY(put_size(to, "rope.dimension_count", config->head_size));
    CR_TRY(put_size(to, "vocab_size", config->vocabulary));
    return put_number(to, "attention.layer_norm_rms_epsilon", (double)config->norm_epsilon);
}

static int put_positions(const family_keys *to, const cr_config *config)
{
    char key[96];
    CR_TRY(put_number(to, "rope.freq_base", config->rope_base));
    if (config->family->local_rope_base != 0)
        CR_TRY(put_number(to, "rope.freq_base_swa", config->local_rope_base));
    if (config->window > 0 && config->family->global_every > 0)
        CR_TRY(put_size(to, "attention.sliding_window", config->window));
    if (config->rope_scale == 1.0)
        return CR_OK;
    snprintf(key, sizeof key, "%s.rope.scaling.type", to->family);
    CR_TRY(cr_gguf_put_text(to->writer, key, "linear"));
    return put_number(to, "rope.scaling.factor", config->rope_scale);
}

/* What GGUF has no key for must be what its readers take for granted. */
static int check_expressible(const cr_config *config)
{
    const float expected = 1.0f / sqrtf((float)config->head_size);
    if (fabsf(config->attention_scale - expected) > 1e-6f * expected)
        return cr_fail(CR_EUNSUPPORTED,
                       "query_pre_attn_scalar differs from the head size %zu: GGUF "
                       "has no key for that",
                       config->head_size);
    const size_t every = config->family->global_every;
    for (size_t l = 0; l < config->layers; l++)
        if (config->local[l] != (every > 0 && (l + 1) % every != 0))
            return cr_fail(CR_EUNSUPPORTED,
                           "layer %zu %s a sliding window: GGUF's reader expects "
                           "otherwise",
                           l, config->local[l] ? "has" : "has not");
    return CR_OK;
}

static int make_keys(cr_gguf_writer *writer, const cr_model *model)
{
    const family_keys to = {writer, model->config.family->name};
    CR_TRY(check_expressible(&model->config));
    CR_TRY(cr_gguf_put_text(writer, "general.architecture", to.family));
    CR_TRY(cr_gguf_put_text(writer, "general.type", "model"));
    CR_TRY(cr_gguf_put_text(writer, "general.name", model->name));
    CR_TRY(put_sizes(&to, &model->config));
    CR_TRY(put_positions(&to, &model->config));
    if (*model->chat_template)
        CR_TRY(cr_gguf_put_text(writer, "tokenizer.chat_template", model->chat_template));
    return cr_tokenizer_folder_to_gguf(writer, model->source.folder, model->config.vocabulary);
}

/* ---- the file ------------------------------------------------------------------------------------------------ */

/* Frequencies in bands are a tensor of divisors in GGUF; a folder has their rule in config.json. */
static bool adds_factors(const cr_merged *merged)
{
    return merged->model->source.folder && merged->model->config.rope_bands.factor != 0;
}

static int put_all_keys(cr_gguf_writer *writer, const cr_merged *merged, const char *const *notes,
                        const char *const *blanks)
{
    const cr_model *model = merged->model;
    if (model->source.gguf) {
        cr_gguf_writer_align(writer, cr_gguf_alignment(model->source.gguf));
        CR_TRY(copy_keys(writer, model->source.gguf));
    } else {
        CR_TRY(make_keys(writer, model));
    }
    CR_TRY(put_types(writer, merged));
    for (size_t i = 0; notes && notes[i]; i += 2)
        CR_TRY(cr_gguf_put_text(writer, notes[i], notes[i + 1]));
    for (size_t i = 0; blanks && blanks[i]; i++)
        CR_TRY(cr_gguf_put_f64(writer, blanks[i], NAN));
    return CR_OK;
}

static int put_tensors(cr_gguf_writer *writer, const cr_merged *merged)
{
    const uint64_t half = merged->model->config.head_size / 2;
    for (size_t i = 0; i < merged->count; i++) {
        const cr_merged_tensor *tensor = &merged->tensors[i];
        CR_TRY(cr_gguf_put_tensor(writer, tensor->name, strlen(tensor->name), tensor->type,
                                  tensor->dims, tensor->shape));
    }
    if (!adds_factors(merged))
        return CR_OK;
    return cr_gguf_put_tensor(writer, "rope_freqs.weight", strlen("rope_freqs.weight"),
                              cr_dtype_find(CR_DTYPE_F32), 1, &half);
}

static int to_writer(void *to, const void *bytes, size_t size)
{
    return cr_gguf_writer_data(to, bytes, size);
}

static int write_all(cr_gguf_writer *writer, const cr_merged *merged, const char *const *notes,
                     const char *const *blanks, const char *path)
{
    const cr_model *model = merged->model;
    CR_TRY(put_all_keys(writer, merged, notes, blanks));
    CR_TRY(put_tensors(writer, merged));
    CR_TRY(cr_gguf_writer_begin(writer, path));
    for (size_t i = 0; i < merged->count; i++)
        CR_TRY(cr_merged_write(merged, &merged->tensors[i], to_writer, writer));
    if (!adds_factors(merged))
        return CR_OK;
    return cr_gguf_writer_data(writer, model->rope.factors,
                               model->config.head_size / 2 * sizeof(float));
}

int cr_merged_write_gguf(const cr_merged *merged, const char *const *notes,
                         const char *const *blanks, const char *path)
{
    cr_gguf_writer *writer;
    CR_TRY(cr_gguf_writer_create(&writer));
    int code = write_all(writer, merged, notes, blanks, path);
    if (code < 0) {
        cr_gguf_writer_discard(writer);
        return code;
    }
    return cr_gguf_writer_commit(writer);
}
