/* gradstat.c: statistics of a matrix in one pass over memory. Joining moments: Chan, Golub and LeVeque,
 * "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979. */
#include "train/gradstat.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define BLOCK ((size_t)1024) /* values that are read twice while they lie in the cache */

/* Values as integers in the order of the numbers: buckets by sign, exponent and three bits more. */
#define BUCKET_SHIFT 20
#define BUCKETS ((size_t)1 << (32 - BUCKET_SHIFT))
#define SIGN UINT32_C(0x80000000)
#define DIGIT_BITS 5 /* of the radix search below a bucket */
#define FEW 24       /* keys that are sorted rather than searched */

/* ---- work space ---------------------------------------------------------------------------------- */

int cr_gradstat_space_create(cr_gradstat_space *out, size_t longest)
{
    *out = (cr_gradstat_space){.gathered = cr_calloc(longest, sizeof(uint32_t)),
                               .kept = cr_calloc(longest, sizeof(uint32_t)),
                               .starts = cr_calloc(BUCKETS + 1, sizeof(uint32_t)),
                               .slots = cr_calloc(BUCKETS, sizeof(uint8_t))};
    if (out->gathered && out->kept && out->starts && out->slots)
        return CR_OK;
    cr_gradstat_space_free(out);
    return CR_ENOMEM;
}

void cr_gradstat_space_free(cr_gradstat_space *space)
{
    cr_free(space->gathered);
    cr_free(space->kept);
    cr_free(space->starts);
    cr_free(space->slots);
    *space = (cr_gradstat_space){NULL, NULL, NULL, NULL};
}

int cr_statistics_request_check(const cr_statistics_request *request)
{
    if (request->quantile_count > CR_MOST_QUANTILES)
        return cr_fail(CR_EARG, "%zu quantiles: at most %d can be asked for at once",
                       request->quantile_count, CR_MOST_QUANTILES);
    for (size_t i = 0; i < request->quantile_count; i++)
        if (!(request->quantiles[i] >= 0 && request->quantiles[i] <= 1))
            return cr_fail(CR_EARG, "quantile %zu must be from 0 to 1, got %g", i + 1,
                           request->quantiles[i]);
    return CR_OK;
}

/* ---- moments ---------------------------------------------------------------------------------------- */

typedef struct moments {
    double count, sum, squares;
    double mean, spread; /* Σ (x - mean)² */
    float least, most;   /* of what is a number */
    uint64_t zeros, nonfinite;
    bool has_nan;
} moments;

static double spread_about(double mean, const float *x, size_t count)
{
    double spread = 0, rest = 0;
#pragma omp simd reduction(+ : spread, rest)
    for (size_t i = 0; i < count; i++) {
        double d = (double)x[i] - mean;
        spread += d * d;
        rest += d;
    }
    return spread - rest * rest / (double)count; /* what rounding of the mean adds */
}

static moments moments_of(const float *x, size_t count)
{
    double sum = 0, squares = 0;
    float least = INFINITY, most = -INFINITY;
    uint32_t zeros = 0, finite = 0, nan = 0;
#pragma omp simd reduction(+ : sum, squares, zeros, finite, nan) reduction(min : least)            \
    reduction(max : most)
    for (size_t i = 0; i < count; i++) {
        double v = (double)x[i];
        sum += v;
        squares += v * v;
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
        zeros += x[i] == 0.0f;
        finite += fabsf(x[i]) <= FLT_MAX;
        nan += x[i] != x[i];
    }
    double mean = sum / (double)count;
    return (moments){.count = (double)count,
                     .sum = sum,
                     .squares = squares,
                     .mean = mean,
                     .spread = spread_about(mean, x, count),
                     .least = least,
                     .most = most,
                     .zeros = zeros,
                     .nonfinite = count - finite,
                     .has_nan = nan > 0};
}

static void join(moments *all, const moments *part)
{
    double count = all->count + part->count, step = part->mean - all->mean;
    all->spread += part->spread + step * step * (all->count * part->count / count);
    all->mean += step * (part->count / count);
    all->count = count;
    all->sum += part->sum;
    all->squares += part->squares;
    all->least = part->least < all->least ? part->least : all->least;
    all->most = part->most > all->most ? part->most : all->most;
    all->zeros += part->zeros;
    all->nonfinite += part->nonfinite;
    all->has_nan |= part->has_nan;
}

static moments moments_of_all(const float *x, size_t count)
{
    moments all = moments_of(x, count < BLOCK ? count : BLOCK);
    for (size_t at = BLOCK; at < count; at += BLOCK) {
        moments part = moments_of(x + at, count - at < BLOCK ? count - at : BLOCK);
        join(&all, &part);
    }
    return all;
}

static void give_moments(cr_statistics *out, const moments *all)
{
    out->count = (uint64_t)all->count;
    out->zeros = all->zeros;
    out->nonfinite = all->nonfinite;
    out->norm = sqrt(all->squares);
    out->rms = sqrt(all->squares / all->count);
    out->mean = all->sum / all->count;
    out->std = all->nonfinite ? NAN : sqrt(fmax(0, all->spread) / all->count);
    out->min = all->has_nan ? NAN : (double)all->least;
    out->max = all->has_nan ? NAN : (double)all->most;
}

/* ---- counts by leading bits ---------------------------------------------------------------------------- */

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Without a branch on the sign, which would be guessed wrongly half the time. */
static uint32_t key_of(float x)
{
    uint32_t bits = bits_of(x);
    return bits ^ ((0u - (bits >> 31)) | SIGN);
}

static double value_of(uint32_t key)
{
    uint32_t bits = key & SIGN ? key ^ SIGN : ~key;
    float x;
    memcpy(&x, &bits, sizeof x);
    return (double)x;
}

static void count_buckets(uint32_t *counts, const float *x, size_t count)
{
    memset(counts, 0, (BUCKETS + 1) * sizeof *counts);
    for (size_t i = 0; i < count; i++)
        counts[key_of(x[i]) >> BUCKET_SHIFT]++;
}

/* Numbers of either sign with an exponent field: 0 = zero and denormals, 255 = not finite. */
static uint64_t count_of_field(const uint32_t *counts, size_t field)
{
    const size_t buckets = (size_t)1 << (23 - BUCKET_SHIFT);
    const uint32_t *positive = counts + BUCKETS / 2 + field * buckets;
    const uint32_t *negative = counts + BUCKETS / 2 - (field + 1) * buckets;
    uint64_t sum = 0;
    for (size_t i = 0; i < buckets; i++)
        sum += (uint64_t)positive[i] + negative[i];
    return sum;
}

/* Place of the highest bit, from 0; x > 0. */
static unsigned highest_bit(uint32_t x)
{
    unsigned place = 0;
    while (x >>= 1)
        place++;
    return place;
}

static void count_denormals(uint64_t *magnitudes, const float *x, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = bits_of(x[i]) & ~SIGN;
        if (bits > 0 && bits < UINT32_C(1) << 23)
            magnitudes[highest_bit(bits)]++;
    }
}

static void give_magnitudes(cr_statistics *out, const uint32_t *counts, const float *x,
                            size_t count)
{
    for (size_t field = 1; field < 255; field++)
        out->magnitudes[(int)field - 127 - CR_LEAST_EXPONENT] = count_of_field(counts, field);
    if (count_of_field(counts, 0) > out->zeros)
        count_denormals(out->magnitudes, x, count);
}

/* ---- quantiles ------------------------------------------------------------------------------------------- */

typedef struct ranks { /* the two order statistics beside a quantile */
    size_t low, high;
    double share; /* of the way from low to high */
} ranks;

static ranks ranks_of(double quantile, size_t count)
{
    double at = quantile * (double)(count - 1);
    size_t low = (size_t)at;
    low = low < count - 1 ? low : count - 1;
    return (ranks){low, low + 1 < count ? low + 1 : low, at - (double)low};
}

/* Counts become the rank at which each bucket starts; starts[BUCKETS] = all. */
static void starts_of(uint32_t *counts)
{
    uint32_t before = 0;
    for (size_t bucket = 0; bucket <= BUCKETS; bucket++) {
        uint32_t here = counts[bucket];
        counts[bucket] = before;
        before += here;
    }
}

static size_t bucket_of_rank(const uint32_t *starts, size_t rank)
{
    size_t low = 0, high = BUCKETS;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (starts[middle] <= rank)
            low = middle;
        else
            high = middle;
    }
    return low;
}

typedef struct wanted { /* buckets whose keys are gathered; slot 0 stands for all others */
    size_t count;
    size_t bucket[2 * CR_MOST_QUANTILES + 1];
    uint32_t first[2 * CR_MOST_QUANTILES + 1]; /* in space->gathered */
} wanted;

static void want(wanted *all, const cr_gradstat_space *space, size_t rank)
{
    size_t bucket = bucket_of_rank(space->starts, rank);
    if (space->slots[bucket])
        return;
    size_t slot = ++all->count;
    size_t before = all->bucket[slot - 1];
    uint32_t room = slot > 1 ? space->starts[before + 1] - space->starts[before] : 0;
    space->slots[bucket] = (uint8_t)slot;
    all->bucket[slot] = bucket;
    all->first[slot] = slot > 1 ? all->first[slot - 1] + room : 0;
}

/* Copies the keys of wanted buckets, bucket by bucket. They are few: picking them out first, without a
 * branch, is faster than sorting all into their places. */
static void gather(const wanted *all, const cr_gradstat_space *space, const float *x, size_t count)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t key = key_of(x[i]);
        space->kept[kept] = key;
        kept += space->slots[key >> BUCKET_SHIFT] != 0;
    }
    uint32_t at[2 * CR_MOST_QUANTILES + 1];
    memcpy(at, all->first, sizeof at);
    for (size_t i = 0; i < kept; i++) {
        uint32_t key = space->kept[i];
        space->gathered[at[space->slots[key >> BUCKET_SHIFT]]++] = key;
    }
}

static uint32_t select_few(uint32_t *keys, size_t count, size_t rank)
{
    for (size_t i = 1; i < count; i++) {
        uint32_t key = keys[i];
        size_t j = i;
        for (; j > 0 && keys[j - 1] > key; j--)
            keys[j] = keys[j - 1];
        keys[j] = key;
    }
    return keys[rank];
}

/* Keeps in `kept` the keys whose digit at `shift` is that of the rank; returns their number. */
static size_t narrow(uint32_t *kept, const uint32_t *keys, size_t count, unsigned shift,
                     size_t *rank)
{
    const uint32_t mask = (1u << DIGIT_BITS) - 1;
    uint32_t counts[1u << DIGIT_BITS] = {0};
    for (size_t i = 0; i < count; i++)
        counts[keys[i] >> shift & mask]++;
    uint32_t digit = 0;
    for (; *rank >= counts[digit]; digit++)
        *rank -= counts[digit];
    size_t left = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t key = keys[i];
        kept[left] = key;
        left += (key >> shift & mask) == digit;
    }
    return left;
}

/* Key number `rank` of a bucket's, which agree in all bits from BUCKET_SHIFT on. */
static uint32_t select_key(uint32_t *kept, const uint32_t *keys, size_t count, size_t rank)
{
    for (unsigned shift = BUCKET_SHIFT; count > FEW && shift > 0; keys = kept) {
        shift -= DIGIT_BITS;
        count = narrow(kept, keys, count, shift, &rank);
    }
    if (count > FEW)
        return keys[0]; /* all digits were compared: what is left is equal */
    memmove(kept, keys, count * sizeof *kept);
    return select_few(kept, count, rank);
}

static double value_at(const wanted *all, const cr_gradstat_space *space, size_t rank)
{
    size_t bucket = bucket_of_rank(space->starts, rank);
    const uint32_t *keys = space->gathered + all->first[space->slots[bucket]];
    size_t start = space->starts[bucket];
    return value_of(select_key(space->kept, keys, space->starts[bucket + 1] - start, rank - start));
}

/* Beside an infinity the share of the way is that infinity. */
static double between(double low, double high, double share)
{
    if (share == 0 || low == high)
        return low;
    if (isinf(low) || isinf(high))
        return isinf(low) && isinf(high) ? NAN : (isinf(low) ? low : high);
    return share < 0.5 ? low + (high - low) * share : high - (high - low) * (1 - share);
}

static void give_quantiles(cr_statistics *out, const float *x, size_t count,
                           const cr_statistics_request *request, const cr_gradstat_space *space)
{
    wanted all = {.count = 0};
    starts_of(space->starts);
    memset(space->slots, 0, BUCKETS);
    for (size_t i = 0; i < request->quantile_count; i++) {
        ranks at = ranks_of(request->quantiles[i], count);
        want(&all, space, at.low);
        want(&all, space, at.high);
    }
    gather(&all, space, x, count);
    for (size_t i = 0; i < request->quantile_count; i++) {
        ranks at = ranks_of(request->quantiles[i], count);
        out->quantiles[i] =
            between(value_at(&all, space, at.low), value_at(&all, space, at.high), at.share);
    }
}

/* ---- all of it ---------------------------------------------------------------------------------------------- */

void cr_gradstat_measure(cr_statistics *out, const float *values, size_t count,
                         const cr_statistics_request *request, const cr_gradstat_space *space)
{
    memset(out, 0, sizeof *out);
    moments all = moments_of_all(values, count);
    give_moments(out, &all);
    if (!request->magnitudes && request->quantile_count == 0)
        return;
    count_buckets(space->starts, values, count);
    if (request->magnitudes)
        give_magnitudes(out, space->starts, values, count);
    for (size_t i = 0; i < request->quantile_count; i++)
        out->quantiles[i] = NAN;
    if (!all.has_nan && request->quantile_count > 0)
        give_quantiles(out, values, count, request, space);
}

int cr_statistics_of(cr_statistics *out, const float *values, size_t count,
                     const cr_statistics_request *request)
{
    CR_TRY(cr_statistics_request_check(request));
    if (count == 0 || count > UINT32_MAX - 1)
        return cr_fail(CR_EARG, "statistics of %zu values: expected 1 to %u", count,
                       UINT32_MAX - 1);
    cr_gradstat_space space;
    CR_TRY(cr_gradstat_space_create(&space, count));
    cr_gradstat_measure(out, values, count, request, &space);
    cr_gradstat_space_free(&space);
    return CR_OK;
}
