/* compose.h: text in Unicode's normal form C (UAX #15), the step that Qwen's tokenizers begin with.
 *
 * What this is: canonical composition of each maximal stretch of well-formed UTF-8; bytes
 * between such stretches stay.
 * What it is not: a compatibility form: "ﬁ" stays one letter.
 */
#ifndef CR_COMPOSE_H
#define CR_COMPOSE_H

#include "base/base.h"

/* *out = the composed text, the caller's: cr_free; or NULL when the text is composed already. */
int cr_compose(char **out, size_t *size, const char *text, size_t length);

#endif
