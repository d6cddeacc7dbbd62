/* float16 as whole numbers, for the C sources of this package. */
#pragma once
#include <stdint.h>
#include <string.h>

enum { LANES = 16 };

/* The magnitude of a finite float16 in units of 2^-24, of which every one is a multiple; below 2^8 it fits 32 bits. */
static inline __attribute__((always_inline)) uint32_t whole(uint16_t half) {
    uint32_t exponent = (half >> 10) & 31, mantissa = half & 1023;
    uint32_t normal = exponent > 0;
    return (mantissa | normal << 10) << (exponent - normal);
}

/* Where row `row` of (rows, columns) can be read in full LANES: in place, into the row behind it, or for the last rows
 * from a copy. What lies behind the last column means nothing. */
static inline __attribute__((always_inline)) const uint16_t *full_lanes(const uint16_t *values, int64_t row,
                                                                        int64_t rows, int columns, uint16_t *copy) {
    const int64_t begin = row * columns, wide = (columns + LANES - 1) / LANES * LANES;
    if (begin + wide <= rows * columns) return values + begin;
    memcpy(copy, values + begin, (size_t)columns * sizeof *copy);
    return copy;
}
