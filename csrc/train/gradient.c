/* gradient.c: a session's gradients measured, clipped, changed and frozen; its branches' spectra. */
#include <math.h>
#include <string.h>

#include "math/singular.h"
#include "train/adamw.h"
#include "train/watch.h"

static int find(const cr_session *session, size_t index, const cr_lora_matrix **out)
{
    if (index >= session->lora.count)
        return cr_fail(CR_ENOTFOUND, "matrix %zu: the session has %zu", index, session->lora.count);
    *out = &session->lora.matrices[index];
    return CR_OK;
}

static size_t size_of(const cr_lora_matrix *matrix)
{
    return matrix->rows * matrix->columns;
}

/* ---- statistics ------------------------------------------------------------------------------------- */

typedef struct measure_job {
    const cr_session *session;
    const float *block;
    size_t first;
    const cr_statistics_request *request;
} measure_job;

static void measure_task(void *argument, size_t task, int thread)
{
    const measure_job *job = argument;
    const cr_watch *watch = job->session->watch;
    const cr_lora_matrix *matrix = &job->session->lora.matrices[job->first + task];
    cr_gradstat_measure(&watch->statistics[task], job->block + matrix->offset, size_of(matrix),
                        job->request, &watch->spaces[thread]);
}

static size_t longest_matrix(const cr_lora *lora)
{
    size_t longest = 0;
    for (size_t i = 0; i < lora->count; i++)
        longest = size_of(&lora->matrices[i]) > longest ? size_of(&lora->matrices[i]) : longest;
    return longest;
}

/* Room for the results and for each thread, obtained once. */
static int prepare(cr_session *session)
{
    cr_watch *watch = cr_watch_of(session);
    int threads = cr_pool_threads(session->compute.pool);
    if (!watch)
        return CR_ENOMEM;
    if (!watch->statistics)
        watch->statistics = cr_calloc(session->lora.count, sizeof *watch->statistics);
    if (!watch->spaces)
        watch->spaces = cr_calloc((size_t)threads, sizeof *watch->spaces);
    if (!watch->statistics || !watch->spaces)
        return CR_ENOMEM;
    for (; watch->space_count < threads; watch->space_count++)
        CR_TRY(cr_gradstat_space_create(&watch->spaces[watch->space_count],
                                        longest_matrix(&session->lora)));
    return CR_OK;
}

int cr_session_statistics(cr_session *session, int array, size_t first, size_t count,
                          const cr_statistics_request *request, const cr_statistics **out)
{
    const cr_lora *lora = &session->lora;
    const float *const blocks[] = {lora->values, lora->gradients, lora->moment1, lora->moment2};
    if (array < CR_ARRAY_VALUE || array > CR_ARRAY_MOMENT2)
        return cr_fail(CR_EARG, "array must be CR_ARRAY_*, got %d", array);
    if (first > lora->count || count > lora->count - first)
        return cr_fail(CR_ENOTFOUND, "matrices %zu to %zu: the session has %zu", first,
                       first + count, lora->count);
    CR_TRY(cr_statistics_request_check(request));
    CR_TRY(prepare(session));
    measure_job job = {session, blocks[array], first, request};
    cr_parallel_for(session->compute.pool, count, measure_task, &job);
    *out = session->watch->statistics;
    return CR_OK;
}

/* ---- changes ------------------------------------------------------------------------------------------ */

int cr_session_scale_gradient(cr_session *session, size_t index, double factor)
{
    const cr_lora_matrix *matrix;
    CR_TRY(find(session, index, &matrix));
    session->compute.kernels->scale(session->lora.gradients + matrix->offset, (float)factor,
                                    size_of(matrix));
    return CR_OK;
}

int cr_session_add_gradient(cr_session *session, size_t index, double factor, const float *values)
{
    const cr_lora_matrix *matrix;
    CR_TRY(find(session, index, &matrix));
    if (!matrix->frozen)
        session->compute.kernels->axpy(session->lora.gradients + matrix->offset, (float)factor,
                                       values, size_of(matrix));
    return CR_OK;
}

int cr_session_dot_gradient(const cr_session *session, size_t index, const float *values,
                            double *out)
{
    const cr_lora_matrix *matrix;
    CR_TRY(find(session, index, &matrix));
    const float *gradient = session->lora.gradients + matrix->offset;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < size_of(matrix); i++)
        sum += (double)gradient[i] * (double)values[i];
    *out = sum;
    return CR_OK;
}

int cr_session_freeze(cr_session *session, size_t index, bool frozen)
{
    const cr_lora_matrix *found;
    CR_TRY(find(session, index, &found));
    cr_lora_matrix *matrix = &session->lora.matrices[index];
    if (matrix->frozen != frozen)
        session->lora.frozen += frozen ? 1 : (size_t)-1;
    matrix->frozen = frozen;
    cr_lora_zero_frozen(&session->lora);
    return CR_OK;
}

bool cr_session_is_frozen(const cr_session *session, size_t index)
{
    return index < session->lora.count && session->lora.matrices[index].frozen;
}

/* ---- clipping ------------------------------------------------------------------------------------------- */

typedef struct scale_job {
    const cr_session *session;
    float factor;
} scale_job;

static void scale_task(void *argument, size_t index, int thread)
{
    (void)thread;
    const scale_job *job = argument;
    const cr_lora *lora = &job->session->lora;
    job->session->compute.kernels->scale(lora->gradients + lora->matrices[index].offset,
                                         job->factor, size_of(&lora->matrices[index]));
}

int cr_session_clip(cr_session *session, double max_grad_norm, cr_clip_result *out)
{
    if (!(max_grad_norm >= 0))
        return cr_fail(CR_EARG, "max_grad_norm must be a number not below 0, got %g",
                       max_grad_norm);
    cr_lora_zero_frozen(&session->lora);
    double norm = cr_gradient_norm(&session->compute, &session->lora, session->partial);
    *out = (cr_clip_result){norm, isfinite(norm) ? cr_clip_scale(max_grad_norm, norm) : 1.0};
    scale_job job = {session, (float)out->scale};
    if (out->scale != 1.0)
        cr_parallel_for(session->compute.pool, session->lora.count, scale_task, &job);
    return CR_OK;
}

/* ---- spectra ---------------------------------------------------------------------------------------------- */

static int check_finite(const cr_session *session, const cr_lora_matrix *matrix)
{
    const float *values = session->lora.values + matrix->offset;
    for (size_t i = 0; i < size_of(matrix); i++)
        if (!isfinite(values[i]))
            return cr_fail(CR_EARG, "%s has a value that is not finite: no singular values",
                           matrix->name);
    return CR_OK;
}

int cr_session_singular_values(const cr_session *session, size_t index, double *out, size_t *count)
{
    const cr_lora_matrix *a;
    CR_TRY(find(session, index, &a));
    a -= a->part; /* A, B and magnitudes stand in this order */
    const cr_lora_matrix *b = a + 1;
    const float *values = session->lora.values;
    CR_TRY(check_finite(session, a));
    CR_TRY(check_finite(session, b));
    CR_TRY(cr_singular_values(out, values + b->offset, b->rows, values + a->offset, a->columns,
                              a->rows));
    *count = a->rows < b->rows ? a->rows : b->rows;
    *count = a->columns < *count ? a->columns : *count;
    for (size_t i = 0; i < *count; i++)
        out[i] *= (double)cr_lora_module_at(&session->lora, a->layer, a->projection)->scale;
    return CR_OK;
}
