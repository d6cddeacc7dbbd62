/* Points by voxel: one bit for each cell of the bounding box says whether a point lies in it, and counting the bits
 * before a cell gives its voxel's number. No point is compared with another. */
#include <stdint.h>

/* Of the (count, 3) cells: the lowest and the highest of each axis, count > 0. */
void hpal_extent(const int64_t *cell, int64_t count, int64_t *low, int64_t *high)
{
    for (int axis = 0; axis < 3; axis++) {
        int64_t least = cell[axis], most = cell[axis];
        for (int64_t n = 1; n < count; n++) {
            int64_t here = cell[3 * n + axis];
            least = here < least ? here : least;
            most = here > most ? here : most;
        }
        low[axis] = least;
        high[axis] = most;
    }
}

/* bits: zeros, one for each of the extent's cells; before: a number for each 64 of them; group: (count,) the number of
 * each point's voxel, in the order of the cells. Returns how many voxels there are. */
int64_t hpal_group(const int64_t *cell, int64_t count, const int64_t *low, const int64_t *extent, uint64_t *bits,
                   int64_t *before, int64_t words, int64_t *group)
{
    for (int64_t n = 0; n < count; n++) {
        const int64_t *here = cell + 3 * n;
        int64_t place = ((here[0] - low[0]) * extent[1] + here[1] - low[1]) * extent[2] + here[2] - low[2];
        group[n] = place;
        bits[place >> 6] |= UINT64_C(1) << (place & 63);
    }
    int64_t found = 0;
    for (int64_t word = 0; word < words; word++) {
        before[word] = found;
        found += __builtin_popcountll(bits[word]);
    }
    for (int64_t n = 0; n < count; n++) {
        int64_t place = group[n], word = place >> 6;
        uint64_t lower = (UINT64_C(1) << (place & 63)) - 1;
        group[n] = before[word] + __builtin_popcountll(bits[word] & lower);
    }
    return found;
}
