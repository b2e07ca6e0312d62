/* fuzz_tokenizer_json.c: a tokenizer.json, refused or made; one that is made gives any text back.
 *
 * Input: the text up to the first NUL, then the file.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const cr_tokenizer *tokenizer, const char *text, size_t size, bool parse_special)
{
    int32_t *ids;
    size_t count, length;
    char *back;
    if (cr_tokenizer_encode(tokenizer, text, size, parse_special, &ids, &count) < 0)
        abort();
    if (cr_tokenizer_decode(tokenizer, ids, count, false, &back, &length) < 0)
        abort();
    if (length != size || memcmp(back, text, size) != 0)
        abort();
    cr_free(back);
    cr_free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    const char *border = size ? memchr(text, 0, size) : NULL;
    cr_tokenizer *tokenizer;
    if (!border)
        return 0;
    size_t length = (size_t)(border - text);
    if (cr_tokenizer_parse_json(&tokenizer, border + 1, size - length - 1) < 0)
        return 0;
    check(tokenizer, text, length, false);
    check(tokenizer, text, length, true);
    cr_tokenizer_free(tokenizer);
    return 0;
}
