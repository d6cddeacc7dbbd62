/* hpal_leaves of trees.c, for any trees that Trees.check accepts and rows of all bits, against the same walk in
 * doubles. */
#include "../../hpal_cli/trees.c"

#include "input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input in = {data, size};
    const int64_t count = between(&in, 0, 30), columns = between(&in, 1, 7), nodes = between(&in, 1, 40);
    const int32_t root = (int32_t)between(&in, 0, nodes - 1);
    float *rows = room((size_t)(count * columns) * sizeof *rows), *threshold = room((size_t)nodes * sizeof *threshold);
    int16_t *column = room((size_t)nodes * sizeof *column);
    int32_t *child = room((size_t)(2 * nodes) * sizeof *child), *leaf = room((size_t)count * sizeof *leaf);
    for (int64_t n = 0; n < nodes; n++) {
        /* The number of a child is larger than that of its parent, so the last node is a leaf. */
        const int inner = n < nodes - 1 && byte(&in) % 4;
        column[n] = (int16_t)(inner ? byte(&in) % columns : -1);
        threshold[n] = (float)number(&in, 2);
        for (int k = 0; k < 2; k++) child[2 * n + k] = (int32_t)(inner ? between(&in, n + 1, nodes - 1) : byte(&in));
    }
    for (int64_t n = 0; n < count * columns; n++) {
        rows[n] = (float)number(&in, 2);
        if (byte(&in) % 16 == 0) {
            uint32_t bits = 0;
            for (int b = 0; b < 4; b++) bits = bits << 8 | byte(&in);
            memcpy(rows + n, &bits, sizeof bits);
        }
    }
    hpal_leaves(rows, count, columns, root, column, threshold, child, leaf);
    for (int64_t r = 0; r < count; r++) {
        int64_t node = root;
        while (column[node] != -1) {
            const double value = rows[r * columns + column[node]], most = threshold[node];
            node = value > most ? child[2 * node + 1] : child[2 * node];
        }
        REQUIRE(leaf[r] == child[2 * node]);
    }
    free(rows), free(threshold), free(column), free(child), free(leaf);
    return 0;
}
