/* config.c: hyperparameters from GGUF keys. */
#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const cr_family families[] = {
    /* Llama 2 and 3, SmolLM2, Mistral as GGUF names them */
    {.name = "llama", .hub_types = {"llama", "mistral"}, .neighbours_in_gguf = true},
    /* Qwen2 and Qwen2.5 */
    {.name = "qwen2", .hub_types = {"qwen2"}, .biases = true},
    {.name = "qwen3", .hub_types = {"qwen3"}, .head_norms = true, .hub_head_size = 128},
    /* Gemma 3, text */
    {.name = "gemma3",
     .hub_types = {"gemma3_text"},
     .head_norms = true,
     .post_norms = true,
     .scaled_embedding = true,
     .gelu = true,
     .centred_norms = true,
     .hub_head_size = 256,
     .global_every = 6,
     .local_rope_base = 10000.0},
};

#define FAMILIES (sizeof families / sizeof families[0])

static bool is_named(const char *name, const char *text, size_t length)
{
    return name && strlen(name) == length && memcmp(name, text, length) == 0;
}

static bool answers_to(const cr_family *family, const char *name, size_t length, bool hub)
{
    if (!hub)
        return is_named(family->name, name, length);
    return is_named(family->hub_types[0], name, length) ||
           is_named(family->hub_types[1], name, length);
}

static void list_families(char *out, size_t size, bool hub)
{
    size_t used = 0;
    for (size_t i = 0; i < FAMILIES; i++) {
        const char *const names[2] = {hub ? families[i].hub_types[0] : families[i].name,
                                      hub ? families[i].hub_types[1] : NULL};
        for (int n = 0; n < 2 && names[n]; n++)
            used += (size_t)snprintf(out + used, size - used, "%s%s", used ? ", " : "", names[n]);
    }
}

int cr_family_find(const cr_family **out, const char *name, size_t length, bool hub)
{
    for (size_t i = 0; i < FAMILIES; i++)
        if (answers_to(&families[i], name, length, hub)) {
            *out = &families[i];
            return CR_OK;
        }
    char known[256];
    list_families(known, sizeof known, hub);
    return cr_fail(CR_EUNSUPPORTED, "%s \"%.*s\" is not supported; supported: %s",
                   hub ? "model_type" : "architecture", (int)(length < 64 ? length : 64), name,
                   known);
}

static int find_family(const cr_family **out, const cr_gguf *file)
{
    cr_text name;
    CR_TRY(cr_gguf_text(file, "general.architecture", &name));
    return cr_family_find(out, name.bytes, name.length, false);
}

/* Reads "<family>.<suffix>" into *out, bounded so that later products of sizes cannot wrap. */
static int read_size(size_t *out, const cr_gguf *file, const cr_family *family, const char *suffix,
                     size_t most)
{
    char key[96];
    uint64_t value;
    snprintf(key, sizeof key, "%s.%s", family->name, suffix);
    CR_TRY(cr_gguf_u64(file, key, &value));
    if (value < 1 || value > most)
        return cr_fail(CR_EFORMAT, "%s: expected 1 to %zu, the file says %llu", key, most,
                       (unsigned long long)value);
    *out = (size_t)value;
    return CR_OK;
}

/* The same where the key may be absent: *out then keeps its value. */
static int read_optional_size(size_t *out, const cr_gguf *file, const cr_family *family,
                              const char *suffix, size_t most)
{
    int code = read_size(out, file, family, suffix, most);
    return code == CR_ENOTFOUND ? CR_OK : code;
}

static int read_number(double *out, const cr_gguf *file, const cr_family *family,
                       const char *suffix, bool required)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", family->name, suffix);
    int code = cr_gguf_f64(file, key, out);
    if (code == CR_ENOTFOUND && !required)
        return CR_OK;
    CR_TRY(code);
    if (!(*out > 0 && *out < 1e12))
        return cr_fail(CR_EFORMAT, "%s: expected a positive number, the file says %g", key, *out);
    return CR_OK;
}

static bool is_text(cr_text text, const char *expected)
{
    return text.length == strlen(expected) && memcmp(text.bytes, expected, text.length) == 0;
}

static int read_rope_scaling(cr_config *config, const cr_gguf *file)
{
    char key[96];
    cr_text type;
    snprintf(key, sizeof key, "%s.rope.scaling.type", config->family->name);
    int code = cr_gguf_text(file, key, &type);
    if (code == CR_ENOTFOUND)
        return CR_OK;
    CR_TRY(code);
    if (is_text(type, "none"))
        return CR_OK;
    if (is_text(type, "linear"))
        return read_number(&config->rope_scale, file, config->family, "rope.scaling.factor", true);
    return cr_fail(CR_EUNSUPPORTED, "%s \"%.*s\" is not supported; supported: none, linear", key,
                   (int)(type.length < 32 ? type.length : 32), type.bytes);
}

/* Frequencies of both kinds of layers, and what a layer with a window sees. */
static int read_positions(cr_config *config, const cr_gguf *file)
{
    const cr_family *family = config->family;
    config->rope_base = 10000.0;
    config->local_rope_base = family->local_rope_base;
    config->rope_scale = 1.0;
    config->rope_neighbours = family->neighbours_in_gguf;
    CR_TRY(read_number(&config->rope_base, file, family, "rope.freq_base", false));
    CR_TRY(read_rope_scaling(config, file));
    if (family->global_every == 0)
        return CR_OK;
    CR_TRY(read_number(&config->local_rope_base, file, family, "rope.freq_base_swa", false));
    for (size_t l = 0; l < config->layers; l++)
        config->local[l] = (l + 1) % family->global_every != 0;
    return read_size(&config->window, file, family, "attention.sliding_window", 1 << 28);
}

int cr_config_check_heads(const cr_config *config)
{
    if (config->heads % config->kv_heads != 0)
        return cr_fail(CR_EFORMAT, "%zu attention heads are no multiple of %zu key heads",
                       config->heads, config->kv_heads);
    if (config->head_size % 2 != 0)
        return cr_fail(CR_EFORMAT, "head size %zu is odd; rotary embedding needs pairs",
                       config->head_size);
    return CR_OK;
}

static int read_heads(cr_config *config, const cr_gguf *file)
{
    const cr_family *family = config->family;
    CR_TRY(read_size(&config->heads, file, family, "attention.head_count", 4096));
    config->kv_heads = config->heads;
    CR_TRY(read_optional_size(&config->kv_heads, file, family, "attention.head_count_kv", 4096));
    config->head_size = config->width / config->heads;
    CR_TRY(read_optional_size(&config->head_size, file, family, "attention.key_length", 4096));
    if (config->head_size == 0)
        return cr_fail(CR_EFORMAT, "embedding_length %zu is less than attention.head_count %zu",
                       config->width, config->heads);
    size_t turned = config->head_size;
    CR_TRY(read_optional_size(&turned, file, family, "rope.dimension_count", 4096));
    if (turned != config->head_size)
        return cr_fail(CR_EUNSUPPORTED, "rope.dimension_count %zu differs from the head size %zu",
                       turned, config->head_size);
    return cr_config_check_heads(config);
}

int cr_config_from_gguf(cr_config *out, const cr_gguf *file)
{
    *out = (cr_config){0};
    double epsilon = 0;
    CR_TRY(find_family(&out->family, file));
    CR_TRY(read_size(&out->layers, file, out->family, "block_count", CR_MAX_LAYERS));
    CR_TRY(read_size(&out->width, file, out->family, "embedding_length", 1 << 20));
    CR_TRY(read_size(&out->ffn_width, file, out->family, "feed_forward_length", 1 << 22));
    CR_TRY(read_size(&out->context, file, out->family, "context_length", 1 << 28));
    CR_TRY(read_heads(out, file));
    CR_TRY(read_positions(out, file));
    CR_TRY(read_number(&epsilon, file, out->family, "attention.layer_norm_rms_epsilon", true));
    out->norm_epsilon = (float)epsilon;
    out->attention_scale = 1.0f / sqrtf((float)out->head_size);
    const cr_gguf_tensor *embedding = cr_gguf_tensor_find(file, "token_embd.weight");
    if (!embedding)
        return cr_fail(CR_ENOTFOUND, "tensor token_embd.weight is missing");
    if (embedding->dims != 2 || embedding->shape[1] < 1 || embedding->shape[1] > INT32_MAX)
        return cr_fail(CR_EFORMAT, "tensor token_embd.weight: expected [vocabulary, %zu]",
                       out->width);
    out->vocabulary = (size_t)embedding->shape[1];
    return CR_OK;
}
