/* tinker.h: the messages of the Tinker training API's protobuf dialect (package tinker_public).
 *
 * What this is: a writer of ForwardBackwardRequest, and readers of ForwardBackwardOutput and
 * SampleResponse, the three messages that a client of that dialect meets; all else is JSON. What it is
 * not: a client (that is Lua) or a transport (net/http.h). Images and sparse tensors are not
 * written. Numbers inside `bytes` are little-endian, as this library's hosts are.
 *
 * Bounded: a reader checks every offset and length before it is used and allocates in proportion to
 * the bytes read, never to a number found in them, up to the limits below; what is damaged gives
 * CR_EFORMAT. Fields that are not known are passed over.
 *
 * Ownership: what a reader gives borrows the bytes it was given, which must outlive it.
 *
 *   ForwardBackwardRequest: 1 model_id, 2 seq_id, 3 Datum*, 4 loss_fn, 5 map<string, double>,
 *                           6 forward_only, 7 map<string, {1 double}>
 *   Datum: 1 Chunk*, 2 map<string, Tensor>        Chunk: 1 encoded_text {1 int32 bytes}
 *   Tensor: 1 dense bytes, 3 dtype, 4 shape int64 packed
 *   ForwardBackwardOutput: 1 loss_fn_output_type, 2 ArrayRecord*, 3 map<string, double>
 *   ArrayRecord: 1 type_tag, 2 map<string, BatchedTensor>, 3 num_datums
 *   BatchedTensor: 1 data, 2 offsets (bytes of int64[num_datums + 1], in bytes), 3 dtype,
 *                  4 trailing_shape int64 packed
 *   SampleResponse: 1 SampledSequence*, 2 prompt_logprobs f32 bytes
 *   SampledSequence: 1 stop_reason, 2 tokens int32 bytes, 3 logprobs f32 bytes
 */
#ifndef CR_TINKER_H
#define CR_TINKER_H

#include "net/protobuf.h"

typedef enum cr_tinker_dtype {
    CR_TINKER_FLOAT32 = 1,
    CR_TINKER_INT64 = 2,
    CR_TINKER_INT32 = 3,
    CR_TINKER_BFLOAT16 = 4
} cr_tinker_dtype;

/* ---- a pass to be asked for ------------------------------------------------------------------ */

/* A request as it grows: begun, then each datum followed by its inputs, then finished. {0} is none;
 * a failure stays in it and is what finishing returns. */
typedef struct cr_tinker_request {
    cr_protobuf_writer writer;
    size_t datum; /* where the open datum began; 0 = none is open */
} cr_tinker_request;

typedef struct cr_tinker_setting {
    const char *name;
    double value;
} cr_tinker_setting;

/* seq_id counts from 1. */
void cr_tinker_begin(cr_tinker_request *request, const char *model_id, int32_t seq_id);
void cr_tinker_put_datum(cr_tinker_request *request, const int32_t *tokens, size_t count);

/* An input of the last datum, [count]: float32, or int64. The official writer sorts them by name. */
void cr_tinker_put_floats(cr_tinker_request *request, const char *name, const float *values,
                          size_t count);
void cr_tinker_put_whole(cr_tinker_request *request, const char *name, const int64_t *values,
                         size_t count);

/* The bytes are the caller's (cr_free); the request is {0} again. */
int cr_tinker_finish(cr_tinker_request *request, void **out, size_t *size, const char *loss_fn,
                     const cr_tinker_setting *settings, size_t count, bool forward_only);
void cr_tinker_drop(cr_tinker_request *request);

/* ---- what a pass gave ------------------------------------------------------------------------ */

#define CR_TINKER_MOST_DATUMS (1 << 20) /* in one answer */
#define CR_TINKER_MOST_FIELDS (1 << 16) /* in all its records, and metrics */
#define CR_TINKER_MOST_RANK 8

typedef struct cr_tinker_field { /* one output of all datums of a record */
    cr_protobuf_view name, data;
    const uint8_t *offsets; /* [datums + 1] int64, unaligned */
    cr_tinker_dtype dtype;
    int64_t trailing[CR_TINKER_MOST_RANK];
    size_t trailing_count;
} cr_tinker_field;

typedef struct cr_tinker_record {
    size_t datums;
    const cr_tinker_field *fields;
    size_t field_count;
} cr_tinker_record;

typedef struct cr_tinker_metric {
    cr_protobuf_view name;
    double value;
} cr_tinker_metric;

typedef struct cr_tinker_output {
    cr_protobuf_view type; /* behind its last ':' */
    size_t datums;         /* of all records */
    cr_tinker_record *records;
    size_t record_count;
    cr_tinker_metric *metrics;
    size_t metric_count;
    cr_tinker_field *fields; /* of all records */
    size_t field_count;
} cr_tinker_output;

int cr_tinker_read_output(cr_tinker_output *out, const void *bytes, size_t size);
void cr_tinker_output_free(cr_tinker_output *output);

/* The values of one datum, from 0, in a field of its record. */
typedef struct cr_tinker_values {
    const uint8_t *at;
    size_t count;
    cr_tinker_dtype dtype;
} cr_tinker_values;

cr_tinker_values cr_tinker_field_values(const cr_tinker_field *field, size_t datum);

/* Whether the values are whole numbers; and one of them, by its kind. */
bool cr_tinker_is_whole(cr_tinker_dtype dtype);
double cr_tinker_number(cr_tinker_values values, size_t index);
int64_t cr_tinker_whole(cr_tinker_values values, size_t index);

/* ---- what was sampled ------------------------------------------------------------------------ */

typedef struct cr_tinker_sequence {
    bool length; /* it ended at max_tokens, not by a stop */
    cr_tinker_values tokens, logprobs;
    bool has_logprobs;
} cr_tinker_sequence;

typedef struct cr_tinker_samples {
    cr_tinker_sequence *sequences;
    size_t count;
    cr_tinker_values prompt_logprobs;
    bool has_prompt_logprobs;
} cr_tinker_samples;

int cr_tinker_read_samples(cr_tinker_samples *out, const void *bytes, size_t size);
void cr_tinker_samples_free(cr_tinker_samples *samples);

#endif
