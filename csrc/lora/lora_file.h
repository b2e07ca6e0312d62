/* lora_file.h: the matrices as PEFT's adapter_model.safetensors, and the optimiser's state.
 *
 * PEFT names a tensor "base_model.model.model.layers.12.self_attn.q_proj.lora_A.weight" and keeps
 * rows in the order of Hugging Face checkpoints. Files of the llama family in GGUF permute the rows of q and
 * k inside each head so that rotary pairs are neighbours; only B has those rows, so B's rows are
 * permuted on the way out and back on the way in. DoRA's magnitudes are "….lora_magnitude_vector", [out], with
 * the rows of B.
 */
#ifndef CR_LORA_FILE_H
#define CR_LORA_FILE_H

#include "lora/lora.h"

int cr_lora_save(const cr_lora *lora, const cr_model *model, const char *path);

/* All or nothing: a missing, unexpected or differently shaped tensor is refused by name, and so is a file whose
 * tensors do not give the digest in its metadata ("crucible.sha256"), where there is one. */
int cr_lora_load(cr_lora *lora, const cr_model *model, const char *path);

/* lora_digest.h's digest of the matrices as such a file holds them. */
int cr_lora_digest(const cr_lora *lora, const cr_model *model, char text[CR_DIGEST_TEXT]);

/* What the optimiser remembers beside the moments. */
typedef struct cr_optimizer_state {
    uint64_t step;            /* updates made */
    double loraplus_lr_ratio; /* of the last one */
} cr_optimizer_state;

/* Moments in the engine's own order, bit-exact, and the state. */
int cr_optimizer_save(const cr_lora *lora, const cr_optimizer_state *state, const char *path);
int cr_optimizer_load(cr_lora *lora, cr_optimizer_state *state, const char *path);

#endif
