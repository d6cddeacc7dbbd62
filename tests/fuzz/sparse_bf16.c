/* hpal_pack, hpal_multiply and hpal_outer of network/sparse_bf16.c, in tiles and in vectors, against the same products,
 * one number at a time. On a processor that does not multiply bfloat16 there is nothing to run. */
#include "../../hpal_cli/network/sparse_bf16.c"

#include "products.h"

#if !defined(__AVX512BF16__)
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    (void)data, (void)size;
    return hpal_has_bf16();
}
#else
/* The upper half of a float: exact for the numbers that are drawn. */
static uint16_t *halves(const float *values, int64_t count) {
    uint16_t *made = room((size_t)count * sizeof *made);
    for (int64_t n = 0; n < count; n++) {
        uint32_t bits;
        memcpy(&bits, values + n, sizeof bits);
        made[n] = (uint16_t)(bits >> 16);
    }
    return made;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const int has_tiles = hpal_has_bf16() == 2;
    input in = {data, size};
#if defined(__AMX_BF16__) && defined(__linux__)
    tiles = has_tiles && byte(&in) & 1;
#else
    (void)has_tiles;
#endif
    const int offsets = (int)between(&in, 1, MAX_OFFSETS), transposed = byte(&in) & 1, threads = (int)between(&in, 1, 3);
    const int wide = byte(&in) == 77;
    const int inputs = SIDE * (int)between(&in, 1, wide ? 12 : 3), outputs = SIDE * (int)between(&in, 1, wide ? 12 : 3);
    int64_t sources = between(&in, 0, 40), targets = byte(&in) & 1 ? sources : between(&in, 0, 40);
    /* More rows than are done at a time, now and then. */
    if (byte(&in) == 77) sources = targets = between(&in, 250, 2100);
    const size_t weights = (size_t)offsets * inputs * outputs;
    float *features = room((size_t)(sources * inputs) * sizeof *features), *kernel = room(weights * sizeof *kernel);
    float *gradient = room((size_t)(targets * outputs) * sizeof *gradient), *slope = room(weights * sizeof *slope);
    float *out = room((size_t)(targets * outputs) * sizeof *out), *wanted = room((size_t)(targets * outputs) * sizeof *wanted);
    float *wanted_slope = room(weights * sizeof *wanted_slope), *given = room(weights * sizeof *given);
    pair_list pairs[MAX_OFFSETS];
    draw_pairs(&in, pairs, offsets, sources, targets);
    draw_numbers(&in, kernel, (int64_t)weights);
    draw_numbers(&in, features, sources * inputs);
    draw_numbers(&in, gradient, targets * outputs);
    for (size_t n = 0; n < weights; n++) {
        const size_t i = n / (size_t)outputs % (size_t)inputs, j = n % (size_t)outputs, k = n / ((size_t)inputs * outputs);
        given[transposed ? (k * (size_t)outputs + j) * (size_t)inputs + i : n] = kernel[n];
    }
    uint16_t *half = halves(features, sources * inputs), *half_gradient = halves(gradient, targets * outputs);
    uint16_t *packed = room((size_t)offsets * outputs * steps_of(inputs) * DEEP * sizeof *packed);
    hpal_pack(given, packed, offsets, inputs, outputs, transposed, threads);
    hpal_multiply(half, packed, out, pairs, offsets, targets, inputs, outputs, threads);
    plain_multiply(features, kernel, wanted, pairs, offsets, targets, inputs, outputs);
    for (int64_t n = 0; n < targets * outputs; n++) REQUIRE(out[n] == wanted[n]);
    hpal_outer(half, half_gradient, slope, pairs, offsets, targets, inputs, outputs, threads);
    plain_outer(features, gradient, wanted_slope, pairs, offsets, targets, inputs, outputs);
    for (size_t n = 0; n < weights; n++) REQUIRE(slope[n] == wanted_slope[n]);
    free_pairs(pairs, offsets);
    free(features), free(kernel), free(gradient), free(slope), free(out), free(wanted), free(wanted_slope), free(given);
    free(half), free(half_gradient), free(packed);
    return 0;
}
#endif
