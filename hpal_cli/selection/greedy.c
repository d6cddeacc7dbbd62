/* The greedy selection of FDS (fds.py): each candidate is compared with the picks near it until one is similar. Picks
 * near a candidate are found by a hash grid with cells of the radius. The selection stops if it needs features that it
 * was not given, and continues from there when it is called again.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

enum { FINISHED = 0, NEEDS_FEATURES = 1 };
enum { CHOSEN = 1, SUPPRESSED = 2 };
/* State of a pick's feature. The caller sets FETCHED after it has put a WANTED feature into its place. */
enum { UNKNOWN = 0, KNOWN = 1, WANTED = 2, FETCHED = 3 };
enum { LANES = 8 };

typedef struct {
    /* The candidates in the order of their scores; after their xyz comes that of the suppressors. */
    int64_t count;
    const double *xyz;
    uint8_t *verdict;
    /* The features (loaded, width) of the candidates from number `first` on. */
    const double *feature;
    int64_t first, loaded, width;
    double radius, similarity, edge, low[3];
    int64_t limit;
    /* The picks so far: their numbers, their features if known, the squared lengths of these; and the hash grid, a
     * linked list of picks for each bucket. */
    int64_t *pick;
    double *pick_feature, *pick_square;
    uint8_t *pick_state;
    int32_t *head, *next;
    int64_t mask;
    int64_t at, picks;
} selection;

static double dot(const double *a, const double *b, int64_t width) {
    double sum[LANES] = {0}, rest = 0;
    int64_t c = 0;
    for (; c + LANES <= width; c += LANES)
        for (int j = 0; j < LANES; j++) sum[j] += a[c + j] * b[c + j];
    for (; c < width; c++) rest += a[c] * b[c];
    for (int j = 0; j < LANES; j++) rest += sum[j];
    return rest;
}

static int64_t bucket(const selection *s, const int64_t *cell) {
    uint64_t h = (uint64_t)cell[0] * 0x9E3779B97F4A7C15u ^ (uint64_t)cell[1] * 0xC2B2AE3D27D4EB4Fu ^
                 (uint64_t)cell[2] * 0x165667B19E3779F9u;
    return (int64_t)((h ^ h >> 29 ^ h >> 47) & (uint64_t)s->mask);
}

static void cell_of(const selection *s, const double *x, int64_t *cell) {
    for (int a = 0; a < 3; a++) {
        const double c = floor((x[a] - s->low[a]) / s->edge);
        /* Far beyond any scan, points share one cell; the distances between them are still compared. */
        cell[a] = c < 4e18 ? (int64_t)c : (int64_t)4e18;
    }
}

static int has_feature(const selection *s, int64_t place) { return place >= s->first && place < s->first + s->loaded; }

static const double *feature_of(const selection *s, int64_t place) {
    return has_feature(s, place) ? s->feature + (place - s->first) * s->width : NULL;
}

/* Whether a pick within the radius is similar; -1 if features are missing that are needed to tell: that of the
 * candidate, or of picks, which are then marked as WANTED. */
static int is_suppressed(selection *s) {
    const double *x = s->xyz + 3 * s->at, *mine = feature_of(s, s->at);
    double square = -1;
    int open = 0;
    int64_t home[3];
    cell_of(s, x, home);
    for (int n = 0; n < 27; n++) {
        const int64_t cell[3] = {home[0] + n / 9 - 1, home[1] + n / 3 % 3 - 1, home[2] + n % 3 - 1};
        for (int32_t p = s->head[bucket(s, cell)]; p >= 0; p = s->next[p]) {
            const double *y = s->xyz + 3 * s->pick[p];
            const double d[3] = {y[0] - x[0], y[1] - x[1], y[2] - x[2]};
            if (!(sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]) < s->radius)) continue;
            if (s->pick_state[p] != KNOWN) s->pick_state[p] = WANTED;
            if (!mine || s->pick_state[p] != KNOWN) {
                open = 1;
                continue;
            }
            if (square < 0) square = dot(mine, mine, s->width);
            const double both = square * s->pick_square[p];
            /* Compared without a division, so that equal features have a cosine of exactly 1, and features of length 0
             * are similar to none. */
            if (both > 0 && dot(mine, s->pick_feature + p * s->width, s->width) > s->similarity * sqrt(both)) return 1;
        }
    }
    return open ? -1 : 0;
}

/* Called when the feature of pick p is in its place. */
static void know(selection *s, int64_t p) {
    s->pick_square[p] = dot(s->pick_feature + p * s->width, s->pick_feature + p * s->width, s->width);
    s->pick_state[p] = KNOWN;
}

static void choose(selection *s, int64_t place) {
    const int32_t p = (int32_t)s->picks++;
    const double *mine = feature_of(s, place);
    int64_t cell[3];
    s->pick[p] = place;
    s->pick_state[p] = UNKNOWN;
    if (mine) {
        memcpy(s->pick_feature + p * s->width, mine, (size_t)s->width * sizeof *mine);
        know(s, p);
    }
    cell_of(s, s->xyz + 3 * place, cell);
    const int64_t b = bucket(s, cell);
    s->next[p] = s->head[b];
    s->head[b] = p;
}

/* Adds the points that come after the candidates in xyz: they suppress candidates as picks do, from the beginning. */
void hpal_add_suppressors(selection *s, int64_t suppressors) {
    for (int64_t n = 0; n < suppressors; n++) choose(s, s->count + n);
}

/* Selects until `limit` picks are found, in which the suppressors are counted, or until features are needed. */
int hpal_greedy_select(selection *s) {
    for (int64_t p = 0; p < s->picks; p++)
        if (s->pick_state[p] == FETCHED) know(s, p);
    for (; s->at < s->count && s->picks < s->limit; s->at++) {
        const int dropped = is_suppressed(s);
        if (dropped < 0) return NEEDS_FEATURES;
        s->verdict[s->at] = dropped ? SUPPRESSED : CHOSEN;
        if (!dropped) choose(s, s->at);
    }
    return FINISHED;
}
