/* Runs a target where there is no libFuzzer: `PROGRAM TIMES FILE...` gives it each file, and the file with TIMES - 1 bits flipped. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv) {
    enum { MAX_INPUT_BYTES = 1 << 16 };
    uint8_t *whole = malloc(MAX_INPUT_BYTES);
    if (argc < 3 || !whole) return 2;
    const int times = atoi(argv[1]);
    long given = 0;
    for (int n = 2; n < argc; n++) {
        FILE *file = fopen(argv[n], "rb");
        if (!file) return 2;
        const size_t size = fread(whole, 1, MAX_INPUT_BYTES, file);
        fclose(file);
        /* As large as the input, so that a sanitizer sees every step beyond. */
        uint8_t *data = malloc(size ? size : 1);
        if (!data) return 2;
        for (int k = 0; k < times; k++, given++) {
            memcpy(data, whole, size);
            const uint32_t random = (uint32_t)(n * 7919 + k) * 2654435761u;
            if (k && size) data[random % size] ^= (uint8_t)(1u << (random >> 29));
            LLVMFuzzerTestOneInput(data, size);
        }
        free(data);
    }
    printf("%ld inputs\n", given);
    return 0;
}
