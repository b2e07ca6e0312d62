/* ahead.h: one thread that fills slots ahead of one consumer: prefetching.
 *
 * The filler runs `fill(argument, slot)` for slots 0, 1, … in turn and waits while the consumer has
 * not given back the next one. Whatever a slot holds is the caller's; between fill and give it
 * belongs to the consumer. The filler prints nothing, takes no signals and touches only what
 * `argument` leads to.
 *
 * Ownership: *out is the caller's; cr_ahead_stop waits for the fill under way and ends the thread.
 */
#ifndef CR_AHEAD_H
#define CR_AHEAD_H

#include "base/base.h"

typedef struct cr_ahead cr_ahead;

enum { CR_AHEAD_END = 1 }; /* nothing was filled and nothing will be */

/* CR_OK, CR_AHEAD_END, or a failure with the thread's message. After both of the latter it is not
 * called again. */
typedef int (*cr_fill_fn)(void *argument, int slot);

/* Without a second thread (none may be had, or threaded = false) slots are filled when they are taken. */
int cr_ahead_start(cr_ahead **out, int slots, bool threaded, cr_fill_fn fill, void *argument);

/* Waits for the next slot. CR_OK: it is the consumer's until cr_ahead_give. Else what fill returned,
 * with its message, now and at every later call. */
int cr_ahead_take(cr_ahead *ahead, int *slot);
void cr_ahead_give(cr_ahead *ahead); /* the slot taken last */
void cr_ahead_stop(cr_ahead *ahead); /* NULL is accepted */

#endif
