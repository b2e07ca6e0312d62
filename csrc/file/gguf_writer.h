/* gguf_writer.h: writes GGUF files (version 3, little endian; the layout stands in gguf.h).
 *
 * What this is: keys and the tensor table are collected in memory, then tensors' data are handed over
 * piece by piece, in the order of the table, so that no tensor need ever be in memory whole. Writing is
 * atomic (file/fsio.h): temporary name, fsync, rename; what fails leaves nothing behind.
 * What it is not: a judge of names and values; what was written can be read by gguf.h.
 *
 *     cr_gguf_writer_create(&w);
 *     cr_gguf_put_text(w, "general.architecture", "llama"); ...
 *     cr_gguf_put_tensor(w, "blk.0.attn_q.weight", type, 2, shape); ...
 *     cr_gguf_writer_begin(w, path);
 *     cr_gguf_writer_data(w, bytes, size); ...
 *     cr_gguf_writer_commit(w);     or discard
 *
 * Ownership: the writer copies what it is given and is the caller's; commit and discard both end it.
 */
#ifndef CR_GGUF_WRITER_H
#define CR_GGUF_WRITER_H

#include "file/gguf.h"

typedef struct cr_gguf_writer cr_gguf_writer;

int cr_gguf_writer_create(cr_gguf_writer **out);

/* Of the data of each tensor; 32 unless another power of two from 8 on is set before the first of them. */
void cr_gguf_writer_align(cr_gguf_writer *writer, size_t alignment);

/* Keys. An entry is a key as it stands in another file: cr_gguf_key_at. */
int cr_gguf_put_entry(cr_gguf_writer *writer, cr_text entry);
int cr_gguf_put_u32(cr_gguf_writer *writer, const char *key, uint32_t value);
int cr_gguf_put_f32(cr_gguf_writer *writer, const char *key, float value);
int cr_gguf_put_f64(cr_gguf_writer *writer, const char *key, double value);
int cr_gguf_put_bool(cr_gguf_writer *writer, const char *key, bool value);
int cr_gguf_put_text(cr_gguf_writer *writer, const char *key, const char *value);
int cr_gguf_put_texts(cr_gguf_writer *writer, const char *key, const cr_text *values, size_t count);
int cr_gguf_put_f32s(cr_gguf_writer *writer, const char *key, const float *values, size_t count);
int cr_gguf_put_i32s(cr_gguf_writer *writer, const char *key, const int32_t *values, size_t count);

/* Shape innermost first, as in the file. */
int cr_gguf_put_tensor(cr_gguf_writer *writer, const char *name, size_t name_length,
                       const cr_dtype_info *type, int dims, const uint64_t *shape);

/* Writes keys and table; nothing can be put afterwards. */
int cr_gguf_writer_begin(cr_gguf_writer *writer, const char *path);

/* The next bytes of the tensors' data; padding between tensors is added here. CR_EARG for more bytes than
 * the tensors have. */
int cr_gguf_writer_data(cr_gguf_writer *writer, const void *bytes, size_t size);

/* CR_EARG when bytes are missing. */
int cr_gguf_writer_commit(cr_gguf_writer *writer);
void cr_gguf_writer_discard(cr_gguf_writer *writer); /* NULL is accepted */

/* cr_gguf_set_number (include/crucible.h) overwrites the value of an f64 key in a file, in place: for a figure
 * that is known only once the file is there and before it gets its name. CR_ENOTFOUND, CR_EFORMAT (another
 * type), CR_EIO. */

#endif
