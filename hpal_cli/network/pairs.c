/* Finds the pairs of rows that each offset of a kernel connects (geometry.py). Compiled by native.py. */
#include <stdint.h>

/* For each shift s, finds all i and j with key[j] = key[i] + shift[s], and writes the j to source[s], the i to
 * target[s] (each with space for `rows` numbers, both ascending) and their number to found[s]. key (rows,) is
 * ascending, so one pass over i and j is enough. */
void hpal_pairs(const int64_t *key, int64_t rows, const int64_t *shift, int shifts, int64_t *source, int64_t *target,
                int64_t *found, int threads) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int s = 0; s < shifts; s++) {
        int64_t *from = source + s * rows, *to = target + s * rows, n = 0;
        /* There is no branch on the comparison, because the processor could not predict it. */
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
