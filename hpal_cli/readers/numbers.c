// Parses tables of numbers in text (number_table.py, number_files.py), a batch at a time: finds the tokens, converts
// all of them to doubles, and writes these to the columns of the table.
//
// Every double is the one nearest to the decimal number. A token of up to 16 characters is a whole number below 2^52
// divided by a power of ten. Both are exact doubles, so only the division rounds. strtod converts all other tokens.

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

// A batch is filled from blocks of 64 bytes, each of which has at most 32 tokens. Each column of a batch takes up a
// whole number of vectors.
enum { BLOCK = 64, LANES = 4, TOKENS = 1024, WIDTH = 128, FOUND = TOKENS + BLOCK, SPACE = FOUND + WIDTH * LANES };

typedef uint64_t word __attribute__((aligned(1), may_alias));
typedef uint64_t words __attribute__((vector_size(8 * LANES), may_alias));
typedef uint32_t halves __attribute__((vector_size(8 * LANES), may_alias));
typedef uint32_t places __attribute__((vector_size(4 * LANES), may_alias));
typedef double doubles __attribute__((vector_size(8 * LANES), may_alias));

// The tokens of a batch. start, end: in the order of the text. The others are column by column: the last eight
// characters of each token (low), the eight before these (high), its length and its value.
typedef struct {
    uint32_t start[FOUND], end[FOUND];
    uint64_t low[SPACE] __attribute__((aligned(64))), high[SPACE] __attribute__((aligned(64)));
    uint32_t length[SPACE] __attribute__((aligned(64)));
    double value[SPACE] __attribute__((aligned(64)));
} tokens;

// Where the values of a column are written: that of row n to `to[n * step]`, as a double, or as a byte if `bytes` is
// set.
typedef struct {
    void *to;
    int64_t step;
    int64_t bytes;
} column;

// How the lines of a table are written, and where its values go.
typedef struct {
    char separator; // besides blanks, which always separate numbers
    int finite, width;
    const column *columns;
    int64_t capacity;        // rows
    uint64_t closing[WIDTH]; // [n]: which of the next tokens end a line, if the current line has n tokens already
} table;

static int describe(table *to, char separator, int finite, int64_t width, const column *columns, int64_t capacity) {
    if (width < 1 || width > WIDTH) return 0;
    *to = (table){.separator = separator, .finite = finite, .columns = columns, .capacity = capacity};
    to->width = (int)width;
    for (int has = 0; has < width; has++)
        for (int64_t n = width - 1 - has; n < BLOCK; n += width) to->closing[has] |= 1ull << n;
    return 1;
}

// The number of tokens up to the last newline, after one more block; -1 if a line does not have `width` tokens. end,
// newline: the bytes of the block at which tokens end, and those that are newlines. ends, line: before the block, the
// number of tokens that have ended, and the number of those up to the last newline.
static inline int closed(const table *to, uint64_t end, uint64_t newline, int ends, int line) {
    const int width = to->width;
#if defined(__BMI2__)
    // The usual case: each newline comes right after a token, and after the right one.
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

// A bit for each of 64 bytes: in `blank` whether it is a blank or the separator, in `newline` whether it ends a line.
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

// Writes the positions of the bits, of which there are at most 32, plus `base`. Up to seven meaningless numbers follow.
static inline void positions(uint64_t bits, uint32_t base, uint32_t *out) {
    // Eight at a time, so that few branches depend on the text.
    for (int left = __builtin_popcountll(bits); left > 0; left -= 8)
        for (int n = 0; n < 8; n++) {
            *out++ = base + (uint32_t)__builtin_ctzll(bits | 1ull << 63);
            bits &= bits - 1;
        }
}

#define EACH(byte) (0x0101010101010101ull * (byte))

// In the functions below, a lane is a word of eight characters, each combined with '0' by exclusive or, so that digits
// become 0 to 9. The last character is in the highest byte.

// The numbers that eight digits stand for.
static inline words eight_digits(words digits) {
    words twos = ((digits << 3) + (digits << 1) + (digits >> 8)) & 0x00ff00ff00ff00ffull;
    halves fours = ((halves)twos & 0xffff) * 100 + ((halves)twos >> 16);
    return (words)((halves)((words)fours & 0xffffffffull) * 10000) + ((words)fours >> 32);
}

// Not zero in lanes of which a byte is not a digit.
static inline words no_digits(words digits) { return (digits | (digits + EACH(0x76))) & EACH(0x80); }

// The marks of a lane: the lowest bit of each byte that is a decimal point or, in most cases, another character than a
// digit.
static inline words marks(words lane) { return (lane & EACH(0x10)) >> 4; }

// Not zero in lanes that have several marks, or whose only mark is not a decimal point.
static inline words no_point(words lane, words mark) {
    return (lane & ((mark << 8) - mark)) ^ ((mark << 5) - (mark << 1)) /* '.' ^ '0' is 0x1e */;
}

// The bytes before the mark; none if there is no mark.
static inline words before(words mark) { return (mark - 1) & (words)(mark != 0); }

// Ten to the power of the number of bytes after the mark; 1 if there is no mark. Meaningless if there are several.
static inline doubles scale(words mark) {
    static const double powers[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7};
    doubles power;
    for (int n = 0; n < LANES; n++) power[n] = powers[mark[n] * 0x0706050403020100ull >> 56 & 7];
    return power;
}

// Whole numbers as doubles, exact below 2^52.
static inline doubles to_doubles(words whole) { return (doubles)(whole | 0x4330000000000000ull) - 0x1p52; }

static inline words select_words(words mask, words yes, words no) { return (mask & yes) | (~mask & no); }

static inline words lengths(const tokens *batch, int n) {
    return __builtin_convertvector(*(places *)(batch->length + n), words);
}

static inline int any(words lanes) { return (lanes[0] | lanes[1] | lanes[2] | lanes[3]) != 0; }

// Converts LANES tokens of up to 8 characters, from number n on. Returns lanes that are not zero for tokens that are
// not plain decimal numbers.
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

// The same for up to 16 characters, in two lanes each. The returned lane of a longer token is not zero.
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
    // The point is removed: all characters before it move up by one byte, also from `high` into `low`.
    low = (low & ~(front | point)) | (low & front) << 8 | (in_low & high >> 56);
    high = select_words(in_low, high << 8, (high & ~(front2 | point2)) | (high & front2) << 8);
    words whole = eight_digits(high) * 100000000 + eight_digits(low);
    wrong |= no_digits(low) | no_digits(high) | (words)(whole >= 1ull << 52);
    doubles power = (doubles)select_words(in_high, (words)(scale(mark2) * 1e8), (words)scale(mark));
    *(doubles *)(batch->value + n) = (doubles)((words)(to_doubles(whole) / power) | (minus & 1ull << 63));
    return wrong;
}

// Converts any number that Python's float() reads, except those with `_`. Returns 0 if the token is not such a number,
// or if `finite` is set and it is not finite.
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

// The index at which column k of a batch with this number of rows begins.
static inline int place(int k, int rows) { return k * ((rows + LANES - 1) / LANES * LANES); }

// Converts the tokens of column k to its values. Returns 0 if one of them is not a number.
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

// Writes the values of a column to its place in the table, from row `row` on. Returns whether all of them fit, which
// for bytes are the whole numbers from 0 to 255.
static int hand_out(const double *value, int rows, const column *to, int64_t row) {
    int wrong = 0;
    for (int n = 0; n < rows; n++, row++, value++) {
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

// Parses a batch of whole lines that begins at text[*next], and sets *next to the line after it. Returns the number of
// rows; -1 if they cannot be parsed this way.
static int parse_batch(const table *to, tokens *batch, locale_t locale, const char *text, int64_t size, int64_t row,
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
            !hand_out(batch->value + place(k, rows), rows, to->columns + k, row))
            return -1;
    return rows;
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

// As parse_numbers, but writes to the rows from `first` on.
static int64_t parse(workspace *work, const table *to, const char *text, int64_t size, int64_t first) {
    if (size >= UINT32_MAX - 2 * BLOCK) return -1;
    int64_t row = first;
    for (int64_t next = 0; next < size;) {
        int rows = parse_batch(to, work->batch, work->locale, text, size, row, &next);
        if (rows < 0) return -1;
        row += rows;
    }
    return row - first;
}

// Parses the lines of text[0, size), which have `width` numbers each, into at most `capacity` rows. Blank lines are
// skipped. Returns the number of rows; -1 if a token is not a number (or not finite, if `finite` is set), if a line has
// another number of tokens, if a number does not fit into its byte, or if there are too many rows. There must be 16
// readable bytes before the text, and 64 newlines after it.
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

// A part of a file: the lines that begin in its bytes [begin, end). Its rows are written from row `first` on, or
// earlier, if the part before it was parsed by the same thread and has left rows free; then `first` is changed. There
// is space for `most` rows. rows: the number of its rows, -1 if the part cannot be parsed this way. number: is repeated
// for each row.
typedef struct {
    const char *path;
    int64_t begin, end, number, most, first, rows;
} part;

// The parts that several threads divide among themselves. Each thread has a span of parts to parse, [first, last),
// which is stored as last << 32 | first.
typedef struct {
    part *parts;
    uint64_t *spans;
    int64_t threads, finite, width;
    const column *columns;
    int64_t *numbers; // the `number` of the part of each row
} parts_to_do;

// Takes the next part of the thread's own span. If that is empty, the thread takes over the second half of the longest
// span of all threads. Returns the index of the part; -1 if no part is left.
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

// Bytes after the end of a part in which the end of its last line is searched.
enum { REST = 1 << 12 };

// Parses one part. buffer: has space for the part, REST bytes, and a block on either side.
static int64_t parse_part(workspace *work, const table *to, const part *here, int file, char *buffer) {
    // The byte before the part is read too, since a line begins at the part only if that byte is a newline.
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

// The work of one thread: parses parts until none is left. longest: number of bytes of the longest part.
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
        // If this thread has just parsed the part before, the rows of this part follow at once.
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

// The number of newlines in text[0, size). There must be 64 more newlines after it.
int64_t count_lines(const char *text, int64_t size) {
    int64_t lines = 0;
    for (int64_t at = 0; at < size; at += BLOCK) {
        uint64_t blank, newline;
        classify(text + at, '\n', &blank, &newline);
        lines += __builtin_popcountll(size - at < BLOCK ? newline & ((1ull << (size - at)) - 1) : newline);
    }
    return lines;
}
