/* loss.c: the head over the positions that are asked about, forward and backward. */
#include "train/loss.h"

#include <string.h>

#include "math/norm.h"

static float *take_if(bool wanted, cr_taker *from, size_t rows, size_t columns)
{
    return wanted ? cr_take_floats(from, rows, columns) : NULL;
}

int cr_head_pass_prepare(cr_head_pass *head, const cr_pass *pass, const cr_head_pass_needs *needs,
                         cr_arena *arena)
{
    const size_t n = needs->n, d = pass->model->config.width;
    const bool train = pass->train, entropy = needs->entropy;
    cr_taker from = {arena, false};
    head->logprobs = cr_take_floats(&from, needs->picks, 1);
    head->slopes = cr_take_floats(&from, needs->picks, 1);
    head->lse = take_if(needs->lse, &from, n, 1);
    head->entropy = take_if(entropy, &from, n, 1);
    head->likeliest = take_if(needs->likeliest, &from, n, 1);
    head->entropy_slopes = take_if(entropy && train, &from, n, 1);
    head->raw = cr_take_floats(&from, n, d);
    head->normed = cr_take_floats(&from, n, d);
    head->inverse = cr_take_floats(&from, n, 1);
    head->expected = take_if(train, &from, n, d);
    head->tilt = take_if(train && entropy, &from, n, d);
    head->draw = take_if(train, &from, n, d);
    head->dnormed = needs->again ? take_if(train, &from, n, d) : head->expected;
    head->scratch =
        cr_take_floats(&from, cr_head_scratch(pass->compute, &pass->model->head, n, entropy), 1);
    return from.failed ? CR_ENOMEM : CR_OK;
}

void cr_head_pass_norm(cr_head_pass *head, const cr_pass *pass)
{
    const cr_model *model = pass->model;
    const size_t d = model->config.width;
    const float *last = pass->inputs[model->config.layers];
    for (size_t s = 0; s < head->n; s++)
        memcpy(head->raw + s * d, last + head->places[s] * d, d * sizeof(float));
    cr_rmsnorm_forward(pass->compute, head->normed, head->inverse, head->raw, model->final_norm,
                       head->n, d, model->config.norm_epsilon);
}

void cr_head_pass_forward(cr_head_pass *head, const cr_pass *pass)
{
    cr_head_pass_norm(head, pass);
    const cr_head_outputs out = {.logprobs = head->logprobs,
                                 .lse = head->lse,
                                 .entropy = head->entropy,
                                 .likeliest = head->likeliest,
                                 .expected = head->expected,
                                 .tilt = head->tilt};
    cr_head_forward(pass->compute, &out, head->normed, &head->picks, &pass->model->head, head->n,
                    head->scratch);
}

void cr_head_pass_slopes(cr_head_pass *head, const cr_pass *pass)
{
    const cr_head_slopes slopes = {head->slopes, head->entropy_slopes};
    cr_head_backward(pass->compute, head->dnormed, &slopes, head->expected, head->tilt,
                     &head->picks, &pass->model->head, head->n);
}

void cr_head_pass_backward(cr_head_pass *head, const cr_pass *pass)
{
    const size_t d = pass->model->config.width;
    memset(head->draw, 0, head->n * d * sizeof(float));
    cr_rmsnorm_backward(pass->compute, head->draw, head->dnormed, head->inverse, head->raw,
                        pass->model->final_norm, head->n, d);
    memset(pass->dx, 0, pass->batch.n * d * sizeof(float));
    for (size_t s = 0; s < head->n; s++)
        memcpy(pass->dx + head->places[s] * d, head->draw + s * d, d * sizeof(float));
}
