/* encoder.h: BERT's and RoBERTa's network, forward: texts to vectors, pairs of texts to labels.
 *
 * What this is: the encoder of the public face (include/crucible.h): config, tokenizer and weights of a Hugging
 * Face folder, its own threads and work space, and the pass over rows that lie one after another
 * without padding. What it is not: trained here; nothing is kept for backward.
 *
 * Ownership: an encoder copies its weights out of the file (types as stored, aligned) and owns all it
 * points to. One thread at a time uses it.
 */
#ifndef CR_ENCODER_H
#define CR_ENCODER_H

#include "base/arena.h"
#include "math/matmul.h"
#include "model/encoder_config.h"
#include "text/hub_tokenizer.h"

typedef struct cr_dense {
    cr_matrix weight;  /* [out, in] */
    const float *bias; /* [out] */
} cr_dense;

typedef struct cr_scale_shift {
    const float *weight, *bias; /* [d] */
} cr_scale_shift;

typedef struct cr_encoder_layer {
    cr_dense q, k, v, o;
    cr_scale_shift attention_norm;
    cr_dense up, down;
    cr_scale_shift output_norm;
} cr_encoder_layer;

struct cr_encoder {
    cr_encoder_config config;
    cr_hub_tokenizer *tokenizer;
    cr_compute compute;
    cr_arena arena;
    cr_matrix words, positions, types; /* [vocabulary, d], [positions, d], [types, d] */
    cr_scale_shift embedding_norm;
    cr_encoder_layer *layers;
    bool classifies;
    cr_dense pooler, classifier; /* tanh between them */
    uint64_t parameters;
    void **blocks; /* owned copies of tensors */
    size_t block_count, block_room;
};

#endif
