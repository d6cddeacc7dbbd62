/* hpal_columns and hpal_relief of superpoints/around.c: any runs of any places; what is counted in ranges is what lies
 * within the radius. */
#include "../../hpal_cli/superpoints/around.c"

#include "input.h"

static double *numbers(input *in, int64_t count) {
    double *all = room((size_t)count * sizeof *all);
    for (int64_t n = 0; n < count; n++) all[n] = number(in, 4) - 2;
    return all;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input in = {data, size};
    const int64_t places = between(&in, 0, 40), centres = between(&in, 0, 6), runs = between(&in, 1, 5);
    const double radius = number(&in, 3), bound[8] = {-0.3, -0.1, -0.04, -0.015, 0.015, 0.04, 0.1, 0.3};
    int64_t *start = room((size_t)(centres * runs) * sizeof *start), *stop = room((size_t)(centres * runs) * sizeof *stop);
    for (int64_t r = 0; r < centres * runs; r++) {
        start[r] = between(&in, 0, places);
        stop[r] = between(&in, start[r], places);
    }
    double *place = numbers(&in, 4 * places), *value = numbers(&in, 5 * places), *centre = numbers(&in, 4 * centres);
    double *facing = numbers(&in, 3 * places), *middle = numbers(&in, 3 * centres), *plane = numbers(&in, 3 * centres);
    double *total = calloc((size_t)(16 * centres + 1), sizeof *total);
    hpal_columns(place, value, centre, start, stop, centres, runs, radius, bound, 0.1, total);
    for (int64_t s = 0; s < centres; s++) {
        double ranges = 0;
        for (int k = 0; k < 7; k++) ranges += total[16 * s + k];
        REQUIRE(ranges == total[16 * s + 15]);
        REQUIRE(total[16 * s + 7] <= ranges && total[16 * s + 14] <= ranges);
    }
    free(total);
    total = calloc((size_t)(12 * centres + 1), sizeof *total);
    hpal_relief(place, facing, centre, middle, plane, start, stop, centres, runs, radius, bound, 0.5, total);
    for (int64_t s = 0; s < centres; s++) {
        double ranges = 0;
        for (int k = 0; k < 9; k++) ranges += total[12 * s + k];
        REQUIRE(ranges <= total[12 * s + 9] && total[12 * s + 10] + total[12 * s + 11] <= total[12 * s + 9]);
    }
    free(start), free(stop), free(place), free(value), free(centre), free(facing), free(middle), free(plane), free(total);
    return 0;
}
