/* fuzz_tokenizer_json.c: a tokenizer.json, refused or made; one that is made gives any text back.
 *
 * Input: the text up to the first NUL, then the file.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz/round_trip.h"
#include "text/tokenizer_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

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
    check_round_trip(tokenizer, text, length, false);
    check_round_trip(tokenizer, text, length, true);
    cr_tokenizer_free(tokenizer);
    return 0;
}
