/* fuzz_config_json.c: a config.json, refused or read to sizes that products cannot wrap. */
#include <stdint.h>
#include <stdlib.h>

#include "model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const cr_config *config)
{
    if (config->layers < 1 || config->layers > CR_MAX_LAYERS || config->width < 1 ||
        config->head_size < 1 || config->head_size % 2 != 0 ||
        config->heads % config->kv_heads != 0 || !(config->rope_base > 0) ||
        !(config->attention_scale > 0))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cr_json *document;
    cr_config config;
    if (cr_json_parse(&document, (const char *)data, size) < 0)
        return 0;
    cr_json_object root = {document, cr_json_root(document)};
    if (root.node->kind == CR_JSON_OBJECT && cr_config_from_json(&config, root) == CR_OK)
        check(&config);
    cr_json_free(document);
    return 0;
}
