/* wordpiece.h: BERT's tokenizer (Devlin et al. 2019): words, then the longest pieces of each.
 *
 * What this is: text is cleaned and folded as the rules say, cut at white space, punctuation and Chinese
 * characters, and each word becomes the longest piece of the vocabulary that it begins with, then the
 * longest "##" piece that goes on, and so forth; a word that cannot be spelled so is the unknown
 * token. Ids are those of Hugging Face tokenizers. Bytes that are no UTF-8 are left out, like U+FFFD.
 * What it is not: a finder of special tokens; "[SEP]" in a text is text.
 *
 * Ownership: copies its vocabulary; read-only after creation and shared by threads.
 */
#ifndef CR_WORDPIECE_H
#define CR_WORDPIECE_H

#include "text/text_index.h"

typedef struct cr_wordpiece_rules {
    bool clean;   /* drop control characters, every white space is a space */
    bool chinese; /* each Chinese character is a word */
    bool lower_case;
    bool strip_accents; /* canonical decomposition without non-spacing marks */
    size_t most_chars;  /* of a word; a longer one is unknown */
    const char *prefix; /* of pieces inside a word: "##" */
    int32_t unknown;
} cr_wordpiece_rules;

/* BERT's: all folding on, 100 characters, "##". */
cr_wordpiece_rules cr_wordpiece_rules_default(void);

typedef struct cr_wordpiece cr_wordpiece;

/* tokens[i] is the text of id i; the same text twice is refused. */
int cr_wordpiece_create(cr_wordpiece **out, const cr_text *tokens, size_t count,
                        const cr_wordpiece_rules *rules);
void cr_wordpiece_free(cr_wordpiece *wordpiece);

/* *ids is the caller's: cr_free. */
int cr_wordpiece_encode(const cr_wordpiece *wordpiece, const char *text, size_t length,
                        int32_t **ids, size_t *count);

#endif
