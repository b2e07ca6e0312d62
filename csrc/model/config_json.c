/* config_json.c: hyperparameters from a Hugging Face config.json, as transformers reads it: rope in
 * rope_parameters (version 5) or rope_theta and rope_scaling (before).
 */
#include <math.h>
#include <string.h>

#include "model/config.h"

/* A member that must be there: its absence is the file's fault. */
static int required(int code)
{
    return code == CR_ENOTFOUND ? CR_EFORMAT : code;
}

static int read_family(cr_config *out, cr_json_object config)
{
    const char *type;
    CR_TRY(required(cr_json_string(config, "model_type", &type)));
    return cr_family_find(&out->family, type, strlen(type), true);
}

/* ---- what no family here has ------------------------------------------------------------------- */

static int refuse_flag(cr_json_object config, const char *key)
{
    bool value = false;
    CR_TRY(cr_json_optional(cr_json_bool(config, key, &value)));
    return value ? cr_fail(CR_EUNSUPPORTED, "%s is true: supported is false", key) : CR_OK;
}

static int refuse_given(cr_json_object config, const char *key)
{
    return cr_json_field(config, key) ? cr_fail(CR_EUNSUPPORTED, "%s is not supported", key) : CR_OK;
}

static int check_activation(const cr_config *out, cr_json_object config)
{
    const char *key = out->family->gelu ? "hidden_activation" : "hidden_act";
    const char *known = out->family->gelu ? "gelu_pytorch_tanh" : "silu";
    const char *name = known;
    CR_TRY(cr_json_optional(cr_json_string(config, key, &name)));
    if (strcmp(name, known) != 0)
        return cr_fail(CR_EUNSUPPORTED, "%s is '%.60s': supported is %s", key, name, known);
    return CR_OK;
}

static int check_parts(const cr_config *out, cr_json_object config)
{
    CR_TRY(refuse_flag(config, "attention_bias"));
    CR_TRY(refuse_flag(config, "mlp_bias"));
    CR_TRY(refuse_flag(config, "use_bidirectional_attention"));
    CR_TRY(refuse_given(config, "quantization_config"));
    CR_TRY(refuse_given(config, "attn_logit_softcapping"));
    CR_TRY(refuse_given(config, "final_logit_softcapping"));
    return check_activation(out, config);
}

/* ---- sizes ------------------------------------------------------------------------------------------ */

static int read_sizes(cr_config *out, cr_json_object config)
{
    CR_TRY(required(cr_json_size(config, "num_hidden_layers", 1, CR_MAX_LAYERS, &out->layers)));
    CR_TRY(required(cr_json_size(config, "hidden_size", 1, 1 << 20, &out->width)));
    CR_TRY(required(cr_json_size(config, "intermediate_size", 1, 1 << 22, &out->ffn_width)));
    CR_TRY(required(cr_json_size(config, "vocab_size", 1, INT32_MAX, &out->vocabulary)));
    CR_TRY(cr_json_optional(cr_json_bool(config, "tie_word_embeddings", &out->tied_head)));
    return required(cr_json_size(config, "max_position_embeddings", 1, 1 << 28, &out->context));
}

static int read_heads(cr_config *out, cr_json_object config)
{
    CR_TRY(required(cr_json_size(config, "num_attention_heads", 1, 4096, &out->heads)));
    out->kv_heads = out->heads;
    CR_TRY(cr_json_optional(cr_json_size(config, "num_key_value_heads", 1, 4096, &out->kv_heads)));
    size_t absent = out->family->hub_head_size;
    out->head_size = absent ? absent : out->width / out->heads;
    CR_TRY(cr_json_optional(cr_json_size(config, "head_dim", 1, 4096, &out->head_size)));
    if (out->head_size == 0)
        return cr_fail(CR_EFORMAT, "hidden_size %zu is less than num_attention_heads %zu",
                       out->width, out->heads);
    return cr_config_check_heads(out);
}

static int read_numbers(cr_config *out, cr_json_object config)
{
    double epsilon = 1e-6, scalar = (double)out->head_size;
    CR_TRY(cr_json_optional(cr_json_number(config, "rms_norm_eps", &epsilon)));
    CR_TRY(cr_json_optional(cr_json_number(config, "query_pre_attn_scalar", &scalar)));
    if (!(epsilon > 0 && epsilon < 1))
        return cr_fail(CR_EFORMAT, "rms_norm_eps is %g: expected more than 0 and less than 1",
                       epsilon);
    if (!(scalar > 0 && scalar < 1e12))
        return cr_fail(CR_EFORMAT, "query_pre_attn_scalar is %g: expected more than 0", scalar);
    out->norm_epsilon = (float)epsilon;
    out->attention_scale = 1.0f / sqrtf((float)scalar);
    return CR_OK;
}

/* ---- positions ----------------------------------------------------------------------------------------- */

static int read_positive(cr_json_object object, const char *key, double *out)
{
    CR_TRY(cr_json_number(object, key, out));
    if (!(*out > 0 && *out < 1e12))
        return cr_fail(CR_EFORMAT, "%s is %g: expected more than 0", key, *out);
    return CR_OK;
}

static int read_bands(cr_config *out, cr_json_object rope)
{
    cr_rope_bands *bands = &out->rope_bands;
    CR_TRY(required(read_positive(rope, "factor", &bands->factor)));
    CR_TRY(required(read_positive(rope, "low_freq_factor", &bands->low)));
    CR_TRY(required(read_positive(rope, "high_freq_factor", &bands->high)));
    CR_TRY(required(read_positive(rope, "original_max_position_embeddings",
                                  &bands->original_context)));
    if (bands->high <= bands->low)
        return cr_fail(CR_EFORMAT, "high_freq_factor %g is not more than low_freq_factor %g",
                       bands->high, bands->low);
    return CR_OK;
}

/* rope_type (or type), its factor, and in version 5 rope_theta beside them. */
static int read_scaling(cr_config *out, cr_json_object rope)
{
    const char *type = "default";
    double part = 1;
    CR_TRY(cr_json_optional(cr_json_string(rope, "type", &type)));
    CR_TRY(cr_json_optional(cr_json_string(rope, "rope_type", &type)));
    CR_TRY(cr_json_optional(read_positive(rope, "rope_theta", &out->rope_base)));
    CR_TRY(cr_json_optional(read_positive(rope, "partial_rotary_factor", &part)));
    if (part != 1)
        return cr_fail(CR_EUNSUPPORTED, "partial_rotary_factor is %g: supported is 1", part);
    if (strcmp(type, "linear") == 0)
        return required(read_positive(rope, "factor", &out->rope_scale));
    if (strcmp(type, "llama3") == 0)
        return read_bands(out, rope);
    if (strcmp(type, "default") != 0)
        return cr_fail(CR_EUNSUPPORTED,
                       "rope_type is '%.60s': supported are default, linear and llama3", type);
    return CR_OK;
}

static int read_local_rope(cr_config *out, cr_json_object rope)
{
    cr_config local = {.rope_scale = 1, .rope_base = out->local_rope_base};
    CR_TRY(read_scaling(&local, rope));
    if (local.rope_scale != 1 || local.rope_bands.factor != 0)
        return cr_fail(CR_EUNSUPPORTED, "sliding_attention's rope_type: supported is default");
    out->local_rope_base = local.rope_base;
    return CR_OK;
}

/* One rope for all layers, or one for each kind. */
static int read_rope_parameters(cr_config *out, cr_json_object parameters)
{
    cr_json_object kind;
    int code = cr_json_object_field(parameters, "full_attention", &kind);
    if (code == CR_ENOTFOUND)
        return read_scaling(out, parameters);
    CR_TRY(code);
    CR_TRY(read_scaling(out, kind));
    code = cr_json_object_field(parameters, "sliding_attention", &kind);
    return code < 0 ? cr_json_optional(code) : read_local_rope(out, kind);
}

static int read_rope(cr_config *out, cr_json_object config)
{
    cr_json_object rope;
    out->rope_base = 10000.0;
    out->rope_scale = 1.0;
    out->local_rope_base = out->family->local_rope_base;
    CR_TRY(cr_json_optional(read_positive(config, "rope_theta", &out->rope_base)));
    CR_TRY(cr_json_optional(read_positive(config, "rope_local_base_freq", &out->local_rope_base)));
    int code = cr_json_object_field(config, "rope_parameters", &rope);
    if (code == CR_OK)
        code = read_rope_parameters(out, rope);
    CR_TRY(cr_json_optional(code));
    code = cr_json_object_field(config, "rope_scaling", &rope);
    return code < 0 ? cr_json_optional(code) : read_scaling(out, rope);
}

/* ---- windows ---------------------------------------------------------------------------------------------- */

static int read_layer_types(cr_config *out, cr_json_object config, const cr_json_node *types)
{
    size_t layer = 0;
    if (types->kind != CR_JSON_ARRAY || types->length != out->layers)
        return cr_fail(CR_EFORMAT, "layer_types: expected a list of %zu", out->layers);
    for (const cr_json_node *e = cr_json_first(config.document, types); e;
         e = cr_json_next(config.document, e)) {
        bool local = e->kind == CR_JSON_STRING && strcmp(e->text, "sliding_attention") == 0;
        if (!local && (e->kind != CR_JSON_STRING || strcmp(e->text, "full_attention") != 0))
            return cr_fail(CR_EUNSUPPORTED, "layer_types[%zu]: supported are full_attention and "
                                            "sliding_attention", layer);
        out->local[layer++] = local;
    }
    return CR_OK;
}

/* Without a list: every so manieth layer sees all, or all see the window. */
static int read_pattern(cr_config *out, cr_json_object config)
{
    size_t every = out->family->global_every;
    CR_TRY(cr_json_optional(
        cr_json_size(config, "sliding_window_pattern", 1, CR_MAX_LAYERS, &every)));
    for (size_t l = 0; l < out->layers; l++)
        out->local[l] = every == 0 || (l + 1) % every != 0;
    return CR_OK;
}

static int read_windows(cr_config *out, cr_json_object config)
{
    bool used = true;
    CR_TRY(cr_json_optional(cr_json_size(config, "sliding_window", 1, 1 << 28, &out->window)));
    CR_TRY(cr_json_optional(cr_json_bool(config, "use_sliding_window", &used)));
    if (!used || out->window == 0) {
        out->window = 0;
        return CR_OK;
    }
    const cr_json_node *types = cr_json_field(config, "layer_types");
    if (types)
        return read_layer_types(out, config, types);
    if (cr_json_field(config, "max_window_layers"))
        return cr_fail(CR_EUNSUPPORTED, "use_sliding_window without layer_types is not supported");
    return read_pattern(out, config);
}

int cr_config_from_json(cr_config *out, cr_json_object config)
{
    *out = (cr_config){0};
    CR_TRY(read_family(out, config));
    CR_TRY(check_parts(out, config));
    CR_TRY(read_sizes(out, config));
    CR_TRY(read_heads(out, config));
    CR_TRY(read_numbers(out, config));
    CR_TRY(read_rope(out, config));
    CR_TRY(read_windows(out, config));
    if (out->local_rope_base == 0) /* the family turns all layers alike */
        out->local_rope_base = out->rope_base;
    return CR_OK;
}
