/* Which rows the offsets of a kernel bring together (geometry.py). Compiled by native.py. */
#include <stdint.h>

/* For each shift s, all i and j with key[j] = key[i] + shift[s], ascending: j in source[s], i in target[s], both of room
 * for `rows`, and their number in found[s]. key (rows,) ascends, so both are walked once. */
void hpal_pairs(const int64_t *key, int64_t rows, const int64_t *shift, int shifts, int64_t *source, int64_t *target,
                int64_t *found, int threads) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int s = 0; s < shifts; s++) {
        int64_t *from = source + s * rows, *to = target + s * rows, n = 0;
        /* Without a branch on the comparison, which nothing could foretell. */
        for (int64_t i = 0, j = 0; i < rows && j < rows;) {
            int64_t wanted = key[i] + shift[s], there = key[j];
            from[n] = j;
            to[n] = i;
            n += there == wanted;
            i += there >= wanted;
            j += there <= wanted;
        }
        found[s] = n;
    }
}
