/* hub_folder.h: a model's folder as the Hugging Face hub has it.
 *
 * What this is: its JSON files, and its tensors by name over one safetensors file or the many that
 * model.safetensors.index.json lists. A listed file must lie in the folder itself, and a tensor where
 * the list says.
 * What it is not: a model; names mean nothing here.
 *
 * Ownership: the folder owns mappings and documents; what it returns is borrowed and lives until
 * cr_hub_folder_close.
 */
#ifndef CR_HUB_FOLDER_H
#define CR_HUB_FOLDER_H

#include "file/json_fields.h"
#include "file/safetensors.h"

typedef struct cr_hub_folder cr_hub_folder;

int cr_hub_folder_open(cr_hub_folder **out, const char *path);
void cr_hub_folder_close(cr_hub_folder *folder);

/* config.json. */
cr_json_object cr_hub_folder_config(const cr_hub_folder *folder);

/* An object of another file; CR_ENOTFOUND where there is no such file. *document is the caller's. */
int cr_hub_folder_json(const cr_hub_folder *folder, const char *name, cr_json **document,
                       cr_json_object *out);

/* The text of another file, which is the caller's (cr_free); CR_ENOTFOUND where there is none. */
int cr_hub_folder_text(const cr_hub_folder *folder, const char *name, char **out);

uint64_t cr_hub_folder_bytes(const cr_hub_folder *folder); /* of all tensors */

/* All tensors by place: of each file in turn, those that the list says are elsewhere as NULL. */
size_t cr_hub_folder_count(const cr_hub_folder *folder);
const cr_safetensor *cr_hub_folder_at(const cr_hub_folder *folder, size_t index);

/* NULL where there is none. */
const cr_safetensor *cr_hub_folder_find(const cr_hub_folder *folder, const char *name);

/* The only way weights are obtained: by name with the expected shape; rows = 1 for vectors. An absent
 * tensor is CR_ENOTFOUND, another shape CR_EFORMAT, data that are not aligned for their type
 * CR_EUNSUPPORTED. */
int cr_hub_folder_weight(const cr_hub_folder *folder, const char *name, uint64_t rows,
                         uint64_t columns, const cr_safetensor **out);

#endif
