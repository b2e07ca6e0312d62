/* hub_tokenizer.h: the tokenizer of an encoder's folder as the Hugging Face hub has it.
 *
 * What this is: tokenizer.json (WordPiece with BERT's normaliser, or byte-level BPE) or BERT's vocab.txt
 * to a tokenizer, and a text or a pair of texts to ids, token types and special tokens in their
 * places, cut to a length: what BertTokenizerFast and RobertaTokenizerFast give. The text of special
 * tokens is not special in a text.
 * What it is not: a reader of every tokenizer.json: a part that it does not know is refused by name.
 *
 * Ownership: copies what it needs; read-only after creation and shared by threads.
 */
#ifndef CR_HUB_TOKENIZER_H
#define CR_HUB_TOKENIZER_H

#include "base/base.h"

typedef struct cr_hub_tokenizer cr_hub_tokenizer;

/* tokenizer.json of the folder, else vocab.txt. Failures name the file. */
int cr_hub_tokenizer_open(cr_hub_tokenizer **out, const char *folder);

/* The content of a tokenizer.json. */
int cr_hub_tokenizer_parse(cr_hub_tokenizer **out, const char *json, size_t size);

/* The content of a vocab.txt: a token a line, [UNK], [CLS] and [SEP] among them. */
int cr_hub_tokenizer_from_lines(cr_hub_tokenizer **out, const char *lines, size_t size,
                                bool lower_case);
void cr_hub_tokenizer_free(cr_hub_tokenizer *tokenizer);

const char *cr_hub_tokenizer_kind(const cr_hub_tokenizer *tokenizer); /* "wordpiece", "bpe" */
size_t cr_hub_tokenizer_size(const cr_hub_tokenizer *tokenizer);      /* ids are 0 to size - 1 */

/* Special tokens around a text, or around two: no row is shorter. */
size_t cr_hub_tokenizer_frame(const cr_hub_tokenizer *tokenizer, bool pair);

typedef struct cr_hub_row {
    int32_t *ids, *types; /* [count], one block: cr_hub_row_free */
    size_t count;
    size_t cut; /* tokens left out at the texts' ends */
} cr_hub_row;

/* second NULL = one text. At most `most` ids, CR_EARG when that leaves no room for text; of a pair the
 * longer text is cut first, as "longest_first". */
int cr_hub_tokenizer_encode(const cr_hub_tokenizer *tokenizer, const char *first,
                            size_t first_length, const char *second, size_t second_length,
                            size_t most, cr_hub_row *out);
void cr_hub_row_free(cr_hub_row *row);

#endif
