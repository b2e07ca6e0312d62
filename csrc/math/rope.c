/* rope.c: rotary embedding; Su et al., "RoFormer", 2021, equation 34. */
#include "math/rope.h"

#include <math.h>

#define ROWS 16 /* a task */

/* Frequencies and angles are rounded to f32 as the frameworks round them in which models are trained:
 * at position 200 an exact angle differs by 1e-5, and the gradients of the first layers tell. */
static float frequency_of(const cr_rope *rope, size_t p)
{
    float exponent = (float)(2 * p) / (float)rope->head_size;
    float frequency = 1.0f / (float)pow(rope->base, (double)exponent);
    return rope->factors ? frequency / rope->factors[p] : frequency;
}

void cr_rope_turns(float *turns, const cr_rope *rope, const int32_t *positions, size_t n)
{
    size_t half = rope->head_size / 2;
    for (size_t p = 0; p < half; p++) {
        float frequency = frequency_of(rope, p);
        for (size_t i = 0; i < n; i++) {
            float angle = (float)positions[i] * frequency;
            turns[(i * half + p) * 2] = (float)cos((double)angle);
            turns[(i * half + p) * 2 + 1] = (float)sin((double)angle);
        }
    }
}

typedef struct rope_job {
    float *x;
    size_t stride, n, heads;
    const float *turns;
    const cr_rope *rope;
    float direction; /* 1 forward, -1 backward */
} rope_job;

static void turn_head(float *x, const float *turns, size_t half, bool neighbours, float direction)
{
    size_t step = neighbours ? 2 : 1, other = neighbours ? 1 : half;
    for (size_t p = 0; p < half; p++) {
        float c = turns[2 * p], s = turns[2 * p + 1] * direction;
        float *a = x + p * step, *b = a + other;
        float first = *a;
        *a = first * c - *b * s;
        *b = first * s + *b * c;
    }
}

static void rope_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const rope_job *job = argument;
    size_t half = job->rope->head_size / 2;
    size_t end = (task + 1) * ROWS < job->n ? (task + 1) * ROWS : job->n;
    for (size_t i = task * ROWS; i < end; i++)
        for (size_t h = 0; h < job->heads; h++)
            turn_head(job->x + i * job->stride + h * job->rope->head_size,
                      job->turns + i * half * 2, half, job->rope->neighbours, job->direction);
}

void cr_rope_apply(cr_compute *compute, float *x, size_t stride, const float *turns,
                   const cr_rope *rope, size_t n, size_t heads, bool backward)
{
    rope_job job = {x, stride, n, heads, turns, rope, backward ? -1.0f : 1.0f};
    cr_parallel_for(compute->pool, (n + ROWS - 1) / ROWS, rope_task, &job);
}
