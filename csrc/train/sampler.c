/* sampler.c: greedy choice and filtered sampling; the sources of the filters stand in sampler.h. */
#include "train/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int32_t best_id(const float *scores, size_t vocabulary)
{
    size_t best = 0;
    for (size_t v = 1; v < vocabulary; v++)
        if (scores[v] > scores[best])
            best = v;
    return scores[best] == -INFINITY ? -1 : (int32_t)best;
}

static int by_weight(const void *a, const void *b)
{
    const cr_candidate *x = a, *y = b;
    if (x->weight != y->weight)
        return x->weight > y->weight ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* ---- scores ------------------------------------------------------------------------------- */

/* Positive scores are divided by the penalty, negative ones multiplied with it. */
static void penalise(float *scores, size_t vocabulary, const uint64_t *seen, float penalty)
{
    for (size_t word = 0; word < cr_id_words(vocabulary); word++) {
        for (uint64_t left = seen[word]; left; left &= left - 1) {
            size_t v = word * 64 + (size_t)__builtin_ctzll(left);
            scores[v] = scores[v] < 0 ? scores[v] * penalty : scores[v] / penalty;
        }
    }
}

static void leave_out(float *scores, const float *logits, size_t vocabulary,
                      const cr_choice *choice)
{
    for (size_t word = 0; word < cr_id_words(vocabulary); word++) {
        uint64_t bits = choice->allowed[word];
        size_t end = word * 64 + 64 < vocabulary ? word * 64 + 64 : vocabulary;
        for (size_t v = word * 64; v < end && bits != UINT64_MAX; v++)
            scores[v] = bits >> (v % 64) & 1 ? scores[v] : -INFINITY;
    }
    for (size_t i = 0; i < choice->params->stop_count; i++) {
        size_t id = (size_t)choice->params->stop_ids[i];
        if (id < vocabulary)
            scores[id] = choice->may_end ? logits[id] : -INFINITY;
    }
}

static void fill_scores(float *scores, const float *logits, size_t vocabulary,
                        const cr_choice *choice)
{
    memcpy(scores, logits, vocabulary * sizeof *scores);
    if (choice->seen)
        penalise(scores, vocabulary, choice->seen, (float)choice->params->repetition_penalty);
    if (choice->allowed)
        leave_out(scores, logits, vocabulary, choice);
}

/* ---- filters ------------------------------------------------------------------------------ */

/* Candidates whose weight is at least `least` and not 0, unsorted. */
static size_t collect(cr_candidate *candidates, const float *weights, size_t vocabulary,
                      float least)
{
    size_t count = 0;
    for (size_t v = 0; v < vocabulary; v++)
        if (weights[v] >= least && weights[v] > 0)
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

static double weight_below(const float *weights, size_t vocabulary, float least)
{
    double sum = 0;
    for (size_t v = 0; v < vocabulary; v++)
        sum += weights[v] < least ? (double)weights[v] : 0;
    return sum;
}

/* weights are exp((score - largest) / temperature), so the largest is 1 and min_p a weight. */
static int32_t filtered_draw(const float *weights, size_t vocabulary,
                             const cr_sampling_params *params, cr_rng *rng,
                             cr_candidate *candidates)
{
    bool nucleus_on = params->top_p<1.0, top_k_on = params->top_k> 0;
    float least = !nucleus_on && !top_k_on ? (float)params->min_p : 0;
    /* Below this even all of them together cannot enter the nucleus: total >= 1. */
    if (nucleus_on && !top_k_on)
        least = (float)((1.0 - params->top_p) / (double)vocabulary);
    size_t count = collect(candidates, weights, vocabulary, least);
    double outside = nucleus_on && !top_k_on ? weight_below(weights, vocabulary, least) : 0;
    if (nucleus_on || top_k_on)
        qsort(candidates, count, sizeof *candidates, by_weight);
    if (top_k_on && (size_t)params->top_k < count)
        count = (size_t)params->top_k;
    if (nucleus_on)
        count =
            nucleus(candidates, count, total_weight(candidates, count) + outside, params->top_p);
    while (count > 1 && candidates[count - 1].weight < (float)params->min_p)
        count--;
    return draw(candidates, count, rng);
}

/* ---- the choice ---------------------------------------------------------------------------- */

static double log_sum_exp(const float *logits, float *work, size_t vocabulary,
                          const cr_kernels *kernels)
{
    float largest = kernels->max(logits, vocabulary);
    memcpy(work, logits, vocabulary * sizeof *work);
    return (double)largest + log((double)kernels->exp_sum(work, largest, vocabulary));
}

int32_t cr_sample(const float *logits, size_t vocabulary, const cr_choice *choice, cr_rng *rng,
                  const cr_sampler_space *space, const cr_kernels *kernels, float *logprob)
{
    const cr_sampling_params *params = choice->params;
    float *weights = space->weights;
    double lse = log_sum_exp(logits, weights, vocabulary, kernels);
    fill_scores(weights, logits, vocabulary, choice);
    int32_t chosen = best_id(weights, vocabulary);
    *logprob = 0;
    if (chosen < 0)
        return -1;
    /* Weights that ran away leave nothing to draw from; the log-probability, NaN, tells. */
    if (params->temperature > 0 && isfinite(lse)) {
        float largest = weights[chosen], inverse = (float)(1.0 / params->temperature);
        for (size_t v = 0; v < vocabulary; v++)
            weights[v] = (weights[v] - largest) * inverse;
        kernels->exp_sum(weights, 0.0f, vocabulary);
        chosen = filtered_draw(weights, vocabulary, params, rng, space->candidates);
    }
    *logprob = (float)((double)logits[chosen] - lse);
    return chosen;
}
