/* assignment.c: shortest augmenting paths with potentials; Kuhn 1955, Munkres 1957, Jonker and
 * Volgenant 1987. The diagonal of diagrams is handled as by Edelsbrunner and Harer, "Computational
 * Topology", VIII.4: each point brings a place of its own on it for the other diagram. */
#include "math/assignment.h"

#include <math.h>
#include <string.h>

/* ---- one row after another -------------------------------------------------------------------- */

/* Columns 0..n - 1; column n stands for "where the path begins" and holds the row to be placed. */
typedef struct search {
    const double *cost;
    size_t n;
    double *row_price, *column_price; /* [n], [n + 1] */
    double *slack;                    /* [n + 1]: least reduced cost of reaching a column */
    size_t *row_of;                   /* [n + 1]: row that a column is given to, n: none */
    size_t *before;                   /* [n + 1]: column that the path came from */
    bool *done;                       /* [n + 1] */
} search;

static void search_close(search *s)
{
    cr_free(s->row_price);
    cr_free(s->column_price);
    cr_free(s->slack);
    cr_free(s->row_of);
    cr_free(s->before);
    cr_free(s->done);
}

static int search_open(search *s, const double *cost, size_t n)
{
    *s = (search){.cost = cost, .n = n};
    s->row_price = cr_calloc(n, sizeof *s->row_price);
    s->column_price = cr_calloc(n + 1, sizeof *s->column_price);
    s->slack = cr_calloc(n + 1, sizeof *s->slack);
    s->row_of = cr_calloc(n + 1, sizeof *s->row_of);
    s->before = cr_calloc(n + 1, sizeof *s->before);
    s->done = cr_calloc(n + 1, sizeof *s->done);
    if (!s->row_price || !s->column_price || !s->slack || !s->row_of || !s->before || !s->done)
        return CR_ENOMEM;
    for (size_t j = 0; j <= n; j++)
        s->row_of[j] = n;
    return CR_OK;
}

/* Looks on from a column that has been reached; returns the nearest column that has not. */
static size_t look_from(search *s, size_t column)
{
    size_t row = s->row_of[column], nearest = s->n;
    double least = INFINITY;
    s->done[column] = true;
    for (size_t j = 0; j < s->n; j++) {
        if (s->done[j])
            continue;
        double reduced = s->cost[row * s->n + j] - s->row_price[row] - s->column_price[j];
        if (reduced < s->slack[j]) {
            s->slack[j] = reduced;
            s->before[j] = column;
        }
        if (s->slack[j] < least) {
            least = s->slack[j];
            nearest = j;
        }
    }
    return nearest;
}

/* Moves the prices so that the step to the nearest column is free. */
static void move_prices(search *s, double step)
{
    for (size_t j = 0; j <= s->n; j++) {
        if (s->done[j]) {
            s->row_price[s->row_of[j]] += step;
            s->column_price[j] -= step;
        } else {
            s->slack[j] -= step;
        }
    }
}

static void place_row(search *s, size_t row)
{
    size_t column = s->n;
    s->row_of[column] = row;
    for (size_t j = 0; j <= s->n; j++) {
        s->slack[j] = INFINITY;
        s->done[j] = false;
    }
    do {
        size_t next = look_from(s, column);
        move_prices(s, s->slack[next]);
        column = next;
    } while (s->row_of[column] != s->n);
    while (column != s->n) {
        size_t from = s->before[column];
        s->row_of[column] = s->row_of[from];
        column = from;
    }
}

static double total_of(const int32_t *columns, const double *cost, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += cost[i * n + (size_t)columns[i]];
    return sum;
}

static int check_costs(const double *cost, size_t n)
{
    for (size_t i = 0; i < n * n; i++)
        if (!isfinite(cost[i]))
            return cr_fail(CR_EARG, "assignment: the cost of row %zu and column %zu is not finite",
                           i / n + 1, i % n + 1);
    return CR_OK;
}

int cr_assignment(int32_t *columns, double *total, const double *cost, size_t n)
{
    search s;
    CR_TRY(check_costs(cost, n));
    int code = search_open(&s, cost, n);
    if (code == CR_OK) {
        for (size_t row = 0; row < n; row++)
            place_row(&s, row);
        for (size_t j = 0; j < n; j++)
            columns[s.row_of[j]] = (int32_t)j;
        *total = total_of(columns, cost, n);
    }
    search_close(&s);
    return code;
}

/* ---- the plain algorithm ----------------------------------------------------------------------- */

#define MOST_PLAIN 9

/* The next permutation in lexicographic order; false after the last. */
static bool next_permutation(int32_t *p, size_t n)
{
    size_t i = n, j = n;
    while (i > 1 && p[i - 2] > p[i - 1])
        i--;
    if (i < 2)
        return false;
    while (p[j - 1] < p[i - 2])
        j--;
    int32_t swap = p[i - 2];
    p[i - 2] = p[j - 1];
    p[j - 1] = swap;
    for (size_t left = i - 1, right = n - 1; left < right; left++, right--) {
        swap = p[left];
        p[left] = p[right];
        p[right] = swap;
    }
    return true;
}

int cr_assignment_plain(int32_t *columns, double *total, const double *cost, size_t n)
{
    int32_t tried[MOST_PLAIN];
    CR_TRY(check_costs(cost, n));
    if (n > MOST_PLAIN)
        return cr_fail(CR_EARG, "assignment_plain: %zu rows, at most %d", n, MOST_PLAIN);
    for (size_t i = 0; i < n; i++)
        columns[i] = tried[i] = (int32_t)i;
    *total = total_of(columns, cost, n);
    while (next_permutation(tried, n)) {
        double sum = total_of(tried, cost, n);
        if (sum >= *total)
            continue;
        *total = sum;
        memcpy(columns, tried, n * sizeof *columns);
    }
    return CR_OK;
}

/* ---- diagrams ---------------------------------------------------------------------------------------- */

static double to_diagonal(const double *point)
{
    double persistence = point[1] - point[0];
    return persistence * persistence / 2;
}

static double between(const double *p, const double *q)
{
    double births = p[0] - q[0], deaths = p[1] - q[1];
    return births * births + deaths * deaths;
}

/* cost [n + m, n + m]: rows are the points of a, then m places on the diagonal; columns those of b, then n. */
static void fill_costs(double *cost, const double *a, size_t n, const double *b, size_t m)
{
    size_t size = n + m;
    for (size_t i = 0; i < size; i++)
        for (size_t j = 0; j < size; j++) {
            double *cell = &cost[i * size + j];
            if (i < n)
                *cell = j < m ? between(a + 2 * i, b + 2 * j) : to_diagonal(a + 2 * i);
            else
                *cell = j < m ? to_diagonal(b + 2 * j) : 0;
        }
}

static int check_points(const char *name, const double *points, size_t count)
{
    for (size_t i = 0; i < 2 * count; i++)
        if (!isfinite(points[i]))
            return cr_fail(CR_EARG, "wasserstein: point %zu of %s is not finite", i / 2 + 1, name);
    return CR_OK;
}

int cr_wasserstein(double *squared, int32_t *match, const double *a, size_t n, const double *b,
                   size_t m)
{
    size_t size, cells, bytes;
    CR_TRY(check_points("the first diagram", a, n));
    CR_TRY(check_points("the second diagram", b, m));
    if (!cr_size_add(&size, n, m) || !cr_size_mul(&cells, size, size) ||
        !cr_size_mul(&bytes, cells, sizeof(double)))
        return cr_fail(CR_ENOMEM, "wasserstein: %zu and %zu points are too many", n, m);
    double *cost = cr_alloc(bytes);
    int32_t *columns = cr_calloc(size, sizeof *columns);
    int code = cost && columns ? CR_OK : CR_ENOMEM;
    if (code == CR_OK) {
        fill_costs(cost, a, n, b, m);
        code = cr_assignment(columns, squared, cost, size);
    }
    for (size_t i = 0; code == CR_OK && i < n; i++)
        match[i] = (size_t)columns[i] < m ? columns[i] : -1;
    cr_free(cost);
    cr_free(columns);
    return code;
}
