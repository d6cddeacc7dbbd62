// Tables of numbers in text, a batch at a time: find the tokens, turn all of them into doubles, hand out the columns.
//
// Every double is the one nearest to what is written. A short token is a whole number below 2^52 divided by a power of
// ten; both are exact, so that the division rounds once. All others go through strtod.
//
// Two ways lead there. Where the processor has AVX-512, `plain` takes batches of nothing but short tokens; `general`
// takes all others, on any processor.

#define _GNU_SOURCE
#include <fcntl.h>
#include <locale.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && defined(__AVX512VBMI__) && \
    defined(__AVX512VBMI2__) && defined(__AVX512VPOPCNTDQ__) && defined(__BMI2__)
#define WIDE 1
#else
#define WIDE 0
#endif

// A batch is filled by blocks of 64 bytes, with at most 32 tokens each; its columns take up whole vectors.
enum { BLOCK = 64, LANES = 4, TOKENS = 1024, WIDTH = 128, FOUND = TOKENS + BLOCK, SPACE = FOUND + WIDTH * LANES };

typedef uint64_t word __attribute__((aligned(1), may_alias));
typedef uint64_t words __attribute__((vector_size(8 * LANES), may_alias));
typedef uint32_t halves __attribute__((vector_size(8 * LANES), may_alias));
typedef uint32_t places __attribute__((vector_size(4 * LANES), may_alias));
typedef double doubles __attribute__((vector_size(8 * LANES), may_alias));

// Tokens in the order of the text, then column by column: their last sixteen characters, lengths and values.
typedef struct {
    uint32_t start[FOUND], end[FOUND];
    uint64_t low[SPACE] __attribute__((aligned(64))), high[SPACE] __attribute__((aligned(64)));
    uint32_t length[SPACE] __attribute__((aligned(64)));
    double value[SPACE] __attribute__((aligned(64)));
} tokens;

// Where a column goes: row n to `to[n * step]`, as a double, or as a byte where `bytes` is set.
typedef struct {
    void *to;
    int64_t step;
    int64_t bytes;
} column;

// A table: its lines, and where they go.
typedef struct {
    char separator; // blanks separate, too
    int finite, width;
    const column *columns;
    int64_t capacity;        // rows
    uint64_t closing[WIDTH]; // which of the next tokens end a line, by how many this one has
    int doubles;             // how many columns lie side by side, from the first one on
    int bytes;               // how many after these; the latter lie side by side, too
    uint8_t kinds[256];      // of characters
} table;

// The last two stand in bits that cost the least to look at.
enum { BLANK = 1, NEWLINE = 2, POINT = 4, MINUS = 64, DIGIT = 128 };

// How many columns lie side by side, from the first one on.
static int beside(const column *columns, int64_t count, int bytes) {
    int n = 0;
    for (int64_t size = bytes ? sizeof(uint8_t) : sizeof(double); n < count; n++)
        if (columns[n].bytes != bytes || columns[n].step != columns[0].step ||
            (char *)columns[n].to != (char *)columns[0].to + n * size)
            break;
    return n;
}

static int describe(table *to, char separator, int finite, int64_t width, const column *columns, int64_t capacity) {
    if (width < 1 || width > WIDTH) return 0;
    *to = (table){.separator = separator, .finite = finite, .columns = columns, .capacity = capacity};
    to->width = (int)width;
    for (int has = 0; has < width; has++)
        for (int64_t n = width - 1 - has; n < BLOCK; n += width) to->closing[has] |= 1ull << n;
    to->doubles = beside(columns, width, 0), to->bytes = beside(columns + to->doubles, width - to->doubles, 1);
    for (int c = '0'; c <= '9'; c++) to->kinds[c] = DIGIT;
    to->kinds['.'] = POINT, to->kinds['-'] = MINUS, to->kinds['\n'] = BLANK | NEWLINE;
    to->kinds[' '] = to->kinds['\t'] = to->kinds['\r'] = to->kinds[(uint8_t)separator] |= BLANK;
    return 1;
}

// How many tokens are ended by the last newline, after a block in which these bits end tokens and these of them lines;
// -1 where a line has not as many as it should. Before it there were `ends` and `line`.
static inline int closed(const table *to, uint64_t end, uint64_t newline, int ends, int line) {
    const int width = to->width;
#if defined(__BMI2__)
    // Mostly each newline follows a token at once, and those are the right ones.
    int has = ends - line;
    if (!(newline & ~end) && has < width) {
        uint64_t closing = _bzhi_u64(to->closing[has], (unsigned)__builtin_popcountll(end));
        if (_pext_u64(newline, end) == closing) return closing ? ends + BLOCK - __builtin_clzll(closing) : line;
    }
#endif
    for (; newline; newline &= newline - 1) {
        int now = ends + __builtin_popcountll(end & (newline ^ (newline - 1)));
        if (now != line && now != line + width) return -1;
        line = now;
    }
    return line;
}

// Which of 64 bytes are blanks (the separator is one), and which of these end a line.
static inline void classify(const char *at, char separator, uint64_t *blank, uint64_t *newline) {
    uint64_t blanks = 0, newlines = 0;
#if defined(__SSE2__)
    for (int part = 0; part < BLOCK; part += 16) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(at + part));
        __m128i line = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\n'));
        __m128i space = _mm_or_si128(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(' ')),
                                     _mm_cmpeq_epi8(bytes, _mm_set1_epi8(separator)));
        __m128i other = _mm_or_si128(_mm_cmpeq_epi8(bytes, _mm_set1_epi8('\t')),
                                     _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\r')));
        newlines |= (uint64_t)(uint32_t)_mm_movemask_epi8(line) << part;
        blanks |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_or_si128(line, _mm_or_si128(space, other))) << part;
    }
#else
    for (int n = 0; n < BLOCK; n++) {
        uint64_t line = at[n] == '\n';
        newlines |= line << n;
        blanks |= (line | (at[n] == ' ') | (at[n] == '\t') | (at[n] == '\r') | (at[n] == separator)) << n;
    }
#endif
    *blank = blanks;
    *newline = newlines;
}

// Where the bits are, no more than 32; what is written beyond their count is noise.
static inline void positions(uint64_t bits, uint32_t base, uint32_t *out) {
    // Eight at a time, so that few branches depend on the text.
    for (int left = __builtin_popcountll(bits); left > 0; left -= 8)
        for (int n = 0; n < 8; n++) {
            *out++ = base + (uint32_t)__builtin_ctzll(bits | 1ull << 63);
            bits &= bits - 1;
        }
}

#define EACH(byte) (0x0101010101010101ull * (byte))

// In the following, a lane is eight characters less '0', the last of them in the highest byte.

static inline words eight_digits(words digits) {
    words twos = ((digits << 3) + (digits << 1) + (digits >> 8)) & 0x00ff00ff00ff00ffull;
    halves fours = ((halves)twos & 0xffff) * 100 + ((halves)twos >> 16);
    return (words)((halves)((words)fours & 0xffffffffull) * 10000) + ((words)fours >> 32);
}

static inline words no_digits(words digits) { return (digits | (digits + EACH(0x76))) & EACH(0x80); }

// The lowest bit of each byte that is a point or no digit at all.
static inline words marks(words lane) { return (lane & EACH(0x10)) >> 4; }

// Not zero where there are several marks, or the one is no point.
static inline words no_point(words lane, words mark) {
    return (lane & ((mark << 8) - mark)) ^ ((mark << 5) - (mark << 1)) /* '.' less '0', xored, is 0x1e */;
}

// The bytes before the mark: none without one.
static inline words before(words mark) { return (mark - 1) & (words)(mark != 0); }

// Ten to the number of bytes behind the mark; 1 without one, and no matter what with several.
static inline doubles scale(words mark) {
    static const double powers[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7};
    doubles power;
    for (int n = 0; n < LANES; n++) power[n] = powers[mark[n] * 0x0706050403020100ull >> 56 & 7];
    return power;
}

// Exact below 2^52.
static inline doubles to_doubles(words whole) { return (doubles)(whole | 0x4330000000000000ull) - 0x1p52; }

static inline words select_words(words mask, words yes, words no) { return (mask & yes) | (~mask & no); }

static inline words lengths(const tokens *batch, int n) {
    return __builtin_convertvector(*(places *)(batch->length + n), words);
}

static inline int any(words lanes) { return (lanes[0] | lanes[1] | lanes[2] | lanes[3]) != 0; }

// LANES tokens of up to 8 characters, from place n on; what is not zero is wrong.
static inline words convert_short(tokens *batch, int n) {
    words length = lengths(batch, n), shift = (64 - 8 * length) & 63;
    words lane = (*(words *)(batch->low + n) ^ EACH('0')) & (~(words){} << shift);
    words mark = marks(lane);
    if (!any(mark)) { // neither sign nor point
        *(doubles *)(batch->value + n) = to_doubles(eight_digits(lane));
        return no_digits(lane);
    }
    words minus = (words)((lane >> shift & 0xff) == ('-' ^ '0'));
    lane &= ~((minus & 0xff) << shift);
    mark = marks(lane);
    words front = before(mark), point = (mark << 8) - mark;
    words digits = (lane & ~(front | point)) | (lane & front) << 8;
    words none = (words)(length + minus <= 1 + (words)(mark == 0));
    doubles value = to_doubles(eight_digits(digits)) / scale(mark);
    *(doubles *)(batch->value + n) = (doubles)((words)value | (minus & 1ull << 63));
    return no_point(lane, mark) | (mark & front) | none | no_digits(digits);
}

// The same with up to 16 characters, in two lanes; longer tokens are wrong.
static inline words convert_long(tokens *batch, int n) {
    words length = lengths(batch, n), shift = (64 - 8 * length) & 63, far = (words)(length > 8);
    words cut = ~(words){} << shift;
    words low = (*(words *)(batch->low + n) ^ EACH('0')) & (far | cut);
    words high = (*(words *)(batch->high + n) ^ EACH('0')) & (far & cut);
    words minus = (words)((select_words(far, high, low) >> shift & 0xff) == ('-' ^ '0')), sign = (minus & 0xff) << shift;
    low &= ~(sign & ~far);
    high &= ~(sign & far);
    words mark = marks(low), front = before(mark), point = (mark << 8) - mark;
    words mark2 = marks(high), front2 = before(mark2), point2 = (mark2 << 8) - mark2;
    words in_low = (words)(mark != 0), in_high = (words)(mark2 != 0);
    words wrong = no_point(low, mark) | no_point(high, mark2) | (mark & front) | (mark2 & front2);
    wrong |= (in_low & in_high) | (words)(length > 16) | (words)(length + minus <= 1 + ~(in_low | in_high));
    // All before the point moves up a byte, from one lane into the other.
    low = (low & ~(front | point)) | (low & front) << 8 | (in_low & high >> 56);
    high = select_words(in_low, high << 8, (high & ~(front2 | point2)) | (high & front2) << 8);
    words whole = eight_digits(high) * 100000000 + eight_digits(low);
    wrong |= no_digits(low) | no_digits(high) | (words)(whole >= 1ull << 52);
    doubles power = (doubles)select_words(in_high, (words)(scale(mark2) * 1e8), (words)scale(mark));
    *(doubles *)(batch->value + n) = (doubles)((words)(to_doubles(whole) / power) | (minus & 1ull << 63));
    return wrong;
}

// Any other number that Python's float() takes, save those with `_`; 0 where it is none, or not finite and has to be.
static int convert_one(const char *text, uint32_t start, uint32_t end, int finite, locale_t locale, double *value) {
    const char *first = text + start, *last = text + end, *bare = first + (*first == '-' || *first == '+');
    int named = (last - bare == 3 && (!strncasecmp(bare, "nan", 3) || !strncasecmp(bare, "inf", 3))) ||
                (last - bare == 8 && !strncasecmp(bare, "infinity", 8));
    for (const char *c = first; c < last && !named; c++)
        if (!(*c >= '0' && *c <= '9') && *c != '.' && *c != '-' && *c != '+' && *c != 'e' && *c != 'E') return 0;
    char *stop;
    *value = strtod_l(first, &stop, locale);
    return stop == last && !(finite && !(*value - *value == 0));
}

// Where column k of a batch begins.
static inline int place(int k, int rows) { return k * ((rows + LANES - 1) / LANES * LANES); }

// The tokens of column k, side by side; 0 where one is no number.
static int convert(const char *text, tokens *batch, int k, int width, int rows, int finite, locale_t locale) {
    int first = place(k, rows);
    uint32_t longest = 0;
    for (int n = 0; n < rows; n++) {
        uint32_t end = batch->end[n * width + k], length = end - batch->start[n * width + k];
        batch->low[first + n] = *(const word *)(text + end - 8);
        batch->length[first + n] = length;
        longest = length > longest ? length : longest;
    }
    for (int n = first + rows; n < place(k + 1, rows); n++) batch->low[n] = batch->high[n] = EACH('0'), batch->length[n] = 1;
    if (longest > 8)
        for (int n = 0; n < rows; n++) batch->high[first + n] = *(const word *)(text + batch->end[n * width + k] - 16);
    for (int at = 0; at < rows; at += LANES) {
        words wrong = longest > 8 ? convert_long(batch, first + at) : convert_short(batch, first + at);
        if (!any(wrong)) continue;
        for (int n = at; n < rows && n < at + LANES; n++) {
            int token = n * width + k;
            if (wrong[n - at] &&
                !convert_one(text, batch->start[token], batch->end[token], finite, locale, batch->value + first + n))
                return 0;
        }
    }
    return 1;
}

// Every `apart`th value to where a column goes; whether all fit that go to bytes.
static int hand_out(const double *value, int apart, int rows, const column *to, int64_t row) {
    int wrong = 0;
    for (int n = 0; n < rows; n++, row++, value += apart) {
        if (to->bytes) {
            int inside = *value >= 0 && *value <= 255, whole = inside ? (int)*value : 0;
            wrong |= !inside | (whole != *value);
            ((uint8_t *)to->to)[row * to->step] = (uint8_t)whole;
        } else {
            ((double *)to->to)[row * to->step] = *value;
        }
    }
    return !wrong;
}

// Any numbers, from text[*next] on: a batch of whole lines, and the next line after it. Returns the number of rows, or
// -1.
static int general(const table *to, tokens *batch, locale_t locale, const char *text, int64_t size, int64_t row,
                   int64_t *next) {
    uint64_t outside = 1;               // whether the byte before the block is a blank
    int starts = 0, ends = 0, line = 0; // tokens begun, ended, and ended by the last newline
    const int width = to->width;
    int64_t at = *next;
    for (; at < size && starts < TOKENS; at += BLOCK) {
        uint64_t blank, newline;
        classify(text + at, to->separator, &blank, &newline);
        uint64_t shifted = blank << 1 | outside, begin = ~blank & shifted, end = blank & ~shifted;
        outside = blank >> 63;
        positions(begin, (uint32_t)at, batch->start + starts);
        positions(end, (uint32_t)at, batch->end + ends);
        line = closed(to, end, newline, ends, line);
        if (line < 0) return -1;
        if (newline) *next = at + BLOCK - __builtin_clzll(newline);
        starts += __builtin_popcountll(begin);
        ends += __builtin_popcountll(end);
    }
    if (at >= size) { // the text may end in a line without its newline
        *next = size;
        if (ends < starts) batch->end[ends++] = (uint32_t)at;
        if (line < ends) line += width;
        if (line != ends) return -1;
    }
    int rows = line / width;
    if ((rows == 0 && ends > 0) || row + rows > to->capacity) return -1;
    for (int k = 0; k < width; k++)
        if (!convert(text, batch, k, width, rows, to->finite, locale) ||
            !hand_out(batch->value + place(k, rows), 1, rows, to->columns + k, row))
            return -1;
    return rows;
}

#if WIDE
// Tokens in the order of the text: their digits, without anything between; where each one ends there, modulo 256, from
// the second place on; which bytes of a lane of 8 or 16 its digits fill; their values.
enum { BEHIND_POINT = 0x80, BEHIND_MINUS = 0x40, BATCH = 4096 };
typedef struct {
    uint8_t digit[BATCH + 2 * BLOCK], end[BATCH / 2 + 2 * BLOCK], fill[BATCH / 2 + 2 * BLOCK];
    uint16_t fill_long[BATCH / 2 + 2 * BLOCK];
    double value[BATCH / 2 + 2 * BLOCK];
} plain_tokens;

// Lanes of 8 digits, the last of them in the highest byte, to whole numbers.
static inline __m512i whole_numbers(__m512i lanes) {
    __m512i digits = _mm512_and_si512(lanes, _mm512_set1_epi8(0x0f));
    __m512i twos = _mm512_maddubs_epi16(digits, _mm512_set1_epi16(0x010a));
    __m512i fours = _mm512_madd_epi16(twos, _mm512_set1_epi32(0x00010064));
    return _mm512_add_epi64(_mm512_mul_epu32(fours, _mm512_set1_epi64(10000)), _mm512_srli_epi64(fours, 32));
}

static inline __m512i behind_point(__m512i lanes) {
    return _mm512_popcnt_epi64(_mm512_and_si512(lanes, _mm512_set1_epi8((char)BEHIND_POINT)));
}

static inline __m512d with_sign(__m512d value, __m512i lanes) {
    __mmask8 minus = _mm512_test_epi64_mask(lanes, _mm512_set1_epi8(BEHIND_MINUS));
    return _mm512_mask_xor_pd(value, minus, value, _mm512_set1_pd(-0.0));
}

// Ten to the power of 0 to 15.
static inline __m512d power(__m512i exponent) {
    const __m512d low = _mm512_set_pd(1e7, 1e6, 1e5, 1e4, 1e3, 1e2, 1e1, 1e0);
    const __m512d high = _mm512_set_pd(1e15, 1e14, 1e13, 1e12, 1e11, 1e10, 1e9, 1e8);
    return _mm512_permutex2var_pd(low, exponent, high);
}

static int hand_out_all(const table *to, const double *value, int rows, int64_t row) {
    for (int k = 0; k < to->width; k++)
        if (!hand_out(value + k, to->width, rows, to->columns + k, row)) return 0;
    return 1;
}

// Eight tokens of up to 8 digits: their values, and as whole numbers, without sign and point.
typedef struct {
    __m512i lanes, whole;
    __m512d value;
} eight;

// `fill` says which bytes of each lane they fill.
static inline eight short_tokens(const uint8_t *digit, uint64_t fill) {
    const __m512d low = _mm512_set_pd(1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0), high = _mm512_set1_pd(1e-8);
    __m512i lanes = _mm512_maskz_expand_epi8(fill, _mm512_loadu_si512(digit));
    __m512i whole = whole_numbers(lanes), behind = behind_point(lanes);
    __m512d number = _mm512_cvtepi64_pd(whole), inverse = _mm512_permutex2var_pd(low, behind, high);
    // A product and its remainder: one step from the quotient, and the same double for each of the 9 * 10^8 cases.
    __m512d product = _mm512_mul_pd(number, inverse);
    __m512d quotient = _mm512_fmadd_pd(_mm512_fnmadd_pd(product, power(behind), number), inverse, product);
    return (eight){lanes, whole, with_sign(quotient, lanes)};
}

// Short tokens to where they go; 0 where one is not as plain as it has to be.
static int short_rows(const table *to, plain_tokens *batch, int count, int64_t row) {
    const column *first = to->columns, *second = first + to->doubles;
    const uint8_t *digit = batch->digit;
    const int width = to->width;
    if (to->bytes && to->doubles + to->bytes == width && width <= 8) {
        const __mmask8 doubles = (__mmask8)((1 << to->doubles) - 1), bytes = (__mmask8)((1 << width) - 1 - doubles);
        const __m512i lowest = _mm512_set1_epi64(0x3830282018100800);
        __m512i large = _mm512_setzero_si512(), marked = large;
        double *at = (double *)first->to + row * first->step;
        uint8_t *bytes_at = (uint8_t *)second->to + row * second->step - to->doubles;
        for (int n = 0; n < count; n += width, at += first->step, bytes_at += second->step) {
            uint64_t fill = _bzhi_u64(*(const word *)(batch->fill + n), (unsigned)(8 * width));
            eight tokens = short_tokens(digit, fill);
            digit += __builtin_popcountll(fill);
            large = _mm512_or_si512(large, tokens.whole);
            marked = _mm512_or_si512(marked, tokens.lanes);
            _mm512_mask_storeu_pd(at, doubles, tokens.value);
            _mm_mask_storeu_epi8(bytes_at, bytes,
                                 _mm512_castsi512_si128(_mm512_permutexvar_epi8(lowest, tokens.whole)));
        }
        return !_mm512_mask_test_epi64_mask(bytes, large, _mm512_set1_epi64(~0xffll)) &&
               !_mm512_mask_test_epi64_mask(bytes, marked, _mm512_set1_epi8((char)(BEHIND_POINT | BEHIND_MINUS)));
    }
    // Rows of doubles that follow each other without a gap are one row.
    const int solid = to->doubles == width && first->step == width;
    double *at = solid ? (double *)first->to + row * width : batch->value;
    for (int n = 0; n < count; n += 8) {
        uint64_t fill = *(const word *)(batch->fill + n);
        __mmask8 which = count - n < 8 ? (__mmask8)((1 << (count - n)) - 1) : 0xff;
        _mm512_mask_storeu_pd(at + n, which, short_tokens(digit, fill).value);
        digit += __builtin_popcountll(fill);
    }
    return solid || hand_out_all(to, batch->value, count / width, row);
}

// Tokens of up to 16 digits; 0 where one is no whole number below 2^53 by a power of ten up to 15.
static int long_values(plain_tokens *batch, int count) {
    const uint8_t *digit = batch->digit;
    __mmask8 wrong = 0;
    for (int n = 0; n < count; n += 4) {
        uint64_t fill = *(const word *)(batch->fill_long + n);
        __m512i lanes = _mm512_maskz_expand_epi8(fill, _mm512_loadu_si512(digit));
        digit += __builtin_popcountll(fill);
        // From here on, only every other lane counts.
        __m512i whole = whole_numbers(lanes), behind = behind_point(lanes);
        whole = _mm512_add_epi64(_mm512_mul_epu32(whole, _mm512_set1_epi64(100000000)), _mm512_bsrli_epi128(whole, 8));
        behind = _mm512_add_epi64(behind, _mm512_bsrli_epi128(behind, 8));
        lanes = _mm512_or_si512(lanes, _mm512_bsrli_epi128(lanes, 8));
        wrong |= _mm512_cmpgt_epi64_mask(whole, _mm512_set1_epi64((1ll << 53) - 1));
        wrong |= _mm512_cmpgt_epi64_mask(behind, _mm512_set1_epi64(15));
        __m512d quotient = _mm512_div_pd(_mm512_cvtepi64_pd(whole), power(behind));
        _mm512_storeu_pd(batch->value + n, _mm512_maskz_compress_pd(0x55, with_sign(quotient, lanes)));
    }
    return !(wrong & 0x55);
}

// The first tokens to where they go; 0 where one is not as plain as it has to be.
static int convert_plain(const table *to, plain_tokens *batch, int count, int64_t row) {
    const __m512i fills = _mm512_broadcast_i32x4(_mm_set_epi64x(0xff, (int64_t)0xfefcf8f0e0c08000));
    int longest = 8;
    // No token is left over from what the last vectors take.
    memset(batch->end + 1 + count, batch->end[count], BLOCK);
    for (int n = 0; n < count; n += BLOCK) {
        __m512i length = _mm512_sub_epi8(_mm512_loadu_si512(batch->end + n + 1), _mm512_loadu_si512(batch->end + n));
        if (_mm512_cmpgt_epu8_mask(length, _mm512_set1_epi8(16))) return 0;
        if (_mm512_cmpgt_epu8_mask(length, _mm512_set1_epi8(8))) longest = 16;
        _mm512_storeu_si512(batch->fill + n, _mm512_shuffle_epi8(fills, length));
    }
    if (longest == 8) return short_rows(to, batch, count, row);
    for (int n = 0; n < count + 3; n++)
        batch->fill_long[n] = (uint16_t)(0xffff0000u >> (uint8_t)(batch->end[n + 1] - batch->end[n]));
    if (!long_values(batch, count)) return 0;
    return hand_out_all(to, batch->value, count / to->width, row);
}

// The compiler would compute in mask registers, too, at several times the cost.
static inline uint64_t scalar(uint64_t mask) {
    __asm__("" : "+r"(mask));
    return mask;
}

// As `general`, for nothing but short numbers; without a row, and *next as it was, where others come at once.
static int plain(const table *to, plain_tokens *batch, const char *text, int64_t size, int64_t row, int64_t *next) {
    const __m512i all = _mm512_set_epi64(0x3f3e3d3c3b3a3938, 0x3736353433323130, 0x2f2e2d2c2b2a2928, 0x2726252423222120,
                                         0x1f1e1d1c1b1a1918, 0x1716151413121110, 0x0f0e0d0c0b0a0908, 0x0706050403020100);
    const __m512i kind_of = _mm512_loadu_si512(to->kinds);
    const __m512i point_mark = _mm512_set1_epi64((int64_t)EACH(BEHIND_POINT));
    const int width = to->width;
    const char *at = text + *next, *stop = at + (size - *next < BATCH ? size - *next : BATCH);
    uint8_t *digits = batch->digit;
    int tokens = 0, line = 0; // the latter: those ended by the last newline
    uint64_t outside = 1, fraction = 0, signs = 0; // whether the byte before is a blank, a point or behind one, a minus
    batch->end[0] = 0;
    for (; at < stop; at += BLOCK) {
        _mm_prefetch(at + 2048, _MM_HINT_T0);
        __m512i bytes = _mm512_loadu_si512(at);
        __m512i kinds =
            _mm512_maskz_permutexvar_epi8(_mm512_cmplt_epu8_mask(bytes, _mm512_set1_epi8(64)), bytes, kind_of);
        __mmask64 digits_here = _mm512_movepi8_mask(kinds);
        uint64_t digit = scalar(digits_here), point = scalar(_mm512_test_epi8_mask(kinds, _mm512_set1_epi8(POINT)));
        uint64_t minus = scalar(_mm512_movepi8_mask(_mm512_add_epi8(kinds, kinds)));
        uint64_t newline = scalar(_mm512_test_epi8_mask(kinds, _mm512_set1_epi8(NEWLINE)));
        uint64_t blank = scalar(_mm512_test_epi8_mask(kinds, _mm512_set1_epi8(BLANK)));
        uint64_t kind = to->kinds[(uint8_t)at[BLOCK]];
        uint64_t before_blank = blank >> 1 | kind << 63, before_newline = newline >> 1 | kind >> 1 << 63;
        uint64_t after_blank = blank << 1 | outside, after_point = point << 1 | fraction;
        uint64_t after_minus = scalar(minus << 1 | signs);
        // The carry runs through all digits that follow a point.
        uint64_t behind = scalar(digit & ~(digit + (after_point & digit))), last = digit & before_blank;
        uint64_t wrong = ~(digit | point | minus | blank) | (minus & (~after_blank | before_blank)) | (after_minus & ~digit) |
                         (point & (before_blank | after_point | behind << 1));
        int lines = closed(to, last, before_newline, tokens, line);
        if (wrong || !blank || lines < 0) break;
        line = lines;
        outside = blank >> 63, fraction = (behind | point) >> 63, signs = minus >> 63;
        __m512i found = _mm512_maskz_compress_epi8(scalar(_pext_u64(last, digit)), all);
        found = _mm512_add_epi8(found, _mm512_set1_epi8((char)(digits + 1 - batch->digit)));
        _mm256_storeu_si256((__m256i *)(batch->end + 1 + tokens), _mm512_castsi512_si256(found));
        tokens += __builtin_popcountll(last);
        bytes = _mm512_and_si512(bytes, _mm512_set1_epi8(0x0f));
        bytes = _mm512_mask_add_epi8(bytes, behind, bytes, point_mark);
        bytes = _mm512_mask_add_epi8(bytes, after_minus, bytes, _mm512_set1_epi8(BEHIND_MINUS));
        _mm512_storeu_si512(digits, _mm512_maskz_compress_epi8(digits_here, bytes));
        digits += __builtin_popcountll(digit);
    }
    if (line == 0 && at < text + size) return 0;
    int rows = line / width;
    if (row + rows > to->capacity) return -1;
    if (!convert_plain(to, batch, line, row)) return 0;
    // The newline that ends the last line may stand at `at`.
    *next = at < text + size ? (const char *)memrchr(text, '\n', (size_t)(at + 1 - text)) + 1 - text : size;
    return rows;
}
#endif

typedef struct {
    tokens *batch;
#if WIDE
    plain_tokens plain;
#endif
    locale_t locale; // for strtod, whatever the program's is
} workspace;

static int open_workspace(workspace *work) {
    work->batch = aligned_alloc(64, (sizeof *work->batch + 63) / 64 * 64);
    work->locale = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0);
    return work->batch && work->locale;
}

static void close_workspace(workspace *work) {
    if (work->locale) freelocale(work->locale);
    free(work->batch);
}

// As parse_numbers, to rows from `first` on.
static int64_t parse(workspace *work, const table *to, const char *text, int64_t size, int64_t first) {
    if (size >= UINT32_MAX - 2 * BLOCK) return -1;
    int64_t row = first;
    for (int64_t next = 0; next < size;) {
        int rows = 0;
#if WIDE
        int64_t here = next;
        rows = plain(to, &work->plain, text, size, row, &next);
        if (next == here && rows >= 0)
#endif
            rows = general(to, work->batch, work->locale, text, size, row, &next);
        if (rows < 0) return -1;
        row += rows;
    }
    return row - first;
}

// The lines of text[0, size), `width` numbers each, to at most `capacity` rows; blank lines are passed over. Returns the
// number of rows, or -1 where a token is no number (no finite one, where `finite` is set), a line has another number of
// them, a byte does not fit or rows do not. There must be 16 readable bytes before the text, and 64 newlines after it.
int64_t parse_numbers(const char *text, int64_t size, char separator, int finite, int64_t width, const column *columns,
                      int64_t capacity) {
    workspace work;
    table to;
    int64_t rows = -1;
    if (open_workspace(&work) && describe(&to, separator, finite, width, columns, capacity))
        rows = parse(&work, &to, text, size, 0);
    close_workspace(&work);
    return rows;
}

// The lines of a file that begin in its bytes [begin, end), and where their rows are: `first`, and the number of them, -1
// where one is odd in any way. Before, `first` is where they may go at the latest, in room for `most`. `number` goes with
// each of them.
typedef struct {
    const char *path;
    int64_t begin, end, number, most, first, rows;
} part;

// What several threads share out among themselves. Each has a span of parts to do, [first, last) as last << 32 | first.
typedef struct {
    part *parts;
    uint64_t *spans;
    int64_t threads, finite, width;
    const column *columns;
    int64_t *numbers; // of the rows
} parts_to_do;

// The next part of a thread's span; without one, the second half of the longest span is its own. -1: all are taken.
static int64_t take(const parts_to_do *all, int64_t thread) {
    uint64_t *own = all->spans + thread, span = __atomic_load_n(own, __ATOMIC_RELAXED);
    while ((uint32_t)span < span >> 32)
        if (__atomic_compare_exchange_n(own, &span, span + 1, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            return (uint32_t)span;
    for (;;) {
        uint64_t *longest = NULL, taken = 0, most = 0;
        for (int64_t n = 0; n < all->threads; n++) {
            uint64_t other = __atomic_load_n(all->spans + n, __ATOMIC_RELAXED), left = (other >> 32) - (uint32_t)other;
            if (left > most) longest = all->spans + n, taken = other, most = left;
        }
        if (!longest) return -1;
        uint64_t middle = (uint32_t)taken + most / 2;
        if (!__atomic_compare_exchange_n(longest, &taken, middle << 32 | (uint32_t)taken, 0, __ATOMIC_RELAXED,
                                         __ATOMIC_RELAXED))
            continue;
        __atomic_store_n(own, (taken >> 32 << 32) | (middle + 1), __ATOMIC_RELAXED);
        return (int64_t)middle;
    }
}

// How far beyond its end a part may reach for the end of its last line.
enum { REST = 1 << 12 };

// The buffer has room for the part, this rest, and a block on either side.
static int64_t parse_part(workspace *work, const table *to, const part *here, int file, char *buffer) {
    // Of the byte before, it must be known whether it ends a line.
    int64_t from = here->begin - (here->begin > 0), wanted = here->end - from + REST, size = 0;
    ssize_t got = 1;
    char *text = buffer + BLOCK;
    for (; got > 0 && size < wanted; size += got > 0 ? got : 0)
        got = pread(file, text + size, (size_t)(wanted - size), from + size);
    if (got < 0) return -1;
    int64_t last = here->end - 1 - from;
    char *begin = here->begin > 0 ? memchr(text, '\n', (size_t)(last < size ? last : size)) : text - 1;
    char *end = last < size ? memchr(text + last, '\n', (size_t)(size - last)) : NULL;
    if (!begin) return 0; // a line that begins in a part before
    if (!end && size == wanted) return -1;
    begin++, end = end ? end + 1 : text + size;
    memset(end, '\n', BLOCK);
    return parse(work, to, begin, end - begin, here->first);
}

// One of the threads: parts, until there are none left.
void parse_parts(const parts_to_do *all, int64_t thread, int64_t longest) {
    workspace work;
    table to;
    char *buffer = malloc((size_t)longest + 1 + REST + 2 * BLOCK);
    int ready = open_workspace(&work) && buffer && describe(&to, ' ', (int)all->finite, all->width, all->columns, 0);
    int file = -1;
    const part *before = NULL;
    for (int64_t at; (at = take(all, thread)) >= 0;) {
        part *here = all->parts + at;
        to.capacity = here->first + here->most;
        // Rows that were parsed one after the other lie side by side.
        if (before == here - 1 && before->rows >= 0) here->first = before->first + before->rows;
        if (!before || before->path != here->path) {
            if (file >= 0) close(file);
            file = open(here->path, O_RDONLY | O_CLOEXEC);
        }
        here->rows = ready && file >= 0 ? parse_part(&work, &to, here, file, buffer) : -1;
        for (int64_t n = 0; n < here->rows; n++) all->numbers[here->first + n] = here->number;
        before = here;
    }
    if (file >= 0) close(file);
    free(buffer);
    close_workspace(&work);
}

// The newlines in text[0, size), after which there must be 64 of them.
int64_t count_lines(const char *text, int64_t size) {
    int64_t lines = 0;
    for (int64_t at = 0; at < size; at += BLOCK) {
        uint64_t blank, newline;
        classify(text + at, '\n', &blank, &newline);
        lines += __builtin_popcountll(size - at < BLOCK ? newline & ((1ull << (size - at)) - 1) : newline);
    }
    return lines;
}
