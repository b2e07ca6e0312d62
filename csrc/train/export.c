/* export.c: a session's lora for other programs: adapters, and the base with the lora merged into it. */
#include "lora/gguf_adapter.h"
#include "lora/lora_file.h"
#include "lora/merged.h"
#include "train/session.h"

#define DEFAULT_SHARD_BYTES 5000000000u /* as transformers had it */

/* ---- types by name ----------------------------------------------------------------------------- */

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool is_word(const char *word, const char *expected)
{
    while (*word && lower(*word) == lower(*expected))
        word++, expected++;
    return *word == '\0' && *expected == '\0';
}

/* "q8_0" or "Q8_0"; NULL for "base" and for NULL. */
static int find_type(const cr_dtype_info **out, const char *name)
{
    enum { MOST = 64 };
    *out = NULL;
    if (!name || is_word(name, "base"))
        return CR_OK;
    for (uint32_t type = 0; type < MOST && !*out; type++) {
        const cr_dtype_info *info = cr_dtype_find(type);
        *out = info && is_word(name, info->name) ? info : NULL;
    }
    return *out ? CR_OK
                : cr_fail(CR_EARG,
                          "type \"%.40s\": expected base, f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, "
                          "q5_1, iq4_nl, q2_k, q3_k, q4_k, q5_k or q6_k",
                          name);
}

/* ---- adapters ------------------------------------------------------------------------------------ */

int cr_session_save_gguf_adapter(const cr_session *session, const char *path,
                                 const cr_export_options *options)
{
    const cr_dtype_info *type;
    CR_TRY(find_type(&type, options->type));
    if (!type)
        type = cr_dtype_find(CR_DTYPE_F32);
    if (type->block_length != 1)
        return cr_fail(CR_EUNSUPPORTED,
                       "an adapter's matrices are f32, f16 or bf16, not %s: rows of "
                       "a rank do not fill blocks",
                       type->name);
    return cr_gguf_adapter_save(&session->lora, session->model, session->config.alpha, type,
                                options->notes, path);
}

int cr_session_load_gguf_adapter(cr_session *session, const char *path)
{
    cr_session_end_prediction(session);
    return cr_gguf_adapter_load(&session->lora, session->model, path);
}

int cr_session_digest(const cr_session *session, char text[CR_DIGEST_TEXT])
{
    return cr_lora_digest(&session->lora, session->model, text);
}

/* ---- merged models --------------------------------------------------------------------------------- */

static int start(cr_merged *merged, cr_session *session, const cr_export_options *options,
                 bool to_hub)
{
    const cr_dtype_info *type;
    cr_session_enter(session);
    CR_TRY(find_type(&type, options->type));
    CR_TRY(cr_merged_create(merged, &session->lora, session->model, &session->compute, type,
                            to_hub));
    merged->cancelled = &session->cancelled;
    return CR_OK;
}

int cr_session_merge_to_gguf(cr_session *session, const char *path,
                             const cr_export_options *options)
{
    cr_merged merged;
    CR_TRY(start(&merged, session, options, false));
    int code = cr_merged_write_gguf(&merged, options->notes, options->blanks, path);
    cr_merged_free(&merged);
    return code;
}

int cr_session_merge_to_folder(cr_session *session, const char *folder,
                               const cr_export_options *options)
{
    cr_merged merged;
    const uint64_t bytes = options->shard_bytes ? options->shard_bytes : DEFAULT_SHARD_BYTES;
    CR_TRY(start(&merged, session, options, true));
    int code = cr_merged_write_folder(&merged, options->notes, bytes, folder);
    cr_merged_free(&merged);
    return code;
}
