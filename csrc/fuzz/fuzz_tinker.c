/* fuzz_tinker.c: any bytes are an answer or a failure, and an answer's values can all be read; what
 * is written as a request can be walked field by field and is what was given.
 *
 * The first byte chooses: 0 an output, 1 samples, else the bytes are the content of a request. */
#include <stdlib.h>
#include <string.h>

#include "net/tinker.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool truth)
{
    if (!truth)
        abort();
}

static double sum_of(cr_tinker_values values)
{
    double sum = 0;
    for (size_t i = 0; i < values.count; i++)
        sum += cr_tinker_number(values, i);
    return sum;
}

static size_t bytes_of(cr_protobuf_view view)
{
    size_t sum = 0;
    for (; view.at < view.end; view.at++)
        sum += *view.at;
    return sum;
}

static void read_output(const uint8_t *data, size_t size)
{
    cr_tinker_output output;
    volatile double sum = 0;
    if (cr_tinker_read_output(&output, data, size) < 0) {
        require(!output.records && !output.fields && !output.metrics);
        return;
    }
    size_t datums = 0;
    for (size_t r = 0; r < output.record_count; r++) {
        const cr_tinker_record *record = &output.records[r];
        datums += record->datums;
        for (size_t f = 0; f < record->field_count; f++) {
            sum += (double)bytes_of(record->fields[f].name);
            for (size_t d = 0; d < record->datums; d++)
                sum += sum_of(cr_tinker_field_values(&record->fields[f], d));
        }
    }
    for (size_t m = 0; m < output.metric_count; m++)
        sum += output.metrics[m].value + (double)bytes_of(output.metrics[m].name);
    require(datums == output.datums && datums <= CR_TINKER_MOST_DATUMS);
    sum += (double)bytes_of(output.type);
    cr_tinker_output_free(&output);
}

static void read_samples(const uint8_t *data, size_t size)
{
    cr_tinker_samples samples;
    volatile double sum = 0;
    if (cr_tinker_read_samples(&samples, data, size) < 0) {
        require(!samples.sequences);
        return;
    }
    for (size_t i = 0; i < samples.count; i++) {
        require(!samples.sequences[i].has_logprobs ||
                samples.sequences[i].logprobs.count == samples.sequences[i].tokens.count);
        sum += sum_of(samples.sequences[i].tokens) + sum_of(samples.sequences[i].logprobs);
    }
    sum += sum_of(samples.prompt_logprobs);
    cr_tinker_samples_free(&samples);
}

/* The bytes of the one field of a number in a message that must be whole. */
static cr_protobuf_view inside(cr_protobuf_view view, uint32_t number)
{
    cr_protobuf_field field;
    cr_protobuf_view found = {0};
    int more;
    while ((more = cr_protobuf_next(&view, &field)) == 1)
        if (field.number == number) {
            require(field.kind == CR_PROTOBUF_BYTES);
            found = field.bytes;
        }
    require(more == 0);
    return found;
}

static void check_datum(cr_protobuf_view datum, const int32_t *tokens, size_t count)
{
    cr_protobuf_view written = inside(inside(inside(datum, 1), 1), 1);
    require(cr_protobuf_size(written) == count * sizeof *tokens);
    require(count == 0 || memcmp(written.at, tokens, count * sizeof *tokens) == 0);
    cr_protobuf_view tensor = inside(inside(datum, 2), 2);
    require(cr_protobuf_size(inside(tensor, 1)) == count * sizeof(float));
}

static void write_request(const uint8_t *data, size_t size)
{
    cr_tinker_request request;
    const size_t count = size / 4;
    int32_t *tokens = malloc(4 * count + 1);
    float *weights = malloc(4 * count + 1);
    void *bytes;
    size_t written, datums = 0;
    if (!tokens || !weights)
        abort();
    if (count > 0) {
        memcpy(tokens, data, 4 * count);
        memcpy(weights, data, 4 * count);
    }
    cr_tinker_begin(&request, "model", 1);
    for (size_t i = 0; i < 3; i++) {
        cr_tinker_put_datum(&request, tokens, count);
        cr_tinker_put_floats(&request, "weights", weights, count);
    }
    const cr_tinker_setting setting = {"epsilon", 0.5};
    require(cr_tinker_finish(&request, &bytes, &written, "ppo", &setting, 1, true) == CR_OK);
    cr_protobuf_view view = cr_protobuf_look(bytes, written);
    cr_protobuf_field field;
    int more;
    while ((more = cr_protobuf_next(&view, &field)) == 1)
        if (field.number == 3) {
            check_datum(field.bytes, tokens, count);
            datums++;
        }
    require(more == 0 && datums == 3);
    cr_free(bytes);
    free(weights);
    free(tokens);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] == 0)
        read_output(data + 1, size - 1);
    else if (data[0] == 1)
        read_samples(data + 1, size - 1);
    else
        write_request(data + 1, size - 1);
    return 0;
}
