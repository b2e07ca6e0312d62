/* logits.c: every logit of a model at every position, which the library itself never writes down.
 *
 *     logits MODEL ROWS OUT
 *
 * ROWS: int32 values, each row as its count and its ids. OUT: f32 [positions, vocabulary].
 * Built and run by scripts/check_parity against libcrucible.a.
 */
#include <stdio.h>
#include <stdlib.h>

#include "include/crucible.h"
#include "math/norm.h"
#include "model/forward.h"

typedef struct row {
    int32_t *tokens, *positions;
    size_t starts[2];
} row;

static void stop(const char *what)
{
    fprintf(stderr, "logits: %s\n", what);
    exit(1);
}

static void try(int code)
{
    if (code != CR_OK)
        stop(cr_error_message());
}

/* false at the end of the file. */
static bool read_row(row *out, FILE *file)
{
    int32_t count;
    if (fread(&count, sizeof count, 1, file) != 1)
        return false;
    out->starts[0] = 0;
    out->starts[1] = (size_t)count;
    out->tokens = malloc((size_t)count * sizeof(int32_t));
    out->positions = malloc((size_t)count * sizeof(int32_t));
    if (fread(out->tokens, sizeof(int32_t), (size_t)count, file) != (size_t)count)
        stop("the rows end early");
    for (int32_t i = 0; i < count; i++)
        out->positions[i] = i;
    return true;
}

/* The pass's buffers, counted first and then taken. */
static void prepare(cr_pass *pass, cr_arena *arena)
{
    cr_arena plan = {.planning = true};
    try(cr_pass_prepare(pass, &plan));
    try(cr_arena_reserve(arena, plan.used));
    cr_arena_reset(arena);
    try(cr_pass_prepare(pass, arena));
}

/* [n, vocabulary] from the last layer's output [n, d]. */
static void write_logits(cr_compute *compute, const cr_model *model, const float *last, size_t n,
                         FILE *out)
{
    const size_t d = model->config.width, vocabulary = model->config.vocabulary;
    float *normed = malloc(n * d * sizeof(float)), *inverse = malloc(n * sizeof(float));
    float *logits = malloc(n * vocabulary * sizeof(float));
    cr_rmsnorm_forward(compute, normed, inverse, last, model->final_norm, n, d,
                       model->config.norm_epsilon);
    cr_matmul(compute, logits, vocabulary, n, 1.0f, false, cr_rows(normed, d), &model->head, true);
    if (fwrite(logits, sizeof(float), n * vocabulary, out) != n * vocabulary)
        stop("cannot write");
    free(normed);
    free(inverse);
    free(logits);
}

static void run(cr_compute *compute, const cr_model *model, row *row, cr_arena *arena, FILE *out)
{
    const volatile int never = 0;
    cr_pass pass = {.compute = compute,
                    .model = model,
                    .batch = {.tokens = row->tokens,
                              .positions = row->positions,
                              .starts = row->starts,
                              .rows = 1,
                              .n = row->starts[1]},
                    .cancelled = &never};
    prepare(&pass, arena);
    try(cr_pass_forward(&pass));
    write_logits(compute, model, pass.inputs[model->config.layers], row->starts[1], out);
}

int main(int argc, char **argv)
{
    if (argc != 4)
        stop("expected MODEL ROWS OUT");
    cr_model *model;
    cr_compute compute;
    cr_arena arena = {0};
    try(cr_model_open(&model, argv[1]));
    try(cr_compute_create(&compute, 0, cr_model_longest_row(model)));
    FILE *rows = fopen(argv[2], "rb"), *out = fopen(argv[3], "wb");
    if (!rows || !out)
        stop("cannot open ROWS or OUT");
    for (row row; read_row(&row, rows); free(row.tokens), free(row.positions))
        run(&compute, model, &row, &arena, out);
    cr_arena_free(&arena);
    cr_compute_free(&compute);
    cr_model_close(model);
    fclose(rows);
    return fclose(out);
}
