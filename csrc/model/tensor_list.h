/* tensor_list.h: every tensor of a model by both of its names, and how the two kinds of files differ.
 *
 * What this is: what a program must know that turns one kind of file into the other: GGUF files of the
 * llama family permute the rows of q and k inside each head so that rotary pairs are neighbours, and
 * checkpoints of some families store norm weights less 1.
 *
 * Ownership: the list is the caller's (cr_free).
 */
#ifndef CR_TENSOR_LIST_H
#define CR_TENSOR_LIST_H

#include "model/model.h"

typedef struct cr_model_tensor {
    cr_weight_name name;
    size_t layer;
    int projection; /* of a projection and of its bias; else CR_PROJECTIONS */
    bool bias, norm;
} cr_model_tensor;

/* In the order of a GGUF file: embedding, layers, final norm, head where it is not the embedding. */
int cr_model_tensors(cr_model_tensor **out, size_t *count, const cr_model *model);

/* NULL where the model has none of that name; `hub` says which name is meant. */
const cr_model_tensor *cr_model_tensor_find(const cr_model_tensor *list, size_t count,
                                            const char *name, size_t length, bool hub);

/* Whether GGUF files of the family permute a projection's rows. */
bool cr_rows_are_permuted(const cr_family *family, int projection);

/* Where a row of Hugging Face's order lies in such a file, and back: of a head's rows, value i of the first
 * half and value i of the second become neighbours. */
size_t cr_row_in_gguf(size_t row, size_t head_size);
size_t cr_row_in_hub(size_t row, size_t head_size);

#endif
