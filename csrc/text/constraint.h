/* constraint.h: which tokens may follow, so that a text becomes one that a pattern means.
 *
 * What this is: the ordinary tokens of a vocabulary in the order of their bytes, a walk over all of them
 * that shares what neighbours have in common (a trie laid out as a sorted list), and for each state of the
 * pattern's automaton that is reached the set of tokens whose bytes lead on, made once and kept (Willard
 * and Louf, "Efficient Guided Generation", 2023). Special and added tokens never may follow.
 * What it is not: a sampler; train/sampler.h applies the sets.
 *
 * Ownership: owns copies of the tokens' bytes. Used by one thread at a time; closed when the last of its
 * holders closes it.
 */
#ifndef CR_CONSTRAINT_H
#define CR_CONSTRAINT_H

#include "base/base.h"

/* cr_constraint and its public functions are declared in include/crucible.h. */

#define CR_CONSTRAINT_START 0

void cr_constraint_hold(cr_constraint *constraint); /* one more cr_constraint_close is due */

/* Forgets sets where they have grown beyond their limit; sets given out before are gone. */
void cr_constraint_trim(cr_constraint *constraint);

/* The tokens that may follow in a state: bit id % 64 of word id / 64, borrowed until the next trim. CR_ENOMEM
 * also when the pattern has too many states. */
int cr_constraint_mask(cr_constraint *constraint, int32_t state, const uint64_t **mask);

/* The state after an ordinary token that may follow. */
int cr_constraint_advance(cr_constraint *constraint, int32_t state, int32_t token, int32_t *next);

size_t cr_constraint_vocabulary(const cr_constraint *constraint); /* ids are below it */
bool cr_constraint_may_end(const cr_constraint *constraint, int32_t state);
bool cr_constraint_goes_on(const cr_constraint *constraint, int32_t state);

/* The specification of a set: one token, byte by byte. */
int cr_constraint_allows_plain(cr_constraint *constraint, int32_t state, int32_t token, bool *out);

#endif
