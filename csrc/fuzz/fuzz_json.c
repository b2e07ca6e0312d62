/* fuzz_json.c: any bytes parse or fail; what parsed is walked whole and quotes back. */
#include <stdlib.h>
#include <string.h>

#include "file/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool truth)
{
    if (!truth)
        abort();
}

/* A string that was read is UTF-8, so it can be written, and reads back as it was. */
static void check_text(const char *text)
{
    const size_t length = strlen(text);
    char *quoted = malloc(cr_json_quoted_most(length));
    const size_t used = quoted ? cr_json_quote(quoted, text) : 0;
    require(used > 0 && used <= cr_json_quoted_most(length));
    cr_json *document;
    if (cr_json_parse(&document, quoted, used) == CR_OK)
        require(strcmp(cr_json_root(document)->text, text) == 0);
    cr_json_free(document);
    free(quoted);
}

static void walk(const cr_json *document, const cr_json_node *node)
{
    size_t children = 0;
    const cr_json_node *child = cr_json_first(document, node);
    for (; child; child = cr_json_next(document, child), children++) {
        if (child->key) {
            require(cr_json_member(document, node, child->key) == child);
            check_text(child->key);
        }
        walk(document, child);
    }
    if (node->kind == CR_JSON_STRING) {
        require(node->text[node->length] == '\0');
        check_text(node->text);
    } else if (node->kind == CR_JSON_ARRAY || node->kind == CR_JSON_OBJECT) {
        require(children == node->length);
        require(cr_json_member(document, node, "a key that no seed has") == NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cr_json *document;
    if (cr_json_parse(&document, (const char *)data, size) == CR_OK)
        walk(document, cr_json_root(document));
    cr_json_free(document);
    return 0;
}
