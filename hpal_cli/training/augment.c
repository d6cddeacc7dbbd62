/* Elastic distortion and changes of colour (augment.py). The operations have the order of those of the NumPy code, so
 * that the results have the same bits. */
#include <stdint.h>
#include <string.h>

/* The mean of three neighbours along the middle axis of (outer, length, inner) numbers, zero outside. */
void hpal_blur(const float *field, float *out, int64_t outer, int64_t length, int64_t inner)
{
    for (int64_t o = 0; o < outer; o++) {
        int64_t row = length * inner;
        const float *here = field + o * row;
        float *to = out + o * row;
        for (int64_t n = 0; n < inner; n++)
            to[n] = here[n];
        for (int64_t n = inner; n < row; n++)
            to[n] = here[n] + here[n - inner];
        for (int64_t n = 0; n < row - inner; n++)
            to[n] += here[n + inner];
        for (int64_t n = 0; n < row; n++)
            to[n] /= 3.0f;
    }
}

/* A number for each axis, and one that is not used. */
typedef float four __attribute__((vector_size(16)));

static four load(const float *from)
{
    four value;
    memcpy(&value, from, sizeof value);
    return value;
}

/* out = xyz + magnitude * f, for positions xyz (count, 3), where f is interpolated in the field (cells, 3) between the
 * eight lattice points around a position. One number after the end of the field is read. */
void hpal_bend(const float *xyz, int64_t count, const float *low, float granularity, float magnitude,
               const float *field, const int64_t *cells, float *out)
{
    enum { BLOCK = 64 };
    int64_t down = 3 * cells[2], across = cells[1] * down;
    float from[3 * BLOCK], part[3 * BLOCK];
    int32_t last[3 * BLOCK], base[3 * BLOCK];
    for (int k = 0; k < 3 * BLOCK; k++) {
        from[k] = low[k % 3];
        last[k] = (int32_t)cells[k % 3] - 2;
    }
    for (int64_t start = 0; start < count; start += BLOCK) {
        int points = count - start < BLOCK ? (int)(count - start) : BLOCK;
        const float *here = xyz + 3 * start;
        for (int k = 0; k < 3 * points; k++) {
            float at = (here[k] - from[k]) / granularity + 1.0f;
            int32_t cell = (int32_t)at;
            base[k] = cell = cell > last[k] ? last[k] : cell;
            part[k] = at - (float)cell;
        }
        for (int n = 0; n < points; n++) {
            const float *corner = field + across * base[3 * n] + down * base[3 * n + 1] + 3 * base[3 * n + 2];
            float x = part[3 * n], y = part[3 * n + 1], z = part[3 * n + 2];
            float side[4] = {(1.0f - x) * (1.0f - y), (1.0f - x) * y, x * (1.0f - y), x * y};
            four moved = {0, 0, 0, 0};
            for (int k = 0; k < 4; k++) {
                const float *value = corner + (k >> 1) * across + (k & 1) * down;
                moved += side[k] * (1.0f - z) * load(value);
                moved += side[k] * z * load(value + 3);
            }
            for (int axis = 0; axis < 3; axis++)
                out[3 * (start + n) + axis] = here[3 * n + axis] + magnitude * moved[axis];
        }
    }
}

/* Changes the colours rgb (count, 3) and limits the result to 0 to 1:
 * out = keep * rgb + blend * (rgb - low) / span + shift + share * noise. */
void hpal_tint(const float *rgb, int64_t count, float keep, float blend, const float *low, const float *span,
               const float *shift, float share, const float *noise, float *out)
{
    enum { BLOCK = 48 };
    float from[BLOCK], width[BLOCK], added[BLOCK];
    for (int k = 0; k < BLOCK; k++) {
        from[k] = low[k % 3];
        width[k] = span[k % 3];
        added[k] = shift[k % 3];
    }
    for (int64_t n = 0; n < 3 * count; n += BLOCK) {
        int numbers = 3 * count - n < BLOCK ? (int)(3 * count - n) : BLOCK;
        for (int k = 0; k < numbers; k++) {
            float value = keep * rgb[n + k] + blend * (rgb[n + k] - from[k]) / width[k];
            value = value + added[k] + share * noise[n + k];
            value = value < 0.0f ? 0.0f : value;
            out[n + k] = value > 1.0f ? 1.0f : value;
        }
    }
}
