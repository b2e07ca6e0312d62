/* vocabulary.h: the tokens: id to bytes and kind, bytes to id.
 *
 * What this is: the checked token list of a file, each token as the bytes it means.
 * Byte-level BPE writes ordinary tokens in the byte alphabet; SentencePiece writes a
 * space as U+2581 and a byte as <0x0A>. Special and added tokens, and what is not in
 * the alphabet, stand verbatim.
 * What it is not: a rule for how text becomes tokens.
 *
 * Ownership: the vocabulary owns all it points to; released by cr_vocabulary_free.
 */
#ifndef CR_VOCABULARY_H
#define CR_VOCABULARY_H

#include "text/text_index.h"

/* The values are those of tokenizer.ggml.token_type. */
typedef enum cr_token_kind {
    CR_TOKEN_NORMAL = 1,
    CR_TOKEN_UNKNOWN = 2,
    CR_TOKEN_CONTROL = 3,
    CR_TOKEN_USER_DEFINED = 4,
    CR_TOKEN_UNUSED = 5,
    CR_TOKEN_BYTE = 6
} cr_token_kind;

typedef enum cr_spelling {
    CR_SPELLING_BYTES, /* the byte alphabet of GPT-2 */
    CR_SPELLING_SPACES /* SentencePiece's */
} cr_spelling;

typedef struct cr_vocabulary {
    size_t size;
    char *bytes;            /* of all tokens */
    cr_text *texts;         /* [size], into bytes */
    uint8_t *kinds;         /* [size], cr_token_kind */
    cr_text_index pieces;   /* tokens that merging may give */
    cr_text_index verbatim; /* all others */
    size_t longest_piece;   /* bytes */
    int32_t byte_ids[256];  /* the token of each single byte, -1 = none: byte_escape.h */
    bool has_all_bytes;
} cr_vocabulary;

/* `tokens` as in the file, `kinds` one a token. Refuses kinds that do not exist
 * and a vocabulary that cannot express every byte; `keys` as for cr_merges_create. */
int cr_vocabulary_create(cr_vocabulary *out, cr_spelling spelling, const cr_text *tokens,
                         const int32_t *kinds, size_t count, const char *keys);
void cr_vocabulary_free(cr_vocabulary *vocabulary);

/* Cut out of the text before anything else: kinds unknown, control and user-defined. */
bool cr_vocabulary_is_added(const cr_vocabulary *vocabulary, int32_t id);

/* The id of the bytes, a verbatim token before a piece; -1 when there is none. */
int32_t cr_vocabulary_find(const cr_vocabulary *vocabulary, const char *bytes, size_t length);

#endif
