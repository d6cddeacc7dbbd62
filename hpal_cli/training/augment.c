/* Elastic distortion (augment.py), in the order of operations of NumPy's way, so that the bits are the same. */
#include <stdint.h>

/* The mean of three neighbours along the middle axis of (outer, length, inner) numbers, zero outside. */
void hpal_blur(const float *field, float *out, int64_t outer, int64_t length, int64_t inner)
{
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < length; i++) {
            const float *here = field + (o * length + i) * inner;
            float *to = out + (o * length + i) * inner;
            for (int64_t n = 0; n < inner; n++)
                to[n] = here[n];
            if (i > 0)
                for (int64_t n = 0; n < inner; n++)
                    to[n] += here[n - inner];
            if (i + 1 < length)
                for (int64_t n = 0; n < inner; n++)
                    to[n] += here[n + inner];
            for (int64_t n = 0; n < inner; n++)
                to[n] /= 3.0f;
        }
}

/* out = xyz + magnitude times the field (cells, 3) between the eight lattice points around each of (count, 3) xyz. */
void hpal_bend(const float *xyz, int64_t count, const float *low, float granularity, float magnitude,
               const float *field, const int64_t *cells, float *out)
{
    int64_t down = cells[2], across = cells[1] * cells[2];
    for (int64_t n = 0; n < count; n++) {
        float side[3][2], moved[3] = {0, 0, 0};
        int64_t base[3];
        for (int axis = 0; axis < 3; axis++) {
            float at = (xyz[3 * n + axis] - low[axis]) / granularity + 1.0f;
            int64_t cell = (int64_t)at;
            if (cell > cells[axis] - 2)
                cell = cells[axis] - 2;
            double part = (double)at - (double)cell;
            side[axis][0] = (float)(1.0 - part);
            side[axis][1] = (float)part;
            base[axis] = cell;
        }
        const float *corner = field + 3 * (base[0] * across + base[1] * down + base[2]);
        for (int k = 0; k < 8; k++) {
            int i = k >> 2, j = k >> 1 & 1, l = k & 1;
            float weight = side[0][i] * side[1][j] * side[2][l];
            const float *value = corner + 3 * (i * across + j * down + l);
            for (int axis = 0; axis < 3; axis++)
                moved[axis] += weight * value[axis];
        }
        for (int axis = 0; axis < 3; axis++)
            out[3 * n + axis] = xyz[3 * n + axis] + magnitude * moved[axis];
    }
}
