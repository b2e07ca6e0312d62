/* gguf_adapter.h: the matrices as an adapter in a GGUF file, as llama.cpp reads it.
 *
 * Keys: general.type "adapter", adapter.type "lora", general.architecture of the base, adapter.lora.alpha.
 * Tensors: "blk.12.attn_q.weight.lora_a" [rank, in] and ".lora_b" [out, rank], rows of B in the order of
 * the base's GGUF file. llama.cpp multiplies with alpha / rank, one alpha for all and each tensor's own
 * rank (llama-adapter.h), or with 1 where alpha is 0; what differs from that is multiplied into B.
 *
 * "crucible.lora.sha256" is the digest (lora_digest.h) of the tensors as they stand in the file; a file
 * that has the key is refused when its tensors do not give it.
 *
 * What this is: keys and tensors to checked pairs of matrices, and both directions between these and a
 * session's lora. Reading is apart from opening (fuzzed).
 */
#ifndef CR_GGUF_ADAPTER_H
#define CR_GGUF_ADAPTER_H

#include "file/gguf.h"
#include "lora/lora.h"

/* One projection's pair. */
typedef struct cr_adapter_pair {
    size_t layer;
    int projection;
    const cr_gguf_tensor *a, *b; /* [rank, in], [out, rank] */
    size_t rank, in, out;
} cr_adapter_pair;

typedef struct cr_gguf_adapter {
    cr_text architecture;
    double alpha;
    cr_text digest;         /* of crucible.lora.sha256, or empty */
    cr_adapter_pair *pairs; /* by layer and projection */
    size_t count;
} cr_gguf_adapter;

/* Borrows from the file. CR_EFORMAT for a file that is no adapter, a tensor without its partner or of another
 * shape; CR_EUNSUPPORTED for tensors that no session trains (embedding, head, norms). */
int cr_gguf_adapter_read(cr_gguf_adapter *out, const cr_gguf *file);
void cr_gguf_adapter_free(cr_gguf_adapter *adapter);

/* Puts the pairs into the lora, all or nothing: architecture, targets, ranks and shapes must be those of the
 * session. */
int cr_gguf_adapter_load(cr_lora *lora, const cr_model *model, const char *path);

/* `type`: F32, F16 or BF16. `notes` are further keys: name, text, name, text, NULL; or NULL. */
int cr_gguf_adapter_save(const cr_lora *lora, const cr_model *model, double alpha,
                         const cr_dtype_info *type, const char *const *notes, const char *path);

#endif
