/* The sums of HMMU (hmmu.py) in integers. A float16 probability is a multiple of 2^-24, so sums of them are exact in
 * 64 bits, and the result has the same bits for any order of the points and any number of threads.
 *
 * Edges of which each is a multiple of the one before (a chain, finest first) share the work. Points are sorted once
 * by a key whose high bits are the cell of the coarsest level, followed by the position of each finer cell within the
 * cell of the next coarser level. One pass through the sorted points is then enough: whenever the key leaves a voxel
 * of some level, the voxel is complete, and its sums are added to the voxel of the next coarser level.
 */
#define _DEFAULT_SOURCE
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "float16.h"

enum { MAX_LEVELS = 16, MAX_THREADS = 64, DIGIT = 11, BLOCK = 256, PREFETCH_DISTANCE = 24 };
enum { DONE = 0, NOT_NESTED = 1, TOO_WIDE = 2, NO_MEMORY = 3 };

#define INLINE static inline __attribute__((always_inline))
#define UNIT (1.0 / (1 << 24))

/* A row of probabilities in units of 2^-24, with zeros after the last class; `out` has space for a whole number of
 * vectors of LANES. */
INLINE void read_row(const uint16_t *prob, int64_t row, int64_t rows, int classes, uint32_t *out) {
    const int wide = (classes + LANES - 1) / LANES * LANES;
    uint16_t copy[wide];
    const uint16_t *half = full_lanes(prob, row, rows, classes, copy);
    for (int c = 0; c < wide; c += LANES)
        for (int j = 0; j < LANES; j++) out[c + j] = c + j < classes ? whole(half[c + j]) : 0;
}

#define TOP_TWO(type, values, classes, best, second)              \
    type best = (values)[0], second = 0;                          \
    for (int c_ = 1; c_ < (classes); c_++) {                      \
        const type v_ = (values)[c_], low_ = v_ < best ? v_ : best; \
        second = second > low_ ? second : low_;                   \
        best = best > v_ ? best : v_;                             \
    }

/* ------------------------------------------------------------------ threads */

typedef struct job job;
struct job {
    void (*work)(job *, int thread);
    int threads;
    pthread_mutex_t gate;
    pthread_barrier_t barrier;
    const uint16_t *prob;
    const void *xyz;
    int wide, classes, levels;
    int64_t points;
    const double *edges, *weights;
    double *total;
    float *parts;
    /* Computed by the threads: */
    double low[MAX_THREADS][3], high[MAX_THREADS][3];
    double first_cell[3];
    uint32_t ratio[MAX_LEVELS];
    int sub_bits[MAX_LEVELS], shift[MAX_LEVELS], coarse_bits[3], key_bits;
    /* Each of these is written only between two barriers and read only after the second, so that all threads read the
     * same value. */
    int too_wide, torn;
    uint64_t *key[2];
    uint32_t *row[2];
    int64_t *histogram;
    /* The totals of the points, in sorted order; they use the buffer of keys that the sort no longer needs. */
    double *sorted;
    int64_t closed[MAX_THREADS][MAX_LEVELS];
};

typedef struct {
    job *of;
    int thread;
} ticket;

static void *start(void *argument) {
    ticket *mine = argument;
    pthread_mutex_lock(&mine->of->gate);
    pthread_mutex_unlock(&mine->of->gate);
    mine->of->work(mine->of, mine->thread);
    return NULL;
}

/* Runs `work` in so many threads, or in as many as the system can start. They begin to work when their number is
 * known. */
static void in_threads(job *all, int threads) {
    pthread_t handle[MAX_THREADS];
    ticket tickets[MAX_THREADS];
    pthread_mutex_init(&all->gate, NULL);
    pthread_mutex_lock(&all->gate);
    for (all->threads = 1; all->threads < threads && all->threads < MAX_THREADS; all->threads++) {
        tickets[all->threads] = (ticket){all, all->threads};
        if (pthread_create(&handle[all->threads], NULL, start, &tickets[all->threads])) break;
    }
    pthread_barrier_init(&all->barrier, NULL, (unsigned)all->threads);
    pthread_mutex_unlock(&all->gate);
    all->work(all, 0);
    for (int t = 1; t < all->threads; t++) pthread_join(handle[t], NULL);
    pthread_barrier_destroy(&all->barrier);
    pthread_mutex_destroy(&all->gate);
}

static void wait_for_all(job *all) { pthread_barrier_wait(&all->barrier); }

/* The first point of a thread's share. */
INLINE int64_t share(int64_t points, int thread, int threads) {
    return points / threads * thread + points % threads * thread / threads;
}

/* ------------------------------------------------------------------ margins of single points */

static void margins(job *all, int thread) {
    const int64_t begin = share(all->points, thread, all->threads), end = share(all->points, thread + 1, all->threads);
    uint32_t value[(all->classes + LANES - 1) / LANES * LANES];
    for (int64_t i = begin; i < end; i++) {
        read_row(all->prob, i, all->points, all->classes, value);
        TOP_TWO(uint32_t, value, all->classes, best, second)
        all->total[i] = (best - second) * UNIT;
    }
}

/* (rows, classes) float16 -> out (rows,): the largest entry of each row minus its second largest. */
void hpal_margins(const uint16_t *prob, int64_t rows, int classes, double *out, int threads) {
    job all = {.work = margins, .prob = prob, .points = rows, .classes = classes, .total = out};
    in_threads(&all, threads);
}

/* ------------------------------------------------------------------ keys */

INLINE double coordinate(const job *all, int64_t point, int axis) {
    return all->wide ? ((const double *)all->xyz)[3 * point + axis] : ((const float *)all->xyz)[3 * point + axis];
}

static int bits_for(double largest) {
    int bits = 0;
    while (bits < 64 && ldexp(1.0, bits) <= largest) bits++;
    return bits;
}

/* Sets the layout of the keys, from the extent of the points. */
static void lay_out(job *all) {
    const int top = all->levels - 1;
    int bits = 0;
    for (int l = 0; l < top; l++) {
        const double ratio = all->edges[l + 1] / all->edges[l];
        if (!(ratio < 1 << 30)) {
            all->too_wide = 1;
            return;
        }
        all->ratio[l] = (uint32_t)llround(ratio);
        all->sub_bits[l] = bits_for(all->ratio[l] - 1.0);
        all->shift[l] = bits;
        bits += 3 * all->sub_bits[l];
    }
    all->shift[top] = bits;
    for (int a = 0; a < 3; a++) {
        double low = all->low[0][a], high = all->high[0][a];
        for (int t = 1; t < all->threads; t++) {
            low = all->low[t][a] < low ? all->low[t][a] : low;
            high = all->high[t][a] > high ? all->high[t][a] : high;
        }
        all->first_cell[a] = floor(low / all->edges[top]);
        all->coarse_bits[a] = bits_for(floor(high / all->edges[top]) - all->first_cell[a]);
        if (all->coarse_bits[a] > 31) all->too_wide = 1;
        bits += all->coarse_bits[a];
    }
    all->key_bits = bits;
    if (bits > 64 || all->shift[top] > 63) all->too_wide = 1;
}

/* Computes the keys of at most BLOCK points. Returns 1 if, because of rounding, the points of a finer cell are in two
 * coarser ones: then the levels cannot share the work. */
INLINE int make_keys(const job *all, int64_t begin, int count) {
    const int top = all->levels - 1;
    double x[BLOCK], outer[BLOCK], inner[BLOCK];
    uint64_t *key = all->key[0] + begin;
    int bad = 0;
    memset(key, 0, (size_t)count * sizeof *key);
    for (int a = 0; a < 3; a++) {
        int above = 0;
        for (int b = a + 1; b < 3; b++) above += all->coarse_bits[b];
        for (int i = 0; i < count; i++) x[i] = coordinate(all, begin + i, a);
        for (int i = 0; i < count; i++) {
            outer[i] = floor(x[i] / all->edges[top]);
            key[i] |= (uint64_t)(uint32_t)(int32_t)(outer[i] - all->first_cell[a]) << (all->shift[top] + above) % 64;
        }
        for (int l = top - 1; l >= 0; l--) {
            const double ratio = all->ratio[l];
            const int place = all->shift[l] + (2 - a) * all->sub_bits[l];
            for (int i = 0; i < count; i++) {
                inner[i] = floor(x[i] / all->edges[l]);
                double sub = inner[i] - ratio * outer[i];
                const int inside = sub >= 0 && sub < ratio;
                bad |= !inside;
                key[i] |= (uint64_t)(uint32_t)(int32_t)(inside ? sub : 0) << place;
                outer[i] = inner[i];
            }
        }
    }
    return bad;
}

/* ------------------------------------------------------------------ the chain */

/* Sorts (key, row) by key, with a radix sort that begins with the lowest digit. It is stable: rows with the same key
 * keep their order. */
static int sort_by_key(job *all, int thread, int64_t begin, int64_t end) {
    const int passes = (all->key_bits + DIGIT - 1) / DIGIT;
    const int digit = passes ? (all->key_bits + passes - 1) / passes : 0;
    const uint32_t mask = (1u << digit) - 1;
    int from = 0;
    for (int p = 0; p < passes; p++, from = !from) {
        const int shift = p * digit;
        int64_t *mine = all->histogram + ((size_t)thread << DIGIT);
        memset(mine, 0, sizeof *mine << DIGIT);
        for (int64_t i = begin; i < end; i++) mine[all->key[from][i] >> shift & mask]++;
        wait_for_all(all);
        if (thread == 0) {
            int64_t at = 0;
            for (uint32_t d = 0; d <= mask; d++)
                for (int t = 0; t < all->threads; t++) {
                    int64_t *count = all->histogram + ((size_t)t << DIGIT) + d, here = *count;
                    *count = at;
                    at += here;
                }
        }
        wait_for_all(all);
        for (int64_t i = begin; i < end; i++) {
            const uint64_t key = all->key[from][i];
            const int64_t to = mine[key >> shift & mask]++;
            all->key[!from][to] = key;
            all->row[!from][to] = p ? all->row[from][i] : (uint32_t)i;
        }
        wait_for_all(all);
    }
    return from;
}

/* The first position, from `at` on, at which a voxel of the coarsest level begins. */
static int64_t next_voxel(const uint64_t *key, int64_t points, int64_t at, int shift) {
    while (0 < at && at < points && (key[at] ^ key[at - 1]) >> shift == 0) at++;
    return at;
}

/* Adds the margin of a voxel's mean distribution to its points, [begin, end) in sorted order. */
INLINE void close_voxel(job *all, const uint32_t *row, int level, const uint64_t *sum, int64_t begin, int64_t end) {
    TOP_TWO(uint64_t, sum, all->classes, best, second)
    const double margin = (double)(best - second) * UNIT / (double)(end - begin), part = all->weights[level] * margin;
    for (int64_t p = begin; p < end; p++) all->sorted[p] += part;
    if (all->parts)
        for (int64_t p = begin; p < end; p++) all->parts[level * all->points + row[p]] = (float)margin;
}

static void add_levels(job *all, int thread, const uint64_t *key, const uint32_t *row, int64_t begin, int64_t end) {
    const int wide = (all->classes + LANES - 1) / LANES * LANES, levels = all->levels;
    uint32_t value[wide];
    uint64_t sum[levels][wide];
    int64_t opened[MAX_LEVELS], closed[MAX_LEVELS] = {0};
    memset(sum, 0, sizeof sum);
    for (int l = 0; l < levels; l++) opened[l] = begin;
    for (int64_t p = begin; p <= end; p++) {
        const uint64_t left = p == begin ? 0 : p == end ? ~(uint64_t)0 : key[p] ^ key[p - 1];
        for (int l = 0; left && l < levels && (p == end || left >> all->shift[l]); l++) {
            close_voxel(all, row, l, sum[l], opened[l], p);
            closed[l]++;
            if (l + 1 < levels)
                for (int c = 0; c < wide; c++) sum[l + 1][c] += sum[l][c];
            else
                for (int64_t q = opened[l]; q < p; q++) all->total[row[q]] = all->sorted[q];
            memset(sum[l], 0, sizeof sum[l]);
            opened[l] = p;
        }
        if (p == end) break;
        if (p + PREFETCH_DISTANCE < end) {
            const uint32_t soon = row[p + PREFETCH_DISTANCE];
            const uint16_t *next = all->prob + (int64_t)soon * all->classes;
            __builtin_prefetch(next);
            __builtin_prefetch(next + all->classes - 1);
            __builtin_prefetch(all->total + soon, 1);
        }
        read_row(all->prob, row[p], all->points, all->classes, value);
        for (int c = 0; c < wide; c++) sum[0][c] += value[c];
        all->sorted[p] = all->total[row[p]];
    }
    memcpy(all->closed[thread], closed, sizeof closed);
}

static void chain(job *all, int thread) {
    const int64_t begin = share(all->points, thread, all->threads), end = share(all->points, thread + 1, all->threads);
    /* In local variables: a cache line to which two threads write would move between their cores all the time. */
    double low[3] = {INFINITY, INFINITY, INFINITY}, high[3] = {-INFINITY, -INFINITY, -INFINITY}, odd = 0;
    for (int64_t i = begin; i < end; i++)
        for (int a = 0; a < 3; a++) {
            const double x = coordinate(all, i, a);
            low[a] = x < low[a] ? x : low[a];
            high[a] = x > high[a] ? x : high[a];
            odd += x - x;
        }
    /* A coordinate that is not finite is in no cell. */
    if (odd != 0) low[0] = 0, high[0] = INFINITY;
    memcpy(all->low[thread], low, sizeof low);
    memcpy(all->high[thread], high, sizeof high);
    wait_for_all(all);
    if (thread == 0) lay_out(all);
    wait_for_all(all);
    if (all->too_wide) return;
    int bad = 0;
    for (int64_t i = begin; i < end; i += BLOCK) bad |= make_keys(all, i, (int)(end - i < BLOCK ? end - i : BLOCK));
    if (bad) __atomic_store_n(&all->torn, 1, __ATOMIC_RELAXED);
    wait_for_all(all);
    if (all->torn) return;
    if (!all->key_bits)
        for (int64_t i = begin; i < end; i++) all->row[0][i] = (uint32_t)i;
    const int in = sort_by_key(all, thread, begin, end);
    if (thread == 0) all->sorted = (double *)all->key[!in];
    wait_for_all(all);
    const uint64_t *key = all->key[in];
    const int top = all->shift[all->levels - 1];
    const int64_t from = next_voxel(key, all->points, begin, top), to = next_voxel(key, all->points, end, top);
    if (from < to) add_levels(all, thread, key, all->row[in], from, to);
}

enum { HUGE_PAGE = 1 << 21 };

/* Allocates memory that is accessed at random; much of it in large pages, so that fewer page table look-ups are
 * needed. */
static void *scratch(size_t bytes) {
    if (bytes < 2 * HUGE_PAGE) return malloc(bytes);
    bytes = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    void *found = aligned_alloc(HUGE_PAGE, bytes);
#ifdef MADV_HUGEPAGE
    if (found) madvise(found, bytes, MADV_HUGEPAGE);
#endif
    return found;
}

/* Adds weights[l] * U^l to total (points,) for the levels l of a chain, and the number of their voxels to voxels
 * (levels,). Writes U^l to parts (levels, points), unless that is NULL.
 *
 * prob: (points, classes) float16; xyz: (points, 3) double if `wide`, else float; edges: ascending, each a whole
 * multiple of the one before. Returns NOT_NESTED if the cells of some point are not nested, and TOO_WIDE if the cells
 * cannot be numbered in 64 bits; nothing was added then.
 */
int hpal_chain(const uint16_t *prob, const void *xyz, int wide, int64_t points, int classes, const double *edges,
               const double *weights, int levels, double *total, float *parts, int64_t *voxels, int threads) {
    if (levels < 1 || levels > MAX_LEVELS || points > UINT32_MAX) return TOO_WIDE;
    if (points < 1) return DONE;
    job all = {.work = chain, .prob = prob, .xyz = xyz, .wide = wide, .classes = classes,
               .levels = levels, .points = points, .edges = edges, .weights = weights, .total = total, .parts = parts};
    for (int k = 0; k < 2; k++) {
        all.key[k] = scratch((size_t)points * sizeof **all.key);
        all.row[k] = scratch((size_t)points * sizeof **all.row);
    }
    all.histogram = malloc((size_t)MAX_THREADS * sizeof *all.histogram << DIGIT);
    int status = NO_MEMORY;
    if (all.key[0] && all.key[1] && all.row[0] && all.row[1] && all.histogram) {
        in_threads(&all, threads);
        status = all.too_wide ? TOO_WIDE : all.torn ? NOT_NESTED : DONE;
        for (int t = 0; t < all.threads; t++)
            for (int l = 0; l < levels; l++) voxels[l] += all.closed[t][l];
    }
    for (int k = 0; k < 2; k++) free(all.key[k]), free(all.row[k]);
    free(all.histogram);
    return status;
}
