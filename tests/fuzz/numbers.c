/* parse_numbers of readers/numbers.c: what it takes is what strtod reads, token by token; it never reads or writes
 * beyond what its callers promise. */
#include "../../hpal_cli/readers/numbers.c"

#include "input.h"

static int is_blank(char c, char separator) { return c == ' ' || c == '\t' || c == '\r' || c == separator; }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input in = {data, size};
    const char separator = " ,;"[byte(&in) % 3];
    const int finite = byte(&in) & 1, has_bytes = byte(&in) & 1;
    const int64_t width = between(&in, 1, 9), short_by = byte(&in) % 8 == 0;
    const int64_t length = (int64_t)in.left;
    char *memory = room(BLOCK + (size_t)length + BLOCK), *text = memory + BLOCK;
    memset(memory, '\n', BLOCK);
    memcpy(text, in.at, (size_t)length);
    memset(text + length, '\n', BLOCK);
    int64_t lines = 1;
    for (int64_t n = 0; n < length; n++) lines += text[n] == '\n';
    REQUIRE(count_lines(text, length) == lines - 1);
    const int64_t capacity = lines - short_by;
    double *values = room((size_t)(capacity * width) * sizeof *values);
    uint8_t *small = room((size_t)(capacity * width));
    column columns[9];
    for (int64_t k = 0; k < width; k++) {
        /* The last column goes to bytes, as a colour does. */
        const int last = has_bytes && k == width - 1;
        columns[k] = (column){last ? (void *)small : (void *)(values + k), last ? 1 : width, last};
    }
    const int64_t rows = parse_numbers(text, length, separator, finite, width, columns, capacity);
    REQUIRE(rows >= -1 && rows <= capacity);
    int64_t row = 0, at = 0, k = 0;
    if (rows >= 0) {
        while (at < length) {
            if (text[at] == '\n' || is_blank(text[at], separator)) {
                if (text[at] == '\n' && k) {
                    REQUIRE(k == width);
                    row++, k = 0;
                }
                at++;
                continue;
            }
            char *end;
            const double wanted = strtod(text + at, &end);
            REQUIRE(end > text + at && k < width && row < rows);
            const double got = columns[k].bytes ? small[row] : values[row * width + k];
            REQUIRE(!memcmp(&got, &wanted, sizeof got) || (got != got && wanted != wanted) || (columns[k].bytes && got == wanted));
            at = end - text;
            REQUIRE(at >= length || text[at] == '\n' || is_blank(text[at], separator));
            k++;
        }
        REQUIRE(k == 0 || k == width);
        REQUIRE(row + (k > 0) == rows);
    }
    free(memory), free(values), free(small);
    return 0;
}
