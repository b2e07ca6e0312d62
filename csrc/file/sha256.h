/* sha256.h: SHA-256 (FIPS 180-4), for digests of models and data.
 *
 * Feed bytes in pieces of any size; cr_sha256_final may be called once. Digests identify
 * content; nothing here is meant for secrets.
 */
#ifndef CR_SHA256_H
#define CR_SHA256_H

#include "base/base.h"

#define CR_SHA256_BYTES 32

typedef struct cr_sha256 {
    uint32_t state[8];
    uint64_t length;           /* bytes so far */
    unsigned char pending[64]; /* length % 64 of them wait for a full block */
} cr_sha256;

void cr_sha256_init(cr_sha256 *hash);
void cr_sha256_update(cr_sha256 *hash, const void *bytes, size_t size);
void cr_sha256_final(cr_sha256 *hash, unsigned char digest[CR_SHA256_BYTES]);

/* Of a regular file's content; failures as in file/fsio.h. */
int cr_sha256_file(const char *path, unsigned char digest[CR_SHA256_BYTES]);

/* 64 lower-case hexadecimal digits, terminated. */
void cr_sha256_hex(char text[2 * CR_SHA256_BYTES + 1], const unsigned char digest[CR_SHA256_BYTES]);

#endif
