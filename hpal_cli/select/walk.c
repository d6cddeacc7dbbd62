/* The walk of FDS (fds.py): each candidate asks the picks near it, found by cells of the radius, until one is alike.
 * It stops where features are needed that it was not given, and goes on from there when it is called again.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

enum { FINISHED = 0, NEEDS_FEATURES = 1 };
enum { CHOSEN = 1, SUPPRESSED = 2 };
/* Of a pick's feature: FETCHED is set by who calls, when a WANTED one lies in its place. */
enum { UNKNOWN = 0, KNOWN = 1, WANTED = 2, FETCHED = 3 };
enum { LANES = 8 };

typedef struct {
    /* Candidates in the order of the walk, and behind their xyz that of the stones. */
    int64_t count;
    const double *xyz;
    uint8_t *verdict;
    /* Features (loaded, width) of the candidates from place `first` on. */
    const double *feature;
    int64_t first, loaded, width;
    double radius, similarity, edge, low[3];
    int64_t limit;
    /* Picks so far: their places, features where known, squared lengths; and chains of picks by cell. */
    int64_t *pick;
    double *pick_feature, *pick_square;
    uint8_t *pick_state;
    int32_t *head, *next;
    int64_t mask;
    int64_t at, picks;
} walk;

static double dot(const double *a, const double *b, int64_t width) {
    double sum[LANES] = {0}, rest = 0;
    int64_t c = 0;
    for (; c + LANES <= width; c += LANES)
        for (int j = 0; j < LANES; j++) sum[j] += a[c + j] * b[c + j];
    for (; c < width; c++) rest += a[c] * b[c];
    for (int j = 0; j < LANES; j++) rest += sum[j];
    return rest;
}

static int64_t bucket(const walk *w, const int64_t *cell) {
    uint64_t h = (uint64_t)cell[0] * 0x9E3779B97F4A7C15u ^ (uint64_t)cell[1] * 0xC2B2AE3D27D4EB4Fu ^
                 (uint64_t)cell[2] * 0x165667B19E3779F9u;
    return (int64_t)((h ^ h >> 29 ^ h >> 47) & (uint64_t)w->mask);
}

static void cell_of(const walk *w, const double *x, int64_t *cell) {
    for (int a = 0; a < 3; a++) {
        const double c = floor((x[a] - w->low[a]) / w->edge);
        /* Far beyond any scan, cells are no longer told apart; distances still are. */
        cell[a] = c < 4e18 ? (int64_t)c : (int64_t)4e18;
    }
}

static int has_feature(const walk *w, int64_t place) { return place >= w->first && place < w->first + w->loaded; }

static const double *feature_of(const walk *w, int64_t place) {
    return has_feature(w, place) ? w->feature + (place - w->first) * w->width : NULL;
}

/* Whether a pick within the radius is alike; -1 if that takes features that are not here: those of the candidate, and
 * of the picks that are marked as wanted then. */
static int is_suppressed(walk *w) {
    const double *x = w->xyz + 3 * w->at, *mine = feature_of(w, w->at);
    double square = -1;
    int open = 0;
    int64_t home[3];
    cell_of(w, x, home);
    for (int n = 0; n < 27; n++) {
        const int64_t cell[3] = {home[0] + n / 9 - 1, home[1] + n / 3 % 3 - 1, home[2] + n % 3 - 1};
        for (int32_t p = w->head[bucket(w, cell)]; p >= 0; p = w->next[p]) {
            const double *y = w->xyz + 3 * w->pick[p];
            const double d[3] = {y[0] - x[0], y[1] - x[1], y[2] - x[2]};
            if (!(sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]) < w->radius)) continue;
            if (w->pick_state[p] != KNOWN) w->pick_state[p] = WANTED;
            if (!mine || w->pick_state[p] != KNOWN) {
                open = 1;
                continue;
            }
            if (square < 0) square = dot(mine, mine, w->width);
            const double both = square * w->pick_square[p];
            /* Without a division, equal features have a cosine of exactly 1, and zero ones are never above. */
            if (both > 0 && dot(mine, w->pick_feature + p * w->width, w->width) > w->similarity * sqrt(both)) return 1;
        }
    }
    return open ? -1 : 0;
}

/* A feature has come for pick p. */
static void know(walk *w, int64_t p) {
    w->pick_square[p] = dot(w->pick_feature + p * w->width, w->pick_feature + p * w->width, w->width);
    w->pick_state[p] = KNOWN;
}

static void choose(walk *w, int64_t place) {
    const int32_t p = (int32_t)w->picks++;
    const double *mine = feature_of(w, place);
    int64_t cell[3];
    w->pick[p] = place;
    w->pick_state[p] = UNKNOWN;
    if (mine) {
        memcpy(w->pick_feature + p * w->width, mine, (size_t)w->width * sizeof *mine);
        know(w, p);
    }
    cell_of(w, w->xyz + 3 * place, cell);
    const int64_t b = bucket(w, cell);
    w->next[p] = w->head[b];
    w->head[b] = p;
}

/* Points behind the candidates of xyz that suppress like picks, from the beginning. */
void hpal_place_stones(walk *w, int64_t stones) {
    for (int64_t n = 0; n < stones; n++) choose(w, w->count + n);
}

/* `limit` counts the stones. */
int hpal_walk(walk *w) {
    for (int64_t p = 0; p < w->picks; p++)
        if (w->pick_state[p] == FETCHED) know(w, p);
    for (; w->at < w->count && w->picks < w->limit; w->at++) {
        const int dropped = is_suppressed(w);
        if (dropped < 0) return NEEDS_FEATURES;
        w->verdict[w->at] = dropped ? SUPPRESSED : CHOSEN;
        if (!dropped) choose(w, w->at);
    }
    return FINISHED;
}
