/* merged_folder.c: a merged model's weights as safetensors: one file, or shards with an index as
 * transformers writes them. */
#include "lora/merged.h"

#include <stdio.h>
#include <string.h>

#include "file/json.h"
#include "file/safetensors.h"

#define PATH_BYTES 4096
#define MOST_SHARDS 1024 /* as many as hub_folder.c reads */

typedef struct folder_job {
    const cr_merged *merged;
    const char *folder;
    const char *const *notes;
    size_t *shard_of; /* [count] */
    size_t shards;
} folder_job;

/* In the list's order; a shard is full when the next tensor would make it too large. */
static int assign(folder_job *job, uint64_t shard_bytes)
{
    const cr_merged *merged = job->merged;
    uint64_t used = 0;
    job->shards = 1;
    for (size_t i = 0; i < merged->count; i++) {
        const uint64_t bytes = cr_merged_bytes(&merged->tensors[i]);
        if (used > 0 && used + bytes > shard_bytes) {
            job->shards++;
            used = 0;
        }
        used += bytes;
        job->shard_of[i] = job->shards - 1;
    }
    if (job->shards > MOST_SHARDS)
        return cr_fail(CR_EARG, "%zu shards: at most %d can be read back, give a larger size",
                       job->shards, MOST_SHARDS);
    return CR_OK;
}

static void shard_name(char *out, size_t size, const folder_job *job, size_t shard)
{
    if (job->shards == 1)
        snprintf(out, size, "model.safetensors");
    else
        snprintf(out, size, "model-%05zu-of-%05zu.safetensors", shard + 1, job->shards);
}

static int join(char out[PATH_BYTES], const folder_job *job, const char *name)
{
    const int length = snprintf(out, PATH_BYTES, "%s/%s", job->folder, name);
    if (length < 0 || length >= PATH_BYTES)
        return cr_fail(CR_EARG, "the path %.80s... is too long", job->folder);
    return CR_OK;
}

/* ---- one shard ---------------------------------------------------------------------------------------- */

/* Places in the list of the tensors of a shard: those of four bytes first, so that all are aligned. */
static size_t select(size_t *places, const folder_job *job, size_t shard)
{
    size_t count = 0;
    for (size_t bytes = 4; bytes >= 2; bytes -= 2)
        for (size_t i = 0; i < job->merged->count; i++)
            if (job->shard_of[i] == shard && job->merged->tensors[i].type->block_bytes == bytes)
                places[count++] = i;
    return count;
}

static int describe(cr_safetensor_out *out, const cr_merged_tensor *tensor)
{
    if (tensor->dims > 2)
        return cr_fail(CR_EUNSUPPORTED, "tensor %s: %d dimensions", tensor->name, tensor->dims);
    const bool vector = tensor->dims == 1;
    *out = (cr_safetensor_out){.name = tensor->name,
                               .rows = vector ? tensor->columns : tensor->rows,
                               .columns = vector ? 0 : tensor->columns,
                               .type = tensor->type->type};
    return CR_OK;
}

static int to_writer(void *to, const void *bytes, size_t size)
{
    return cr_write(to, bytes, size);
}

static int write_tensors(const folder_job *job, cr_writer *writer, const size_t *places,
                         size_t count)
{
    for (size_t i = 0; i < count; i++)
        CR_TRY(cr_merged_write(job->merged, &job->merged->tensors[places[i]], to_writer, writer));
    return CR_OK;
}

static int write_listed(const folder_job *job, size_t shard, const size_t *places, size_t count,
                        cr_safetensor_out *tensors)
{
    char name[64], path[PATH_BYTES];
    cr_writer *writer;
    shard_name(name, sizeof name, job, shard);
    CR_TRY(join(path, job, name));
    for (size_t i = 0; i < count; i++)
        CR_TRY(describe(&tensors[i], &job->merged->tensors[places[i]]));
    CR_TRY(cr_safetensors_begin(&writer, path, tensors, count, job->notes));
    int code = write_tensors(job, writer, places, count);
    if (code < 0) {
        cr_writer_discard(writer);
        return code;
    }
    return cr_writer_commit(writer);
}

static int write_shard(const folder_job *job, size_t shard)
{
    size_t *places = cr_calloc(job->merged->count, sizeof *places);
    cr_safetensor_out *tensors = cr_calloc(job->merged->count, sizeof *tensors);
    int code = places && tensors ? CR_OK : CR_ENOMEM;
    if (code == CR_OK)
        code = write_listed(job, shard, places, select(places, job, shard), tensors);
    cr_free(places);
    cr_free(tensors);
    return code;
}

/* ---- the index -------------------------------------------------------------------------------------------- */

static int write_index_to(cr_writer *writer, const folder_job *job)
{
    char line[256], file[64], name[cr_json_quoted_most(sizeof job->merged->tensors->name)];
    uint64_t total = 0;
    for (size_t i = 0; i < job->merged->count; i++)
        total += cr_merged_bytes(&job->merged->tensors[i]);
    snprintf(line, sizeof line,
             "{\n  \"metadata\": {\n    \"total_size\": %llu\n  },\n  \"weight_map\": {",
             (unsigned long long)total);
    CR_TRY(cr_write(writer, line, strlen(line)));
    for (size_t i = 0; i < job->merged->count; i++) {
        shard_name(file, sizeof file, job, job->shard_of[i]);
        CR_TRY(cr_write(writer, i ? ",\n    " : "\n    ", i ? 6 : 5));
        CR_TRY(cr_write(writer, name, cr_json_quote(name, job->merged->tensors[i].name)));
        snprintf(line, sizeof line, ": \"%s\"", file);
        CR_TRY(cr_write(writer, line, strlen(line)));
    }
    return cr_write(writer, "\n  }\n}\n", 7);
}

static int write_index(const folder_job *job)
{
    char path[PATH_BYTES];
    cr_writer *writer;
    CR_TRY(join(path, job, "model.safetensors.index.json"));
    CR_TRY(cr_writer_open(&writer, path));
    int code = write_index_to(writer, job);
    if (code < 0) {
        cr_writer_discard(writer);
        return code;
    }
    return cr_writer_commit(writer);
}

static int write_all(folder_job *job, uint64_t shard_bytes)
{
    CR_TRY(assign(job, shard_bytes));
    for (size_t shard = 0; shard < job->shards; shard++)
        CR_TRY(write_shard(job, shard));
    return job->shards > 1 ? write_index(job) : CR_OK;
}

int cr_merged_write_folder(const cr_merged *merged, const char *const *notes, uint64_t shard_bytes,
                           const char *folder)
{
    folder_job job = {.merged = merged, .folder = folder, .notes = notes};
    job.shard_of = cr_calloc(merged->count, sizeof *job.shard_of);
    int code = job.shard_of ? write_all(&job, shard_bytes) : CR_ENOMEM;
    cr_free(job.shard_of);
    return code;
}
