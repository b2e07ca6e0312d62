/* values.c: a JSON parser that unescapes in place.
 *
 * Plain stretches of strings are found eight bytes at a time: a byte of interest is a quote, a
 * backslash, a control character or not ASCII (Mycroft's test for a byte below a bound). Decimals of up to 15
 * digits and small exponents are exact products (Clinger 1990, How to read floating point numbers
 * accurately); the others go through strtod.
 */
#include "file/values.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

#define FIRST_NODES 1024
#define NUMBER_BYTES 512

typedef struct scan {
    cr_values *values;
    char *text, *at, *end;
    int depth;
} scan;

static int fail_expected(const scan *s, const char *what)
{
    const size_t place = (size_t)(s->at - s->text);
    if (s->at >= s->end)
        return cr_fail(CR_EFORMAT, "not JSON: expected %s at byte %zu, found the end", what, place);
    const unsigned found = (unsigned char)*s->at;
    if (found >= 0x20 && found < 0x7f)
        return cr_fail(CR_EFORMAT, "not JSON: expected %s at byte %zu, found '%c'", what, place,
                       (int)found);
    return cr_fail(CR_EFORMAT, "not JSON: expected %s at byte %zu, found byte 0x%02x", what, place,
                   found);
}

int cr_values_add(cr_values *values, cr_value value)
{
    if (values->count == values->capacity) {
        const size_t capacity = values->capacity ? 2 * values->capacity : FIRST_NODES;
        cr_value *list =
            cr_realloc(values->list, values->capacity * sizeof *list, capacity * sizeof *list);
        if (!list)
            return CR_ENOMEM;
        values->list = list;
        values->capacity = capacity;
    }
    values->list[values->count++] = value;
    return CR_OK;
}

void cr_values_free(cr_values *values)
{
    cr_free(values->list);
    *values = (cr_values){NULL, 0, 0};
}

static inline int peek(const scan *s)
{
    return s->at < s->end ? (unsigned char)*s->at : -1;
}

static inline int skip_spaces(scan *s)
{
    int next;
    while ((next = peek(s)) == ' ' || next == '\n' || next == '\r' || next == '\t')
        s->at++;
    return next;
}

/* ---- UTF-8 ------------------------------------------------------------------------------------ */

#define ONES 0x0101010101010101u
#define HIGHS 0x8080808080808080u

static inline uint64_t load8(const char *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

int cr_check_utf8(const char *text, size_t size)
{
    const size_t valid = cr_utf8_valid(text, size);
    if (valid == size)
        return CR_OK;
    return cr_fail(CR_EFORMAT, "not UTF-8: byte 0x%02x at byte %zu", (unsigned char)text[valid],
                   valid);
}

/* ---- strings -------------------------------------------------------------------------------------- */

/* High bits where a byte is below 0x20, '"', '\\' or above 0x7f; some behind the first may be wrong. */
static inline uint64_t interesting(uint64_t word)
{
    const uint64_t quote = word ^ (ONES * '"'), slash = word ^ (ONES * '\\');
    return ((word - ONES * 0x20) | (quote - ONES) | (slash - ONES) | word) & HIGHS;
}

static inline char *skip_plain(char *at, const char *end)
{
    while (end - at >= 8) {
        const uint64_t found = interesting(load8(at));
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        if (found != 0)
            return at + __builtin_ctzll(found) / 8;
#else
        if (found != 0)
            break;
#endif
        at += 8;
    }
    while (at < end && *at != '"' && *at != '\\' && (unsigned char)*at >= 0x20 &&
           (unsigned char)*at < 0x80)
        at++;
    return at;
}

static int hex_digit(int c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int parse_hex4(scan *s, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < 4; i++, s->at++) {
        const int digit = hex_digit(peek(s));
        if (digit < 0)
            return fail_expected(s, "four hexadecimal digits after \\u");
        *out = *out << 4 | (uint32_t)digit;
    }
    return CR_OK;
}

/* After "\u": one unit, or a surrogate pair. */
static int parse_unicode(scan *s, uint32_t *point)
{
    const size_t start = (size_t)(s->at - s->text) - 2;
    uint32_t low;
    CR_TRY(parse_hex4(s, point));
    if (*point < 0xd800 || *point > 0xdfff)
        return CR_OK;
    if (*point < 0xdc00 && s->end - s->at >= 6 && s->at[0] == '\\' && s->at[1] == 'u') {
        s->at += 2;
        CR_TRY(parse_hex4(s, &low));
        if (low >= 0xdc00 && low <= 0xdfff) {
            *point = 0x10000 + ((*point - 0xd800) << 10) + (low - 0xdc00);
            return CR_OK;
        }
    }
    return cr_fail(CR_EFORMAT, "not JSON: expected a surrogate pair at byte %zu, found half of one",
                   start);
}

/* At the backslash; *out grows by what the escape stands for, which is never longer. */
static int parse_escape(scan *s, char **out)
{
    static const char letters[] = "\"\\/bfnrt", bytes[] = "\"\\/\b\f\n\r\t";
    s->at++;
    const int letter = peek(s);
    const char *found = letter > 0 ? strchr(letters, letter) : NULL;
    if (found) {
        s->at++;
        *(*out)++ = bytes[found - letters];
        return CR_OK;
    }
    if (letter != 'u')
        return fail_expected(s, "one of \" \\ / b f n r t u after a backslash");
    s->at++;
    uint32_t point;
    CR_TRY(parse_unicode(s, &point));
    *out += cr_utf8_encode(*out, point);
    return CR_OK;
}

/* What stopped a plain stretch and is no quote: an escape, a character of several bytes, or wrong. */
static int parse_special(scan *s, char **out)
{
    if (s->at >= s->end)
        return fail_expected(s, "the end of a string");
    if (*s->at == '\\')
        return parse_escape(s, out);
    if ((unsigned char)*s->at < 0x20)
        return fail_expected(s, "an escape instead of a raw control character");
    const size_t length = cr_utf8_sequence(s->at, (size_t)(s->end - s->at));
    if (length == 0)
        return fail_expected(s, "UTF-8");
    memmove(*out, s->at, length);
    *out += length;
    s->at += length;
    return CR_OK;
}

/* At the opening quote. */
static int parse_string(scan *s)
{
    char *const start = ++s->at, *out = start;
    for (;;) {
        char *stop = skip_plain(s->at, s->end);
        if (out != s->at)
            memmove(out, s->at, (size_t)(stop - s->at));
        out += stop - s->at;
        s->at = stop;
        if (stop < s->end && *stop == '"')
            break;
        CR_TRY(parse_special(s, &out));
    }
    s->at++;
    if (out - start > UINT32_MAX)
        return cr_fail(CR_EFORMAT, "not JSON: a string of more than 4 GiB");
    return cr_values_add(
        s->values,
        (cr_value){.as.text = start, .length = (uint32_t)(out - start), .kind = CR_VALUE_STRING});
}

/* ---- numbers ---------------------------------------------------------------------------------------- */

typedef struct decimal {
    bool negative, plain; /* plain: neither fraction nor exponent */
    int digits;           /* after leading zeros */
    uint64_t mantissa;    /* of the first 19 of them */
    long exponent;        /* of the last digit */
    const char *first;    /* where digits begin */
} decimal;

static int parse_digits(scan *s, decimal *number)
{
    if (peek(s) < '0' || peek(s) > '9')
        return fail_expected(s, "a digit");
    for (int next = peek(s); next >= '0' && next <= '9'; next = peek(s)) {
        if (number->digits > 0 || next != '0')
            number->digits++;
        if (number->digits <= 19)
            number->mantissa = 10 * number->mantissa + (uint64_t)(next - '0');
        s->at++;
    }
    return CR_OK;
}

static int parse_exponent(scan *s, decimal *number)
{
    long exponent = 0;
    s->at++;
    const bool negative = peek(s) == '-';
    if (negative || peek(s) == '+')
        s->at++;
    if (peek(s) < '0' || peek(s) > '9')
        return fail_expected(s, "a digit of an exponent");
    for (int next = peek(s); next >= '0' && next <= '9'; next = peek(s)) {
        if (exponent < 100000) /* far beyond what a double can tell apart */
            exponent = 10 * exponent + (next - '0');
        s->at++;
    }
    number->exponent += negative ? -exponent : exponent;
    number->plain = false;
    return CR_OK;
}

static int parse_decimal(scan *s, decimal *number)
{
    *number = (decimal){.plain = true};
    number->negative = peek(s) == '-';
    s->at += number->negative;
    number->first = s->at;
    const int lead = peek(s);
    CR_TRY(parse_digits(s, number));
    if (lead == '0' && s->at - number->first > 1) {
        s->at = s->text + (number->first - s->text) + 1;
        return fail_expected(s, "no digit after a leading zero");
    }
    if (peek(s) == '.') {
        const char *point = s->at++;
        CR_TRY(parse_digits(s, number));
        number->exponent = -(long)(s->at - point - 1);
        number->plain = false;
    }
    if (peek(s) == 'e' || peek(s) == 'E')
        CR_TRY(parse_exponent(s, number));
    return CR_OK;
}

/* strtod reads the point in the host's locale: it gets digits and an exponent alone. */
static int read_slowly(const scan *s, const decimal *number, double *out)
{
    char text[NUMBER_BYTES + 32];
    size_t length = 0;
    for (const char *c = number->first; c < s->at && *c != 'e' && *c != 'E'; c++) {
        if (*c == '.')
            continue;
        if (length == NUMBER_BYTES)
            return cr_fail(CR_EFORMAT,
                           "not JSON: the number before byte %zu has more than %d digits",
                           (size_t)(s->at - s->text), NUMBER_BYTES);
        text[length++] = *c;
    }
    snprintf(text + length, sizeof text - length, "e%ld", number->exponent);
    *out = strtod(text, NULL);
    return CR_OK;
}

static int to_double(const scan *s, const decimal *number, double *out)
{
    static const double tens[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                  1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                  1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    double value;
    if (number->digits <= 15 && number->exponent >= -22 && number->exponent <= 22)
        value = number->exponent < 0 ? (double)number->mantissa / tens[-number->exponent]
                                     : (double)number->mantissa * tens[number->exponent];
    else
        CR_TRY(read_slowly(s, number, &value));
    if (isinf(value))
        return cr_fail(CR_EFORMAT, "not JSON: the number before byte %zu is too large for a double",
                       (size_t)(s->at - s->text));
    *out = number->negative ? -value : value;
    return CR_OK;
}

static int parse_number(scan *s)
{
    decimal number;
    cr_value value = {.kind = CR_VALUE_INTEGER};
    CR_TRY(parse_decimal(s, &number));
    const uint64_t limit = (uint64_t)INT64_MAX + number.negative;
    if (number.plain && number.digits <= 19 && number.mantissa <= limit) {
        value.as.integer =
            number.negative ? (int64_t)(0 - number.mantissa) : (int64_t)number.mantissa;
        return cr_values_add(s->values, value);
    }
    value.kind = CR_VALUE_NUMBER;
    CR_TRY(to_double(s, &number, &value.as.number));
    return cr_values_add(s->values, value);
}

/* ---- values -------------------------------------------------------------------------------------------- */

static int parse_word(scan *s)
{
    static const struct {
        const char *text;
        size_t length;
        cr_value_kind kind;
    } words[] = {
        {"null", 4, CR_VALUE_NULL}, {"true", 4, CR_VALUE_TRUE}, {"false", 5, CR_VALUE_FALSE}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if ((size_t)(s->end - s->at) < words[i].length ||
            memcmp(s->at, words[i].text, words[i].length) != 0)
            continue;
        s->at += words[i].length;
        return cr_values_add(s->values, (cr_value){.kind = words[i].kind});
    }
    return fail_expected(s, "a value");
}

static int parse_value(scan *s);

static int parse_key(scan *s)
{
    if (skip_spaces(s) != '"')
        return fail_expected(s, "a key in quotes");
    CR_TRY(parse_string(s));
    if (skip_spaces(s) != ':')
        return fail_expected(s, "':' after a key");
    s->at++;
    return CR_OK;
}

/* At the opening bracket. */
static int parse_container(scan *s, cr_value_kind kind)
{
    const int close = kind == CR_VALUE_OBJECT ? '}' : ']';
    const size_t own = s->values->count;
    uint32_t children = 0;
    if (s->depth == CR_VALUES_DEPTH)
        return fail_expected(s, "no deeper nesting than 200");
    CR_TRY(cr_values_add(s->values, (cr_value){.kind = kind}));
    s->at++;
    s->depth++;
    if (skip_spaces(s) != close) {
        for (;;) {
            if (kind == CR_VALUE_OBJECT)
                CR_TRY(parse_key(s));
            CR_TRY(parse_value(s));
            children++;
            if (skip_spaces(s) != ',')
                break;
            s->at++;
        }
        if (peek(s) != close)
            return fail_expected(s, kind == CR_VALUE_OBJECT ? "',' or '}'" : "',' or ']'");
    }
    s->at++;
    s->depth--;
    s->values->list[own].length = children;
    s->values->list[own].as.end = s->values->count;
    return CR_OK;
}

static int parse_value(scan *s)
{
    switch (skip_spaces(s)) {
    case '"':
        return parse_string(s);
    case '{':
        return parse_container(s, CR_VALUE_OBJECT);
    case '[':
        return parse_container(s, CR_VALUE_ARRAY);
    case '-':
    case '0':
    case '1':
    case '2':
    case '3':
    case '4':
    case '5':
    case '6':
    case '7':
    case '8':
    case '9':
        return parse_number(s);
    default:
        return parse_word(s);
    }
}

int cr_values_parse(cr_values *values, char *text, size_t size)
{
    const size_t before = values->count;
    scan s = {values, text, text, text + size, 0};
    int code = parse_value(&s);
    if (code == CR_OK) {
        skip_spaces(&s);
        if (s.at < s.end)
            code = fail_expected(&s, "the end");
    }
    if (code < 0)
        values->count = before;
    return code;
}
