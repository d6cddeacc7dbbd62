/* The functions of voxels.c, called as voxels.py does, against a comparison of every point with every other. */
#include "../../hpal_cli/voxels.c"

#include "input.h"

enum { MAX_CELLS = 1 << 20 };

typedef struct {
    int64_t low[3], extent[3], words, *before;
    uint64_t *bits;
} box;

/* Whether the box of these cells is small enough. */
static int make_box(box *made, const int64_t *low, const int64_t *high) {
    double cells = 1;
    for (int a = 0; a < 3; a++) {
        made->low[a] = low[a];
        made->extent[a] = high[a] - low[a] + 1;
        cells *= (double)made->extent[a];
    }
    if (cells > MAX_CELLS) return 0;
    made->words = ((int64_t)cells + 63) / 64;
    made->bits = room((size_t)made->words * sizeof *made->bits);
    memset(made->bits, 0, (size_t)made->words * sizeof *made->bits);
    made->before = room((size_t)made->words * sizeof *made->before);
    return 1;
}

static void free_box(box *made) { free(made->bits), free(made->before); }

/* Whether the cell of one point comes before that of another. */
static int is_before(const int64_t *one, const int64_t *other) {
    for (int a = 0; a < 3; a++)
        if (one[a] != other[a]) return one[a] < other[a];
    return 0;
}

/* Points of the same cell have the same voxel, and voxels are numbered in the order of their cells. */
static void check_groups(const int64_t *cell, const int64_t *group, int64_t count, int64_t found) {
    int64_t most = -1;
    for (int64_t n = 0; n < count; n++) {
        most = group[n] > most ? group[n] : most;
        for (int64_t m = 0; m < count; m++)
            REQUIRE(is_before(cell + 3 * n, cell + 3 * m) == (group[n] < group[m]));
    }
    REQUIRE(found == most + 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input in = {data, size};
    const int64_t count = between(&in, 1, 60), width = between(&in, 0, 4), shift = between(&in, 0, 60000) - 30000;
    const float edge = (float)(1 + byte(&in)) / 64.0f, reach = (float)(1 + byte(&in)) / 16.0f;
    int64_t *cell = room((size_t)(3 * count) * sizeof *cell), *group = room((size_t)count * sizeof *group);
    float *xyz = room((size_t)(3 * count) * sizeof *xyz), *columns = room((size_t)(width * count) * sizeof *columns);
    for (int64_t n = 0; n < 3 * count; n++) xyz[n] = (float)number(&in, reach) + (float)shift * edge;
    for (int64_t n = 0; n < width * count; n++) columns[n] = (float)number(&in, 1);
    if (byte(&in) % 8 == 0) xyz[between(&in, 0, 3 * count - 1)] = NAN;

    float lowest[3], highest[3];
    const int whole = hpal_bounds(xyz, count, lowest, highest);
    int wanted = 1;
    for (int64_t n = 0; n < 3 * count; n++) wanted &= xyz[n] == xyz[n];
    REQUIRE(whole == wanted);
    int64_t low[3], high[3], by_cell[3], by_cell_high[3];
    box made;
    if (whole) {
        for (int a = 0; a < 3; a++) {
            float least = xyz[a], most = xyz[a];
            for (int64_t n = 0; n < count; n++) {
                least = fminf(least, xyz[3 * n + a]);
                most = fmaxf(most, xyz[3 * n + a]);
            }
            REQUIRE(least == lowest[a] && most == highest[a]);
            low[a] = (int64_t)floorf(least / edge);
            high[a] = (int64_t)floorf(most / edge);
        }
        for (int64_t n = 0; n < 3 * count; n++) cell[n] = (int64_t)floorf(xyz[n] / edge);
        hpal_extent(cell, count, by_cell, by_cell_high);
        REQUIRE(!memcmp(low, by_cell, sizeof low) && !memcmp(high, by_cell_high, sizeof high));
    }
    if (whole && make_box(&made, low, high)) {
        const int64_t found = hpal_group(cell, count, made.low, made.extent, made.bits, made.before, made.words, group);
        check_groups(cell, group, count, found);
        memset(made.bits, 0, (size_t)made.words * sizeof *made.bits);
        REQUIRE(hpal_group_positions(xyz, count, edge, made.low, made.extent, made.bits, made.before, made.words, group) == found);
        check_groups(cell, group, count, found);
        free_box(&made);
        int64_t *first = room((size_t)found * sizeof *first);
        float *features = room((size_t)(found * (width + 3)) * sizeof *features);
        int32_t *voxel = room((size_t)(4 * found) * sizeof *voxel);
        hpal_first_of_each(xyz, columns, width, count, edge, 7, group, found, first, features, voxel);
        for (int64_t m = 0; m < found; m++) {
            int64_t n = 0;
            while (group[n] != m) n++;
            REQUIRE(first[m] == n && voxel[4 * m] == 7);
            for (int64_t k = 0; k < width; k++) REQUIRE(features[m * (width + 3) + k] == columns[n * width + k]);
            for (int a = 0; a < 3; a++) {
                REQUIRE(features[m * (width + 3) + width + a] == xyz[3 * n + a]);
                REQUIRE(voxel[4 * m + 1 + a] == cell[3 * n + a]);
            }
        }
        free(first), free(features), free(voxel);
    }
    free(cell), free(group), free(xyz), free(columns);
    return 0;
}
