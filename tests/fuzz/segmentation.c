/* hpal_segment of superpoints/segmentation.c: any graph; every point ends at a root, and no edge that was cheap enough
 * for single points is left between components that are too small. */
#include "../../hpal_cli/superpoints/segmentation.c"

#include "input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input in = {data, size};
    const int64_t points = between(&in, 1, 60), edges = between(&in, 0, 200), least = between(&in, 1, 9);
    const double k = number(&in, 4);
    int32_t *edge = room((size_t)(2 * edges) * sizeof *edge), *parent = room((size_t)points * sizeof *parent);
    int32_t *sizes = room((size_t)points * sizeof *sizes);
    double *cost = room((size_t)edges * sizeof *cost), *limit = room((size_t)points * sizeof *limit), last = 0;
    for (int64_t e = 0; e < edges; e++) {
        edge[2 * e] = (int32_t)(byte(&in) % points), edge[2 * e + 1] = (int32_t)(byte(&in) % points);
        cost[e] = last += byte(&in) / 64.0;
    }
    hpal_segment(points, edges, edge, cost, k, least, parent, sizes, limit);
    for (int64_t n = 0; n < points; n++) REQUIRE(parent[n] >= 0 && parent[n] < points && parent[parent[n]] == parent[n]);
    int64_t counted = 0;
    for (int64_t n = 0; n < points; n++) counted += parent[n] == n ? sizes[n] : 0;
    REQUIRE(counted == points);
    for (int64_t e = 0; e < edges; e++) {
        const int32_t a = parent[edge[2 * e]], b = parent[edge[2 * e + 1]];
        REQUIRE(a == b || (sizes[a] >= least && sizes[b] >= least));
    }
    free(edge), free(parent), free(sizes), free(cost), free(limit);
    return 0;
}
