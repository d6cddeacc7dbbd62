/* The products of hpal_cli/network/convolution.py in one pass each: rows are read in place and sums are added to the
 * output in place, so that no gathered or scattered copies are needed. Compiled by native.py.
 *
 * Output widths are multiples of LANES; native.supports refuses all others.
 */
#include "pairs.h"

/* A tile of TALL rows by WIDE vectors is summed in registers: in 24 of the 32 of AVX-512, in 12 of the 16 of AVX. */
#if defined(__AVX512F__)
enum { LANES = 16, TALL = 8, WIDE = 3 };
#else
enum { LANES = 8, TALL = 4, WIDE = 3 };
#endif
enum { ROWS_TOGETHER = 1024, PAIRS_AT_A_TIME = 256, INPUTS_AT_A_TIME = 4 * TALL };

typedef float lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float))));

int hpal_lanes(void) { return LANES; }

/* out[i][0 .. wide * LANES) += x[i] @ w for the first n of TALL rows. The other rows of x repeat a row, so that the
 * loops have a fixed length; their results are not written. */
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

static void multiply_part(const float *features, const float *kernel, float *out, const pair_list *pairs, int volume,
                          block part, int inputs, int outputs) {
    for (int k = 0; k < volume; k++) {
        some_pairs some = pairs_between(pairs + k, part.begin, part.end);
        for (int column = part.first; column < part.last; column += WIDE * LANES) {
            const float *w = kernel + (size_t)k * inputs * outputs + column;
            int wide = MIN((part.last - column) / LANES, WIDE);
            for (int64_t p = 0; p < some.count; p += TALL) {
                const float *x[TALL];
                float *y[TALL];
                int n = (int)MIN(some.count - p, TALL);
                for (int i = 0; i < TALL; i++) {
                    int64_t q = p + (i < n ? i : 0);
                    x[i] = features + source_of(&some, q) * inputs;
                    y[i] = out + target_of(&some, q) * outputs + column;
                }
                if (wide == 3)
                    multiply_tile(x, y, n, w, inputs, outputs, 3);
                else if (wide == 2)
                    multiply_tile(x, y, n, w, inputs, outputs, 2);
                else
                    multiply_tile(x, y, n, w, inputs, outputs, 1);
            }
        }
    }
}

/* out[target] = sum over offsets k of features[source] @ kernel[k].
 * features (N, inputs), kernel (volume, inputs, outputs), out (rows, outputs). */
void hpal_multiply(const float *features, const float *kernel, float *out, const pair_list *pairs, int volume,
                   int64_t rows, int inputs, int outputs, int threads) {
    const int width = WIDE * LANES, parts = parts_of(rows, outputs, width, threads);
    const int64_t tasks = (rows + ROWS_AT_A_TIME - 1) / ROWS_AT_A_TIME * parts;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t task = 0; task < tasks; task++) {
        block part = begin_part(out, task, parts, rows, outputs, width);
        multiply_part(features, kernel, out, pairs, volume, part, inputs, outputs);
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

static void outer_rows(const float *features, const float *gradient, float *weight, const some_pairs *some, int begin,
                       int end, int inputs, int outputs) {
    const float *x[PAIRS_AT_A_TIME], *y[PAIRS_AT_A_TIME];
    for (int64_t p = 0; p < some->count; p += PAIRS_AT_A_TIME) {
        int n = (int)MIN(some->count - p, PAIRS_AT_A_TIME);
        for (int i = 0; i < n; i++) {
            x[i] = features + source_of(some, p + i) * inputs;
            y[i] = gradient + target_of(some, p + i) * outputs;
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

/* The gradient of the kernel: kernel[k] = sum over the pairs of k of features[source]^T gradient[target].
 * ROWS_TOGETHER rows are done for all offsets before the next ones, so that they are read from memory once and not once
 * for each offset. */
void hpal_outer(const float *features, const float *gradient, float *kernel, const pair_list *pairs, int volume,
                int64_t rows, int inputs, int outputs, int threads) {
    int groups = (inputs + INPUTS_AT_A_TIME - 1) / INPUTS_AT_A_TIME;
    memset(kernel, 0, (size_t)volume * inputs * outputs * sizeof(float));
#pragma omp parallel num_threads(threads)
    for (int64_t begin_row = 0; begin_row < rows; begin_row += ROWS_TOGETHER) {
        int64_t end_row = MIN(begin_row + ROWS_TOGETHER, rows);
#pragma omp for schedule(dynamic)
        for (int task = 0; task < volume * groups; task++) {
            int k = task / groups, begin = task % groups * INPUTS_AT_A_TIME;
            some_pairs some = pairs_between(pairs + k, begin_row, end_row);
            outer_rows(features, gradient, kernel + (size_t)k * inputs * outputs, &some, begin,
                       MIN(begin + INPUTS_AT_A_TIME, inputs), inputs, outputs);
        }
    }
}
