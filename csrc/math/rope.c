/* rope.c: rotary embedding; Su et al., "RoFormer", 2021, equation 34. */
#include "math/rope.h"

#include <math.h>

#define ROWS 16 /* a task */

void cr_rope_turns(float *turns, const cr_rope *rope, const int32_t *positions, size_t n)
{
    size_t half = rope->head_size / 2;
    for (size_t p = 0; p < half; p++) {
        double frequency = pow(rope->base, -2.0 * (double)p / (double)rope->head_size);
        if (rope->factors)
            frequency /= (double)rope->factors[p];
        for (size_t i = 0; i < n; i++) {
            double angle = (double)positions[i] * frequency;
            turns[(i * half + p) * 2] = (float)cos(angle);
            turns[(i * half + p) * 2 + 1] = (float)sin(angle);
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
