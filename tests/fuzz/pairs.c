/* hpal_pairs of network/pairs.c against every pair. */
#include "../../hpal_cli/network/pairs.c"

#include "input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input in = {data, size};
    const int64_t rows = between(&in, 0, 40);
    const int shifts = (int)between(&in, 1, 6);
    int64_t *key = room((size_t)rows * sizeof *key), *shift = room((size_t)shifts * sizeof *shift), last = 0;
    for (int64_t n = 0; n < rows; n++) key[n] = last += 1 + byte(&in) % 5;
    for (int s = 0; s < shifts; s++) shift[s] = (int8_t)byte(&in) % 9;
    int64_t *source = room((size_t)(rows * shifts) * sizeof *source), *target = room((size_t)(rows * shifts) * sizeof *target);
    int64_t *found = room((size_t)shifts * sizeof *found);
    hpal_pairs(key, rows, shift, shifts, source, target, found, 1);
    for (int s = 0; s < shifts; s++) {
        int64_t n = 0;
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < rows; j++)
                if (key[j] == key[i] + shift[s]) {
                    REQUIRE(n < found[s] && source[s * rows + n] == j && target[s * rows + n] == i);
                    n++;
                }
        REQUIRE(n == found[s]);
    }
    free(key), free(shift), free(source), free(target), free(found);
    return 0;
}
