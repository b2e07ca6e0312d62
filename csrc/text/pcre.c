/* pcre.c: PCRE2's allocations and compilation. */
#include "text/pcre.h"

static void *take_memory(PCRE2_SIZE bytes, void *unused)
{
    (void)unused;
    return cr_alloc(bytes);
}

static void release_memory(void *block, void *unused)
{
    (void)unused;
    cr_free(block);
}

pcre2_general_context *cr_pcre_memory(void)
{
    return pcre2_general_context_create(take_memory, release_memory, NULL);
}

int cr_pcre_compile(pcre2_code **out, pcre2_general_context *memory, const char *pattern,
                    uint32_t options, int *reason, size_t *offset)
{
    *out = NULL;
    pcre2_compile_context *context = pcre2_compile_context_create(memory);
    if (!context)
        return CR_ENOMEM;
    *out =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, options, reason, offset, context);
    pcre2_compile_context_free(context);
    if (*out)
        return CR_OK;
    return *reason == PCRE2_ERROR_HEAP_FAILED ? CR_ENOMEM : CR_EFORMAT;
}
