/* Reads float16 as integers, for the C sources of this package. */
#pragma once
#include <stdint.h>
#include <string.h>

enum { LANES = 16 };

/* The magnitude of a finite float16 in units of 2^-24, of which every float16 is a multiple. It must be below 2^8, so
 * that the result fits into 32 bits. */
static inline __attribute__((always_inline)) uint32_t whole(uint16_t half) {
    uint32_t exponent = (half >> 10) & 31, mantissa = half & 1023;
    uint32_t normal = exponent > 0;
    return (mantissa | normal << 10) << (exponent - normal);
}

/* A pointer from which row `row` of (rows, columns) can be read in full vectors of LANES: into the array itself, where
 * the numbers after the last column belong to the next row, or for the last rows to a copy. The numbers after the last
 * column must not be used. */
static inline __attribute__((always_inline)) const uint16_t *full_lanes(const uint16_t *values, int64_t row,
                                                                        int64_t rows, int columns, uint16_t *copy) {
    const int64_t begin = row * columns, wide = (columns + LANES - 1) / LANES * LANES;
    if (begin + wide <= rows * columns) return values + begin;
    memcpy(copy, values + begin, (size_t)columns * sizeof *copy);
    return copy;
}
