/* fuzz_regex.c: a pattern and texts out of one input; the two automata and PCRE2 must agree.
 *
 * Input: a pattern up to the first NUL, then texts with NULs between. Patterns that are refused are done
 * with. A pattern that is taken must be one that PCRE2 takes too (with UTF, anchored at both ends), and for
 * every well-formed text the lazy automaton, the plain one and PCRE2 say the same.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "text/regex.h"
#include "base/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool truth)
{
    if (!truth)
        abort();
}

/* 1 and 0 as PCRE2 has it, -1 where it gives up. */
static int pcre2_matches(const pcre2_code *code, pcre2_match_context *context, const char *text,
                         size_t length)
{
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    int found = pcre2_match(code, (PCRE2_SPTR)text, length, 0, 0, match, context);
    pcre2_match_data_free(match);
    return found >= 0 ? 1 : found == PCRE2_ERROR_NOMATCH ? 0 : -1;
}

static bool lazy_matches(cr_regex *regex, const char *text, size_t length, bool *known)
{
    int32_t state = CR_REGEX_START;
    *known = true;
    for (size_t i = 0; i < length && state != CR_REGEX_DEAD; i++)
        if (cr_regex_next(regex, state, (unsigned char)text[i], &state) < 0) {
            *known = false;
            return false;
        }
    return state != CR_REGEX_DEAD && cr_regex_accepts(regex, state);
}

static void check_text(cr_regex *regex, const pcre2_code *code, pcre2_match_context *context,
                       const char *text, size_t length)
{
    bool known, plain, lazy = lazy_matches(regex, text, length, &known);
    if (!known || cr_regex_matches_plain(regex, text, length, &plain) < 0)
        return;
    require(lazy == plain);
    if (cr_utf8_valid(text, length) != length) {
        require(!lazy);
        return;
    }
    int theirs = pcre2_matches(code, context, text, length);
    require(theirs < 0 || (theirs == 1) == lazy);
}

static void check(cr_regex *regex, const pcre2_code *code, const char *texts, size_t size)
{
    pcre2_match_context *context = pcre2_match_context_create(NULL);
    pcre2_set_match_limit(context, 100000);
    for (size_t at = 0; at <= size;) {
        const char *end = at < size ? memchr(texts + at, 0, size - at) : NULL;
        size_t length = end ? (size_t)(end - texts) - at : size - at;
        check_text(regex, code, context, texts + at, length < 64 ? length : 64);
        at += length + 1;
    }
    pcre2_match_context_free(context);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *pattern = (const char *)data, *border = size ? memchr(pattern, 0, size) : NULL;
    size_t length = border ? (size_t)(border - pattern) : size, offset;
    cr_regex *regex;
    int reason;
    if (length > 80 || cr_regex_create(&regex, length ? pattern : "", length) < 0)
        return 0;
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)(length ? pattern : ""), length,
                      PCRE2_UTF | PCRE2_ANCHORED | PCRE2_ENDANCHORED, &reason, &offset, NULL);
    /* Repeats of repeats may be too large for PCRE2 and not for us; it takes everything else. */
    if (code)
        check(regex, code, border ? border + 1 : "", border ? size - length - 1 : 0);
    pcre2_code_free(code);
    cr_regex_free(regex);
    return 0;
}
