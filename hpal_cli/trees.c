/* Finds the leaf of a tree in which each row ends (trees.py). */
#include <stdint.h>

/* rows: (count, columns); column, threshold: (nodes,) and child: (nodes, 2) as in trees.py; leaf: (count,) rows of its
 * table of leaves. */
void hpal_leaves(const float *rows, int64_t count, int64_t columns, int32_t root, const int16_t *column,
                 const float *threshold, const int32_t *child, int32_t *leaf) {
    for (int64_t r = 0; r < count; r++, rows += columns) {
        int64_t node = root;
        /* A comparison with NaN is false, as in NumPy. */
        while (column[node] >= 0) node = child[2 * node + (rows[column[node]] > threshold[node])];
        leaf[r] = child[2 * node];
    }
}
