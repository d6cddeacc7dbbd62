/* Lists of pairs for the products of network/sparse.c and sparse_bf16.c. All factors are small whole numbers, so that
 * every sum is exact in whatever order it is added. */
#pragma once
#include "../../hpal_cli/network/pairs.h"

#include "input.h"

enum { MAX_OFFSETS = 4 };

/* The pairs of each offset between `sources` and `targets` rows: each pair is there or not, ascending in both lists. */
static void draw_pairs(input *in, pair_list *pairs, int offsets, int64_t sources, int64_t targets) {
    for (int k = 0; k < offsets; k++) {
        const int64_t most = sources < targets ? sources : targets;
        int64_t *source = room((size_t)most * sizeof *source), *target = room((size_t)most * sizeof *target), n = 0;
        int64_t from = 0, to = 0;
        pairs[k] = (pair_list){source, target, 0};
        if (sources == targets && byte(in) % 4 == 0) {
            free(source), free(target);
            pairs[k] = (pair_list){NULL, NULL, -1};
            continue;
        }
        for (;; from++, to++) {
            const uint8_t drawn = byte(in);
            from += drawn & 3 ? 0 : drawn >> 2 & 7;
            to += drawn & 32 ? drawn >> 6 : 0;
            if (from >= sources || to >= targets) break;
            source[n] = from, target[n++] = to;
        }
        pairs[k].count = n;
    }
}

static void free_pairs(pair_list *pairs, int offsets) {
    for (int k = 0; k < offsets; k++) free((void *)pairs[k].source), free((void *)pairs[k].target);
}

static int64_t pairs_of(const pair_list *pairs, int64_t rows) { return pairs->count < 0 ? rows : pairs->count; }

static int64_t row_of(const int64_t *list, int64_t n) { return list ? list[n] : n; }

/* From -8 to 7: exact in every format. */
static void draw_numbers(input *in, float *values, int64_t count) {
    for (int64_t n = 0; n < count; n++) values[n] = (float)(byte(in) & 15) - 8;
}

/* What hpal_multiply must give, (rows, outputs). */
static void plain_multiply(const float *features, const float *kernel, float *out, const pair_list *pairs, int offsets,
                           int64_t rows, int inputs, int outputs) {
    memset(out, 0, (size_t)(rows * outputs) * sizeof *out);
    for (int k = 0; k < offsets; k++)
        for (int64_t n = 0; n < pairs_of(pairs + k, rows); n++) {
            const float *x = features + row_of(pairs[k].source, n) * inputs;
            float *y = out + row_of(pairs[k].target, n) * outputs;
            for (int i = 0; i < inputs; i++)
                for (int j = 0; j < outputs; j++) y[j] += x[i] * kernel[((size_t)k * inputs + i) * outputs + j];
        }
}

/* What hpal_outer must give, (offsets, inputs, outputs). */
static void plain_outer(const float *features, const float *gradient, float *kernel, const pair_list *pairs, int offsets,
                        int64_t rows, int inputs, int outputs) {
    memset(kernel, 0, (size_t)offsets * inputs * outputs * sizeof *kernel);
    for (int k = 0; k < offsets; k++)
        for (int64_t n = 0; n < pairs_of(pairs + k, rows); n++) {
            const float *x = features + row_of(pairs[k].source, n) * inputs;
            const float *y = gradient + row_of(pairs[k].target, n) * outputs;
            for (int i = 0; i < inputs; i++)
                for (int j = 0; j < outputs; j++) kernel[((size_t)k * inputs + i) * outputs + j] += x[i] * y[j];
        }
}
