/* bench_kernels.c: GFLOP/s of the matrix products of SmolLM2-135M's shapes, in turn with OpenBLAS.
 *
 * Built and run by scripts/bench/bench_kernels. Both sides run alternately; the best of the runs
 * counts. The limit is what independent multiply-adds in registers reach in the same run. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "math/matmul.h"

enum { ROW_MAJOR = 101, PLAIN = 111, TRANSPOSED = 112 }; /* CBLAS's numbers */
typedef void (*sgemm_fn)(int, int, int, int, int, int, float, const float *, int, const float *, int,
                         float, float *, int);

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static float *random_floats(size_t count)
{
    float *values = cr_alloc(count * sizeof(float));
    for (size_t i = 0; values && i < count; i++)
        values[i] = (float)(drand48() - 0.5);
    return values;
}

/* The tile alone, on operands that stay in the first-level cache. */
static void limit_task(void *argument, size_t task, int thread)
{
    (void)task;
    (void)thread;
    const cr_kernels *kernels = argument;
    _Alignas(64) float panel[64 * CR_MAX_TILE_COLUMNS], c[CR_MAX_TILE_ROWS * CR_MAX_TILE_COLUMNS];
    float a[CR_MAX_TILE_ROWS * 64];
    const float *rows[CR_MAX_TILE_ROWS];
    for (size_t i = 0; i < 64 * CR_MAX_TILE_COLUMNS; i++)
        panel[i] = 1.0f;
    for (size_t i = 0; i < CR_MAX_TILE_ROWS * 64; i++)
        a[i] = 1.0f;
    for (size_t i = 0; i < CR_MAX_TILE_ROWS; i++)
        rows[i] = a + i * 64;
    for (int repeat = 0; repeat < 20000; repeat++)
        kernels->gemm_tile(64, rows, 1, panel, c, kernels->tile_columns, 1.0f, false);
}

static double limit(cr_compute *compute)
{
    size_t threads = (size_t)cr_pool_threads(compute->pool);
    double flops = 2.0 * 64 * 20000 * (double)(compute->kernels->tile_rows * compute->kernels->tile_columns);
    double best = 0;
    for (int run = 0; run < 10; run++) {
        double started = now();
        cr_parallel_for(compute->pool, threads, limit_task, (void *)(uintptr_t)compute->kernels);
        double rate = flops * (double)threads / (now() - started) * 1e-9;
        best = rate > best ? rate : best;
    }
    return best;
}

static void shape(cr_compute *compute, sgemm_fn sgemm, int m, int n, int k, int runs)
{
    float *a = random_floats((size_t)m * (size_t)k), *b = random_floats((size_t)n * (size_t)k);
    float *c = random_floats((size_t)m * (size_t)n);
    cr_matrix rows = cr_matrix_f32(b, (size_t)n, (size_t)k, (size_t)k);
    cr_matrix stored = cr_matrix_f32(b, (size_t)k, (size_t)n, (size_t)n);
    double best[4] = {1e9, 1e9, 1e9, 1e9};
    for (int run = 0; run < runs; run++)
        for (int which = 0; which < (sgemm ? 4 : 2); which++) {
            double started = now();
            if (which < 2)
                cr_matmul(compute, c, (size_t)n, (size_t)m, 1.0f, false, cr_rows(a, (size_t)k),
                          which ? &stored : &rows, which == 0);
            else
                sgemm(ROW_MAJOR, PLAIN, which == 2 ? TRANSPOSED : PLAIN, m, n, k, 1.0f, a, k, b,
                      which == 2 ? k : n, 0.0f, c, n);
            double took = now() - started;
            best[which] = took < best[which] ? took : best[which];
        }
    double work = 2.0 * m * n * k * 1e-9;
    printf("%5d x %5d x %5d  forward %6.1f  backward %6.1f", m, n, k, work / best[0], work / best[1]);
    if (sgemm)
        printf("   OpenBLAS %6.1f %6.1f", work / best[2], work / best[3]);
    printf("\n");
    cr_free(a);
    cr_free(b);
    cr_free(c);
}

int main(int count, char **arguments)
{
    static const int shapes[][2] = {{576, 576}, {192, 576}, {1536, 576}, {576, 1536}, {16, 576}, {576, 16}};
    int threads = count > 1 ? atoi(arguments[1]) : 0, runs = count > 2 ? atoi(arguments[2]) : 10;
    cr_compute compute;
    if (cr_compute_create(&compute, threads, 1536) < 0)
        return fprintf(stderr, "bench_kernels: %s\n", cr_error_message()), 1;
    threads = cr_pool_threads(compute.pool);
    void *library = dlopen("libopenblas.so.0", RTLD_NOW);
    sgemm_fn sgemm = library ? (sgemm_fn)dlsym(library, "cblas_sgemm") : NULL;
    void (*set_threads)(int) = library ? (void (*)(int))dlsym(library, "openblas_set_num_threads") : NULL;
    char *(*core_name)(void) = library ? (char *(*)(void))dlsym(library, "openblas_get_corename") : NULL;
    if (set_threads)
        set_threads(threads);
    printf("%s kernels, %d threads, limit %.1f GFLOP/s; OpenBLAS %s; rows x out x in, GFLOP/s, best of %d\n",
           compute.kernels->name, threads, limit(&compute), core_name ? core_name() : "not found", runs);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        shape(&compute, sgemm, 1024, shapes[i][0], shapes[i][1], runs);
    cr_compute_free(&compute);
    return 0;
}
