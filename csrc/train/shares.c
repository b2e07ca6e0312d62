/* shares.c: the gradient of each term of a loss, kept apart while all of them add up. */
#include "train/shares.h"

#include <math.h>
#include <string.h>

void cr_shares_free(cr_shares *shares)
{
    if (!shares)
        return;
    cr_free(shares->before);
    cr_free(shares->sums);
    cr_free(shares->partial);
    cr_free(shares);
}

void cr_shares_zeroed(cr_session *session)
{
    cr_shares *shares = session->shares;
    if (shares)
        memset(shares->sums, 0, shares->count * shares->floats * sizeof(float));
}

static cr_shares *shares_create(const cr_lora *lora, size_t count)
{
    size_t values;
    cr_shares *made = cr_calloc(1, sizeof *made);
    if (!made || !cr_size_mul(&values, count, lora->floats))
        return made;
    made->count = count;
    made->floats = lora->floats;
    made->before = cr_calloc(lora->floats, sizeof(float));
    made->sums = cr_calloc(values, sizeof(float));
    made->partial = cr_calloc(3 * lora->count, sizeof(double));
    return made;
}

int cr_session_share_gradients(cr_session *session, size_t count)
{
    cr_shares *shares = session->shares;
    if (shares && shares->count == count)
        return CR_OK;
    cr_shares_free(shares);
    session->shares = NULL;
    if (count == 0)
        return CR_OK;
    shares = shares_create(&session->lora, count);
    if (!shares || !shares->before || !shares->sums || !shares->partial) {
        cr_shares_free(shares);
        return CR_ENOMEM;
    }
    session->shares = shares;
    return CR_OK;
}

static int find_share(const cr_session *session, size_t share, cr_shares **out)
{
    *out = session->shares;
    size_t count = *out ? (*out)->count : 0;
    if (share >= count)
        return cr_fail(CR_EARG, "gradients are shared among %zu terms, there is no number %zu",
                       count, share + 1);
    return CR_OK;
}

int cr_session_backward_share(cr_session *session, size_t share)
{
    cr_shares *shares;
    CR_TRY(find_share(session, share, &shares));
    const float *gradients = session->lora.gradients;
    memcpy(shares->before, gradients, shares->floats * sizeof(float));
    CR_TRY(cr_session_backward(session));
    float *sum = shares->sums + share * shares->floats;
    for (size_t i = 0; i < shares->floats; i++)
        sum[i] += gradients[i] - shares->before[i];
    return CR_OK;
}

typedef struct share_job {
    const cr_lora *lora;
    const float *one, *other;
    double *partial;
} share_job;

static void dot_task(void *argument, size_t index, int thread)
{
    (void)thread;
    const share_job *job = argument;
    const cr_lora_matrix *matrix = &job->lora->matrices[index];
    const float *a = job->one + matrix->offset, *b = job->other + matrix->offset;
    double aa = 0, bb = 0, ab = 0;
    for (size_t i = 0; i < matrix->rows * matrix->columns; i++) {
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
        ab += (double)a[i] * (double)b[i];
    }
    memcpy(job->partial + 3 * index, (double[]){aa, bb, ab}, 3 * sizeof(double));
}

int cr_session_share(cr_session *session, size_t share, cr_share *out)
{
    cr_shares *shares;
    CR_TRY(find_share(session, share, &shares));
    share_job job = {&session->lora, shares->sums + share * shares->floats, shares->sums,
                     shares->partial};
    cr_parallel_for(session->compute.pool, session->lora.count, dot_task, &job);
    double own = 0, first = 0, both = 0;
    for (size_t i = 0; i < session->lora.count; i++) {
        own += shares->partial[3 * i];
        first += shares->partial[3 * i + 1];
        both += shares->partial[3 * i + 2];
    }
    *out = (cr_share){sqrt(own), both / sqrt(own * first)};
    return CR_OK;
}
