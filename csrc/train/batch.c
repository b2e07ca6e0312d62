/* batch.c: datums to rows. */
#include "train/batch.h"

#include <string.h>

#include "base/rng.h"

size_t cr_datum_length(const cr_datum *datum)
{
    if (datum->targets)
        return datum->count;
    return datum->count ? datum->count - 1 : 0;
}

int32_t cr_datum_target(const cr_datum *datum, size_t index)
{
    return datum->targets ? datum->targets[index] : datum->tokens[index + 1];
}

float cr_datum_weight(const cr_datum *datum, size_t index)
{
    return datum->weights ? datum->weights[index] : 1.0f;
}

static int check_ids(const int32_t *ids, size_t count, const char *what, size_t datum,
                     size_t vocabulary)
{
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= vocabulary)
            return cr_fail(CR_EARG, "datum %zu: %s %zu is %d, expected 0 to %zu", datum, what, i + 1,
                           (int)ids[i], vocabulary - 1);
    return CR_OK;
}

static int check_datum(const cr_datum *datum, size_t number, const cr_config *config)
{
    size_t length = cr_datum_length(datum);
    if (length == 0)
        return cr_fail(CR_EARG, "datum %zu: %zu tokens make no target, expected at least %d", number,
                       datum->count, datum->targets ? 1 : 2);
    if (length > config->context)
        return cr_fail(CR_ECONTEXT, "datum %zu: %zu positions exceed the model's context of %zu",
                       number, length, config->context);
    CR_TRY(check_ids(datum->tokens, datum->count, "token", number, config->vocabulary));
    if (datum->targets)
        CR_TRY(check_ids(datum->targets, datum->count, "target", number, config->vocabulary));
    for (size_t i = 0; i < length; i++)
        if (!(cr_datum_weight(datum, i) - cr_datum_weight(datum, i) == 0))
            return cr_fail(CR_EARG, "datum %zu: weight %zu is not a finite number", number, i + 1);
    return CR_OK;
}

static size_t count_selected(const cr_datum *datum)
{
    size_t selected = 0;
    for (size_t i = 0; i < cr_datum_length(datum); i++)
        selected += cr_datum_weight(datum, i) != 0;
    return selected;
}

int cr_batch_check(cr_batch_counts *out, const cr_datum *datums, size_t count, const cr_config *config)
{
    *out = (cr_batch_counts){0};
    if (count == 0)
        return cr_fail(CR_EARG, "the batch is empty, expected at least one datum");
    for (size_t i = 0; i < count; i++) {
        CR_TRY(check_datum(&datums[i], i + 1, config));
        out->positions += cr_datum_length(&datums[i]);
        out->supervised += count_selected(&datums[i]);
    }
    return CR_OK;
}

size_t cr_batch_next(const cr_datum *datums, size_t count, size_t first, size_t tokens)
{
    size_t taken = 0, positions = 0;
    while (first + taken < count) {
        positions += cr_datum_length(&datums[first + taken]);
        if (taken > 0 && positions > tokens)
            break;
        taken++;
    }
    return taken;
}

void cr_micro_batch_measure(cr_micro_batch *batch, const cr_datum *datums, size_t count)
{
    *batch = (cr_micro_batch){.datums = datums, .count = count, .rows = {.rows = count}};
    for (size_t i = 0; i < count; i++) {
        batch->rows.n += cr_datum_length(&datums[i]);
        batch->selected += count_selected(&datums[i]);
    }
}

typedef struct lists {
    int32_t *tokens, *positions;
    size_t *starts;
    uint64_t *keys;
} lists;

static void fill_row(cr_micro_batch *batch, lists *to, size_t row, size_t *position,
                     size_t *selected, uint64_t key)
{
    const cr_datum *datum = &batch->datums[row];
    for (size_t i = 0; i < cr_datum_length(datum); i++, (*position)++) {
        to->tokens[*position] = datum->tokens[i];
        to->positions[*position] = (int32_t)i;
        to->keys[*position] = cr_hash_combine(key, i);
        if (cr_datum_weight(datum, i) == 0)
            continue;
        batch->places[*selected] = *position;
        batch->targets[*selected] = cr_datum_target(datum, i);
        batch->weights[(*selected)++] = cr_datum_weight(datum, i);
    }
}

int cr_micro_batch_prepare(cr_micro_batch *batch, cr_arena *arena, uint64_t key,
                           uint64_t first_index)
{
    cr_taker from = {arena, false};
    const size_t n = batch->rows.n;
    lists to = {.tokens = cr_take(&from, n, sizeof(int32_t)),
                .positions = cr_take(&from, n, sizeof(int32_t)),
                .starts = cr_take(&from, batch->count + 1, sizeof(size_t)),
                .keys = cr_take(&from, n, sizeof(uint64_t))};
    batch->places = cr_take(&from, batch->selected, sizeof *batch->places);
    batch->targets = cr_take(&from, batch->selected, sizeof *batch->targets);
    batch->weights = cr_take(&from, batch->selected, sizeof *batch->weights);
    if (from.failed)
        return CR_ENOMEM;
    batch->rows.tokens = to.tokens;
    batch->rows.positions = to.positions;
    batch->rows.starts = to.starts;
    batch->rows.dropout_keys = to.keys;
    if (arena->planning)
        return CR_OK;
    size_t position = 0, selected = 0;
    for (size_t row = 0; row < batch->count; row++) {
        to.starts[row] = position;
        fill_row(batch, &to, row, &position, &selected, cr_hash_combine(key, first_index + row));
    }
    to.starts[batch->count] = position;
    return CR_OK;
}

int cr_prompts_check(size_t *longest, const cr_prompt *prompts, size_t count, size_t more,
                         const cr_config *config)
{
    *longest = 0;
    for (size_t i = 0; i < count; i++) {
        if (prompts[i].count == 0)
            return cr_fail(CR_EARG, "prompt %zu is empty, expected at least one token", i + 1);
        for (size_t t = 0; t < prompts[i].count; t++)
            if (prompts[i].tokens[t] < 0 || (size_t)prompts[i].tokens[t] >= config->vocabulary)
                return cr_fail(CR_EARG, "prompt %zu: token %zu is %d, expected 0 to %zu", i + 1, t + 1,
                               (int)prompts[i].tokens[t], config->vocabulary - 1);
        size_t length = prompts[i].count + more;
        if (length > config->context)
            return cr_fail(CR_ECONTEXT,
                           "prompt %zu: %zu tokens and %zu new ones exceed the context of %zu",
                           i + 1, prompts[i].count, more, config->context);
        *longest = length > *longest ? length : *longest;
    }
    return CR_OK;
}
