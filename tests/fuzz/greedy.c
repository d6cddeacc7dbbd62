/* hpal_greedy_select of selection/greedy.c, called as fds.py does: every candidate is judged as the pairs say, one by one. */
#include "../../hpal_cli/selection/greedy.c"

#include "input.h"

enum { MAX_CANDIDATES = 48, WIDTH = 11 };

static double xyz[3 * MAX_CANDIDATES], feature[MAX_CANDIDATES * WIDTH];

static int alike(int64_t a, int64_t b, double similarity) {
    const double *one = feature + a * WIDTH, *other = feature + b * WIDTH;
    const double both = dot(one, one, WIDTH) * dot(other, other, WIDTH);
    return both > 0 && dot(one, other, WIDTH) > similarity * sqrt(both);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input in = {data, size};
    const int64_t count = between(&in, 1, 32), suppressors = between(&in, 0, 16), limit = suppressors + between(&in, 1, 32);
    const double radius = (1 + byte(&in)) / 64.0, similarity = byte(&in) / 255.0;
    for (int64_t n = 0; n < 3 * (count + suppressors); n++) xyz[n] = number(&in, 2);
    for (int64_t n = 0; n < (count + suppressors) * WIDTH; n++) feature[n] = number(&in, 1);
    /* As large as asked for. */
    double *here = room((size_t)(3 * (count + suppressors)) * sizeof *here);
    memcpy(here, xyz, (size_t)(3 * (count + suppressors)) * sizeof *here);
    selection w = {.count = count, .xyz = here, .width = WIDTH, .radius = radius, .similarity = similarity,
              .edge = radius * (1 + 1e-9), .limit = limit, .low = {here[0], here[1], here[2]}, .mask = 63};
    for (int64_t n = 0; n < count + suppressors; n++)
        for (int a = 0; a < 3; a++) w.low[a] = here[3 * n + a] < w.low[a] ? here[3 * n + a] : w.low[a];
    w.verdict = room((size_t)count);
    memset(w.verdict, 0, (size_t)count);
    w.pick = room((size_t)limit * sizeof *w.pick);
    w.pick_feature = room((size_t)limit * WIDTH * sizeof *w.pick_feature);
    w.pick_square = room((size_t)limit * sizeof *w.pick_square);
    w.pick_state = room((size_t)limit);
    w.head = room((size_t)(w.mask + 1) * sizeof *w.head);
    w.next = room((size_t)limit * sizeof *w.next);
    for (int64_t n = 0; n <= w.mask; n++) w.head[n] = -1;
    double *lent = NULL;
    hpal_add_suppressors(&w, suppressors);
    for (int turns = 0; hpal_greedy_select(&w); turns++) {
        REQUIRE(turns < 4 * MAX_CANDIDATES);
        for (int64_t p = 0; p < w.picks; p++)
            if (w.pick_state[p] == WANTED) {
                memcpy(w.pick_feature + p * WIDTH, feature + w.pick[p] * WIDTH, WIDTH * sizeof *feature);
                w.pick_state[p] = FETCHED;
            }
        if (!has_feature(&w, w.at)) {
            const int64_t loaded = between(&in, 1, 8);
            w.first = w.at, w.loaded = loaded < count - w.at ? loaded : count - w.at;
            free(lent);
            lent = room((size_t)w.loaded * WIDTH * sizeof *lent);
            memcpy(lent, feature + w.at * WIDTH, (size_t)w.loaded * WIDTH * sizeof *lent);
            w.feature = lent;
        }
    }
    int64_t picks[2 * MAX_CANDIDATES], chosen = 0;
    for (int64_t n = 0; n < suppressors; n++) picks[chosen++] = count + n;
    for (int64_t n = 0; n < count; n++) {
        int dropped = 0;
        if (chosen >= limit) {
            REQUIRE(w.verdict[n] == 0);
            continue;
        }
        for (int64_t p = 0; p < chosen && !dropped; p++) {
            const double *y = here + 3 * picks[p], *x = here + 3 * n;
            const double d[3] = {y[0] - x[0], y[1] - x[1], y[2] - x[2]};
            dropped = sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]) < radius && alike(n, picks[p], similarity);
        }
        REQUIRE(w.verdict[n] == (dropped ? SUPPRESSED : CHOSEN));
        if (!dropped) picks[chosen++] = n;
    }
    free(here), free(lent), free(w.verdict), free(w.pick), free(w.pick_feature), free(w.pick_square), free(w.pick_state);
    free(w.head), free(w.next);
    return 0;
}
