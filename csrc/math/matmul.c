/* matmul.c: packed panels and register tiles, after Goto and van de Geijn, "Anatomy of
 * High-Performance Matrix Multiplication", 2008; panels are expanded from their stored type
 * while they are packed. */
#include "math/matmul.h"

#include <string.h>

#define DEPTH_BLOCK 320 /* k values a pass: a panel of them stays in the first-level cache */
#define ROW_TILES 8     /* register tiles of rows a task */
#define STRIP 32        /* rows of B expanded before they are packed */
#define PACK_DEPTH 256  /* values of a row expanded at once: the largest block of a stored type */

int cr_compute_create(cr_compute *out, int threads, size_t longest_row)
{
    *out = (cr_compute){.kernels = cr_kernels_select()};
    CR_TRY(cr_pool_create(&out->pool, threads));
    size_t pool_threads = (size_t)cr_pool_threads(out->pool);
    out->packed_floats = CR_PACK_FLOATS;
    /* One panel of the longest row must fit, whatever its length. */
    size_t panel = cr_pack_floats(out->kernels, 1, longest_row);
    if (out->packed_floats < panel)
        out->packed_floats = panel;
    out->row_floats = (CR_FEW_ROWS * longest_row + CR_MAX_TILE_COLUMNS + 15) & ~(size_t)15;
    if (out->row_floats < CR_MAX_TILE_COLUMNS * PACK_DEPTH)
        out->row_floats = CR_MAX_TILE_COLUMNS * PACK_DEPTH;
    out->packed = cr_alloc(out->packed_floats * sizeof(float));
    out->row_scratch = cr_calloc(pool_threads * out->row_floats, sizeof(float));
    if (!out->packed || !out->row_scratch) {
        cr_compute_free(out);
        return CR_ENOMEM;
    }
    return CR_OK;
}

void cr_compute_free(cr_compute *compute)
{
    cr_pool_free(compute->pool);
    cr_free(compute->packed);
    cr_free(compute->row_scratch);
    *compute = (cr_compute){0};
}

cr_matrix cr_matrix_f32(const float *data, size_t rows, size_t columns, size_t stride)
{
    return (cr_matrix){data, cr_dtype_f32(), rows, columns, stride * sizeof(float)};
}

static const void *row_of(const cr_matrix *matrix, size_t row)
{
    return (const unsigned char *)matrix->data + row * matrix->row_bytes;
}

void cr_matrix_row(float *out, const cr_matrix *matrix, size_t row)
{
    cr_dtype_expand(out, matrix->type, row_of(matrix, row), 0, matrix->columns);
}

/* f32 rows are used where they lie; others are expanded to `scratch`. */
static const float *row_values(const cr_matrix *matrix, size_t row, size_t first, size_t count,
                               float *scratch)
{
    if (matrix->type->type == CR_DTYPE_F32)
        return (const float *)row_of(matrix, row) + first;
    cr_dtype_expand(scratch, matrix->type, row_of(matrix, row), first, count);
    return scratch;
}

static size_t round_up(size_t value, size_t step)
{
    return (value + step - 1) / step * step;
}

size_t cr_pack_floats(const cr_kernels *kernels, size_t n, size_t k)
{
    return round_up(n, kernels->tile_columns) * k;
}

/* ---- packing: a panel is [k, tile_columns], panels follow one another ------------------- */

/* Panel from rows first..first+width of B [n, k]: column j of the panel is row first + j. Done in pieces that
 * stay in the first-level cache. */
static void pack_rows(float *CR_RESTRICT panel, const cr_kernels *kernels, const cr_matrix *b,
                      size_t first, size_t width, float *scratch)
{
    const float *rows[CR_MAX_TILE_COLUMNS];
    for (size_t k = 0; k < b->columns; k += PACK_DEPTH) {
        size_t depth = b->columns - k < PACK_DEPTH ? b->columns - k : PACK_DEPTH;
        for (size_t j = 0; j < width; j++)
            rows[j] = row_values(b, first + j, k, depth, scratch ? scratch + j * PACK_DEPTH : NULL);
        kernels->pack(panel + k * kernels->tile_columns, rows, width, depth);
    }
}

/* Row k of B [k, n], columns first..first+width, into row k of each panel. */
static void pack_row_across(float *CR_RESTRICT packed, size_t tile, size_t depth, size_t k,
                            const float *row, size_t width)
{
    for (size_t j = 0; j < width; j += tile) {
        float *to = packed + j * depth + k * tile;
        size_t count = width - j < tile ? width - j : tile;
        memcpy(to, row + j, count * sizeof(float));
        memset(to + count, 0, (tile - count) * sizeof(float));
    }
}

typedef struct product {
    const cr_kernels *kernels;
    cr_operand a;
    const cr_matrix *b;
    bool transposed, accumulate;
    float alpha;
    size_t m, n, k;
    float *c;
    size_t ldc;
    float *packed;
    size_t first, width;                         /* the columns of C that are packed now */
    size_t row_tasks, column_tasks, column_step; /* how the multiplication is cut */
    float *row_scratch;
    size_t row_floats;
} product;

static void pack_transposed_task(void *argument, size_t task, int thread)
{
    product *p = argument;
    size_t tile = p->kernels->tile_columns;
    size_t j = task * tile;
    size_t width = p->width - j < tile ? p->width - j : tile;
    pack_rows(p->packed + j * p->k, p->kernels, p->b, p->first + j, width,
              p->row_scratch + (size_t)thread * p->row_floats);
}

static void pack_stored_task(void *argument, size_t task, int thread)
{
    product *p = argument;
    float *scratch = p->row_scratch + (size_t)thread * p->row_floats;
    size_t end = (task + 1) * STRIP < p->k ? (task + 1) * STRIP : p->k;
    for (size_t k = task * STRIP; k < end; k++)
        pack_row_across(p->packed, p->kernels->tile_columns, p->k, k,
                        row_values(p->b, k, p->first, p->width, scratch), p->width);
}

/* ---- multiplying -------------------------------------------------------------------------- */

/* A tile of C that may stick out over the edge: rows beyond m repeat the last one and columns
 * beyond n are dropped. It is made whole by the same instructions as any other, beside C, so that an
 * element's last bit does not depend on where it lies. */
static void edge_tile(const product *p, size_t depth, const float *const *rows, const float *panel,
                      float *c, size_t m, size_t n, bool accumulate)
{
    float whole[CR_MAX_TILE_ROWS * CR_MAX_TILE_COLUMNS];
    size_t tile = p->kernels->tile_columns;
    if (accumulate)
        memset(whole, 0, p->kernels->tile_rows * tile * sizeof(float));
    for (size_t i = 0; i < m && accumulate; i++)
        memcpy(whole + i * tile, c + i * p->ldc, n * sizeof(float));
    p->kernels->gemm_tile(depth, rows, p->a.column_step, panel, whole, tile, p->alpha, accumulate);
    for (size_t i = 0; i < m; i++)
        memcpy(c + i * p->ldc, whole + i * tile, n * sizeof(float));
}

static void row_pointers(const float **rows, const product *p, size_t first, size_t count, size_t k)
{
    for (size_t i = 0; i < p->kernels->tile_rows; i++) {
        size_t row = first + (i < count ? i : count - 1);
        rows[i] = p->a.data + row * p->a.row_step + k * p->a.column_step;
    }
}

/* Rows first..end of C, panel columns j..j+width, k values k0..k0+depth. */
static void multiply_panel(const product *p, size_t first, size_t end, size_t j, size_t width,
                           size_t k0, size_t depth)
{
    const size_t tile_rows = p->kernels->tile_rows, tile = p->kernels->tile_columns;
    const float *panel = p->packed + j * p->k + k0 * tile;
    const bool accumulate = p->accumulate || k0 > 0;
    const float *rows[CR_MAX_TILE_ROWS];
    for (size_t i = first; i < end; i += tile_rows) {
        size_t count = end - i < tile_rows ? end - i : tile_rows;
        float *c = p->c + i * p->ldc + p->first + j;
        row_pointers(rows, p, i, count, k0);
        if (count == tile_rows && width == tile)
            p->kernels->gemm_tile(depth, rows, p->a.column_step, panel, c, p->ldc, p->alpha,
                                  accumulate);
        else
            edge_tile(p, depth, rows, panel, c, count, width, accumulate);
    }
}

/* The passes over k are of equal length, so that none is a short rest. */
static size_t depth_of_pass(size_t k)
{
    size_t passes = (k + DEPTH_BLOCK - 1) / DEPTH_BLOCK;
    return passes ? (k + passes - 1) / passes : 1;
}

static void multiply_block(const product *p, size_t first, size_t end, size_t left, size_t right)
{
    size_t tile = p->kernels->tile_columns;
    size_t pass = depth_of_pass(p->k);
    for (size_t k0 = 0; k0 < p->k; k0 += pass) {
        size_t depth = p->k - k0 < pass ? p->k - k0 : pass;
        for (size_t j = left; j < right; j += tile)
            multiply_panel(p, first, end, j, right - j < tile ? right - j : tile, k0, depth);
    }
}

static void multiply_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const product *p = argument;
    size_t rows = p->kernels->tile_rows * ROW_TILES;
    size_t first = task / p->column_tasks * rows;
    size_t left = task % p->column_tasks * p->column_step;
    size_t end = first + rows < p->m ? first + rows : p->m;
    size_t right = left + p->column_step < p->width ? left + p->column_step : p->width;
    multiply_block(p, first, end, left, right);
}

/* Few rows are cut by columns too, so that every thread has work. */
static void plan_tasks(product *p)
{
    const size_t wanted = 32;
    size_t tile = p->kernels->tile_columns, rows = p->kernels->tile_rows * ROW_TILES;
    size_t panels = round_up(p->width, tile) / tile;
    p->row_tasks = (p->m + rows - 1) / rows;
    size_t cuts = (wanted + p->row_tasks - 1) / p->row_tasks;
    if (cuts > panels)
        cuts = panels;
    p->column_step = (panels + cuts - 1) / cuts * tile;
    p->column_tasks = (p->width + p->column_step - 1) / p->column_step;
}

static void clear_product(const product *p)
{
    for (size_t i = 0; i < p->m && !p->accumulate; i++)
        memset(p->c + i * p->ldc, 0, p->n * sizeof(float));
}

static void pack(cr_compute *compute, product *p)
{
    size_t tile = p->kernels->tile_columns;
    if (p->transposed)
        cr_parallel_for(compute->pool, round_up(p->width, tile) / tile, pack_transposed_task, p);
    else
        cr_parallel_for(compute->pool, (p->k + STRIP - 1) / STRIP, pack_stored_task, p);
}

/* A panel of B [k, n] would not fit: the upper half of k first, the lower half on top of it.
 * Transposed products never get here, since a panel of the longest row always fits. */
static void multiply_halves(cr_compute *compute, const product *p)
{
    cr_matrix half = *p->b;
    half.rows = p->k / 2;
    cr_matmul(compute, p->c, p->ldc, p->m, p->alpha, p->accumulate, p->a, &half, false);
    cr_operand rest = p->a;
    rest.data += half.rows * p->a.column_step;
    half.data = row_of(p->b, half.rows);
    half.rows = p->k - half.rows;
    cr_matmul(compute, p->c, p->ldc, p->m, p->alpha, true, rest, &half, false);
}

void cr_matmul(cr_compute *compute, float *c, size_t ldc, size_t m, float alpha, bool accumulate,
               cr_operand a, const cr_matrix *b, bool transposed)
{
    product p = {.kernels = compute->kernels,
                 .a = a,
                 .b = b,
                 .transposed = transposed,
                 .accumulate = accumulate,
                 .alpha = alpha,
                 .m = m,
                 .n = transposed ? b->rows : b->columns,
                 .k = transposed ? b->columns : b->rows,
                 .c = c,
                 .ldc = ldc,
                 .packed = compute->packed,
                 .row_scratch = compute->row_scratch,
                 .row_floats = compute->row_floats};
    if (p.k == 0 || m == 0) {
        clear_product(&p);
        return;
    }
    size_t tile = p.kernels->tile_columns;
    size_t most = compute->packed_floats / p.k / tile * tile;
    if (most == 0) {
        multiply_halves(compute, &p);
        return;
    }
    for (p.first = 0; p.first < p.n; p.first += p.width) {
        p.width = p.n - p.first < most ? p.n - p.first : most;
        pack(compute, &p);
        plan_tasks(&p);
        cr_parallel_for(compute->pool, p.row_tasks * p.column_tasks, multiply_task, &p);
    }
}

void cr_matmul_serial(const cr_kernels *kernels, float *c, size_t ldc, size_t m, size_t n, size_t k,
                      float alpha, bool accumulate, cr_operand a, const float *b, size_t ldb,
                      bool transposed, float *packed)
{
    cr_matrix view = cr_matrix_f32(b, transposed ? n : k, transposed ? k : n, ldb);
    product p = {.kernels = kernels,
                 .a = a,
                 .b = &view,
                 .transposed = transposed,
                 .accumulate = accumulate,
                 .alpha = alpha,
                 .m = m,
                 .n = n,
                 .k = k,
                 .c = c,
                 .ldc = ldc,
                 .packed = packed,
                 .width = n};
    size_t tile = kernels->tile_columns;
    if (k == 0)
        clear_product(&p);
    for (size_t j = 0; transposed && j < n; j += tile)
        pack_rows(packed + j * k, kernels, &view, j, n - j < tile ? n - j : tile, NULL);
    for (size_t row = 0; !transposed && row < k; row++)
        pack_row_across(packed, tile, k, row, b + row * ldb, n);
    if (m > 0)
        multiply_block(&p, 0, m, 0, n);
}

/* ---- few rows ------------------------------------------------------------------------------- */

#define FEW_ROWS_OF_A 16
#define FEW_ROWS_A_TASK (8 * CR_FEW_ROWS)

/* Columns j..j+count of C, count <= CR_FEW_ROWS; where there are fewer the last row of B stands in
 * for the missing ones, beside C. */
static void multiply_few(const product *p, size_t j, size_t count, float *scratch)
{
    const float *rows[CR_FEW_ROWS];
    float beside[FEW_ROWS_OF_A * CR_FEW_ROWS];
    for (size_t r = 0; r < CR_FEW_ROWS; r++)
        rows[r] =
            r < count ? row_values(p->b, j + r, 0, p->k, scratch + r * p->k) : rows[count - 1];
    if (count == CR_FEW_ROWS) {
        p->kernels->few_tile(p->c + j, p->ldc, rows, p->a.data, p->a.row_step, p->m, p->k);
        return;
    }
    for (size_t i = 0; i < p->m; i += FEW_ROWS_OF_A) {
        size_t m = p->m - i < FEW_ROWS_OF_A ? p->m - i : FEW_ROWS_OF_A;
        p->kernels->few_tile(beside, CR_FEW_ROWS, rows, p->a.data + i * p->a.row_step,
                             p->a.row_step, m, p->k);
        for (size_t r = 0; r < m; r++)
            memcpy(p->c + (i + r) * p->ldc + j, beside + r * CR_FEW_ROWS, count * sizeof(float));
    }
}

static void few_task(void *argument, size_t task, int thread)
{
    const product *p = argument;
    float *scratch = p->row_scratch + (size_t)thread * p->row_floats;
    size_t end = (task + 1) * FEW_ROWS_A_TASK < p->n ? (task + 1) * FEW_ROWS_A_TASK : p->n;
    for (size_t j = task * FEW_ROWS_A_TASK; j < end; j += CR_FEW_ROWS)
        multiply_few(p, j, end - j < CR_FEW_ROWS ? end - j : CR_FEW_ROWS, scratch);
}

void cr_matmul_few(cr_compute *compute, float *c, size_t ldc, size_t m, cr_operand a,
                   const cr_matrix *b)
{
    product p = {.kernels = compute->kernels,
                 .a = a,
                 .b = b,
                 .m = m,
                 .n = b->rows,
                 .k = b->columns,
                 .c = c,
                 .ldc = ldc,
                 .row_scratch = compute->row_scratch,
                 .row_floats = compute->row_floats};
    cr_parallel_for(compute->pool, (p.n + FEW_ROWS_A_TASK - 1) / FEW_ROWS_A_TASK, few_task, &p);
}

/* ---- the specification ------------------------------------------------------------------------ */

static double plain_element(const cr_matrix *b, bool transposed, size_t k, size_t j)
{
    float value;
    cr_dtype_expand(&value, b->type, row_of(b, transposed ? j : k), transposed ? k : j, 1);
    return (double)value;
}

void cr_matmul_plain(float *c, size_t ldc, size_t m, float alpha, bool accumulate, cr_operand a,
                     const cr_matrix *b, bool transposed)
{
    size_t n = transposed ? b->rows : b->columns, depth = transposed ? b->columns : b->rows;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = 0;
            for (size_t k = 0; k < depth; k++)
                sum += (double)a.data[i * a.row_step + k * a.column_step] *
                       plain_element(b, transposed, k, j);
            c[i * ldc + j] =
                (float)((accumulate ? (double)c[i * ldc + j] : 0) + (double)alpha * sum);
        }
}
