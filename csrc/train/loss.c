/* loss.c: the head over selected positions, forward and backward. */
#include "train/loss.h"

#include <string.h>

#include "math/norm.h"

int cr_head_pass_prepare(cr_head_pass *head, const cr_pass *pass, const cr_micro_batch *batch,
                         cr_arena *arena)
{
    const size_t selected = batch->selected, d = pass->model->config.width;
    cr_taker from = {arena, false};
    head->logprobs = cr_take_floats(&from, selected, 1);
    head->slopes = cr_take_floats(&from, selected, 1);
    head->raw = cr_take_floats(&from, selected, d);
    head->normed = cr_take_floats(&from, selected, d);
    head->inverse = cr_take_floats(&from, selected, 1);
    head->expected = pass->train ? cr_take_floats(&from, selected, d) : NULL;
    head->draw = pass->train ? cr_take_floats(&from, selected, d) : NULL;
    head->scratch =
        cr_take_floats(&from, cr_head_scratch(pass->compute, &pass->model->head, selected), 1);
    return from.failed ? CR_ENOMEM : CR_OK;
}

void cr_head_pass_forward(cr_head_pass *head, const cr_pass *pass, const cr_micro_batch *batch)
{
    const cr_model *model = pass->model;
    const size_t d = model->config.width, selected = batch->selected;
    const float *last = pass->inputs[model->config.layers];
    for (size_t s = 0; s < selected; s++)
        memcpy(head->raw + s * d, last + batch->places[s] * d, d * sizeof(float));
    cr_rmsnorm_forward(pass->compute, head->normed, head->inverse, head->raw, model->final_norm,
                       selected, d, model->config.norm_epsilon);
    cr_head_forward(pass->compute, head->logprobs, head->expected, head->normed, batch->targets,
                    &model->head, selected, head->scratch);
}

void cr_head_pass_backward(cr_head_pass *head, const cr_pass *pass, const cr_micro_batch *batch)
{
    const cr_model *model = pass->model;
    const size_t d = model->config.width, selected = batch->selected;
    cr_head_backward(pass->compute, head->expected, head->slopes, head->expected, batch->targets,
                     &model->head, selected);
    memset(head->draw, 0, selected * d * sizeof(float));
    cr_rmsnorm_backward(pass->compute, head->draw, head->expected, head->inverse, head->raw,
                        model->final_norm, selected, d);
    memset(pass->dx, 0, batch->rows.n * d * sizeof(float));
    for (size_t s = 0; s < selected; s++)
        memcpy(pass->dx + batch->places[s] * d, head->draw + s * d, d * sizeof(float));
}
