/* tokenizer.h: text to token ids and back.
 *
 * Byte-level BPE (Sennrich et al. 2016; the byte alphabet of GPT-2, Radford et
 * al. 2019): special tokens are cut out first, the rest is split by the
 * pre-tokenizer's pattern (PCRE2, Unicode properties), each piece is mapped to
 * the byte alphabet and merged by rank. Input is bytes: any byte string is
 * encodable and decode(encode(bytes)) == bytes. Ids are those of Hugging Face
 * tokenizers for well-formed UTF-8, but for bytes that a vocabulary has no token
 * for, which are kept (byte_escape.h) and not dropped.
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

/* cr_tokenizer and its public functions are declared in include/crucible.h. */

/* Reads tokenizer.ggml.* keys; names the key that is missing or inconsistent. */
int cr_tokenizer_from_gguf(cr_tokenizer **out, const cr_gguf *file);
void cr_tokenizer_free(cr_tokenizer *tokenizer);

#endif
