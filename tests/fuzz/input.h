/* What a fuzzed input says, byte by byte: zeros where it has ended. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const uint8_t *at;
    size_t left;
} input;

static inline uint8_t byte(input *in) {
    if (!in->left) return 0;
    in->left--;
    return *in->at++;
}

/* From `low` to `high`, both included. */
static inline int64_t between(input *in, int64_t low, int64_t high) {
    const uint64_t drawn = byte(in) | (uint64_t)byte(in) << 8;
    return low + (int64_t)(drawn % (uint64_t)(high - low + 1));
}

/* Any double whose magnitude is at most `most`: coarse steps, so that equal ones come about. */
static inline double number(input *in, double most) { return (double)(int8_t)byte(in) / 127 * most; }

/* As large as asked for and no larger, so that the sanitizer sees every step beyond. */
static inline void *room(size_t bytes) {
    void *found = malloc(bytes ? bytes : 1);
    if (!found) abort();
    return found;
}

#define REQUIRE(what) \
    do {              \
        if (!(what)) __builtin_trap(); \
    } while (0)
