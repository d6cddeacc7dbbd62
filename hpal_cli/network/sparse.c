/* The products of hpal_cli/network/convolution.py in one pass each: rows are read where they lie and sums are written
 * where they belong, so that nothing is gathered, scattered or held in between. Compiled by native.py.
 *
 * Every row of `out` is summed by one thread in the order of the kernel's offsets: the same bits for any number of
 * threads. Output widths are multiples of LANES; native.py sees to it.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#define HAS_HALF 1
#else
#define HAS_HALF 0
#endif

/* A tile of TALL rows by WIDE vectors is summed in registers: 24 of AVX-512's 32, 12 of AVX's 16. */
#if defined(__AVX512F__)
enum { LANES = 16, TALL = 8, WIDE = 3 };
#else
enum { LANES = 8, TALL = 4, WIDE = 3 };
#endif
enum { ROWS_AT_A_TIME = 512, ROWS_TOGETHER = 1024, PAIRS_AT_A_TIME = 256, INPUTS_AT_A_TIME = 4 * TALL };

typedef float lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float))));

/* The rows that one offset brings together, both ascending; a count below 0: every row meets itself. */
typedef struct {
    const int64_t *source, *target;
    int64_t count;
} pair_list;

#define INLINE static inline __attribute__((always_inline))
#define MIN(a, b) ((a) < (b) ? (a) : (b))

int hpal_lanes(void) { return LANES; }
int hpal_has_half(void) { return HAS_HALF; }

static int64_t first_not_below(const int64_t *list, int64_t count, int64_t value) {
    int64_t low = 0;
    while (count > 0) {
        int64_t half = count / 2;
        if (list[low + half] < value) {
            low += half + 1;
            count -= half + 1;
        } else {
            count = half;
        }
    }
    return low;
}

/* out[i][0 .. wide * LANES) += x[i] @ w for n of TALL rows; the others repeat a row and are not written. */
INLINE void multiply_tile(const float *const *x, float *const *out, int n, const float *w, int inputs, int outputs,
                          const int wide) {
    lanes sum[TALL][WIDE];
    for (int i = 0; i < TALL; i++)
        for (int j = 0; j < wide; j++) sum[i][j] = (lanes){0};
    for (int c = 0; c < inputs; c++) {
        lanes row[WIDE];
        for (int j = 0; j < wide; j++) row[j] = *(const lanes *)(w + (size_t)c * outputs + j * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < TALL; i++)
#pragma GCC unroll 3
            for (int j = 0; j < wide; j++) sum[i][j] += x[i][c] * row[j];
    }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < wide; j++) *(lanes *)(out[i] + j * LANES) += sum[i][j];
}

#if HAS_HALF
/* The same for bfloat16 x and w, two inputs at a time; w (inputs / 2, outputs, 2). Sums are float. */
INLINE void multiply_tile_half(const uint16_t *const *x, float *const *out, int n, const uint16_t *w, int inputs,
                               int outputs, const int wide) {
    __m512 sum[TALL][WIDE];
    for (int i = 0; i < TALL; i++)
        for (int j = 0; j < wide; j++) sum[i][j] = _mm512_setzero_ps();
    for (int c = 0; c < inputs; c += 2) {
        __m512bh row[WIDE];
        for (int j = 0; j < wide; j++)
            row[j] = (__m512bh)_mm512_loadu_si512(w + (size_t)c * outputs + 2 * j * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < TALL; i++) {
            int two;
            memcpy(&two, x[i] + c, sizeof two);
            __m512bh both = (__m512bh)_mm512_set1_epi32(two);
#pragma GCC unroll 3
            for (int j = 0; j < wide; j++) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], row[j], both);
        }
    }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < wide; j++)
            _mm512_storeu_ps(out[i] + j * LANES, _mm512_loadu_ps(out[i] + j * LANES) + sum[i][j]);
}
#endif

/* TALL rows by `wide` vectors of a product, of float or (`half`) of bfloat16. */
INLINE void multiply_any(const void *const *x, float *const *out, int n, const void *w, int inputs, int outputs,
                         const int wide, const int half) {
#if HAS_HALF
    if (half) {
        multiply_tile_half((const uint16_t *const *)x, out, n, w, inputs, outputs, wide);
        return;
    }
#endif
    (void)half;
    multiply_tile((const float *const *)x, out, n, w, inputs, outputs, wide);
}

INLINE void multiply_rows(const char *features, const char *kernel, float *out, const pair_list *pairs, int volume,
                          int64_t begin, int64_t end, int inputs, int outputs, const int half) {
    const size_t size = half ? sizeof(uint16_t) : sizeof(float);
    /* Two inputs of an output lie side by side in a kernel of bfloat16. */
    const size_t step = half ? 2 * size : size;
    memset(out + begin * outputs, 0, (size_t)(end - begin) * outputs * sizeof(float));
    for (int k = 0; k < volume; k++) {
        const int64_t *source = pairs[k].source, *target = pairs[k].target;
        int itself = pairs[k].count < 0;
        int64_t low = begin, high = end;
        if (!itself) {
            low = first_not_below(target, pairs[k].count, begin);
            high = low + first_not_below(target + low, pairs[k].count - low, end);
        }
        for (int column = 0; column < outputs; column += WIDE * LANES) {
            const char *w = kernel + (size_t)k * inputs * outputs * size + column * step;
            int wide = MIN((outputs - column) / LANES, WIDE);
            for (int64_t p = low; p < high; p += TALL) {
                const void *x[TALL];
                float *y[TALL];
                int n = (int)MIN(high - p, TALL);
                for (int i = 0; i < TALL; i++) {
                    int64_t q = p + (i < n ? i : 0);
                    x[i] = features + (itself ? q : source[q]) * inputs * size;
                    y[i] = out + (itself ? q : target[q]) * outputs + column;
                }
                if (wide == 3)
                    multiply_any(x, y, n, w, inputs, outputs, 3, half);
                else if (wide == 2)
                    multiply_any(x, y, n, w, inputs, outputs, 2, half);
                else
                    multiply_any(x, y, n, w, inputs, outputs, 1, half);
            }
        }
    }
}

/* out[target] = sum over offsets k of features[source] @ kernel[k].
 * features (N, inputs), kernel (volume, inputs, outputs), out (rows, outputs); half: both of bfloat16, the kernel as
 * (volume, inputs / 2, outputs, 2). */
void hpal_multiply(const void *features, const void *kernel, float *out, const pair_list *pairs, int volume,
                   int64_t rows, int inputs, int outputs, int half, int threads) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t begin = 0; begin < rows; begin += ROWS_AT_A_TIME) {
        int64_t end = MIN(begin + ROWS_AT_A_TIME, rows);
        if (half)
            multiply_rows(features, kernel, out, pairs, volume, begin, end, inputs, outputs, 1);
        else
            multiply_rows(features, kernel, out, pairs, volume, begin, end, inputs, outputs, 0);
    }
}

/* w[i][0 .. wide * LANES) += sum over pairs p of x[p][i] * y[p], for TALL inputs i. */
INLINE void outer_tile(const float *const *x, const float *const *y, int count, float *w, int outputs, int first,
                       int column, const int wide) {
    lanes sum[TALL][WIDE];
    for (int i = 0; i < TALL; i++)
        for (int j = 0; j < wide; j++) sum[i][j] = (lanes){0};
    for (int p = 0; p < count; p++) {
        lanes row[WIDE];
        for (int j = 0; j < wide; j++) row[j] = *(const lanes *)(y[p] + column + j * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < TALL; i++)
#pragma GCC unroll 3
            for (int j = 0; j < wide; j++) sum[i][j] += x[p][first + i] * row[j];
    }
    for (int i = 0; i < TALL; i++)
        for (int j = 0; j < wide; j++) *(lanes *)(w + (size_t)i * outputs + column + j * LANES) += sum[i][j];
}

#if HAS_HALF
enum { HALF_PAIRS = 64, MOST_OUTPUTS = 512 };

/* The same for bfloat16 rows of which two lie interleaved: x (count / 2, INPUTS_AT_A_TIME, 2), y (count / 2, outputs, 2). */
INLINE void outer_tile_half(const uint16_t *x, const uint16_t *y, int count, float *w, int outputs, int column,
                            const int wide) {
    __m512 sum[TALL][WIDE];
    for (int i = 0; i < TALL; i++)
        for (int j = 0; j < wide; j++) sum[i][j] = _mm512_setzero_ps();
    for (int p = 0; p < count; p += 2) {
        __m512bh row[WIDE];
        for (int j = 0; j < wide; j++)
            row[j] = (__m512bh)_mm512_loadu_si512(y + (size_t)p * outputs + 2 * (column + j * LANES));
#pragma GCC unroll 8
        for (int i = 0; i < TALL; i++) {
            int two;
            memcpy(&two, x + (size_t)p * INPUTS_AT_A_TIME + 2 * i, sizeof two);
            __m512bh both = (__m512bh)_mm512_set1_epi32(two);
#pragma GCC unroll 3
            for (int j = 0; j < wide; j++) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], row[j], both);
        }
    }
    for (int i = 0; i < TALL; i++)
        for (int j = 0; j < wide; j++) {
            float *at = w + (size_t)i * outputs + column + j * LANES;
            _mm512_storeu_ps(at, _mm512_loadu_ps(at) + sum[i][j]);
        }
}

/* Two rows of bfloat16, element by element; a missing second one is 0. */
INLINE void interleave(const uint16_t *one, const uint16_t *two, uint16_t *out, int count) {
    if (two)
        for (int i = 0; i < count; i++) {
            out[2 * i] = one[i];
            out[2 * i + 1] = two[i];
        }
    else
        for (int i = 0; i < count; i++) {
            out[2 * i] = one[i];
            out[2 * i + 1] = 0;
        }
}

static void outer_half(const uint16_t *features, const uint16_t *gradient, float *weight, const int64_t *source,
                       const int64_t *target, int itself, int64_t low, int64_t high, int begin, int end, int inputs,
                       int outputs) {
    uint16_t x[HALF_PAIRS * INPUTS_AT_A_TIME], y[HALF_PAIRS * MOST_OUTPUTS];
    for (int64_t p = low; p < high; p += HALF_PAIRS) {
        int n = (int)MIN(high - p, HALF_PAIRS);
        for (int i = 0; i < n; i += 2) {
            const uint16_t *left[2] = {0}, *right[2] = {0};
            for (int m = 0; m < 2 && i + m < n; m++) {
                left[m] = features + (itself ? p + i + m : source[p + i + m]) * inputs + begin;
                right[m] = gradient + (itself ? p + i + m : target[p + i + m]) * outputs;
            }
            interleave(left[0], left[1], x + i * INPUTS_AT_A_TIME, end - begin);
            interleave(right[0], right[1], y + i * outputs, outputs);
        }
        for (int first = begin; first < end; first += TALL)
            for (int column = 0; column < outputs; column += WIDE * LANES) {
                int wide = MIN((outputs - column) / LANES, WIDE);
                float *w = weight + (size_t)first * outputs;
                const uint16_t *part = x + 2 * (first - begin);
                if (wide == 3)
                    outer_tile_half(part, y, n, w, outputs, column, 3);
                else if (wide == 2)
                    outer_tile_half(part, y, n, w, outputs, column, 2);
                else
                    outer_tile_half(part, y, n, w, outputs, column, 1);
            }
    }
}
#endif

/* kernel[k] = sum over the pairs of k of features[source]^T gradient[target]: the kernel's gradient.
 * Some thousand rows at a time, so that they come from memory once and not once for each offset. half: of bfloat16, with
 * a multiple of TALL inputs and at most MOST_OUTPUTS outputs. */
void hpal_outer(const void *features_of_any, const void *gradient_of_any, float *kernel, const pair_list *pairs,
                int volume, int64_t rows, int inputs, int outputs, int half, int threads) {
    const float *features = features_of_any, *gradient = gradient_of_any;
    (void)half;
    int groups = (inputs + INPUTS_AT_A_TIME - 1) / INPUTS_AT_A_TIME;
    memset(kernel, 0, (size_t)volume * inputs * outputs * sizeof(float));
#pragma omp parallel num_threads(threads)
    for (int64_t begin_row = 0; begin_row < rows; begin_row += ROWS_TOGETHER) {
        int64_t end_row = MIN(begin_row + ROWS_TOGETHER, rows);
#pragma omp for schedule(dynamic)
        for (int task = 0; task < volume * groups; task++) {
            int k = task / groups, begin = task % groups * INPUTS_AT_A_TIME;
            int end = MIN(begin + INPUTS_AT_A_TIME, inputs);
            float *weight = kernel + (size_t)k * inputs * outputs;
            const int64_t *source = pairs[k].source, *target = pairs[k].target;
            int itself = pairs[k].count < 0;
            int64_t low = begin_row, high = end_row;
            if (!itself) {
                low = first_not_below(target, pairs[k].count, begin_row);
                high = low + first_not_below(target + low, pairs[k].count - low, end_row);
            }
#if HAS_HALF
            if (half) {
                outer_half(features_of_any, gradient_of_any, weight, source, target, itself, low, high, begin, end,
                           inputs, outputs);
                continue;
            }
#endif
            const float *x[PAIRS_AT_A_TIME], *y[PAIRS_AT_A_TIME];
            for (int64_t p = low; p < high; p += PAIRS_AT_A_TIME) {
                int n = (int)MIN(high - p, PAIRS_AT_A_TIME);
                for (int i = 0; i < n; i++) {
                    x[i] = features + (itself ? p + i : source[p + i]) * inputs;
                    y[i] = gradient + (itself ? p + i : target[p + i]) * outputs;
                }
                int first = begin;
                for (; first + TALL <= end; first += TALL) {
                    float *w = weight + (size_t)first * outputs;
                    for (int column = 0; column < outputs; column += WIDE * LANES) {
                        int wide = MIN((outputs - column) / LANES, WIDE);
                        if (wide == 3)
                            outer_tile(x, y, n, w, outputs, first, column, 3);
                        else if (wide == 2)
                            outer_tile(x, y, n, w, outputs, first, column, 2);
                        else
                            outer_tile(x, y, n, w, outputs, first, column, 1);
                    }
                }
                for (; first < end; first++) {
                    float *w = weight + (size_t)first * outputs;
                    for (int i = 0; i < n; i++)
                        for (int j = 0; j < outputs; j++) w[j] += x[i][first] * y[i][j];
                }
            }
        }
    }
}
