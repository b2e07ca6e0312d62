/* pattern.c: ranks and alphas of the modules that keys mean (peft/tuners/lora/model.py, _create_and_replace). */
#include "lora/pattern.h"

#include <string.h>

#include "text/name_key.h"
#include "text/shown.h"

int cr_module_matches(bool *out, const char *text, const char *module)
{
    cr_name_key *key;
    *out = false;
    CR_TRY(cr_name_key_create(&key, text));
    int code = cr_name_key_means(key, module, out);
    cr_name_key_free(key);
    return code;
}

static int apply_key(double *values, bool *taken, const cr_lora *lora, const cr_name_key *key,
                     const cr_pattern *pattern)
{
    bool used = false, found;
    for (size_t i = 0; i < lora->module_count; i++) {
        CR_TRY(cr_name_key_means(key, lora->modules[i].name, &found));
        used = used || found;
        if (found && !taken[i])
            values[i] = pattern->value;
        taken[i] = taken[i] || found;
    }
    if (!used)
        return cr_fail(CR_EARG,
                       "\"%s\" means none of the modules with a branch: expected a regular expression "
                       "for the end of a name like %s",
                       cr_show(pattern->key, strlen(pattern->key)).text, lora->modules[0].name);
    return CR_OK;
}

static int apply_all(double *values, bool *taken, const cr_lora *lora, const cr_pattern *patterns,
                     size_t count)
{
    for (size_t i = 0; i < count; i++) {
        cr_name_key *key;
        CR_TRY(cr_name_key_create(&key, patterns[i].key));
        int code = apply_key(values, taken, lora, key, &patterns[i]);
        cr_name_key_free(key);
        CR_TRY(code);
    }
    return CR_OK;
}

int cr_pattern_apply(double *values, const cr_lora *lora, const cr_pattern *patterns, size_t count,
                     const char *what)
{
    bool *taken = cr_calloc(lora->module_count, sizeof *taken);
    int code = taken ? apply_all(values, taken, lora, patterns, count) : CR_ENOMEM;
    cr_free(taken);
    return code == CR_EARG ? cr_fail_context(code, "%s", what) : code;
}
