/* fuzz_hub_tokenizer.c: the files of an encoder's folder are taken or refused; what is taken encodes any text.
 *
 * Input: one byte that says what the rest begins with (0: tokenizer.json, 1: vocab.txt, 2: config.json), the
 * file up to a NUL, then a text that is encoded alone, as a pair and cut short.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/encoder_config.h"
#include "text/hub_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool truth)
{
    if (!truth)
        abort();
}

static void check_row(const cr_hub_tokenizer *tokenizer, const cr_hub_row *row, size_t most)
{
    require(row->count <= most);
    for (size_t i = 0; i < row->count; i++) {
        require(row->ids[i] >= 0 && (size_t)row->ids[i] < cr_hub_tokenizer_size(tokenizer));
        require(row->types[i] == 0 || row->types[i] == 1);
    }
}

static void check(const cr_hub_tokenizer *tokenizer, const char *text, size_t length)
{
    size_t half = length / 2;
    for (size_t most = 4; most < 2000; most *= 8) {
        cr_hub_row row;
        if (cr_hub_tokenizer_encode(tokenizer, text, length, NULL, 0, most, &row) == CR_OK)
            check_row(tokenizer, &row, most);
        cr_hub_row_free(&row);
        if (cr_hub_tokenizer_encode(tokenizer, text, half, text + half, length - half, most,
                                    &row) == CR_OK)
            check_row(tokenizer, &row, most);
        cr_hub_row_free(&row);
    }
}

static void check_config(const char *file, size_t length)
{
    cr_encoder_config config;
    if (cr_encoder_config_parse(&config, file, length) == CR_OK) {
        require(config.width % config.heads == 0);
        require(config.context + config.first_position <= config.positions);
        for (size_t i = 0; i < config.label_count; i++)
            require(config.labels[i] != NULL);
    }
    cr_encoder_config_free(&config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    const char *file = (const char *)data + 1;
    const char *border = memchr(file, 0, size - 1);
    size_t length = border ? (size_t)(border - file) : size - 1;
    cr_hub_tokenizer *tokenizer = NULL;
    if (data[0] == 2) {
        check_config(file, length);
        return 0;
    }
    int code = data[0] == 1 ? cr_hub_tokenizer_from_lines(&tokenizer, file, length, true)
                            : cr_hub_tokenizer_parse(&tokenizer, file, length);
    if (code == CR_OK)
        check(tokenizer, border ? border + 1 : "", border ? size - length - 2 : 0);
    cr_hub_tokenizer_free(tokenizer);
    return 0;
}
