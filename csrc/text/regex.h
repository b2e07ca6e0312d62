/* regex.h: regular expressions as automata over bytes, a state at a time.
 *
 * What this is: a pattern becomes a nondeterministic automaton over the bytes of UTF-8 (Thompson, "Regular
 * Expression Search Algorithm", 1968); its deterministic states are made when they are first reached
 * (Aho, Sethi and Ullman 1986, section 3.7) and kept. A pattern means the whole text, from its first byte to
 * its last. What it is not: a search, and it captures nothing.
 *
 * The patterns, a subset of PCRE2's that means the same there (with UTF, anchored at both ends):
 *
 *     a \. \n \r \t \f \\           characters; \xHH (up to 7F) and \x{H…} by number
 *     . [abc] [a-z] [^a-z]         any character but \n; classes, with escapes inside
 *     \d \w \s \D \W \S            of ASCII, in classes too (not the negated ones)
 *     (…) (?:…) a|b                groups, alternatives
 *     * + ? {n} {n,} {n,m}         repeats, n and m at most 1000
 *
 * Everything else is refused by name: anchors, lazy and possessive repeats, references, look-around,
 * properties. So are patterns that grow beyond CR_REGEX_NODES.
 *
 * Ownership: an automaton belongs to one thread at a time, for it grows while it is walked.
 */
#ifndef CR_REGEX_H
#define CR_REGEX_H

#include "base/base.h"

#define CR_REGEX_NODES 200000 /* of the nondeterministic automaton */
#define CR_REGEX_STATES 20000 /* of the deterministic one, made so far */
#define CR_REGEX_DEAD (-1)    /* no text goes on from here */
#define CR_REGEX_START 0

typedef struct cr_regex cr_regex;

/* CR_EFORMAT and the byte where the pattern goes wrong, CR_EUNSUPPORTED for what is refused. */
int cr_regex_create(cr_regex **out, const char *pattern, size_t length);
void cr_regex_free(cr_regex *regex);

/* *next = the state after a byte, or CR_REGEX_DEAD. CR_ENOMEM beyond CR_REGEX_STATES. */
int cr_regex_next(cr_regex *regex, int32_t state, unsigned char byte, int32_t *next);
bool cr_regex_accepts(const cr_regex *regex, int32_t state); /* the text may end here */
bool cr_regex_goes_on(const cr_regex *regex, int32_t state); /* it may go on */

/* The specification: follows all ways through the first automaton at once, keeping nothing. */
int cr_regex_matches_plain(const cr_regex *regex, const char *text, size_t length, bool *out);

#endif
