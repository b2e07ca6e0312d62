/* sha256.c: SHA-256 as FIPS 180-4 writes it, section 6.2. */
#include "file/sha256.h"

#include <string.h>

#include "file/fsio.h"

/* The first 32 bits of the fractional parts of the cube roots of the first 64 primes. */
static const uint32_t constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static inline uint32_t rotate(uint32_t x, int count)
{
    return x >> count | x << (32 - count);
}

static inline uint32_t load_big(const unsigned char *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static inline void store_big(unsigned char *bytes, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        bytes[i] = (unsigned char)(value >> (24 - 8 * i));
}

static void schedule(uint32_t w[64], const unsigned char block[64])
{
    for (int t = 0; t < 16; t++)
        w[t] = load_big(block + 4 * t);
    for (int t = 16; t < 64; t++) {
        uint32_t s0 = rotate(w[t - 15], 7) ^ rotate(w[t - 15], 18) ^ w[t - 15] >> 3;
        uint32_t s1 = rotate(w[t - 2], 17) ^ rotate(w[t - 2], 19) ^ w[t - 2] >> 10;
        w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }
}

/* One round in the standard's letters; the caller renames them instead of moving eight values. */
#define ROUND(a, b, c, d, e, f, g, h, t)                                                           \
    do {                                                                                           \
        uint32_t t1_ = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + \
                       constants[t] + w[t];                                                        \
        d += t1_;                                                                                  \
        h = t1_ + (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));  \
    } while (0)

static void compress(uint32_t state[8], const unsigned char block[64])
{
    uint32_t w[64];
    schedule(w, block);
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int t = 0; t < 64; t += 8) {
        ROUND(a, b, c, d, e, f, g, h, t);
        ROUND(h, a, b, c, d, e, f, g, t + 1);
        ROUND(g, h, a, b, c, d, e, f, t + 2);
        ROUND(f, g, h, a, b, c, d, e, t + 3);
        ROUND(e, f, g, h, a, b, c, d, t + 4);
        ROUND(d, e, f, g, h, a, b, c, t + 5);
        ROUND(c, d, e, f, g, h, a, b, t + 6);
        ROUND(b, c, d, e, f, g, h, a, t + 7);
    }
    const uint32_t result[8] = {a, b, c, d, e, f, g, h};
    for (int i = 0; i < 8; i++)
        state[i] += result[i];
}

void cr_sha256_init(cr_sha256 *hash)
{
    static const uint32_t initial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memset(hash, 0, sizeof *hash);
    memcpy(hash->state, initial, sizeof initial);
}

void cr_sha256_update(cr_sha256 *hash, const void *bytes, size_t size)
{
    const unsigned char *next = bytes;
    size_t waiting = hash->length % 64;
    hash->length += size;
    if (waiting > 0 && size > 0) {
        size_t part = 64 - waiting < size ? 64 - waiting : size;
        memcpy(hash->pending + waiting, next, part);
        next += part, size -= part, waiting += part;
        if (waiting < 64)
            return;
        compress(hash->state, hash->pending);
    }
    for (; size >= 64; next += 64, size -= 64)
        compress(hash->state, next);
    if (size > 0)
        memcpy(hash->pending, next, size);
}

void cr_sha256_final(cr_sha256 *hash, unsigned char digest[CR_SHA256_BYTES])
{
    static const unsigned char padding[64] = {0x80};
    const uint64_t bits = hash->length * 8;
    unsigned char tail[8];
    store_big(tail, (uint32_t)(bits >> 32));
    store_big(tail + 4, (uint32_t)bits);
    cr_sha256_update(hash, padding, 1 + (119 - hash->length % 64) % 64);
    cr_sha256_update(hash, tail, sizeof tail);
    for (int i = 0; i < 8; i++)
        store_big(digest + 4 * i, hash->state[i]);
}

int cr_sha256_file(const char *path, unsigned char digest[CR_SHA256_BYTES])
{
    cr_mapping mapping;
    CR_TRY(cr_map_file(&mapping, path));
    cr_sha256 hash;
    cr_sha256_init(&hash);
    cr_sha256_update(&hash, mapping.bytes, mapping.size);
    cr_sha256_final(&hash, digest);
    cr_unmap(&mapping);
    return CR_OK;
}

void cr_sha256_hex(char text[2 * CR_SHA256_BYTES + 1], const unsigned char digest[CR_SHA256_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < CR_SHA256_BYTES; i++) {
        text[2 * i] = digits[digest[i] >> 4];
        text[2 * i + 1] = digits[digest[i] & 15];
    }
    text[2 * CR_SHA256_BYTES] = '\0';
}
