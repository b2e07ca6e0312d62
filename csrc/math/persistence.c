/* persistence.c: dimension 0 by union-find; dimension 1 by reduction of the triangles' boundaries,
 * Edelsbrunner, Letscher and Zomorodian 2002. Triangles are met in the order of their last edge and
 * never stored; rows of edges that joined components hold no pivot and are left out (the compression
 * of Bauer, Kerber and Reininghaus 2014); the search ends once every loop is filled. */
#include "math/persistence.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX

/* ---- edges in their order --------------------------------------------------------------------- */

typedef struct edge {
    double value;
    uint32_t a, b, index; /* index: place in the caller's list */
} edge;

/* Ranks count edges in the order of their values. */
typedef struct filtration {
    size_t vertices, edges;
    edge *sorted;   /* [edges] */
    uint32_t *rank; /* [vertices, vertices], NONE where there is no edge */
    bool *joins;    /* [edges], by rank: joined two components */
} filtration;

static int compare_edges(const void *left, const void *right)
{
    const edge *a = left, *b = right;
    if (a->value != b->value)
        return a->value < b->value ? -1 : 1;
    return (a->index > b->index) - (a->index < b->index);
}

static int check_edge(const int32_t *ends, double value, size_t vertices, size_t index)
{
    int32_t a = ends[0], b = ends[1];
    if (a < 0 || b < 0 || (size_t)a >= vertices || (size_t)b >= vertices)
        return cr_fail(CR_EARG, "persistence: edge %zu joins %d and %d, there are %zu vertices",
                       index + 1, (int)a + 1, (int)b + 1, vertices);
    if (a == b)
        return cr_fail(CR_EARG, "persistence: edge %zu joins vertex %d to itself", index + 1,
                       (int)a + 1);
    if (!isfinite(value) || value < 0)
        return cr_fail(CR_EARG, "persistence: the value of edge %zu must be finite and at least 0",
                       index + 1);
    return CR_OK;
}

static void filtration_close(filtration *f)
{
    cr_free(f->sorted);
    cr_free(f->rank);
    cr_free(f->joins);
}

static int filtration_allocate(filtration *f, size_t vertices, size_t edges)
{
    size_t pairs, bytes;
    *f = (filtration){.vertices = vertices, .edges = edges};
    if (edges >= NONE || !cr_size_mul(&pairs, vertices, vertices) ||
        !cr_size_mul(&bytes, pairs, sizeof *f->rank))
        return cr_fail(CR_ENOMEM, "persistence: %zu vertices and %zu edges are too many", vertices,
                       edges);
    f->sorted = cr_calloc(edges, sizeof *f->sorted);
    f->rank = cr_alloc(bytes);
    f->joins = cr_calloc(edges, sizeof *f->joins);
    if (!f->sorted || !f->rank || !f->joins)
        return CR_ENOMEM;
    memset(f->rank, 0xff, bytes);
    return CR_OK;
}

static int filtration_fill(filtration *f, const int32_t *ends, const double *values)
{
    for (size_t i = 0; i < f->edges; i++) {
        CR_TRY(check_edge(ends + 2 * i, values[i], f->vertices, i));
        f->sorted[i] =
            (edge){values[i], (uint32_t)ends[2 * i], (uint32_t)ends[2 * i + 1], (uint32_t)i};
    }
    if (f->edges > 1)
        qsort(f->sorted, f->edges, sizeof *f->sorted, compare_edges);
    for (size_t i = 0; i < f->edges; i++) {
        const edge *e = &f->sorted[i];
        uint32_t *place = &f->rank[e->a * f->vertices + e->b];
        if (*place != NONE)
            return cr_fail(CR_EARG, "persistence: edge %u repeats another", e->index + 1);
        *place = f->rank[e->b * f->vertices + e->a] = (uint32_t)i;
    }
    return CR_OK;
}

/* Released by filtration_close, also after a failure. */
static int filtration_open(filtration *f, size_t vertices, const int32_t *ends,
                           const double *values, size_t edges)
{
    CR_TRY(filtration_allocate(f, vertices, edges));
    return filtration_fill(f, ends, values);
}

/* ---- dimension 0 --------------------------------------------------------------------------------- */

static uint32_t find_root(uint32_t *parent, uint32_t i)
{
    while (parent[i] != i)
        i = parent[i] = parent[parent[i]];
    return i;
}

/* All components are born at 0, so which of two dies does not matter. */
static int components(cr_interval *out, size_t *count, filtration *f)
{
    uint32_t *parent = cr_calloc(f->vertices, sizeof *parent);
    if (!parent)
        return CR_ENOMEM;
    size_t left = f->vertices;
    for (uint32_t i = 0; i < f->vertices; i++)
        parent[i] = i;
    for (size_t i = 0; i < f->edges; i++) {
        uint32_t a = find_root(parent, f->sorted[i].a), b = find_root(parent, f->sorted[i].b);
        f->joins[i] = a != b;
        if (a == b)
            continue;
        parent[a] = b;
        left--;
        out[(*count)++] = (cr_interval){0, 0, f->sorted[i].value, -1, (int32_t)f->sorted[i].index};
    }
    for (; left > 0; left--)
        out[(*count)++] = (cr_interval){0, 0, INFINITY, -1, -1};
    cr_free(parent);
    return CR_OK;
}

/* ---- dimension 1 --------------------------------------------------------------------------------- */

/* A chain of edges: ranks, largest first. */
typedef struct column {
    uint32_t *ranks;
    size_t count;
} column;

typedef struct reduction {
    const filtration *f;
    column *reduced; /* [edges], by pivot; empty: none */
    uint32_t
        *filler; /* [edges], by pivot: rank of the last edge of the triangle that fills the loop */
    size_t open; /* loops not filled yet */
} reduction;

static void reduction_close(reduction *r)
{
    for (size_t i = 0; r->reduced && i < r->f->edges; i++)
        cr_free(r->reduced[i].ranks);
    cr_free(r->reduced);
    cr_free(r->filler);
}

static int reduction_open(reduction *r, const filtration *f)
{
    *r = (reduction){.f = f};
    r->reduced = cr_calloc(f->edges, sizeof *r->reduced);
    r->filler = cr_calloc(f->edges, sizeof *r->filler);
    if (!r->reduced || !r->filler)
        return CR_ENOMEM;
    for (size_t i = 0; i < f->edges; i++)
        r->open += !f->joins[i];
    return CR_OK;
}

/* The sum of two chains over Z/2: what is in one of them alone. `out` has room for both. */
static size_t add_chains(uint32_t *out, const uint32_t *a, size_t a_count, const uint32_t *b,
                         size_t b_count)
{
    size_t i = 0, j = 0, count = 0;
    while (i < a_count && j < b_count) {
        if (a[i] == b[j]) {
            i++;
            j++;
        } else {
            out[count++] = a[i] > b[j] ? a[i++] : b[j++];
        }
    }
    while (i < a_count)
        out[count++] = a[i++];
    while (j < b_count)
        out[count++] = b[j++];
    return count;
}

static int add_column(column *target, const column *other)
{
    uint32_t *sum = cr_alloc((target->count + other->count) * sizeof *sum);
    if (!sum)
        return CR_ENOMEM;
    size_t count = add_chains(sum, target->ranks, target->count, other->ranks, other->count);
    cr_free(target->ranks);
    *target = (column){sum, count};
    return CR_OK;
}

/* Adds reduced columns until the pivot is new or nothing is left. */
static int reduce_column(const reduction *r, column *boundary)
{
    while (boundary->count > 0 && r->reduced[boundary->ranks[0]].count > 0)
        CR_TRY(add_column(boundary, &r->reduced[boundary->ranks[0]]));
    return CR_OK;
}

/* The boundary of a triangle without the edges that joined components; ranks largest first. */
static int new_boundary(column *out, const filtration *f, uint32_t last, uint32_t x, uint32_t y)
{
    uint32_t ranks[3] = {last, x > y ? x : y, x > y ? y : x};
    *out = (column){cr_alloc(sizeof ranks), 0};
    if (!out->ranks)
        return CR_ENOMEM;
    for (int i = 0; i < 3; i++)
        if (!f->joins[ranks[i]])
            out->ranks[out->count++] = ranks[i];
    return CR_OK;
}

static int add_triangle(reduction *r, uint32_t last, uint32_t x, uint32_t y)
{
    column boundary;
    CR_TRY(new_boundary(&boundary, r->f, last, x, y));
    int code = reduce_column(r, &boundary);
    if (code < 0 || boundary.count == 0) {
        cr_free(boundary.ranks);
        return code;
    }
    uint32_t pivot = boundary.ranks[0];
    r->reduced[pivot] = boundary;
    r->filler[pivot] = last;
    r->open--;
    return CR_OK;
}

/* The triangles whose last edge has this rank. */
static int add_triangles_of(reduction *r, uint32_t last)
{
    const filtration *f = r->f;
    const uint32_t *from_a = f->rank + f->sorted[last].a * f->vertices;
    const uint32_t *from_b = f->rank + f->sorted[last].b * f->vertices;
    for (size_t c = 0; c < f->vertices && r->open > 0; c++)
        if (from_a[c] < last && from_b[c] < last)
            CR_TRY(add_triangle(r, last, from_a[c], from_b[c]));
    return CR_OK;
}

static void give_loops(cr_interval *out, size_t *count, const reduction *r)
{
    const filtration *f = r->f;
    for (size_t i = 0; i < f->edges; i++) {
        if (f->joins[i])
            continue;
        const edge *born = &f->sorted[i], *died = &f->sorted[r->filler[i]];
        bool filled = r->reduced[i].count > 0;
        out[(*count)++] = (cr_interval){1, born->value, filled ? died->value : INFINITY,
                                        (int32_t)born->index, filled ? (int32_t)died->index : -1};
    }
}

static int loops(cr_interval *out, size_t *count, const filtration *f, bool filled)
{
    reduction r;
    int code = reduction_open(&r, f);
    for (uint32_t last = 0; code == CR_OK && filled && last < f->edges && r.open > 0; last++)
        code = add_triangles_of(&r, last);
    if (code == CR_OK)
        give_loops(out, count, &r);
    reduction_close(&r);
    return code;
}

/* ---- both ------------------------------------------------------------------------------------------ */

static int compare_intervals(const void *left, const void *right)
{
    const cr_interval *a = left, *b = right;
    if (a->dimension != b->dimension)
        return a->dimension - b->dimension;
    if (a->death != b->death)
        return a->death < b->death ? -1 : 1;
    if (a->birth != b->birth)
        return a->birth < b->birth ? -1 : 1;
    if (a->death_edge != b->death_edge)
        return a->death_edge < b->death_edge ? -1 : 1;
    return (a->birth_edge > b->birth_edge) - (a->birth_edge < b->birth_edge);
}

int cr_persistence(cr_interval *out, size_t *count, size_t vertices, const int32_t *ends,
                   const double *values, size_t edges, bool filled)
{
    filtration f;
    *count = 0;
    int code = filtration_open(&f, vertices, ends, values, edges);
    if (code == CR_OK)
        code = components(out, count, &f);
    if (code == CR_OK)
        code = loops(out, count, &f, filled);
    filtration_close(&f);
    if (code == CR_OK && *count > 1)
        qsort(out, *count, sizeof *out, compare_intervals);
    return code;
}

/* ---- the plain algorithm ------------------------------------------------------------------------------ */

/* All simplices in an order of the filtration, and their boundary matrix, a byte an entry. */
typedef struct simplices {
    size_t count;
    int *dimension;  /* [count] */
    double *value;   /* [count] */
    int32_t *edge;   /* [count]: the edge that it is or was completed by, -1 for a vertex */
    uint8_t *matrix; /* [count, count]: row j is the boundary of simplex j */
} simplices;

static void simplices_close(simplices *k)
{
    cr_free(k->dimension);
    cr_free(k->value);
    cr_free(k->edge);
    cr_free(k->matrix);
}

static int simplices_open(simplices *k, size_t most)
{
    size_t cells;
    *k = (simplices){0};
    if (!cr_size_mul(&cells, most, most))
        return cr_fail(CR_ENOMEM, "persistence: %zu simplices are too many", most);
    k->dimension = cr_calloc(most, sizeof *k->dimension);
    k->value = cr_calloc(most, sizeof *k->value);
    k->edge = cr_calloc(most, sizeof *k->edge);
    k->matrix = cr_calloc(cells, 1);
    return k->dimension && k->value && k->edge && k->matrix ? CR_OK : CR_ENOMEM;
}

static size_t add_simplex(simplices *k, int dimension, double value, int32_t index)
{
    k->dimension[k->count] = dimension;
    k->value[k->count] = value;
    k->edge[k->count] = index;
    return k->count++;
}

/* Vertices, then each edge followed by the triangles that it completes. `place` [edges]: where each edge
 * stands, by rank. */
static void list_simplices(simplices *k, const filtration *f, size_t most, bool filled,
                           size_t *place)
{
    for (size_t v = 0; v < f->vertices; v++)
        add_simplex(k, 0, 0, -1);
    for (uint32_t i = 0; i < f->edges; i++) {
        const edge *e = &f->sorted[i];
        place[i] = add_simplex(k, 1, e->value, (int32_t)e->index);
        k->matrix[place[i] * most + e->a] = k->matrix[place[i] * most + e->b] = 1;
        for (size_t c = 0; filled && c < f->vertices; c++) {
            uint32_t x = f->rank[e->a * f->vertices + c], y = f->rank[e->b * f->vertices + c];
            if (x >= i || y >= i)
                continue;
            size_t triangle = add_simplex(k, 2, e->value, (int32_t)e->index);
            uint8_t *row = k->matrix + triangle * most;
            row[place[i]] = row[place[x]] = row[place[y]] = 1;
        }
    }
}

/* The last simplex of a chain, -1 for the empty one. */
static int64_t lowest(const uint8_t *row, size_t count)
{
    for (size_t i = count; i > 0; i--)
        if (row[i - 1])
            return (int64_t)i - 1;
    return -1;
}

/* partner[i]: the simplex whose boundary kills the class that i began; -1: none. */
static void reduce_plain(simplices *k, size_t most, int64_t *partner)
{
    for (size_t i = 0; i < k->count; i++)
        partner[i] = -1;
    for (size_t j = 0; j < k->count; j++) {
        uint8_t *row = k->matrix + j * most;
        int64_t low = lowest(row, k->count);
        while (low >= 0 && partner[low] >= 0) {
            const uint8_t *other = k->matrix + (size_t)partner[low] * most;
            for (size_t i = 0; i < k->count; i++)
                row[i] ^= other[i];
            low = lowest(row, k->count);
        }
        if (low >= 0)
            partner[low] = (int64_t)j;
    }
}

static void give_plain(cr_interval *out, size_t *count, const simplices *k, size_t most,
                       const int64_t *partner)
{
    for (size_t i = 0; i < k->count; i++) {
        bool creates = lowest(k->matrix + i * most, k->count) < 0;
        if (!creates || k->dimension[i] > 1)
            continue;
        bool dies = partner[i] >= 0;
        out[(*count)++] =
            (cr_interval){k->dimension[i], k->value[i], dies ? k->value[partner[i]] : INFINITY,
                          k->edge[i], dies ? k->edge[partner[i]] : -1};
    }
}

static int persistence_of(cr_interval *out, size_t *count, const filtration *f, bool filled)
{
    size_t triples =
        filled && f->vertices > 2 ? f->vertices * (f->vertices - 1) * (f->vertices - 2) / 6 : 0;
    size_t most = f->vertices + f->edges + triples;
    simplices k;
    int code = simplices_open(&k, most);
    size_t *place = cr_calloc(f->edges, sizeof *place);
    int64_t *partner = cr_calloc(most, sizeof *partner);
    if (code == CR_OK && (!place || !partner))
        code = CR_ENOMEM;
    if (code == CR_OK) {
        list_simplices(&k, f, most, filled, place);
        reduce_plain(&k, most, partner);
        give_plain(out, count, &k, most, partner);
    }
    cr_free(place);
    cr_free(partner);
    simplices_close(&k);
    return code;
}

int cr_persistence_plain(cr_interval *out, size_t *count, size_t vertices, const int32_t *ends,
                         const double *values, size_t edges, bool filled)
{
    filtration f;
    *count = 0;
    int code = filtration_open(&f, vertices, ends, values, edges);
    if (code == CR_OK)
        code = persistence_of(out, count, &f, filled);
    filtration_close(&f);
    if (code == CR_OK && *count > 1)
        qsort(out, *count, sizeof *out, compare_intervals);
    return code;
}
