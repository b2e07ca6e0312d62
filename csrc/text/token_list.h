/* token_list.h: the vocabulary of a tokenizer.json as lists.
 *
 * What this is: "model.vocab" and "added_tokens" by id, and "model.merges", where there are any, as
 * "left right", whichever of its two forms the file has.
 *
 * Ownership: texts point into the document, joined merges into the list's own memory; released by
 * cr_token_list_free.
 */
#ifndef CR_TOKEN_LIST_H
#define CR_TOKEN_LIST_H

#include "file/json_fields.h"
#include "text/vocabulary.h"

typedef struct cr_token_list {
    cr_text *tokens; /* [count] by id */
    int32_t *kinds;  /* cr_token_kind */
    size_t count;
    cr_text *merges; /* [merge_count] in order of rank */
    size_t merge_count;
    char *joined;
} cr_token_list;

/* `root` is the file's object. Ids must be 0 to count - 1 without holes. */
int cr_token_list_read(cr_token_list *out, cr_json_object root);
void cr_token_list_free(cr_token_list *list);

/* The id of a token as it is spelled, or -1. */
int32_t cr_token_list_find(const cr_token_list *list, const char *text);

#endif
