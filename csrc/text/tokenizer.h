/* tokenizer.h: text to token ids and back.
 *
 * Byte-level BPE (Sennrich et al. 2016; the byte alphabet of GPT-2, Radford et
 * al. 2019): special tokens are cut out first, the rest is split by the
 * pre-tokenizer's pattern (PCRE2, Unicode properties), each piece is mapped to
 * the byte alphabet and merged by rank. Input is bytes: any byte string is
 * encodable and decode(encode(bytes)) == bytes. Ids are those of Hugging Face
 * tokenizers for well-formed UTF-8, but for bytes that a vocabulary has no token
 * for, which are kept (byte_escape.h) and not dropped. A tokenizer.json that asks for NFC (Qwen) gets it between
 * special tokens, and then decode gives the composed text; from GGUF text stays as it is.
 *
 * SentencePiece BPE (Kudo and Richardson 2018; Llama 2, Gemma): user-defined tokens are cut out of
 * every text, characters are merged by score, and what has no token becomes byte tokens. A model's
 * space before a text (info.space_prefix) and its BOS are the caller's to add.
 *
 * Special tokens are those of type control, unknown and user-defined. With
 * parse_special all three are cut out of the text; cr_tokenizer_is_special and
 * skip_special leave user-defined ones ("<tool_call>") alone, for they are part of
 * what a model says, as in Hugging Face tokenizers.
 *
 * Ownership: a tokenizer copies what it needs from the file; it is read-only
 * after creation and may be shared by threads.
 */
#ifndef CR_TOKENIZER_H
#define CR_TOKENIZER_H

#include "base/base.h"
#include "file/gguf.h"
#include "text/pretokenize.h"

/* cr_tokenizer and its public functions are declared in include/crucible.h. */

/* Reads tokenizer.ggml.* keys; names the key that is missing or inconsistent. */
int cr_tokenizer_from_gguf(cr_tokenizer **out, const cr_gguf *file);

/* A vocabulary from elsewhere; tokens and merges are written in the byte alphabet, or, without rules,
 * as SentencePiece writes them. */
typedef struct cr_bpe_lists {
    const char *keys; /* stands before "tokens", "merges" and "scores" in messages */
    const cr_text *tokens;
    const int32_t *kinds; /* cr_token_kind */
    size_t count;
    const cr_text *merges; /* "left right", in order of rank */
    size_t merge_count;
    const float *scores;   /* [count], instead of merges, or NULL */
    bool composes;         /* text becomes NFC before it is split; with rules alone */
    const cr_pretokenizer_rules *rules; /* NULL for SentencePiece */
} cr_bpe_lists;

/* The tokenizer has no ids with a role until it is given some. */
int cr_tokenizer_from_lists(cr_tokenizer **out, const cr_bpe_lists *lists);

typedef struct cr_token_roles {
    int32_t bos, eos, pad, unknown; /* -1 = none */
    bool add_bos, space_prefix, prefixes_each, prefix_unless_spaced;
} cr_token_roles;
void cr_tokenizer_set_roles(cr_tokenizer *tokenizer, const cr_token_roles *roles);

/* Whether an id of the vocabulary is text and nothing else: neither special nor added nor unused. */
bool cr_tokenizer_is_ordinary(const cr_tokenizer *tokenizer, int32_t id);

/* The bytes that an id of the vocabulary stands for; borrowed. */
cr_text cr_tokenizer_bytes(const cr_tokenizer *tokenizer, int32_t id);
void cr_tokenizer_free(cr_tokenizer *tokenizer);

#endif
