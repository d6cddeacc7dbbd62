/* The pairs of rows that the offsets of a kernel connect (convolution.KernelMap.table), for the products of this
 * folder.
 *
 * Each number of a result is summed by one thread, in the order of the kernel's offsets; each number of a kernel's
 * gradient in the order of the rows. The result has therefore the same bits with any number of threads.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define MIN(a, b) ((a) < (b) ? (a) : (b))

/* The pairs of one offset; both lists are ascending. A count below 0 means that each row is paired with itself. */
typedef struct {
    const int64_t *source, *target;
    int64_t count;
} pair_list;

/* The pairs of an offset whose targets are in a range of rows. */
typedef struct {
    const int64_t *source, *target;
    int64_t begin, count;
} some_pairs;

static int64_t first_not_below(const int64_t *list, int64_t count, int64_t value) {
    int64_t low = 0;
    while (count > 0) {
        int64_t half = count / 2;
        if (list[low + half] < value) {
            low += half + 1;
            count -= half + 1;
        } else {
            count = half;
        }
    }
    return low;
}

static some_pairs pairs_between(const pair_list *pairs, int64_t begin, int64_t end) {
    if (pairs->count < 0) return (some_pairs){.begin = begin, .count = end - begin};
    int64_t low = first_not_below(pairs->target, pairs->count, begin);
    int64_t count = first_not_below(pairs->target + low, pairs->count - low, end);
    return (some_pairs){pairs->source + low, pairs->target + low, 0, count};
}

INLINE int64_t source_of(const some_pairs *pairs, int64_t p) {
    return pairs->source ? pairs->source[p] : pairs->begin + p;
}

INLINE int64_t target_of(const some_pairs *pairs, int64_t p) {
    return pairs->target ? pairs->target[p] : pairs->begin + p;
}

/* A part of a product: rows begin .. end, columns first .. last. */
typedef struct {
    int64_t begin, end;
    int first, last;
} block;

enum { ROWS_AT_A_TIME = 512 };

/* The number of parts in which the columns are computed: one, unless there are too few rows to occupy the threads. */
static int parts_of(int64_t rows, int outputs, int width, int threads) {
    return rows < (int64_t)4 * threads * ROWS_AT_A_TIME ? (outputs + width - 1) / width : 1;
}

/* Part `task` of a product; its numbers in `out` are set to 0. */
static block begin_part(float *out, int64_t task, int parts, int64_t rows, int outputs, int width) {
    int64_t begin = task / parts * ROWS_AT_A_TIME;
    int first = (int)(task % parts) * width;
    block part = {begin, MIN(begin + ROWS_AT_A_TIME, rows), first, parts == 1 ? outputs : MIN(first + width, outputs)};
    for (int64_t row = part.begin; row < part.end; row++)
        memset(out + row * outputs + part.first, 0, (size_t)(part.last - part.first) * sizeof(float));
    return part;
}
