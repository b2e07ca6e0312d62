/* pretokenize.h: text to pieces; merges never cross the border of two pieces.
 *
 * What this is: the pre-tokenizers by name and the walk over a text. Pieces
 * cover the text without holes. Each maximal stretch of well-formed UTF-8 is
 * split by the pattern as a text of its own (a lookahead at its end sees the end
 * of the text); each maximal run of bytes between such stretches is one piece.
 * What it is not: a normaliser (compose.h). Bytes are never changed.
 *
 * Letters, numbers and spaces are Unicode 16's, also with a PCRE2 that knows
 * only Unicode 14, so that ids are the same on every machine.
 *
 * Ownership: a pretokenizer is read-only after creation and shared by threads;
 * a splitter belongs to one thread and its pretokenizer must outlive it, as must
 * the text it was started on.
 */
#ifndef CR_PRETOKENIZE_H
#define CR_PRETOKENIZE_H

#include "base/base.h"

typedef struct cr_pretokenizer_rules {
    const char *name;
    const char *aliases[3]; /* unused = NULL */
    const char *pattern;    /* PCRE2 */
    bool whole_pieces;      /* a piece that is a token is taken without merging ("ignore_merges") */
    bool adds_bos;          /* when the file does not say */
} cr_pretokenizer_rules;

/* Rules by name or alias, static; NULL with the message set, which lists the known names. */
const cr_pretokenizer_rules *cr_pretokenizer_find(const char *name, size_t length);

typedef struct cr_pretokenizer cr_pretokenizer;

int cr_pretokenizer_create(cr_pretokenizer **out, const cr_pretokenizer_rules *rules);
void cr_pretokenizer_free(cr_pretokenizer *pretokenizer);

typedef struct cr_splitter cr_splitter;

int cr_splitter_create(cr_splitter **out, const cr_pretokenizer *pretokenizer);
void cr_splitter_free(cr_splitter *splitter);
void cr_splitter_start(cr_splitter *splitter, const char *text, size_t length);

/* *end = the end of the next piece, which begins where the last one ended; 0
 * after the last piece. */
int cr_splitter_next(cr_splitter *splitter, size_t *end);

/* All piece ends of a text, for specs. *ends is the caller's: cr_free. */
int cr_pretokenize(size_t **ends, size_t *count, const char *name, const char *text, size_t length);

#endif
