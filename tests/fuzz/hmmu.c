/* hpal_chain and hpal_margins of score/hmmu.c, for probabilities and coordinates of all bits: nothing is read or
 * written out of place, and two threads add what one adds. */
#include "../../hpal_cli/score/hmmu.c"

#include "input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input in = {data, size};
    const int classes = (int)between(&in, 2, 40), levels = (int)between(&in, 1, 4), wide = byte(&in) & 1;
    const int has_parts = byte(&in) & 1;
    /* Threads are dear: only now and then. */
    const int threads = byte(&in) % 32 ? 1 : 2;
    const int64_t points = between(&in, 1, 70);
    uint16_t *prob = room((size_t)(points * classes) * sizeof *prob);
    for (int64_t n = 0; n < points * classes; n++) prob[n] = (uint16_t)(byte(&in) << 6 | (n & 63));
    void *xyz = room((size_t)points * 3 * (wide ? sizeof(double) : sizeof(float)));
    for (int64_t n = 0; n < 3 * points; n++) {
        uint64_t bits = 0;
        double value = number(&in, 3);
        if (byte(&in) % 16 == 0) {
            for (int b = 0; b < 8; b++) bits = bits << 8 | byte(&in);
            memcpy(&value, &bits, sizeof value);
        }
        if (wide)
            ((double *)xyz)[n] = value;
        else
            ((float *)xyz)[n] = (float)value;
    }
    double edges[4], weights[4], *total = room((size_t)points * sizeof *total), *again = room((size_t)points * sizeof *again);
    edges[0] = (1 + byte(&in)) / 100.0;
    for (int l = 1; l < levels; l++) edges[l] = edges[l - 1] * (double)between(&in, 2, 300);
    for (int l = 0; l < levels; l++) weights[l] = 0.1 / (l + 1);
    float *parts = has_parts ? room((size_t)(levels * points) * sizeof *parts) : NULL;
    int64_t voxels[4] = {0}, others[4] = {0};
    hpal_margins(prob, points, classes, total, 1);
    hpal_margins(prob, points, classes, again, threads);
    const int status = hpal_chain(prob, xyz, wide, points, classes, edges, weights, levels, total, parts, voxels, 1);
    if (threads > 1) {
        REQUIRE(hpal_chain(prob, xyz, wide, points, classes, edges, weights, levels, again, parts, others, threads) == status);
        REQUIRE(!memcmp(total, again, (size_t)points * sizeof *total));
        REQUIRE(!memcmp(voxels, others, sizeof voxels));
    }
    for (int l = 0; l < levels && status == DONE; l++) REQUIRE(voxels[l] >= 1 && voxels[l] <= points);
    free(prob), free(xyz), free(total), free(again), free(parts);
    return 0;
}
