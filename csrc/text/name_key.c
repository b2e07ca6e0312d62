/* name_key.c: keys matched as peft/utils/other.py (get_pattern_key) does, by PCRE2. */
#include "text/name_key.h"

#include <stdio.h>
#include <string.h>

#include "text/pcre.h"
#include "text/shown.h"

#define SHOWN(bytes) cr_show(bytes, strlen(bytes)).text

#define MOST_TRIES 100000 /* of one match: names are short */

struct cr_name_key {
    const char *text;
    pcre2_general_context *memory;
    pcre2_match_context *limits;
    pcre2_code *code;
    pcre2_match_data *found;
};

void cr_name_key_free(cr_name_key *k)
{
    if (!k)
        return;
    pcre2_match_data_free(k->found);
    pcre2_code_free(k->code);
    pcre2_match_context_free(k->limits);
    pcre2_general_context_free(k->memory);
    cr_free(k);
}

static int compile(cr_name_key *k, const char *pattern)
{
    int reason;
    size_t offset;
    int code =
        cr_pcre_compile(&k->code, k->memory, pattern, PCRE2_UTF | PCRE2_ANCHORED, &reason, &offset);
    if (code != CR_EFORMAT)
        return code;
    PCRE2_UCHAR text[128];
    pcre2_get_error_message(reason, text, sizeof text);
    return cr_fail(CR_EARG, "\"%s\" is no regular expression: %s", SHOWN(k->text),
                   (const char *)text);
}

static int fill(cr_name_key *k)
{
    size_t length = strlen(k->text) + sizeof "(.*\\.)?()$";
    k->memory = cr_pcre_memory();
    k->limits = k->memory ? pcre2_match_context_create(k->memory) : NULL;
    char *pattern = cr_alloc(length);
    if (!k->limits || !pattern) {
        cr_free(pattern);
        return CR_ENOMEM;
    }
    snprintf(pattern, length, "(.*\\.)?(%s)$", k->text);
    pcre2_set_match_limit(k->limits, MOST_TRIES);
    int code = compile(k, pattern);
    cr_free(pattern);
    CR_TRY(code);
    k->found = pcre2_match_data_create_from_pattern(k->code, k->memory);
    return k->found ? CR_OK : CR_ENOMEM;
}

int cr_name_key_create(cr_name_key **out, const char *text)
{
    *out = NULL;
    cr_name_key *made = cr_calloc(1, sizeof *made);
    if (!made)
        return CR_ENOMEM;
    made->text = text;
    int code = fill(made);
    if (code < 0)
        cr_name_key_free(made);
    else
        *out = made;
    return code;
}

int cr_name_key_means(const cr_name_key *k, const char *name, bool *out)
{
    int found = pcre2_match(k->code, (PCRE2_SPTR)name, strlen(name), 0, 0, k->found, k->limits);
    *out = found >= 0;
    if (found >= 0 || found == PCRE2_ERROR_NOMATCH)
        return CR_OK;
    if (found == PCRE2_ERROR_NOMEMORY)
        return cr_fail(CR_ENOMEM, "out of memory");
    return cr_fail(CR_EARG, "\"%s\" takes too long to compare with %s", SHOWN(k->text),
                   SHOWN(name));
}
