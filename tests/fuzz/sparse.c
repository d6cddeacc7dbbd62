/* hpal_multiply and hpal_outer of network/sparse.c against the same products, one number at a time. */
#include "../../hpal_cli/network/sparse.c"

#include "products.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input in = {data, size};
    const int offsets = (int)between(&in, 1, MAX_OFFSETS), inputs = (int)between(&in, 1, 40);
    const int outputs = LANES * (int)between(&in, 1, 5), threads = (int)between(&in, 1, 3);
    int64_t sources = between(&in, 0, 40), targets = byte(&in) & 1 ? sources : between(&in, 0, 40);
    /* More rows than are done at a time, now and then. */
    if (byte(&in) == 77) sources = targets = between(&in, 500, 1100);
    const size_t weights = (size_t)offsets * inputs * outputs;
    float *features = room((size_t)(sources * inputs) * sizeof *features), *kernel = room(weights * sizeof *kernel);
    float *gradient = room((size_t)(targets * outputs) * sizeof *gradient), *slope = room(weights * sizeof *slope);
    float *out = room((size_t)(targets * outputs) * sizeof *out), *wanted = room((size_t)(targets * outputs) * sizeof *wanted);
    float *wanted_slope = room(weights * sizeof *wanted_slope);
    pair_list pairs[MAX_OFFSETS];
    draw_pairs(&in, pairs, offsets, sources, targets);
    draw_numbers(&in, kernel, (int64_t)weights);
    draw_numbers(&in, features, sources * inputs);
    draw_numbers(&in, gradient, targets * outputs);
    hpal_multiply(features, kernel, out, pairs, offsets, targets, inputs, outputs, threads);
    plain_multiply(features, kernel, wanted, pairs, offsets, targets, inputs, outputs);
    for (int64_t n = 0; n < targets * outputs; n++) REQUIRE(out[n] == wanted[n]);
    hpal_outer(features, gradient, slope, pairs, offsets, targets, inputs, outputs, threads);
    plain_outer(features, gradient, wanted_slope, pairs, offsets, targets, inputs, outputs);
    for (size_t n = 0; n < weights; n++) REQUIRE(slope[n] == wanted_slope[n]);
    free_pairs(pairs, offsets);
    free(features), free(kernel), free(gradient), free(slope), free(out), free(wanted), free(wanted_slope);
    return 0;
}
