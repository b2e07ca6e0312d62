/* tinker.c: messages of the Tinker training API in protobuf; the fields are listed in tinker.h. */
#include "net/tinker.h"

#include <string.h>

/* ---- writing a request ----------------------------------------------------------------------- */

void cr_tinker_begin(cr_tinker_request *request, const char *model_id, int32_t seq_id)
{
    *request = (cr_tinker_request){0};
    cr_protobuf_put_text(&request->writer, 1, model_id);
    cr_protobuf_put_integer(&request->writer, 2, (uint64_t)seq_id);
}

static void end_datum(cr_tinker_request *request)
{
    if (request->datum > 0)
        cr_protobuf_end(&request->writer, request->datum);
    request->datum = 0;
}

/* Proto3 leaves empty bytes out. */
static void put_values(cr_protobuf_writer *writer, const void *values, size_t size)
{
    if (size > 0)
        cr_protobuf_put_bytes(writer, 1, values, size);
}

void cr_tinker_put_datum(cr_tinker_request *request, const int32_t *tokens, size_t count)
{
    cr_protobuf_writer *writer = &request->writer;
    end_datum(request);
    request->datum = cr_protobuf_begin(writer, 3);
    const size_t chunk = cr_protobuf_begin(writer, 1), text = cr_protobuf_begin(writer, 1);
    put_values(writer, tokens, count * sizeof *tokens);
    cr_protobuf_end(writer, text);
    cr_protobuf_end(writer, chunk);
}

static void put_input(cr_protobuf_writer *writer, const char *name, cr_tinker_dtype dtype,
                      const void *values, size_t count)
{
    const size_t width = dtype == CR_TINKER_INT64 ? sizeof(int64_t) : sizeof(float);
    const size_t entry = cr_protobuf_begin(writer, 2);
    cr_protobuf_put_text(writer, 1, name);
    const size_t tensor = cr_protobuf_begin(writer, 2);
    cr_protobuf_put_bytes(writer, 1, values, count * width); /* one of two: written though empty */
    cr_protobuf_put_integer(writer, 3, dtype);
    const size_t shape = cr_protobuf_begin(writer, 4);
    cr_protobuf_put_varint(writer, count);
    cr_protobuf_end(writer, shape);
    cr_protobuf_end(writer, tensor);
    cr_protobuf_end(writer, entry);
}

void cr_tinker_put_floats(cr_tinker_request *request, const char *name, const float *values,
                          size_t count)
{
    put_input(&request->writer, name, CR_TINKER_FLOAT32, values, count);
}

void cr_tinker_put_whole(cr_tinker_request *request, const char *name, const int64_t *values,
                         size_t count)
{
    put_input(&request->writer, name, CR_TINKER_INT64, values, count);
}

/* Older servers read the map of numbers, newer ones that of numbers or texts. */
static void put_setting(cr_protobuf_writer *writer, const cr_tinker_setting *setting, bool newer)
{
    const size_t entry = cr_protobuf_begin(writer, newer ? 7 : 5);
    cr_protobuf_put_text(writer, 1, setting->name);
    if (newer) {
        const size_t value = cr_protobuf_begin(writer, 2);
        cr_protobuf_put_double(writer, 1, setting->value);
        cr_protobuf_end(writer, value);
    } else {
        cr_protobuf_put_double(writer, 2, setting->value);
    }
    cr_protobuf_end(writer, entry);
}

int cr_tinker_finish(cr_tinker_request *request, void **out, size_t *size, const char *loss_fn,
                     const cr_tinker_setting *settings, size_t count, bool forward_only)
{
    cr_protobuf_writer *writer = &request->writer;
    end_datum(request);
    cr_protobuf_put_text(writer, 4, loss_fn);
    for (size_t i = 0; i < count; i++)
        put_setting(writer, &settings[i], false);
    if (forward_only)
        cr_protobuf_put_integer(writer, 6, 1);
    for (size_t i = 0; i < count; i++)
        put_setting(writer, &settings[i], true);
    return cr_protobuf_release(writer, out, size);
}

void cr_tinker_drop(cr_tinker_request *request)
{
    cr_protobuf_drop(&request->writer);
}

/* ---- reading, shared --------------------------------------------------------------------------- */

/* 1 and the bytes of field `number` of that kind, 0 for another field, CR_EFORMAT for another kind. */
static int is_field(const cr_protobuf_field *field, uint32_t number, cr_protobuf_kind kind,
                    const char *name)
{
    if (field->number != number)
        return 0;
    return field->kind == kind ? 1
                               : cr_fail(CR_EFORMAT, "%s is of protobuf kind %d, expected %d", name,
                                         (int)field->kind, (int)kind);
}

/* Takes the field into *out when it is that one. */
static int take_bytes(const cr_protobuf_field *field, uint32_t number, const char *name,
                      cr_protobuf_view *out)
{
    const int found = is_field(field, number, CR_PROTOBUF_BYTES, name);
    if (found == 1)
        *out = field->bytes;
    return found;
}

static int take_integer(const cr_protobuf_field *field, uint32_t number, const char *name,
                        uint64_t *out)
{
    const int found = is_field(field, number, CR_PROTOBUF_VARINT, name);
    if (found == 1)
        *out = field->integer;
    return found;
}

/* How many fields of a number a message has. */
static int count_fields(cr_protobuf_view view, uint32_t number, const char *name, size_t *count)
{
    cr_protobuf_field field;
    int more;
    *count = 0;
    while ((more = cr_protobuf_next(&view, &field)) == 1) {
        const int found = is_field(&field, number, CR_PROTOBUF_BYTES, name);
        CR_TRY(found);
        *count += (size_t)found;
    }
    return more;
}

static size_t width_of(cr_tinker_dtype dtype)
{
    switch (dtype) {
    case CR_TINKER_FLOAT32:
    case CR_TINKER_INT32:
        return 4;
    case CR_TINKER_INT64:
        return 8;
    case CR_TINKER_BFLOAT16:
        return 2;
    }
    return 0;
}

static int to_values(cr_tinker_values *out, cr_protobuf_view bytes, cr_tinker_dtype dtype,
                     const char *name)
{
    const size_t size = cr_protobuf_size(bytes), width = width_of(dtype);
    if (size % width != 0)
        return cr_fail(CR_EFORMAT, "%s: %llu bytes are no whole number of values of %d", name,
                       (unsigned long long)size, (int)width);
    *out = (cr_tinker_values){bytes.at, size / width, dtype};
    return CR_OK;
}

bool cr_tinker_is_whole(cr_tinker_dtype dtype)
{
    return dtype == CR_TINKER_INT64 || dtype == CR_TINKER_INT32;
}

static float float_at(const uint8_t *at)
{
    float value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* bfloat16 is the upper half of a float32. */
static float wide_at(const uint8_t *at)
{
    uint16_t half;
    memcpy(&half, at, sizeof half);
    const uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static int64_t whole_at(const uint8_t *at)
{
    int64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static int32_t short_at(const uint8_t *at)
{
    int32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

int64_t cr_tinker_whole(cr_tinker_values values, size_t index)
{
    return values.dtype == CR_TINKER_INT64 ? whole_at(values.at + 8 * index)
                                           : short_at(values.at + 4 * index);
}

double cr_tinker_number(cr_tinker_values values, size_t index)
{
    if (cr_tinker_is_whole(values.dtype))
        return (double)cr_tinker_whole(values, index);
    return values.dtype == CR_TINKER_FLOAT32 ? float_at(values.at + 4 * index)
                                             : wide_at(values.at + 2 * index);
}

/* ---- reading what a pass gave ------------------------------------------------------------------ */

static int take_trailing(const cr_protobuf_field *part, cr_tinker_field *out)
{
    cr_protobuf_view list = part->bytes;
    uint64_t extent = part->integer;
    int more = 1;
    const bool packed = part->kind == CR_PROTOBUF_BYTES;
    while (!packed || (more = cr_protobuf_next_varint(&list, &extent)) == 1) {
        if (extent > INT32_MAX || out->trailing_count == CR_TINKER_MOST_RANK)
            return cr_fail(CR_EFORMAT, "trailing_shape: expected at most %d small extents",
                           CR_TINKER_MOST_RANK);
        out->trailing[out->trailing_count++] = (int64_t)extent;
        if (!packed)
            break;
    }
    return more < 0 ? more : CR_OK;
}

static int read_tensor_part(cr_tinker_field *out, const cr_protobuf_field *part,
                            cr_protobuf_view *offsets, uint64_t *dtype)
{
    CR_TRY(take_bytes(part, 1, "data", &out->data));
    CR_TRY(take_bytes(part, 2, "offsets", offsets));
    CR_TRY(take_integer(part, 3, "dtype", dtype));
    return part->number == 4 ? take_trailing(part, out) : CR_OK;
}

/* Offsets never go back, stay within the data, and fall between values. */
static int check_offsets(const cr_tinker_field *field, size_t datums)
{
    const int64_t width = (int64_t)width_of(field->dtype);
    int64_t before = 0;
    for (size_t i = 0; i <= datums; i++) {
        const int64_t offset = whole_at(field->offsets + 8 * i);
        if (offset < before || (uint64_t)offset > cr_protobuf_size(field->data) ||
            offset % width != 0)
            return cr_fail(CR_EFORMAT,
                           "offsets[%llu] is %lld: expected a multiple of %d from %lld to %llu",
                           (unsigned long long)i, (long long)offset, (int)width, (long long)before,
                           (unsigned long long)cr_protobuf_size(field->data));
        before = offset;
    }
    return CR_OK;
}

/* *datums is SIZE_MAX until the first field of a record says how many there are. */
static int settle_tensor(cr_tinker_field *out, cr_protobuf_view offsets, uint64_t dtype,
                         size_t *datums)
{
    const size_t count = cr_protobuf_size(offsets) / 8;
    if (dtype < CR_TINKER_FLOAT32 || dtype > CR_TINKER_BFLOAT16)
        return cr_fail(CR_EFORMAT, "dtype is %llu: expected 1 to 4", (unsigned long long)dtype);
    if (count == 0 || cr_protobuf_size(offsets) % 8 != 0)
        return cr_fail(CR_EFORMAT, "offsets: %llu bytes are no list of 64-bit numbers",
                       (unsigned long long)cr_protobuf_size(offsets));
    if (*datums == SIZE_MAX)
        *datums = count - 1;
    if (*datums != count - 1)
        return cr_fail(CR_EFORMAT, "a record of %llu datums holds a field of %llu",
                       (unsigned long long)*datums, (unsigned long long)(count - 1));
    out->dtype = (cr_tinker_dtype)dtype;
    out->offsets = offsets.at;
    return check_offsets(out, count - 1);
}

static int read_tensor(cr_tinker_field *out, cr_protobuf_view view, size_t *datums)
{
    cr_protobuf_field part;
    cr_protobuf_view offsets = {0};
    uint64_t dtype = 0;
    int more;
    while ((more = cr_protobuf_next(&view, &part)) == 1)
        CR_TRY(read_tensor_part(out, &part, &offsets, &dtype));
    CR_TRY(more);
    return settle_tensor(out, offsets, dtype, datums);
}

/* An entry of a map: its key and its value, where the value is bytes. */
static int read_entry(cr_protobuf_view view, cr_protobuf_view *key, cr_protobuf_field *value)
{
    cr_protobuf_field part;
    int more;
    *key = (cr_protobuf_view){view.end, view.end};
    *value = (cr_protobuf_field){0};
    while ((more = cr_protobuf_next(&view, &part)) == 1) {
        CR_TRY(take_bytes(&part, 1, "the key of a map", key));
        if (part.number == 2)
            *value = part;
    }
    return more;
}

static int read_output_field(cr_tinker_field *out, cr_protobuf_view entry, size_t *datums)
{
    cr_protobuf_field value;
    CR_TRY(read_entry(entry, &out->name, &value));
    if (value.kind != CR_PROTOBUF_BYTES)
        return cr_fail(CR_EFORMAT, "a field of a record is no tensor");
    const int code = read_tensor(out, value.bytes, datums);
    return code < 0 ? cr_fail_context(code, "%.*s", (int)cr_protobuf_size(out->name),
                                      (const char *)out->name.at)
                    : code;
}

/* Records from before num_datums leave it out: it is 0 then. */
static int settle_record(cr_tinker_record *record, uint64_t told, size_t found)
{
    if (told > CR_TINKER_MOST_DATUMS)
        return cr_fail(CR_EFORMAT, "a record of more than %d datums", CR_TINKER_MOST_DATUMS);
    if (found == SIZE_MAX)
        found = (size_t)told;
    if (told > 0 && told != found)
        return cr_fail(CR_EFORMAT, "a record says %llu datums and holds %llu",
                       (unsigned long long)told, (unsigned long long)found);
    record->datums = found;
    return CR_OK;
}

static int read_record(cr_tinker_output *out, cr_tinker_record *record, cr_protobuf_view view)
{
    cr_protobuf_field part;
    uint64_t told = 0;
    size_t found = SIZE_MAX;
    int more;
    record->fields = out->fields + out->field_count;
    while ((more = cr_protobuf_next(&view, &part)) == 1) {
        CR_TRY(take_integer(&part, 3, "num_datums", &told));
        if (part.number != 2)
            continue;
        CR_TRY(is_field(&part, 2, CR_PROTOBUF_BYTES, "a record's fields"));
        CR_TRY(read_output_field(&out->fields[out->field_count++], part.bytes, &found));
    }
    CR_TRY(more);
    record->field_count = (size_t)(out->fields + out->field_count - record->fields);
    return settle_record(record, told, found);
}

static int read_metric(cr_tinker_metric *out, cr_protobuf_view entry)
{
    cr_protobuf_field value;
    CR_TRY(read_entry(entry, &out->name, &value));
    if (value.number == 2 && value.kind != CR_PROTOBUF_64)
        return cr_fail(CR_EFORMAT, "a metric is of protobuf kind %d, expected a double",
                       (int)value.kind);
    out->value = cr_protobuf_as_double(&value); /* 0 when left out */
    return CR_OK;
}

/* Room for everything, by a first walk over the bytes. */
static int make_room(cr_tinker_output *out, cr_protobuf_view view)
{
    cr_protobuf_view walk = view;
    cr_protobuf_field part;
    size_t records, metrics, fields = 0, more_fields = 0;
    CR_TRY(count_fields(view, 2, "loss_fn_outputs", &records));
    CR_TRY(count_fields(view, 3, "metrics", &metrics));
    while (cr_protobuf_next(&walk, &part) == 1)
        if (part.number == 2) {
            CR_TRY(count_fields(part.bytes, 2, "a record's fields", &more_fields));
            fields += more_fields;
        }
    if (records > CR_TINKER_MOST_FIELDS || metrics > CR_TINKER_MOST_FIELDS ||
        fields > CR_TINKER_MOST_FIELDS)
        return cr_fail(CR_EFORMAT,
                       "an answer of %llu records, %llu fields and %llu metrics: at most %d each",
                       (unsigned long long)records, (unsigned long long)fields,
                       (unsigned long long)metrics, CR_TINKER_MOST_FIELDS);
    out->records = cr_calloc(records, sizeof *out->records);
    out->metrics = cr_calloc(metrics, sizeof *out->metrics);
    out->fields = cr_calloc(fields, sizeof *out->fields);
    return out->records && out->metrics && out->fields ? CR_OK : CR_ENOMEM;
}

static int read_output_part(cr_tinker_output *out, const cr_protobuf_field *part)
{
    CR_TRY(take_bytes(part, 1, "loss_fn_output_type", &out->type));
    if (part->number == 3)
        return read_metric(&out->metrics[out->metric_count++], part->bytes);
    if (part->number != 2)
        return CR_OK;
    cr_tinker_record *record = &out->records[out->record_count++];
    CR_TRY(read_record(out, record, part->bytes));
    out->datums += record->datums;
    return out->datums <= CR_TINKER_MOST_DATUMS
               ? CR_OK
               : cr_fail(CR_EFORMAT, "an answer of more than %d datums", CR_TINKER_MOST_DATUMS);
}

/* "module:Class" → "Class" */
static void drop_module(cr_protobuf_view *type)
{
    for (const uint8_t *at = type->at; at < type->end; at++)
        if (*at == ':')
            type->at = at + 1;
}

static int read_output(cr_tinker_output *out, cr_protobuf_view view)
{
    cr_protobuf_field part;
    int more;
    CR_TRY(make_room(out, view));
    while ((more = cr_protobuf_next(&view, &part)) == 1)
        CR_TRY(read_output_part(out, &part));
    drop_module(&out->type);
    return more;
}

int cr_tinker_read_output(cr_tinker_output *out, const void *bytes, size_t size)
{
    *out = (cr_tinker_output){.type = cr_protobuf_look(bytes, 0)};
    const int code = read_output(out, cr_protobuf_look(bytes, size));
    if (code < 0)
        cr_tinker_output_free(out);
    return code < 0 ? cr_fail_context(code, "the answer of a pass") : CR_OK;
}

void cr_tinker_output_free(cr_tinker_output *output)
{
    cr_free(output->records);
    cr_free(output->metrics);
    cr_free(output->fields);
    *output = (cr_tinker_output){0};
}

cr_tinker_values cr_tinker_field_values(const cr_tinker_field *field, size_t datum)
{
    const int64_t from = whole_at(field->offsets + 8 * datum);
    const int64_t to = whole_at(field->offsets + 8 * (datum + 1));
    return (cr_tinker_values){field->data.at + from, (size_t)(to - from) / width_of(field->dtype),
                              field->dtype};
}

/* ---- reading what was sampled -------------------------------------------------------------------- */

static int read_sequence(cr_tinker_sequence *out, cr_protobuf_view view)
{
    cr_protobuf_field part;
    cr_protobuf_view tokens = {0}, logprobs = {0};
    uint64_t reason = 0;
    int more;
    while ((more = cr_protobuf_next(&view, &part)) == 1) {
        CR_TRY(take_integer(&part, 1, "stop_reason", &reason));
        CR_TRY(take_bytes(&part, 2, "tokens", &tokens));
        CR_TRY(take_bytes(&part, 3, "logprobs", &logprobs));
    }
    CR_TRY(more);
    if (reason > 1)
        return cr_fail(CR_EFORMAT, "stop_reason is %llu: expected 0 or 1",
                       (unsigned long long)reason);
    out->length = reason == 1;
    CR_TRY(to_values(&out->tokens, tokens, CR_TINKER_INT32, "tokens"));
    CR_TRY(to_values(&out->logprobs, logprobs, CR_TINKER_FLOAT32, "logprobs"));
    out->has_logprobs = out->logprobs.count > 0;
    if (out->has_logprobs && out->logprobs.count != out->tokens.count)
        return cr_fail(CR_EFORMAT, "a sequence of %llu tokens has %llu logprobs",
                       (unsigned long long)out->tokens.count,
                       (unsigned long long)out->logprobs.count);
    return CR_OK;
}

static int read_samples(cr_tinker_samples *out, cr_protobuf_view view)
{
    cr_protobuf_field part;
    cr_protobuf_view prompt = {0};
    size_t sequences;
    int more;
    CR_TRY(count_fields(view, 1, "sequences", &sequences));
    if (sequences > CR_TINKER_MOST_FIELDS)
        return cr_fail(CR_EFORMAT, "more than %d sequences", CR_TINKER_MOST_FIELDS);
    out->sequences = cr_calloc(sequences, sizeof *out->sequences);
    if (!out->sequences)
        return CR_ENOMEM;
    while ((more = cr_protobuf_next(&view, &part)) == 1) {
        if (part.number == 1)
            CR_TRY(read_sequence(&out->sequences[out->count++], part.bytes));
        CR_TRY(take_bytes(&part, 2, "prompt_logprobs", &prompt));
    }
    CR_TRY(more);
    CR_TRY(to_values(&out->prompt_logprobs, prompt, CR_TINKER_FLOAT32, "prompt_logprobs"));
    out->has_prompt_logprobs = out->prompt_logprobs.count > 0;
    return CR_OK;
}

int cr_tinker_read_samples(cr_tinker_samples *out, const void *bytes, size_t size)
{
    *out = (cr_tinker_samples){0};
    const int code = read_samples(out, cr_protobuf_look(bytes, size));
    if (code < 0)
        cr_tinker_samples_free(out);
    return code < 0 ? cr_fail_context(code, "the answer of a sampling") : CR_OK;
}

void cr_tinker_samples_free(cr_tinker_samples *samples)
{
    cr_free(samples->sequences);
    *samples = (cr_tinker_samples){0};
}
