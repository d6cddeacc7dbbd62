/* Finds the rows of float16 that are no probability distributions (probabilities.py). */
#include "float16.h"

/* The number of rows of (rows, columns) that hold a negative number or NaN, or whose sum differs from 1 by more than
 * `slack` (in units of 2^-24). Writes the first such row to `first`. */
int64_t hpal_bad_rows(const uint16_t *values, int64_t rows, int columns, int64_t slack, int64_t *first) {
    uint16_t copy[(columns + LANES - 1) / LANES * LANES];
    int64_t bad = 0;
    for (int64_t row = 0; row < rows; row++) {
        const uint16_t *half = full_lanes(values, row, rows, columns, copy);
        uint32_t wrong = 0;
        uint64_t sum = 0;
        for (int c = 0; c < columns; c += LANES)
            for (int j = 0; j < LANES; j++) {
                /* 0x4000 is 2: a sum with a larger number is not near 1, and the bits of infinity, NaN and negative
                 * numbers are larger too. 0x8000 is -0, which counts as 0. */
                const uint16_t entry = c + j < columns ? half[c + j] : 0;
                wrong |= (entry > 0x4000) & (entry != 0x8000);
                sum += entry > 0x4000 ? 0 : whole(entry);
            }
        const int64_t off = (int64_t)sum - (1 << 24);
        if (wrong | (off > slack) | (off < -slack)) {
            if (!bad++) *first = row;
        }
    }
    return bad;
}
