/* The products of sparse.c with factors of bfloat16 and sums of float: in AMX tiles if the processor has them and
 * Linux permits them, else in vectors of pairs of bfloat16. Compiled by native.py.
 *
 * Widths are multiples of SIDE, at most MAX_CHANNELS; native.supports_half refuses all others. The processor treats
 * subnormal numbers (below 1.2e-38) as 0.
 */
#if !defined(__AVX512BF16__)
int hpal_has_bf16(void) { return 0; }
#else
#include "amx.h"

enum { MAX_CHANNELS = 512 };

/* Without AMX, a tile of TALL rows by WIDE vectors is summed in 24 of the 32 registers. */
enum { TALL = 8, WIDE = 3, ROWS_TOGETHER = 2048 };

/* How this processor multiplies bfloat16: 0 not at all, 1 in vectors, 2 in tiles. It must be called before all other
 * functions, because it asks Linux for the tiles. */
int hpal_has_bf16(void) {
    allow_tiles();
    return tiles ? 2 : 1;
}

/* Transposes 16 rows of 16 numbers of 32 bits. */
INLINE void transpose(__m512i *r) {
    __m512i t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 16; i += 8)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            t[i + j] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0x88);
            t[i + j + 4] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0xdd);
        }
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        r[j] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0x88);
        r[j + 8] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0xdd);
    }
}

INLINE int steps_of(int inputs) { return (inputs + DEEP - 1) / DEEP; }

/* Writes a kernel of float, (volume, inputs, outputs) or, if `transposed`, (volume, outputs, inputs), as tiles of the
 * right matrix: (volume, outputs / SIDE, inputs / DEEP rounded up, DEEP / 2, SIDE, 2) bfloat16, with zeros after the
 * last input. */
void hpal_pack(const float *kernel, uint16_t *packed, int volume, int inputs, int outputs, int transposed,
               int threads) {
    const __m512i side_by_side = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                                                  22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const int steps = steps_of(inputs), strips = outputs / SIDE;
#pragma omp parallel for num_threads(threads)
    for (int task = 0; task < volume * strips; task++) {
        const float *from = kernel + (size_t)(task / strips) * inputs * outputs;
        const int column = task % strips * SIDE;
        uint16_t *to = packed + (size_t)task * steps * TILE;
        for (int first = 0; first < steps * DEEP; first += DEEP, to += TILE) {
            const int two = first + SIDE < inputs;
            __m512i r[SIDE];
            for (int i = 0; i < SIDE; i++) {
                const float *one = transposed ? from + (size_t)(column + i) * inputs + first
                                          : from + (size_t)(first + 2 * i) * outputs + column;
                const int there = transposed || 2 * i < SIDE || two;
                __m512 low = there ? _mm512_loadu_ps(one) : _mm512_setzero_ps();
                __m512 high = there && (two || !transposed) ? _mm512_loadu_ps(one + (transposed ? SIDE : outputs))
                                                        : _mm512_setzero_ps();
                r[i] = (__m512i)_mm512_cvtne2ps_pbh(high, low);
                if (!transposed) r[i] = _mm512_permutexvar_epi16(side_by_side, r[i]);
            }
            if (transposed) transpose(r);
            for (int i = 0; i < SIDE; i++) _mm512_storeu_si512(to + i * DEEP, r[i]);
        }
    }
}

/* A vector that repeats two numbers which follow one another in memory. */
INLINE __m512bh two_everywhere(const uint16_t *at) {
    int two;
    memcpy(&two, at, sizeof two);
    return (__m512bh)_mm512_set1_epi32(two);
}

/* out[i][0 .. wide * SIDE) += x[i] @ w for the first n of TALL rows. The other rows of x repeat a row, so that the
 * loops have a fixed length; their results are not written. */
INLINE void multiply_vectors(const uint16_t *const *x, float *const *out, int n, const uint16_t *w, int inputs,
                             const int wide) {
    const size_t strip = (size_t)steps_of(inputs) * TILE;
    __m512 sum[TALL][WIDE];
    for (int i = 0; i < TALL; i++)
        for (int j = 0; j < wide; j++) sum[i][j] = _mm512_setzero_ps();
    for (int c = 0; c < inputs; c += 2) {
        __m512bh row[WIDE];
        for (int j = 0; j < wide; j++) row[j] = (__m512bh)_mm512_loadu_si512(w + j * strip + c * SIDE);
#pragma GCC unroll 8
        for (int i = 0; i < TALL; i++) {
            __m512bh both = two_everywhere(x[i] + c);
#pragma GCC unroll 3
            for (int j = 0; j < wide; j++) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], row[j], both);
        }
    }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < wide; j++)
            _mm512_storeu_ps(out[i] + j * SIDE, _mm512_loadu_ps(out[i] + j * SIDE) + sum[i][j]);
}

static void multiply_in_vectors(const uint16_t *features, const uint16_t *kernel, float *out, const some_pairs *some,
                                int inputs, int outputs, block part) {
    for (int column = part.first; column < part.last; column += WIDE * SIDE) {
        const uint16_t *w = kernel + (size_t)column / SIDE * steps_of(inputs) * TILE;
        int wide = MIN((part.last - column) / SIDE, WIDE);
        for (int64_t p = 0; p < some->count; p += TALL) {
            const uint16_t *x[TALL];
            float *y[TALL];
            int n = (int)MIN(some->count - p, TALL);
            for (int i = 0; i < TALL; i++) {
                int64_t q = p + (i < n ? i : 0);
                x[i] = features + source_of(some, q) * inputs;
                y[i] = out + target_of(some, q) * outputs + column;
            }
            if (wide == 3)
                multiply_vectors(x, y, n, w, inputs, 3);
            else if (wide == 2)
                multiply_vectors(x, y, n, w, inputs, 2);
            else
                multiply_vectors(x, y, n, w, inputs, 1);
        }
    }
}

static void multiply_in_tiles(const uint16_t *features, const uint16_t *kernel, float *out, const some_pairs *some,
                              int inputs, int outputs, block part) {
    const int steps = steps_of(inputs), end = part.last / SIDE;
    const ptrdiff_t next = (ptrdiff_t)steps * TILE;
    _Alignas(64) uint16_t rows[2 * (MAX_CHANNELS / DEEP) * TILE];
    _Alignas(64) float sums[4 * SIDE * SIDE];
    for (int64_t p = 0; p < some->count; p += 2 * SIDE) {
        const int n = (int)MIN(some->count - p, 2 * SIDE);
        float *y[2 * SIDE];
        for (int i = 0; i < n; i++) {
            const uint16_t *x = features + source_of(some, p + i) * inputs;
            uint16_t *to = rows + i / SIDE * next + i % SIDE * DEEP;
            int c = 0;
            for (; c + DEEP <= inputs; c += DEEP, to += TILE) _mm512_store_si512(to, _mm512_loadu_si512(x + c));
            if (c < inputs)
                _mm512_store_si512(to, _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)(x + c))));
            y[i] = out + target_of(some, p + i) * outputs;
        }
        for (int strip = part.first / SIDE; strip < end; strip += 2) {
            const int wide = MIN(end - strip, 2);
            sum_tiles(rows, next, kernel + strip * next, next, steps, sums, 2 * SIDE, n > SIDE ? 2 : 1, wide, 0);
            for (int i = 0; i < n; i++)
                for (int j = 0; j < wide; j++) {
                    float *at = y[i] + (strip + j) * SIDE;
                    _mm512_storeu_ps(at, _mm512_loadu_ps(at) + _mm512_load_ps(sums + (2 * i + j) * SIDE));
                }
        }
    }
}

/* out[target] = sum over offsets k of features[source] @ kernel[k].
 * features (N, inputs) of bfloat16, kernel as hpal_pack leaves it, out (rows, outputs). */
void hpal_multiply(const uint16_t *features, const uint16_t *kernel, float *out, const pair_list *pairs, int volume,
                   int64_t rows, int inputs, int outputs, int threads) {
    const size_t size = (size_t)outputs * steps_of(inputs) * DEEP;
    const int width = tiles ? 4 * SIDE : WIDE * SIDE, parts = parts_of(rows, outputs, width, threads);
    const int64_t tasks = (rows + ROWS_AT_A_TIME - 1) / ROWS_AT_A_TIME * parts;
#pragma omp parallel num_threads(threads)
    {
        begin_tiles();
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; task++) {
            block part = begin_part(out, task, parts, rows, outputs, width);
            for (int k = 0; k < volume; k++) {
                some_pairs some = pairs_between(pairs + k, part.begin, part.end);
                if (tiles)
                    multiply_in_tiles(features, kernel + k * size, out, &some, inputs, outputs, part);
                else
                    multiply_in_vectors(features, kernel + k * size, out, &some, inputs, outputs, part);
            }
        }
        end_tiles();
    }
}

/* 16 numbers of each of two rows, interleaved in pairs. */
INLINE __m512i interleave(const uint16_t *one, const uint16_t *two) {
    __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)one));
    __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)two));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

/* The numbers of pairs, inputs and outputs that are computed together. Between rows and columns of tiles there is one
 * cache line more than they fill, so that they are not all mapped to the same lines of the processor's first cache. */
enum { PAIRS = 256, STEPS = PAIRS / DEEP, ACROSS = 128, NEXT = STEPS * TILE + DEEP };

/* Zeros in place of the pairs that are missing in the last tile. */
static const uint16_t no_row[ACROSS];

/* w[i][0 .. wide * SIDE) += sum over pairs p of x[p][i] * y[p], for TALL inputs i. x: (count / 2, SIDE, 2); y: `wide`
 * arrays of this shape, each NEXT numbers after the one before. */
INLINE void outer_vectors(const uint16_t *x, const uint16_t *y, int count, float *w, int outputs, const int wide) {
    __m512 sum[TALL][WIDE];
    for (int i = 0; i < TALL; i++)
        for (int j = 0; j < wide; j++) sum[i][j] = _mm512_setzero_ps();
    for (int p = 0; p < count; p += 2, x += DEEP, y += DEEP) {
        __m512bh row[WIDE];
        for (int j = 0; j < wide; j++) row[j] = (__m512bh)_mm512_load_si512(y + j * NEXT);
#pragma GCC unroll 8
        for (int i = 0; i < TALL; i++) {
            __m512bh both = two_everywhere(x + 2 * i);
#pragma GCC unroll 3
            for (int j = 0; j < wide; j++) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], row[j], both);
        }
    }
    for (int i = 0; i < TALL; i++)
        for (int j = 0; j < wide; j++) {
            float *at = w + (size_t)i * outputs + j * SIDE;
            _mm512_storeu_ps(at, _mm512_loadu_ps(at) + sum[i][j]);
        }
}

/* Adds the products of some pairs to inputs begin .. end, outputs first .. last of a kernel's gradient. */
static void outer_rows(const uint16_t *features, const uint16_t *gradient, float *weight, const some_pairs *some,
                       int begin, int end, int first, int last, int inputs, int outputs) {
    _Alignas(64) uint16_t x[ACROSS / SIDE * NEXT], y[ACROSS / SIDE * NEXT];
    const int strips = (last - first) / SIDE, sides = (end - begin) / SIDE;
    weight += (size_t)begin * outputs + first;
    for (int64_t p = 0; p < some->count; p += PAIRS) {
        const int n = (int)MIN(some->count - p, PAIRS), steps = steps_of(n);
        for (int s = 0; s < steps; s++) {
            const uint16_t *left[DEEP], *right[DEEP];
            for (int i = 0; i < DEEP; i++) {
                const int64_t q = p + s * DEEP + i;
                const int there = q < some->count;
                left[i] = there ? features + source_of(some, q) * inputs + begin : no_row;
                right[i] = there ? gradient + target_of(some, q) * outputs + first : no_row;
            }
            for (int i = 0; i < DEEP; i += 2)
                for (int strip = 0; strip < strips; strip++)
                    _mm512_store_si512(y + strip * NEXT + s * TILE + i * SIDE,
                                       interleave(right[i] + strip * SIDE, right[i + 1] + strip * SIDE));
            for (int side = 0; side < sides; side++) {
                __m512i r[SIDE];
                for (int i = 0; i < SIDE; i++)
                    r[i] = interleave(left[2 * i] + side * SIDE, left[2 * i + 1] + side * SIDE);
                if (tiles) transpose(r);
                for (int i = 0; i < SIDE; i++) _mm512_store_si512(x + side * NEXT + s * TILE + i * DEEP, r[i]);
            }
        }
        if (tiles) {
            for (int side = 0; side < sides; side += 2)
                for (int strip = 0; strip < strips; strip += 2)
                    sum_tiles(x + side * NEXT, NEXT, y + strip * NEXT, NEXT, steps,
                              weight + (size_t)side * SIDE * outputs + strip * SIDE, outputs,
                              MIN(sides - side, 2), MIN(strips - strip, 2), 1);
            continue;
        }
        for (int input = 0; input < end - begin; input += TALL)
            for (int strip = 0; strip < strips; strip += WIDE) {
                float *w = weight + (size_t)input * outputs + strip * SIDE;
                const uint16_t *rows = x + input / SIDE * NEXT + 2 * (input % SIDE);
                const uint16_t *columns = y + strip * NEXT;
                int wide = MIN(strips - strip, WIDE);
                if (wide == 3)
                    outer_vectors(rows, columns, n, w, outputs, 3);
                else if (wide == 2)
                    outer_vectors(rows, columns, n, w, outputs, 2);
                else
                    outer_vectors(rows, columns, n, w, outputs, 1);
            }
    }
}

/* The gradient of the kernel: kernel[k] = sum over the pairs of k of features[source]^T gradient[target], both of
 * bfloat16. ROWS_TOGETHER rows are done for all offsets before the next ones, so that they are read from memory once
 * and not once for each offset. */
void hpal_outer(const uint16_t *features, const uint16_t *gradient, float *kernel, const pair_list *pairs, int volume,
                int64_t rows, int inputs, int outputs, int threads) {
    const int down = (inputs + ACROSS - 1) / ACROSS, across = (outputs + ACROSS - 1) / ACROSS;
    memset(kernel, 0, (size_t)volume * inputs * outputs * sizeof(float));
#pragma omp parallel num_threads(threads)
    {
        begin_tiles();
        for (int64_t begin_row = 0; begin_row < rows; begin_row += ROWS_TOGETHER) {
            int64_t end_row = MIN(begin_row + ROWS_TOGETHER, rows);
#pragma omp for schedule(dynamic)
            for (int task = 0; task < volume * down * across; task++) {
                int k = task / (down * across);
                int begin = task / across % down * ACROSS, first = task % across * ACROSS;
                some_pairs some = pairs_between(pairs + k, begin_row, end_row);
                outer_rows(features, gradient, kernel + (size_t)k * inputs * outputs, &some, begin,
                           MIN(begin + ACROSS, inputs), first, MIN(first + ACROSS, outputs), inputs, outputs);
            }
        }
        end_tiles();
    }
}
#endif
