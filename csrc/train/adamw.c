/* adamw.c: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2;
 * bias correction as Kingma and Ba, "Adam", 2015; clipping by global norm, Pascanu et al. 2013; rates apart for
 * A and B, Hayou et al., "LoRA+: Efficient Low Rank Adaptation of Large Models", 2024. */
#include "train/adamw.h"

#include <math.h>

#define CHUNK ((size_t)1 << 14) /* floats a task */

typedef struct adamw_job {
    const cr_kernels *kernels;
    cr_lora *lora;
    const cr_lora *measured;
    double *partial;
    cr_adamw_factors of_a, of_others; /* LoRA+: B and magnitudes have a rate of their own */
    bool apart;                       /* these differ */
} adamw_job;

size_t cr_adamw_chunks(const cr_lora *lora)
{
    return (lora->floats + CHUNK - 1) / CHUNK;
}

static size_t chunk_length(const cr_lora *lora, size_t chunk)
{
    size_t rest = lora->floats - chunk * CHUNK;
    return rest < CHUNK ? rest : CHUNK;
}

static void norm_task(void *argument, size_t chunk, int thread)
{
    (void)thread;
    adamw_job *job = argument;
    const float *gradient = job->measured->gradients + chunk * CHUNK;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < chunk_length(job->measured, chunk); i++)
        sum += (double)gradient[i] * (double)gradient[i];
    job->partial[chunk] = sum;
}

static double join(const double *partial, size_t chunks)
{
    double sum = 0;
    for (size_t i = 0; i < chunks; i++)
        sum += partial[i];
    return sqrt(sum);
}

double cr_gradient_norm(cr_compute *compute, const cr_lora *lora, double *partial)
{
    adamw_job job = {.measured = lora, .partial = partial};
    cr_parallel_for(compute->pool, cr_adamw_chunks(lora), norm_task, &job);
    return join(partial, cr_adamw_chunks(lora));
}

static double update_stretch(const adamw_job *job, const cr_adamw_factors *factors, size_t at,
                             size_t end)
{
    cr_lora *lora = job->lora;
    return job->kernels->adamw(lora->values + at, lora->gradients + at, lora->moment1 + at,
                               lora->moment2 + at, end - at, factors);
}

/* The stretch without its frozen matrices, each with its factors; each piece is as long as whole vectors. */
static double update_by_matrix(const adamw_job *job, size_t at, size_t end)
{
    const cr_lora *lora = job->lora;
    double sum = 0;
    for (size_t i = 0; i < lora->count; i++) {
        size_t first = lora->matrices[i].offset;
        size_t last = i + 1 < lora->count ? lora->matrices[i + 1].offset : lora->floats;
        first = first > at ? first : at;
        last = last < end ? last : end;
        bool is_a = lora->matrices[i].part == CR_PART_A;
        if (!lora->matrices[i].frozen && first < last)
            sum += update_stretch(job, is_a ? &job->of_a : &job->of_others, first, last);
    }
    return sum;
}

static void update_task(void *argument, size_t chunk, int thread)
{
    (void)thread;
    adamw_job *job = argument;
    size_t at = chunk * CHUNK, end = at + chunk_length(job->lora, chunk);
    job->partial[chunk] = job->lora->frozen || job->apart
                              ? update_by_matrix(job, at, end)
                              : update_stretch(job, &job->of_a, at, end);
}

double cr_clip_scale(double max_grad_norm, double norm)
{
    /* PyTorch's clip_grad_norm_ adds 1e-6 to the norm. */
    bool above = max_grad_norm > 0 && max_grad_norm < norm + 1e-6;
    return above ? max_grad_norm / (norm + 1e-6) : 1.0;
}

static cr_adamw_factors factors_of(const cr_adam_params *params, double lr, double norm,
                                   uint64_t step)
{
    return (cr_adamw_factors){
        .gradient_scale = (float)cr_clip_scale(params->max_grad_norm, norm),
        .beta1 = (float)params->beta1,
        .beta2 = (float)params->beta2,
        .step_size = (float)(lr / (1.0 - pow(params->beta1, (double)step))),
        .moment2_scale = (float)(1.0 / sqrt(1.0 - pow(params->beta2, (double)step))),
        .eps = (float)params->eps,
        .keep = (float)(1.0 - lr * params->weight_decay)};
}

double cr_adamw_update(cr_compute *compute, cr_lora *lora, const cr_adam_params *params, double norm,
                       uint64_t step, double *partial)
{
    double ratio = params->loraplus_lr_ratio > 0 ? params->loraplus_lr_ratio : 1.0; /* 0: not given */
    adamw_job job = {.kernels = compute->kernels,
                     .lora = lora,
                     .partial = partial,
                     .of_a = factors_of(params, params->lr, norm, step),
                     .of_others = factors_of(params, ratio * params->lr, norm, step),
                     .apart = ratio != 1.0};
    cr_parallel_for(compute->pool, cr_adamw_chunks(lora), update_task, &job);
    return join(partial, cr_adamw_chunks(lora));
}

void cr_adamw_plain(double *weight, double gradient, double *moment1, double *moment2,
                    const cr_adam_params *params, double gradient_scale, uint64_t step)
{
    double g = gradient * gradient_scale;
    *moment1 = params->beta1 * *moment1 + (1 - params->beta1) * g;
    *moment2 = params->beta2 * *moment2 + (1 - params->beta2) * g * g;
    double mean = *moment1 / (1 - pow(params->beta1, (double)step));
    double variance = *moment2 / (1 - pow(params->beta2, (double)step));
    *weight -= params->lr * params->weight_decay * *weight;
    *weight -= params->lr * mean / (sqrt(variance) + params->eps);
}
