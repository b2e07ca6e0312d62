/* tokenizer_json.h: a language model's tokenizer from the JSON files of a Hugging Face folder.
 *
 * What this is: tokenizer.json of byte-level BPE (with one of the published patterns) and of
 * SentencePiece's BPE with byte fallback, the roles of special tokens from tokenizer_config.json (else
 * config.json), and the chat template.
 * What it is not: a reader of every tokenizer.json: a part that it does not know is refused by name.
 */
#ifndef CR_TOKENIZER_JSON_H
#define CR_TOKENIZER_JSON_H

#include "file/gguf_writer.h"
#include "file/hub_folder.h"
#include "text/tokenizer.h"

/* *template is the caller's, "" where the folder has none. Failures name the file. */
int cr_tokenizer_from_folder(cr_tokenizer **out, char **chat_template, const cr_hub_folder *folder);

/* The same as keys of a GGUF file (tokenizer.ggml.*), with unused tokens up to the rows of the embedding.
 * SentencePiece's merges have no scores in a tokenizer.json: a token gets minus the rank of the first merge
 * that gives it, which orders merges alike. */
int cr_tokenizer_folder_to_gguf(cr_gguf_writer *writer, const cr_hub_folder *folder, size_t vocabulary);

/* From the content of a tokenizer.json alone: no token has a role. */
int cr_tokenizer_parse_json(cr_tokenizer **out, const char *json, size_t size);

#endif
