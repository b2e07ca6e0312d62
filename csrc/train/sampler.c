/* sampler.c: greedy choice and filtered sampling; nucleus: Holtzman et al. 2020. */
#include "train/sampler.h"

#include <math.h>
#include <stdlib.h>

static int32_t best_id(const float *logits, size_t vocabulary)
{
    size_t best = 0;
    for (size_t v = 1; v < vocabulary; v++)
        if (logits[v] > logits[best])
            best = v;
    return (int32_t)best;
}

static int by_weight(const void *a, const void *b)
{
    const cr_candidate *x = a, *y = b;
    if (x->weight != y->weight)
        return x->weight > y->weight ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* Candidates whose weight is at least `least`, unsorted. */
static size_t collect(cr_candidate *candidates, const float *weights, size_t vocabulary, float least)
{
    size_t count = 0;
    for (size_t v = 0; v < vocabulary; v++)
        if (weights[v] >= least)
            candidates[count++] = (cr_candidate){weights[v], (int32_t)v};
    return count;
}

static double total_weight(const cr_candidate *candidates, size_t count)
{
    double total = 0;
    for (size_t i = 0; i < count; i++)
        total += (double)candidates[i].weight;
    return total;
}

/* How many of the sorted candidates carry a share of top_p of their total; at least one. */
static size_t nucleus(const cr_candidate *candidates, size_t count, double total, double top_p)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += (double)candidates[i].weight;
        if (sum >= top_p * total)
            return i + 1;
    }
    return count;
}

static int32_t draw(const cr_candidate *candidates, size_t count, cr_rng *rng)
{
    double point = cr_rng_uniform(rng) * total_weight(candidates, count);
    for (size_t i = 0; i + 1 < count; i++) {
        point -= (double)candidates[i].weight;
        if (point < 0)
            return candidates[i].id;
    }
    return candidates[count - 1].id;
}

/* weights are exp((logit - largest) / temperature), so the largest is 1. */
static int32_t filtered_draw(const float *weights, size_t vocabulary,
                             const cr_sampling_params *params, cr_rng *rng,
                             cr_candidate *candidates)
{
    bool nucleus_on = params->top_p < 1.0, top_k_on = params->top_k > 0;
    /* Below this even all of them together cannot enter the nucleus: total >= 1. */
    double floor = nucleus_on && !top_k_on ? (1.0 - params->top_p) / (double)vocabulary : 0;
    size_t count = collect(candidates, weights, vocabulary, (float)floor);
    double outside = 0;
    if (floor > 0)
        for (size_t v = 0; v < vocabulary; v++)
            outside += weights[v] < (float)floor ? (double)weights[v] : 0;
    if (nucleus_on || top_k_on)
        qsort(candidates, count, sizeof *candidates, by_weight);
    if (top_k_on && (size_t)params->top_k < count)
        count = (size_t)params->top_k;
    if (nucleus_on)
        count = nucleus(candidates, count, total_weight(candidates, count) + outside, params->top_p);
    return draw(candidates, count, rng);
}

int32_t cr_sample(float *logits, size_t vocabulary, const cr_sampling_params *params, cr_rng *rng,
                  cr_candidate *candidates, const cr_kernels *kernels, float *logprob)
{
    int32_t best = best_id(logits, vocabulary), chosen = best;
    float largest = logits[best];
    double sum = 0;
    for (size_t v = 0; v < vocabulary; v++)
        sum += exp((double)logits[v] - (double)largest);
    double lse = (double)largest + log(sum);
    /* Weights that ran away leave nothing to draw from; the log-probability, NaN, tells. */
    if (params->temperature <= 0 || !isfinite(lse)) {
        *logprob = (float)((double)logits[best] - lse);
        return best;
    }
    /* The weight of the chosen token, undone, gives its logit back. */
    float inverse = (float)(1.0 / params->temperature);
    for (size_t v = 0; v < vocabulary; v++)
        logits[v] = (logits[v] - largest) * inverse;
    kernels->exp_sum(logits, 0.0f, vocabulary);
    chosen = filtered_draw(logits, vocabulary, params, rng, candidates);
    double logit = log((double)logits[chosen]) * params->temperature + (double)largest;
    *logprob = (float)(logit - lse);
    return chosen;
}
