/* The functions of training/augment.c, called as augment.py does, against one number at a time. */
#include "../../hpal_cli/training/augment.c"

#include <math.h>

#include "input.h"

static void check_blur(const float *field, const float *out, int64_t outer, int64_t length, int64_t inner) {
    for (int64_t o = 0; o < outer; o++)
        for (int64_t l = 0; l < length; l++)
            for (int64_t i = 0; i < inner; i++) {
                const int64_t at = (o * length + l) * inner + i;
                float sum = field[at];
                if (l > 0) sum += field[at - inner];
                if (l + 1 < length) sum += field[at + inner];
                REQUIRE(out[at] == sum / 3.0f);
            }
}

static float one_moved(const float *xyz, const float *low, float granularity, const float *field, const int64_t *cells,
                       int axis) {
    int64_t base[3];
    float side[3][2], moved = 0;
    for (int a = 0; a < 3; a++) {
        const float at = (xyz[a] - low[a]) / granularity + 1;
        base[a] = (int64_t)at < cells[a] - 2 ? (int64_t)at : cells[a] - 2;
        side[a][1] = at - (float)base[a];
        side[a][0] = 1 - side[a][1];
    }
    for (int k = 0; k < 8; k++) {
        const int i = k >> 2, j = k >> 1 & 1, l = k & 1;
        const int64_t row = ((base[0] + i) * cells[1] + base[1] + j) * cells[2] + base[2] + l;
        moved += side[0][i] * side[1][j] * side[2][l] * field[3 * row + axis];
    }
    return moved;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input in = {data, size};
    const int64_t count = between(&in, 1, 90);
    const float granularity = (float)(1 + byte(&in)) / 32.0f, magnitude = (float)number(&in, 2), reach = (float)(byte(&in)) / 64.0f;
    float *xyz = room((size_t)(3 * count) * sizeof *xyz), *out = room((size_t)(3 * count) * sizeof *out);
    float *noise = room((size_t)(3 * count) * sizeof *noise), low[3], high[3];
    int64_t cells[3], rows = 1;
    for (int64_t n = 0; n < 3 * count; n++) {
        xyz[n] = (float)number(&in, reach);
        noise[n] = (float)number(&in, 4);
    }
    for (int a = 0; a < 3; a++) {
        low[a] = high[a] = xyz[a];
        for (int64_t n = 0; n < count; n++) {
            low[a] = fminf(low[a], xyz[3 * n + a]);
            high[a] = fmaxf(high[a], xyz[3 * n + a]);
        }
        cells[a] = (int64_t)((high[a] - low[a]) / granularity) + 3;
        rows *= cells[a];
    }
    if (rows <= 4096) {
        /* One number more is read, and not used. */
        float *field = room((size_t)(3 * rows + 1) * sizeof *field), *other = room((size_t)(3 * rows + 1) * sizeof *other);
        for (int64_t n = 0; n < 3 * rows; n++) field[n] = (float)number(&in, 3);
        field[3 * rows] = other[3 * rows] = 0;
        int64_t outer = 1, inner = 3 * rows;
        for (int a = 0; a < 3; a++) {
            inner /= cells[a];
            hpal_blur(field, other, outer, cells[a], inner);
            check_blur(field, other, outer, cells[a], inner);
            float *both = field;
            field = other, other = both;
            outer *= cells[a];
        }
        hpal_bend(xyz, count, low, granularity, magnitude, field, cells, out);
        for (int64_t n = 0; n < count; n++)
            for (int a = 0; a < 3; a++)
                REQUIRE(out[3 * n + a] == xyz[3 * n + a] + magnitude * one_moved(xyz + 3 * n, low, granularity, field, cells, a));
        free(field), free(other);
    }
    float span[3], shift[3];
    for (int a = 0; a < 3; a++) {
        span[a] = fmaxf(high[a] - low[a], 1 / 255.0f);
        shift[a] = (float)number(&in, 0.1);
    }
    const float blend = (float)byte(&in) / 255.0f, share = (float)byte(&in) / 5100.0f;
    hpal_tint(xyz, count, 1 - blend, blend, low, span, shift, share, noise, out);
    for (int64_t n = 0; n < 3 * count; n++) {
        const float value = (1 - blend) * xyz[n] + blend * (xyz[n] - low[n % 3]) / span[n % 3];
        REQUIRE(out[n] == fminf(fmaxf(value + shift[n % 3] + share * noise[n], 0), 1));
    }
    free(xyz), free(out), free(noise);
    return 0;
}
