/* lora_digest.c: names, shapes and values into one hash. */
#include "lora/lora_digest.h"

#include <string.h>

void cr_lora_digest_add(cr_sha256 *digest, const char *name, size_t rows, size_t columns,
                        const float *values)
{
    const uint64_t shape[2] = {rows, columns};
    cr_sha256_update(digest, name, strlen(name) + 1);
    cr_sha256_update(digest, shape, sizeof shape);
    cr_sha256_update(digest, values, rows * columns * sizeof *values);
}

void cr_lora_digest_end(cr_sha256 *digest, char text[2 * CR_SHA256_BYTES + 1])
{
    unsigned char bytes[CR_SHA256_BYTES];
    cr_sha256_final(digest, bytes);
    cr_sha256_hex(text, bytes);
}
