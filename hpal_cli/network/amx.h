/* AMX: registers called tiles, of 16 rows of 64 bytes, which the processor multiplies as matrices. For sparse_bf16.c.
 *
 * To a tile of sums, (16, 16) float, the processor adds the product of a tile of the left matrix, (16, 32) bfloat16,
 * and one of the right matrix, (32, 16), stored as (16, 16, 2) with two rows interleaved. 2 x 2 tiles of sums are
 * computed at once. In the names below, `rows` is the left matrix and `columns` the right one.
 */
#pragma once
#include "pairs.h"

#include <immintrin.h>

/* A tile of bfloat16 has SIDE rows (of the left matrix) or columns (of the right one) of DEEP numbers. */
enum { SIDE = 16, DEEP = 32, TILE = SIDE * DEEP };

#if defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

/* Whether tiles are used. */
static int tiles;

/* Asks Linux for permission to use tiles, which each process has to do; kernels that do not know tiles refuse. */
static void allow_tiles(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    tiles = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

/* Configures the tiles of the calling thread, all at full size. */
static void begin_tiles(void) {
    struct {
        uint8_t palette, start, none[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shape.bytes[i] = 64;
        shape.rows[i] = SIDE;
    }
    /* gcc assumes that only the first 8 bytes are read, and would not write the others. */
    __asm__ volatile("" : : "r"(&shape) : "memory");
    if (tiles) _tile_loadconfig(&shape);
}

static void end_tiles(void) {
    if (tiles) _tile_release();
}

/* The eight tiles: 2 x 2 of sums, two of the left matrix, two of the right one. */
#define SUM_00 0
#define SUM_01 1
#define SUM_10 2
#define SUM_11 3
#define ROWS_0 4
#define ROWS_1 5
#define COLUMNS_0 6
#define COLUMNS_1 7

INLINE void sum_some(const uint16_t *rows, ptrdiff_t next_rows, const uint16_t *columns, ptrdiff_t next_columns,
                     int steps, float *sums, int width, const int tall, const int wide, const int onto) {
    const long pitch = width * (long)sizeof(float);
    if (onto) {
        _tile_loadd(SUM_00, sums, pitch);
        if (wide == 2) _tile_loadd(SUM_01, sums + SIDE, pitch);
        if (tall == 2) _tile_loadd(SUM_10, sums + SIDE * width, pitch);
        if (tall == 2 && wide == 2) _tile_loadd(SUM_11, sums + SIDE * width + SIDE, pitch);
    } else {
        _tile_zero(SUM_00);
        _tile_zero(SUM_01);
        _tile_zero(SUM_10);
        _tile_zero(SUM_11);
    }
    for (int s = 0; s < steps; s++, rows += TILE, columns += TILE) {
        _tile_loadd(ROWS_0, rows, 64);
        _tile_loadd(COLUMNS_0, columns, 64);
        _tile_dpbf16ps(SUM_00, ROWS_0, COLUMNS_0);
        if (wide == 2) {
            _tile_loadd(COLUMNS_1, columns + next_columns, 64);
            _tile_dpbf16ps(SUM_01, ROWS_0, COLUMNS_1);
        }
        if (tall == 2) {
            _tile_loadd(ROWS_1, rows + next_rows, 64);
            _tile_dpbf16ps(SUM_10, ROWS_1, COLUMNS_0);
        }
        if (tall == 2 && wide == 2) _tile_dpbf16ps(SUM_11, ROWS_1, COLUMNS_1);
    }
    _tile_stored(SUM_00, sums, pitch);
    if (wide == 2) _tile_stored(SUM_01, sums + SIDE, pitch);
    if (tall == 2) _tile_stored(SUM_10, sums + SIDE * width, pitch);
    if (tall == 2 && wide == 2) _tile_stored(SUM_11, sums + SIDE * width + SIDE, pitch);
}

/* sums[tall * SIDE][wide * SIDE] = left matrix @ right matrix, with `tall` and `wide` 1 or 2; with `onto`, the product
 * is added to the sums. steps: number of tiles along the inner dimension, which follow one another in memory; the
 * second row (column) of tiles begins `next_rows` (`next_columns`) numbers after the first. width: numbers from one
 * row of sums to the next. */
INLINE void sum_tiles(const uint16_t *rows, ptrdiff_t next_rows, const uint16_t *columns, ptrdiff_t next_columns,
                      int steps, float *sums, int width, int tall, int wide, const int onto) {
    /* The compiler does not know that loading a tile reads memory. */
    __asm__ volatile("" : : "r"(rows), "r"(columns), "r"(sums) : "memory");
    if (tall == 2 && wide == 2)
        sum_some(rows, next_rows, columns, next_columns, steps, sums, width, 2, 2, onto);
    else if (tall == 2)
        sum_some(rows, next_rows, columns, next_columns, steps, sums, width, 2, 1, onto);
    else if (wide == 2)
        sum_some(rows, next_rows, columns, next_columns, steps, sums, width, 1, 2, onto);
    else
        sum_some(rows, next_rows, columns, next_columns, steps, sums, width, 1, 1, onto);
}

#else
enum { tiles = 0 };
static void allow_tiles(void) {}
static void begin_tiles(void) {}
static void end_tiles(void) {}
INLINE void sum_tiles(const uint16_t *rows, ptrdiff_t next_rows, const uint16_t *columns, ptrdiff_t next_columns,
                      int steps, float *sums, int width, int tall, int wide, const int onto) {
    (void)rows, (void)next_rows, (void)columns, (void)next_columns;
    (void)steps, (void)sums, (void)width, (void)tall, (void)wide, (void)onto;
}
#endif
