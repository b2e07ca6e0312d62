/* persistence.h: persistent homology in dimensions 0 and 1 (cr_persistence in crucible.h), and the plain
 * algorithm that specifies it.
 *
 * Not here: distances between diagrams (assignment.h), gradients (an interval names its edges, so
 * that the caller can follow their values).
 */
#ifndef CR_PERSISTENCE_H
#define CR_PERSISTENCE_H

#include "base/base.h"

/* The textbook's algorithm on the whole boundary matrix, dense: what cr_persistence must find. Its time
 * grows with the cube of the number of simplices. */
int cr_persistence_plain(cr_interval *out, size_t *count, size_t vertices, const int32_t *ends,
                         const double *values, size_t edges, bool filled);

#endif
