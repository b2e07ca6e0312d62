/* adamw.h: the gradient's norm, clipping and one AdamW update of all matrices.
 *
 * Sums are made per chunk of fixed length and joined in order, whatever the threads.
 */
#ifndef CR_ADAMW_H
#define CR_ADAMW_H

#include "lora/lora.h"

/* Chunks of a lora: the length of the `partial` lists below. */
size_t cr_adamw_chunks(const cr_lora *lora);

/* Euclidean norm of all gradients, in double. partial [chunks] is work space. */
double cr_gradient_norm(cr_compute *compute, const cr_lora *lora, double *partial);

/* What gradients of a norm are multiplied with. */
double cr_clip_scale(double max_grad_norm, double norm);

/* One update, number `step` from 1; `norm` decides clipping. Returns the norm of the change. */
double cr_adamw_update(cr_compute *compute, cr_lora *lora, const cr_adam_params *params, double norm,
                       uint64_t step, double *partial);

/* The specification of the update for one weight, in double. */
void cr_adamw_plain(double *weight, double gradient, double *moment1, double *moment2,
                    const cr_adam_params *params, double gradient_scale, uint64_t step);

#endif
