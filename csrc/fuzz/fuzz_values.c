/* fuzz_values.c: any bytes parse or fail, as file/json.h says; what parsed is walked whole. */
#include <stdlib.h>
#include <string.h>

#include "file/json.h"
#include "file/values.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool truth)
{
    if (!truth)
        abort();
}

static size_t walk(const cr_values *values, size_t at, const cr_json *document,
                   const cr_json_node *node)
{
    const cr_value *value = &values->list[at];
    static const cr_json_kind kinds[] = {CR_JSON_NULL,   CR_JSON_FALSE,  CR_JSON_TRUE,
                                         CR_JSON_NUMBER, CR_JSON_NUMBER, CR_JSON_STRING,
                                         CR_JSON_ARRAY,  CR_JSON_OBJECT};
    require(at < values->count && kinds[value->kind] == node->kind);
    if (value->kind == CR_VALUE_STRING)
        require(value->length == node->length &&
                memcmp(value->as.text, node->text, node->length) == 0);
    if (value->kind == CR_VALUE_INTEGER)
        require(node->integer && node->value == value->as.integer);
    if (value->kind == CR_VALUE_NUMBER)
        require(node->number == value->as.number);
    if (value->kind != CR_VALUE_ARRAY && value->kind != CR_VALUE_OBJECT)
        return at + 1;
    const size_t end = (size_t)value->as.end;
    require(value->length == node->length);
    at++;
    for (const cr_json_node *child = cr_json_first(document, node); child;
         child = cr_json_next(document, child)) {
        if (child->key) {
            require(values->list[at].length == strlen(child->key));
            at++;
        }
        at = walk(values, at, document, child);
    }
    require(at == end);
    return at;
}

/* Values as the small reader has them; it refuses duplicate keys, a NUL in keys and depths above 64. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cr_values values = {NULL, 0, 0};
    cr_json *document = NULL;
    char *text = malloc(size + 1);
    if (!text)
        return 0;
    if (size > 0)
        memcpy(text, data, size);
    const int plain = cr_json_parse(&document, (const char *)data, size);
    const int code = cr_values_parse(&values, text, size);
    if (code == CR_OK)
        require(values.count > 0);
    else
        require(values.count == 0 && plain != CR_OK);
    if (plain == CR_OK && code == CR_OK)
        require(walk(&values, 0, document, cr_json_root(document)) == values.count);
    cr_json_free(document);
    cr_values_free(&values);
    free(text);
    return 0;
}
