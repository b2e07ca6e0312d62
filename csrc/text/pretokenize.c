/* pretokenize.c: splitting by the patterns of GPT-2 (Radford et al. 2019), SmolLM2,
 * Llama 3 and Qwen2 as published in their tokenizer.json files, run by PCRE2.
 */
#include "text/pretokenize.h"

#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "text/pcre.h"
#include "text/shown.h"

/* Members of a bracketed class. Ranges behind \p are what Unicode 15, 15.1 and
 * 16 added to Unicode 14 (PCRE2 10.40 to 10.42); with a newer PCRE2 they repeat
 * what \p holds already. Space is White_Space: PCRE2's \s would add U+180E. */
#define LETTER                                                                             \
    "\\p{L}\\x{1C89}-\\x{1C8A}\\x{A7CB}-\\x{A7CD}\\x{A7DA}-\\x{A7DC}\\x{105C0}-\\x{105F3}" \
    "\\x{10D4A}-\\x{10D65}\\x{10D6F}-\\x{10D85}\\x{10EC2}-\\x{10EC4}\\x{1123F}-\\x{11240}" \
    "\\x{11380}-\\x{11389}\\x{1138B}\\x{1138E}\\x{11390}-\\x{113B5}\\x{113B7}\\x{113D1}"   \
    "\\x{113D3}\\x{11BC0}-\\x{11BE0}\\x{11F02}\\x{11F04}-\\x{11F10}\\x{11F12}-\\x{11F33}"  \
    "\\x{1342F}\\x{13441}-\\x{13446}\\x{13460}-\\x{143FA}\\x{16100}-\\x{1611D}"            \
    "\\x{16D40}-\\x{16D6C}\\x{18CFF}\\x{1B132}\\x{1B155}\\x{1DF25}-\\x{1DF2A}"             \
    "\\x{1E030}-\\x{1E06D}\\x{1E4D0}-\\x{1E4EB}\\x{1E5D0}-\\x{1E5ED}\\x{1E5F0}\\x{2B739}"  \
    "\\x{2EBF0}-\\x{2EE5D}\\x{31350}-\\x{323AF}"
#define NUMBER                                                                             \
    "\\p{N}\\x{10D40}-\\x{10D49}\\x{116D0}-\\x{116E3}\\x{11BF0}-\\x{11BF9}"                \
    "\\x{11F50}-\\x{11F59}\\x{16130}-\\x{16139}\\x{16D70}-\\x{16D79}\\x{1CCF0}-\\x{1CCF9}" \
    "\\x{1D2C0}-\\x{1D2D3}\\x{1E4F0}-\\x{1E4F9}\\x{1E5F1}-\\x{1E5FA}"
#define SPACE "\\p{Z}\\t-\\r\\x{85}"

/* SmolLM2's digits are split off by another engine, which knows Unicode 17. */
#define DIGIT NUMBER "\\x{11DE0}-\\x{11DE9}\\x{16FF4}-\\x{16FF6}"

/* Words come before contractions, unlike in the publication: nothing starts
 * both, and words are the most frequent. */
#define WORD_OR_CONTRACTION " ?[" LETTER "]+|'(?:[stmd]|re|ve|ll)"

#define GPT2_PATTERN                                                     \
    WORD_OR_CONTRACTION "| ?[" NUMBER "]+| ?[^" SPACE LETTER NUMBER "]+" \
                        "|[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+"

/* Two steps in the publication: each digit alone, then GPT-2's pattern on the
 * stretches between digits, where a space before a digit ends its stretch. */
#define SMOLLM_PATTERN                                              \
    WORD_OR_CONTRACTION "|[" DIGIT "]| ?[^" SPACE LETTER DIGIT "]+" \
                        "|[" SPACE "]+(?![^" SPACE DIGIT "])|[" SPACE "]+"

#define LLAMA3_PATTERN(digits)                                                           \
    "'(?i:[stmd]|re|ve|ll)|[^\\r\\n" LETTER NUMBER "]?[" LETTER "]+|[" NUMBER "]" digits \
    "| ?[^" SPACE LETTER NUMBER "]+[\\r\\n]*|[" SPACE "]*[\\r\\n]+"                      \
    "|[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+"

static const cr_pretokenizer_rules known[] = {
    {"gpt2", {"default"}, GPT2_PATTERN, false, false},
    {"smollm", {NULL}, SMOLLM_PATTERN, false, false},
    {"llama-bpe", {"llama3", "llama-v3"}, LLAMA3_PATTERN("{1,3}"), true, true},
    {"qwen2", {NULL}, LLAMA3_PATTERN(""), false, false},
};

#define KNOWN_COUNT (sizeof known / sizeof known[0])
#define ALIAS_COUNT (sizeof known[0].aliases / sizeof known[0].aliases[0])

static bool same(const char *name, const char *text, size_t length)
{
    return name && strlen(name) == length && memcmp(name, text, length) == 0;
}

static bool answers_to(const cr_pretokenizer_rules *rules, const char *name, size_t length)
{
    bool found = same(rules->name, name, length);
    for (size_t i = 0; i < ALIAS_COUNT; i++)
        found = found || same(rules->aliases[i], name, length);
    return found;
}

static void list_known(char *out, size_t size)
{
    size_t used = 0;
    for (size_t i = 0; i < KNOWN_COUNT; i++) {
        used += (size_t)snprintf(out + used, size - used, "%s%s", i ? ", " : "", known[i].name);
        for (size_t j = 0; j < ALIAS_COUNT && known[i].aliases[j]; j++)
            used += (size_t)snprintf(out + used, size - used, ", %s", known[i].aliases[j]);
    }
}

const cr_pretokenizer_rules *cr_pretokenizer_find(const char *name, size_t length)
{
    for (size_t i = 0; i < KNOWN_COUNT; i++)
        if (answers_to(&known[i], name, length))
            return &known[i];
    char names[256];
    list_known(names, sizeof names);
    cr_fail(CR_EUNSUPPORTED, "unknown pre-tokenizer '%s': expected one of %s",
            cr_show(name, length).text, names);
    return NULL;
}

/* ---- compiled patterns ------------------------------------------------------ */

struct cr_pretokenizer {
    pcre2_general_context *memory;
    pcre2_code *code;
};

static int compile(cr_pretokenizer *pretokenizer, const cr_pretokenizer_rules *rules)
{
    int reason;
    size_t offset;
    int code = cr_pcre_compile(&pretokenizer->code, pretokenizer->memory, rules->pattern,
                               PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &reason, &offset);
    if (code != CR_EFORMAT)
        return code;
    return cr_fail(CR_EUNSUPPORTED,
                   "pre-tokenizer '%s': PCRE2 refuses its pattern at %zu (error %d)", rules->name,
                   offset, reason);
}

int cr_pretokenizer_create(cr_pretokenizer **out, const cr_pretokenizer_rules *rules)
{
    *out = NULL;
    cr_pretokenizer *made = cr_calloc(1, sizeof *made);
    if (!made)
        return CR_ENOMEM;
    made->memory = cr_pcre_memory();
    int code = made->memory ? compile(made, rules) : CR_ENOMEM;
    if (code < 0) {
        cr_pretokenizer_free(made);
        return code;
    }
    /* Where no JIT is to be had, the interpreter gives the same pieces. */
    (void)pcre2_jit_compile(made->code, PCRE2_JIT_COMPLETE);
    *out = made;
    return CR_OK;
}

void cr_pretokenizer_free(cr_pretokenizer *pretokenizer)
{
    if (!pretokenizer)
        return;
    pcre2_code_free(pretokenizer->code);
    pcre2_general_context_free(pretokenizer->memory);
    cr_free(pretokenizer);
}

/* ---- the walk over a text ---------------------------------------------------- */

struct cr_splitter {
    const cr_pretokenizer *pretokenizer;
    pcre2_match_context *context;
    pcre2_match_data *match;
    const char *text;
    size_t length;
    size_t at;             /* the next piece begins here */
    size_t stretch, limit; /* at lies in the well-formed text[stretch..limit), or at its end */
};

int cr_splitter_create(cr_splitter **out, const cr_pretokenizer *pretokenizer)
{
    *out = NULL;
    cr_splitter *made = cr_calloc(1, sizeof *made);
    if (!made)
        return CR_ENOMEM;
    made->pretokenizer = pretokenizer;
    made->context = pcre2_match_context_create(pretokenizer->memory);
    made->match = pcre2_match_data_create(1, pretokenizer->memory);
    if (!made->context || !made->match) {
        cr_splitter_free(made);
        return CR_ENOMEM;
    }
    *out = made;
    return CR_OK;
}

void cr_splitter_free(cr_splitter *splitter)
{
    if (!splitter)
        return;
    pcre2_match_data_free(splitter->match);
    pcre2_match_context_free(splitter->context);
    cr_free(splitter);
}

/* The patterns step back at most once over a run, so a match takes a few units
 * of work a byte; the limit turns a fault in that reasoning into an error. */
static uint32_t work_limit(size_t length)
{
    size_t limit = length < UINT32_MAX / 32 ? 10000 + length * 16 : UINT32_MAX;
    return (uint32_t)limit;
}

void cr_splitter_start(cr_splitter *splitter, const char *text, size_t length)
{
    splitter->text = text;
    splitter->length = length;
    splitter->at = splitter->stretch = splitter->limit = 0;
    pcre2_set_match_limit(splitter->context, work_limit(length));
}

static int match_failure(int reason, size_t at)
{
    char text[128] = "no match";
    if (reason == PCRE2_ERROR_NOMEMORY)
        return cr_fail(CR_ENOMEM, "out of memory while splitting text at byte %zu", at);
    pcre2_get_error_message(reason, (PCRE2_UCHAR *)text, sizeof text);
    return cr_fail(CR_EARG, "text cannot be split at byte %zu: %s", at, text);
}

static int match_piece(cr_splitter *splitter, size_t *end)
{
    PCRE2_SPTR subject = (PCRE2_SPTR)(splitter->text + splitter->stretch);
    size_t length = splitter->limit - splitter->stretch, at = splitter->at - splitter->stretch;
    const pcre2_code *code = splitter->pretokenizer->code;
    int found = pcre2_match(code, subject, length, at, PCRE2_NO_UTF_CHECK, splitter->match,
                            splitter->context);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT)
        found = pcre2_match(code, subject, length, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                            splitter->match, splitter->context);
    if (found < 1)
        return match_failure(found, splitter->at);
    *end = splitter->stretch + pcre2_get_ovector_pointer(splitter->match)[1];
    return CR_OK;
}

int cr_splitter_next(cr_splitter *splitter, size_t *end)
{
    const char *rest = splitter->text + splitter->at;
    size_t left = splitter->length - splitter->at;
    *end = 0;
    if (left == 0)
        return CR_OK;
    if (splitter->at == splitter->limit) {
        splitter->stretch = splitter->at;
        splitter->limit += cr_utf8_valid(rest, left);
    }
    if (splitter->at < splitter->limit)
        CR_TRY(match_piece(splitter, end));
    else
        *end = splitter->limit = splitter->at + cr_utf8_invalid(rest, left);
    splitter->at = *end;
    return CR_OK;
}

/* ---- for specs ----------------------------------------------------------------- */

static int collect_ends(size_t *ends, size_t *count, cr_splitter *splitter)
{
    for (size_t end;;) {
        CR_TRY(cr_splitter_next(splitter, &end));
        if (end == 0)
            return CR_OK;
        ends[(*count)++] = end;
    }
}

static int split_all(size_t *ends, size_t *count, const cr_pretokenizer_rules *rules,
                     const char *text, size_t length)
{
    cr_pretokenizer *pretokenizer = NULL;
    cr_splitter *splitter = NULL;
    int code;
    CR_TRY_GOTO(cr_pretokenizer_create(&pretokenizer, rules), done);
    CR_TRY_GOTO(cr_splitter_create(&splitter, pretokenizer), done);
    cr_splitter_start(splitter, text, length);
    code = collect_ends(ends, count, splitter);
done:
    cr_splitter_free(splitter);
    cr_pretokenizer_free(pretokenizer);
    return code;
}

int cr_pretokenize(size_t **ends, size_t *count, const char *name, const char *text, size_t length)
{
    *ends = NULL;
    *count = 0;
    const cr_pretokenizer_rules *rules = cr_pretokenizer_find(name, strlen(name));
    if (!rules)
        return CR_EUNSUPPORTED;
    size_t *all = cr_calloc(length, sizeof *all);
    if (!all)
        return CR_ENOMEM;
    int code = split_all(all, count, rules, text, length);
    if (code < 0) {
        cr_free(all);
        *count = 0;
        return code;
    }
    *ends = all;
    return CR_OK;
}
