/* name_key.h: regular expressions that mean dotted names, as PEFT's rank_pattern and alpha_pattern have them.
 *
 * A key means a name that it matches as a whole or from behind a dot on: Python's
 * re.match(rf"(.*\.)?({key})$", name). PCRE2 stands for Python's re here.
 *
 * Ownership: a key borrows its text.
 */
#ifndef CR_NAME_KEY_H
#define CR_NAME_KEY_H

#include "base/base.h"

typedef struct cr_name_key cr_name_key;

/* CR_EARG when the text is no regular expression. */
int cr_name_key_create(cr_name_key **out, const char *text);
void cr_name_key_free(cr_name_key *key);

/* CR_EARG when the comparison takes too long. */
int cr_name_key_means(const cr_name_key *key, const char *name, bool *out);

#endif
