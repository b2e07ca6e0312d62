/* gradstat.h: what is known of the values of a matrix: moments, extremes, magnitudes, quantiles.
 *
 * Values are read in blocks that stay in the first cache; sums are doubles, made about each block's
 * own mean and joined by the rule of Chan, Golub and LeVeque (1979). Quantiles are exact: a first
 * count by leading bits finds the bucket of a rank, a radix search in it the value.
 *
 * Everything is a function of the values and their order alone. Not-a-number and infinities go
 * through the sums as IEEE arithmetic has it, which is what NumPy's float64 gives.
 *
 * Ownership: the caller's; a work space serves one thread at a time.
 */
#ifndef CR_GRADSTAT_H
#define CR_GRADSTAT_H

#include "base/base.h"

typedef struct cr_gradstat_space {
    uint32_t *gathered; /* [longest] */
    uint32_t *kept;     /* [longest] */
    uint32_t *starts;   /* [buckets + 1] */
    uint8_t *slots;     /* [buckets] */
} cr_gradstat_space;

/* Room for matrices of up to `longest` values. */
int cr_gradstat_space_create(cr_gradstat_space *out, size_t longest);
void cr_gradstat_space_free(cr_gradstat_space *space);

/* CR_EARG for a request that cannot be answered, naming it. */
int cr_statistics_request_check(const cr_statistics_request *request);

/* Fills `out`; the parts that were not asked for read zero. The request was checked. */
void cr_gradstat_measure(cr_statistics *out, const float *values, size_t count,
                         const cr_statistics_request *request, const cr_gradstat_space *space);

#endif
