/* validator.h - a second JSON validator, for the tests alone: what the library says of a text is
 * compared with what this one says.
 *
 * It was written from RFC 8259 and from table 3-7 of the Unicode standard, without a look at the
 * library's scanner, and it is simple rather than fast: a machine that takes one byte at a time.
 * The byte that it refuses is, by its nature, the first one after which no continuation could have
 * made the text valid. */
#ifndef VALIDATOR_H
#define VALIDATOR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define VALIDATOR_UNUSED __attribute__((unused))
#else
#define VALIDATOR_UNUSED
#endif

#define VALIDATOR_DEPTH 1024

enum validator_answer {
    VALIDATOR_VALID,     /* or, of a single byte: nothing wrong so far */
    VALIDATOR_CUT_SHORT, /* the text ends too early; the offset is its length */
    VALIDATOR_SYNTAX,    /* the byte at the offset has no place there */
    VALIDATOR_UTF8,      /* the same, within a string, where the byte is no valid UTF-8 */
    VALIDATOR_TOO_DEEP   /* the bracket at the offset opens level 1,025 */
};

/* What is valid, and yet worth knowing. */
enum validator_flag {
    VALIDATOR_LONE_SURROGATE = 1, /* \ud800 to \udbff without \udc00 to \udfff behind, or the latter
                                     without the former before */
    VALIDATOR_HUGE_NUMBER = 2     /* a number >= 1.7976931348623158e308 or <= minus that */
};

/* What may come next. */
enum validator_state {
    VALIDATOR_VALUE,         /* a value */
    VALIDATOR_FIRST_ELEMENT, /* after [ : a value or ] */
    VALIDATOR_FIRST_MEMBER,  /* after { : a name or } */
    VALIDATOR_NAME,          /* after , in an object: a name */
    VALIDATOR_COLON,         /* after a name */
    VALIDATOR_AFTER,         /* after a value: a comma or the closing bracket, or the end */
    VALIDATOR_LITERAL,       /* the rest of true, false or null */
    VALIDATOR_STRING,        /* a character of a string, or the closing quote */
    VALIDATOR_ESCAPE,        /* after a backslash */
    VALIDATOR_HEX,           /* a digit of \uXXXX */
    VALIDATOR_CONTINUATION,  /* a byte of a UTF-8 sequence, after the first */
    /* number = [ minus ] int [ frac ] [ exp ]; the next byte may always end it but after MINUS,
     * POINT, E and SIGN */
    VALIDATOR_MINUS,
    VALIDATOR_ZERO,
    VALIDATOR_INTEGER,
    VALIDATOR_POINT,
    VALIDATOR_FRACTION,
    VALIDATOR_E,
    VALIDATOR_SIGN,
    VALIDATOR_EXPONENT
};

struct validator {
    const unsigned char *text;
    size_t at; /* bytes of the text that have been taken */
    enum validator_state state;
    unsigned flags;
    const char *literal;   /* what is missing of true, false or null */
    size_t number;         /* where the number began */
    unsigned unit, digits; /* of \uXXXX: its value so far, and how many digits */
    unsigned half;         /* the character before was the first half of a surrogate pair */
    unsigned name;         /* the string is a member's name */
    unsigned row, byte;    /* of the table of UTF-8 sequences, and which byte is next */
    size_t depth;
    char open[VALIDATOR_DEPTH]; /* the open brackets; last, for only `depth` of them are set */
};

/* Table 3-7: the bytes of well-formed UTF-8 sequences; those of one byte are seen to elsewhere. */
static const struct {
    unsigned bytes;
    unsigned char range[4][2];
} validator_utf8[] = {
    {2, {{0xC2, 0xDF}, {0x80, 0xBF}, {0, 0}, {0, 0}}},
    {3, {{0xE0, 0xE0}, {0xA0, 0xBF}, {0x80, 0xBF}, {0, 0}}},
    {3, {{0xE1, 0xEC}, {0x80, 0xBF}, {0x80, 0xBF}, {0, 0}}},
    {3, {{0xED, 0xED}, {0x80, 0x9F}, {0x80, 0xBF}, {0, 0}}},
    {3, {{0xEE, 0xEF}, {0x80, 0xBF}, {0x80, 0xBF}, {0, 0}}},
    {4, {{0xF0, 0xF0}, {0x90, 0xBF}, {0x80, 0xBF}, {0x80, 0xBF}}},
    {4, {{0xF1, 0xF3}, {0x80, 0xBF}, {0x80, 0xBF}, {0x80, 0xBF}}},
    {4, {{0xF4, 0xF4}, {0x80, 0x8F}, {0x80, 0xBF}, {0x80, 0xBF}}},
};

static VALIDATOR_UNUSED int validator_digit(unsigned char c)
{
    return c >= '0' && c <= '9';
}

/* Tells whether the magnitude of a valid number is 1.7976931348623158e308 or more. It is 0.DDD... *
 * 10^power, the first D not being zero; the limit is 0.17976931348623158 * 10^309. */
static VALIDATOR_UNUSED int validator_huge(const unsigned char *number, size_t bytes)
{
    static const char limit[] = "17976931348623158";
    const int64_t most = INT64_C(100000000000000000); /* no text is so long as to make up for it */
    char digits[] = "00000000000000000";
    size_t count = 0, i;
    int64_t power = 0, exponent = 0;
    int fraction = 0, negative = 0;
    for (i = 0; i < bytes && number[i] != 'e' && number[i] != 'E'; i++) {
        if (number[i] == '.')
            fraction = 1;
        if (!validator_digit(number[i]))
            continue;
        if (count == 0 && number[i] == '0') {
            power -= fraction; /* 0.00D */
            continue;
        }
        if (count < sizeof limit - 1)
            digits[count] = (char)number[i];
        count++;
        power += !fraction;
    }
    for (; i < bytes; i++) {
        if (number[i] == '-')
            negative = 1;
        if (validator_digit(number[i]) && exponent < most)
            exponent = exponent * 10 + (number[i] - '0');
    }
    if (count == 0)
        return 0;
    power += negative ? -exponent : exponent;
    if (power != 309)
        return power > 309;
    return memcmp(digits, limit, sizeof limit - 1) >= 0;
}

/* What comes after `state` when a number has this byte there: VALIDATOR_AFTER when the number has
 * ended before it, VALIDATOR_VALUE when neither is possible. */
static VALIDATOR_UNUSED enum validator_state validator_number(enum validator_state state,
                                                              unsigned char c)
{
    switch (state) {
    case VALIDATOR_MINUS:
        return c == '0' ? VALIDATOR_ZERO : validator_digit(c) ? VALIDATOR_INTEGER : VALIDATOR_VALUE;
    case VALIDATOR_INTEGER:
        if (validator_digit(c))
            return VALIDATOR_INTEGER;
        /* fall through */
    case VALIDATOR_ZERO:
        return c == '.' ? VALIDATOR_POINT : c == 'e' || c == 'E' ? VALIDATOR_E : VALIDATOR_AFTER;
    case VALIDATOR_POINT:
        return validator_digit(c) ? VALIDATOR_FRACTION : VALIDATOR_VALUE;
    case VALIDATOR_FRACTION:
        if (validator_digit(c))
            return VALIDATOR_FRACTION;
        return c == 'e' || c == 'E' ? VALIDATOR_E : VALIDATOR_AFTER;
    case VALIDATOR_E:
        if (c == '+' || c == '-')
            return VALIDATOR_SIGN;
        /* fall through */
    case VALIDATOR_SIGN:
        return validator_digit(c) ? VALIDATOR_EXPONENT : VALIDATOR_VALUE;
    default:
        return validator_digit(c) ? VALIDATOR_EXPONENT : VALIDATOR_AFTER;
    }
}

static VALIDATOR_UNUSED void validator_number_ends(struct validator *v)
{
    if (validator_huge(v->text + v->number, v->at - v->number))
        v->flags |= VALIDATOR_HUGE_NUMBER;
    v->state = VALIDATOR_AFTER;
}

/* A character of a string, or its closing quote: looks after the surrogate pairs. `unit` is what a
 * \uXXXX says, and 0 for everything else. */
static VALIDATOR_UNUSED void validator_character(struct validator *v, unsigned unit)
{
    int second = unit >= 0xDC00 && unit <= 0xDFFF;
    if ((v->half && !second) || (!v->half && second))
        v->flags |= VALIDATOR_LONE_SURROGATE;
    v->half = unit >= 0xD800 && unit <= 0xDBFF;
}

static VALIDATOR_UNUSED int validator_in_string(struct validator *v, unsigned char c)
{
    if (c == '\\') {
        v->state = VALIDATOR_ESCAPE;
        return VALIDATOR_VALID;
    }
    if (c < 0x20)
        return VALIDATOR_SYNTAX;
    validator_character(v, 0);
    if (c == '"')
        v->state = v->name ? VALIDATOR_COLON : VALIDATOR_AFTER;
    if (c < 0x80)
        return VALIDATOR_VALID;
    for (v->row = 0; v->row < sizeof validator_utf8 / sizeof *validator_utf8; v->row++) {
        const unsigned char *range = validator_utf8[v->row].range[0];
        if (c >= range[0] && c <= range[1]) {
            v->byte = 1;
            v->state = VALIDATOR_CONTINUATION;
            return VALIDATOR_VALID;
        }
    }
    return VALIDATOR_UTF8;
}

static VALIDATOR_UNUSED int validator_continuation(struct validator *v, unsigned char c)
{
    const unsigned char *range = validator_utf8[v->row].range[v->byte];
    if (c < range[0] || c > range[1])
        return VALIDATOR_UTF8;
    if (++v->byte == validator_utf8[v->row].bytes)
        v->state = VALIDATOR_STRING;
    return VALIDATOR_VALID;
}

static VALIDATOR_UNUSED int validator_escape(struct validator *v, unsigned char c)
{
    if (c == 'u') {
        v->unit = v->digits = 0;
        v->state = VALIDATOR_HEX;
        return VALIDATOR_VALID;
    }
    if (c == 0 || !strchr("\"\\/bfnrt", c))
        return VALIDATOR_SYNTAX;
    validator_character(v, 0);
    v->state = VALIDATOR_STRING;
    return VALIDATOR_VALID;
}

static VALIDATOR_UNUSED int validator_hex(struct validator *v, unsigned char c)
{
    unsigned digit;
    if (validator_digit(c))
        digit = (unsigned)(c - '0');
    else if (c >= 'a' && c <= 'f')
        digit = (unsigned)(c - 'a' + 10);
    else if (c >= 'A' && c <= 'F')
        digit = (unsigned)(c - 'A' + 10);
    else
        return VALIDATOR_SYNTAX;
    v->unit = v->unit * 16 + digit;
    if (++v->digits == 4) {
        validator_character(v, v->unit);
        v->state = VALIDATOR_STRING;
    }
    return VALIDATOR_VALID;
}

static VALIDATOR_UNUSED void validator_string_begins(struct validator *v, unsigned name)
{
    v->name = name;
    v->half = 0;
    v->state = VALIDATOR_STRING;
}

/* The first byte of a value. */
static VALIDATOR_UNUSED int validator_value(struct validator *v, unsigned char c)
{
    if (c == '[' || c == '{') {
        if (v->depth == VALIDATOR_DEPTH)
            return VALIDATOR_TOO_DEEP;
        v->open[v->depth++] = (char)c;
        v->state = c == '[' ? VALIDATOR_FIRST_ELEMENT : VALIDATOR_FIRST_MEMBER;
    } else if (c == '"') {
        validator_string_begins(v, 0);
    } else if (c == 't' || c == 'f' || c == 'n') {
        v->literal = c == 't' ? "rue" : c == 'f' ? "alse" : "ull";
        v->state = VALIDATOR_LITERAL;
    } else if (c == '-' || validator_digit(c)) {
        v->number = v->at;
        v->state = c == '-' ? VALIDATOR_MINUS : c == '0' ? VALIDATOR_ZERO : VALIDATOR_INTEGER;
    } else {
        return VALIDATOR_SYNTAX;
    }
    return VALIDATOR_VALID;
}

/* A byte between strings, numbers and literals. */
static VALIDATOR_UNUSED int validator_between(struct validator *v, unsigned char c)
{
    char open = v->depth ? v->open[v->depth - 1] : 0;
    if (c == ' ' || c == '\t' || c == '\n' || c == '\r')
        return VALIDATOR_VALID;
    switch (v->state) {
    case VALIDATOR_COLON:
        v->state = VALIDATOR_VALUE;
        return c == ':' ? VALIDATOR_VALID : VALIDATOR_SYNTAX;
    case VALIDATOR_NAME:
    case VALIDATOR_FIRST_MEMBER:
        if (c == '"') {
            validator_string_begins(v, 1);
            return VALIDATOR_VALID;
        }
        if (v->state == VALIDATOR_NAME)
            return VALIDATOR_SYNTAX;
        break;
    case VALIDATOR_FIRST_ELEMENT:
        if (c == ']')
            break;
        return validator_value(v, c);
    case VALIDATOR_AFTER:
        if (open && c == ',') {
            v->state = open == '{' ? VALIDATOR_NAME : VALIDATOR_VALUE;
            return VALIDATOR_VALID;
        }
        break;
    default:
        return validator_value(v, c);
    }
    /* Nothing else is possible now than the closing bracket. */
    if (!open || c != (open == '[' ? ']' : '}'))
        return VALIDATOR_SYNTAX;
    v->depth--;
    v->state = VALIDATOR_AFTER;
    return VALIDATOR_VALID;
}

/* Takes one byte, v->text[v->at]. Returns VALIDATOR_VALID, or why it is refused. */
static VALIDATOR_UNUSED int validator_byte(struct validator *v)
{
    unsigned char c = v->text[v->at];
    int answer;
    if (v->state >= VALIDATOR_MINUS) {
        enum validator_state next = validator_number(v->state, c);
        if (next == VALIDATOR_VALUE)
            return VALIDATOR_SYNTAX;
        if (next != VALIDATOR_AFTER) {
            v->state = next;
            v->at++;
            return VALIDATOR_VALID;
        }
        validator_number_ends(v);
    }
    switch (v->state) {
    case VALIDATOR_STRING:
        answer = validator_in_string(v, c);
        break;
    case VALIDATOR_CONTINUATION:
        answer = validator_continuation(v, c);
        break;
    case VALIDATOR_ESCAPE:
        answer = validator_escape(v, c);
        break;
    case VALIDATOR_HEX:
        answer = validator_hex(v, c);
        break;
    case VALIDATOR_LITERAL:
        answer = c == (unsigned char)*v->literal ? VALIDATOR_VALID : VALIDATOR_SYNTAX;
        if (!answer && !*++v->literal)
            v->state = VALIDATOR_AFTER;
        break;
    default:
        answer = validator_between(v, c);
        break;
    }
    if (answer == VALIDATOR_VALID)
        v->at++;
    return answer;
}

static VALIDATOR_UNUSED void validator_begin(struct validator *v, const unsigned char *text)
{
    memset(v, 0, offsetof(struct validator, open));
    v->text = text;
}

/* Takes the bytes up to `bytes`, the end of the text. */
static VALIDATOR_UNUSED int validator_rest(struct validator *v, size_t bytes)
{
    while (v->at < bytes) {
        int answer = validator_byte(v);
        if (answer != VALIDATOR_VALID)
            return answer;
    }
    /* The end of the text ends a number, if the number may end here. */
    if (v->state >= VALIDATOR_MINUS && validator_number(v->state, ' ') == VALIDATOR_AFTER)
        validator_number_ends(v);
    return v->state == VALIDATOR_AFTER && v->depth == 0 ? VALIDATOR_VALID : VALIDATOR_CUT_SHORT;
}

/* Tells whether `text` is exactly one JSON text (RFC 8259) in UTF-8, at most 1,024 levels deep.
 * *offset is that of the byte which is refused, and the length of a text that is valid or cut
 * short; *flags are a set of enum validator_flag, complete for a valid text. Either may be NULL.
 *
 * Returns one of enum validator_answer: VALIDATOR_VALID is 0. */
static VALIDATOR_UNUSED int validate(const unsigned char *text, size_t bytes, size_t *offset,
                                     unsigned *flags)
{
    struct validator v;
    int answer;
    validator_begin(&v, text);
    answer = validator_rest(&v, bytes);
    if (offset)
        *offset = v.at;
    if (flags)
        *flags = v.flags;
    return answer;
}

#endif
