/* assignment.h: the cheapest one-to-one assignment (cr_assignment in crucible.h), and the plain algorithm that
 * specifies it. The distance of persistence diagrams, cr_wasserstein, is made of it.
 */
#ifndef CR_ASSIGNMENT_H
#define CR_ASSIGNMENT_H

#include "base/base.h"

/* Tries every permutation: what cr_assignment must find. For n up to 9. */
int cr_assignment_plain(int32_t *columns, double *total, const double *cost, size_t n);

#endif
