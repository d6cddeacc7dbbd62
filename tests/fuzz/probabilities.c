/* hpal_bad_rows of predictions/probabilities.c, for all bits of float16, against the same question asked of doubles. */
#include "../../hpal_cli/predictions/probabilities.c"

#include <math.h>

#include "input.h"

static double value_of(uint16_t half) {
    const int exponent = half >> 10 & 31, mantissa = half & 1023;
    const double sign = half >> 15 ? -1 : 1;
    if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
    return sign * (exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input in = {data, size};
    const int columns = (int)between(&in, 1, 50);
    const int64_t slack = between(&in, 0, 1 << 15) << 6, rows = (int64_t)(in.left / 2 / (size_t)columns);
    uint16_t *values = room((size_t)(rows * columns) * sizeof *values);
    for (int64_t n = 0; n < rows * columns; n++) {
        values[n] = byte(&in);
        values[n] = (uint16_t)(values[n] | byte(&in) << 8);
    }
    int64_t first = -1, wanted = 0, at = -1;
    const int64_t found = hpal_bad_rows(values, rows, columns, slack, &first);
    for (int64_t row = 0; row < rows; row++) {
        double sum = 0;
        int wrong = 0;
        for (int c = 0; c < columns; c++) {
            const double value = value_of(values[row * columns + c]);
            wrong |= !(value >= 0);
            sum += value;
        }
        /* Sums of float16 that matter here are exact in double. */
        if (wrong || !(fabs(sum - 1) <= ldexp((double)slack, -24))) {
            if (!wanted++) at = row;
        }
    }
    /* A single number above 2 is wrong whatever the slack, which is below 1. */
    REQUIRE(found == wanted && first == at);
    free(values);
    return 0;
}
