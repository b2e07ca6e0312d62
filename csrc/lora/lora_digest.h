/* lora_digest.h: a SHA-256 over matrices: of each its name, its shape and its values as f32. What is loaded
 * can so be compared with what was saved. */
#ifndef CR_LORA_DIGEST_H
#define CR_LORA_DIGEST_H

#include "file/sha256.h"

void cr_lora_digest_add(cr_sha256 *digest, const char *name, size_t rows, size_t columns,
                        const float *values);

/* As 64 hexadecimal digits. */
void cr_lora_digest_end(cr_sha256 *digest, char text[2 * CR_SHA256_BYTES + 1]);

#endif
