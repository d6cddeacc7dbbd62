// Tables of numbers in text, a batch at a time: find the tokens, turn all of them into doubles, hand out the columns.
//
// Every double is the one nearest to what is written. A short token is a whole number below 2^52 divided by a power of
// ten; both are exact, so that the division rounds once. All others go through strtod.

#define _GNU_SOURCE
#include <fcntl.h>
#include <locale.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512CD__) && defined(__AVX512VBMI2__)
#define WIDE 1
enum { LANES = 8 };
#else
#define WIDE 0
enum { LANES = 4 };
#endif

// Files from here on are read in pieces (number_table.py).
#define LARGEST (1 << 26)

// A batch is filled by blocks of 64 bytes, with at most 32 tokens each; its columns take up whole vectors.
enum { BLOCK = 64, TOKENS = 1024, WIDTH = 128, FOUND = TOKENS + BLOCK, SPACE = FOUND + WIDTH * LANES };

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

// Which of 64 bytes are blanks (the separator is one), and which of these end a line.
static inline void classify(const char *at, char separator, uint64_t *blank, uint64_t *newline) {
    uint64_t blanks = 0, newlines = 0;
#if WIDE
    __m512i bytes = _mm512_loadu_si512(at);
    newlines = _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8('\n'));
    blanks = newlines | _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(' ')) |
             _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8('\t')) |
             _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8('\r')) |
             _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(separator));
#elif defined(__SSE2__)
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
#if WIDE
    const __m512i all = _mm512_set_epi64(0x3f3e3d3c3b3a3938, 0x3736353433323130, 0x2f2e2d2c2b2a2928, 0x2726252423222120,
                                         0x1f1e1d1c1b1a1918, 0x1716151413121110, 0x0f0e0d0c0b0a0908, 0x0706050403020100);
    __m256i found = _mm512_castsi512_si256(_mm512_maskz_compress_epi8(bits, all));
    __m512i bases = _mm512_set1_epi32((int)base);
    _mm512_storeu_si512(out, _mm512_add_epi32(bases, _mm512_cvtepu8_epi32(_mm256_castsi256_si128(found))));
    _mm512_storeu_si512(out + 16, _mm512_add_epi32(bases, _mm512_cvtepu8_epi32(_mm256_extracti128_si256(found, 1))));
#else
    // Eight at a time, so that few branches depend on the text.
    for (int left = __builtin_popcountll(bits); left > 0; left -= 8)
        for (int n = 0; n < 8; n++) {
            *out++ = base + (uint32_t)__builtin_ctzll(bits | 1ull << 63);
            bits &= bits - 1;
        }
#endif
}

#define EACH(byte) (0x0101010101010101ull * (byte))

// In the following, a lane is eight characters less '0', the last of them in the highest byte.

static inline words eight_digits(words digits) {
#if WIDE
    __m512i twos = _mm512_maddubs_epi16((__m512i)digits, _mm512_set1_epi16(0x010a));
    __m512i fours = _mm512_madd_epi16(twos, _mm512_set1_epi32(0x00010064));
    return (words)_mm512_add_epi64(_mm512_mul_epu32(fours, _mm512_set1_epi64(10000)), _mm512_srli_epi64(fours, 32));
#else
    words twos = ((digits << 3) + (digits << 1) + (digits >> 8)) & 0x00ff00ff00ff00ffull;
    halves fours = ((halves)twos & 0xffff) * 100 + ((halves)twos >> 16);
    return (words)((halves)((words)fours & 0xffffffffull) * 10000) + ((words)fours >> 32);
#endif
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

// Ten to the number of bytes behind the mark; 1 without one.
static inline doubles scale(words mark) {
    static const double powers[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7};
#if WIDE
    return (doubles)_mm512_permutexvar_pd(_mm512_lzcnt_epi64((__m512i)mark) >> 3, _mm512_loadu_pd(powers));
#else
    doubles power;
    for (int n = 0; n < LANES; n++) power[n] = powers[mark[n] * 0x0706050403020100ull >> 56];
    return power;
#endif
}

// whole / scale(mark) for eight digits.
static inline doubles divided(doubles whole, words mark) {
#if WIDE
    // A product and its remainder: one step from the quotient, and the same double for each of the 8 * 10^8 cases.
    const __m512d inverses = _mm512_set_pd(1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0);
    __m512d inverse = _mm512_permutexvar_pd(_mm512_lzcnt_epi64((__m512i)mark) >> 3, inverses);
    __m512d near = _mm512_mul_pd((__m512d)whole, inverse);
    return (doubles)_mm512_fmadd_pd(_mm512_fnmadd_pd(near, (__m512d)scale(mark), (__m512d)whole), inverse, near);
#else
    return whole / scale(mark);
#endif
}

// Exact below 2^52.
static inline doubles to_doubles(words whole) { return (doubles)(whole | 0x4330000000000000ull) - 0x1p52; }

static inline words select_words(words mask, words yes, words no) { return (mask & yes) | (~mask & no); }

static inline words lengths(const tokens *batch, int n) {
    return __builtin_convertvector(*(places *)(batch->length + n), words);
}

static inline int any(words lanes) {
#if WIDE
    return _mm512_test_epi64_mask((__m512i)lanes, (__m512i)lanes) != 0;
#else
    return (lanes[0] | lanes[1] | lanes[2] | lanes[3]) != 0;
#endif
}

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
    doubles value = divided(to_doubles(eight_digits(digits)), mark);
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

// A column of the batch to where it goes; whether all fit that go to bytes.
static int hand_out(const double *value, int rows, const column *to, int64_t row) {
    const int64_t step = to->step;
    if (!to->bytes) {
        double *at = (double *)to->to + row * step;
        for (int n = 0; n < rows; n++, at += step) *at = value[n];
        return 1;
    }
    int whole[FOUND], wrong = 0;
    for (int n = 0; n < rows; n++) {
        whole[n] = (int)value[n]; // the lowest of all where it fits no int
        wrong |= (whole[n] != value[n]) | ((unsigned)whole[n] > 255);
    }
    uint8_t *at = (uint8_t *)to->to + row * step;
    for (int n = 0; n < rows; n++, at += step) *at = (uint8_t)whole[n];
    return !wrong;
}

typedef struct {
    tokens *batch;
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

// As parse_numbers, to rows [first, capacity).
static int64_t parse(const workspace *work, const char *text, int64_t size, char separator, int finite, int width,
                     const column *columns, int64_t first, int64_t capacity) {
    if (width < 1 || width > WIDTH || size >= UINT32_MAX - 2 * BLOCK) return -1;
    tokens *batch = work->batch;
#if defined(__BMI2__)
    uint64_t closing[WIDTH]; // which of the next tokens end a line, by how many this one has
    for (int has = 0; has < width; has++) {
        closing[has] = 0;
        for (int n = width - 1 - has; n < BLOCK; n += width) closing[has] |= 1ull << n;
    }
#endif
    int64_t row = first, failed = 0;
    uint64_t outside = 1;               // whether the byte before the block is a blank
    int starts = 0, ends = 0, line = 0; // tokens begun, ended, and ended by the last newline
    for (int64_t at = 0; !failed && (at < size || ends > 0);) {
        for (; at < size && starts < TOKENS; at += BLOCK) {
            uint64_t blank, newline;
            classify(text + at, separator, &blank, &newline);
            uint64_t shifted = blank << 1 | outside, begin = ~blank & shifted, end = blank & ~shifted;
            outside = blank >> 63;
            positions(begin, (uint32_t)at, batch->start + starts);
            positions(end, (uint32_t)at, batch->end + ends);
            int more = __builtin_popcountll(end);
#if defined(__BMI2__)
            // Mostly each newline follows a token at once, and those are the right ones.
            if (!(newline & ~end) && ends - line < width &&
                _pext_u64(newline, end) == (closing[ends - line] & ((1ull << more) - 1)))
                line = ends + more - (ends - line + more) % width;
            else
#endif
                for (; newline; newline &= newline - 1) {
                    int now = ends + __builtin_popcountll(end & (newline ^ (newline - 1)));
                    failed |= now != line && now != line + width;
                    line = now;
                }
            starts += __builtin_popcountll(begin);
            ends += more;
        }
        if (at >= size && line < starts) { // the text ends in a line without its newline
            if (ends < starts) batch->end[ends++] = (uint32_t)at;
            line += width;
            failed |= line != ends;
        }
        int rows = line / width;
        failed |= (rows == 0 && ends > 0) || line % width || row + rows > capacity;
        for (int k = 0; k < width && !failed; k++)
            failed = !convert(text, batch, k, width, rows, finite, work->locale) ||
                     !hand_out(batch->value + place(k, rows), rows, columns + k, row);
        if (failed) break;
        row += rows;
        starts -= line;
        ends -= line;
        memmove(batch->start, batch->start + line, (size_t)starts * sizeof *batch->start);
        memmove(batch->end, batch->end + line, (size_t)ends * sizeof *batch->end);
        line = 0;
    }
    return failed ? -1 : row - first;
}

// The lines of text[0, size), `width` numbers each, to at most `capacity` rows; blank lines are passed over. Returns the
// number of rows, or -1 where a token is no number (no finite one, where `finite` is set), a line has another number of
// them, a byte does not fit or rows do not. There must be 16 readable bytes before the text, and 64 newlines after it.
int64_t parse_numbers(const char *text, int64_t size, char separator, int finite, int64_t width, const column *columns,
                      int64_t capacity) {
    workspace work;
    int64_t rows = -1;
    if (open_workspace(&work)) rows = parse(&work, text, size, separator, finite, (int)width, columns, 0, capacity);
    close_workspace(&work);
    return rows;
}

// A file, blanks before it and newlines after it; its size, or -1.
static int64_t read_file(const char *path, char **buffer, int64_t *space) {
    struct stat status;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return -1;
    int64_t size = -1, got = 1;
    if (fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_size < LARGEST) {
        int64_t needed = status.st_size + 2 * BLOCK;
        if (needed > *space) {
            free(*buffer);
            *buffer = malloc((size_t)needed);
            *space = *buffer ? needed : 0;
        }
        for (size = *buffer ? 0 : -1; size >= 0 && size < status.st_size && got; size += got) {
            got = read(file, *buffer + BLOCK + size, (size_t)(status.st_size - size));
            if (got < 0) {
                size = -1;
                break;
            }
        }
        if (size >= 0) memset(*buffer + BLOCK + size, '\n', BLOCK);
    }
    close(file);
    return size;
}

// As parse_numbers, of several files one after the other, whose names end in a zero byte. Returns how many files were
// read: the next one is odd in any way. `rows` has the rows of each.
int64_t parse_files(const char *names, int64_t count, int finite, int64_t width, const column *columns, int64_t capacity,
                    int64_t *rows) {
    workspace work;
    char *buffer = NULL;
    int64_t space = 0, first = 0, done = 0;
    for (int ready = open_workspace(&work); ready && done < count; done++, names += strlen(names) + 1) {
        int64_t size = read_file(names, &buffer, &space);
        if (size < 0) break;
        rows[done] = parse(&work, buffer + BLOCK, size, ' ', finite, (int)width, columns, first, capacity);
        if (rows[done] < 0) break;
        first += rows[done];
    }
    free(buffer);
    close_workspace(&work);
    return done;
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
