/* tensor_list.c: the list, out of weights.def. */
#include "model/tensor_list.h"

#include <stdio.h>
#include <string.h>

typedef struct listing {
    cr_model_tensor *list;
    size_t count;
} listing;

static cr_model_tensor *add(listing *to, const char *gguf, const char *hub)
{
    cr_model_tensor *tensor = &to->list[to->count++];
    *tensor = (cr_model_tensor){.projection = CR_PROJECTIONS};
    snprintf(tensor->name.gguf, sizeof tensor->name.gguf, "%s", gguf);
    snprintf(tensor->name.hub, sizeof tensor->name.hub, "%s", hub);
    return tensor;
}

static cr_model_tensor *add_of_layer(listing *to, size_t layer, const char *gguf, const char *hub,
                                     const char *kind)
{
    cr_weight_name name;
    snprintf(name.gguf, sizeof name.gguf, "blk.%zu.%s.%s", layer, gguf, kind);
    snprintf(name.hub, sizeof name.hub, "model.layers.%zu.%s.%s", layer, hub, kind);
    cr_model_tensor *tensor = add(to, name.gguf, name.hub);
    tensor->layer = layer;
    return tensor;
}

static void add_projection(listing *to, const cr_model *model, size_t layer, int projection,
                           const char *gguf, const char *hub)
{
    add_of_layer(to, layer, gguf, hub, "weight")->projection = projection;
    if (!model->layers[layer].bias[projection])
        return;
    cr_model_tensor *bias = add_of_layer(to, layer, gguf, hub, "bias");
    bias->projection = projection;
    bias->bias = true;
}

static void add_layer(listing *to, const cr_model *model, size_t layer)
{
    const cr_family *family = model->config.family;
#define CR_PROJECTION(field, file, folder, module, rows, columns) \
    add_projection(to, model, layer, CR_PROJECTION_##field, file, folder "." module);
#define CR_NORM(field, file, hub, size, wanted) \
    if (wanted)                                 \
        add_of_layer(to, layer, file, hub, "weight")->norm = true;
#include "model/weights.def"
#undef CR_PROJECTION
#undef CR_NORM
}

int cr_model_tensors(cr_model_tensor **out, size_t *count, const cr_model *model)
{
    enum { MOST_A_LAYER = 3 * CR_PROJECTIONS, OTHERS = 3 };
    listing to = {cr_calloc(model->config.layers * MOST_A_LAYER + OTHERS, sizeof *to.list), 0};
    if (!to.list)
        return CR_ENOMEM;
    add(&to, "token_embd.weight", "model.embed_tokens.weight");
    for (size_t layer = 0; layer < model->config.layers; layer++)
        add_layer(&to, model, layer);
    add(&to, "output_norm.weight", "model.norm.weight")->norm = true;
    if (model->head.data != model->embedding.data)
        add(&to, "output.weight", "lm_head.weight");
    *out = to.list;
    *count = to.count;
    return CR_OK;
}

const cr_model_tensor *cr_model_tensor_find(const cr_model_tensor *list, size_t count,
                                            const char *name, size_t length, bool hub)
{
    for (size_t i = 0; i < count; i++) {
        const char *own = hub ? list[i].name.hub : list[i].name.gguf;
        if (strlen(own) == length && memcmp(own, name, length) == 0)
            return &list[i];
    }
    return NULL;
}

bool cr_rows_are_permuted(const cr_family *family, int projection)
{
    return family->neighbours_in_gguf &&
           (projection == CR_PROJECTION_q || projection == CR_PROJECTION_k);
}

size_t cr_row_in_gguf(size_t row, size_t head_size)
{
    const size_t inside = row % head_size, half = head_size / 2;
    return row - inside + 2 * (inside % half) + inside / half;
}

size_t cr_row_in_hub(size_t row, size_t head_size)
{
    const size_t inside = row % head_size;
    return row - inside + inside % 2 * (head_size / 2) + inside / 2;
}
