/* encoder_config.h: what an encoder's folder says about itself, checked.
 *
 * What this is: config.json of BERT and RoBERTa models, and the files with which sentence-transformers says how
 * a text becomes one vector (modules.json, sentence_bert_config.json, 1_Pooling/config.json), which may
 * be absent. What it is not: weights or a tokenizer.
 *
 * Ownership: the config owns its labels; released by cr_encoder_config_free.
 */
#ifndef CR_ENCODER_CONFIG_H
#define CR_ENCODER_CONFIG_H

#include "base/base.h"
#include "math/activation.h"

typedef enum cr_pooling { CR_POOL_MEAN, CR_POOL_FIRST, CR_POOL_MAX } cr_pooling;

typedef struct cr_encoder_config {
    bool roberta; /* else BERT */
    size_t layers, width, heads, ffn_width, vocabulary;
    size_t types;          /* token types */
    size_t positions;      /* rows of the position embedding */
    size_t first_position; /* of the first token: 0, RoBERTa's padding id + 1 */
    size_t context;        /* tokens a row, special ones included */
    float norm_epsilon;
    cr_activation activation;
    cr_pooling pooling;
    bool normalise; /* vectors have length 1 */
    char **labels;  /* [label_count], by number */
    size_t label_count;
} cr_encoder_config;

/* The content of a config.json alone. */
int cr_encoder_config_parse(cr_encoder_config *out, const char *json, size_t size);

/* config.json and its companions in the folder; failures name the file. */
int cr_encoder_config_open(cr_encoder_config *out, const char *folder);
void cr_encoder_config_free(cr_encoder_config *config);

const char *cr_pooling_name(cr_pooling pooling); /* "mean", "cls", "max" */

#endif
