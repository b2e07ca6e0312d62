/* pattern.h: PEFT's rank_pattern and alpha_pattern: which modules a key means.
 *
 * A key is a regular expression. It means every module whose name it matches as a whole, or from behind a
 * dot on: Python's re.match(rf"(.*\.)?({key})$", name). Of several keys that mean a module, the first
 * counts.
 */
#ifndef CR_PATTERN_H
#define CR_PATTERN_H

#include "lora/lora.h"

/* Gives each module the value of the first key that means it: values [lora->module_count] keep what they
 * hold elsewhere. CR_EARG for a key that is no regular expression or means no module; `what` names the list. */
int cr_pattern_apply(double *values, const cr_lora *lora, const cr_pattern *patterns, size_t count,
                     const char *what);

#endif
